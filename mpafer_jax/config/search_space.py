"""What a hyper-parameter search draws from: the values of a field, at random and in a way that can be repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_DIGITS = 3  # significant ones of what is drawn, so that a value can be typed


@dataclasses.dataclass(frozen=True)
class Factor:
    """The default times a factor, which is log-uniform from `low` to `high`."""

    low: float
    high: float

    def value(self, default: Any, uniform: float) -> float:
        """The value at a number drawn uniformly from [0, 1)."""
        return float(f"{default * self.low * (self.high / self.low) ** uniform:.{_DIGITS}g}")

    def text(self, default: Any) -> str:
        """The range, for a table."""
        return f"{default * self.low:g} to {default * self.high:g}, log-uniform"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely."""

    values: tuple[Any, ...]

    def value(self, default: Any, uniform: float) -> Any:
        """See `Factor.value`; the default is not read."""
        del default
        return self.values[int(uniform * len(self.values))]

    def text(self, default: Any) -> str:
        """See `Factor.text`."""
        del default
        return ", ".join(map(str, self.values))


Dimension = Factor | Choice
Space = Mapping[str, Dimension]  # by a field's dotted name


def draw(space: Space, defaults: Mapping[str, Any], *, seed: int, method: str, trial: int) -> dict[str, Any]:
    """The values of a trial: a function of these arguments alone. Trial 0 draws none, so it has the defaults.

    Each field is drawn by itself, so that another field, method or number of trials changes none of the others.

    Args:
      space: of the method.
      defaults: the fields' own values, by dotted name.
    """

    def uniform(field: str) -> float:
        return float(np.random.default_rng([seed, trial, *f"{method} {field}".encode()]).random())

    return {field: space[field].value(defaults[field], uniform(field)) for field in space} if trial else {}
