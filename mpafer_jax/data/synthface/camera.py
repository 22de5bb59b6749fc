"""Makes an image of a canvas: medium, exposure, blur, palette, noise, JPEG."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from mpafer_jax.data.synthface.canvas import Canvas
from mpafer_jax.data.synthface.styles import Medium, Palette, Style

Floats = npt.NDArray[np.floating]
_REFERENCE = 96  # pixels; side of the image to which a style's blur refers
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_PAPER, _PENCIL = 238.0, 40.0
# From dark to light: the colours of a poster, and stops between which infrared interpolates.
_POSTER = np.array([[36, 28, 74], [128, 40, 104], [226, 92, 82], [246, 196, 106], [250, 242, 214]], np.float32)
_INFRARED = np.array([[250, 246, 190], [246, 150, 60], [196, 44, 92], [84, 24, 128], [14, 10, 52]], np.float32)


def develop(canvas: Canvas, style: Style, size: int, rng: np.random.Generator) -> Image.Image:
    """The final RGB image of size x size pixels."""
    pixels = _develop_medium(canvas, style.medium, size, rng)
    blur = _draw(style.blur, rng) * size / _REFERENCE
    exposure, contrast = _draw(style.exposure, rng), _draw(style.contrast, rng)
    pixels = (pixels * exposure - 128) * contrast + 128
    if blur > 0.15:
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
        pixels = np.asarray(image, np.float32)
    pixels = _recolour(pixels, style.palette)
    noise = _draw(style.noise, rng)
    if noise > 0:
        shape = pixels.shape[:2] if style.palette == "grey" else pixels.shape
        grain = rng.standard_normal(shape, np.float32) * noise
        pixels = pixels + (grain[..., None] if grain.ndim == 2 else grain)
    image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
    quality = round(_draw(style.jpeg_quality, rng))
    if quality > 0:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer).convert("RGB")
    return image


def _draw(limits: tuple[float, float], rng: np.random.Generator) -> float:
    return float(rng.uniform(*limits))


def _develop_medium(canvas: Canvas, medium: Medium, size: int, rng: np.random.Generator) -> Floats:
    """float32[size, size, 3], 0 to 255."""
    factor = canvas.frame.side // size
    colour = np.asarray(canvas.colour.reduce(factor), np.float32)
    if medium == "photo":
        return colour
    ink = np.asarray(canvas.ink.reduce(factor).convert("RGB"), np.float32) / 255
    if medium == "drawing":
        return colour * (1 - 0.85 * ink) + 0.85 * ink * np.array([40, 26, 44], np.float32)
    grey = colour @ _GREY
    paper = _PAPER + rng.standard_normal((size, size), np.float32) * 4
    hatch = 1 + 0.25 * rng.standard_normal((size, size), np.float32)
    tone = paper - 0.38 * (paper - grey) * hatch
    tone = tone * (1 - ink[..., 0]) + _PENCIL * ink[..., 0]
    return np.repeat(tone[..., None], 3, axis=2)


def _recolour(pixels: Floats, palette: Palette) -> Floats:
    if palette == "colour":
        return pixels
    grey = np.clip(pixels @ _GREY, 0, 255)
    if palette == "grey":
        return np.repeat(grey[..., None], 3, axis=2)
    if palette == "poster":
        # Dark tones are spread first, else lines on dark skin get the skin's level.
        return _POSTER.take(((grey / 256) ** 0.7 * len(_POSTER)).astype(int), axis=0)
    place = np.linspace(0, 255, len(_INFRARED))
    return np.stack([np.interp(grey, place, _INFRARED[:, channel]) for channel in range(3)], axis=2).astype(np.float32)
