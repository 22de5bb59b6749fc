"""Contact sheets: example images of every class of a dataset, or middle frames of clips, and pairs of images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data.prepared import prepare
from mpafer_jax.data.preprocess import decode_rgb
from mpafer_jax.data.records import ImageSource
from mpafer_jax.data.registry import prepared_root, read_source
from mpafer_jax.data.splits import concatenate
from mpafer_jax.runtime.errors import DataError

_PAPER, _TEXT, _FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)


def contact_sheet(data: DataSection, split: str, per_class: int, tile: int = 96, seed: int = 0) -> Image.Image:
    """Draws up to `per_class` random images of every class in a row, in the order of the labels.

    Args:
      split: a split of the dataset's files; DataError if it does not exist.
      tile: height of a row and width of a column in pixels; images keep their aspect ratio.
    """
    source = read_source(data)
    parts = source.parts(split)
    if not source.splits.keys() >= set(parts):
        raise DataError(f"no split {split!r} to show; {data.dataset} has {', '.join([*source.splits, *source.joined])}")
    prepared = prepare(source, prepared_root(data), data.on_bad_image)
    chosen, class_names = concatenate(data, parts, split, prepared, source), prepared.summary.class_names
    font = ImageFont.load_default(max(10, tile // 7))
    counts = [int((chosen.labels == label).sum()) for label in range(len(class_names))]
    margin = 12 + round(max(font.getlength(text) for text in (*class_names, *map(str, counts))))
    sheet = Image.new("RGB", (margin + per_class * tile, len(class_names) * tile), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (name, number) in enumerate(zip(class_names, counts, strict=True)):
        middle = round((row + 0.5) * tile)
        draw.text((6, middle), name, _TEXT, font, anchor="ld")
        draw.text((6, middle + 2), str(number), _FAINT, font, anchor="la")
        rng = np.random.default_rng((seed, row))
        shown = rng.permutation(np.flatnonzero(chosen.labels == row))[:per_class]
        for column, index in enumerate(shown.tolist()):
            middle_frame = chosen.source.image(index, int(chosen.source.num_frames[index]) // 2)
            _paste(sheet, middle_frame, margin + column * tile, row * tile, tile)
    return sheet


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image with the caption below it."""

    image: ImageSource
    caption: str


def pairs_sheet(pairs: Sequence[tuple[Tile, Tile]], tile: int = 96, columns: int = 5) -> Image.Image:
    """Draws pairs of images side by side, with `columns` pairs in a row; long captions are cut at their start."""
    size = max(9, tile // 9)
    font, line = ImageFont.load_default(size), round(1.3 * size)
    width, height = 2 * tile + 12, tile + 2 * line + 8
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pairs) / columns) * height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        row, column = divmod(number, columns)
        for position, shown in enumerate(pair):
            _paste(sheet, decode_rgb(shown.image.read()), column * width + position * tile, row * height, tile)
            text = shown.caption
            while font.getlength(text) > width - 6:
                text = f"…{text[2:]}"
            draw.text((column * width + 2, row * height + tile + position * line), text, _TEXT, font)
    return sheet


def _paste(sheet: Image.Image, image: Image.Image, left: int, top: int, tile: int) -> None:
    """Puts an image in the middle of a square tile."""
    image = ImageOps.contain(image.convert("RGB"), (tile, tile), Image.Resampling.BICUBIC)
    sheet.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))
