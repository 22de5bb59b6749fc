"""ExpW (Zhang et al., IJCV 2018): faces in photographs from web searches, each with a box of a face detector."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Counts, ImageCrop, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError

CLASS_NAMES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # labels 0 to 6
_LISTS = ("label.lst", "label/label.lst")
_IMAGES = ("origin", "image/origin", "images")
_COLUMNS = "image face_id top left right bottom confidence label"
_LAYOUT = f"""\
  label.lst      lines "{_COLUMNS}"   (or label/label.lst)
  origin/*.jpg   the whole photographs   (or image/origin/)"""
_SOURCE = "its owners (http://mmlab.ie.cuhk.edu.hk/projects/socialrelation/index.html)"


@reader(
    "expw",
    "ExpW: faces cropped from web photographs by their boxes, 7 expressions, one split, train.",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Reads the list of faces: one split, "train", in the list's order; faces are cropped by their boxes.

    A face is named by its photograph and number, "angry_actor_104.jpg#0"; the detector's confidence is an attribute.
    """
    listed = next((directory / name for name in _LISTS if (directory / name).is_file()), None)
    images = next((directory / name for name in _IMAGES if (directory / name).is_dir()), None)
    if listed is None or images is None:
        raise records.missing(directory / (_LISTS[0] if listed is None else _IMAGES[0]))
    train: dict[str, Record] = {}
    dropped: Counts = {}
    for place, face in _faces(listed, images, dropped):
        if face.name in train:
            raise DataError(f"{place}: the face {face.name} is listed twice; keep one line")
        train[face.name] = face
    return SourceIndex(
        class_names=CLASS_NAMES,
        splits={"train": list(train.values())},
        dropped=dropped,
        absent={"train": f"lines {_COLUMNS!r} in {listed}"},
    )


def _faces(listed: Path, images: Path, dropped: Counts) -> Iterator[tuple[str, Record]]:
    for place, line in records.lines(listed):
        try:
            # From the right, since names of photographs may hold spaces.
            name, face, *box, confidence, label = line.rsplit(maxsplit=7)
            top, left, right, bottom = map(float, box)
            label = range(len(CLASS_NAMES)).index(int(label))
            confidence = f"{float(confidence):g}"
        except ValueError as error:
            raise DataError(
                f"{place}: found {line!r}, expected {_COLUMNS!r} with a label from 0 to {len(CLASS_NAMES) - 1}"
            ) from error
        if not all(map(math.isfinite, (top, left, right, bottom))) or left >= right or top >= bottom:
            records.count(dropped, "train", "empty face box")
            continue
        image = ImageCrop(images / name, (left, top, right - left, bottom - top))
        yield place, Record(f"{name}#{face}", image, label, attributes={"confidence": confidence})
