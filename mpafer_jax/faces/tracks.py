"""Faces followed through a video: each gets the number of its track.

From frame to frame, tracks and faces are assigned so that boxes overlap most and landmarks are nearest to where each
track's motion has taken it (constant velocity, as in SORT, arXiv:1602.00763): two people who cross keep their numbers.
What a face looks like is not compared.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mpafer_jax.faces.detect import Box, Face, overlap

Vector = npt.NDArray[np.float64]

MISSING_SECONDS = 1.5  # for which a track waits for its face, if that is missing in at least one frame
# A face is within a track's reach if its cost is at most `_REACH`, plus 1 for each second since the track's last face,
# and in all at most `_MOST_REACH`. Of a face of the same size, the cost is 1.17 half a face's size away and 2 one size
# away, where the boxes part.
_REACH, _MOST_REACH = 1.2, 2.0
_VELOCITY_SECONDS = 0.15  # over which a track's velocity is averaged


@dataclasses.dataclass(slots=True)
class _Track:
    """A face so far.

    Attributes:
      points: [7, 2], corners of the box and landmarks, where last seen.
      seconds: then.
      velocity: [2], pixels a second.
      seen: whether in the last frame.
      times: in how many frames.
    """

    number: int
    points: Vector
    seconds: float
    velocity: Vector
    seen: bool = True
    times: int = 1

    def at(self, seconds: float) -> Vector:
        return self.points + self.velocity * (seconds - self.seconds)

    def move(self, points: Vector, seconds: float) -> None:
        elapsed = seconds - self.seconds
        if elapsed > 0:
            latest = (points - self.points)[:2].mean(axis=0) / elapsed  # landmarks of half hidden faces jump
            share = 1.0 if self.times == 1 else 1.0 - np.exp(-elapsed / _VELOCITY_SECONDS)
            self.velocity = self.velocity + share * (latest - self.velocity)
        self.points, self.seconds, self.seen = points, seconds, True
        self.times += 1


class Tracker:
    """Numbers the faces of one video: call it with each frame's faces, in order.

    It keeps nothing of faces that are gone, so its size does not grow with the video's length.
    """

    def __init__(self) -> None:
        """Begins a video."""
        self._tracks: list[_Track] = []
        self._numbers = itertools.count()
        self._seconds = -np.inf

    def cut(self) -> None:
        """Ends all tracks: the next frame is of another shot, where its faces are says nothing of who they are."""
        self._tracks = []

    def __call__(self, faces: Sequence[Face], seconds: float) -> list[int]:
        """The track of each face of the next frame.

        Args:
          faces: of the frame, in any order.
          seconds: its time stamp; one before the last frame's counts as that.

        Returns:
          A different number for each face, from 0 in order of first appearance.
        """
        seconds = self._seconds = max(self._seconds, seconds)
        self._tracks = [track for track in self._tracks if track.seen or seconds - track.seconds <= MISSING_SECONDS]
        points = [_points(face) for face in faces]
        assigned = self._assigned(points, seconds)
        for track in self._tracks:
            track.seen = False
        for position, place in enumerate(points):
            track = assigned.get(position)
            if track is None:
                track = assigned[position] = _Track(next(self._numbers), place, seconds, np.zeros(2))
                self._tracks.append(track)
            else:
                track.move(place, seconds)
        return [assigned[position].number for position in range(len(faces))]

    def _assigned(self, points: list[Vector], seconds: float) -> dict[int, _Track]:
        """Tracks of the faces that go on one, by position."""
        missing = np.array([[seconds - track.seconds] for track in self._tracks])
        costs = np.array([[_cost(track.at(seconds), place) for place in points] for track in self._tracks])
        if not costs.size:
            return {}
        from scipy import optimize  # here, since only videos need it

        allowed = costs <= np.minimum(_REACH + missing, _MOST_REACH)
        # Where tracks compete for a face, the one that was seen last is the likelier. A pair out of reach costs more
        # than all others together, so that it is taken only where nothing else is left.
        weighed = np.where(allowed, costs + missing, 1e6)
        chosen: list[list[int]] = np.stack(cast(Any, optimize).linear_sum_assignment(weighed), axis=1).tolist()
        return {face: self._tracks[track] for track, face in chosen if allowed[track, face]}


def _points(face: Face) -> Vector:
    corners = [(face.left, face.top), (face.left + face.width, face.top + face.height)]
    return np.array([*corners, *face.landmarks], np.float64)


def _cost(expected: Vector, face: Vector) -> float:
    """1 - intersection over union of the boxes, plus the landmarks' mean distance in sizes of the smaller one."""
    boxes = _box(expected), _box(face)
    size = min(width * height for _, _, width, height in boxes) ** 0.5
    distance = float(np.linalg.norm(expected[2:] - face[2:], axis=1).mean())
    return 1 - overlap(*boxes) + distance / size


def _box(points: Vector) -> Box:
    (left, top), (width, height) = points[0].tolist(), np.maximum(1e-6, points[1] - points[0]).tolist()
    return left, top, width, height
