"""Runs a sweep on this machine: concurrent processes of the main command, which resume by themselves."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import math
import os
import pathlib
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence

from absl import logging

from mpafer_jax.artifacts import run_dir
from mpafer_jax.artifacts.run_dir import SUMMARY
from mpafer_jax.evaluation import protocol
from mpafer_jax.jobs.sweeps import plan
from mpafer_jax.jobs.sweeps.plan import Run
from mpafer_jax.runtime import progress, signals, workers
from mpafer_jax.runtime.console import duration

LOG = "log.txt"
_USER_ERROR = 2  # exit code of non-retryable errors
_LAST_LINES = 15
# A run here is one process, also where the environment is that of a job of several, as in an interactive one of Slurm.
MAIN = (sys.executable, "-m", "mpafer_jax.main", "--distributed=off")
_GROUP = (sys.executable, "-m", "mpafer_jax.cli", "study", "group", "--distributed=off")
# GPU memory fraction that a JAX process preallocates, and the variables with which a user may set it.
_MEMORY = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE")
_THREADS = "NPROC"  # number of XLA's threads on a CPU
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
        """Sends SIGTERM to all processes, which save and exit, and starts no other.

        Once: a second SIGTERM would end them without a checkpoint.
        """
        with self._lock:
            if self.stopping.is_set():
                return
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
            self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        if self.stopping.is_set():
            raise signals.Preempted("stopped; the same command resumes")


def run_all(
    runs: Sequence[Run],
    root: pathlib.Path,
    *,
    jobs: int,
    retries: int,
    gpus: Sequence[str] = (),
    together: int = 1,
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
      together: number of runs that one process trains at once, if they differ only in seeds and numbers. What such a
        process leaves undone is then run alone, but for runs that diverged: they have failed.
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

    numbers = {run.name: number for number, run in enumerate(runs, start=1)}

    def make(members: Sequence[Run]) -> list[Failure]:
        slot = slots.get()
        variables = {**environment, **slot}
        try:
            failures: list[Failure] = []
            if len(members) > 1:
                members, failures = _make_together(members, root, processes, variables)
            for run in members:
                title = f"run {numbers[run.name]} of {len(runs)}, {run.point.title}, {run.kind} {run.seed}"
                if (failure := _make(run, root, title, processes, variables, retries)) is not None:
                    failures.append(failure)
            return failures
        finally:
            slots.put(slot)

    failures: list[Failure] = []
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    with processes.stopped_by_signals():
        waiting: dict[concurrent.futures.Future[list[Failure]], Sequence[Run]] = {}
        try:
            for members in plan.groups(runs, root, together) if together > 1 else [[run] for run in runs]:
                waiting[pool.submit(make, members)] = members
            with progress.task("sweep", len(runs), "runs", warms_up=False) as work:
                for future in concurrent.futures.as_completed(waiting):
                    failed = future.result()
                    processes.raise_if_stopped()  # then the others are waited for, and none counts as made
                    failures += failed
                    work.advance(len(waiting[future]))  # at once: the time left is told from the runs of all groups
                    for run in waiting[future]:
                        if run not in [failure.run for failure in failed]:
                            after_each(run)
        finally:  # also if `after_each` fails: then the other runs are stopped
            if any(not future.done() for future in waiting):
                processes.stop()
            pool.shutdown(cancel_futures=True)
    return failures


def _slots(jobs: int, gpus: Sequence[str]) -> list[Mapping[str, str]]:
    """Environment variables of each job.

    A JAX process preallocates most of a GPU's memory unless it gets a share, and computes with as many threads as the
    machine has cores unless it is told a number: jobs with more threads than cores wait for one another.
    """
    sharing = math.ceil(jobs / len(gpus)) if gpus else jobs
    told = any(name in os.environ for name in _MEMORY)
    memory = {_MEMORY[0]: f"{_SHARED_MEMORY / sharing:.3f}"} if sharing > 1 and not told else {}
    threads = {_THREADS: str(max(1, workers.usable_cores() // jobs))} if jobs > 1 and _THREADS not in os.environ else {}
    return [
        {**memory, **threads, **({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})}
        for slot in range(jobs)
    ]


def _make_together(
    members: Sequence[Run], root: pathlib.Path, processes: _Processes, environment: Mapping[str, str]
) -> tuple[list[Run], list[Failure]]:
    """Trains runs in one process, whose log is the first one's; returns those that are left, and those that failed."""
    names, log = [run.name for run in members], root / members[0].name / LOG
    logging.debug("together, log in %s: %s", log, ", ".join(names))
    for name in names[1:]:
        (root / name).mkdir(parents=True, exist_ok=True)
        with (root / name / LOG).open("a", encoding="utf-8") as stream:
            stream.write(f"trained together with others, log in {log}\n")
    words = [shlex.join([str(root / run.name), *run.arguments]) for run in members]
    code = signals.EXIT_CODE
    while code == signals.EXIT_CODE and not processes.stopping.is_set():
        code = processes.run([*_GROUP, *words], log, environment)
    undone = [run for run in members if not plan.has_ended(run, root / run.name)]
    # To train one of them alone would give the same, or up to rounding numbers that just stay finite.
    diverged = [run for run in undone if run_dir.has_diverged(root / run.name)]
    left = [run for run in undone if run not in diverged]
    for run in members:
        if run not in undone:
            logging.info(
                "%s: %strained together with %d", run.name, _accuracy(root / run.name / SUMMARY), len(words) - 1
            )
    if left and not processes.stopping.is_set():
        logging.warning("exit code %d; run one by one: %s", code, ", ".join(run.name for run in left))
    failures = [Failure(run, f"its numbers became infinite or NaN; its log is {log}") for run in diverged]
    for failure in failures:
        logging.warning("%s: %s", failure.run.name, failure.reason)
    return left, failures


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
        code = processes.run([*MAIN, *run.command(root)], folder / LOG, environment)
        took = duration(time.monotonic() - started)
        if code == 0:
            logging.info("%s: %s%s", title, _accuracy(folder / SUMMARY), took)
            return None
        # A process that is stopped before it listens to signals ends with another code, which is no failure.
        if code == signals.EXIT_CODE or processes.stopping.is_set():
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
    reported, split = protocol.reported(run_dir.read_json(path))
    return "" if split is None else f"WAR {100 * reported[split]['war']:.2f}% on {split}, "


def _end(log: pathlib.Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return "\n".join(f"  {line}" for line in lines)
