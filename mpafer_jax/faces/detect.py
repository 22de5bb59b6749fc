"""Face detection with YuNet (Wu, Peng and Yu, 2023), run by OpenCV: boxes and five landmarks.

The network is package data (yunet/, with its licence): nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mpafer_jax.faces import alignment
from mpafer_jax.faces.alignment import Points
from mpafer_jax.runtime.errors import InputError

YUNET = Path(__file__).parent / "yunet" / "face_detection_yunet_2023mar.onnx"
_YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"  # as OpenCV's model zoo has it

_LEAST_SCORE = 0.6
_SAME_FACE = 0.3  # intersection over union above which two boxes are one face
_MOST_BOXES = 5000  # before those of one face are merged
# Longest sides, in pixels, at which the network sees an image. It knows faces of 10 to 300 pixels: small ones are found
# in the large image, large ones in the small image.
_SMALL, _LARGE = 320, 1280
# Where those show no face, it is looked for harder, in an image of at most so many pixels: factors by which that is
# enlarged, degrees by which it is turned clockwise, and the border, as a fraction of the side, that is put around it (a
# face may fill the image).
_MIDDLE = 640
_HARDER = (
    *((1.5, 0, 0.0), (1.0, 0, 0.25)),
    *((1.0, -30, 0.0), (1.0, 30, 0.0), (1.0, -90, 0.0), (1.0, 90, 0.0), (1.0, 180, 0.0)),
)
_GREY = (128, 128, 128)  # beyond the image
_LEAST_SIDE = 64  # pixels; narrower images are made so wide
# Landmarks are exact on upright faces of a size that the network knows, so each face is looked at again in its aligned
# crop, and once more if it is tilted: on photographs, tilts that were off by up to 28 degrees are right within 3.
_CROP, _CROP_MARGIN, _LOOKS, _LEVEL = 320, 0.25, 2, 5.0
_SAME_PLACE = 0.2  # of the crop's side; farther from where it was, a face is the neighbour's
_SURELY_UPRIGHT = 0.88  # score from which the crop's other three orientations are not tried

_LOG_LEVEL = threading.Lock()  # OpenCV's is one for all threads

Rows = npt.NDArray[np.float64]  # [n, 15]: left, top, width, height, five landmarks as x, y, score
_ROW = 15


Box = tuple[float, float, float, float]  # left, top, width, height


@dataclasses.dataclass(frozen=True, slots=True)
class Face:
    """A detected face, in pixels of the upright image.

    Attributes:
      left, top, width, height: the detector's box.
      landmarks: x, y of left eye, right eye, tip of the nose, left and right corner of the mouth; left and right as on
        the face held upright.
      score: the detector's confidence, 0 to 1.
    """

    left: int
    top: int
    width: int
    height: int
    landmarks: tuple[tuple[float, float], ...]
    score: float

    @property
    def box(self) -> Box:
        """left, top, width, height."""
        return self.left, self.top, self.width, self.height

    @property
    def tilt(self) -> float:
        """In-plane rotation in degrees, -180 to 180, from all landmarks; positive if the eye on the right is lower."""
        return alignment.tilt(self.landmarks)

    def to_dict(self) -> dict[str, Any]:
        """Its attributes and its tilt, ready for JSON."""
        return {**dataclasses.asdict(self), "landmarks": [list(p) for p in self.landmarks], "tilt": round(self.tilt, 1)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Face:
        """The face that `to_dict` was called of."""
        given: dict[str, Any] = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        given["landmarks"] = tuple((x, y) for x, y in values["landmarks"])
        return cls(**given)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two rectangles, at least one of them not empty."""
    across = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return across * down / (a[2] * a[3] + b[2] * b[3] - across * down)


