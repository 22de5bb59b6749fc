"""From an image to the crops of its faces."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from PIL import Image

from mpafer_jax.faces import alignment
from mpafer_jax.faces.detect import Box, Detector, Face, overlap

Which = Literal["largest", "all"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FaceCrop:
    """A face and its square RGB crop."""

    face: Face
    image: Image.Image


class FaceFinder:
    """Detects and crops faces. Thread-safe. Any function from an image to `FaceCrop`s can replace it."""

    def __init__(
        self,
        detector: Detector | None = None,
        *,
        which: Which | int = "largest",
        margin: float = 0.0,
        align: bool = True,
    ) -> None:
        """Loads the shipped detector if none is given.

        Args:
          detector: what finds all faces.
          which: the largest face only, all faces from left to right, or so many of the largest, from 1.
          margin: see `alignment.align`; a model knows that of its training images, `trained_on.face_margin`.
          align: whether faces are turned upright.

        Raises:
          ValueError: another `which`; or see `alignment.check_margin`.
        """
        self._margin = alignment.check_margin(margin)
        self._most = {"largest": 1, "all": None}.get(which, 0) if isinstance(which, str) else which
        if self._most is not None and self._most < 1:
            raise ValueError(f"which is {which!r}, expected 'largest', 'all', or a number of faces from 1")
        self._align = align
        self._detector = detector or Detector()

    def __call__(self, image: Image.Image) -> list[FaceCrop]:
        """Crops of the faces of an upright RGB image, in its own resolution; empty if it has none."""
        return [FaceCrop(face, self.crop(image, face)) for face in self.find(image)]

    def find(self, image: Image.Image) -> list[Face]:
        """The faces of an upright RGB image."""
        return self._detector(image, self._most)

    def crop(self, image: Image.Image, face: Face) -> Image.Image:
        """The crop of one face."""
        return alignment.align(image, face.landmarks, None, self._margin, upright=self._align)


def overlapping(faces: Sequence[Face], box: Box, *, covers_center: bool) -> tuple[int, float] | None:
    """The face whose box overlaps most with a rectangle.

    Args:
      faces: of an image.
      box: left, top, width, height in its pixels.
      covers_center: whether faces that do not cover the rectangle's center are left out.

    Returns:
      Position in `faces`, and intersection over union; None if no face is left.
    """
    left, top, width, height = box
    x, y = left + width / 2, top + height / 2
    best: tuple[int, float] | None = None
    for position, face in enumerate(faces):
        covers = face.left <= x <= face.left + face.width and face.top <= y <= face.top + face.height
        if covers_center and not covers:
            continue
        common = overlap(face.box, box)
        if best is None or common > best[1]:
            best = position, common
    return best
