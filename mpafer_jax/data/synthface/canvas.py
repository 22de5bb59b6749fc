"""Canvas of a face, with fills, strokes, folds and soft blobs.

Planes:
  colour   RGB
  ink      L: contour lines and dark details, for media with lines
  relief   L: folds of the skin, 128 is flat, darker in a furrow and lighter beside it
  shade    soft light and dark blobs of the skin, summed at low resolution
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mpafer_jax.data.synthface.face import Rgb
from mpafer_jax.data.synthface.geometry import Frame, Points, Vector, ribbons, spline, taper

Plane = npt.NDArray[np.float64]  # [LOW, LOW]
LOW = 48  # side of the plane of soft blobs
_FLAT = 128  # relief of skin without folds
_FOLD_POINTS = 11  # on the curve of a fold
_REACH = 3  # pixels that the blur of a fold reaches beyond it, at most
# By relief, uint8[256, 3]: RGB factor of a furrow (reddish), and what its light edge adds.
_HEIGHT = np.arange(256)[:, None] / _FLAT
_FURROW = np.round(255 * np.minimum(_HEIGHT, 1.0) ** (0.85, 1.05, 1.1)).astype(np.uint8)
_EDGE = np.round(_FLAT * np.maximum(_HEIGHT - 1, 0.0) * (0.85, 0.7, 0.6)).astype(np.uint8)


class _Shape(NamedTuple):
    """A fill or, with widths, a stroke."""

    line: Points
    colour: Rgb
    ink: float
    edge: float
    lift: float
    flat: float
    widths: Vector | None  # at each point, in pixels


class Canvas:
    """Planes of `frame.side` pixels; drawing uses face coordinates.

    Fills and strokes are collected, and drawn once a plane is asked for: NumPy projects all of them in the time of two
    or three. Their points must not be changed in the meantime.
    """

    def __init__(self, frame: Frame):
        size = (frame.side, frame.side)
        self.frame = frame
        self._colour = Image.new("RGB", size)
        self._ink = Image.new("L", size)
        self._shapes: list[_Shape] = []
        self._folds: list[tuple[Points, float, float, float]] = []
        self._blobs: dict[str, list[tuple[float, float, float, float, float]]] = {}

    @property
    def colour(self) -> Image.Image:
        """The colour plane."""
        self._draw_shapes()
        return self._colour

    @property
    def ink(self) -> Image.Image:
        """The ink plane."""
        self._draw_shapes()
        return self._ink

    def fill(
        self, outline: Points, colour: Rgb, ink: float = 0.0, edge: float = 0.0, lift: float = 0.0, flat: float = 0.0
    ) -> None:
        """Fills an outline in colour and ink; `edge` above 0 draws its contour in ink."""
        self._shapes.append(_Shape(outline, colour, ink, edge, lift, flat, None))

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
        """Draws a line that tapers to `ends`; `width` in face units."""
        widths = np.maximum(width * self.frame.scale * taper(len(line), *ends), 1.0)
        self._shapes.append(_Shape(line, colour, ink, 0.0, lift, flat, widths))

    def _draw_shapes(self) -> None:
        if not self._shapes:
            return
        shapes, self._shapes = self._shapes, []
        lengths = [len(shape.line) for shape in shapes]
        lifts, flats, are_strokes = (
            np.repeat(values, lengths)
            for values in zip(*((shape.lift, shape.flat, shape.widths is not None) for shape in shapes), strict=True)
        )
        pixels = self.frame(np.concatenate([shape.line for shape in shapes]), lifts, flats)
        widths = [shape.widths for shape in shapes if shape.widths is not None]
        strokes = iter(ribbons(pixels[are_strokes], widths)) if widths else iter(())
        flat_pixels = _flat(pixels)
        colour, ink = ImageDraw.Draw(self._colour), ImageDraw.Draw(self._ink)
        stop = 0
        for shape, length in zip(shapes, lengths, strict=True):
            start, stop = stop, stop + 2 * length
            xy = flat_pixels[start:stop] if shape.widths is None else next(strokes)
            colour.polygon(xy, fill=shape.colour)
            ink.polygon(xy, fill=round(255 * shape.ink))
            if shape.edge:
                ink.line([*xy, *xy[:4]], fill=round(255 * shape.edge), width=max(1, round(self.frame.side / 110)))

    def fold(self, control: Points, amount: float, width: float = 0.03, lift: float = 0.0) -> None:
        """Adds a wrinkle, which `emboss` draws: a dark furrow with a light edge below it.

        Args:
          control: control points of its spline, float64[n, 2].
          amount: depth, 0 to 1.
          width: of the furrow, in face units.
        """
        if amount >= 0.04:
            self._folds.append((spline(control, _FOLD_POINTS), min(amount, 1.0), width, lift))

    def emboss(self) -> None:
        """Draws the added folds on the colour plane."""
        if not self._folds:
            return
        lines = np.stack([line for line, *_ in self._folds])
        amounts, widths, lifts = np.array([fold[1:] for fold in self._folds]).T
        self._folds.clear()
        pixels = self.frame(lines.reshape(-1, 2), np.repeat(lifts, _FOLD_POINTS)).reshape(lines.shape)
        widths = widths[:, None] * self.frame.scale
        breadths = (0.55 + 0.45 * amounts[:, None]) * widths * taper(_FOLD_POINTS)
        below = pixels.copy()
        below[..., 1] += 0.75 * widths
        outlines = ribbons(np.concatenate([below, pixels]).reshape(-1, 2), [*breadths, *breadths])
        edges, furrows = outlines[: len(lines)], outlines[len(lines) :]
        relief = Image.new("L", self._colour.size, _FLAT)
        draw, ink = ImageDraw.Draw(relief), ImageDraw.Draw(self.ink)
        for edge, furrow, depth in zip(edges, furrows, (amounts**0.8).tolist(), strict=True):
            draw.polygon(edge, fill=_FLAT + round(46 * depth))  # under the furrow
            draw.polygon(furrow, fill=_FLAT - round(72 * depth))
            ink.polygon(furrow, fill=round(225 * depth))
        side, flat = self.frame.side, Image.new("L", relief.size, _FLAT)
        left, top, right, bottom = ImageChops.difference(relief, flat).getbbox() or (0, 0, side, side)
        # Outside of this the plane stays as it is.
        box = (max(left - _REACH, 0), max(top - _REACH, 0), min(right + _REACH, side), min(bottom + _REACH, side))
        relief = relief.crop(box).filter(ImageFilter.BoxBlur(0.004 * side))
        # Light edges are added, since furrows alone are invisible on dark skin.
        pressed = ImageChops.multiply(self.colour.crop(box), coloured(relief, _FURROW))
        self._colour.paste(ImageChops.add(pressed, coloured(relief, _EDGE)), box)

    def blob(self, x: float, y: float, rx: float, ry: float, amount: float, plane: str = "shade") -> None:
        """Adds a Gaussian of light (`amount` above 0) or shade with standard deviations rx and ry."""
        if amount:
            self._blobs.setdefault(plane, []).append((x, y, rx, ry, amount))

    def soft(self, plane: str = "shade") -> Plane:
        """The sum of a plane's blobs, [LOW, LOW]."""
        blob = self._blobs.get(plane)
        if not blob:
            return np.zeros((LOW, LOW))
        values = np.array(blob)
        at, spread = self.frame(values[:, :2]), values[:, 2:4] * self.frame.scale
        centre = (np.arange(LOW) + 0.5) * self.frame.side / LOW
        across = np.exp(-0.5 * ((centre[None, :] - at[:, :1]) / spread[:, :1]) ** 2)
        down = np.exp(-0.5 * ((centre[None, :] - at[:, 1:]) / spread[:, 1:]) ** 2)
        total: Plane = (down * values[:, 4:]).T @ across
        return total

    def mask(self, outline: Points, strength: float = 1.0) -> Image.Image:
        """L: 255 * `strength` inside an outline (in pixels), 0 outside."""
        plane = Image.new("L", self._colour.size)
        ImageDraw.Draw(plane).polygon(_flat(outline), fill=round(255 * strength))
        return plane

    def paste(self, image: Image.Image | Rgb, mask: Image.Image) -> None:
        """Pastes an image (resized to the canvas) or a colour through a mask."""
        if isinstance(image, Image.Image) and image.size != self._colour.size:
            image = image.resize(self._colour.size, Image.Resampling.BICUBIC)
        self.colour.paste(image, (0, 0) if isinstance(image, Image.Image) else None, mask)


def coloured(levels: Image.Image, colours: npt.NDArray[np.uint8]) -> Image.Image:
    """RGB of an L image, by the colour of each level, uint8[256, 3]."""
    indexed = levels.copy()
    indexed.putpalette(colours.tobytes())
    return indexed.convert("RGB")


@functools.lru_cache(maxsize=4096)
def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Linear interpolation from the first colour (`share` 0) to the second (1)."""
    red, green, blue = (max(0, min(255, round(a + share * (b - a)))) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Rgb, factor: float) -> Rgb:
    """A colour times a factor."""
    return mix((0, 0, 0), colour, factor)


def _flat(xy: Points) -> list[float]:
    values: list[float] = xy.ravel().tolist()
    return values
