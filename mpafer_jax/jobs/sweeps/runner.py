"""Runs a sweep on this machine: concurrent processes of the main command, which resume by themselves."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence

from absl import logging

from mpafer_jax.artifacts.run_dir import SUMMARY
from mpafer_jax.evaluation import protocol
from mpafer_jax.jobs.sweeps.plan import Run
from mpafer_jax.runtime import progress, signals
from mpafer_jax.runtime.console import duration

LOG = "log.txt"
_USER_ERROR = 2  # exit code of non-retryable errors
_LAST_LINES = 15
_MAIN = (sys.executable, "-m", "mpafer_jax.main")
# GPU memory fraction that a JAX process preallocates, and the variables with which a user may set it.
_MEMORY = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE")
_SHARED_MEMORY = 0.9  # shared by all jobs of a GPU; their CUDA contexts need the rest


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed run.

    Attributes:
      reason: exit code and the last lines of the log.
    """

    run: Run
    reason: str


def shared_environment(root: pathlib.Path) -> dict[str, str]:
    """Environment variables with which runs share JAX's persistent compilation cache.

    Seeds of a point compile the same functions. JAX_COMPILATION_CACHE_DIR overrides the folder.
    """
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str((root / "compilation_cache").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return {**cache, **os.environ}


class _Processes:
    """The running processes."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, command: Sequence[str], log: pathlib.Path, environment: Mapping[str, str]) -> int:
        """Runs a process and returns its exit code; its output is appended to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            with self._lock:
                if self.stopping.is_set():
                    return signals.EXIT_CODE
                # In its own process group: Ctrl-C in a terminal reaches only this program, which stops it.
                variables, pipe = signals.ends_with_this(environment)
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=variables,
                    process_group=0,
                    pass_fds=pipe,
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.remove(process)

    def stop(self) -> None:
        """Sends SIGTERM to all processes, which save and exit, and starts no other."""
        with self._lock:
            self.stopping.set()
            for process in self._running:
                process.terminate()

    def kill(self) -> None:
        for process in tuple(self._running):
            process.kill()

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Generator[None]:
        """Within this context SIGTERM and Ctrl-C stop the processes."""
        with signals.listening(), signals.orderly(on_request=self.stop, on_end=self.kill):
            yield
            if self.stopping.is_set():
                raise signals.Preempted("stopped; the same command resumes")


def run_all(
    runs: Sequence[Run],
    root: pathlib.Path,
    *,
    jobs: int,
    retries: int,
    gpus: Sequence[str] = (),
    after_each: Callable[[Run], None],
) -> list[Failure]:
    """Runs all runs; a failed one does not stop the others.

    Args:
      runs: in this order.
      root: the sweep's folder.
      jobs: number of concurrent runs.
      retries: restarts of a failed run. A preempted one is always restarted, one with an error in configuration or data
        never.
      gpus: as in CUDA_VISIBLE_DEVICES; each job uses one, and jobs of one GPU share its memory equally. Empty: jobs
        share all devices.
      after_each: called after each successful run, from one thread at a time.

    Returns:
      The failed runs.

    Raises:
      Preempted: stopped by SIGTERM or Ctrl-C.
    """
    processes = _Processes()
    environment = shared_environment(root)
    slots: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for slot in _slots(jobs, gpus):
        slots.put(slot)

    def make(number: int, run: Run) -> Failure | None:
        slot = slots.get()
        try:
            title = f"run {number} of {len(runs)}, {run.point.title}, {run.kind} {run.seed}"
            return _make(run, root, title, processes, {**environment, **slot}, retries)
        finally:
            slots.put(slot)

    failures: list[Failure] = []
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    with processes.stopped_by_signals():
        waiting: dict[concurrent.futures.Future[Failure | None], Run] = {}
        try:
            for number, run in enumerate(runs, start=1):
                waiting[pool.submit(make, number, run)] = run
            with progress.task("sweep", len(runs), "runs", warms_up=False) as work:
                for future in concurrent.futures.as_completed(waiting):
                    failure = future.result()
                    work.advance()
                    if failure is not None:
                        failures.append(failure)
                    elif not processes.stopping.is_set():
                        after_each(waiting[future])
        finally:  # also if `after_each` fails: then the other runs are stopped
            if any(not future.done() for future in waiting):
                processes.stop()
            pool.shutdown(cancel_futures=True)
    return failures


def _slots(jobs: int, gpus: Sequence[str]) -> list[Mapping[str, str]]:
    """Environment variables of each job. A JAX process preallocates most of a GPU's memory unless it gets a share."""
    sharing = math.ceil(jobs / len(gpus)) if gpus else jobs
    told = any(name in os.environ for name in _MEMORY)
    memory = {_MEMORY[0]: f"{_SHARED_MEMORY / sharing:.3f}"} if sharing > 1 and not told else {}
    return [{**memory, **({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})} for slot in range(jobs)]


def _make(
    run: Run,
    root: pathlib.Path,
    title: str,
    processes: _Processes,
    environment: Mapping[str, str],
    retries: int,
) -> Failure | None:
    folder = root / run.name
    failed = 0
    while not processes.stopping.is_set():
        logging.debug("%s: started, log in %s", title, folder / LOG)
        started = time.monotonic()
        code = processes.run([*_MAIN, *run.command(root)], folder / LOG, environment)
        took = duration(time.monotonic() - started)
        if code == 0:
            logging.info("%s: %s%s", title, _accuracy(folder / SUMMARY), took)
            return None
        if code == signals.EXIT_CODE:
            logging.info("%s: stopped after %s", title, took)
            continue
        failed += 1
        reason = f"exit code {code}; the end of {folder / LOG}:\n{_end(folder / LOG)}"
        logging.warning("%s: failed after %s, %s", title, took, reason)
        if code == _USER_ERROR or failed > retries:
            return Failure(run, reason)
    return None


def _accuracy(path: pathlib.Path) -> str:
    """The result of a finished run, as "WAR 76.43% on test, "; empty without a held-out split."""
    if not path.is_file():
        return ""
    summary = json.loads(path.read_text(encoding="utf-8"))
    reported = summary[protocol.reported_checkpoint(summary)]
    split = protocol.reported_split(reported)
    return "" if split is None else f"WAR {100 * reported[split]['war']:.2f}% on {split}, "


def _end(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return "\n".join(f"  {line}" for line in lines)
