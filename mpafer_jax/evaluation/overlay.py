"""Explanations as pictures: heat maps over the face, the chosen patches outlined, the phrases beside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.evaluation.explain import Explanation, Phrase
from mpafer_jax.prediction.results import Floats

TILE = 224  # pixels, side of every shown picture
_CAPTION, _GAP = 20, 8  # pixels
_PHRASES = 8  # shown, of all that were ranked
# Low to high; the steps' brightness rises evenly, so that the order survives grey printing and colour blindness.
_RAMP = np.array([(20, 20, 70), (80, 30, 130), (180, 50, 110), (240, 120, 60), (255, 225, 120)], np.float32)
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def colors(values: npt.NDArray[np.floating]) -> Pixels:
    """Values 0..1 [...] as RGB bytes [..., 3]."""
    positions = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, positions, _RAMP[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def heat_overlay(pixels: Pixels, heat: Floats, side: int = TILE, *, strength: float = 0.6) -> Image.Image:
    """A heat map laid over the picture that it is about, whose own colours go: colour is heat.

    Args:
      pixels: uint8[S, S, 3].
      heat: [rows, columns] from 0 to 1; values outside are cut.
      side: of the result in pixels.
      strength: how much of the hottest patch's colour is the map's; the coldest keeps a third of it.
    """
    face = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.BICUBIC), np.float32)
    levels = np.round(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(levels).resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    share = strength * (1 + 2 * smooth[..., None]) / 3
    return Image.fromarray(np.round(face[..., None] * (1 - share) + colors(smooth) * share).astype(np.uint8))


def outline_patches(image: Image.Image, patches: npt.NDArray[np.integer], grid: tuple[int, int]) -> None:
    """Draws the borders of patches into a square picture."""
    draw = ImageDraw.Draw(image)
    height, width = image.height / grid[0], image.width / grid[1]
    for patch in patches.tolist():
        row, column = divmod(patch, grid[1])
        box = (column * width, row * height, (column + 1) * width - 1, (row + 1) * height - 1)
        draw.rectangle(box, outline=_PAPER, width=1)


def scaled(values: Floats) -> Floats:
    """Values moved to 0..1, lowest to highest; all equal become 0."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def sheet(explanation: Explanation) -> Image.Image:
    """One picture of an explanation: the face, a map for each class from the likeliest on, rollout, phrases.

    Class maps are the contrast (see `Explanation.contrast_maps`) and share one colour scale; the outlined patches are
    those that made the class's score.

    Raises:
      ValueError: the prediction holds no pixels.
    """
    prediction = explanation.prediction
    if prediction.pixels is None:
        raise ValueError("a picture of an explanation needs the prediction's pixels")
    tiles = [(Image.fromarray(prediction.pixels).resize((TILE, TILE), Image.Resampling.BICUBIC), "what the model saw")]
    maps = explanation.contrast_maps
    if maps is not None and prediction.top_patches is not None:
        heats = scaled(maps)
        order: list[int] = np.argsort(-prediction.probabilities, kind="stable").tolist()
        for index in order:
            tile = heat_overlay(prediction.pixels, heats[index])
            outline_patches(tile, prediction.top_patches[index], prediction.grid)
            name, share = prediction.class_names[index], prediction.probabilities[index]
            tiles.append((tile, f"{name} {100 * share:.1f}%"))
    attended = f"attention (prompts {100 * explanation.prompt_share:.0f}%)"
    tiles.append((heat_overlay(prediction.pixels, scaled(explanation.rollout)), attended))
    return _arranged(tiles, explanation.phrases[:_PHRASES])


def _arranged(tiles: list[tuple[Image.Image, str]], phrases: tuple[tuple[Phrase, float], ...]) -> Image.Image:
    columns = min(5, len(tiles))
    rows = -(-len(tiles) // columns)
    step, width = TILE + _CAPTION + _GAP, columns * (TILE + _GAP) + _GAP
    image = Image.new("RGB", (width, rows * step + _GAP + len(phrases) * _CAPTION + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for number, (tile, caption) in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (TILE + _GAP), _GAP + row * step
        image.paste(tile, (left, top))
        draw.text((left, top + TILE + 2), caption, _INK, font)
    for number, (phrase, score) in enumerate(phrases):
        line = f"{score:+.3f}  {phrase.text}  ({phrase.class_name}, {phrase.granularity})"
        draw.text((_GAP, rows * step + _GAP + number * _CAPTION), line, _INK, font)
    return image
