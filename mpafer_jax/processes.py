"""Work that is shared by processes or threads."""

from __future__ import annotations

import collections
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


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


def map_in_order(pool: futures.Executor, function: Callable[[S], T], items: Iterable[S], ahead: int) -> Generator[T]:
    """function(item) for every item, computed by a pool, in the items' order.

    At most `ahead` items are taken before their result is wanted, so that any number of them needs no more memory.
    To be closed (`contextlib.closing`) where it may not be exhausted.
    """
    waiting: collections.deque[futures.Future[T]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
