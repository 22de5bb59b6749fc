"""Being asked to stop: a scheduler sends SIGTERM some seconds before it takes the machine away.

Training then saves once and ends with `EXIT_CODE`. Of several processes it is enough that one gets the signal: JAX's
preemption service lets all of them stop after the same step.
"""

from __future__ import annotations

import os
import signal
import threading
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


class Notice:
    """Whether this run was asked to stop. A context manager.

    In a single process the signal is looked for after every step (`reached`); where no step runs there is nothing to
    save, and the signal raises `Preempted` at once. In a run of many processes JAX takes the signal, and it counts from
    the first step on only: during the final evaluations such a run goes on until it ends or is killed.
    """

    def __init__(self) -> None:
        """Listens to nothing yet."""
        self._asked = self._in_steps = self._before_steps = False
        self._previous: Any = None
        self._shared = jax.distributed.is_initialized()
        # Python lets only the main thread listen to signals; a program that trains in another has to stop it itself.
        self._listens = not self._shared and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        """Starts listening."""
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the signal as it was."""
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def start_steps(self, first_step: int) -> None:
        """From here on `reached` is asked after every step; the next will be `first_step` + 1."""
        self._in_steps = True
        if self._shared:
            # The processes agree on "the call after the latest that any of us made". A request that came before the
            # first call was settled as call 1, which a resumed run would never make: so it makes them all.
            self._before_steps = any(multihost_utils.reached_preemption_sync_point(n) for n in range(first_step + 1))

    def reached(self, step: int) -> bool:
        """Whether to stop after this step, the same on all processes; to be asked after every step, by all."""
        if not self._shared:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(step) or self._before_steps

    def end_steps(self) -> None:
        """No more steps will run."""
        self._in_steps = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, self._previous)  # a second one is obeyed at once
        self._asked = True
        if not self._in_steps:
            raise Preempted("stopped by SIGTERM while no step was running; the same command goes on")
