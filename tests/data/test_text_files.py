"""Label files and lists as editors and spreadsheets of Windows save them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpafer_jax.config.data_section import ClipsSection
from mpafer_jax.data import records, subset
from mpafer_jax.data.readers import (
    affectnet,
    ckplus,
    clips,
    dfew,
    expw,
    fer2013,
    ferplus,
    ferv39k,
    folder,
    label_list,
    mafw,
    rafdb,
)
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.jobs.pretraining.sources import read_folder
from mpafer_jax.runtime.errors import DataError
from tests.data import layouts

VOTES = (9, 1, 0, 0, 0, 0, 0, 0, 0, 0)


def write_affectnet(root: Path) -> None:
    layouts.write_affectnet_csv(root, "training.csv", [("1/a.jpg", (0, 0, 20, 20), 1)], header=True)


def write_affectnet_without_header(root: Path) -> None:
    layouts.write_affectnet_csv(root, "training.csv", [("1/a.jpg", (0, 0, 20, 20), 1)], header=False)


def write_affectnet_of_windows(root: Path) -> None:
    write_affectnet(root)
    table = root / "training.csv"
    table.write_bytes(table.read_bytes().replace(b"1/a.jpg", b"1\\a.jpg"))


def write_rafdb_lists(root: Path) -> None:
    layouts.write_rafdb(root, {"train_00001.jpg": 5})
    (root / "EmoLabel" / "list_patition_label.txt").unlink()
    layouts.write_rafdb_cub(root, {"train_00001.jpg": 5})


def write_rafdb_annotations(root: Path) -> None:
    layouts.write_rafdb(root, {"train_00001.jpg": 5})
    layouts.write_rafdb_annotation(root, "train_00001.jpg", (1, 0, 3))


def write_fer2013(root: Path) -> None:
    layouts.write_fer2013(root, [("Training", layouts.image(0, 48, 48, "L"))])


def write_ferplus_votes(root: Path) -> None:
    layouts.write_label_csv(root / "FER2013Train", {"fer0.png": VOTES})
    layouts.write_fer2013new(root, [("Training", "fer0.png", VOTES)])
    layouts.write_fer2013(root, [("Training", layouts.image(0, 48, 48, "L"))])


def write_metadata(root: Path, name: str = "in/1.png") -> None:
    layouts.save(root / "in" / "1.png", layouts.image(0))
    (root / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a face"}) + "\n")


def write_list(root: Path) -> None:
    layouts.write_images(root, ["a.png", "b.png"])
    layouts.write_table(root / "labels.csv", [("a.png", "sad"), ("b.png", "happy")], ("image", "label"))


def write_clip_lists(root: Path) -> None:
    for split in ("train", "test"):
        layouts.write_clip_list(root, f"{split}.txt", [(f"{split}/1", 2, "sad"), (f"{split}/2", 1, "happy")])


def all_images(index: SourceIndex) -> list[Any]:
    return [
        (split, record.name, record.label, [frame.read() for frame in record.frames])
        for split, found in index.splits.items()
        for record in found
    ]


def captioned(root: Path) -> list[Any]:
    read = read_folder(root)
    return [read.captions, read.images[0].tolist(), read.fingerprint]


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path], list[Any]]]] = {
    "affectnet": (write_affectnet, lambda root: all_images(affectnet.read(root))),
    "affectnet without header": (write_affectnet_without_header, lambda root: all_images(affectnet.read(root))),
    "affectnet of Windows": (write_affectnet_of_windows, lambda root: all_images(affectnet.read(root))),
    "rafdb": (
        lambda root: layouts.write_rafdb(root, {"train_00001.jpg": 5}),
        lambda root: all_images(rafdb.read(root)),
    ),
    "rafdb in lists of CUB's form": (write_rafdb_lists, lambda root: all_images(rafdb.read(root))),
    "rafdb annotations": (write_rafdb_annotations, lambda root: all_images(rafdb.read(root, "landmarks"))),
    "rafdb tables beside folders": (
        lambda root: layouts.write_rafdb_folders(root, {f"train_{label:05d}.jpg": label for label in range(1, 8)}),
        lambda root: all_images(rafdb.read(root)),
    ),
    "expw": (
        lambda root: layouts.write_expw(root, [("a b.jpg", 0, (1, 2, 9, 12), 60, 3)]),
        lambda root: all_images(expw.read(root)),
    ),
    "fer2013": (write_fer2013, lambda root: all_images(fer2013.read(root))),
    "ferplus label.csv": (write_ferplus_votes, lambda root: all_images(ferplus.read(root, "majority_labelcsv"))),
    "ferplus votes": (write_ferplus_votes, lambda root: all_images(ferplus.read(root, "majority_csv"))),
    "ckplus": (
        lambda root: layouts.write_ckplus_sequence(root, "S005", "001", 3, "   3.0000000e+00\n"),
        lambda root: all_images(ckplus.read(root)),
    ),
    "dfew": (
        lambda root: layouts.write_dfew(root, [(1 + number, 1) for number in range(5)]),
        lambda root: all_images(dfew.read(root, ClipsSection())),
    ),
    "ferv39k": (
        lambda root: layouts.write_ferv39k(root, {"train": ["Action/Happy/0001 Happy"], "test": ["War/Sad/0002 Sad"]}),
        lambda root: all_images(ferv39k.read(root, ClipsSection())),
    ),
    "mafw": (
        lambda root: layouts.write_mafw(root, [(name, 1) for name in mafw.CLASS_NAMES[:5]]),
        lambda root: all_images(mafw.read(root, ClipsSection())),
    ),
    "lists of clips": (write_clip_lists, lambda root: all_images(clips.read(root, ClipsSection()))),
    "list": (write_list, lambda root: all_images(label_list.read(root))),
    "yolo": (
        lambda root: layouts.write_yolo(root, {f"train/images/{at}.png": f"{at} .5 .5 1 1\n" for at in (0, 1)}, "ab"),
        lambda root: all_images(folder.read(root)),
    ),
    "pretraining": (write_metadata, captioned),
}


def text_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.suffix in (".csv", ".txt", ".jsonl", ".lst")]


@pytest.mark.parametrize("case", CASES)
def test_a_byte_order_mark_other_line_ends_and_blank_lines_change_nothing(case: str, tmp_path: Path) -> None:
    write, read = CASES[case]
    write(tmp_path)
    expected = read(tmp_path)
    assert expected
    for path in text_files(tmp_path):
        text = path.read_bytes().decode()
        lines = [*text.splitlines(), "", " ", ""]
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read(tmp_path) == expected


@pytest.mark.parametrize("case", CASES)
def test_another_encoding_is_named(case: str, tmp_path: Path) -> None:
    write, read = CASES[case]
    write(tmp_path)
    for path in text_files(tmp_path):
        path.write_bytes(path.read_bytes().decode().encode("utf-16"))
    with pytest.raises(DataError, match=r"is not UTF-8: its first bytes are ff fe, the mark of UTF-16"):
        read(tmp_path)


def test_backslashes_part_folders(tmp_path: Path) -> None:
    write_affectnet_of_windows(tmp_path / "affectnet")
    (record,) = affectnet.read(tmp_path / "affectnet").splits["train"]
    assert record.name == "1/a.jpg"
    write_metadata(tmp_path / "captions", "in\\1.png")
    np.testing.assert_array_equal(read_folder(tmp_path / "captions").images[0], layouts.image(0))
    (tmp_path / "list.txt").write_text("\ufeffanger\\1.png\n", encoding="utf-8")
    assert subset.select(tmp_path / "list.txt", ["anger/1.png", "fear/1.png"], [])[0].tolist() == [0]


def test_a_quotation_mark_that_is_left_open_is_named(tmp_path: Path) -> None:
    path = tmp_path / "training.csv"
    path.write_text('"a.jpg,0\n' * 2 + "1" * 200_000)
    with pytest.raises(DataError, match=r"training\.csv line 3: .*a quotation mark may be left open"):
        list(records.read_csv(path))


@pytest.mark.parametrize("case", ["rafdb", "expw", "ferv39k", "mafw", "lists of clips"])
def test_tabs_in_place_of_spaces_change_nothing(case: str, tmp_path: Path) -> None:
    write, read = CASES[case]
    write(tmp_path)
    expected = read(tmp_path)
    for path in text_files(tmp_path):
        path.write_text(path.read_text().replace(" ", "\t").replace("a\tb.jpg", "a b.jpg"))
    assert read(tmp_path) == expected
