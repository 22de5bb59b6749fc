"""Timing of blocks of calls, and peak memory.

Absolute times vary on a shared machine: measure in turns, and compare within each turn.
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
    """Median, minimum and maximum of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def time_block(call: Callable[[], object], calls: int = 1) -> float:
    """Mean seconds per call of `calls` in a row; each must wait for its results."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def alternate(blocks: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measures several blocks in turns: one of each in every turn, by name.

    Every turn starts with the next block, so that the order rotates.
    """
    names = list(blocks)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(blocks[name]())
    return found


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the quotients, turn by turn."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])


def peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # KiB on Linux
