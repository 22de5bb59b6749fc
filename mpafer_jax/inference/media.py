"""Command-line inputs (files, folders, glob patterns, videos, a camera) as a lazy sequence of images."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import glob
import itertools
import os
import tempfile
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from mpafer_jax.data import preprocess
from mpafer_jax.data.preprocess import IMAGE_SUFFIXES
from mpafer_jax.inference import containers
from mpafer_jax.inference.inputs import RAW_REASON, RAW_SUFFIXES, InputImage
from mpafer_jax.inference.results import Failure, Source
from mpafer_jax.inference.shots import Shots
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ImageError, InputError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts"}
    | {".mts", ".m2ts", ".3gp", ".3g2", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".mxf", ".rm", ".rmvb"}
    | {".mjpeg", ".mjpg", ".h264"}
)
_ALSO_OF_PROGRAMS = frozenset({".ts", ".mts"})  # also TypeScript: in a folder, the content decides
# Unsupported image formats. In a folder they are not skipped, but become rows with an error.
_UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".tga", ".psd", ".exr", ".hdr"} | RAW_SUFFIXES
)
CAMERA = "camera:"
# Packets of sound between two frames at which OpenCV gives up: by its own 4096, which are a minute or two, slides with
# sound would seem damaged, or to end.
os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", str(2**31 - 1))
_FEWEST_TRIES, _MOST_TRIES = 100, 10_000  # to grab a frame; at a video's end each costs 10 to 100 microseconds
_FAR, _FAR_FRAMES = 0.5, 5  # seconds and frames, by which time stamps of whole files do not differ


@dataclasses.dataclass(frozen=True, slots=True)
class Medium:
    """One file, or a camera.

    Attributes:
      kind: an animation is an image of several frames; a problem cannot be read.
      path: the file, or a camera's number.
      reason: of a problem.
    """

    kind: Literal["image", "animation", "video", "camera", "problem"]
    path: str
    reason: str = ""


class LeftOut(collections.Counter[str]):
    """Counts, by suffix, files in folders that are neither images nor videos by name."""

    def __str__(self) -> str:
        """ "3 files (.txt 2, .db 1)"."""
        number = self.total()
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in self.most_common(_MOST_KINDS))
        more = f", and {len(self) - _MOST_KINDS} other kinds" if len(self) > _MOST_KINDS else ""
        return f"{number} file{'s' if number > 1 else ''} ({kinds}{more})"


_MOST_KINDS = 5


def find(arguments: Sequence[str], *, but: Collection[Path] = (), left_out: LeftOut | None = None) -> Generator[Medium]:
    """Lists inputs, lazily: folders may hold any number of files.

    Args:
      arguments: files; folders, whose images and videos are taken in order of name, recursively, through links too but
        never twice; glob patterns (`faces/**/*.jpg`); `camera:0`. In folders the suffix decides. A file named itself
        with an unknown suffix is a video if its first bytes are a video's, else an image.
      but: subfolders to skip, because results are written to them.
      left_out: counts files skipped by name, except hidden ones.

    Raises:
      InputError: an argument names nothing to predict on.
    """
    walk = _Walk({os.path.realpath(path) for path in but}, LeftOut() if left_out is None else left_out)
    if nothing := [problem for argument in arguments if (problem := _nothing(argument, walk.but))]:
        raise InputError(
            f"nothing to predict on: {', '.join(nothing)}; expected a file, a folder with images or videos "
            f"({' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}), a pattern in quotes, or {CAMERA}NUMBER"
        )
    return (medium for argument in arguments for medium in walk.expand(argument))


def _nothing(argument: str, but: Collection[str]) -> str:
    """An argument that names nothing, with what it holds instead; '' if it names something."""
    walk = _Walk(but, LeftOut())
    if next(walk.expand(argument), None) is not None:
        return ""
    return f"{argument} (holds {walk.left_out})" if walk.left_out else argument


@dataclasses.dataclass(frozen=True)
class _Walk:
    """Expands arguments to media.

    Attributes:
      but: real paths of folders to skip.
      left_out: counts other files.
    """

    but: Collection[str]
    left_out: LeftOut

    def expand(self, argument: str) -> Iterator[Medium]:
        number = argument.removeprefix(CAMERA)
        if not os.path.lexists(argument):  # the shell does not expand "~" in quotes
            argument = str(files.home_expanded(argument))
        if number != argument and number.isdecimal() and not os.path.lexists(argument):
            yield Medium("camera", number)
        elif os.path.isdir(argument):  # noqa: PTH112 - may be a pattern
            yield from self._of_folder(argument)
        elif os.path.lexists(argument):
            yield _of_file(argument)
        else:
            for path in sorted(glob.iglob(files.pattern(argument), recursive=True)):  # noqa: PTH207 - may be absolute
                if not Path(path).is_dir():
                    yield _of_file(path)
                elif "**" not in argument:  # "**" lists a folder's files too
                    yield from self._of_folder(path)

    def _of_folder(self, folder: str) -> Iterator[Medium]:
        seen = set(self.but)  # links may form cycles
        errors: list[OSError] = []
        for parent, folders, names in os.walk(folder, followlinks=True, onerror=errors.append):
            yield from _unlisted(errors)
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if name.startswith("."):
                    continue
                path, suffix = str(Path(parent) / name), Path(name).suffix.lower()
                known = suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES | _UNREAD_SUFFIXES
                if known and (suffix not in _ALSO_OF_PROGRAMS or containers.holds_video(Path(path))):
                    yield _of_file(path)
                else:
                    self.left_out[suffix or "no suffix"] += 1
        yield from _unlisted(errors)


def _unlisted(errors: list[OSError]) -> Iterator[Medium]:
    while errors:
        error = errors.pop()
        yield Medium("problem", str(error.filename), f"the folder cannot be listed ({error.strerror})")


def _of_file(name: str) -> Medium:
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return Medium("problem", name, RAW_REASON)
    if suffix in VIDEO_SUFFIXES or (suffix not in IMAGE_SUFFIXES and containers.holds_video(path)):
        return _video(name)
    if (suffix in containers.ANIMATED_SUFFIXES or suffix not in IMAGE_SUFFIXES) and containers.num_frames(path) > 1:
        return Medium("animation", name)
    return Medium("image", name)


def _video(name: str) -> Medium:
    """A video, unless it is missing, empty or not a regular file."""
    path = Path(name)
    try:
        status = path.stat()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        return Medium("problem", name, reason)
    if not containers.is_regular(path):
        return Medium("problem", name, "expected a file, found a folder, a device or a pipe")
    return Medium("video", name) if status.st_size else Medium("problem", name, "the file is empty")


def images(media: Iterator[Medium], *, stride: int = 1) -> Generator[InputImage | Failure]:
    """Yields every image, and every `stride`-th frame of each video, animation and camera, numbered consecutively.

    Videos are decoded frame by frame, in constant time and memory per frame. A video that cannot be opened or is
    truncated yields a `Failure`, and each place where it is seen to be damaged.
    """
    index = itertools.count()
    for medium in media:
        if medium.kind == "problem":
            yield Failure(Source(medium.path, next(index)), medium.reason)
        elif medium.kind == "image":
            yield InputImage(Source(medium.path, next(index)), Path(medium.path))
        elif medium.kind == "animation":
            yield from _animation(medium.path, stride, index)
        else:
            yield from _frames(medium, stride, index)


def count(media: Iterator[Medium], *, stride: int = 1) -> int | None:
    """Approximate number of results of `images`; None with a camera."""
    total, endless = 0, False
    for medium in media:
        endless |= medium.kind == "camera"
        frames = 1
        if medium.kind == "animation":
            frames = containers.num_frames(Path(medium.path))
        elif medium.kind == "video":
            frames = _announced(medium.path)
        total += -(-frames // stride)
    return None if endless else total


def _announced(path: str) -> int:
    """OpenCV's frame count of a video; 0 if unknown."""
    with _openable(path) as name:
        capture = cv2.VideoCapture(name)
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return max(0, frames)


