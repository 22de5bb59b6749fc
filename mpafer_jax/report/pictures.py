"""Pictures inside the page: encoded as data, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.data.preprocess import Pixels

_SIDE = 160  # pixels of the page; small pictures are enlarged to it, so that a heat map on them can be seen
_QUALITY = 85
# From nothing to most: the picture itself, then yellow, then red. Readable in grey too, since it only darkens.
_COLOURS = np.array([[255, 237, 160], [254, 178, 76], [240, 59, 32], [189, 0, 38]], np.float64)
_MOST = 0.65  # opacity where the score is highest


def data_uri(pixels: Pixels) -> str:
    """A picture uint8[H, W, 3] as a data URI."""
    image = Image.fromarray(pixels)
    if image.width < _SIDE:
        image = image.resize((_SIDE, round(_SIDE * image.height / image.width)), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def overlay(pixels: Pixels, patch_scores: npt.NDArray[np.floating], class_index: int, beside: Sequence[int]) -> Pixels:
    """What speaks for a class, over the picture.

    The scores of all classes share most of their shape, whatever the class: what is drawn is how far a patch's score
    for this class is above its mean over the classes, and nothing where it is below.

    Args:
      pixels: uint8[S, S, 3], what the model saw.
      patch_scores: [N, C], N the square of a whole number, patches row by row.
      class_index: of C.
      beside: the classes whose maps are shown together, this one among them: they share one scale.

    Returns:
      uint8[S, S, 3].
    """
    side = math.isqrt(len(patch_scores))
    above = np.maximum(patch_scores - patch_scores.mean(axis=1, keepdims=True), 0.0)
    strength = above[:, class_index] / max(float(above[:, list(beside)].max()), 1e-12)
    small = Image.fromarray(strength.reshape(side, side).astype(np.float32))
    smooth = np.clip(np.asarray(small.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC)), 0, 1)
    position = smooth * (len(_COLOURS) - 1)
    colours = np.stack([np.interp(position, range(len(_COLOURS)), channel) for channel in _COLOURS.T], axis=-1)
    grey = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"), np.float64)
    opacity = (_MOST * smooth)[..., None]
    return np.rint(grey * (1 - opacity) + colours * opacity).astype(np.uint8)
