"""Class folders as public copies have them: names of splits and classes, nesting, lists beside, YOLO's labels."""

import re
import shutil
from pathlib import Path

import pytest

from configs import common
from mpafer_jax.data import forms
from mpafer_jax.data.readers import affectnet, folder, label_list, rafdb
from mpafer_jax.data.records import SourceIndex, select_classes
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

TWO = {"happy": 2, "sad": 1}
RAF_NAMES = ("surprise=1", "fear=2", "disgust=3", "happiness=4", "sadness=5", "anger=6", "neutral=7")


def counts(index: SourceIndex) -> dict[str, list[int]]:
    return {
        split: [sum(record.label == label for record in listed) for label in range(len(index.class_names))]
        for split, listed in index.splits.items()
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("Train", "train"), ("Training", "train"), ("train_set", "train"), ("TRAIN SET", "train")),
        *(("val_set", "validation"), ("valid", "validation"), ("Validation", "validation"), ("dev", "validation")),
        *(("Testing", "test"), ("test-set", "test"), ("PrivateTest", "test")),
    ],
)
def test_names_of_splits(tmp_path: Path, name: str, split: str) -> None:
    other = "test" if split == "train" else "train"
    layouts.write_folders(tmp_path / name, TWO)
    layouts.write_folders(tmp_path / other, TWO, 10)
    index = folder.read(tmp_path)
    assert counts(index) == {split: [2, 1], other: [2, 1]}
    assert index.splits[split][0].image.place == str(tmp_path / name / "happy" / "000.png")


@pytest.mark.parametrize("inside", ["images", "images/images", "archive (3)", "DATASET"])
def test_a_folder_in_which_there_is_one_other(tmp_path: Path, inside: str) -> None:
    layouts.write_folders(tmp_path / inside / "train", TWO)
    layouts.write_folders(tmp_path / inside / "validation", TWO, 10)
    assert counts(folder.read(tmp_path)) == {"train": [2, 1], "validation": [2, 1]}


def test_each_split_may_hold_one_other_folder(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train" / "train", TWO)
    layouts.write_folders(tmp_path / "test" / "test", TWO, 10)
    assert counts(folder.read(tmp_path)) == {"train": [2, 1], "test": [2, 1]}


def test_one_class_may_be_spelt_differently_in_each_split(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"Happy": 2, "Sad": 1})
    layouts.write_folders(tmp_path / "test", {"happiness": 1, "sad": 2}, 10)
    index = folder.read(tmp_path)
    assert index.class_names == ("Happy", "Sad")
    assert counts(index) == {"train": [2, 1], "test": [1, 2]}
    assert [record.name for record in index.splits["test"]] == ["happiness/000.png", "sad/000.png", "sad/001.png"]
    layouts.write_folders(tmp_path / "train", {"sad": 1}, 20)
    with pytest.raises(DataError, match="'Sad' and 'sad' are the same class"):
        folder.read(tmp_path)


def test_images_one_level_too_deep_are_counted_in_the_error(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "happy", {"anna": 2})
    layouts.write_folders(tmp_path / "sad", {"anna": 1})
    with pytest.raises(DataError, match=r"<class>/\*\.jpg is not there; 3 image in a folder inside a class folder\."):
        folder.read(tmp_path)


@pytest.mark.parametrize("inside", ["", "train", "archive/faces"])
def test_persons_in_the_folder_of_one_expression_are_no_classes(tmp_path: Path, inside: str) -> None:
    layouts.write_folders(tmp_path / inside / "happy", {"anna": 2, "bob": 1})
    message = (
        r"<class>/\*\.jpg is not there; 3 image in a folder inside a class folder\. Found the folders happy, which "
        "hold none directly"
    )
    with pytest.raises(DataError, match=message):
        folder.read(tmp_path)


