"""The planes that a face is drawn on, and the strokes and fills that parts are made of.

colour   RGB: what is seen
ink      L: contour lines and dark details, 0 to 255, for media that show lines
relief   L: fine folds of the skin, 128 flat, darker in a furrow and lighter beside it
shade    soft light and dark blobs of the skin, gathered and drawn at once at low resolution
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from mpafer_jax.synthface.face import Rgb
from mpafer_jax.synthface.geometry import Frame, Points, Vector, ribbon, taper

_LOW = 48  # side of the plane of soft blobs; they are much larger than its pixels
_FLAT = 128


class Canvas:
    """Planes of `frame.side` pixels and everything that draws on them; all places are face coordinates."""

    def __init__(self, frame: Frame):
        size = (frame.side, frame.side)
        self.frame = frame
        self.colour = Image.new("RGB", size)
        self.ink = Image.new("L", size)
        self.relief = Image.new("L", size, _FLAT)
        self._colour = ImageDraw.Draw(self.colour)
        self._ink = ImageDraw.Draw(self.ink)
        self._relief = ImageDraw.Draw(self.relief)
        self._blobs: dict[str, list[tuple[float, float, float, float, float]]] = {}

    def fill(
        self,
        outline: Points,
        colour: Rgb,
        ink: float = 0.0,
        edge: float = 0.0,
        lift: float | Vector = 0.0,
        flat: float = 0.0,
    ) -> None:
        """A filled outline; covers the ink below it with its own, and draws its edge in ink where `edge` is above 0."""
        xy = _flat(self.frame(outline, lift, flat))
        self._colour.polygon(xy, fill=colour)
        self._ink.polygon(xy, fill=round(255 * ink))
        if edge:
            self._ink.line([*xy, *xy[:4]], fill=round(255 * edge), width=max(1, round(self.frame.side / 110)))

    def stroke(
        self,
        line: Points,
        width: float,
        colour: Rgb,
        ink: float = 0.8,
        ends: tuple[float, float] = (0.2, 0.2),
        lift: float = 0.0,
        flat: float = 0.0,
    ) -> None:
        """A line that thins towards its ends; `width` in face units."""
        pixels = self.frame(line, lift, flat)
        widths = np.maximum(width * self.frame.scale * taper(len(line), *ends), 1.0)
        xy = _flat(ribbon(pixels, widths))
        self._colour.polygon(xy, fill=colour)
        self._ink.polygon(xy, fill=round(255 * ink))

    def fold(self, line: Points, amount: float, width: float = 0.03, lift: float = 0.0) -> None:
        """A wrinkle: a dark furrow and the light edge below it. `amount` 0 (none) to 1 (deep)."""
        if amount < 0.04:
            return
        amount = min(amount, 1.0)
        pixels = self.frame(line, lift)
        widths = (0.55 + 0.45 * amount) * width * self.frame.scale * taper(len(line))
        depth = amount**0.8
        # The light edge first, so that the furrow stays whole.
        self._relief.polygon(
            _flat(ribbon(pixels + (0.0, 0.75 * width * self.frame.scale), widths)), fill=_FLAT + round(46 * depth)
        )
        xy = _flat(ribbon(pixels, widths))
        self._relief.polygon(xy, fill=_FLAT - round(72 * depth))
        self._ink.polygon(xy, fill=round(225 * depth))

    def blob(self, x: float, y: float, rx: float, ry: float, amount: float, plane: str = "shade") -> None:
        """A soft bump of light (`amount` above 0) or shade on the skin, rx and ry its standard deviations."""
        if amount:
            (px, py) = self.frame(np.array([[x, y]]))[0]
            scale = self.frame.scale
            self._blobs.setdefault(plane, []).append((float(px), float(py), rx * scale, ry * scale, amount))

    def soft(self, plane: str = "shade") -> npt.NDArray[np.float64]:
        """The sum of a plane's blobs at low resolution: float64[48, 48]."""
        found = self._blobs.get(plane)
        if not found:
            return np.zeros((_LOW, _LOW))
        values = np.array(found)
        centre = (np.arange(_LOW) + 0.5) * self.frame.side / _LOW
        across = np.exp(-0.5 * ((centre[None, :] - values[:, 0:1]) / values[:, 2:3]) ** 2)
        down = np.exp(-0.5 * ((centre[None, :] - values[:, 1:2]) / values[:, 3:4]) ** 2)
        total: npt.NDArray[np.float64] = (down * values[:, 4:5]).T @ across
        return total

    def mask(self, *outlines: Points) -> Image.Image:
        """Where any of the outlines (in pixels) is filled: L, 0 or 255."""
        plane = Image.new("L", (self.frame.side, self.frame.side))
        draw = ImageDraw.Draw(plane)
        for outline in outlines:
            draw.polygon(_flat(outline), fill=255)
        return plane

    def paste(self, picture: Image.Image | Rgb, mask: Image.Image) -> None:
        """Puts a picture (of the low resolution's or the canvas's size) or a colour where the mask is."""
        if isinstance(picture, Image.Image) and picture.size != self.colour.size:
            picture = picture.resize(self.colour.size, Image.Resampling.BICUBIC)
        self.colour.paste(picture, (0, 0) if isinstance(picture, Image.Image) else None, mask)

    def emboss(self) -> None:
        """Presses the folds drawn so far into the colours, and starts a flat relief."""
        blurred = self.relief.filter(ImageFilter.GaussianBlur(0.004 * self.frame.side))
        factor = np.asarray(blurred, np.float32)[..., None] * (1 / _FLAT)
        pixels = np.asarray(self.colour, np.float32)
        # Multiplying alone would hide folds on dark skin: light edges add a little of their own.
        lit = pixels * factor + 60.0 * np.maximum(factor - 1.0, 0.0)
        self.colour = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
        self._colour = ImageDraw.Draw(self.colour)
        self.relief.paste(_FLAT, (0, 0, *self.relief.size))


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """The colour `share` of the way from the first to the second."""
    red, green, blue = (max(0, min(255, round(a + share * (b - a)))) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Rgb, factor: float) -> Rgb:
    """A colour times a factor."""
    return mix((0, 0, 0), colour, factor)


def _flat(xy: Points) -> list[float]:
    values: list[float] = xy.ravel().tolist()
    return values
