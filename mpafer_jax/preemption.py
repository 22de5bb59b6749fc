"""Being asked to stop: a scheduler sends SIGTERM some seconds before it takes the machine away.

Training then saves once and ends with `EXIT_CODE`; other work ends between two batches with the same code. Of several
processes it is enough that one gets the signal: JAX's preemption service lets all of them stop at the same point.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

# sysexits.h's EX_TEMPFAIL: try again. Not 0, which schedulers read as done, and not 1 or 2, which are mistakes.
EXIT_CODE = os.EX_TEMPFAIL


class Preempted(BaseException):
    """The run was asked to stop and did; the message says where it will go on.

    Like KeyboardInterrupt no error: what catches every error (to go on with the next run, or to call a file damaged)
    must not catch this.
    """


class _Current:
    notice: Notice | None = None


class Notice:
    """Whether this run was asked to stop. A context manager, one at a time: signals are the whole process's.

    In a single process the signal raises `Preempted` at once, except between `start_steps` and `end_steps`, where it
    waits for `reached`. In a run of many processes JAX takes the signal, and each process asks JAX at points that all
    of them pass: after a training step (`reached`), before a batch of an evaluation (`check`). The processes agree on
    the first point that none of them has passed, so every one of them stops there, or none, if the run ends before.
    """

    # Of the points, over all runs of this process: JAX knows a point by its number and wants it to grow.
    _points = itertools.count(1)

    def __init__(self) -> None:
        """Listens to nothing yet."""
        self._asked = self._in_steps = False
        self._previous: Any = None
        self._clock: float | None = None
        self._ticks = 0
        self._shared = jax.distributed.is_initialized()
        # Python lets only the main thread listen to signals; a program that trains in another has to stop it itself.
        self._listens = not self._shared and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        """Starts listening."""
        _Current.notice = self
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the signal as it was."""
        _Current.notice = None
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def start_steps(self) -> None:
        """From here on `reached` is asked after every step, and what was asked for waits until then."""
        self._in_steps = True

    def end_steps(self) -> None:
        """No more steps will run."""
        self._in_steps = False

    def reached(self) -> bool:
        """Whether to save and stop, the same on all processes; to be asked after every step, by all."""
        self._pass_point()
        return self._asked

    def check(self) -> None:
        """Raises `Preempted` if the run was asked to stop and is at no step; all processes call it equally often."""
        self._pass_point()
        if self._asked and not self._in_steps:
            raise Preempted("stopped by SIGTERM while no step was running; the same command goes on")

    def start_clock(self) -> None:
        """From here on this run's points are the seconds that pass (`check_clock`); all processes call it together."""
        if self._shared:
            multihost_utils.sync_global_devices("clock of preemption")
        self._clock, self._ticks = time.monotonic(), 0

    def check_clock(self) -> None:
        """Raises `Preempted` if the run was asked to stop; for work that each process does at a pace of its own.

        To be called again and again by all until the whole work is done: a process that no longer asks would miss the
        point at which the others stop.
        """
        assert self._clock is not None
        while self._ticks <= time.monotonic() - self._clock:  # the points that went by since the last call
            self._ticks += 1
            self.check()

    def _pass_point(self) -> None:
        if self._shared and not self._asked:
            self._asked = multihost_utils.reached_preemption_sync_point(next(self._points))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, self._previous)  # a second one is obeyed at once
        self._asked = True
        self.check()


def check() -> None:
    """`Notice.check` of the run that this process is in, if it listens."""
    if _Current.notice is not None:
        _Current.notice.check()


def stopped_after(step: int, num_steps: int, workdir: pathlib.Path) -> Preempted:
    """What is raised when a step's state is saved."""
    return Preempted(
        f"stopped by SIGTERM after step {step} of {num_steps}, which is saved in {workdir}; the same command goes on "
        "from there"
    )