@pytest.mark.parametrize("beside", ["notebooks", "plots/plot.png"])
@pytest.mark.parametrize("inside", ["images", "images/images", "happy"])
def test_split_folders_beside_another_folder(tmp_path: Path, inside: str, beside: str) -> None:
    """Kaggle's FER2013 with a folder of something else; or in a folder that is called as a class is."""
    layouts.write_folders(tmp_path / inside / "train", TWO)
    layouts.write_folders(tmp_path / inside / "validation", TWO, 10)
    if beside == "notebooks":
        (tmp_path / beside).mkdir()
    else:
        layouts.write_images(tmp_path, [beside])
    message = f"{tmp_path} holds no split folders, and {tmp_path / inside} does; set config.data.dir to it."
    with pytest.raises(DataError, match=re.escape(message)):
        folder.read(tmp_path)
    assert counts(folder.read(tmp_path / inside)) == {"train": [2, 1], "validation": [2, 1]}
    # Of several such folders none is proposed.
    layouts.write_folders(tmp_path / "other" / "train", TWO)
    with pytest.raises(DataError) as error:
        folder.read(tmp_path)
    assert "holds no split folders" not in str(error.value)


def test_hidden_images_are_no_reason_not_to_look_inside(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        layouts.write_folders(tmp_path / split / split, TWO, 10 * seed)
        (tmp_path / split / split / "._a.png").write_bytes(b"")
    assert counts(folder.read(tmp_path)) == {"train": [2, 1], "test": [2, 1]}


@pytest.mark.parametrize("numbered_from", [1, 0])
def test_lists_beside_that_agree(tmp_path: Path, numbered_from: int) -> None:
    """Kaggle's RAF-DB: numbered folders and lists; lists that count from 0 say the same."""
    for split, first in (("train", 0), ("test", 50)):
        names = [f"{split}_{at:05d}.jpg" for at in range(1, 15)]
        for at, name in enumerate(names):
            layouts.save(tmp_path / "DATASET" / split / str(1 + at % 7) / name, layouts.image(first + at))
        rows = [(name, numbered_from + at % 7) for at, name in enumerate(names)]
        layouts.write_table(tmp_path / f"{split}_labels.csv", rows, ("image", "label"))
    index = select_classes(folder.read(tmp_path, RAF_NAMES), RAF_NAMES)
    assert counts(index) == {"train": [2] * 7, "test": [2] * 7}
    assert index.warnings == ()


def test_lists_beside_that_disagree_are_counted(tmp_path: Path) -> None:
    """Kaggle's AffectNet of 96x96 pixels: class folders, and a list whose labels are others."""
    layouts.write_folders(tmp_path, {"anger": 4, "surprise": 3})
    names = [f"{name}/{at:03d}.png" for name, number in (("anger", 4), ("surprise", 3)) for at in range(number)]
    labels = ["anger", "surprise", "anger", "fear", "surprise", "surprise", "surprise"]
    rows = [(at, name, label, 0.8) for at, (name, label) in enumerate(zip(names, labels, strict=True))]
    layouts.write_table(tmp_path / "labels.csv", rows, ("", "pth", "label", "relFCs"))
    message = (
        r"labels\.csv gives 2 of the 7 images in class folders another label, the first is anger/001\.png: surprise in "
        r"the list, anger by its folder\. .*--config=configs/list\.py --config\.data\.list\.file=labels\.csv"
    )
    with pytest.raises(DataError, match=message):
        folder.read(tmp_path)
    assert counts(label_list.read(tmp_path)) == {"train": [2, 1, 4]}
    # As numbers, of which most tell the folder.
    rows = [(name, {"anger": 6, "surprise": 3, "fear": 4}[label]) for name, label in zip(names, labels, strict=True)]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label"))
    with pytest.raises(DataError, match=r"gives 2 of the 7 .*the first is anger/001\.png: 3 in the list, anger by its"):
        folder.read(tmp_path)
    layouts.write_table(tmp_path / "labels.csv", [("other.png", "anger")], ("image", "label"))
    warnings = (f"{tmp_path / 'labels.csv'} is not read: it lists none of the images in class folders",)
    assert folder.read(tmp_path).warnings == warnings


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,label,who\nhappy/000.png,sad,Ren\xe9\n", r"labels\.csv .*UTF-8"),
        ("picture,label,who\nhappy/000.png,sad,x\n", r"labels\.csv: none of its columns is called as the image"),
    ],
)
def test_lists_beside_that_are_not_understood_are_said(tmp_path: Path, text: str, why: str) -> None:
    layouts.write_folders(tmp_path, TWO)
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    (warning,) = folder.read(tmp_path).warnings
    assert re.match(f"not compared: .*{why}", warning)


