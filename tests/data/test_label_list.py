"""Images with label files: csv, txt and JSON lines, with usual and configured names of files and columns."""

import io
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.config.data_section import ColumnsSection, DataSection, ListSection
from mpafer_jax.data.check import check
from mpafer_jax.data.readers import label_list
from mpafer_jax.data.records import ImageCrop, SourceIndex, select_classes
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

FACES = [("a.png", "happy"), ("b.png", "sad"), ("c.png", "happy")]
NAMES = [name for name, _ in FACES]


def read(root: Path, chosen: tuple[str, ...] = (), columns: dict[str, Any] | None = None, **lists: str) -> SourceIndex:
    return label_list.read(root, chosen, ListSection(**lists), ColumnsSection(**columns or {}))


def labelled(index: SourceIndex, split: str = "train") -> list[tuple[str, str]]:
    return [(record.name, index.class_names[record.label]) for record in index.splits[split]]


@pytest.mark.parametrize(
    ("name", "header", "delimiter", "mark"),
    [
        ("labels.csv", ("image", "label"), ",", ""),
        ("labels.csv", ("image", "label"), ";", "\ufeff"),
        ("labels.csv", ("Image Path", "Emotion"), "\t", ""),
        ("train.csv", ("filename", "expression"), ", ", ""),
        ("list.txt", (), " ", ""),
        ("list.txt", (), "\t", "\ufeff"),
        ("train_labels.csv", ("pth", "class_name"), "|", ""),
        ("train.lst", (), " ", ""),
        ("train/metadata.csv", ("file_name", "label"), ",", ""),
        ("archive (3)/labels.csv", ("pth", "label"), ",", ""),
    ],
)
def test_a_list(tmp_path: Path, name: str, header: tuple[str, ...], delimiter: str, mark: str) -> None:
    layouts.write_images((tmp_path / name).parent, NAMES)
    layouts.write_table(tmp_path / name, FACES, header, delimiter, mark)
    index = read(tmp_path)
    assert index.class_names == index.source_labels == ("happy", "sad")
    assert labelled(index) == FACES
    assert list(index.splits) == ["train"]
    assert index.absent["test"] == f"rows of the split 'test' in {tmp_path / name}"
    image = index.splits["train"][1].image
    assert image.place == str((tmp_path / name).parent / "b.png")


def test_json_lines_of_the_hub(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 10)):
        layouts.write_images(tmp_path / split, NAMES, first)
        rows = [{"file_name": name, "label": label, "age": 30 + number} for number, (name, label) in enumerate(FACES)]
        layouts.write_json_lines(tmp_path / split / "metadata.jsonl", rows)
    index = read(tmp_path, columns={"attributes": ("age",)})
    assert labelled(index) == labelled(index, "test") == FACES
    assert [record.attributes for record in index.splits["train"]] == [{"age": "30"}, {"age": "31"}, {"age": "32"}]
    assert index.splits["test"][0].image.place == str(tmp_path / "test" / "a.png")
    layouts.write_json_lines(tmp_path / "metadata.jsonl", [{"file_name": f"train/{n}", "label": x} for n, x in FACES])
    assert labelled(read(tmp_path, file="metadata.jsonl")) == [(f"train/{name}", label) for name, label in FACES]


@pytest.mark.parametrize("values", [("train", "val", "test"), ("Training", "PublicTest", "PrivateTest")])
def test_a_column_of_splits_and_of_persons(tmp_path: Path, values: tuple[str, ...]) -> None:
    layouts.write_images(tmp_path / "images", NAMES)
    rows = [(*face, values[number], f"p{number}") for number, face in enumerate(FACES)]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label", "Usage", "subject_id"))
    index = read(tmp_path)
    assert {split: labelled(index, split) for split in index.splits} == {
        "train": FACES[:1],
        "validation": FACES[1:2],
        "test": FACES[2:],
    }
    assert index.splits["test"][0].person == "p2"
    assert index.splits["train"][0].image.read() == (tmp_path / "images" / "a.png").read_bytes()


