"""Near-duplicates of FERPlus: time, recall of changed copies, and a sheet of random pairs to judge by eye.

    python -m tests.measurements.near_duplicates FOLDER SHEET.png

FOLDER holds FERPlus in its owners' layout (docs/datasets.md). The sheet shows 50 of the pairs among its images.
"""

import io
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from mpafer_jax.data import near_duplicates
from mpafer_jax.data.contact_sheet import Tile, pairs_sheet
from mpafer_jax.data.inspection import inspect_all, thumbnail, workers
from mpafer_jax.data.preprocess import decode_rgb
from mpafer_jax.data.readers import ferplus
from mpafer_jax.data.records import Record

_COPIES, _SHOWN = 500, 50


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """Encoded as JPEG and decoded."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def resized(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BICUBIC)


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def without_border(image: Image.Image, pixels: int) -> Image.Image:
    """Cropped by a border and enlarged to its size again."""
    cropped = image.crop((pixels, pixels, image.width - pixels, image.height - pixels))
    return cropped.resize(image.size, Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": mirrored,
    "JPEG, quality 75": lambda image: encoded(image, 75),
    "JPEG, quality 30": lambda image: encoded(image, 30),
    "JPEG, quality 15": lambda image: encoded(image, 15),
    "224 pixels": lambda image: resized(image, 224),
    "24 pixels": lambda image: resized(image, 24),
    "brightness x 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness x 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast x 0.6": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "contrast x 1.4": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    "mirrored, brightness x 1.2, 112 pixels, JPEG, quality 50": lambda image: encoded(
        resized(ImageEnhance.Brightness(mirrored(image)).enhance(1.2), 112), 50
    ),
    "1 of 48 pixels cropped at each side": lambda image: without_border(image, 1),
    "2 of 48 pixels cropped at each side": lambda image: without_border(image, 2),
}


def opened(records: list[Record]) -> tuple[list[Record], np.ndarray]:
    """One record of each image that differs in a pixel, and their thumbnails."""
    with workers(computed=False) as pool:
        images = list(inspect_all([record.image for record in records], pool, with_thumbnails=True))
    _, first = np.unique([image.pixel_hash for image in images], return_index=True)
    first.sort()
    return [records[i] for i in first], np.stack([images[i].thumbnail for i in first])


def main(folder: str, sheet: str) -> None:
    index = ferplus.read(pathlib.Path(folder), "majority_labelcsv")
    started = time.monotonic()
    everything = [r for split in index.splits for r in (*index.splits[split], *index.left_out.get(split, ()))]
    records, thumbnails = opened(everything)
    print(f"{len(everything)} images, {len(records)} different ones, opened in {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    pairs = [pair for batch in near_duplicates.find(thumbnails) for pair in batch]
    print(f"{len(pairs)} pairs in {time.monotonic() - started:.1f} s, {sum(p.mirrored for p in pairs)} mirrored")
    rng = np.random.default_rng(0)
    shown = [pairs[i] for i in rng.permutation(len(pairs))[:_SHOWN].tolist()]
    tiles = [
        tuple(Tile(records[p].image, f"{records[p].name} {pair.similarity:.2f}") for p in (pair.first, pair.second))
        for pair in shown
    ]
    pairs_sheet(tiles, columns=10).save(sheet)
    chosen = rng.permutation(len(records))[:_COPIES]
    originals = [decode_rgb(records[i].image.read()) for i in chosen]
    for name, change in CHANGES.items():
        copies = np.stack([thumbnail(change(image)) for image in originals])
        found = near_duplicates.find(np.concatenate([thumbnails, copies]))
        partners = {(pair.first, pair.second) for batch in found for pair in batch}
        recall = np.mean([(i, len(thumbnails) + k) in partners for k, i in enumerate(chosen.tolist())])
        print(f"{name}: {recall:.1%} of {_COPIES} copies paired with their original")


if __name__ == "__main__":
    main(*sys.argv[1:])
