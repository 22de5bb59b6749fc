"""KDEF (Lundqvist, Flykt and Öhman, 1998): posed expressions of 70 persons, from five angles, in two sessions."""

from __future__ import annotations

import re
from pathlib import Path

from mpafer_jax.data import records
from mpafer_jax.data.reader import reader
from mpafer_jax.data.readers import posed
from mpafer_jax.data.records import SourceIndex

# Fifth and sixth letter of a name -> class, in alphabetical order.
_CLASSES = {
    "AF": "fear",
    "AN": "anger",
    "DI": "disgust",
    "HA": "happiness",
    "NE": "neutral",
    "SA": "sadness",
    "SU": "surprise",
}
CLASS_NAMES = tuple(_CLASSES.values())
_ATTRIBUTES = {
    "session": {"A": "A", "B": "B"},
    "gender": {"F": "female", "M": "male"},
    "angle": {"S": "straight", "HL": "half left", "HR": "half right", "FL": "full left", "FR": "full right"},
}
_NAME = re.compile(  # AF01ANS.JPG
    rf"(?P<session>[AB])(?P<person>(?P<gender>[FM])\d\d)(?P<expression>{'|'.join(_CLASSES)})"
    rf"(?P<angle>{'|'.join(_ATTRIBUTES['angle'])})\.jpe?g",
    re.IGNORECASE,
)
_LAYOUT = """\
  KDEF/AF01/AF01ANS.JPG ...   (session A or B, F or M and number of the person, expression, angle)"""
_SOURCE = "its owners (https://www.kdef.se, on request)"


@reader(
    "kdef",
    "KDEF: 562x762 photographs of 70 persons, 7 expressions, 5 angles, one split, train.",
    class_names=CLASS_NAMES,
    layout=_LAYOUT,
    source=_SOURCE,
)
def read(directory: Path) -> SourceIndex:
    """Lists the photographs: one split, "train", with persons for subject-independent splits; a person's two sessions
    are one person.

    Args:
      directory: holds `KDEF`, or the folders of persons, or the photographs.
    """
    places = (directory / "KDEF_and_AKDEF" / "KDEF", directory / "KDEF", directory)
    place = next(place for place in places if place.is_dir() or place == directory)
    found = posed.read(place, _NAME, _CLASSES, _ATTRIBUTES)
    if not found.splits["train"]:
        raise records.missing(place / "AF01" / "AF01ANS.JPG")
    return found
