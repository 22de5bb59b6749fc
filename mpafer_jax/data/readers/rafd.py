"""RaFD (Langner et al., 2010): posed expressions of 67 persons, from five angles, with three directions of gaze."""

from __future__ import annotations

import re
from pathlib import Path

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import posed
from mpafer_jax.data.records import SourceIndex

# Fifth part of a name -> class, in alphabetical order.
_CLASSES = {
    "angry": "anger",
    "contemptuous": "contempt",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "sad": "sadness",
    "surprised": "surprise",
}
CLASS_NAMES = tuple(_CLASSES.values())
_NAME = re.compile(  # Rafd090_01_Caucasian_female_angry_frontal.jpg
    rf"Rafd(?P<angle>\d{{3}})_(?P<person>\d+)_(?P<population>[^_]+)_(?P<gender>female|male)_"
    rf"(?P<expression>{'|'.join(_CLASSES)})_(?P<gaze>frontal|left|right)\.jpe?g",
    re.IGNORECASE,
)
_LAYOUT = """\
  Rafd090_01_Caucasian_female_angry_frontal.jpg ...   (angle, person, population, gender, expression, gaze)"""
_SOURCE = "its owners (https://rafd.socsci.ru.nl, on request)"


@reader(
    "rafd",
    "RaFD: 681x1024 photographs of 67 persons, 8 expressions, 5 angles, 3 directions of gaze, one split, train.",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Lists the photographs in `directory`, at any depth: one split, "train", with persons for subject-independent
    splits."""
    found = posed.read(directory, _NAME, _CLASSES, dict.fromkeys(("angle", "population", "gender", "gaze")))
    if not found.splits["train"]:
        raise records.missing(directory / "Rafd090_01_Caucasian_female_angry_frontal.jpg")
    return found