def test_lists_of_splits_named_by_fields(tmp_path: Path) -> None:
    layouts.write_images(tmp_path / "faces", NAMES)
    layouts.write_table(tmp_path / "lists" / "1.txt", FACES[:2], (), " ")
    layouts.write_table(tmp_path / "lists" / "2.txt", FACES[2:], (), " ")
    index = read(tmp_path, train="lists/1.txt", test=str(tmp_path / "lists" / "2.txt"), images="faces")
    assert (labelled(index), labelled(index, "test")) == (FACES[:2], FACES[2:])
    with pytest.raises(DataError, match=r"config\.data\.list\.validation: .*3\.txt is not there"):
        read(tmp_path, train="lists/1.txt", validation="lists/3.txt")


def test_columns_given_by_name_and_by_number(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    rows = [(number, label, name, "x") for number, (name, label) in enumerate(FACES)]
    layouts.write_table(tmp_path / "a.csv", rows, ("id", "answer", "picture", "note"))
    assert labelled(read(tmp_path, columns={"image": "picture", "label": "answer"})) == FACES
    layouts.write_table(tmp_path / "a.csv", rows)
    assert labelled(read(tmp_path, columns={"image": "3", "label": "2"})) == FACES


def test_columns_that_are_not_recognised_are_listed(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "a.csv", [("a.png", "happy", "1")], ("image", "answer", "note"))
    with pytest.raises(
        DataError, match=r"a\.csv: none of its columns is called as the label usually is; it has 'image'"
    ):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no column 'anwser' \(config\.data\.columns\.label\); did you mean answer\?"):
        read(tmp_path, file="a.csv", columns={"label": "anwser"})
    layouts.write_table(tmp_path / "a.csv", [("a.png", "happy", "1")])
    with pytest.raises(
        DataError, match=r"it has '1', '2', '3' \(without a header; line 1 is \['a\.png', 'happy', '1'\]"
    ):
        read(tmp_path, file="a.csv")
    layouts.write_table(tmp_path / "a.csv", [("a.png", "happy", "sad")], ("image", "label", "emotion"))
    with pytest.raises(DataError, match="'label', 'emotion' may each be the label; choose one, --config"):
        read(tmp_path, file="a.csv")
    assert labelled(read(tmp_path, ("sad",), {"label": "emotion"}, file="a.csv")) == [("a.png", "sad")]


def test_numbers_need_names(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "labels.csv", [("a.png", 10), ("b.png", "2.0"), ("c.png", 2)], ("image", "label"))
    with pytest.raises(DataError, match=r"labels 2, 10 are numbers.*'<expression>=2','<expression>=10',") as error:
        read(tmp_path)
    assert str(error.value).endswith("2 (2), 10 (1)")
    chosen = ("happiness=10", "fear=2")
    index = select_classes(read(tmp_path, chosen), chosen)
    assert labelled(index) == [("a.png", "happiness"), ("b.png", "fear"), ("c.png", "fear")]
    assert index.source_labels == ("10", "2")


def test_faces_are_cropped_by_their_boxes(tmp_path: Path) -> None:
    layouts.save(tmp_path / "a.png", layouts.image(0, 40, 30))
    rows = [("a.png", "happy", 5, 4, 20, 10), ("a.png", "sad", 0, 0, 8, 9), ("a.png", "sad", -1, -1, -1, -1)]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label", "x", "y", "w", "h"))
    box = ("x", "y", "w", "h")
    index = read(tmp_path, columns={"box": box})
    assert labelled(index) == [("a.png", "happy"), ("a.png#2", "sad")]
    assert [Image.open(io.BytesIO(r.image.read())).size for r in index.splits["train"]] == [(20, 10), (8, 9)]
    assert index.dropped == {"train": {"no face box": 1}}
    corners = read(tmp_path, columns={"box": box, "box_format": "xyxy"})
    assert Image.open(io.BytesIO(corners.splits["train"][0].image.read())).size == (15, 6)
    rows = [{"file_name": "a.png", "label": "happy", "bbox": [1, 2, 3, 4]}, {"file_name": "a.png", "label": "sad"}]
    layouts.write_json_lines(tmp_path / "faces.jsonl", rows)
    (happy,) = read(tmp_path, columns={"box": ("bbox",)}, file="faces.jsonl").splits["train"]
    assert "(1.0, 2.0, 3.0, 4.0)" in happy.image.place
    layouts.write_table(tmp_path / "labels.csv", [("a.png", "happy", "1;2")], ("image", "label", "box"))
    with pytest.raises(DataError, match=r"line 2: the face box is \['1;2'\], expected four numbers \(xywh\)"):
        read(tmp_path, columns={"box": ("box",)}, file="labels.csv")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("[1, 2, 3.0, 4]", (1, 2, 3, 4)),
        ("(1;2;3;4)", (1, 2, 3, 4)),
        ("1e1 .5 2.5E1 +30.", (10, 0.5, 25, 30)),
        ("nan nan nan nan", None),
        ("1 2 NaN 4", None),
        ("1 2 inf 4", None),
        ("[]", None),
    ],
)
def test_a_box_in_one_column(tmp_path: Path, box: str, expected: tuple[float, ...] | None) -> None:
    layouts.write_images(tmp_path, NAMES[:2])
    rows = [("a.png", "happy", "5 5 5 5"), ("b.png", "sad", f'"{box}"')]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label", "box"))
    index = read(tmp_path, ("happy", "sad"), {"box": ("box",)})
    images = [record.image for record in index.splits["train"]]
    assert [image.box for image in images if isinstance(image, ImageCrop)] == [(5, 5, 5, 5), *filter(None, [expected])]
    assert index.dropped == ({} if expected else {"train": {"no face box": 1}})


