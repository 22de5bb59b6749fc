"""Curves, and the projection of face coordinates to pixels.

Face coordinates: x to the right of the image, y down, origin midway between the eyes; the face's half width is about
0.72, the chin near y = 1, the crown near y = -1. Points are float64[n, 2].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.synthface.face import Scene

Points = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

_UNIT = 0.48  # of the image's side: one unit of face coordinates
_MIDDLE = 0.03  # y at the middle of the image
_DEPTH = 0.55  # depth of the face's middle in front of its outline


class Frame:
    """Orthographic projection of a rotated half ellipsoid: face coordinates to pixels."""

    def __init__(self, scene: Scene, side: int):
        yaw, pitch, roll = (math.radians(angle) for angle in (scene.yaw, scene.pitch, scene.roll))
        self.side = side
        self.scale = side * _UNIT * scene.scale
        self._yaw = (math.cos(yaw), math.sin(yaw))
        self._pitch = (math.cos(pitch), math.sin(pitch))
        self._turn = self.scale * np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
        self._origin = np.array([(0.5 + scene.x) * side, (0.5 + scene.y) * side]) - np.array([0, _MIDDLE * self.scale])

    def __call__(self, points: Points, lift: float | Vector = 0.0, flat: float | Vector = 0.0) -> Points:
        """Pixels, float64[n, 2], of face points, float64[n, 2].

        Args:
          lift: distance in front of the ellipsoid (of the nose), a number or float64[n].
          flat: 0: turns with the face; 1: does not (what is behind the face); a number or float64[n].
        """
        x, y = points[:, 0], points[:, 1]
        bulge = 1 - (x / 0.95) ** 2 - ((y - 0.05) / 1.4) ** 2
        turns = 1 - flat
        depth = turns * (_DEPTH * np.sqrt(np.maximum(bulge, 0.0)) + lift)
        turned = np.empty_like(points)
        turned[:, 0] = x * (flat + turns * self._yaw[0]) + depth * self._yaw[1]
        turned[:, 1] = y * (flat + turns * self._pitch[0]) + depth * self._pitch[1]
        pixels: Points = turned @ self._turn + self._origin
        return pixels


def points(*pairs: tuple[float, float]) -> Points:
    """float64[n, 2] from pairs."""
    return np.array(pairs, np.float64)


def curve(x: Vector, y: Vector) -> Points:
    """float64[n, 2] from coordinates float64[n]."""
    result = np.empty((len(x), 2))
    result[:, 0], result[:, 1] = x, y
    return result


def between(x: Vector, first: Vector, second: Vector) -> Points:
    """Outline of the area between two curves over x, float64[n] each: float64[2 n, 2]."""
    return np.concatenate([curve(x, first), curve(x, second)[::-1]])


def spline(control: Points, number: int = 0, closed: bool = False) -> Points:
    """Catmull-Rom spline through the control points, sampled at `number` points (0: about five per piece)."""
    pieces = len(control) if closed else len(control) - 1
    result: Points = _weights(len(control), number or 5 * pieces + 1, closed) @ control
    return result


@functools.lru_cache(maxsize=256)
def _weights(controls: int, number: int, closed: bool) -> npt.NDArray[np.float64]:
    pieces = controls if closed else controls - 1
    place = np.linspace(0, pieces, number, endpoint=not closed)
    first = np.minimum(place.astype(int), pieces - 1)
    t = place - first
    basis = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1)
    weights = np.zeros((number, controls))
    for offset in range(-1, 3):
        index = first + offset
        index = index % controls if closed else np.clip(index, 0, controls - 1)
        np.add.at(weights, (np.arange(number), index), basis[:, offset + 1] / 2)
    return weights


def ribbons(lines: Points, widths: Sequence[Vector]) -> list[list[float]]:
    """Outlines of strokes as (x, y, x, y, ...), along one side of the line and back along the other.

    Args:
      lines: points of all lines, one line after the other, float64[n, 2].
      widths: for each line float64[its points], n in all.
    """
    lengths = np.array([len(width) for width in widths])
    stops = np.cumsum(lengths)
    starts = stops - lengths
    place = np.arange(len(lines))
    before = np.maximum(place - 1, np.repeat(starts, lengths))
    after = np.minimum(place + 1, np.repeat(stops - 1, lengths))
    x, y = (lines[after] - lines[before]).T
    half = np.concatenate(widths) / (2 * np.sqrt(x * x + y * y) + 1e-9)
    across = curve(-y * half, x * half)
    forth, back = (side.ravel().tolist() for side in (lines + across, (lines - across)[::-1]))
    return [
        forth[2 * start : 2 * stop] + back[len(back) - 2 * stop : len(back) - 2 * start]
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]


@functools.lru_cache(maxsize=64)
def taper(number: int, start: float = 0.2, end: float = 0.2) -> Vector:
    """Relative widths of a stroke that tapers to `start` and `end`: float64[number]."""
    t = np.linspace(0, 1, number)
    arch = np.sin(np.pi * t) ** 0.7
    return np.maximum(arch, np.where(t < 0.5, start, end))


def ellipse(x: float, y: float, rx: float, ry: float, number: int = 20) -> Points:
    """Outline of an ellipse: float64[number, 2]."""
    cos, sin = _circle(number)
    return curve(cos * rx + x, sin * ry + y)


@functools.lru_cache(maxsize=16)
def _circle(number: int) -> tuple[Vector, Vector]:
    angle = np.linspace(0, 2 * np.pi, number, endpoint=False)
    return np.cos(angle), np.sin(angle)
