"""Preemption: checkpoint and exit, on all processes after the same step. `signals` receives the signals."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import signal
import time
from collections.abc import Generator
from types import FrameType, TracebackType
from typing import Any, Self

from mpafer_jax.runtime import distributed, signals


class Notice(signals.StepwiseRun):
    """Whether this run has to stop. A context manager, one at a time.

    In a single process a signal ends the run at once, except between `start_steps` and `end_steps`, where it waits for
    `reached`. With several processes JAX receives the signal, and each process asks JAX at points that all of them
    pass: after a training step (`reached`), before a batch of an evaluation (`check`). They stop at the first point
    that none has passed.

    In a program that does not call `signals.listen` only SIGTERM is handled, and the run raises `Preempted`.
    """

    # Numbers of the points over all runs of this process: JAX requires them to grow.
    _points = itertools.count(1)

    def __init__(self) -> None:
        self._requested = self.in_steps = False
        self._previous: Any = None
        self._clock: float | None = None
        self._ticks = 0
        self._blocks = contextlib.ExitStack()
        self.shared: bool = distributed.is_one_of_many()
        if signals.Current.listener is not None:
            signals.Current.listener.shared = self.shared
        # Only the main thread may handle signals; a program that trains in another thread has to stop it itself.
        self._listens = not self.shared and signals.Current.listener is None and signals.in_main_thread()

    def __enter__(self) -> Self:
        signals.Current.run = self
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        if self.shared:
            self._blocks.enter_context(signals.orderly())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.in_steps = False
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)
        try:
            self._blocks.__exit__(kind, error, trace)
        finally:
            signals.Current.run = None

    def start_steps(self) -> None:
        """Defers signals to `reached`, which must be called after every step.

        Call it after the first step, whose compilation may take long; later calls do nothing.
        """
        if not self.in_steps:
            self.in_steps = True
            if not self.shared:
                self._blocks.enter_context(signals.orderly())

    def end_steps(self) -> None:
        """Call it after the last step is saved; raises `Preempted` if a signal came."""
        if not self.shared:
            self._blocks.close()
        self.in_steps = False
        if not self.shared:
            self.check()

    @contextlib.contextmanager
    def interruptible(self) -> Generator[None]:
        """Lets `check` raise `Preempted` in the block, between two steps; what is lost by that can be made again."""
        before, self.in_steps = self.in_steps, False
        try:
            yield
        finally:
            self.in_steps = before

    def reached(self) -> bool:
        """Whether to save and stop, equal on all processes; all must call it after every step."""
        self._pass_point()
        return self._requested

    def check(self) -> None:
        """Raises `Preempted` if the run has to stop and is outside its steps; all processes call it equally often."""
        self._pass_point()
        if self._requested and not self.in_steps:
            raise signals.Preempted(signals.at_no_step(self.cause))

    @property
    def cause(self) -> str:
        """The signal's name."""
        listener = signals.Current.listener
        return signals.NAMES[(listener and listener.requested) or signal.SIGTERM]

    def start_clock(self) -> None:
        """Starts the clock of `check_clock`, each second of which is a point; all processes must call it together."""
        if self.shared:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("clock of preemption")
        self._clock, self._ticks = time.monotonic(), 0

    def check_clock(self) -> None:
        """Raises `Preempted` if the run has to stop; for work that each process does at its own pace.

        All processes must call it repeatedly until all of the work is done, or they miss the point where the others
        stop.
        """
        assert self._clock is not None
        while self._ticks <= time.monotonic() - self._clock:  # points since the last call
            self._ticks += 1
            self.check()

    def _pass_point(self) -> None:
        if not self.shared:
            self._requested = self._requested or signals.is_requested()
        elif not self._requested:
            from jax.experimental import multihost_utils

            self._requested = multihost_utils.reached_preemption_sync_point(next(self._points))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, self._previous)  # a second signal acts at once
        self._requested = True
        self.check()


def check() -> None:
    """`Notice.check` of this process's run, if any."""
    if isinstance(run := signals.Current.run, Notice):
        run.check()


def stopped_after(step: int, num_steps: int, *workdirs: pathlib.Path) -> signals.Preempted:
    """The exception to raise after a step's state is saved in these folders."""
    run = signals.Current.run
    cause = run.cause if isinstance(run, Notice) else signals.NAMES[signal.SIGTERM]
    return signals.Preempted(
        f"stopped by {cause} after step {step} of {num_steps}, which is saved in {', '.join(map(str, workdirs))}; the "
        "same command resumes from there"
    )
