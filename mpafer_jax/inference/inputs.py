"""Inputs of prediction: paths, bytes, Pillow images and arrays, read as RGB images."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.data import preprocess
from mpafer_jax.inference.results import Failure, Source
from mpafer_jax.runtime.errors import ImageError

ImageLike = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
# Of cameras. Most are TIFF by their content, whose first image is a small preview, which Pillow would read.
RAW_SUFFIXES = frozenset({".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"})
RAW_REASON = "a camera's raw file is not read: save it as JPEG or PNG"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class InputImage:
    """An image that is read later, in another thread.

    Attributes:
      source: names the image in results.
      content: a path, an encoded image, a Pillow image, or uint8[height, width, 3] in RGB order.
    """

    source: Source
    content: Path | bytes | Image.Image | npt.NDArray[np.uint8] = dataclasses.field(repr=False)

    def read(self) -> Image.Image:
        """The upright RGB image.

        Raises:
          ImageError: it cannot be read.
        """
        content = self.content
        if isinstance(content, bytes):
            return preprocess.decode_rgb(content)
        if isinstance(content, Image.Image):
            return preprocess.upright_rgb(content)
        if isinstance(content, np.ndarray):
            return Image.fromarray(content)
        if content.suffix.lower() in RAW_SUFFIXES:
            raise ImageError(RAW_REASON)
        try:
            return preprocess.decode_rgb(preprocess.read_image_file(content))
        except FileNotFoundError as error:
            raise ImageError("no such file") from error
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror or error})") from error


Input = ImageLike | InputImage | Failure


def as_input(image: Input, index: int) -> InputImage | Failure:
    """Checks and names the input at position `index`; a string is a path, a `Failure` passes through.

    Copies what an iterator may refill or close for its next image: arrays, and Pillow's images, which are decoded here;
    one that cannot be is a `Failure`.

    Raises:
      TypeError: it is of another type, or an array of another dtype.
      ValueError: an array of another shape.
    """
    if isinstance(image, (InputImage, Failure)):
        return image
    if isinstance(image, (str, os.PathLike)):
        return InputImage(Source(os.fspath(image), index), Path(image))
    if isinstance(image, np.ndarray):
        _check_array(image)
    elif not isinstance(cast(Any, image), (bytes, Image.Image)):
        raise TypeError(
            f"input {index} is a {type(image).__name__}; expected a path, bytes, a Pillow image or a NumPy array"
        )
    name = str(getattr(image, "filename", "")) or f"image {index}"  # Pillow keeps the name of an opened file
    source = Source(name, index)
    if isinstance(image, np.ndarray):
        image = image.copy()
    elif isinstance(image, Image.Image):
        try:
            image = preprocess.upright_rgb(image)
        except ImageError as error:
            return Failure(source, str(error))
    return InputImage(source, image)


def _check_array(array: npt.NDArray[Any]) -> None:
    if array.dtype != np.uint8:
        raise TypeError(f"images are arrays of uint8 from 0 to 255, found {array.dtype}; multiply, round and convert")
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(
            f"an image is an array [height, width, 3] in the order red, green, blue, found {list(array.shape)}; "
            "convert OpenCV's with image[..., ::-1], grey with np.repeat(image[..., None], 3, axis=2); several "
            "images are a batch or an iterator"
        )
