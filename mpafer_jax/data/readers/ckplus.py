"""CK+ (Lucey et al., 2010): sequences of 123 persons from a neutral face to the peak of an expression.

Three forms are read:

* The release: `cohn-kanade-images` and `Emotion`. The last frame of a labelled sequence has its label, the first one is
  neutral. Faces are cropped by the landmarks, if those exist.
* `CK+48`: class folders of 48x48 images, the last three frames of every labelled sequence, no neutral.
* `ckextended.csv`: 48x48 pixels, the peaks, and a neutral face of all 593 sequences. Without person ids, and its column
  Usage splits persons, so use it only for evaluation on all images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import pixel_csv
from mpafer_jax.data.records import Counts, ImageSource, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")  # labels 0 to 7
_CSV_NAMES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt")  # of the csv
_FOLDERS = {
    "anger": "anger",
    "contempt": "contempt",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sadness": "sadness",
    "surprise": "surprise",
}
_SEQUENCES, _LABELS, _LANDMARKS = "cohn-kanade-images", ("Emotion", "Emotion_labels"), "Landmarks"
_CSV, _CK48 = "ckextended.csv", "CK+48"
_FRAME = re.compile(r"(?P<person>S\d{3})_(?P<sequence>\d{3})_\d{8}")  # S005_001_00000011
# Factor on the square around the 68 landmarks (brows to chin), to include the forehead. [ours]
_ENLARGED = 1.35
_LAYOUT = """\
  cohn-kanade-images/S005/001/S005_001_00000011.png ...
  Emotion/S005/001/S005_001_00000011_emotion.txt ...
  Landmarks/S005/001/S005_001_00000011_landmarks.txt ...   (to cut out the faces)
or CK+48/anger/S010_004_00000017.png ..., or ckextended.csv"""
_SOURCE = "its owners (http://www.jeffcohn.net/Resources/, on request)"


@reader(
    "ckplus",
    "CK+: posed expressions at their peak, 7 expressions and neutral, one split, train.",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Reads the form of CK+ in `directory`: one split, "train", with persons for subject-independent splits.

    Args:
      directory: holds `cohn-kanade-images` and `Emotion`, or `CK+48` (or its class folders), or `ckextended.csv`;
        DataError for several of them.
    """
    copied = directory / _CK48 if (directory / _CK48).is_dir() else directory
    forms = {
        _SEQUENCES: (directory / _SEQUENCES).is_dir(),
        f"{_CK48}/anger": (copied / "anger").is_dir(),
        _CSV: (directory / _CSV).is_file(),
    }
    there = [name for name, is_there in forms.items() if is_there]
    if not there:
        raise records.missing(directory / _SEQUENCES)
    if len(there) > 1:
        raise DataError(f"{directory} holds {' and '.join(there)}, which are one dataset; keep one of them")
    dropped: Counts = {}
    warnings: tuple[str, ...] = ()
    sources = tuple(str(number) for number in range(len(CLASS_NAMES)))
    if there == [_SEQUENCES]:
        train, warnings = _read_sequences(directory, dropped)
    elif there == [_CSV]:
        train, warnings = _read_csv(directory / _CSV), (_without_persons(directory / _CSV),)
        sources = tuple(str(_CSV_NAMES.index(name)) for name in CLASS_NAMES)
    else:
        train = list(_read_folders(copied, dropped))
        sources = ("no folder", *_FOLDERS)
    return SourceIndex(
        class_names=CLASS_NAMES,
        source_labels=sources,
        splits={"train": train},
        dropped=dropped,
        expected_size=None if there == [_SEQUENCES] else (pixel_csv.SIDE, pixel_csv.SIDE),
        warnings=warnings,
    )


