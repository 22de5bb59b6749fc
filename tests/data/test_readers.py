"""RAF-DB, AffectNet and class folders: what the readers find, and what they say when they do not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.data import records
from mpafer_jax.data.readers import affectnet, folder, rafdb
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

RAF = {"train_00001.jpg": 5, "train_00002.jpg": 1, "test_0001.jpg": 7}


@pytest.mark.parametrize("inside", ["", "basic"])
@pytest.mark.parametrize("final_newline", [True, False])
def test_rafdb(tmp_path: Path, inside: str, final_newline: bool) -> None:
    layouts.write_rafdb(tmp_path / "basic", RAF, final_newline)
    index = rafdb.read(tmp_path / inside)
    names = {split: [(r.name, index.class_names[r.label]) for r in found] for split, found in index.splits.items()}
    assert names == {
        "train": [("train_00001.jpg", "sadness"), ("train_00002.jpg", "surprise")],
        "test": [("test_0001.jpg", "neutral")],
    }
    assert (
        index.splits["test"][0].image.read()
        == (tmp_path / "basic" / "Image" / "aligned" / "test_0001_aligned.jpg").read_bytes()
    )


@pytest.mark.parametrize(
    "line", ["train_00003.jpg 8", "train_00003.jpg 0", "valid_1.jpg 3", "train_00003.jpg", "a b c"]
)
def test_rafdb_names_a_bad_line(tmp_path: Path, line: str) -> None:
    layouts.write_rafdb(tmp_path, RAF)
    with (tmp_path / "EmoLabel" / "list_patition_label.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"list_patition_label\.txt line 4: found '" + line):
        rafdb.read(tmp_path)


def test_rafdb_refuses_a_name_twice(tmp_path: Path) -> None:
    layouts.write_rafdb(tmp_path, RAF)
    with (tmp_path / "EmoLabel" / "list_patition_label.txt").open("a") as file:
        file.write("train_00002.jpg 3\n")
    with pytest.raises(DataError, match=r"line 4: train_00002.jpg was there already \(.* line 2\)"):
        rafdb.read(tmp_path)


def test_rafdb_labels_have_the_published_names(tmp_path: Path) -> None:
    layouts.write_rafdb(tmp_path, {f"train_{label:05d}.jpg": label for label in range(1, 8)} | {"test_0001.jpg": 1})
    index = rafdb.read(tmp_path)
    named = [index.class_names[record.label] for record in index.splits["train"]]
    assert named == ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    assert index.source_labels == tuple("1234567")


def test_rafdb_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list_patition_label\.txt is not there.\nExpected") as error:
        rafdb.read(tmp_path)
    assert "Image/aligned/train_00001_aligned.jpg" in str(error.value)
    assert "docs/datasets.md" in str(error.value)


@pytest.mark.parametrize("header", [True, False])
def test_affectnet_csv(tmp_path: Path, header: bool) -> None:
    rows = [
        ("1/a.jpg", (5, 4, 20, 10), 1),
        ("1/b.jpg", (0, 0, 10, 10), 8),
        ("2/c.jpg", (-1, -1, -1, -1), 3),
        ("2/d.jpg", (0, 0, 10, 10), 7),
        ("2/e.jpg", (0, 0, 10, 10), 10),
    ]
    layouts.write_affectnet_csv(tmp_path, "training.csv", rows, header)
    layouts.write_affectnet_csv(tmp_path, "validation.csv", [("3/f.jpg", (30, 20, 20, 20), 0)], header)
    index = affectnet.read(tmp_path)
    assert [(r.name, r.label) for r in index.splits["train"]] == [("1/a.jpg", 1), ("2/d.jpg", 7)]
    assert [(r.name, r.label) for r in index.splits["test"]] == [("3/f.jpg", 0)]
    assert index.dropped == {"train": {"none": 1, "no face box": 1, "no face": 1}}
    face = Image.open(io.BytesIO(index.splits["train"][0].image.read()))
    assert (face.format, face.size) == ("JPEG", (20, 10))
    whole = Image.open(tmp_path / "Manually_Annotated_Images" / "1" / "a.jpg")
    difference = np.asarray(face, np.int64) - np.asarray(whole.crop((5, 4, 25, 14)), np.int64)
    assert np.abs(difference).mean() < 12  # noise survives JPEG badly; another rectangle differs by about 85
    # A box over the border is cut to the image (40x30).
    assert Image.open(io.BytesIO(index.splits["test"][0].image.read())).size == (10, 10)


@pytest.mark.parametrize(
    ("box", "expression", "reason"),
    [
        (",,,", "0", "no face box"),
        ("NULL,NULL,NULL,NULL", "0", "no face box"),
        ("nan,0,nan,10", "0", "no face box"),
        ("0,0,0,0", "0", "no face box"),
        ("0,0,10,-1", "0", "no face box"),
        ("NULL,NULL,NULL,NULL", "10", "no face"),
    ],
)
def test_rows_of_affectnet_without_a_box_are_counted(tmp_path: Path, box: str, expression: str, reason: str) -> None:
    layouts.write_affectnet_csv(tmp_path, "training.csv", [("1/a.jpg", (5, 4, 20, 10), 1)], True)
    with (tmp_path / "training.csv").open("a") as table:
        table.write(f"1/b.jpg,{box},1;2,{expression},0,0\n")
    index = affectnet.read(tmp_path)
    assert [record.name for record in index.splits["train"]] == ["1/a.jpg"]
    assert index.dropped == {"train": {reason: 1}}


def test_affectnet_npy(tmp_path: Path) -> None:
    layouts.write_affectnet_npy(tmp_path, "train_set", {10: 6, 2: 0, 33: 7})
    layouts.write_affectnet_npy(tmp_path, "val_set", {0: 3})
    index = affectnet.read(tmp_path)
    assert [(r.name, r.label) for r in index.splits["train"]] == [("2.jpg", 0), ("10.jpg", 6), ("33.jpg", 7)]
    assert [(r.name, r.label) for r in index.splits["test"]] == [("0.jpg", 3)]
    seven = records.select_classes(index, affectnet.CLASS_NAMES[:7])
    assert [r.name for r in seven.splits["train"]] == ["2.jpg", "10.jpg"]
    assert seven.dropped == {"train": {"class contempt not in class_names": 1}}


def test_affectnet_npy_never_unpickles(tmp_path: Path) -> None:
    layouts.write_affectnet_npy(tmp_path, "train_set", {1: 1})
    np.save(tmp_path / "train_set" / "annotations" / "1_exp.npy", np.array({"a": 1}), allow_pickle=True)
    with pytest.raises(DataError, match=r"1_exp\.npy: expected one label"):
        affectnet.read(tmp_path)


@pytest.mark.parametrize(("content", "found"), [(b"\0\5\26\7 of a Mac", "magic string is not correct"), (b"", "EOF")])
def test_affectnet_npy_that_is_none(tmp_path: Path, content: bytes, found: str) -> None:
    layouts.write_affectnet_npy(tmp_path, "train_set", {1: 1})
    (tmp_path / "train_set" / "annotations" / "1_exp.npy").write_bytes(content)
    with pytest.raises(DataError, match=rf"1_exp\.npy: expected one label from 0 to 10 \(.*{found}") as error:
        affectnet.read(tmp_path)
    assert "pickle" not in str(error.value)


def test_affectnet_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train_set is not there"):
        affectnet.read(tmp_path)
    layouts.write_affectnet_csv(tmp_path, "training.csv", [("a.jpg", (0, 0, 9, 9), 11)], True)
    with pytest.raises(DataError, match=r"training\.csv line 2: found the expression 11"):
        affectnet.read(tmp_path)
    (tmp_path / "training.csv").write_text("a.jpg,1,2\n")
    with pytest.raises(DataError, match=r"training\.csv line 1: found \['a\.jpg', '1', '2'\], expected the columns"):
        affectnet.read(tmp_path)
    for row, message in (
        ("a.jpg,1,2,wide,4,1;2,1,0,0", "face_width is 'wide', expected a number"),
        ("a.jpg,1,2,3,4,1;2,happy,0,0", "found the expression 'happy', expected 0 to 10"),
    ):
        (tmp_path / "training.csv").write_text(row)
        with pytest.raises(DataError, match=rf"training\.csv line 1: {message}"):
            affectnet.read(tmp_path)
    layouts.write_affectnet_npy(tmp_path, "train_set", {1: 1})
    with pytest.raises(DataError, match="holds both releases"):
        affectnet.read(tmp_path)


def test_folders_with_splits(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"Sad": 2, "Happy": 1})
    layouts.write_folders(tmp_path / "valid", {"Happy": 1}, suffix=".JPG")
    (tmp_path / "train" / "Sad" / "Thumbs.db").write_text("no image")
    (tmp_path / "train" / "Sad" / ".hidden.png").write_text("ignored")
    index = folder.read(tmp_path)
    assert (index.class_names, index.source_labels) == (("Happy", "Sad"), ("Happy", "Sad"))
    assert [(r.name, r.label) for r in index.splits["train"]] == [
        ("Happy/000.png", 0),
        ("Sad/000.png", 1),
        ("Sad/001.png", 1),
    ]
    assert [r.name for r in index.splits["validation"]] == ["Happy/000.JPG"]
    assert index.dropped == {"train": {"no image (.db)": 1}}
    assert index.absent == {"test": f"the folder {tmp_path / 'test'}"}
    assert index.warnings == ()


def test_flat_folders_leave_the_preparation_out(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"b": 1, "a": 2})
    layouts.write_folders(tmp_path, {records.PREPARED_FOLDER: 1})
    (tmp_path / "empty").mkdir()
    index = folder.read(tmp_path)
    assert index.class_names == ("a", "b")
    assert {split: len(found) for split, found in index.splits.items()} == {"train": 3}
    assert index.warnings == (f"{tmp_path}: the folder 'empty' holds no image, so it is no class",)


def test_numbered_folders_warn_and_can_be_named(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"1": 1, "4": 2, "7": 1})
    index = folder.read(tmp_path)
    assert "1, 4, 7 are numbers" in index.warnings[0]
    named = records.select_classes(index, ("happiness=4", "surprise=1"))
    assert (named.class_names, named.source_labels) == (("happiness", "surprise"), ("4", "1"))
    assert [r.label for r in named.splits["train"]] == [1, 0, 0]
    assert named.dropped == {"train": {"class 7 not in class_names": 1}}


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is not there"):
        folder.read(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"<class>/\*\.jpg is not there"):
        folder.read(tmp_path)
    layouts.write_folders(tmp_path / "train", {"happy": 1, "Happiness": 1})
    with pytest.raises(DataError, match="'Happiness' and 'happy' are the same class, 'happiness'"):
        folder.read(tmp_path)
    layouts.write_folders(tmp_path / "val", {"happy": 1})
    layouts.write_folders(tmp_path / "valid", {"happy": 1})
    with pytest.raises(DataError, match="both hold the split 'validation'"):
        folder.read(tmp_path)


def test_a_class_whose_name_holds_an_equals_sign_is_found(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"au12=5": 1, "b": 1, "c": 1})
    index = records.select_classes(folder.read(tmp_path), ("b", "au12=5"))
    assert index.class_names == ("b", "au12=5")
    assert records.select_classes(folder.read(tmp_path), ("calm=au12=5", "c")).class_names == ("calm", "c")


def test_folders_that_look_the_same_are_refused(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path, {"d\u00e9go\u00fbt": 1, "de\u0301gou\u0302t": 1})
    with pytest.raises(
        DataError, match=r"folders in .*: 'de\\u0301gou\\u0302t' and 'd\\xe9go\\xfbt' are the same class"
    ):
        folder.read(tmp_path)


@pytest.mark.parametrize("folders", [("images",), ("images", "labels"), ("Images",)])
def test_folders_of_another_layout_are_no_classes(folders: tuple[str, ...], tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", dict.fromkeys(folders, 2))
    with pytest.raises(DataError, match=r"the images lie in [iI]mages.*which is no expression: their labels are in"):
        folder.read(tmp_path)


def test_class_selection_errors(tmp_path: Path) -> None:
    layouts.write_rafdb(tmp_path, RAF)
    index = rafdb.read(tmp_path)
    with pytest.raises(DataError, match=r"'contempt' matches no class of rafdb, which has surprise, fear, disgust"):
        records.select_classes(index, ("happy", "contempt"))
    with pytest.raises(DataError, match="'joy' names 'happiness' a second time"):
        records.select_classes(index, ("happy", "joy"))
    with pytest.raises(DataError, match="class_names: 'happy' and 'joy' are the same class"):
        records.select_classes(index, ("happy", "joy=anger"))


def test_selected_weights_are_shares_again() -> None:
    record = records.Record("a", records.ImageFile(Path("a.png")), 2, (0.5, 0.25, 0.25))
    index = records.SourceIndex(("x", "y", "z"), {"train": [record]}, source_labels=("x", "y", "z"))
    (selected,) = records.select_classes(index, ("z", "x")).splits["train"]
    assert selected.label == 0
    assert selected.label_distribution == pytest.approx((1 / 3, 2 / 3))
