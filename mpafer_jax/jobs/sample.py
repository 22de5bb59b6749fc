"""Sample data: drawn faces in class folders, and a small CLIP with random weights.

For trying an installation. Accuracy on it means nothing, since the weights are random.
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from PIL import Image, ImageDraw

from mpafer_jax.backbones.clip.random_clip import write_random_clip
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.templates import build_hard_prompts

SIZE = 64  # pixels
_OVERSAMPLING = 4  # drawn at this multiple and downsampled, for smooth strokes


@dataclasses.dataclass(frozen=True)
class Strokes:
    """An expression, in units of the image's side.

    Attributes:
      mouth_corners: height of the corners of the mouth above its middle.
      mouth_open: height of the open mouth.
      brow_height: height of the brows above the eyes.
      brow_slope: height of the inner ends of the brows above the outer ones.
      eye_open: height of the eyes.
    """

    mouth_corners: float
    mouth_open: float
    brow_height: float
    brow_slope: float
    eye_open: float


EXPRESSIONS = {
    "neutral": Strokes(0.0, 0.0, 0.09, 0.0, 0.05),
    "happiness": Strokes(0.09, 0.04, 0.10, 0.0, 0.03),
    "sadness": Strokes(-0.07, 0.0, 0.09, 0.06, 0.04),
    "surprise": Strokes(0.0, 0.14, 0.15, 0.0, 0.09),
    "anger": Strokes(-0.04, 0.02, 0.06, -0.06, 0.05),
}


def draw_face(strokes: Strokes, rng: np.random.Generator) -> Image.Image:
    """One RGB image of SIZE x SIZE pixels; `rng` varies position, proportions, colours and strength."""
    side = SIZE * _OVERSAMPLING
    background, skin, ink = rng.integers(90, 200, 3), rng.integers(130, 240, 3), rng.integers(0, 70, 3)
    image = Image.new("RGB", (side, side), tuple(background.tolist()))
    draw = ImageDraw.Draw(image)
    center = 0.5 + rng.normal(0, 0.03, 2)
    strength = rng.uniform(0.7, 1.2)
    ink_color, width = tuple(ink.tolist()), max(1, round(0.02 * side))

    def at(x: float, y: float) -> tuple[float, float]:
        return side * float(center[0] + x), side * float(center[1] + y)

    draw.ellipse([at(-rng.uniform(0.28, 0.34), -0.4), at(rng.uniform(0.28, 0.34), 0.4)], fill=tuple(skin.tolist()))
    height = strokes.eye_open * rng.uniform(0.8, 1.2)
    for sign in (-1, 1):
        draw.ellipse(
            [at(sign * 0.13 - 0.05, -0.1 - height / 2), at(sign * 0.13 + 0.05, -0.1 + height / 2)], fill=ink_color
        )
        lift = strokes.brow_slope * strength / 2
        brow = -0.1 - strokes.brow_height - rng.normal(0, 0.008)
        draw.line([at(sign * 0.2, brow + lift), at(sign * 0.07, brow - lift)], fill=ink_color, width=width)
    corners, opening = strokes.mouth_corners * strength, strokes.mouth_open * strength
    xs = np.linspace(-0.13, 0.13, 21)
    arc = 0.2 - corners * (xs / 0.13) ** 2
    upper = [at(float(x), float(y)) for x, y in zip(xs, arc, strict=True)]
    droop = opening * np.sqrt(1 - (xs / 0.131) ** 2)
    lower = [at(float(x), float(y)) for x, y in zip(xs, arc + droop, strict=True)]
    draw.line([*upper, *lower[::-1], upper[0]], fill=ink_color, width=width)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def write_faces(folder: pathlib.Path, per_split: dict[str, int], seed: int) -> None:
    """Writes `folder/<split>/<expression>/NNN.png`; `per_split` gives the images per expression of each split."""
    for split_index, (split, count) in enumerate(per_split.items()):
        for label, (name, strokes) in enumerate(EXPRESSIONS.items()):
            target = folder / split / name
            target.mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng((seed, split_index, label, number))
                draw_face(strokes, rng).save(target / f"{number:03d}.png")


def write_sample(out: pathlib.Path, *, train_per_class: int, test_per_class: int, seed: int) -> None:
    """Writes `<out>/faces` and `<out>/clip`.

    Raises:
      FileExistsError: `out` exists.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; name a folder that is not, or remove it")
    write_faces(out / "faces", {"train": train_per_class, "test": test_per_class}, seed)
    bank = load_bank("expressions")
    texts = build_hard_prompts(list(bank.classes), 3, bank.first(1)).every_text()
    write_random_clip(
        out / "clip",
        hidden=64,
        layers=3,
        heads=4,
        image_size=SIZE,
        patch_size=8,
        projection_dim=64,
        seed=seed,
        vocab_size=1500,
        texts=texts,
    )
