"""Face alignment: a crop in which five landmarks lie as nearly as possible at fixed places."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Points = npt.NDArray[np.float64]

# Left eye, right eye, tip of the nose, left and right corner of the mouth, as seen in the image: (x, y) as fractions of
# the crop's side. The proportions are those of ArcFace's template (arXiv:1801.07698) at 85% of its size and higher up,
# so that brows and chin are inside. [ours]
TEMPLATE = ((0.37, 0.42), (0.63, 0.42), (0.5, 0.57), (0.39, 0.725), (0.61, 0.725))
SIZE = 224  # pixels; the side of the crop
# For protocols, and for the fingerprints of prepared copies.
CROP = (
    f"{SIZE}x{SIZE} pixels from five landmarks, by a similarity transform (least squares) to the fractions "
    f"{', '.join(f'({x:g}, {y:g})' for x, y in TEMPLATE)} of the side, for eyes, nose and corners of the mouth; black "
    "beyond the image"
)


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


def align(image: Image.Image, points: npt.ArrayLike, size: int = SIZE) -> Image.Image:
    """The aligned crop of a face.

    Args:
      image: grey or RGB.
      points: [5, 2], x and y in pixels, in the order of `TEMPLATE`.
      size: side of the crop in pixels.

    Returns:
      `size` x `size` pixels in the image's mode, bicubic, black beyond the image.

    Raises:
      ValueError: see `similarity`.
    """
    targets = size * np.array(TEMPLATE)
    source = np.asarray(points, np.float64)
    matrix = similarity(source, targets)
    scale = math.hypot(*matrix[:, 0])
    if scale < 1:
        # Reduced with a filter first: a transform reads the same few pixels however many lie between them.
        small = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
        matrix = similarity(source * np.array(small) / image.size, targets)
        image = image.resize(small, Image.Resampling.BICUBIC)
    # Pillow wants the map from the crop to the image.
    inverse = np.linalg.inv(matrix[:, :2])
    inverse = np.column_stack([inverse, -inverse @ matrix[:, 2]])
    coefficients = tuple(inverse.ravel().tolist())
    return image.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