@pytest.mark.parametrize("box", ["10-10-20-20", "5 5 5 x", '{""h"": 4, ""w"": 3, ""x"": 1, ""y"": 2}'])
def test_a_box_that_is_no_four_numbers(tmp_path: Path, box: str) -> None:
    layouts.write_images(tmp_path, NAMES[:1])
    layouts.write_table(tmp_path / "labels.csv", [("a.png", "happy", f'"{box}"')], ("image", "label", "box"))
    with pytest.raises(DataError, match=r"line 2: the face box is \['.*'\], expected four numbers \(xywh\)"):
        read(tmp_path, ("happy",), {"box": ("box",)})
    value = {"h": 4, "w": 3, "x": 1, "y": 2}
    layouts.write_json_lines(tmp_path / "b.jsonl", [{"file_name": "a.png", "label": "happy", "box": value}])
    with pytest.raises(DataError, match=r"line 1: the face box is .*, expected four numbers"):
        read(tmp_path, ("happy",), {"box": ("box",)}, file="b.jsonl")


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
def test_boxes_that_are_fractions_of_the_image(tmp_path: Path, form: str) -> None:
    layouts.write_images(tmp_path, NAMES)
    rows = [("a.png", "happy", 0.1, 0, 0.6, 1), ("b.png", "sad", "", "", "", ""), ("c.png", "sad", 0.2, 0.3, 0.7, 0.8)]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label", "x", "y", "w", "h"))
    columns = {"box": ("x", "y", "w", "h"), "box_format": form}
    with pytest.raises(DataError, match=r"labels\.csv: all numbers of the 2 face boxes lie between 0 and 1, as fract"):
        read(tmp_path, columns=columns)
    layouts.write_table(tmp_path / "labels.csv", [*rows[:2], ("c.png", "sad", 2, 3, 7, 8)], ("image", "label", *"xywh"))
    assert len(read(tmp_path, columns=columns).splits["train"]) == 2


def test_boxes_are_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be turned clockwise by 90 degrees
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[:, :50], pixels[:, 50:] = (255, 0, 0), (0, 0, 255)  # upright, red is above blue
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    rows = [("a.png", "happy", 5, 5, 40, 40), ("a.png", "sad", 5, 55, 40, 45)]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label", "x", "y", "w", "h"))
    records = read(tmp_path, columns={"box": ("x", "y", "w", "h")}).splits["train"]
    faces = [Image.open(io.BytesIO(record.image.read())) for record in records]
    assert [face.size for face in faces] == [(40, 40), (40, 45)]
    assert [np.asarray(face).mean((0, 1)).argmax() for face in faces] == [0, 2]


def test_images_are_looked_for(tmp_path: Path) -> None:
    """Kaggle's RAF-DB: images in numbered folders, lists beside with bare names."""
    for split, number in (("train", 0), ("test", 3)):
        names = [f"{split}_{at:05d}_aligned.jpg" for at in range(3)]
        for at, name in enumerate(names):
            layouts.save(tmp_path / "DATASET" / split / str(at + 1) / name, layouts.image(number + at))
        layouts.write_table(
            tmp_path / f"{split}_labels.csv", [(name, at + 1) for at, name in enumerate(names)], ("image", "label")
        )
    chosen = ("surprise=1", "fear=2", "disgust=3")
    index = select_classes(read(tmp_path, chosen), chosen)
    assert labelled(index, "test")[1] == ("test_00001_aligned.jpg", "fear")
    assert index.splits["test"][1].image.place == str(tmp_path / "DATASET/test/2/test_00001_aligned.jpg")