def test_a_list_above_split_folders(tmp_path: Path) -> None:
    """Kaggle's AffectNet "archive (3)": capitals, one folder in the other, and a list."""
    root = tmp_path / "archive (3)"
    layouts.write_folders(root / "Train", {"Anger": 2, "fear": 1})
    layouts.write_folders(root / "Test", {"Anger": 1, "fear": 1}, 20)
    layouts.write_table(root / "labels.csv", [("anger/000.png", "anger"), ("fear/000.png", "fear")], ("pth", "label"))
    assert counts(folder.read(tmp_path)) == {"train": [2, 1], "test": [1, 1]}
    layouts.write_table(root / "labels.csv", [("anger/000.png", "fear"), ("fear/000.png", "fear")], ("pth", "label"))
    with pytest.raises(DataError, match="gives 1 of the 2 images"):
        folder.read(tmp_path)


YOLO = {
    "train/images/a.png": "1 0.5 0.5 1 1\n",
    "train/images/b.png": "0 0.5 0.5 1 1\n0 0.4 0.4 1 1\n",
    "train/images/c.png": "0 0.5 0.5 1 1\n1 0.4 0.4 1 1\n",
    "train/images/d.png": "",
    "valid/images/e.png": "2 0.5 0.5 1 1\n",
    "test/images/f.png": "0 0.5 0.5 1 1\n",
}


def test_labels_of_yolo(tmp_path: Path) -> None:
    layouts.write_yolo(tmp_path / "YOLO_format", YOLO, ("Anger", "Contempt", "Disgust"))
    index = folder.read(tmp_path)
    assert index.class_names == ("Anger", "Contempt", "Disgust")
    named = {split: [(r.name, index.class_names[r.label]) for r in listed] for split, listed in index.splits.items()}
    assert named == {
        "train": [("a.png", "Contempt"), ("b.png", "Anger")],
        "validation": [("e.png", "Disgust")],
        "test": [("f.png", "Anger")],
    }
    assert index.dropped == {"train": {"boxes of several classes": 1, "no label": 1}}
    shutil.copytree(tmp_path / "YOLO_format" / "train", tmp_path / "YOLO_format" / ".train")
    for name in ("lost.txt", "classes.txt", "._f.txt"):
        (tmp_path / "YOLO_format" / "test" / "labels" / name).write_text("0 .5 .5 1 1")
    assert folder.read(tmp_path).dropped["test"] == {"label file without an image": 1}
    # What is in folders inside `images`, or cannot be read, is counted.
    layouts.write_images(tmp_path / "YOLO_format" / "test" / "images", ["more/g.png", "more/h.png"])
    (tmp_path / "YOLO_format" / "test" / "images" / "i.heic").write_bytes(b"")
    (tmp_path / "YOLO_format" / "test" / "labels" / "i.txt").write_text("0 .5 .5 1 1")
    assert folder.read(tmp_path).dropped["test"] == {
        "image in a folder inside a class folder": 2,
        "no image (.heic)": 1,
        "label file without an image": 2,
    }
    other_way = {f"images/train/{name[-5]}.png": lines for name, lines in YOLO.items() if name.startswith("train")}
    layouts.write_yolo(tmp_path / "2", other_way, ("Anger", "Contempt", "Disgust"))
    assert counts(folder.read(tmp_path / "2")) == {"train": [1, 1, 0]}
    (tmp_path / "2" / "labels" / "train" / "a.txt").write_text("3 0 0 1 1")
    with pytest.raises(DataError, match=r"a\.txt: found the class '3', expected 0 to 2"):
        folder.read(tmp_path / "2")
    (tmp_path / "2" / "data.yaml").write_text("nc: 3\n")
    with pytest.raises(DataError, match=r"data\.yaml: expected the names of the classes, names: \[first, second"):
        folder.read(tmp_path / "2")


