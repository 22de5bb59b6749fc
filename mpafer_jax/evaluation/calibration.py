"""Calibration of confidences (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

NUM_BINS = 15  # as in Guo et al. 2017


@dataclasses.dataclass(frozen=True, slots=True)
class Bin:
    """The images with a confidence in (low, high].

    Attributes:
      confidence: their mean confidence; None without images.
      accuracy: a fraction of 1; None without images.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration over one split. Confidence is the probability of the predicted class.

    Attributes:
      ece: expected calibration error: mean of |accuracy - confidence| over bins, weighted by count.
      confidence: mean over all images.
      accuracy: over all images.
      bins: of equal width, from 0 to 1.
    """

    ece: float
    confidence: float
    accuracy: float
    bins: tuple[Bin, ...]


def calibrate(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], num_bins: int = NUM_BINS
) -> Calibration:
    """Expected calibration error and its bins (Guo et al. 2017).

    Args:
      probabilities: [n, C], rows sum to 1.
      labels: int[n], the true classes.

    Raises:
      ValueError: n is 0.
    """
    if not len(labels):
        raise ValueError("no predictions, so there is no calibration")
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    # Bins are open below: a confidence of exactly 0.2 counts as "at most 0.2".
    position = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    bins: list[Bin] = []
    gaps = 0.0
    for index in range(num_bins):
        members = position == index
        count = int(members.sum())
        mean = float(confidence[members].mean()) if count else None
        share = float(correct[members].mean()) if count else None
        if mean is not None and share is not None:
            gaps += count * abs(share - mean)
        bins.append(Bin(index / num_bins, (index + 1) / num_bins, count, mean, share))
    return Calibration(gaps / len(labels), float(confidence.mean()), float(correct.mean()), tuple(bins))