class Detector:
    """Finds all faces of an image. Thread-safe."""

    def __init__(self, model: str | os.PathLike[str] = YUNET) -> None:
        """Loads the network.

        Args:
          model: an ONNX file of YuNet, any version that the installed OpenCV runs.

        Raises:
          InputError: the file cannot be read, or is no such network.
        """
        try:
            content = Path(model).read_bytes()
        except OSError as error:
            raise InputError(
                f"the face detector {model} cannot be read ({error.strerror}); expected an ONNX file of YuNet"
            ) from error
        if Path(model) == YUNET and hashlib.sha256(content).hexdigest() != _YUNET_SHA256:
            raise InputError(f"{YUNET} is damaged; install the package again")
        self._network = np.frombuffer(content, np.uint8)
        self._networks = threading.local()  # one holds the image that it works on
        try:
            self._see(np.zeros((_SMALL, _SMALL, 3), np.uint8))
        except cv2.error as error:
            raise InputError(f"OpenCV {cv2.__version__} cannot run {model} as YuNet: {str(error).strip()}") from error

    def __call__(self, image: Image.Image, most: int | None = None) -> list[Face]:
        """The faces of an upright RGB image, from left to right; the `most` largest of them, None for all."""
        longest = max(image.size)
        sizes = {_SMALL, min(longest, _LARGE)} if longest > _SMALL else {_SMALL}
        reduced = image if longest <= _LARGE else _to_longest(image, _LARGE)
        rows = self._merged(self._look(reduced, size) for size in sizes)
        if not len(rows):
            side = max(_SMALL, min(longest, _MIDDLE))
            rows = self._merged(self._look(reduced, round(factor * side), *how) for factor, *how in _HARDER)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        # Chosen before landmarks are found again, which takes longest where faces are many.
        largest = np.argsort(-rows[:, 2] * rows[:, 3], kind="stable")[:most]
        rows[:, : _ROW - 1] *= longest / max(reduced.size)
        return [self._face(image, row) for row in rows[np.sort(largest)]]

    def _see(self, pixels: npt.NDArray[np.uint8]) -> Rows:
        """What the network finds in an image, RGB."""
        if not hasattr(self._networks, "network"):
            self._networks.network = self._load()
        network = self._networks.network
        height, width = pixels.shape[:2]
        if min(height, width) < _LEAST_SIDE:
            # Of images of 2 to 32 rows OpenCV 4.14 reports faces of 1e34 pixels with a score of 1.
            below, right = max(0, _LEAST_SIDE - height), max(0, _LEAST_SIDE - width)
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), constant_values=_GREY[0])
        network.setInputSize(pixels.shape[1::-1])
        _, rows = network.detect(np.ascontiguousarray(pixels[..., ::-1]))  # OpenCV's order is BGR
        return np.zeros((0, _ROW)) if rows is None else rows.astype(np.float64)

    def _load(self) -> Any:
        log: Any = cv2.utils.logging
        with _LOG_LEVEL:
            level = log.getLogLevel()
            log.setLogLevel(log.LOG_LEVEL_ERROR)  # OpenCV 5 warns that it ignores a target, which is the default
            try:
                return cv2.FaceDetectorYN.create(
                    *("onnx", self._network, np.empty(0, np.uint8), (_SMALL, _SMALL)),
                    *(_LEAST_SCORE, _SAME_FACE, _MOST_BOXES),
                )
            finally:
                log.setLogLevel(level)

    def _look(self, image: Image.Image, longest: int, degrees: float = 0, border: float = 0.0) -> Rows:
        """What it finds in an image that is resized, turned and put into a border; in pixels of the image."""
        resized = _to_longest(image, longest)
        turned = resized.rotate(-degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=_GREY)
        turned = ImageOps.expand(turned, round(border * longest), _GREY)
        rows = self._see(np.asarray(turned))
        angle = np.deg2rad(degrees)
        back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        scale = np.array(image.size) / resized.size

        def place(points: Points) -> Points:
            return ((points - np.array(turned.size) / 2) @ back.T + np.array(resized.size) / 2) * scale

        # Around the turned ellipse in the box: faces are about as round, and the turned box's corners lie beyond them.
        size = np.sqrt(rows[:, 2:4] ** 2 @ (back**2).T) * scale.mean()
        rows[:, :2] = place(rows[:, :2] + rows[:, 2:4] / 2) - size / 2
        rows[:, 2:4] = size
        rows[:, 4 : _ROW - 1] = place(rows[:, 4 : _ROW - 1].reshape(-1, 2)).reshape(-1, _ROW - 5)
        return rows

    def _merged(self, looks: Iterable[Rows]) -> Rows:
        """The best of each face's detections."""
        rows = np.concatenate(list(looks))
        best = cv2.dnn.NMSBoxes(rows[:, :4].tolist(), rows[:, -1].tolist(), 0.0, _SAME_FACE)
        return rows[np.asarray(best, np.int64).ravel()]

    def _face(self, image: Image.Image, row: Rows) -> Face:
        landmarks = self._refined(image, row[4 : _ROW - 1].reshape(5, 2), row[:2] + row[2:4] / 2)
        left, top, width, height = np.round(row[:4]).astype(int).tolist()
        points = tuple((float(x), float(y)) for x, y in np.round(landmarks, 2))
        return Face(left, top, width, height, points, round(float(row[-1]), 4))

    def _refined(self, image: Image.Image, landmarks: Points, center: Points) -> Points:
        """Landmarks found again in the aligned crop, the best of its orientations; the same ones if none are.

        Args:
          center: [2], the middle of the face's box.
        """
        for look in range(_LOOKS):
            score, best = self._again(image, landmarks, center)
            if not look and score < _SURELY_UPRIGHT:
                # Upside down or on its side, a face is found with the landmarks of an upright one.
                turned = [self._again(image, _quarter_turns(landmarks, turns), center) for turns in (1, 2, 3)]
                score, best = max([(score, best), *turned], key=operator.itemgetter(0))
            if not score:
                break
            landmarks = best
            if abs(alignment.tilt(landmarks)) < _LEVEL:
                break
        return landmarks

    def _again(self, image: Image.Image, landmarks: Points, center: Points) -> tuple[float, Points]:
        """Score and landmarks of the same face in the aligned crop; the score is 0 if it is not found there."""
        crop = alignment.align(image, landmarks, _CROP, _CROP_MARGIN, resample=Image.Resampling.BILINEAR)
        rows = self._see(np.asarray(crop))
        matrix, _ = alignment.placement(landmarks, _CROP, _CROP_MARGIN)
        away = np.linalg.norm(rows[:, :2] + rows[:, 2:4] / 2 - alignment.apply(matrix, [center]), axis=1)
        rows = rows[away < _SAME_PLACE * _CROP]
        if not len(rows):
            return 0.0, landmarks
        best = rows[np.argmax(rows[:, -1])]
        return float(best[-1]), alignment.apply(alignment.inverse(matrix), best[4 : _ROW - 1].reshape(5, 2))


def _to_longest(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def _quarter_turns(points: Points, turns: int) -> Points:
    """Points turned about their mean by a number of right angles."""
    center = points.mean(axis=0)
    return (points - center) @ np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), turns) + center
