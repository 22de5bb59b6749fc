"""Seconds and bytes: blocks of calls, their medians and spread, and a process's peak memory.

Of a machine that others use too, a time by itself says little. What is to be compared is measured in turns, and the
comparison is made within each turn.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity: their median, least and greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def time_block(call: Callable[[], object], calls: int = 1) -> float:
    """Mean seconds of a call, over `calls` in a row; each must have finished its work when it returns."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def alternate(blocks: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measures several things in turns, each `repeats` times, by name: one block of each in every turn.

    Every turn starts with the next one of them, so that none always follows the same other.

    Args:
      blocks: what measures one block and returns its seconds (`time_block`, or a question to another process).
      repeats: turns.
    """
    names = list(blocks)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(blocks[name]())
    return found


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The quotient of two things measured in turns, turn by turn."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once (resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB
