"""Selective classification: answering only what the model is sure of (Geifman and El-Yaniv, "Selective Classification
for Deep Neural Networks", 2017)."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from mpafer_jax.evaluation.statistics import wilson

MIN_ANSWERED = 20  # fewer right answers in a row prove nothing
_THRESHOLDS = np.arange(100) / 100

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


def risk_coverage(confidence: Floats, correct: Bools) -> npt.NDArray[np.float64]:
    """Risk by coverage [n]: the share of errors among the i + 1 images with the highest confidence.

    The area under the curve (AURC) is its mean. Of images with the same confidence each counts as their mean error.

    Args:
      confidence: [n].
      correct: [n], whether the predicted class is the true one.
    """
    _, group = np.unique(-confidence.astype(np.float64), return_inverse=True)
    errors = np.bincount(group, ~correct) / np.bincount(group)
    return np.cumsum(errors[np.sort(group)]) / np.arange(1, len(correct) + 1)


@dataclasses.dataclass(frozen=True)
class Answered:
    """The images with a confidence of at least `min_confidence`, as fractions of 1.

    Attributes:
      count: of images answered.
      coverage: their share.
      accuracy: among them; None if there are none.
      interval: its 95% confidence interval (Wilson); None likewise.
    """

    min_confidence: float
    count: int
    coverage: float
    accuracy: float | None
    interval: tuple[float, float] | None


def answered(confidence: Floats, correct: Bools, min_confidence: float) -> Answered:
    """Coverage and accuracy of a threshold; arguments as for `risk_coverage`."""
    chosen = confidence >= min_confidence
    count, hits = int(chosen.sum()), int(correct[chosen].sum())
    if not count:
        return Answered(min_confidence, 0, 0.0, None, None)
    low, high = wilson(hits, count)
    return Answered(min_confidence, count, count / len(correct), hits / count, (float(low), float(high)))


def threshold_for(accuracy: float, confidence: Floats, correct: Bools, at_least: int = MIN_ANSWERED) -> float | None:
    """The lowest of the thresholds 0, 0.01, .. 0.99 whose answers have an accuracy; None if none has.

    Args:
      accuracy: wanted, a fraction of 1.
      confidence, correct: as for `risk_coverage`.
      at_least: number of images that must be answered.
    """
    for threshold in _THRESHOLDS.tolist():
        found = answered(confidence, correct, threshold)
        if found.accuracy is None or found.count < at_least:
            return None
        if found.accuracy >= accuracy:
            return threshold
    return None
