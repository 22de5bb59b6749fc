"""Attribution as images: heat maps over the face, and outlines of the selected patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mpafer_jax.data.preprocess import Pixels

Floats = npt.NDArray[np.float32]
TILE = 224  # pixels, side of each image
# Low to high, with evenly rising brightness: the order survives greyscale printing and colour blindness.
_RAMP = np.array([(20, 20, 70), (80, 30, 130), (180, 50, 110), (240, 120, 60), (255, 225, 120)], np.float32)
_PAPER = (255, 255, 255)
_STRENGTH = 0.6  # opacity of a map at the hottest patch; a third of it at the coldest


def colors(values: npt.NDArray[np.floating]) -> Pixels:
    """Values 0..1 [...] as RGB bytes [..., 3]."""
    positions = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, positions, _RAMP[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def heat_overlay(pixels: Pixels, heat: Floats, side: int = TILE) -> Image.Image:
    """A heat map laid over a greyscale version of its image.

    Args:
      pixels: uint8[S, S, 3], what the patches cover.
      heat: [rows, columns] in 0..1; values outside are clipped.
      side: of the result in pixels.
    """
    face = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BICUBIC), np.float32)
    levels = np.round(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(levels).resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    share = _STRENGTH * (1 + 2 * smooth[..., None]) / 3
    return Image.fromarray(np.round(face[..., None] * (1 - share) + colors(smooth) * share).astype(np.uint8))


def outline_patches(image: Image.Image, patches: npt.NDArray[np.integer], grid: tuple[int, int]) -> None:
    """Draws the borders of patches onto a square image that they cover, in place."""
    draw = ImageDraw.Draw(image)
    height, width = image.height / grid[0], image.width / grid[1]
    for patch in patches.tolist():
        row, column = divmod(patch, grid[1])
        box = (column * width, row * height, (column + 1) * width - 1, (row + 1) * height - 1)
        draw.rectangle(box, outline=_PAPER, width=1)


def contrast(class_maps: Floats) -> Floats:
    """Maps of all classes, [C, rows, columns], minus their mean: what speaks for a class rather than for all."""
    return class_maps - class_maps.mean(axis=0)


def scaled(values: Floats) -> Floats:
    """Min-max scaling to 0..1; all equal become 0."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
