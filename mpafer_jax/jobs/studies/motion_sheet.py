"""The facial-motion prior as an image: mean face of each class, overlaid with its patch weights."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mpafer_jax.config.schema import Config
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation.overlay import heat_overlay
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.method import build, motion_prior
from mpafer_jax.runtime import files

_TILE, _GAP, _LINE = 144, 6, 18  # pixels
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def mean_faces(patches: npt.NDArray[np.floating], patch_size: int) -> Pixels:
    """Images uint8[C, S, S, 3] of patches [C, N, 3 P^2] on the scale 0..1, row by row."""
    classes, count, _ = patches.shape
    side = round(count**0.5)
    cut = patches.reshape(classes, side, side, patch_size, patch_size, 3)
    joined = np.swapaxes(cut, 2, 3).reshape(classes, side * patch_size, side * patch_size, 3)
    return np.round(255 * np.clip(joined, 0, 1)).astype(np.uint8)


def motion_sheet(
    faces: Pixels, weights: Mapping[str, npt.NDArray[np.floating]], class_names: Sequence[str]
) -> Image.Image:
    """A sheet with a column for each class: its mean face, then a heat map for each set of weights.

    The colour scale of each map is 0 to its largest weight, given in its heading, since classes differ too much for a
    shared scale.

    Args:
      faces: uint8[C, S, S, 3].
      weights: heading -> w [C, N], N patches of a square grid, row by row.
      class_names: C names.
    """
    plain = [Image.fromarray(face).resize((_TILE, _TILE), Image.Resampling.BICUBIC) for face in faces]
    rows: list[list[tuple[str, Image.Image]]] = [list(zip(class_names, plain, strict=True))]
    for title, values in weights.items():
        side, highest = round(values.shape[1] ** 0.5), values.max(axis=1)
        heats = (values / highest[:, None]).astype(np.float32).reshape(-1, side, side)
        tiles = [heat_overlay(face, heat, _TILE) for face, heat in zip(faces, heats, strict=True)]
        rows.append([(f"{title}, 0 to {top:.2f}", tile) for top, tile in zip(highest, tiles, strict=True)])
    width, height, font = _TILE + _GAP, _TILE + _LINE + _GAP, ImageFont.load_default(13)
    sheet = Image.new("RGB", (_GAP + len(faces) * width, len(rows) * height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, cells in enumerate(rows):
        for column, (heading, tile) in enumerate(cells):
            left, top = _GAP + column * width, row * height
            draw.text((left, top + 1), heading, _INK, font)
            sheet.paste(tile, (left, top + _LINE))
    return sheet


def write_motion_sheet(config: Config, out: pathlib.Path) -> str:
    """Writes the sheet; returns a Markdown table of each class's distance from neutral, by source."""
    clip = build.load_before_data(config)
    dataset = load_dataset(config.data)
    neutral = motion_prior.neutral_class(dataset.class_names)
    built = build.build_experiment(config, dataset.class_names, clip)
    means = {
        source: motion_prior.measure(config, built, dataset.train, source) for source in get_args(motion_prior.Source)
    }
    maps = {source: motion_prior.motion(mean, neutral) for source, mean in means.items()}
    strength = config.head.motion_strength
    weights = {source: motion_prior.to_weights(moved, neutral, strength) for source, moved in maps.items()}
    faces = mean_faces(means["images"].mean, clip.backbone.spec.patch_size)
    sheet = motion_sheet(faces, weights, dataset.class_names)
    with files.replacing(out) as temporary:
        sheet.save(temporary, "PNG")
    lengths = {source: np.sqrt(np.mean(np.square(moved), axis=1)) for source, moved in maps.items()}
    lines = [
        [name, f"{means['images'].count[row]:.0f}", *(f"{length[row]:.4f}" for length in lengths.values())]
        for row, name in enumerate(dataset.class_names)
    ]
    return markdown(("distance from neutral", "images", *lengths), lines)
