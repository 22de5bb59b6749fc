"""Decodes every image of a dataset completely, to find unreadable ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent import futures

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.data.preprocess import decode_rgb
from mpafer_jax.data.records import ImageSource
from mpafer_jax.runtime import workers as workers_lib
from mpafer_jax.runtime.errors import ImageError

Thumbnails = npt.NDArray[np.uint8]
_THUMBNAIL = 32  # pixels: side of a thumbnail
_AHEAD = 4 * workers_lib.READING_THREADS  # tasks in memory at once
# Quick images are inspected many to a task, since handing one to a worker costs as much as a tenth of its inspection.
_TASK_SECONDS, _MOST_IN_TASK = 0.05, 64


@dataclasses.dataclass(frozen=True, slots=True)
class Inspected:
    """A readable image.

    Attributes:
      data: encoded.
      size: (width, height) in pixels.
      pixel_hash: hex digest of the decoded RGB pixels and the size.
      thumbnail: for `near_duplicates`, if asked for.
    """

    data: bytes
    size: tuple[int, int]
    pixel_hash: str
    thumbnail: Thumbnails | None = None


def inspect(image: ImageSource, *, with_thumbnail: bool = False) -> Inspected:
    """Reads and fully decodes one image; ImageError, with its path and the reason, if that fails."""
    try:
        data = image.read()
        pixels = decode_rgb(data)
    except FileNotFoundError as error:
        raise ImageError(f"{image.place}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: see `ImageSource.read`; ImageError is one
        raise ImageError(f"{image.place}: cannot be read as an image: {error}") from error
    digest = hashlib.blake2b(f"{pixels.width}x{pixels.height}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    small = thumbnail(pixels) if with_thumbnail else None
    return Inspected(data, pixels.size, digest.hexdigest(), small)


def thumbnail(image: Image.Image) -> Thumbnails:
    """uint8[32, 32], grey, stretched to a square, for `near_duplicates`."""
    return np.asarray(image.convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR))


def workers(computed: bool) -> futures.Executor:
    """Executor for `inspect_all`, a context manager: threads (decoding releases the GIL), or processes if computed."""
    return workers_lib.pool() if computed else futures.ThreadPoolExecutor(workers_lib.READING_THREADS)


def joint_hash(hashes: Sequence[str]) -> str:
    """Pixel hash of an example: of an image its own, of a clip one of the hashes of its frames."""
    return hashes[0] if len(hashes) == 1 else hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()


def inspect_all(
    images: Iterable[ImageSource], pool: futures.Executor, *, with_thumbnails: bool = False
) -> Generator[Inspected | ImageError]:
    """Inspects images in parallel; yields results in order, with a bounded number in memory.

    Close it (`contextlib.closing`) if it may not be exhausted.
    """
    together = 1  # images in the next task; the results do not depend on it

    def tasks() -> Iterator[list[ImageSource]]:
        iterator = iter(images)
        while task := list(itertools.islice(iterator, together)):
            yield task

    function = functools.partial(_inspect_each, with_thumbnails=with_thumbnails)
    with contextlib.closing(workers_lib.map_in_order(pool, function, tasks(), _AHEAD)) as done:
        for seconds, inspected in done:
            together = max(1, min(_MOST_IN_TASK, int(_TASK_SECONDS * len(inspected) / max(seconds, 1e-9))))
            yield from inspected


def _inspect_each(
    images: Sequence[ImageSource], *, with_thumbnails: bool
) -> tuple[float, list[Inspected | ImageError]]:
    """Seconds that it took, and the results."""
    start = time.perf_counter()
    inspected = [_inspect_or_error(image, with_thumbnail=with_thumbnails) for image in images]
    return time.perf_counter() - start, inspected


def _inspect_or_error(image: ImageSource, *, with_thumbnail: bool) -> Inspected | ImageError:
    try:
        return inspect(image, with_thumbnail=with_thumbnail)
    except ImageError as error:
        return error