def test_names_without_suffix_or_with_spaces_and_folders_of_splits(tmp_path: Path) -> None:
    layouts.write_images(tmp_path / "Train" / "x", ["my face.png", "b.png"])
    layouts.write_images(tmp_path / "Test" / "y", ["c.png"], 5)
    layouts.write_table(tmp_path / "labels.csv", [("my face", "sad"), ("b", "happy"), ("c", "sad")], ("id", "label"))
    index = read(tmp_path, columns={"image": "id"})
    assert labelled(index) == [("my face", "sad"), ("b", "happy")]
    assert labelled(index, "test") == [("c", "sad")]
    layouts.write_table(tmp_path / "list.txt", [("Train/x/my face.png", "sad"), ("Test/y/c.png", "happy")], (), " ")
    index = read(tmp_path, file="list.txt")
    assert labelled(index) == [("Train/x/my face.png", "sad")]
    assert labelled(index, "test") == [("Test/y/c.png", "happy")]


def test_images_that_are_not_there(tmp_path: Path) -> None:
    layouts.write_table(tmp_path / "labels.csv", FACES, ("image", "label"))
    with pytest.raises(DataError, match=r"labels\.csv: none of the listed images is there; looked for a\.png in"):
        read(tmp_path)
    layouts.write_images(tmp_path, ["1/a.png", "2/a.png", "1/b.png"])
    with pytest.raises(DataError, match=r"lists a\.png, which may be .*1/a\.png or .*2/a\.png; name the folder"):
        read(tmp_path)
    # Some are missing: preparing the dataset reports them, or skips them as configured.
    index = read(tmp_path, images="1")
    assert index.splits["train"][2].image.place == str(tmp_path / "1" / "c.png")
    with pytest.raises(DataError, match="none of the listed images is there"):
        read(tmp_path, images="3")


