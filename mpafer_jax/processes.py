"""Processes that share work which keeps a core busy."""

from __future__ import annotations

import multiprocessing
import os
from concurrent import futures


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pool(processes: int = 0) -> futures.ProcessPoolExecutor:
    """A pool of so many processes, one per usable core for 0.

    They are spawned: a fork of a process in which JAX runs threads can hang. Spawned processes import the main module,
    so a script that starts a pool keeps its own work below `if __name__ == "__main__"`.
    """
    return futures.ProcessPoolExecutor(processes or usable_cores(), multiprocessing.get_context("spawn"))