def _read_sequences(directory: Path, dropped: Counts) -> tuple[list[Record], tuple[str, ...]]:
    labels = next((directory / name for name in _LABELS if (directory / name).is_dir()), None)
    files = sorted(labels.glob("S*/[!.]*/[!.]*_emotion.txt")) if labels else []
    if not files:
        raise records.missing(directory / _LABELS[0] / "S005/001/S005_001_00000011_emotion.txt")
    train: list[Record] = []
    without = 0
    for path in files:
        label = _label(path)
        name = path.name.removesuffix("_emotion.txt")
        sequence = directory / _SEQUENCES / path.parent.parent.name / path.parent.name
        frames = sorted(sequence.glob("S*.png"))
        if not frames or frames[-1].stem != name:
            last = frames[-1] if frames else "no frame"
            raise DataError(f"{path} labels the last frame of {sequence}, and there is {last}; copy the sequence again")
        person = path.parent.parent.name
        for frame, meaning in ((frames[-1], label), (frames[0], 0)):
            image, is_cut = _face(directory, frame)
            without += not is_cut
            train.append(Record(frame.name, image, meaning, person=person))
    unlabelled = sum(1 for _ in (directory / _SEQUENCES).glob("S*/[0-9]*")) - len(files)
    for _ in range(unlabelled):
        records.count(dropped, "train", "sequence without a label")
    warning = (
        f"{without} of {len(train)} frames have no file in {directory / _LANDMARKS}, so they stay whole: upper bodies"
    )
    return train, (warning,) if without else ()


def _label(path: Path) -> int:
    text = records.read_text(path)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value not in range(1, len(CLASS_NAMES)):
        raise DataError(f"{path}: found {text[:40]!r}, expected one number from 1 to 7")
    return int(value)


def _face(directory: Path, frame: Path) -> tuple[ImageSource, bool]:
    """(face crop, True), or (whole frame, False) without landmarks."""
    relative = frame.relative_to(directory / _SEQUENCES)
    path = directory / _LANDMARKS / relative.with_name(f"{frame.stem}_landmarks.txt")
    if not path.is_file():
        return records.ImageFile(frame), False
    try:
        points = np.array([[float(number) for number in line.split()] for _, line in records.numbered_lines(path)])
    except ValueError as error:
        raise DataError(f"{path}: expected lines of two numbers, x and y in pixels ({error})") from error
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError(f"{path}: expected lines of two numbers, x and y in pixels, found the shape {points.shape}")
    low, high = points.min(axis=0), points.max(axis=0)
    side = _ENLARGED * float((high - low).max())
    left = float((low + high)[0] / 2) - side / 2
    top = float(high[1]) + 0.05 * side - side  # bottom edge just below the chin
    return records.ImageCrop(frame, (round(left), round(top), round(side), round(side))), True


def _read_folders(folder: Path, dropped: Counts) -> Iterator[Record]:
    for name, class_folder in records.class_folders(folder, tuple(_FOLDERS), "train", dropped).items():
        expression = _FOLDERS[name]
        for path in records.images_in(class_folder, "train", dropped):
            frame = _FRAME.match(path.name)
            if frame is None:
                raise DataError(f"{path}: expected a name like S010_004_00000017.png (person, sequence, frame)")
            label = CLASS_NAMES.index(expression)
            yield Record(f"{name}/{path.name}", records.ImageFile(path), label, person=frame["person"])


def _read_csv(path: Path) -> list[Record]:
    train: list[Record] = []
    for row in pixel_csv.read_rows(path):
        if row.emotion >= len(_CSV_NAMES):
            raise DataError(f"{path} line {row.line}: the emotion is {row.emotion}, expected 0 to 7")
        label = CLASS_NAMES.index(_CSV_NAMES[row.emotion])
        train.append(Record(f"line {row.line}", row.image, label))
    return train


def _without_persons(path: Path) -> str:
    return (
        f"{path} does not say who is who, so whatever is carved out of it shows persons of train too; evaluate on all "
        "of it (train_splits=(), test_split='train'), or take CK+48 or the owners' release"
    )
