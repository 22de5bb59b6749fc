"""Mean, spread, confidence interval and test of few repeated measurements."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What repeated measurements of one quantity say of it.

    Attributes:
      mean: of all.
      deviation: sample standard deviation (n - 1); None with fewer than two.
      count: n.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Estimate:
        """Of at least one value."""
        array = np.asarray(values, np.float64)
        return cls(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))

    @property
    def varies(self) -> bool:
        """Whether there are two values that differ by more than rounding."""
        return self.deviation is not None and self.deviation > 1e-12

    @property
    def margin(self) -> float | None:
        """Half the width of the mean's 95% confidence interval, by Student's t with n - 1 degrees of freedom.

        None with fewer than two values, or where all are equal: then nothing was left to chance.
        """
        if not self.varies:
            return None
        deviation = cast(float, self.deviation)
        quantile = float(cast(Any, stats).t.ppf((1 + CONFIDENCE) / 2, self.count - 1))
        return quantile * deviation / self.count**0.5

    @property
    def interval(self) -> tuple[float, float] | None:
        """The mean's 95% confidence interval; None where there is no `margin`."""
        return None if self.margin is None else (self.mean - self.margin, self.mean + self.margin)

    @property
    def p_value(self) -> float | None:
        """Two-sided p of the hypothesis that the true mean is 0 (t-test; of differences, the paired t-test).

        None with fewer than two values, or where all are equal, of which the test says nothing.
        """
        if not self.varies:
            return None
        t = self.mean / (cast(float, self.deviation) / self.count**0.5)
        return float(2 * cast(Any, stats).t.sf(abs(t), self.count - 1))


def percent(estimate: Estimate | None, sign: str = "") -> str:
    """In percent, as "71.43 ± 0.52", with the sample standard deviation; `sign` "+" writes the mean's sign always."""
    if estimate is None:
        return ""
    tail = "" if estimate.deviation is None else f" ± {100 * estimate.deviation:.2f}"
    mean = round(100 * estimate.mean, 2) + 0.0  # + 0.0: a difference that rounds to -0.00 is none
    return f"{mean:{sign}.2f}{tail}"
