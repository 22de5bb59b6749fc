"""Images embedded in the page as data URIs."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.evaluation import overlay

_SIDE = 160  # pixels on the page
_QUALITY = 85


def data_uri(image: Image.Image, side: int | None = _SIDE, form: str = "jpeg") -> str:
    """An image as a data URI, resized to `side` x `side` pixels; in its own size if `side` is None.

    Args:
      image: RGB.
      side: in pixels.
      form: "jpeg", or "png" to keep every pixel.
    """
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, form, quality=_QUALITY)  # which PNG ignores
    return f"data:image/{form};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def heat_maps(pixels: Pixels, patch_scores: npt.NDArray[np.float32], classes: tuple[int, ...]) -> list[Image.Image]:
    """Heat maps of classes over the image: `overlay.contrast` of the patch scores, on one colour scale.

    Args:
      pixels: uint8[S, S, 3], what the patches cover of the model's input.
      patch_scores: [N, C], N patches of a square grid, row by row.
      classes: indices into C.
    """
    side = math.isqrt(len(patch_scores))
    heats = overlay.scaled(overlay.contrast(patch_scores.T.reshape(-1, side, side))[list(classes)])
    return [overlay.heat_overlay(pixels, heat, _SIDE) for heat in heats]