@contextlib.contextmanager
def _openable(path: str) -> Generator[str]:
    """Yields a name that OpenCV opens: absolute (FFmpeg takes "a:b.mp4" for a protocol) and UTF-8.

    OpenCV crashes with a segmentation fault at a name that is not UTF-8.
    """
    absolute = str(Path(path).absolute())
    try:
        absolute.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "video"
            link.symlink_to(absolute)
            yield str(link)
        return
    yield absolute


def _animation(path: str, stride: int, index: Iterator[int]) -> Generator[InputImage | Failure]:
    shots = Shots()
    try:
        for number, seconds, image in preprocess.decode_frames(Path(path), stride):
            shot = shots(preprocess.to_pixels(image))
            yield InputImage(Source(path, next(index), number, round(seconds, 3), shot), image)
    except ImageError as error:
        yield Failure(Source(path, next(index)), str(error))


def _frames(medium: Medium, stride: int, index: Iterator[int]) -> Generator[InputImage | Failure]:
    camera = medium.kind == "camera"
    name = f"{CAMERA}{medium.path}" if camera else medium.path
    with contextlib.nullcontext("") if camera else _openable(medium.path) as opened:
        capture: Any = cv2.VideoCapture(int(medium.path) if camera else opened)
    try:
        if not capture.isOpened():
            what = "there is no such camera, or it is in use" if camera else "OpenCV cannot open it as a video"
            yield Failure(Source(name, next(index)), what)
            return
        rate = capture.get(cv2.CAP_PROP_FPS)
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        tries = 1 if camera else round(max(_FEWEST_TRIES, min(announced, _MOST_TRIES)))
        started, number, shots, shot = time.monotonic(), 0, Shots(), 0
        seconds = latest = 0.0
        while (failed := _grab(capture, tries)) is not None:
            # After `grab` the position is this frame's; 0 in a stream without timestamps.
            position = time.monotonic() - started if camera else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if failed:
                frames = f"{failed} frame{'s' if failed > 1 else ''}"
                reason = f"the video is damaged about here: {frames} or more cannot be decoded"
                yield Failure(Source(name, next(index), number, round(seconds, 3), shot), reason)
                number += failed
            latest = max(latest, position)
            seconds = position if position or rate <= 0 else number / rate
            if number % stride == 0:
                decoded, frame = capture.retrieve()
                pixels = np.ascontiguousarray(frame[..., ::-1]) if decoded else None  # BGR to RGB
                if pixels is not None and not camera:
                    shot = shots(pixels)
                source = Source(name, next(index), number, round(seconds, 3), None if camera else shot)
                if pixels is not None:
                    yield InputImage(source, pixels)
                else:
                    yield Failure(source, "this frame cannot be decoded")
            number += 1
        if not camera and (reason := _shortage(Path(medium.path), number) or _early_end(capture, number, latest)):
            yield Failure(Source(name, next(index)), reason)
    finally:
        capture.release()


