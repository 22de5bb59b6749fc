"""Images with a face whose place is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

from mpafer_jax.faces.detect import Box

GREY = 128
_SCENE = (640, 480)


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image, and its face's square and tilt; None: there is no face."""

    image: Image.Image
    box: Box | None
    tilt: float = 0.0


def pasted(face: Image.Image, seed: int, side: int = 0, tilt: float = 0.0, size: tuple[int, int] = _SCENE) -> Scene:
    """A face on grey, at a place drawn by the seed; its side is drawn from 90 to 200 pixels if it is 0."""
    rng = np.random.default_rng(seed)
    side = side or int(rng.integers(90, 201))
    border = math.ceil((math.sqrt(2) - 1) / 2 * side) if tilt else 0
    whole = side + 2 * border
    turned = Image.new("RGB", (whole, whole), (GREY,) * 3)
    turned.paste(face.resize((side, side), Image.Resampling.BICUBIC), (border, border))
    turned = turned.rotate(-tilt, Image.Resampling.BICUBIC, fillcolor=(GREY,) * 3)
    image = Image.new("RGB", size, (GREY,) * 3)
    left, top = (int(rng.integers(0, room - whole + 1)) for room in size)
    image.paste(turned, (left, top))
    return Scene(image, (left + border, top + border, side, side), tilt)


def noise(seed: int) -> Scene:
    """Colours drawn for every pixel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*_SCENE[::-1], 3)).astype(np.uint8)
    return Scene(Image.fromarray(pixels), None)


def located(detected: Box, truth: Box) -> bool:
    """Whether the centre of a box lies in the face's square."""
    x, y = detected[0] + detected[2] / 2, detected[1] + detected[3] / 2
    return truth[0] <= x <= truth[0] + truth[2] and truth[1] <= y <= truth[1] + truth[3]
