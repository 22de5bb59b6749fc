"""Opens every image of a dataset once, completely: a file that only looks like an image is found here."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Generator, Sequence
from concurrent import futures

from mpafer_jax.data.preprocess import decode_rgb
from mpafer_jax.data.records import ImageSource
from mpafer_jax.runtime import workers as workers_lib
from mpafer_jax.runtime.errors import ImageError

_THREADS = min(16, (os.cpu_count() or 1) + 2)  # a little more than the cores: reading waits for the disk
_AHEAD = 4 * _THREADS  # images in memory at once


@dataclasses.dataclass(frozen=True, slots=True)
class Inspected:
    """An image that decodes.

    Attributes:
      data: the encoded image.
      size: (width, height) in pixels.
      pixel_hash: hex digest of the decoded RGB pixels and the size; equal for pixel-identical images.
    """

    data: bytes
    size: tuple[int, int]
    pixel_hash: str


def inspect(image: ImageSource) -> Inspected:
    """Reads and fully decodes one image.

    Raises:
      ImageError: it is missing or cannot be decoded; names it and says why.
    """
    try:
        data = image.read()
        pixels = decode_rgb(data)
    except FileNotFoundError as error:
        raise ImageError(f"{image.place}: no such file") from error
    except (OSError, ValueError) as error:  # ValueErrors are a source's own, ImageError among them
        raise ImageError(f"{image.place}: cannot be read as an image: {error}") from error
    digest = hashlib.blake2b(f"{pixels.width}x{pixels.height}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    return Inspected(data, pixels.size, digest.hexdigest())


def workers(computed: bool) -> futures.Executor:
    """What inspects images side by side: threads (decoding leaves Python's lock), or processes if they are computed.

    To be used as a context.
    """
    return workers_lib.pool() if computed else futures.ThreadPoolExecutor(_THREADS)


def inspect_all(images: Sequence[ImageSource], pool: futures.Executor) -> Generator[Inspected | ImageError]:
    """Inspects images with the workers of a pool, in order, a bounded number in memory.

    To be closed (`contextlib.closing`) where it may not be exhausted.
    """
    return workers_lib.map_in_order(pool, _inspect_or_error, images, _AHEAD)


def _inspect_or_error(image: ImageSource) -> Inspected | ImageError:
    try:
        return inspect(image)
    except ImageError as error:
        return error
