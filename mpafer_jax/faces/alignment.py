"""Face alignment: a crop in which five landmarks lie as nearly as possible at fixed places."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Points = npt.NDArray[np.float64]

# Left eye, right eye, tip of the nose, left and right corner of the mouth, as seen in the image: (x, y) as fractions of
# the crop's side. The proportions are those of ArcFace's template (arXiv:1801.07698) at 85% of its size and higher up,
# so that brows and chin are inside. [ours]
TEMPLATE = ((0.37, 0.42), (0.63, 0.42), (0.5, 0.57), (0.39, 0.725), (0.61, 0.725))
SIZE = 224  # pixels; the side of the crop
_BORDER = 4  # pixels of the crop's, around the part of an image that is resampled, for the filter


def describe_crop(size: int = SIZE, margin: float = 0.0) -> str:
    """How faces are cropped, for protocols and for the fingerprints of prepared copies; arguments as for `align`."""
    around = f", and {margin:g} of the side around them" if margin else ""
    return _by_landmarks(size, TEMPLATE, around)


def describe_targets(size: int = SIZE, margin: float = 0.0) -> str:
    """`describe_crop` with the fractions of the side that the margin leaves, to crop by without this program."""
    return _by_landmarks(size, targets(margin).round(4).tolist())


def _by_landmarks(size: int, fractions: Iterable[Sequence[float]], around: str = "") -> str:
    return (
        f"{size}x{size} pixels from five landmarks, by a similarity transform (least squares) to the fractions "
        f"{', '.join(f'({x:g}, {y:g})' for x, y in fractions)} of the side, for eyes, nose and corners of the mouth"
        f"{around}; black beyond the image"
    )


def targets(margin: float) -> Points:
    """`TEMPLATE` as fractions of the side with the margin, [5, 2]."""
    return (np.array(TEMPLATE) + margin) / (1 + 2 * margin)


def check_margin(margin: float) -> float:
    """Returns a valid margin, a fraction of the crop's side.

    Raises:
      ValueError: it is not in (-0.5, 4].
    """
    if not -0.5 < margin <= 4:
        raise ValueError(f"a margin is a fraction of the crop's side, above -0.5 and at most 4, found {margin}")
    return margin


def similarity(points: npt.ArrayLike, targets: npt.ArrayLike) -> Points:
    """The similarity transform (rotation, scale, translation) that maps points nearest to targets, by squared distance.

    The solution of Umeyama (1991) without reflections. In the plane it is a linear regression of complex numbers.

    Args:
      points, targets: [n, 2], x and y; at least two different points.

    Returns:
      float64[2, 3]: target = matrix[:, :2] @ point + matrix[:, 2].

    Raises:
      ValueError: all points are equal or all targets are, or a number is not finite.
    """
    source, target = (np.asarray(values, np.float64) @ (1, 1j) for values in (points, targets))
    centered = source - source.mean()
    spread = float(np.square(np.abs(centered)).sum())
    turn = complex(centered.conj() @ (target - target.mean())) / spread if spread > 0 else 0j
    if not np.isfinite(turn) or turn == 0:
        raise ValueError(f"no similarity transform takes the points {np.asarray(points).tolist()} to their places")
    shift = complex(target.mean() - turn * source.mean())
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def inverse(matrix: Points) -> Points:
    """The inverse of an affine map [2, 3]."""
    linear = np.linalg.inv(matrix[:, :2]).astype(np.float64)
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def apply(matrix: Points, points: npt.ArrayLike) -> Points:
    """An affine map [2, 3] of points [n, 2]."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def tilt(points: npt.ArrayLike) -> float:
    """In-plane rotation of a face in degrees, -180 to 180, positive if the eye on the right is lower.

    Args:
      points: [5, 2], in the order of `TEMPLATE`.

    Raises:
      ValueError: see `similarity`.
    """
    matrix = similarity(TEMPLATE, points)
    return math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))


def placement(
    points: npt.ArrayLike, size: int | None = SIZE, margin: float = 0.0, *, upright: bool = True
) -> tuple[Points, int]:
    """Where the crop of `align` lies; arguments and errors as there.

    Returns:
      float64[2, 3], from the image's pixels to the crop's, and the crop's side in pixels.
    """
    matrix = similarity(points, targets(margin))  # to fractions of the side
    scale = math.hypot(*matrix[:, 0])
    if not upright:
        center = apply(inverse(matrix), [(0.5, 0.5)])[0]
        matrix = np.column_stack([scale * np.eye(2), 0.5 - scale * center])
    side = size or max(1, round(1 / scale))
    return side * matrix, side


def align(
    image: Image.Image,
    points: npt.ArrayLike,
    size: int | None = SIZE,
    margin: float = 0.0,
    *,
    upright: bool = True,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """The aligned crop of a face.

    Args:
      image: grey or RGB.
      points: [5, 2], x and y in pixels, in the order of `TEMPLATE`.
      size: side of the crop in pixels; None for as many as the square has in the image.
      margin: added on each side, as a fraction of the side.
      upright: whether the face is turned; if not, the crop is the square of the same centre and size.
      resample: the filter.

    Returns:
      `size` x `size` pixels in the image's mode, black beyond the image.

    Raises:
      ValueError: see `similarity`.
    """
    matrix, side = placement(points, size, margin, upright=upright)
    # Only the part of the image that the crop shows is worked on: it may be one face of a large photograph.
    corners = apply(inverse(matrix), [(0, 0), (side, 0), (0, side), (side, side)])
    border = _BORDER / min(1.0, math.hypot(*matrix[:, 0]))
    left, top = np.clip(np.floor(corners.min(axis=0) - border), 0, image.size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0) + border), 0, image.size).astype(int).tolist()
    if left >= right or top >= bottom:
        return Image.new(image.mode, (side, side))
    part = image.crop((left, top, right, bottom))
    matrix[:, 2] += matrix[:, :2] @ (left, top)
    scale = math.hypot(*matrix[:, 0])
    if scale < 1:
        # Reduced with a filter first: a transform reads the same few pixels however many lie between them.
        small = (max(1, round(scale * part.width)), max(1, round(scale * part.height)))
        matrix[:, :2] *= np.array(part.size) / small
        part = part.resize(small, resample)
    # Pillow wants the map from the crop to the image.
    coefficients = tuple(inverse(matrix).ravel().tolist())
    return part.transform((side, side), Image.Transform.AFFINE, coefficients, resample)