@pytest.mark.parametrize(
    ("folders", "names", "said"),
    [
        (("0_angry", "1_happy"), ("angry", "happy"), False),
        (("1-Happy", "2-Sad"), ("Happy", "Sad"), False),
        (("AN", "DI", "SU"), ("anger", "disgust", "surprise"), True),
        (("hap", "neu", "sad"), ("happiness", "neutral", "sadness"), True),
        (("fear", "suprise"), ("fear", "surprise"), True),
        (("disgusting", "fearfull"), ("disgust", "fear"), True),
        (("anxiety", "helplessness", "sad"), ("anxiety", "helplessness", "sad"), False),
        (("au12", "au4"), ("au12", "au4"), False),
    ],
)
def test_names_of_classes(tmp_path: Path, folders: tuple[str, ...], names: tuple[str, ...], said: bool) -> None:
    layouts.write_folders(tmp_path, dict.fromkeys(folders, 1))
    index = folder.read(tmp_path)
    assert (index.class_names, index.source_labels) == (names, folders)
    assert any("class folders are read by another name" in warning for warning in index.warnings) == said


@pytest.mark.parametrize(
    ("folders", "chosen", "names"),
    [
        (("hap", "sad"), ("hap", "sad"), ("hap", "sad")),
        (("hap", "sur"), ("happiness=hap", "surprise=sur"), ("happiness", "surprise")),
        (("0_angry", "1_happy"), ("anger=0_angry", "happiness=1_happy"), ("anger", "happiness")),
        (("fear", "suprise"), ("fear", "shock=suprise"), ("fear", "shock")),
        (("hap", "sad"), ("happiness", "sadness"), ("happiness", "sadness")),
        (("0_angry", "1_happy"), ("happy", "angry"), ("happy", "angry")),
    ],
)
def test_classes_may_be_listed_by_their_folders_as_by_their_names(
    tmp_path: Path, folders: tuple[str, ...], chosen: tuple[str, ...], names: tuple[str, ...]
) -> None:
    layouts.write_folders(tmp_path, dict.fromkeys(folders, 1))
    index = select_classes(folder.read(tmp_path, chosen), chosen)
    assert index.class_names == names
    assert len(index.splits["train"]) == len(folders)


@pytest.mark.parametrize(
    ("chosen", "classes"),
    [
        (("delight=joy", "Contentment=happy", "sad"), {"delight": "joy", "Contentment": "happy", "sad": "sad"}),
        (("happiness", "delight=joy"), {"happiness": "happy", "delight": "joy"}),
        (("delight=joy", "sad"), {"delight": "joy", "sad": "sad"}),
        (("happy=happy", "sad"), {"happy": "happy", "sad": "sad"}),
    ],
)
def test_folders_that_are_synonyms_are_classes_once_they_are_renamed(
    tmp_path: Path, chosen: tuple[str, ...], classes: dict[str, str]
) -> None:
    layouts.write_folders(tmp_path, {"joy": 1, "happy": 2, "sad": 3})
    message = (
        "'happy' and 'joy' are the same class, 'happiness'; classes have to differ. Merge such class folders or rename "
        r"them, or give each a name of its own, --config\.data\.class_names=\"\('<name>=<class folder>',\.\.\.\)\""
    )
    for plain in ((), ("happy", "sad")):
        with pytest.raises(DataError, match=message):
            folder.read(tmp_path, plain)
    index = select_classes(folder.read(tmp_path, chosen), chosen)
    assert index.class_names == tuple(classes)
    found = {(index.class_names[record.label], record.name.partition("/")[0]) for record in index.splits["train"]}
    assert found == set(classes.items())


def test_a_misspelling_that_is_not_known_is_refused(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"fear": 1, "surprize": 1})
    with pytest.raises(DataError, match="the class folder 'surprize' is nearly called 'surprise'; rename it, or if it"):
        folder.read(tmp_path)
    for chosen in (("fear", "surprize"), ("fear", "surprise=surprize")):
        index = select_classes(folder.read(tmp_path, chosen), chosen)
        assert [record.name for record in index.splits["train"]] == ["fear/000.png", "surprize/000.png"]
    layouts.write_folders(tmp_path / "2", {"suprise": 1, "surprised": 1})
    with pytest.raises(DataError, match="'suprise' and 'surprised' are the same class, 'surprise'; classes have to"):
        folder.read(tmp_path / "2")


def test_one_class_is_an_error_unless_it_is_meant(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"faces": 3})
    with pytest.raises(
        DataError, match="there is one class folder with images, 'faces', and no other class; if that is"
    ):
        folder.read(tmp_path)
    assert counts(folder.read(tmp_path, ("faces",))) == {"train": [3]}


