"""Cache of decoded images: a memory-mapped file beside each prepared split (`config.data.cache_decoded`).

    <prepared folder>/decoded-<format>-<versions>/<split>/
      pixels.bin    uint8, images one after the other, row-major, grey or RGB
      images.npz    offsets int64[n] into pixels.bin; shapes int32[n, 3], height, width, channels

All processes on a host share one copy in the page cache. The folder's name has the versions of Pillow and libjpeg,
since JPEG decoders differ in single pixel values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import shutil
from concurrent import futures
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import PIL
from absl import logging
from PIL import Image, features

from mpafer_jax.data.prepared import ExampleSource, writing_into
from mpafer_jax.data.preprocess import decode
from mpafer_jax.runtime import files, locks, progress, signals, workers
from mpafer_jax.runtime.errors import DataError

_FORMAT = "2"  # of the two files, and of the pixels that `preprocess.decode` gives
_PIXELS, _IMAGES = "pixels.bin", "images.npz"


@dataclasses.dataclass(frozen=True)
class DecodedImages:
    """Random access to decoded images; pickles as the folder's name, which each process maps."""

    folder: Path

    def __getitem__(self, index: int) -> Image.Image:
        """The image as decoded by `preprocess.decode`, grey or RGB; DataError if the files are damaged."""
        pixels, offsets, shapes = _open(self.folder)
        height, width, bands = (int(size) for size in shapes[index])
        start = int(offsets[index])
        flat = pixels[start : start + height * width * bands]
        return Image.fromarray(flat.reshape((height, width) if bands == 1 else (height, width, bands)))


@functools.lru_cache(maxsize=64)
def _open(folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    try:
        # NumPy would not close a damaged file that it opened.
        with (folder / _IMAGES).open("rb") as stream, np.load(stream, allow_pickle=False) as images:
            offsets, shapes = images["offsets"], images["shapes"]
        # A plain array over the mapping: slicing np.memmap takes ten times as long.
        pixels = np.asarray(np.memmap(folder / _PIXELS, np.uint8, mode="r"))
        if len(pixels) != (expected := int(shapes.prod(axis=1, dtype=np.int64).sum())):
            raise ValueError(f"{_PIXELS} has {len(pixels)} bytes, expected {expected}")
    except (FileNotFoundError, KeyError, *files.DAMAGED_NPZ) as error:
        raise DataError(
            f"{folder} is damaged or was copied in part ({error}); delete it, and the images are decoded again"
        ) from error
    return pixels, offsets, shapes


def open_or_make(prepared: Path, split: str, source: ExampleSource) -> DecodedImages:
    """Opens the decoded images of a prepared split; decodes them first if missing, in one process while others wait.

    Args:
      prepared: folder of the prepared dataset; DataError if it is not writable.
      source: encoded images of the split, known to decode.
    """
    versions = f"pillow{PIL.__version__}-jpeg{cast(Any, features).version('jpg')}"
    folder = prepared / f"decoded-{_FORMAT}-{versions}" / split
    if not folder.is_dir():
        with writing_into(prepared, "cache_decoded"):
            folder.parent.mkdir(exist_ok=True)
            with (
                signals.orderly(),
                files.naming(folder),
                locks.hold(folder.parent / f"{split}.lock", folder, wait=True),
            ):
                if not folder.is_dir():
                    _write(folder, split, source)
    return DecodedImages(folder)


def _write(folder: Path, split: str, source: ExampleSource) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")  # at most one, under the lock
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    shapes: list[tuple[int, int, int]] = []

    def pixels_of(index: int) -> npt.NDArray[np.uint8]:
        pixels = np.asarray(decode(source[index]["image"]))
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    try:
        threads = workers.usable_cores()
        with futures.ThreadPoolExecutor(threads) as pool, (unfinished / _PIXELS).open("wb") as file:
            decoded = workers.map_in_order(pool, pixels_of, range(len(source)), 4 * threads)
            for pixels in progress.track(decoded, f"decoding {split}", len(source)):
                shapes.append(cast(tuple[int, int, int], pixels.shape))
                file.write(np.ascontiguousarray(pixels).data)
            file.flush()
            os.fsync(file.fileno())
        sizes = np.array([math.prod(shape) for shape in shapes], np.int64)
        offsets = np.cumsum(sizes) - sizes
        np.savez(unfinished / _IMAGES, allow_pickle=False, offsets=offsets, shapes=np.array(shapes, np.int32))
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    logging.debug("decoded images: %.0f MB in %s", float(sizes.sum()) / 1e6, folder)
