"""Readers of all but the paper's datasets: what they find, and what they say when they do not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import kdef as kdef_config
from configs import rafd as rafd_config
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data.readers import ckplus, expw, fer2013, jaffe, kdef, rafd, rafdb, sfew
from mpafer_jax.data.records import SourceIndex, select_classes, was_overlooked
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts


def found(index: SourceIndex, split: str = "train") -> list[tuple[str, str, str]]:
    return [(record.name, index.class_names[record.label], record.person) for record in index.splits[split]]


# ---------------------------------------------------------------- FER2013

FACES = [layouts.image(seed, 48, 48, "L") for seed in range(4)]
# The two tables in which Kaggle has handed it out, and a quoted one.
TABLES = {
    "fer2013.csv": ("emotion,pixels,Usage", "{emotion},{pixels},{usage}"),
    "icml_face_data.csv": ("emotion, Usage, pixels", "{emotion},{usage},{pixels}"),
    "fer2013.csv quoted": ("emotion,pixels,Usage", '{emotion},"{pixels}",{usage}'),
}
ROWS = [(0, "Training"), (6, "Training"), (3, "PublicTest"), (5, "PrivateTest")]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("table", TABLES)
def test_fer2013(tmp_path: Path, table: str, newline: str) -> None:
    header, form = TABLES[table]
    lines = [
        form.format(emotion=emotion, usage=usage, pixels=layouts.numbers(face))
        for (emotion, usage), face in zip(ROWS, FACES, strict=True)
    ]
    (tmp_path / table.split()[0]).write_bytes(newline.join([header, *lines, ""]).encode())
    index = fer2013.read(tmp_path)
    assert {split: found(index, split) for split in index.splits} == {
        "train": [("line 2", "anger", ""), ("line 3", "neutral", "")],
        "validation": [("line 4", "happiness", "")],
        "test": [("line 5", "surprise", "")],
    }
    read = [record.image.read() for split in index.splits.values() for record in split]
    for data, face in zip(read, FACES, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(face))


def test_fer2013_labels_have_the_published_names(tmp_path: Path) -> None:
    rows = "".join(f"{emotion},0 0,Training\n" for emotion in range(7))
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + rows)
    named = [name for _, name, _ in found(fer2013.read(tmp_path))]
    assert named == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emotion,pixels\n", "the first line is .* expected emotion,pixels,Usage"),
        ("emotion,pixels,Usage\n7,1 2,Training\n", "line 2: the emotion is 7, expected 0 to 6"),
        ("emotion,pixels,Usage\nhappy,1 2,Training\n", "line 2: the emotion is b'happy', expected a number"),
        ("emotion,pixels,Usage\n1,1 2,Test\n", "line 2: the usage is 'Test', expected one of Training, PublicTest"),
        ("emotion,pixels,Usage\n1,1 2\n", "line 2: found 2 columns, expected emotion, pixels, Usage"),
    ],
)
def test_fer2013_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=r"fer2013\.csv is not there"):
        fer2013.read(tmp_path)
    (tmp_path / "fer2013.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        fer2013.read(tmp_path)
    (tmp_path / "icml_face_data.csv").write_text(text)
    with pytest.raises(DataError, match="which are one dataset; keep one"):
        fer2013.read(tmp_path)


# ---------------------------------------------------------------- SFEW


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("Train_Aligned_Faces", "Val_Aligned_Faces"),
        ("Train/Train_Aligned_Faces", "Val/Val_Aligned_Faces_new"),
    ],
)
def test_sfew(tmp_path: Path, train: str, val: str) -> None:
    names = ["Sad/AlexEmma_012701000_00000070.png", "Angry/HarryPotter_Deathly_Hallows_1_005528520_00000026.png"]
    layouts.write_sfew(tmp_path / train, names)
    layouts.write_sfew(tmp_path / val, ["Neutral/21_012246400_00000087.png"], first_seed=9)
    index = sfew.read(tmp_path)
    assert found(index) == [(names[1], "anger", "HarryPotter_Deathly_Hallows_1"), (names[0], "sadness", "AlexEmma")]
    assert found(index, "test") == [("Neutral/21_012246400_00000087.png", "neutral", "21")]
    assert index.absent == {}


def test_class_folders_of_another_spelling_are_read_and_others_counted(tmp_path: Path) -> None:
    names = ["sad/AlexEmma_012701000_00000070.png", "HAPPINESS/AlexEmma_012701000_00000071.png"]
    names += ["Angry/AlexEmma_012701000_00000072.png", "anger/AlexEmma_012701000_00000073.png"]
    names += ["bored/AlexEmma_012701000_00000074.png", "bored/more/AlexEmma_012701000_00000075.png"]
    layouts.write_sfew(tmp_path / "Train_Aligned_Faces", names)
    index = sfew.read(tmp_path)
    assert [record.name.partition("/")[0] for record in index.splits["train"]] == ["Angry", "Happy", "Sad"]
    assert [index.class_names[record.label] for record in index.splits["train"]] == ["anger", "happiness", "sadness"]
    assert index.dropped == {"train": {"image in a folder that is no class": 3}}
    assert was_overlooked("image in a folder that is no class")


def test_sfew_without_one_of_its_parts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Train_Aligned_Faces is not there"):
        sfew.read(tmp_path)
    layouts.write_sfew(tmp_path / "Val_Aligned_Faces", ["Fear/21_012246400_00000087.png"])
    index = sfew.read(tmp_path)
    assert list(index.splits) == ["test"]
    assert "Train_Aligned_Faces/<class>/*.png or " in index.absent["train"]


# ---------------------------------------------------------------- JAFFE

POSES = ["AN1.39", "DI1.42", "FE1.45", "HA1.29", "NE1.26", "SA1.33", "SU1.36"]
PERSONS = ["KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM"]


@pytest.mark.parametrize("inside", ["", "jaffe"])
def test_jaffe(tmp_path: Path, inside: str) -> None:
    layouts.write_jaffe(tmp_path / inside, ["YM.SU1.58", "KA.AN1.39"])
    (tmp_path / inside / "README").write_text("x")
    index = jaffe.read(tmp_path)
    assert found(index) == [("KA.AN1.39.tiff", "anger", "KA"), ("YM.SU1.58.tiff", "surprise", "YM")]
    assert index.dropped == {"train": {"no image (no suffix)": 1}}
    layouts.save(tmp_path / inside / "KA.XX1.39.tiff", layouts.image(0))
    with pytest.raises(DataError, match=r"KA\.XX1\.39\.tiff: expected a name like KA\.AN1\.39\.tiff"):
        jaffe.read(tmp_path)


def test_jaffe_is_carved_by_person(tmp_path: Path) -> None:
    layouts.write_jaffe(tmp_path, [f"{person}.{pose}" for person in PERSONS for pose in POSES])
    parts = set[frozenset[str]]()
    for seed in range(4):
        dataset = load_dataset(
            layouts.section("jaffe", tmp_path, test_fraction=0.2, validation_fraction=0.1, split_seed=seed)
        )
        persons = [{name[:2] for name in split.names.tolist()} for split in (dataset.train, *dataset.held_out)]
        assert sum(map(len, persons)) == len(set[str]().union(*persons)) == 10
        assert [len(split) for split in (dataset.train, *dataset.held_out)] == [49, 7, 14]
        assert dataset.held_out[1].class_counts().tolist() == [2] * 7
        assert "split by person: no person is on both sides" in dataset.description
        parts.add(frozenset(persons[2]))
    assert len(parts) > 1


# ---------------------------------------------------------------- CK+


def write_release(root: Path, landmarks: bool = True) -> None:
    layouts.write_ckplus_sequence(root, "S010", "004", 4, "   7.0000000e+00\n", landmarks, seed=1)
    layouts.write_ckplus_sequence(root, "S005", "001", 3, "   3.0000000e+00\n", landmarks, seed=2)
    layouts.write_ckplus_sequence(root, "S005", "002", 2, "", landmarks, seed=3)
    (root / "cohn-kanade-images" / "S005" / ".DS_Store").write_text("x")


def test_ckplus_labels_belong_to_peaks_and_first_frames_are_neutral(tmp_path: Path) -> None:
    write_release(tmp_path)
    index = ckplus.read(tmp_path)
    assert found(index) == [
        ("S005_001_00000003.png", "disgust", "S005"),
        ("S005_001_00000001.png", "neutral", "S005"),
        ("S010_004_00000004.png", "surprise", "S010"),
        ("S010_004_00000001.png", "neutral", "S010"),
    ]
    assert index.dropped == {"train": {"sequence without a label": 1}}
    assert index.warnings == ()
    without_neutral = select_classes(index, index.class_names[1:])
    assert [record.name for record in without_neutral.splits["train"]] == [
        "S005_001_00000003.png",
        "S010_004_00000004.png",
    ]


def test_ckplus_faces_are_cut_out_by_their_landmarks(tmp_path: Path) -> None:
    write_release(tmp_path)
    image = ckplus.read(tmp_path).splits["train"][0].image
    # Landmarks from (20, 10) to (40, 30): a square of 27 around the middle column, ending 1 pixel below the chin.
    assert "(16, 4, 27, 27)" in image.place
    assert Image.open(io.BytesIO(image.read())).size == (27, 27)


def test_ckplus_without_landmarks_warns(tmp_path: Path) -> None:
    write_release(tmp_path, landmarks=False)
    index = ckplus.read(tmp_path)
    assert "4 of 4 frames have no file in" in index.warnings[0]
    frame = tmp_path / "cohn-kanade-images" / "S005" / "001" / "S005_001_00000003.png"
    assert index.splits["train"][0].image.read() == frame.read_bytes()


def test_ckplus_labels_have_the_published_names(tmp_path: Path) -> None:
    for label in range(1, 8):
        layouts.write_ckplus_sequence(tmp_path, f"S00{label}", "001", 2, f"   {label}.0000000e+00\n", False, seed=label)
    named = [name for _, name, _ in found(ckplus.read(tmp_path)) if name != "neutral"]
    assert named == ["anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"]


@pytest.mark.parametrize("label", ["0.0", "8.0", "2.5", "happy", ""])
def test_ckplus_names_a_bad_label(tmp_path: Path, label: str) -> None:
    write_release(tmp_path)
    path = tmp_path / "Emotion" / "S005" / "001" / "S005_001_00000003_emotion.txt"
    path.write_text(label)
    with pytest.raises(DataError, match=rf"S005_001_00000003_emotion\.txt: found '{label}', expected one number"):
        ckplus.read(tmp_path)


def test_ckplus_refuses_what_is_incomplete_or_double(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cohn-kanade-images is not there"):
        ckplus.read(tmp_path)
    write_release(tmp_path)
    (tmp_path / "cohn-kanade-images" / "S005" / "001" / "S005_001_00000003.png").unlink()
    with pytest.raises(DataError, match=r"labels the last frame of .*, and there is .*S005_001_00000002\.png; copy"):
        ckplus.read(tmp_path)
    landmarks = tmp_path / "Landmarks" / "S010" / "004" / "S010_004_00000004_landmarks.txt"
    landmarks.write_text("1 2 3\n")
    write_release(tmp_path / "other")
    bad = tmp_path / "other" / "Landmarks" / "S005" / "001" / "S005_001_00000003_landmarks.txt"
    bad.write_text("1 2\n3\n")
    with pytest.raises(DataError, match=r"S005_001_00000003_landmarks\.txt: expected lines of two numbers"):
        ckplus.read(tmp_path / "other")
    (tmp_path / "ckextended.csv").write_text("emotion,pixels,Usage\n")
    with pytest.raises(DataError, match=r"holds cohn-kanade-images and ckextended\.csv, which are one dataset"):
        ckplus.read(tmp_path)


@pytest.mark.parametrize("inside", ["", "CK+48"])
def test_ckplus_class_folders(tmp_path: Path, inside: str) -> None:
    for seed, name in enumerate(("anger/S010_004_00000017", "anger/S010_004_00000018", "happy/S011_006_00000011")):
        layouts.save(tmp_path / inside / f"{name}.png", layouts.image(seed, 48, 48, "L"))
    index = ckplus.read(tmp_path)
    assert found(index) == [
        ("anger/S010_004_00000017.png", "anger", "S010"),
        ("anger/S010_004_00000018.png", "anger", "S010"),
        ("happy/S011_006_00000011.png", "happiness", "S011"),
    ]
    layouts.save(tmp_path / inside / "fear" / "face.png", layouts.image(5, 48, 48, "L"))
    with pytest.raises(DataError, match=r"face\.png: expected a name like S010_004_00000017\.png"):
        ckplus.read(tmp_path)


def test_ckplus_table_has_labels_of_its_own_and_warns(tmp_path: Path) -> None:
    rows = [f"{emotion},{layouts.numbers(FACES[0])},Training" for emotion in range(8)]
    (tmp_path / "ckextended.csv").write_text("\n".join(["emotion,pixels,Usage", *rows, ""]))
    index = ckplus.read(tmp_path)
    named = [name for _, name, _ in found(index)]
    assert named == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt"]
    assert dict(zip(index.source_labels, index.class_names, strict=True))["7"] == "contempt"
    assert "does not say who is who" in index.warnings[0]
    (tmp_path / "ckextended.csv").write_text("emotion,pixels,Usage\n8,1,Training\n")
    with pytest.raises(DataError, match="line 2: the emotion is 8, expected 0 to 7"):
        ckplus.read(tmp_path)


# ---------------------------------------------------------------- RAF-DB compound


def test_rafdb_compound(tmp_path: Path) -> None:
    layouts.write_rafdb(tmp_path / "compound", {"train_0001.jpg": 1, "train_0002.jpg": 11, "test_0001.jpg": 8})
    layouts.write_rafdb(tmp_path / "basic", {"train_00001.jpg": 5})
    index = rafdb.read_compound(tmp_path)
    assert found(index) == [
        ("train_0001.jpg", "happily surprised", ""),
        ("train_0002.jpg", "disgustedly surprised", ""),
    ]
    assert found(index, "test") == [("test_0001.jpg", "fearfully surprised", "")]
    assert index.dataset == "rafdb_compound"
    assert [len(listed) for listed in rafdb.read(tmp_path).splits.values()] == [1]
    with (tmp_path / "compound" / "EmoLabel" / "list_patition_label.txt").open("a") as file:
        file.write("train_0003.jpg 12")
    with pytest.raises(DataError, match="with a label from 1 to 11"):
        rafdb.read_compound(tmp_path)


@pytest.mark.parametrize(
    ("read", "wanted", "there"), [(rafdb.read_compound, "compound", "basic"), (rafdb.read, "basic", "compound")]
)
def test_rafdb_refuses_the_folder_of_the_other_set(tmp_path: Path, read, wanted: str, there: str) -> None:
    layouts.write_rafdb(tmp_path / there, {"train_00001.jpg": 5, "test_0001.jpg": 7})  # labels of either set
    (tmp_path / "link").symlink_to(tmp_path / there)
    for directory in (tmp_path / there, tmp_path / "link"):
        with pytest.raises(DataError, match=f"is the folder of the {there} set; .* that holds '{wanted}'"):
            read(directory)


def test_rafdb_compound_refuses_a_list_of_the_basic_set_under_another_name(tmp_path: Path) -> None:
    layouts.write_rafdb(tmp_path, {"train_00001.jpg": 5, "test_0001.jpg": 7})
    with pytest.raises(DataError, match=r"no label above 7, .*the basic set with --config=configs/rafdb\.py"):
        rafdb.read_compound(tmp_path)
    assert len(rafdb.read(tmp_path).splits["train"]) == 1


def test_rafdb_compound_has_a_description_of_every_class() -> None:
    assert tuple(load_bank("compound").classes) == rafdb.COMPOUND_CLASS_NAMES


# ---------------------------------------------------------------- KDEF, RaFD


@pytest.mark.parametrize("inside", ["", "KDEF"])
def test_kdef(tmp_path: Path, inside: str) -> None:
    layouts.write_kdef(tmp_path, ["AF01ANS", "AF01AFHL", "BF01SUFR", "AM31HAS"])
    layouts.save(tmp_path / "KDEF" / "AM31" / "AM31H.JPG", layouts.image(9))  # a name as in the release
    index = kdef.read(tmp_path / inside)
    assert found(index) == [
        ("AF01AFHL.JPG", "fear", "F01"),
        ("AF01ANS.JPG", "anger", "F01"),
        ("AM31HAS.JPG", "happiness", "M31"),
        ("BF01SUFR.JPG", "surprise", "F01"),  # the second session of the same person
    ]
    assert index.splits["train"][0].attributes == {"session": "A", "gender": "female", "angle": "half left"}
    assert index.dropped == {"train": {"name of another form": 1}}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"AF01ANS\.JPG is not there.\nExpected"):
        kdef.read(tmp_path / "empty")


def test_kdef_refuses_one_name_twice(tmp_path: Path) -> None:
    layouts.write_kdef(tmp_path, ["AF01ANS"])
    layouts.save(tmp_path / "anger" / "AF01ANS.JPG", layouts.image(9))
    assert len(kdef.read(tmp_path).splits["train"]) == 1  # KDEF alone is read
    layouts.save(tmp_path / "KDEF" / "copy" / "AF01ANS.JPG", layouts.image(9))
    with pytest.raises(DataError, match="have the same name; keep one of them"):
        kdef.read(tmp_path)


def test_rafd(tmp_path: Path) -> None:
    names = [
        "Rafd090_01_Caucasian_female_angry_frontal",
        "Rafd045_68_Moroccan_male_contemptuous_left",
        "Rafd180_01_Caucasian_female_surprised_right",
    ]
    layouts.write_rafd(tmp_path / "part", names)
    index = rafd.read(tmp_path)
    assert found(index) == [
        (f"{names[1]}.jpg", "contempt", "68"),
        (f"{names[0]}.jpg", "anger", "01"),
        (f"{names[2]}.jpg", "surprise", "01"),
    ]
    about = {"angle": "045", "population": "moroccan", "gender": "male", "gaze": "left"}
    assert index.splits["train"][0].attributes == about
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"_frontal\.jpg is not there.\nExpected"):
        rafd.read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("config", "write", "persons"),
    [
        (
            kdef_config,
            lambda root: layouts.write_kdef(
                root,
                [f"{s}F{p:02d}{e}{a}" for s in "AB" for p in range(1, 11) for e in ("AN", "HA") for a in ("S", "FR")],
            ),
            {f"F{p:02d}" for p in range(1, 11)},
        ),
        (
            rafd_config,
            lambda root: layouts.write_rafd(
                root,
                [
                    f"Rafd{angle}_{p:02d}_Caucasian_male_{e}_{gaze}"
                    for angle in ("090", "135")
                    for p in range(1, 11)
                    for e in ("angry", "happy")
                    for gaze in ("frontal", "left")
                ],
            ),
            {f"{p:02d}" for p in range(1, 11)},
        ),
    ],
)
def test_posed_sets_are_split_by_person_and_frontal_by_default(tmp_path, config, write, persons) -> None:
    write(tmp_path)
    section = config.get_config().data
    with section.unlocked():
        section.dir = str(tmp_path)
    dataset = load_dataset(DataSection(**section.to_dict()))
    shown = [set() for _ in range(3)]
    for split, people in zip((dataset.train, *dataset.held_out), shown, strict=True):
        assert set(split.attributes["angle"].tolist()) <= {"straight", "090"}
        for name in split.names.tolist():
            people.add(name[1:4] if name[0] in "AB" else name.split("_")[1])
    assert set.union(*shown) == persons
    assert sum(map(len, shown)) == len(persons)
    assert [len(people) for people in shown] == [7, 1, 2]


# ---------------------------------------------------------------- ExpW

BOXES = [
    ("a_1.jpg", 0, (10, 5, 25, 40), 80.25, 3),
    ("a_1.jpg", 1, (0, 30, 70, 50), 20, 6),  # wider than the photograph
    ("b c.jpg", 0, (1, 2, 21, 32), 60, 0),
    ("b c.jpg", 1, (5, 5, 5, 9), 60, 0),
]


@pytest.mark.parametrize("place", ["label.lst", "label/label.lst"])
def test_expw(tmp_path: Path, place: str) -> None:
    layouts.write_expw(tmp_path, BOXES)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "label.lst").rename(tmp_path / place)
    index = expw.read(tmp_path)
    assert found(index) == [
        ("a_1.jpg#0", "happiness", ""),
        ("a_1.jpg#1", "neutral", ""),
        ("b c.jpg#0", "anger", ""),
    ]
    assert [record.attributes["confidence"] for record in index.splits["train"]] == ["80.25", "20", "60"]
    assert index.dropped == {"train": {"empty face box": 1}}
    faces = [Image.open(io.BytesIO(record.image.read())) for record in index.splits["train"]]
    assert [face.size for face in faces] == [(20, 30), (30, 50), (19, 31)]
    whole = np.asarray(Image.open(tmp_path / "origin" / "a_1.jpg").crop((5, 10, 25, 40)), np.int64)
    assert np.abs(np.asarray(faces[0], np.int64) - whole).mean() < 12


@pytest.mark.parametrize(
    "line", ["a.jpg 0 1 2 3 4 50 7", "a.jpg 0 1 2 3 4 50 -1", "a.jpg 1 2 3", "a.jpg 0 top 2 3 4 5 6"]
)
def test_expw_errors(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"label\.lst is not there"):
        expw.read(tmp_path)
    layouts.write_expw(tmp_path, BOXES)
    with (tmp_path / "label.lst").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=rf"label\.lst line 5: found '{line}', expected 'image face_id top left"):
        expw.read(tmp_path)


@pytest.mark.parametrize("box", ["nan 10 20 40", "5 nan nan 40", "5 10 inf 40", "-inf 10 20 40", "5 10 20 NaN"])
def test_expw_counts_faces_without_a_box(tmp_path: Path, box: str) -> None:
    layouts.write_expw(tmp_path, BOXES[:1])
    with (tmp_path / "label.lst").open("a") as file:
        file.write(f"a_1.jpg 7 {box} 50 3\n")
    index = expw.read(tmp_path)
    assert [record.name for record in index.splits["train"]] == ["a_1.jpg#0"]
    assert index.dropped == {"train": {"empty face box": 1}}


def test_expw_refuses_a_face_twice(tmp_path: Path) -> None:
    layouts.write_expw(tmp_path, [*BOXES[:2], BOXES[0]])
    with pytest.raises(DataError, match=r"line 3: the face a_1\.jpg#0 is listed twice"):
        expw.read(tmp_path)


def test_expw_labels_have_the_published_names(tmp_path: Path) -> None:
    layouts.write_expw(tmp_path, [(f"{label}.jpg", 0, (1, 1, 9, 9), 60, label) for label in range(7)])
    named = [name for _, name, _ in found(expw.read(tmp_path))]
    assert named == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
