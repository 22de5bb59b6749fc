"""Images inside the page: encoded as data, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.evaluation import overlay

_SIDE = 160  # pixels of the page; twice that would double the file for an image of 96
_QUALITY = 85


def data_uri(image: Image.Image, side: int | None = _SIDE) -> str:
    """A square image as a data URI, `side` pixels wide and high; any image in its own size if that is None."""
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def heat_maps(pixels: Pixels, patch_scores: npt.NDArray[np.float32], classes: tuple[int, ...]) -> list[Image.Image]:
    """Patch scores of classes, less their mean over the classes, drawn over the image on one scale.

    Args:
      pixels: uint8[S, S, 3], what the model saw.
      patch_scores: [N, C], N the square of a whole number, patches row by row.
      classes: indices of C.
    """
    side = math.isqrt(len(patch_scores))
    contrast = patch_scores - patch_scores.mean(axis=1, keepdims=True)
    heats = overlay.scaled(contrast.T[list(classes)].reshape(-1, side, side))
    return [overlay.heat_overlay(pixels, heat, _SIDE) for heat in heats]
