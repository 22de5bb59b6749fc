"""Work that is shared by processes or threads."""

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
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pool(processes: int = 0) -> futures.ProcessPoolExecutor:
    """A pool of so many processes, one per usable core for 0.

    They are spawned: a fork of a process in which JAX runs threads can hang. Spawned processes import the main module,
    so a script that starts a pool keeps its own work below `if __name__ == "__main__"`.
    """
    return futures.ProcessPoolExecutor(processes or usable_cores(), _Context(), end_with_parent)


@contextlib.contextmanager
def deaf() -> Generator[None]:
    """Processes that are started meanwhile are deaf to Ctrl-C, SIGTERM and SIGHUP, from their first moment on.

    A terminal and schedulers send these to every process of a command. It is the command that decides what becomes of
    its workers, which otherwise would print their own tracebacks, or be missing for the steps that are still made.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    resource_tracker.ensure_running()  # here: it unblocks signals after its start
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
    """Ends this worker process when the process that started it has ended, however that comes."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def map_in_order(pool: futures.Executor, function: Callable[[S], T], items: Iterable[S], ahead: int) -> Generator[T]:
    """function(item) for every item, computed by a pool, in the items' order.

    At most `ahead` items are taken before their result is wanted, so that any number of them needs no more memory.
    To be closed (`contextlib.closing`) where it may not be exhausted.

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