def test_several_lists(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "a.csv", FACES, ("image", "label"))
    layouts.write_table(tmp_path / "b.csv", FACES, ("image", "label"))
    with pytest.raises(
        DataError, match=r"holds several lists, a\.csv, b\.csv; choose one, --config\.data\.list\.file="
    ):
        read(tmp_path)
    layouts.write_table(tmp_path / "train.csv", FACES, ("image", "label"))
    index = read(tmp_path)
    assert index.warnings == tuple(f"{tmp_path / name} is not read" for name in ("a.csv", "b.csv"))
    (tmp_path / "README.txt").write_text("faces of mine\nin two folders\n")
    assert labelled(read(tmp_path, file="a.csv")) == FACES


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.png", "happy"), ("a.png", "sad")], r"line 3: a\.png was on line 2 already \(.*a\.png\); keep one"),
        ([("a.png", "happy"), ("b.png",)], r"line 3: found 1 columns, \['b\.png'\], expected 2 as in line 1"),
        ([("a.png", "happy"), ("", "sad")], r"line 3: the image's path is empty"),
        ([("a.png", "")], "none of the 1 images has a label"),
        ([("a.png", "happy")], "there is one label with images, 'happy', and no other class"),
        (
            [("a.png", "happy"), ("b.png", "surprize")],
            "the label 'surprize' is nearly called 'surprise'; rename it, or",
        ),
        ([("a.png", "S001"), ("b.png", "S002")], "2 labels, S001, S002, which look like persons or clips"),
    ],
)
def test_bad_lines(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label"))
    with pytest.raises(DataError, match=message):
        read(tmp_path, file="labels.csv")


def test_splits_that_contradict(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    rows = [(*FACES[0], "train"), (*FACES[1], "test")]
    layouts.write_table(tmp_path / "train.csv", rows, ("image", "label", "split"))
    with pytest.raises(DataError, match=r"line 3: the split is 'test', in a file of the split 'train'"):
        read(tmp_path)
    layouts.write_table(tmp_path / "train.csv", [(*FACES[0], "3")], ("image", "label", "split"))
    message = (
        "line 2: the split, in the column 'split', is '3', expected train, validation or test, or an alias of one; "
        r".*--config\.data\.columns\.split="
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, columns={"split": "split"})
    layouts.write_table(tmp_path / "train.csv", [(*FACES[0], "train"), (*FACES[1], "3")], ("image", "label", "split"))
    with pytest.raises(DataError, match=message.replace("line 2", "line 3")):
        read(tmp_path)


@pytest.mark.parametrize("column", ["set", "Subset", "phase", "partition", "usage", "split"])
@pytest.mark.parametrize("name", ["labels.csv", "test.csv"])
def test_a_column_that_is_called_as_that_of_the_splits_but_names_none(tmp_path: Path, column: str, name: str) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(
        tmp_path / name, [(*face, f"lab{number % 2}") for number, face in enumerate(FACES)], ("image", "label", column)
    )
    index = read(tmp_path)
    assert labelled(index, "test" if name == "test.csv" else "train") == FACES
    (warning,) = index.warnings
    assert f"{name}: the column {column!r} is called as that of the splits usually is, but names no split" in warning
    assert "its values are 'lab0', 'lab1'. If" in warning


def test_images_in_several_splits_are_said(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "train.csv", FACES, ("image", "label"))
    layouts.write_table(tmp_path / "test.csv", [("b.png", "happy"), ("c.png", "happy")], ("image", "label"))
    warning = (
        "2 images are listed in several splits, 1 of them with different labels; the first is "
        f"{tmp_path / 'b.png'} (train: sad, test: happy)"
    )
    assert read(tmp_path).warnings == (warning,)
    assert warning in check(layouts.section("list", tmp_path)).attention
    # Two faces of one photograph are no image twice.
    for name, face in (("train", (0, 0, 5, 5)), ("test", (6, 6, 5, 5))):
        rows = [("a.png", "happy", *face), ("b.png", "sad", *face)]
        layouts.write_table(tmp_path / f"{name}.csv", rows, ("image", "label", *"xywh"))
    assert read(tmp_path, columns={"box": ("x", "y", "w", "h")}).warnings == ()


def test_misspelled_and_coded_labels_are_read_and_said(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "labels.csv", [("a.png", "suprise"), ("b.png", "sad")], ("image", "label"))
    index = read(tmp_path)
    assert labelled(index) == [("a.png", "surprise"), ("b.png", "sad")]
    assert index.warnings == (f"{tmp_path}/labels.csv: labels are read by another name: 'suprise' as 'surprise'",)
    layouts.write_table(
        tmp_path / "labels.csv", [("a.png", "SU"), ("b.png", "AF"), ("c.png", "SA")], ("image", "label")
    )
    assert read(tmp_path).class_names == ("fear", "sadness", "surprise")


def test_one_class_may_be_spelt_differently_in_each_list(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "train.csv", [("a.png", "Happy"), ("b.png", "sad")], ("image", "label"))
    layouts.write_table(tmp_path / "test.csv", [("c.png", "happiness")], ("image", "label"))
    index = read(tmp_path)
    assert (labelled(index), labelled(index, "test")) == ([("a.png", "Happy"), ("b.png", "sad")], [("c.png", "Happy")])
    layouts.write_table(tmp_path / "test.csv", [("b.png", "happy"), ("c.png", "happiness")], ("image", "label"))
    with pytest.raises(DataError, match="'Happy' and 'happiness' are the same class, 'happiness'; classes have to"):
        read(tmp_path)


@pytest.mark.parametrize("label", ["", "nan", "NaN", "-1", "-1.0"])
def test_empty_labels_and_images_in_no_list_are_dropped_and_counted(tmp_path: Path, label: str) -> None:
    layouts.write_images(tmp_path, [*NAMES, "d.png", "more/e.png", "more/f.png"])
    layouts.write_table(tmp_path / "labels.csv", [*FACES, ("d.png", label)], ("image", "label"))
    index = read(tmp_path)
    assert labelled(index) == FACES
    assert index.dropped == {"train": {"no label": 1, "image in no list": 2}}


def test_case_of_names_does_not_matter_where_it_is_unique(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, ["x/A.PNG", "x/b.Png", "x/c.png"])
    layouts.write_table(tmp_path / "labels.csv", FACES, ("image", "label"))
    index = read(tmp_path)
    assert labelled(index) == FACES
    assert index.splits["train"][0].image.place == str(tmp_path / "x" / "A.PNG")


def test_two_listed_names_are_not_one_file(tmp_path: Path) -> None:
    """sad/1.png is not there; the image of that name in happy/ is another."""
    layouts.write_images(tmp_path, ["happy/1.png", "sad/2.png"])
    rows = [("/else/happy/1.png", "happy"), ("/else/sad/1.png", "sad"), ("/else/sad/2.png", "sad")]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label"))
    with pytest.raises(
        DataError, match=r"images /else/happy/1\.png and /else/sad/1\.png only .*/happy/1\.png is there"
    ):
        read(tmp_path)
    # Nor in two lists.
    layouts.write_table(tmp_path / "train.csv", rows[:1], ("image", "label"))
    layouts.write_table(tmp_path / "test.csv", rows[1:], ("image", "label"))
    with pytest.raises(
        DataError, match=r"images /else/sad/1\.png and /else/happy/1\.png only .*/happy/1\.png is there"
    ):
        read(tmp_path)


def test_an_image_that_is_not_there_is_not_one_of_another_split(tmp_path: Path) -> None:
    """The archive of train was not unpacked."""
    layouts.write_images(tmp_path, ["test/1.png", "test/2.png"])
    for split, (first, second) in (("train", ("happy", "sad")), ("test", ("sad", "happy"))):
        rows = [(f"{split}/1.png", first), (f"{split}/2.png", second)]
        layouts.write_table(tmp_path / f"{split}.csv", rows, ("image", "label"))
    with pytest.raises(DataError, match=r"train\.csv: none of the listed images is there; looked for train/1\.png in"):
        read(tmp_path)
    layouts.write_images(tmp_path / "faces" / "test", ["3.png", "4.png"])
    rows = [("train/3.png", "happy"), ("test/4.png", "sad")]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label"))
    index = read(tmp_path, file="labels.csv")
    assert index.splits["train"][0].image.place == str(tmp_path / "train" / "3.png")  # reported when it is prepared
    assert index.splits["test"][0].image.place == str(tmp_path / "faces" / "test" / "4.png")


def test_an_image_that_is_not_in_its_folder_is_not_one_of_another_folder(tmp_path: Path) -> None:
    """One of the cropped images was not copied; the original of the same name is beside."""
    names = [f"{at}.png" for at in range(6)]
    layouts.write_images(tmp_path / "raw", names, 10)
    layouts.write_images(tmp_path / "cropped", names[:5])
    for listed in ("cropped", f"{tmp_path}/cropped", "Cropped/../cropped"):
        rows = [(f"{listed}/{name}", ("happy", "sad")[at % 2]) for at, name in enumerate(names)]
        layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label"))
        (tmp_path / "Cropped").mkdir(exist_ok=True)
        index = read(tmp_path)
        places = [os.path.normpath(record.image.place) for record in index.splits["train"]]
        assert places == [str(tmp_path / "cropped" / name) for name in names]  # the last is reported when prepared
        assert index.warnings == ()
    with pytest.raises(DataError, match=r"cropped/5\.png"):
        load_dataset(layouts.section("list", tmp_path))
    assert len(load_dataset(layouts.section("list", tmp_path, on_bad_image="skip")).train) == 5
    # In any case, and deeper in the folder, it is the image that is meant.
    layouts.write_images(tmp_path / "cropped" / "more", ["5.PNG"])
    index = read(tmp_path)
    assert index.splits["train"][5].image.place == str(tmp_path / "cropped" / "more" / "5.PNG")


def test_images_of_which_only_some_are_where_they_are_listed_are_said(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, ["new/a.png", "new/b.PNG", "raw/c.png"])
    for folder in ("new", "/else"):
        rows = [("new/a.png", "happy"), ("new/b.png", "sad"), (f"{folder}/c.png", "sad")]
        layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label"))
        index = read(tmp_path)
        place = tmp_path / ("new" if folder == "new" else "raw") / "c.png"
        assert index.splits["train"][2].image.place == str(place)
    warning = (
        f"{tmp_path / 'labels.csv'}: 1 of 3 images are not where they are listed, as others are, but elsewhere by that "
        f"name, and may be other images than meant; the first: listed /else/c.png, read {tmp_path / 'raw' / 'c.png'}"
    )
    assert index.warnings == (warning,)


def test_folders_of_a_split_are_tried_in_the_order_of_their_names(tmp_path: Path) -> None:
    folders = ["train_set", "trn", "train set", "train", "training", "trn-set", "train-set", "training_set"]
    for seed, folder in enumerate(folders):
        layouts.write_images(tmp_path / folder, NAMES, 10 * seed)
    layouts.write_table(tmp_path / "train.csv", FACES, ("image", "label"))
    for folder in sorted(folders):
        assert read(tmp_path).splits["train"][0].image.place == str(tmp_path / folder / "a.png")
        shutil.rmtree(tmp_path / folder)


def test_a_column_of_splits_tells_the_folder(tmp_path: Path) -> None:
    """Names recur in the folders of the splits, and the list does not have these folders."""
    for seed, folder in enumerate(("train", "faces/test")):
        layouts.write_images(tmp_path / folder, NAMES, 10 * seed)
    rows = [(*face, split) for split in ("test", "train") for face in FACES]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label", "split"))
    index = read(tmp_path)
    for split, folder in (("train", "train"), ("test", "faces/test")):
        assert labelled(index, split) == FACES
        assert [record.image.place for record in index.splits[split]] == [str(tmp_path / folder / n) for n in NAMES]
    # Of a split whose images are elsewhere none is one of another split.
    (tmp_path / "faces").rename(tmp_path.parent / f"{tmp_path.name}_faces")
    with pytest.raises(DataError, match=r"labels\.csv: none of the listed images is there; looked for a\.png in"):
        read(tmp_path)


def test_each_image_is_looked_for_in_all_usual_folders_and_by_its_name_in_any_case(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, ["images/a.png", "images/b.PNG", "c.png"])
    layouts.write_table(tmp_path / "labels.csv", FACES, ("image", "label"))
    index = read(tmp_path)
    assert labelled(index) == FACES
    places = [str(tmp_path / name) for name in ("images/a.png", "images/b.PNG", "c.png")]
    assert [record.image.place for record in index.splits["train"]] == places
    assert index.dropped == {}


def test_lists_that_are_not_read_are_said(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "train.csv", FACES[:2], ("image", "label"))
    layouts.write_table(tmp_path / "test.csv", [("c.png",)], ("image",))
    (warning,) = read(tmp_path).warnings
    assert "test.csv: none of its columns is called as the label usually is" in warning
    (tmp_path / "train.csv").unlink()
    with pytest.raises(DataError, match=r"holds no list of images\. .*test\.csv: none of its columns"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "image,label\n", "has a header, 'image', 'label', and no other line"),
        ("labels.csv", 'image,label\na.png,"sad\nb.png,happy\n', "line 3: a name or label of several lines; a quot"),
        ("labels.txt", "a.png very sad\nb.png happy\n", r"line 1 is \['a\.png very', 'sad'\]"),
    ],
)
def test_lists_that_hold_none(tmp_path: Path, name: str, text: str, message: str) -> None:
    layouts.write_images(tmp_path / "images", NAMES)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"holds no list of images\. .*{message}"):
        read(tmp_path)


