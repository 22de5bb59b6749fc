"""Face detection with OpenCV's cascades (Viola and Jones, 2001), alignment by the eyes, and cropping.

Needs the extra `faces`. The cascades ship with OpenCV, need no network, and find frontal human faces only. Any function
from an image to `FaceCrop`s can replace `FaceFinder`.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import threading
from typing import Any, Literal

import numpy as np
from PIL import Image

Which = Literal["largest", "all"]
_LONGEST_SIDE = 800  # pixels; larger images are reduced for detection, which loses only tiny faces
_SMALLEST_FACE = 1 / 16  # of the reduced image's shorter side
_SCALE_STEP = 1.1  # between detection scales
_NEIGHBORS = 5  # detections that must agree on a face
_MOST_TILT = 30.0  # degrees; a pair of "eyes" with more tilt is rejected
_EYES_ABOVE = 0.6  # of the face's height, from the top


@dataclasses.dataclass(frozen=True, slots=True)
class Face:
    """A detected face's box, in pixels of the upright image.

    Attributes:
      tilt: in-plane rotation in degrees, positive if the eye on the image's right is lower; None if no two eyes were
        found.
    """

    left: int
    top: int
    width: int
    height: int
    tilt: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its attributes, ready for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FaceCrop:
    """A face and its square RGB crop."""

    face: Face
    image: Image.Image


def import_opencv() -> Any:
    """Imports OpenCV.

    Raises:
      ModuleNotFoundError: it is not installed, or is version 5, which has no cascades; names the extra to install.
    """
    hint = "install it with: pip install -e '.[faces]'"
    try:
        cv2 = importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"faces and videos need OpenCV; {hint}") from error
    if not hasattr(cv2, "CascadeClassifier"):
        raise ModuleNotFoundError(f"OpenCV {cv2.__version__} has no cascades, versions 4.10 to 4.x have; {hint}")
    return cv2


def check_margin(margin: float) -> float:
    """Returns a valid margin, a fraction of the face's side.

    Raises:
      ValueError: it is not in (-0.5, 4].
    """
    if not -0.5 < margin <= 4:
        raise ValueError(f"a margin is a fraction of the face's side, above -0.5 and at most 4, found {margin}")
    return margin


class FaceFinder:
    """Detects and crops faces with OpenCV's frontal cascade. Thread-safe."""

    def __init__(self, *, which: Which = "largest", margin: float = 0.2, align: bool = True) -> None:
        """Loads the cascades.

        Args:
          which: the largest face only, or all faces from left to right.
          margin: added on each side of the detector's box, as a fraction of its side.
          align: whether faces are rotated so that the eyes, if two are found, are level.

        Raises:
          ModuleNotFoundError: see `import_opencv`.
          ValueError: see `check_margin`.
        """
        check_margin(margin)
        self._cv2 = import_opencv()
        self._which, self._margin, self._align = which, margin, align
        self._cascades = threading.local()  # a cascade keeps the image it works on
        for name in ("frontalface_default", "eye"):  # damaged files raise here, not in a thread
            self._cascade(name)

    def __call__(self, image: Image.Image) -> list[FaceCrop]:
        """Crops of the faces of an upright RGB image; empty if it has none."""
        return [FaceCrop(face, crop(image, face, self._margin)) for face in self.find(image)]

    def find(self, image: Image.Image) -> list[Face]:
        """Boxes of the faces of an upright RGB image."""
        scale = min(1.0, _LONGEST_SIDE / max(image.size))
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        grey = np.asarray(image.convert("L").resize(small, Image.Resampling.BILINEAR))
        smallest = max(20, round(min(small) * _SMALLEST_FACE))
        # Equalization finds faces in images of low contrast, but loses some in evenly lit ones.
        boxes = self._boxes(grey, smallest) or self._boxes(self._cv2.equalizeHist(grey), smallest)
        if self._which == "largest":
            boxes = sorted(boxes, key=lambda box: box[2] * box[3])[-1:]
        faces: list[Face] = []
        for left, top, width, height in sorted(boxes):
            tilt = self._tilt(grey[top : top + height, left : left + width]) if self._align else None
            faces.append(
                Face(round(left / scale), round(top / scale), round(width / scale), round(height / scale), tilt)
            )
        return faces

    def _boxes(self, grey: np.ndarray[Any, Any], smallest: int) -> list[tuple[int, ...]]:
        """(left, top, width, height) of faces at least `smallest` pixels wide."""
        boxes = self._cascade("frontalface_default").detectMultiScale(
            grey, _SCALE_STEP, _NEIGHBORS, minSize=(smallest, smallest)
        )
        return [tuple(int(value) for value in box) for box in boxes]

    def _tilt(self, grey: np.ndarray[Any, Any]) -> float | None:
        """Tilt of the line through the eyes in degrees, see `Face`; None without two eyes."""
        height, width = grey.shape
        upper = np.ascontiguousarray(grey[: round(_EYES_ABOVE * height)])
        eyes = self._cascade("eye").detectMultiScale(upper, _SCALE_STEP, _NEIGHBORS)
        centers = [(float(x + w / 2), float(y + h / 2), int(w)) for x, y, w, h in eyes]
        left = [eye for eye in centers if eye[0] < width / 2]
        right = [eye for eye in centers if eye[0] >= width / 2]
        if not left or not right:
            return None
        (x0, y0, _), (x1, y1, _) = (max(side, key=lambda eye: eye[2]) for side in (left, right))
        tilt = math.degrees(math.atan2(y1 - y0, x1 - x0))
        return tilt if x1 - x0 > width / 5 and abs(tilt) <= _MOST_TILT else None

    def _cascade(self, name: str) -> Any:
        if not hasattr(self._cascades, name):
            path = f"{self._cv2.data.haarcascades}haarcascade_{name}.xml"
            cascade = self._cv2.CascadeClassifier(path)
            if cascade.empty():
                raise FileNotFoundError(f"{path} is missing or damaged; install OpenCV again")
            setattr(self._cascades, name, cascade)
        return getattr(self._cascades, name)


def crop(image: Image.Image, face: Face, margin: float) -> Image.Image:
    """The square around a face, rotated upright about its centre; black beyond the image.

    Args:
      image: RGB, upright.
      face: the box and tilt.
      margin: added on each side, as a fraction of the box's longer side.
    """
    side = max(1, round(max(face.width, face.height) * (1 + 2 * margin)))
    center_x, center_y = face.left + face.width / 2, face.top + face.height / 2
    if not face.tilt:
        left, top = round(center_x - side / 2), round(center_y - side / 2)
        return image.crop((left, top, left + side, top + side))
    # Pillow wants the map from output pixels to input pixels.
    cos, sin = math.cos(math.radians(face.tilt)), math.sin(math.radians(face.tilt))
    half = side / 2
    matrix = (cos, -sin, center_x - cos * half + sin * half, sin, cos, center_y - sin * half - cos * half)
    return image.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
