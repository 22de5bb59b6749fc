"""Contact sheet of a dataset: one row of example images, or middle frames of clips, per class."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data.prepared import prepare
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
            image = ImageOps.contain(middle_frame.convert("RGB"), (tile, tile), Image.Resampling.BICUBIC)
            left, top = margin + column * tile, row * tile
            sheet.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))
    return sheet
