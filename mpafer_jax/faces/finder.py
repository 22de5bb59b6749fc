"""From an image to the crops of its faces."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from PIL import Image

from mpafer_jax.faces import alignment
from mpafer_jax.faces.detect import YUNET, Detector, Face

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
        *,
        which: Which | int = "largest",
        margin: float = 0.0,
        align: bool = True,
        model: str | os.PathLike[str] = YUNET,
    ) -> None:
        """Loads the detector.

        Args:
          which: the largest face only, all faces from left to right, or so many of the largest.
          margin: see `alignment.align`.
          align: whether faces are turned upright.
          model: see `Detector`.

        Raises:
          ModuleNotFoundError, InputError: see `Detector`.
          ValueError: see `alignment.check_margin`.
        """
        self._margin = alignment.check_margin(margin)
        self._most = {"largest": 1, "all": None}[which] if isinstance(which, str) else which
        self._align = align
        self._detector = Detector(model)

    def __call__(self, image: Image.Image) -> list[FaceCrop]:
        """Crops of the faces of an upright RGB image, in its own resolution; empty if it has none."""
        return [FaceCrop(face, self.crop(image, face)) for face in self.find(image)]

    def find(self, image: Image.Image) -> list[Face]:
        """The faces of an upright RGB image."""
        return self._detector(image, self._most)

    def crop(self, image: Image.Image, face: Face) -> Image.Image:
        """The crop of one face."""
        return alignment.align(image, face.landmarks, None, self._margin, upright=self._align)
