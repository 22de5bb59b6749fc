"""What the results of a video share over time: tracks of faces, smoothed probabilities."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mpafer_jax.faces.detect import Face
from mpafer_jax.faces.tracks import Tracker
from mpafer_jax.inference.results import UNCERTAIN, Prediction, Result, Source

Row = TypeVar("Row")
Values = dict[str, Any]  # a result's `to_dict`
_ROUNDING = 1e-6  # seconds; time stamps are decimal fractions


class VideoTracks:
    """Tracks of the faces of any number of videos, one after the other; each begins with track 0.

    A hard cut ends all tracks of its video.
    """

    def __init__(self) -> None:
        self._last: tuple[str, int, int | None] = ("", 0, None)  # file, frame and shot
        self._tracker = Tracker()

    def __call__(self, source: Source, faces: Sequence[Face]) -> Sequence[int | None]:
        """The track of each face of the next image: None for images that are no frames of a video."""
        if source.frame is None or source.seconds is None:
            return [None] * len(faces)
        (file, frame, shot), self._last = self._last, (source.to_dict()["file"], source.frame, source.shot)
        if file != self._last[0] or source.frame <= frame:
            self._tracker = Tracker()
        elif shot != source.shot:
            self._tracker.cut()
        return self._tracker(faces, source.seconds)

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the results of an earlier start, as `to_dict` gave them, as if they had come here."""
        source, faces = None, list[Face]()
        for row in rows:
            if row["status"] == "error":
                continue
            if source is None or source.index != row["index"]:
                if source is not None:
                    self(source, faces)
                source = Source(row["file"], row["index"], row["frame"], row["seconds"], row.get("shot"))
                faces = []
            if row.get("face"):
                faces.append(Face.from_dict(row["face"]))
        if source is not None:
            self(source, faces)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """What smoothing reads of a result of a video; `probabilities` is [C], None without a prediction."""

    file: str
    frame: int
    seconds: float
    shot: int | None
    track: int | None
    probabilities: npt.NDArray[Any] | None


def smooth_rows(
    rows: Iterable[Values], seconds: float, *, min_confidence: float = 0.0, ahead: bool = True
) -> Generator[Values]:
    """Adds smooth_expression, smooth_confidence and smooth_probabilities to the predictions of videos.

    The smooth confidence then decides their status.

    The smooth probabilities of a face are the mean of the probabilities of its track (without detection, of the whole
    image) in the same shot, at time stamps at most `seconds` / 2 before and after. Memory is bounded by the window.

    Args:
      rows: `to_dict` of results, in order.
      seconds: the window; 0 for no change.
      min_confidence: the lowest smooth confidence of a certain prediction.
      ahead: whether later results count; if not, each row is yielded before the next is taken.
    """

    def sample(row: Values) -> _Sample | None:
        if row["frame"] is None or row["seconds"] is None:
            return None
        given = row.get("probabilities")
        probabilities = None if given is None else np.array(list(given.values()))
        return _Sample(row["file"], row["frame"], row["seconds"], row.get("shot"), row.get("track"), probabilities)

    for row, mean in _with_means(rows, sample, seconds, ahead):
        if mean is None:
            yield row
            continue
        smooth = dict(zip(row["probabilities"], mean.tolist(), strict=True))
        best = max(smooth, key=lambda name: smooth[name])
        yield row | {
            "status": "ok" if smooth[best] >= min_confidence else UNCERTAIN,
            "smooth_expression": best,
            "smooth_confidence": smooth[best],
            "smooth_probabilities": smooth,
        }


def smooth_results(results: Iterable[Result], seconds: float, *, ahead: bool = True) -> Generator[Result]:
    """`smooth_rows` of results: sets `smooth_probabilities`."""

    def sample(result: Result) -> _Sample | None:
        source = result.source
        if source.frame is None or source.seconds is None:
            return None
        of = (result.track, result.probabilities) if isinstance(result, Prediction) else (None, None)
        return _Sample(source.file, source.frame, source.seconds, source.shot, *of)

    for result, mean in _with_means(results, sample, seconds, ahead):
        if isinstance(result, Prediction) and mean is not None:
            yield dataclasses.replace(result, smooth_probabilities=mean.astype(np.float32))
        else:
            yield result


def _with_means(
    rows: Iterable[Row], sample_of: Callable[[Row], _Sample | None], seconds: float, ahead: bool
) -> Generator[tuple[Row, npt.NDArray[np.float64] | None]]:
    """Each row, in order, with the mean of its window; None for rows that have none."""
    half = seconds / 2 + _ROUNDING
    waiting: collections.deque[tuple[Row, _Sample | None]] = collections.deque()
    near: collections.deque[_Sample] = collections.deque()  # of the video

    def take() -> tuple[Row, npt.NDArray[np.float64] | None]:
        row, sample = waiting.popleft()
        if not seconds or sample is None or sample.probabilities is None:
            return row, None
        while near[0].seconds < sample.seconds - half:
            near.popleft()
        same: list[Any] = [
            other.probabilities
            for other in near
            if (other.shot, other.track) == (sample.shot, sample.track) and abs(other.seconds - sample.seconds) <= half
        ]
        return row, np.stack(same).mean(axis=0, dtype=np.float64)

    latest: _Sample | None = None
    for row in rows:
        sample = sample_of(row)
        same_video = latest and sample and sample.file == latest.file and sample.frame >= latest.frame
        if not same_video:
            while waiting:
                yield take()
            near.clear()
        latest = sample
        waiting.append((row, sample))
        if sample is not None and sample.probabilities is not None:
            near.append(sample)
        while waiting and (sample is None or not ahead or not seconds or _is_past(waiting[0][1], sample, half)):
            yield take()
    while waiting:
        yield take()


def _is_past(first: _Sample | None, latest: _Sample, half: float) -> bool:
    return first is None or first.seconds < latest.seconds - half
