"""Process pools and ordered parallel maps."""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from mpafer_jax.runtime import signals

S = TypeVar("S")
T = TypeVar("T")


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


READING_THREADS = min(16, usable_cores() + 2)  # more than the cores, since reading waits for the disk


def pool(processes: int = 0) -> futures.ProcessPoolExecutor:
    """A pool of so many processes, one per usable core for 0.

    Processes are spawned, since a fork of a process with JAX's threads can hang. They import the main module, so a
    script that starts a pool needs `if __name__ == "__main__"`.
    """
    return futures.ProcessPoolExecutor(processes or usable_cores(), _Context(), end_with_parent)


@contextlib.contextmanager
def deaf() -> Generator[None]:
    """Blocks Ctrl-C, SIGTERM and SIGHUP in processes started inside the block, from their start.

    Terminals and schedulers send these to every process of a command; the command itself decides when its workers end.
    Otherwise they would print tracebacks, or be missing for the remaining steps.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    resource_tracker.ensure_running()  # before blocking, since its start unblocks signals
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(SpawnProcess):
    def start(self) -> None:
        with deaf():
            super().start()


class _Context(SpawnContext):
    Process = _Worker


@functools.cache
def end_with_parent(*_: Any) -> None:
    """Ends this worker process when its parent ends for any reason."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def map_in_order(pool: futures.Executor, function: Callable[[S], T], items: Iterable[S], ahead: int) -> Generator[T]:
    """Yields function(item) for every item, computed by a pool, in order.

    Takes at most `ahead` items in advance, for bounded memory. Close it (`contextlib.closing`) if it may not be
    exhausted.

    Raises:
      signals.Preempted: before an item, see `signals.orderly`.
    """
    waiting: collections.deque[futures.Future[T]] = collections.deque()
    try:
        for item in items:
            signals.check_alone()
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            signals.check_alone()
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