def _shortage(path: Path, frames: int) -> str:
    """Why a video read to its end counts as truncated; '' if it does not."""
    # OpenCV's frame count will not do: see `missing_bytes`. Of a trimmed MP4 it includes hidden frames.
    if missing := containers.missing_bytes(path):
        return f"it is cut short: {frames} frames could be read, and the last {missing:,} bytes of the file are missing"
    return "" if frames else "no frame can be decoded"


def _grab(capture: Any, tries: int) -> int | None:
    """Grabs the next frame that can be; returns how many tries failed before, None if all did: it was the end.

    A `grab` fails at a frame that the decoder refuses, as it does at the end of a video, but the next one goes on.
    """
    return next((failed for failed in range(tries) if capture.grab()), None)


def _early_end(capture: Any, number: int, latest: float) -> str:
    """Why a video read to its end, of `number` frames up to `latest` seconds, counts as damaged; '' if it does not.

    That fewer frames were read than OpenCV announces proves nothing: see `_shortage`. A frame that can be read far
    behind the latest does, where the damage does not prevent that too.
    """
    announced, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    if not latest or rate <= 0 or announced - number < _FAR * rate:
        return ""
    capture.set(cv2.CAP_PROP_POS_FRAMES, announced - 2)  # the last is not always found
    behind = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if capture.grab() else 0.0
    if behind < latest + max(_FAR, _FAR_FRAMES / rate):
        return ""
    return (
        f"the video is damaged: {number} frames could be read, the last at {latest:.1f} s, though it goes on to "
        f"{behind:.1f} s"
    )
