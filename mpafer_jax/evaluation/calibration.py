"""Calibration of confidences (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import optimize

from mpafer_jax.evaluation.metrics import softmax

NUM_BINS = 15  # as in Guo et al. 2017
# Of the temperature. Reached if no finite one is best: every image is right, or the logits say nothing.
SMALLEST, LARGEST = 0.05, 20.0


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


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """T between `SMALLEST` and `LARGEST` that minimises the cross-entropy of softmax(logits / T) (Guo et al. 2017).

    The cross-entropy is convex in b = 1 / T; its derivative, mean over the images of sum_c p_c z_c - z_y, increases.

    Args:
      logits: z [n, C].
      labels: y int[n], the true classes.
    """
    scores = np.asarray(logits, np.float64)
    true = scores[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        probabilities = np.asarray(softmax(inverse * scores), np.float64)
        expected: npt.NDArray[np.float64] = np.sum(probabilities * scores, axis=1)
        return float(np.mean(expected - true))

    if slope(1 / LARGEST) >= 0:
        return LARGEST
    if slope(1 / SMALLEST) <= 0:
        return SMALLEST
    return 1 / float(cast(Any, optimize).brentq(slope, 1 / LARGEST, 1 / SMALLEST, xtol=1e-12))