@pytest.mark.parametrize(
    ("folders", "is_ambiguous"),
    [
        (("AF01", "AF02", "BM12"), True),
        (("S005", "S010"), True),
        (("00001", "00002", "00003"), True),
        (("subject 1", "subject 2"), False),
        (("person_01", "person_02"), True),
        (("AF01", "happy"), False),
        (("01", "02", "07"), False),
    ],
)
def test_persons_are_no_classes(tmp_path: Path, folders: tuple[str, ...], is_ambiguous: bool) -> None:
    layouts.write_folders(tmp_path, dict.fromkeys(folders, 1))
    if is_ambiguous:
        with pytest.raises(
            DataError, match=f"{len(folders)} class folders, {folders[0]}, .*look like persons or clips"
        ):
            folder.read(tmp_path)
    assert folder.read(tmp_path, folders).class_names == folders


def test_images_beside_a_list_are_read_by_the_list_reader(tmp_path: Path) -> None:
    layouts.write_images(tmp_path / "images", ["a.png", "b.png"])
    layouts.write_table(tmp_path / "train.csv", [("a.png", "sad"), ("b.png", "happy")], ("image", "label"))
    message = (
        r"the images lie in images, .*\nWhat is in .* looks like images with label files: take --config=configs/list"
    )
    with pytest.raises(DataError, match=message):
        folder.read(tmp_path)
    assert counts(label_list.read(tmp_path)) == {"train": [1, 1]}


WAYS = {
    "basic/EmoLabel/list_patition_label.txt": r"RAF-DB: take --config=configs/rafdb\.py",
    "train_set/annotations/0_exp.npy": r"AffectNet: take --config=configs/affectnet8\.py",
    "fer2013.csv": r"FER2013: take --config=configs/fer2013\.py",
    "FER2013Train/label.csv": r"FERPlus: take --config=configs/ferplus\.py",
    "Val_Aligned_Faces_new/Sad/a.png": r"SFEW: take --config=configs/sfew\.py",
    "cohn-kanade-images/S005/001/x.png": r"CK\+: take --config=configs/ckplus\.py",
    "KA.AN1.39.tiff": r"JAFFE: take --config=configs/jaffe\.py",
    "KDEF/AF01/AF01ANS.JPG": r"KDEF: take --config=configs/kdef\.py",
    "Rafd090_01_Caucasian_female_angry_frontal.jpg": r"RaFD: take --config=configs/rafd\.py",
    "label.lst": r"ExpW: take --config=configs/expw\.py",
    "Clip/jpg_256/00001/1.jpg": r"DFEW: take --config=configs/dfew\.py",
    "4_setups/All_scenes/train_All.csv": r"FERV39k: take --config=configs/ferv39k\.py",
    "split/single/no_caption/set_1/train.txt": r"MAFW: take --config=configs/mafw\.py",
    "data/train-00000-of-00001.parquet": r"Parquet files of the Hub: take --config=configs/parquet\.py",
    "train/data-00000-of-00001.arrow": r"Arrow files: write each split as Parquet, .*to_parquet\('train\.parquet'\)",
    "archive.zip": "archives: unpack them",
    "faces.npz": "arrays or records in one file: write the images as files beside a list",
    "clips/00001.mp4": "videos: write their frames as images, a folder for each video",
    "train/metadata.jsonl": r"images with label files: take --config=configs/list\.py",
    "YOLO_format/data.yaml": r"images and labels of YOLO: take --config=configs/folder\.py",
    "train/happy/1.jpg": r"images in class folders: take --config=configs/folder\.py",
}


@pytest.mark.parametrize("name", WAYS)
def test_errors_say_what_a_folder_looks_like(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    read = affectnet.read if "RAF-DB" in WAYS[name] else rafdb.read
    with pytest.raises(DataError, match=rf"is not there\.\n(.*\n)*What is in .* looks like (.* )?{WAYS[name]}"):
        read(tmp_path)


def test_named_configs_exist() -> None:
    named = {name for *_, way in forms.FORMS for name in re.findall(r"configs/(\w+\.py)", way)}
    assert {"list.py", "clips.py"} <= named <= {path.name for path in Path(common.__file__).parent.glob("*.py")}
