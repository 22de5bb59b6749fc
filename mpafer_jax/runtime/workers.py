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
import traceback
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from mpafer_jax.runtime import signals
from mpafer_jax.runtime.errors import UserError, WorkerError

_AHEAD = 2  # items of each process of `made_in_processes` that wait to be used

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


def made_in_processes(make: Callable[[int], T], numbers: range, processes: int, setting: str) -> Generator[T]:
    """Yields make(number) for every number, in order, made some items ahead by so many processes.

    Each process makes every n-th item and has a pipe of its own, whose only writer it is: reading from it ends when the
    process does, even in the middle of an item. Items do not pass through shared memory, of which containers often have
    only 64 MB. Closing or exhausting the generator ends the processes.

    Args:
      make: picklable, see `pool`.
      setting: what sets the number of processes, for messages.

    Raises:
      WorkerError: a process was killed or crashed.
      Exception: what `make` raised.
    """
    context = _Context()
    with contextlib.ExitStack() as stack:
        streams: list[Generator[T]] = []
        for first in range(processes):
            part = numbers[first::processes]
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_make_items, args=(writer, make, part), daemon=True)
            process.start()
            writer.close()
            stack.callback(reader.close)
            thread = stack.enter_context(futures.ThreadPoolExecutor(1))
            stack.callback(process.join)
            stack.callback(process.kill)  # first of the callbacks; without it, reading would go on
            receive = functools.partial(_receive, reader, process, setting)
            streams.append(stack.enter_context(contextlib.closing(map_in_order(thread, receive, part, _AHEAD))))
        for position in range(len(numbers)):
            yield next(streams[position % processes])


def _make_items(writer: multiprocessing.connection.Connection, make: Callable[[int], Any], numbers: range) -> None:
    end_with_parent()
    for number in numbers:
        try:
            item = (make(number), None)
        except Exception as error:
            if not isinstance(error, UserError):
                error.add_note(traceback.format_exc())  # else lost between processes
            item = (None, error)
        writer.send(item)


def _receive(reader: multiprocessing.connection.Connection, process: SpawnProcess, setting: str, number: int) -> Any:
    del number
    try:
        item, error = reader.recv()
    except (EOFError, OSError) as ended:
        process.join()
        code = process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        out_of_memory = ", as Linux does where memory runs out" if code == -signal.SIGKILL else ""
        raise WorkerError(
            f"worker process {process.pid} of {setting} {how}{out_of_memory}; start the same command again, perhaps "
            f"with a smaller {setting}, which needs less memory (0: threads of the command's own process)"
        ) from ended
    if error is not None:
        raise error
    return item


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
