"""Command-line inputs (files, folders, patterns, videos, a camera) as a lazy sequence of images."""

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

import numpy as np

from mpafer_jax.data import preprocess
from mpafer_jax.data.preprocess import IMAGE_SUFFIXES
from mpafer_jax.inference import containers
from mpafer_jax.inference.faces import import_opencv
from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.results import Failure, Source
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ImageError, InputError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts"}
    | {".mts", ".m2ts", ".3gp", ".3g2", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".mxf", ".rm", ".rmvb"}
    | {".mjpeg", ".mjpg", ".h264"}
)
_ALSO_OF_PROGRAMS = frozenset({".ts", ".mts"})  # TypeScript's; in a folder, what is inside decides
# Images that are not read. A folder's are not passed over: they become rows that say so.
_UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".tga", ".psd", ".exr", ".hdr"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
CAMERA = "camera:"


@dataclasses.dataclass(frozen=True, slots=True)
class Medium:
    """One file, or a camera.

    Attributes:
      kind: what it is taken for; an animation is an image of several frames, a problem none that can be read.
      path: the file; of a camera, its number.
      reason: of a problem.
    """

    kind: Literal["image", "animation", "video", "camera", "problem"]
    path: str
    reason: str = ""


class LeftOut(collections.Counter[str]):
    """Suffixes of the files in folders that are neither images nor videos by their names, and how many there are."""

    def __str__(self) -> str:
        """ "3 files (.txt 2, .db 1)"."""
        number = self.total()
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in self.most_common(_MOST_KINDS))
        more = f", and {len(self) - _MOST_KINDS} other kinds" if len(self) > _MOST_KINDS else ""
        return f"{number} file{'s' if number > 1 else ''} ({kinds}{more})"


_MOST_KINDS = 5


def find(arguments: Sequence[str], *, but: Collection[Path] = (), left_out: LeftOut | None = None) -> Generator[Medium]:
    """Lists what the arguments name, lazily: folders may hold any number of files.

    Args:
      arguments: files; folders, of which all images and videos are taken, in the order of their names, and the same
        of folders inside, through links too but none twice; patterns (`faces/**/*.jpg`); `camera:0`. Names decide in
        folders; a file that is named itself, with a suffix of neither, is a video where it begins like one, else an
        image.
      but: folders that are passed over inside of others, because results are written there.
      left_out: counts what is passed over for its name, hidden files apart.
    """
    walk = _Walk({os.path.realpath(path) for path in but}, LeftOut() if left_out is None else left_out)
    if nothing := [problem for argument in arguments if (problem := _nothing(argument, walk.but))]:
        raise InputError(
            f"nothing to predict on: {', '.join(nothing)}; expected a file, a folder with images or videos "
            f"({' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}), a pattern in quotes, or {CAMERA}NUMBER"
        )
    return (medium for argument in arguments for medium in walk.expand(argument))


def _nothing(argument: str, but: Collection[str]) -> str:
    """An argument that names nothing, with what is there instead; '' for one that names something."""
    walk = _Walk(but, LeftOut())
    if next(walk.expand(argument), None) is not None:
        return ""
    return f"{argument} (holds {walk.left_out})" if walk.left_out else argument


@dataclasses.dataclass(frozen=True)
class _Walk:
    """From arguments to media.

    Attributes:
      but: real paths of folders that are passed over.
      left_out: counts other files.
    """

    but: Collection[str]
    left_out: LeftOut

    def expand(self, argument: str) -> Iterator[Medium]:
        number = argument.removeprefix(CAMERA)
        if not os.path.lexists(argument):  # "~" in quotes, as patterns are, is not seen by the shell
            argument = str(files.home_expanded(argument))
        if number != argument and number.isdecimal() and not os.path.lexists(argument):
            yield Medium("camera", number)
        elif os.path.isdir(argument):  # noqa: PTH112 - one call for what may be a pattern
            yield from self._of_folder(argument)
        elif os.path.lexists(argument):
            yield _of_file(argument)
        else:
            for path in sorted(glob.iglob(files.pattern(argument), recursive=True)):  # noqa: PTH207 - may be absolute
                if not Path(path).is_dir():
                    yield _of_file(path)
                elif "**" not in argument:  # which names what is inside as well
                    yield from self._of_folder(path)

    def _of_folder(self, folder: str) -> Iterator[Medium]:
        seen = set(self.but)  # links can lead back to where the walk has been
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
    """Every image, and every `stride`-th frame of every video, animation and camera, numbered one after the other.

    Videos are decoded frame by frame, in constant time and memory per frame. What cannot be opened as a video, or ends
    early, is a `Failure` in its place.
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
    """About how many images `images` will yield; None where a camera has no end."""
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
    """Frames that a video says it has; 0 where it says nothing."""
    cv2 = import_opencv()
    with _openable(path) as name:
        capture = cv2.VideoCapture(name)
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return max(0, frames)


@contextlib.contextmanager
def _openable(path: str) -> Generator[str]:
    """A name under which OpenCV opens a file: absolute, since FFmpeg takes "a:b.mp4" for a protocol's, and UTF-8.

    OpenCV ends the process with a segmentation fault at a name that is not.
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
    try:
        for number, seconds, image in preprocess.decode_frames(Path(path), stride):
            yield InputImage(Source(path, next(index), number, round(seconds, 3)), image)
    except ImageError as error:
        yield Failure(Source(path, next(index)), str(error))


def _frames(medium: Medium, stride: int, index: Iterator[int]) -> Generator[InputImage | Failure]:
    cv2 = import_opencv()
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
        started, number = time.monotonic(), 0
        while capture.grab():
            if number % stride == 0:
                # Asked for after a frame was grabbed, the position is that frame's own; of a stream without times 0.
                seconds = time.monotonic() - started if camera else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if not seconds and rate > 0:
                    seconds = number / rate
                source = Source(name, next(index), number, round(seconds, 3))
                decoded, frame = capture.retrieve()
                if decoded:
                    yield InputImage(source, np.ascontiguousarray(frame[..., ::-1]))  # OpenCV's are blue, green, red
                else:
                    yield Failure(source, "this frame cannot be decoded")
            number += 1
        if not camera and (reason := _shortage(Path(medium.path), number)):
            yield Failure(Source(name, next(index)), reason)
    finally:
        capture.release()


def _shortage(path: Path, frames: int) -> str:
    """What is missing of a video whose frames were read to the end; '' if nothing is known to be."""
    # Not by the number of frames that OpenCV announces: see `missing_bytes`, and of a trimmed MP4 it counts those too
    # that are not to be shown.
    if missing := containers.missing_bytes(path):
        return f"it is cut short: {frames} frames could be read, and the last {missing:,} bytes of the file are missing"
    return "" if frames else "no frame can be decoded"
