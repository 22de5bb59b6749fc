"""What a command line names - files, folders, patterns, videos, a camera - as a lazy sequence of pictures."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mpafer_jax.data.preprocess import IMAGE_SUFFIXES
from mpafer_jax.faces import import_opencv
from mpafer_jax.prediction.inputs import Picture
from mpafer_jax.prediction.results import Failure, Source

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".mts"})
CAMERA = "camera:"
_SHORT = 0.02  # share of its frames that a video may lack; containers often only estimate their number


class InputError(ValueError):
    """Arguments that name nothing to predict on; the message lists every one of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Medium:
    """One file, or a camera.

    Attributes:
      kind: what it is taken for.
      path: the file; of a camera, its number.
    """

    kind: Literal["picture", "video", "camera"]
    path: str


def find(arguments: Sequence[str]) -> Generator[Medium]:
    """Lists what the arguments name, lazily: folders may hold any number of files.

    Args:
      arguments: files; folders, of which all pictures and videos are taken, in the order of their names, and the same
        of folders inside, through links too but none twice; patterns (`faces/**/*.jpg`); `camera:0`. A file whose name
        does not end like a video's is taken for a picture, whatever its name.

    Raises:
      InputError: lists arguments that name nothing; before anything is yielded.
    """
    if nothing := [argument for argument in arguments if next(_expand(argument), None) is None]:
        raise InputError(
            f"nothing to predict on: {', '.join(nothing)}; expected a file, a folder with pictures or videos "
            f"({' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}), a pattern in quotes, or {CAMERA}NUMBER"
        )
    return (medium for argument in arguments for medium in _expand(argument))


def _expand(argument: str) -> Iterator[Medium]:
    number = argument.removeprefix(CAMERA)
    if number != argument and number.isdecimal() and not os.path.lexists(argument):
        yield Medium("camera", number)
    elif os.path.isdir(argument):  # noqa: PTH112 - one call for what may be a pattern
        yield from _of_folder(argument)
    elif os.path.lexists(argument):
        yield _of_file(argument)
    else:
        for path in sorted(glob.iglob(argument, recursive=True)):  # noqa: PTH207 - a pattern may be absolute
            if not Path(path).is_dir():
                yield _of_file(path)
            elif "**" not in argument:  # which names what is inside as well
                yield from _of_folder(path)


def _of_folder(folder: str) -> Iterator[Medium]:
    seen: set[str] = set()  # links can lead back to where the walk has been
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                yield _of_file(str(Path(parent) / name))


def _of_file(path: str) -> Medium:
    return Medium("video" if Path(path).suffix.lower() in VIDEO_SUFFIXES else "picture", path)


def pictures(media: Iterator[Medium], *, stride: int = 1) -> Generator[Picture | Failure]:
    """Every picture, and every `stride`-th frame of every video and camera, numbered one after the other.

    Videos are decoded frame by frame, in constant time and memory per frame. What cannot be opened as a video, or ends
    early, is a `Failure` in its place.

    Raises:
      ModuleNotFoundError: there is a video or a camera, and no OpenCV.
    """
    index = itertools.count()
    for medium in media:
        if medium.kind == "picture":
            yield Picture(Source(medium.path, next(index)), Path(medium.path))
        else:
            yield from _frames(medium, stride, index)


def count(media: Iterator[Medium], *, stride: int = 1) -> int | None:
    """About how many pictures `pictures` will yield; None where a camera has no end."""
    total = 0
    for medium in media:
        if medium.kind == "camera":
            return None
        total += 1 if medium.kind == "picture" else -(-_announced(medium.path) // stride)
    return total


def _announced(path: str) -> int:
    """Frames that a video says it has; 0 where it says nothing."""
    cv2 = import_opencv()
    capture = cv2.VideoCapture(path)
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return max(0, frames)


def _frames(medium: Medium, stride: int, index: Iterator[int]) -> Generator[Picture | Failure]:
    cv2 = import_opencv()
    camera = medium.kind == "camera"
    name = f"{CAMERA}{medium.path}" if camera else medium.path
    capture: Any = cv2.VideoCapture(int(medium.path) if camera else medium.path)
    try:
        if not capture.isOpened():
            what = "there is no such camera, or it is in use" if camera else "OpenCV cannot open it as a video"
            yield Failure(Source(name, next(index)), what)
            return
        announced = 0 if camera else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        started, number = time.monotonic(), 0
        while capture.grab():
            if number % stride == 0:
                # Asked for after a frame was grabbed, the position is that frame's own.
                seconds = time.monotonic() - started if camera else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                source = Source(name, next(index), number, round(seconds, 3))
                decoded, frame = capture.retrieve()
                if decoded:
                    yield Picture(source, np.ascontiguousarray(frame[..., ::-1]))  # OpenCV's are blue, green, red
                else:
                    yield Failure(source, "this frame cannot be decoded")
            number += 1
        if number < announced * (1 - _SHORT) or (not number and not camera):
            yield Failure(Source(name, next(index)), f"it ended after {number} of {announced} frames")
    finally:
        capture.release()
