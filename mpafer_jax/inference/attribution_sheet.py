"""Attributions drawn as one image: heat maps with the top patches outlined, and the phrases."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image, ImageDraw, ImageFont

from mpafer_jax.evaluation.overlay import TILE, heat_overlay, outline_patches, scaled
from mpafer_jax.inference.attribution import Explainer, Explanation, Phrase
from mpafer_jax.inference.results import Prediction, Result
from mpafer_jax.runtime import files

_CAPTION, _GAP = 20, 8  # pixels
_LONGEST_STEM = 100  # characters of an input's name used in output names
PHRASES = 8  # shown
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def sheet(explanation: Explanation) -> Image.Image:
    """Draws an explanation: the face, `class_tiles`, rollout, phrases."""
    prediction = explanation.prediction
    if prediction.seen is None:
        raise ValueError("an image of an explanation needs the prediction's pixels")
    tiles = [(Image.fromarray(prediction.seen).resize((TILE, TILE), Image.Resampling.BICUBIC), "what the model saw")]
    shares = dict(zip(prediction.class_names, prediction.probabilities, strict=True))
    tiles += [(tile, f"{name} {100 * shares[name]:.1f}%") for name, tile in class_tiles(explanation).items()]
    attended = f"attention (prompts {100 * explanation.prompt_share:.0f}%)"
    tiles.append((heat_overlay(prediction.seen, scaled(explanation.rollout)), attended))
    return _arranged(tiles, explanation.phrases[:PHRASES])


def class_tiles(explanation: Explanation) -> dict[str, Image.Image]:
    """Heat maps over the face by class, by falling probability; empty without a local score.

    They are `Explanation.contrast_maps` on one colour scale; outlined patches make the class's local score.
    """
    prediction, maps = explanation.prediction, explanation.contrast_maps
    if maps is None or prediction.top_patches is None or prediction.seen is None:
        return {}
    heats, tiles = scaled(maps), dict[str, Image.Image]()
    order: list[int] = np.argsort(-prediction.probabilities, kind="stable").tolist()
    for index in order:
        tile = tiles[prediction.class_names[index]] = heat_overlay(prediction.seen, heats[index])
        outline_patches(tile, prediction.top_patches[index], prediction.grid)
    return tiles


def _arranged(tiles: list[tuple[Image.Image, str]], phrases: tuple[tuple[Phrase, float], ...]) -> Image.Image:
    columns = min(5, len(tiles))
    rows = -(-len(tiles) // columns)
    font = ImageFont.load_default(14)
    lines = [f"{score:+.3f}  {phrase.text}  ({phrase.class_name}, {phrase.granularity})" for phrase, score in phrases]
    # Without a local score there are two tiles only, narrower than most phrases.
    widths = [columns * (TILE + _GAP) + _GAP, *(2 * _GAP + math.ceil(font.getlength(line)) for line in lines)]
    step = TILE + _CAPTION + _GAP
    image = Image.new("RGB", (max(widths), rows * step + _GAP + len(lines) * _CAPTION + _GAP), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, (tile, caption) in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (TILE + _GAP), _GAP + row * step
        image.paste(tile, (left, top))
        draw.text((left, top + TILE + 2), caption, _INK, font)
    for number, line in enumerate(lines):
        draw.text((_GAP, rows * step + _GAP + number * _CAPTION), line, _INK, font)
    return image


class HeatmapFolder:
    """Writes the `sheet` and the numbers of each prediction it is called with."""

    def __init__(self, folder: Path, explainer: Explainer) -> None:
        self._folder, self._explainer = folder, explainer
        self._last, self._face = -1, 0
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.json")):
            logging.warning("%s holds heat maps already; those of equal names are replaced", folder)

    def __call__(self, result: Result) -> None:
        """Writes `<index>[_face]_<file's name>.png` and `.json`; ignores results other than predictions."""
        if not isinstance(result, Prediction):
            return
        result = dataclasses.replace(result, smooth_probabilities=None)  # a map explains the frame alone
        source = result.source
        self._face = self._face + 1 if source.index == self._last else 0  # several faces of one image
        self._last = source.index
        stem = Path(source.file).stem.replace(":", "_")[:_LONGEST_STEM]
        name = f"{source.index:06d}{f'_{self._face}' if self._face else ''}_{stem}"
        (explanation,) = self._explainer.explain([result])
        with files.replacing(self._folder / f"{name}.png") as temporary:
            sheet(explanation).save(temporary, "PNG")
        files.write_json(self._folder / f"{name}.json", explanation.to_dict())