def test_lines_may_begin_with_the_label(tmp_path: Path) -> None:
    layouts.write_images(tmp_path, NAMES)
    layouts.write_table(tmp_path / "labels.txt", [(label, name) for name, label in FACES], delimiter=" ")
    assert labelled(read(tmp_path)) == FACES


def test_without_lists_the_error_says_what_is_there(tmp_path: Path) -> None:
    layouts.write_folders(tmp_path / "train", {"happy": 1, "sad": 1})
    with pytest.raises(
        DataError, match=r"holds no list of images\.\nWhat is in .* looks like images in class folders: "
    ):
        read(tmp_path)


def test_it_is_split_and_prepared_as_class_folders_are(tmp_path: Path) -> None:
    faces = [(f"{at:02d}.png", ("happy", "sad")[at % 2], f"p{at // 4}") for at in range(40)]
    layouts.write_images(tmp_path, [name for name, *_ in faces])
    layouts.write_table(tmp_path / "labels.csv", faces, ("image", "label", "person"))
    dataset = load_dataset(layouts.section("list", tmp_path, test_split="test", validation_fraction=0.1))
    persons = [{int(name[:2]) // 4 for name in split.names.tolist()} for split in (dataset.train, *dataset.held_out)]
    assert sum(map(len, persons)) == len(set[int]().union(*persons)) == 10
    assert [len(split) for split in (dataset.train, *dataset.held_out)] == [28, 4, 8]
    assert "there is no test split: 20% of train are split off" in dataset.description
    assert "who is on an image is not known" not in dataset.description
    np.testing.assert_array_equal(
        np.asarray(dataset.train.source.image(0)), np.asarray(layouts.image(int(dataset.train.names[0][:2])))
    )


@pytest.mark.parametrize(
    ("persons", "sizes", "note", "warnings"),
    [
        (1, [12], "", ["test: 0 of 12", "validation: 0 of 12"]),
        (2, [6, 6], "no person is on both sides", ["test: 6 of 12", "validation: 0 of 12"]),
        (6, [8, 2, 2], "no person is on both sides", []),
        (0, [8, 2, 2], "", []),
        (-1, [8, 2, 2], "no known person is on both sides; who is on 6 of 12 images is not known", []),
    ],
)
def test_what_persons_leave_of_a_fraction_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, persons: int, sizes: list[int], note: str, warnings: list[str]
) -> None:
    """The images of each of so many persons; of none; of one, and of nobody known."""
    names = [f"{at:02d}.png" for at in range(12)]
    layouts.write_images(tmp_path, names)
    who = [f"p{at * persons // 12}" if persons > 0 else "anna" * (persons < 0 and at < 6) for at in range(12)]
    rows = [(name, ("happy", "sad")[at % 2], person) for at, (name, person) in enumerate(zip(names, who, strict=True))]
    layouts.write_table(tmp_path / "labels.csv", rows, ("image", "label", "person"))
    dataset = load_dataset(layouts.section("list", tmp_path, test_split="test", validation_fraction=0.1))
    assert [len(split) for split in (dataset.train, *dataset.held_out)] == sizes
    said = [line.strip() for line in dataset.description.splitlines() if "person is on" in line]
    assert said == ([f"split by person: {note}"] if note else [])
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.partition(" images are split off, though")[0] for line in found] == warnings
    kind = "person by person" if persons else "class by class"
    assert f"20% of train are split off, {kind}" in dataset.description


