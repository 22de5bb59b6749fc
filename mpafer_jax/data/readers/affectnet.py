"""AffectNet (Mollahosseini et al., 2017), both releases.

* csv: whole images in `Manually_Annotated_Images`, labels and face boxes in `training.csv` and `validation.csv`. Faces
  are cropped at preparation.
* npy (the only one since 2021): cropped faces, one `.npy` per label.

The test set is unreleased; as in the literature, the validation set is the split "test" here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Counts, Record, SourceIndex
from mpafer_jax.runtime import progress
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
_DROPPED = {8: "none", 9: "uncertain", 10: "no face"}
_BOX = ("face_x", "face_y", "face_width", "face_height")
_COLUMNS = ("subDirectory_filePath", *_BOX, "facial_landmarks", "expression", "valence", "arousal")
_CSV_SPLITS = {"train": "training.csv", "test": "validation.csv"}
_NPY_SPLITS = {"train": "train_set", "test": "val_set"}
_IMAGES = "Manually_Annotated_Images"
_LAYOUT = """\
  train_set/images/0.jpg ...   train_set/annotations/0_exp.npy ...   and val_set likewise
or the older release:
  training.csv   validation.csv   Manually_Annotated_Images/<number>/<name>.jpg"""
_SOURCE = "its owners (http://mohammadmahoor.com/affectnet/, on request)"


@reader(
    "affectnet",
    "AffectNet, 8 expressions: splits train and test (the owners' validation set).",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Reads the labels of the release in `directory`; both releases in one folder are a DataError.

    Returns:
      Splits "train" and "test" (the validation set), 8 classes. Labels 8 to 10 and rows without a face box are dropped
      and counted.
    """
    dropped: Counts = {}
    npy = {split: directory / name for split, name in _NPY_SPLITS.items() if (directory / name).is_dir()}
    tables = {split: directory / name for split, name in _CSV_SPLITS.items() if (directory / name).is_file()}
    if npy and tables:
        raise DataError(f"{directory} holds both releases ({_LAYOUT}); their images differ, so keep one of them")
    splits: dict[str, list[Record]] = {}
    if npy:
        splits = {split: list(_read_npy(folder, split, dropped)) for split, folder in npy.items()}
        looked_for = _NPY_SPLITS
    elif tables:
        if not (directory / _IMAGES).is_dir():
            raise records.missing(directory / _IMAGES)
        splits = {split: list(_read_csv(table, split, dropped)) for split, table in tables.items()}
        looked_for = _CSV_SPLITS
    else:
        raise records.missing(directory / _NPY_SPLITS["train"])
    return SourceIndex(
        class_names=CLASS_NAMES,
        splits=splits,
        absent={
            split: f"examples with labels 0 to 7 in {split}" if split in splits else str(directory / name)
            for split, name in looked_for.items()
        },
        dropped=dropped,
    )


def _read_npy(folder: Path, split: str, dropped: Counts) -> Iterator[Record]:
    annotations = sorted(
        (folder / "annotations").glob("[!.]*_exp.npy"),
        key=lambda path: (len(path.name), path.name),  # 2 before 10
    )
    if not annotations:
        raise records.missing(folder / "annotations" / "<number>_exp.npy")
    read: dict[bytes, int] = {}  # there are few different files
    for path in progress.track(annotations, f"reading labels of {split}", len(annotations), "files"):
        try:
            data = path.read_bytes()
            if data not in read:  # a number, or one as a string
                # Not `np.load`, which takes other files for pickles and advises to load these.
                read[data] = int(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False).item())
            expression = read[data]
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: expected one label from 0 to 10 ({error})") from error
        if _kept(expression, str(path), split, dropped):
            name = path.name.removesuffix("_exp.npy") + ".jpg"
            yield Record(name, records.ImageFile(folder / "images" / name), expression)


def _read_csv(table: Path, split: str, dropped: Counts) -> Iterator[Record]:
    columns = {name: position for position, name in enumerate(_COLUMNS)}
    for line, row in records.read_csv(table):
        if line == 1 and _COLUMNS[0] in row:  # some copies have no header
            columns = {name: position for position, name in enumerate(row)}
            continue
        place = f"{table} line {line}"
        try:
            name, expression, *fields = (row[columns[name]] for name in (_COLUMNS[0], "expression", *_BOX))
        except (KeyError, IndexError) as error:
            raise DataError(f"{place}: found {row!r}, expected the columns {', '.join(_COLUMNS)}") from error
        try:
            label = int(expression)
        except ValueError as error:
            raise DataError(f"{place}: found the expression {expression!r}, expected 0 to 10") from error
        if not _kept(label, place, split, dropped):
            continue
        left, top, width, height = (_number(*field, place) for field in zip(_BOX, fields, strict=True))
        if not (all(map(math.isfinite, (left, top, width, height))) and width > 0 and height > 0):
            records.count(dropped, split, "no face box")
            continue
        name = records.listed_name(name)
        image = records.ImageCrop(table.parent / _IMAGES / name, (left, top, width, height))
        yield Record(name, image, label)


def _number(column: str, text: str, place: str) -> float:
    """A number of a face box; NaN for none: an empty field or NULL."""
    try:
        return math.nan if text.strip().lower() in ("", "null") else float(text)
    except ValueError as error:
        raise DataError(f"{place}: {column} is {text!r}, expected a number") from error


def _kept(expression: int, place: str, split: str, dropped: Counts) -> bool:
    if 0 <= expression < len(CLASS_NAMES):
        return True
    if expression not in _DROPPED:
        raise DataError(f"{place}: found the expression {expression}, expected 0 to 10")
    records.count(dropped, split, _DROPPED[expression])
    return False
