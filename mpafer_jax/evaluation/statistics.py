"""Repeated measurements: mean, standard deviation, confidence interval, t-test. Intervals of counted proportions.
Many comparisons: p-values corrected for their number, ranks of methods over datasets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
_Z = float(cast(Any, stats).norm.ppf((1 + CONFIDENCE) / 2))
_DECIMALS = 12  # the rest of a score is rounding errors
_ROUNDING = 10.0**-_DECIMALS  # smaller deviations are


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
    low, high = ((center + sign * half) / (1 + z2 / n) for sign in (-1, 1))
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)  # by rounding -1e-17, which is printed as -0.0


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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number n by Holm ("A simple sequentially rejective multiple test procedure", 1979).

    The smallest is multiplied by n, the next by n - 1, and so on; each is at least its predecessor and at most 1. If
    those below 0.05 are called different, the probability that any of these is not is below 0.05. None is not counted
    and stays None.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Ranks of k methods over N datasets, as Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets",
    JMLR 2006, compares them.

    Attributes:
      ranks: mean rank of each method, 1 the best.
      statistic, p_value: Friedman's chi-square with k - 1 degrees of freedom, corrected for ties; 0 and 1 if all
        methods are equal on all datasets.
      critical_difference: Nemenyi's, at 0.05: methods whose mean ranks are closer are not told apart.
    """

    ranks: tuple[float, ...]
    statistic: float
    p_value: float
    critical_difference: float

    @classmethod
    def of(cls, scores: npt.ArrayLike) -> Ranking:
        """Ranks scores [N, k], of which larger ones are better; equal ones share the mean of their ranks.

        Scores that differ by a rounding error, as means of the same numbers in another order do, are equal.

        Raises:
          ValueError: fewer than two datasets or three methods.
        """
        array = np.asarray(scores, np.float64).round(_DECIMALS)
        datasets, methods = array.shape
        if datasets < 2 or methods < 3:
            raise ValueError(f"{datasets} datasets and {methods} methods; expected two and three at least")
        test = cast(Any, stats)
        ranks = test.rankdata(-array, axis=1)
        statistic, p_value = 0.0, 1.0
        if np.any(ranks != ranks[:, :1]):
            statistic, p_value = map(float, test.friedmanchisquare(*array.T))
        quantile = float(test.studentized_range.ppf(CONFIDENCE, methods, np.inf)) / math.sqrt(2)
        critical = quantile * math.sqrt(methods * (methods + 1) / (6 * datasets))
        return cls(tuple(ranks.mean(axis=0).tolist()), statistic, p_value, critical)

    def groups(self) -> list[list[int]]:
        """Largest groups of methods, by index and best first, of which no two are told apart."""
        order = sorted(range(len(self.ranks)), key=lambda index: self.ranks[index])
        groups: list[list[int]] = []
        for place, first in enumerate(order):
            near = [i for i in order[place:] if self.ranks[i] - self.ranks[first] < self.critical_difference]
            if not groups or near[-1] != groups[-1][-1]:
                groups.append(near)
        return groups


def percent(estimate: Estimate | None, sign: str = "") -> str:
    """In percent, as "71.43 ± 0.52", with the sample standard deviation; `sign` "+" always writes the mean's sign."""
    if estimate is None:
        return ""
    tail = "" if estimate.deviation is None else f" ± {100 * estimate.deviation:.2f}"
    mean = round(100 * estimate.mean, 2) + 0.0  # + 0.0: turns -0.0 into 0.0
    return f"{mean:{sign}.2f}{tail}"


def p_value(p: float | None) -> str:
    """As "0.043" or "<0.001"; empty without a test."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
