"""Styles: a medium (how the face is drawn) and a camera (what is done to the image).

`colour`, `paint` and `grey` are for pre-training, the others are distribution shifts: `sketch`, `print`, `faint` and
`neon` for choosing settings, `poster` and `infrared` for results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Medium = Literal["photo", "drawing", "sketch"]
Palette = Literal["colour", "grey", "poster", "infrared"]
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Style:
    """A style; ranges are (low, high), sampled uniformly for every image.

    Attributes:
      medium: photo (soft shading), drawing (flat colours with ink lines) or sketch (pencil on paper).
      exposure: factor on the brightness.
      contrast: factor on the distance from middle grey.
      blur: standard deviation in pixels of a 96-pixel image.
      noise: standard deviation in grey levels of 255.
      jpeg_quality: 1 to 95; (0, 0) for no compression.
      occlusion: probability of an occluding object.
      difficulty: see `expressions.sample_units`.
    """

    name: str
    medium: Medium
    palette: Palette = "colour"
    exposure: Range = (0.85, 1.1)
    contrast: Range = (0.85, 1.15)
    blur: Range = (0.0, 0.5)
    noise: Range = (0.0, 4.0)
    jpeg_quality: Range = (0.0, 0.0)
    occlusion: float = 0.1
    difficulty: float = 1.0


_ALL = (
    Style("colour", "photo", exposure=(0.75, 1.1), blur=(0.0, 0.7), noise=(0.0, 6.0), jpeg_quality=(50, 95)),
    Style("paint", "drawing", blur=(0.0, 0.5), noise=(0.0, 3.0)),
    Style(
        "grey",
        "photo",
        palette="grey",
        exposure=(0.75, 1.15),
        contrast=(0.6, 0.95),
        blur=(0.5, 1.0),
        noise=(4.0, 9.0),
        jpeg_quality=(30, 70),
        occlusion=0.25,
    ),
    Style("sketch", "sketch", palette="grey", blur=(0.2, 0.8), noise=(4.0, 12.0), occlusion=0.25),
    Style("print", "photo", palette="poster", blur=(0.0, 0.5), noise=(2.0, 8.0), occlusion=0.2),
    Style("faint", "sketch", palette="grey", contrast=(0.3, 0.5), blur=(0.6, 1.2), noise=(14.0, 26.0), occlusion=0.25),
    Style("neon", "sketch", palette="infrared", blur=(0.2, 0.8), noise=(4.0, 12.0), occlusion=0.2),
    Style("poster", "drawing", palette="poster", blur=(0.0, 0.5), noise=(2.0, 8.0), occlusion=0.2),
    Style("infrared", "photo", palette="infrared", blur=(0.3, 0.9), noise=(4.0, 10.0), occlusion=0.2),
)
STYLES: Mapping[str, Style] = {style.name: style for style in _ALL}
