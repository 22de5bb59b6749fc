"""Mean, spread, confidence interval and test of few repeated measurements."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
_ROUNDING = 1e-12  # a smaller deviation is none


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Summary of repeated measurements of one quantity.

    Attributes:
      mean: of all.
      deviation: sample standard deviation (n - 1); None with fewer than two.
      count: n.
      interval: 95% confidence interval of the mean by Student's t with n - 1 degrees of freedom; None with fewer than
        two values, or where all are equal.
      p_value: two-sided p of the hypothesis that the true mean is 0 (t-test; of differences, the paired t-test); None
        likewise.
    """

    mean: float
    deviation: float | None
    count: int
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Estimate:
        """Of at least one value."""
        array = np.asarray(values, np.float64)
        mean, count = float(array.mean()), len(array)
        deviation = float(array.std(ddof=1)) if count > 1 else None
        if deviation is None or deviation <= _ROUNDING:
            return cls(mean, deviation, count)
        test = cast(Any, stats).ttest_1samp(array, 0.0)
        low, high = test.confidence_interval(CONFIDENCE)
        return cls(mean, deviation, count, (float(low), float(high)), float(test.pvalue))


def percent(estimate: Estimate | None, sign: str = "") -> str:
    """In percent, as "71.43 ± 0.52", with the sample standard deviation; `sign` "+" writes the mean's sign always."""
    if estimate is None:
        return ""
    tail = "" if estimate.deviation is None else f" ± {100 * estimate.deviation:.2f}"
    mean = round(100 * estimate.mean, 2) + 0.0  # + 0.0: a difference that rounds to -0.00 is none
    return f"{mean:{sign}.2f}{tail}"