def test_persons_stay_on_one_side_where_some_are_not_known(tmp_path: Path) -> None:
    faces = [(f"{at:02d}.png", ("happy", "sad")[at % 2], f"p{at // 4}" if at < 32 else "") for at in range(40)]
    layouts.write_images(tmp_path, [name for name, *_ in faces])
    layouts.write_table(tmp_path / "labels.csv", faces, ("image", "label", "person"))
    for seed in range(3):
        parts = {"validation_fraction": 0.2, "test_fraction": 0.2, "split_seed": seed}
        dataset = load_dataset(layouts.section("list", tmp_path, **parts))
        splits = [split.names.tolist() for split in (dataset.train, *dataset.held_out)]
        persons = [{int(name[:2]) // 4 for name in names if int(name[:2]) < 32} for names in splits]
        assert sum(map(len, persons)) == len(set[int]().union(*persons)) == 8
        assert sum(map(len, splits)) == 40
        assert "split by person: no known person is on both sides" in dataset.description


def test_fields_that_contradict() -> None:
    with pytest.raises(ValueError, match=r"file is 'a\.csv' and a split has a list too"):
        ListSection(file="a.csv", train="b.csv")
    with pytest.raises(ValueError, match="box names 2 columns, expected four, or one"):
        ColumnsSection(box=("x", "y"))
    with pytest.raises(ValueError, match=r"delimiter is ';', and JSON lines \(a\.jsonl\) have none; leave it out"):
        ListSection(train="a.jsonl", test="b.JSONL", delimiter=";")
    ListSection(train="a.jsonl", test="b.csv", delimiter=";")
    with pytest.raises(ValueError, match="box_format is 'xyxy', and box, whose numbers it is of, names no column"):
        ColumnsSection(box_format="xyxy")
    with pytest.raises(ValueError, match="expected hf://datasets/OWNER/NAME"):
        DataSection(dir="hf://owner/name")
