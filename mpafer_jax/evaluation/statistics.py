"""Repeated measurements: mean, standard deviation, confidence interval, t-test. Intervals of counted proportions."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
_Z = float(cast(Any, stats).norm.ppf((1 + CONFIDENCE) / 2))
_ROUNDING = 1e-12  # smaller deviations are rounding errors


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Summary of repeated measurements of one quantity.

    Attributes:
      deviation: sample standard deviation (n - 1); None with fewer than two values.
      count: n.
      interval: 95% confidence interval of the mean (Student's t, n - 1 degrees of freedom); None with fewer than two
        values, or if all are equal.
      p_value: two-sided t-test against a true mean of 0 (paired t-test for differences); None as for `interval`.
    """

    mean: float
    deviation: float | None
    count: int
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Estimate:
        """Summary of at least one value."""
        array = np.asarray(values, np.float64)
        mean, count = float(array.mean()), len(array)
        deviation = float(array.std(ddof=1)) if count > 1 else None
        if deviation is None or deviation <= _ROUNDING:
            return cls(mean, deviation, count)
        test = cast(Any, stats).ttest_1samp(array, 0.0)
        low, high = test.confidence_interval(CONFIDENCE)
        return cls(mean, deviation, count, (float(low), float(high)), float(test.pvalue))


def wilson(hits: npt.ArrayLike, counts: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """95% confidence intervals (low, high) of proportions, by Wilson (1927), which holds for few images too.

    Args:
      hits, counts: of the same shape; counts above 0.
    """
    n = np.asarray(counts, np.float64)
    share, z2 = np.asarray(hits, np.float64) / n, _Z**2
    center, half = share + z2 / (2 * n), _Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return (center - half) / (1 + z2 / n), (center + half) / (1 + z2 / n)


def mean_interval(hits: npt.ArrayLike, counts: npt.ArrayLike) -> tuple[float, float]:
    """95% confidence interval of the mean of independent proportions, such as the recalls of C classes.

    Made of the proportions' Wilson intervals (Zou, Huang and Zhang 2009): the distances of their ends to the
    proportions are added like standard errors.

    Args:
      hits, counts: [C]; counts above 0.
    """
    shares = np.asarray(hits, np.float64) / np.asarray(counts, np.float64)
    low, high = wilson(hits, counts)
    mean = float(shares.mean())
    below, above = (float(np.linalg.norm(shares - end)) / len(shares) for end in (low, high))
    return mean - below, mean + above


def percent(estimate: Estimate | None, sign: str = "") -> str:
    """In percent, as "71.43 ± 0.52", with the sample standard deviation; `sign` "+" always writes the mean's sign."""
    if estimate is None:
        return ""
    tail = "" if estimate.deviation is None else f" ± {100 * estimate.deviation:.2f}"
    mean = round(100 * estimate.mean, 2) + 0.0  # + 0.0: turns -0.0 into 0.0
    return f"{mean:{sign}.2f}{tail}"
