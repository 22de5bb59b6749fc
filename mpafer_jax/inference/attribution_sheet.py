"""Explanations as one image: heat maps over the face, the chosen patches outlined, the phrases beside them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mpafer_jax.evaluation.overlay import TILE, heat_overlay, outline_patches, scaled
from mpafer_jax.inference.attribution import Explanation, Phrase

_CAPTION, _GAP = 20, 8  # pixels
_PHRASES = 8  # shown, of all that were ranked
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def sheet(explanation: Explanation) -> Image.Image:
    """One image of an explanation: the face, a map for each class from the likeliest on, rollout, phrases.

    Class maps are the contrast (see `Explanation.contrast_maps`) and share one colour scale; the outlined patches are
    those that made the class's score.

    Raises:
      ValueError: the prediction holds no pixels.
    """
    prediction = explanation.prediction
    if prediction.pixels is None:
        raise ValueError("an image of an explanation needs the prediction's pixels")
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
