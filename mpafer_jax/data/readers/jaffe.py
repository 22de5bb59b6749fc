"""JAFFE (Lyons et al., 1998): posed expressions of ten Japanese women."""

from __future__ import annotations

import re
from pathlib import Path

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.records import Counts, Record, SourceIndex
from mpafer_jax.runtime.errors import DataError

# Second field of a name -> class, in alphabetical order.
_CLASSES = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "NE": "neutral",
    "SA": "sadness",
    "SU": "surprise",
}
CLASS_NAMES = tuple(_CLASSES.values())
_NAME = re.compile(rf"(?P<person>[A-Z]{{2}})\.(?P<expression>{'|'.join(_CLASSES)})\d+\.\d+")  # KA.AN1.39
_LAYOUT = """\
  KA.AN1.39.tiff ...   (person, expression and number of the pose, number of the image; also inside jaffe/)"""
_SOURCE = "its owners (https://zenodo.org/records/3451524, on request)"


@reader(
    "jaffe",
    "JAFFE: 256x256 grey images of 10 persons, 7 expressions, one split, train.",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Lists the images: one split, "train", sorted by name, with persons for subject-independent splits.

    Args:
      directory: the folder of the images, or one with a folder `jaffe` of them.
    """
    folder = directory / "jaffe" if (directory / "jaffe").is_dir() else directory
    dropped: Counts = {}
    train: list[Record] = []
    labels = {expression: label for label, expression in enumerate(_CLASSES)}
    for path in records.images_in(folder, "train", dropped):
        name = _NAME.match(path.name)
        if name is None:
            raise DataError(f"{path}: expected a name like KA.AN1.39.tiff (person, one of {', '.join(_CLASSES)}, ...)")
        train.append(Record(path.name, records.ImageFile(path), labels[name["expression"]], person=name["person"]))
    if not train:
        raise records.missing(folder / "KA.AN1.39.tiff")
    return SourceIndex(
        class_names=CLASS_NAMES,
        source_labels=tuple(_CLASSES),
        splits={"train": train},
        dropped=dropped,
        expected_size=(256, 256),
    )
