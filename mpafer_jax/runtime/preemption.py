"""Being asked to stop: by a scheduler, which sends SIGTERM some seconds before it takes the machine away, or by Ctrl-C.

A command listens from its first line on (`listen`). What it does then depends on where it is asked:

- Training saves once and ends with `EXIT_CODE` (`Notice`). Of several processes it is enough that one is asked: JAX's
  preemption service lets all of them stop at the same point.
- Work that has something to put in order stops by itself at the next `check_alone` (`orderly`).
- Everywhere else, while libraries are imported or programs compiled, there is nothing to lose: the process says so and
  ends. Nothing is raised there: an exception in the middle of a compilation, or in a call from native code, ends in a
  crash.

A second request ends the process at once, whatever it does.
"""

# Imported before everything else, so that a command listens from its first moment: JAX, which takes seconds, is
# imported where it is needed.

from __future__ import annotations

import atexit
import contextlib
import itertools
import multiprocessing
import os
import pathlib
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

# sysexits.h's EX_TEMPFAIL: try again. Not 0, which schedulers read as done, and not 1 or 2, which are mistakes.
EXIT_CODE = os.EX_TEMPFAIL
INTERRUPTED = 128 + signal.SIGINT  # as shells say it: Ctrl-C, and nothing to go on with

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP (its terminal is gone)"}
# Within so many seconds another signal is the same request: `timeout` sends two, and launchers pass on what a terminal
# has sent already.
_ECHO_SECONDS = 0.3
_TRACKER = "ignore:resource_tracker:UserWarning"
# The variable with the number of a pipe's end that shows when the program that started this one has ended.
_PARENT = "MPAFER_JAX_PARENT_PIPE"


class Preempted(BaseException):
    """The run was asked to stop and did; the message says where it will go on.

    Like KeyboardInterrupt no error: what catches every error (to go on with the next run, or to call a file damaged)
    must not catch this.
    """

    def __init__(self, message: str, exit_code: int = EXIT_CODE) -> None:
        """Takes what to say, and the exit code of a command that this ends."""
        super().__init__(message)
        self.exit_code = exit_code
        if _Current.listener is not None:
            _Current.listener.stopping = True


class _Current:
    """What this process was asked, and what it does with that; it is the process's, as signals are."""

    notice: Notice | None = None
    listener: _Listener | None = None


def listen() -> None:
    """From here on requests to stop are met as this module says; a command's first act, in its main thread."""
    if _Current.listener is None:
        _Current.listener = _Listener()


@contextlib.contextmanager
def ending() -> Generator[None]:
    """Ends the process with a message and the exit code, where the block has stopped in good order."""
    try:
        yield
    except Preempted as stopped:
        _say(f"{stopped} (exit code {stopped.exit_code})")
        if is_asked():  # not of many processes, which leave each other in order
            _leave(stopped.exit_code)
        sys.exit(stopped.exit_code)


@contextlib.contextmanager
def listening() -> Generator[None]:
    """Listens while this lasts, in a program that does not listen anyway, and may not end."""
    if _Current.listener is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _Current.listener = listener = _Listener()
    try:
        yield
    finally:
        _Current.listener = None
        listener.close()


class _Listener:
    """A thread that is told of signals the moment they come, also while the main thread runs native code."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.orderly = 0  # blocks that stop by themselves
        self.first: list[Callable[[], None]] = []  # called when it is asked
        self.last: list[Callable[[], None]] = []  # called before it ends without order
        self.advice = "the same command begins again, or goes on where it had saved"
        self.stopping = False  # whether `Preempted` was raised: what ends the work is not stopped once more
        self.shared = False  # whether this is one of many processes
        self.lock = threading.RLock()
        self._time = 0.0
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # What a shell has set to be ignored, as it does for commands in the background, stays so.
        signals = [number for number in _NAMES if signal.getsignal(number) is not signal.SIG_IGN]
        self._before: dict[Any, Any] = {number: signal.signal(number, _do_nothing) for number in signals}
        atexit.register(self._finished)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(_parent_pipe(),), name="stop", daemon=True).start()
        # Processes that are started from here on inherit this: what a terminal sends to all of them is this one's to
        # decide on. The thread above unblocks it for itself.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # A resource tracker of `multiprocessing` inherits it: what it tidies up after an end is no news to anybody.
        if _TRACKER not in sys.warnoptions:
            sys.warnoptions.append(_TRACKER)

    def close(self) -> None:
        """Leaves the signals as they were."""
        atexit.unregister(self._finished)
        signal.set_wakeup_fd(self._wakeup)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writer)

    def _finished(self) -> None:
        """All is done but Python's own end, which undoes handlers: a signal would kill a command that has succeeded."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _watch(self, parent: int | None) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_NAMES))
        waiting = [self._reader] if parent is None else [self._reader, parent]
        while True:
            ready, _, _ = select.select(waiting, [], [])
            if parent in ready:
                waiting.remove(parent)
                self.ask(signal.SIGTERM)
            if self._reader in ready:
                numbers = os.read(self._reader, 64)
                if not numbers:
                    os.close(self._reader)
                    return
                for number in numbers:
                    if number in _NAMES:
                        self.ask(signal.Signals(number))

    def ask(self, number: signal.Signals) -> None:
        """What happens when a signal has come."""
        now = time.monotonic()
        with self.lock:
            again = self.asked is not None
            if again and now - self._time < _ECHO_SECONDS:
                return
            self._time = now
            if again or not self.orderly:
                self.end(number, again=again)
            if number == signal.SIGHUP:
                _let_go_of_terminal()
            # Said before it is known: the process may end right after.
            _side_by_side(lambda: _say(f"{_NAMES[number]}: stopping in good order; once more ends it at once"), 1)
            self.asked, waits = number, list(self.first)
        notice = _Current.notice
        if notice is not None and notice.shared and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX listens to
        for call in waits:
            call()

    def end(self, number: signal.Signals, *, again: bool) -> NoReturn:
        """Ends the process without order, from any of its threads."""
        interrupted = 128 + number
        code = interrupted if again or number == signal.SIGINT else EXIT_CODE
        message = f"{'ended at once' if again else 'stopped'} by {_NAMES[number]}; {self.advice}"
        if _Current.notice is not None and not again:
            message = _at_no_step(_NAMES[number])
        _side_by_side(lambda: _say(f"{message} (exit code {code})"), 1)
        for call in self.last:
            with contextlib.suppress(Exception):
                call()
        _leave(code)


def _at_no_step(cause: str) -> str:
    return f"stopped by {cause} while no step was running; the same command goes on"


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """A handler in Python: without one, signals are not told to the listener."""
    del number, frame


def _side_by_side(call: Callable[[], None], seconds: float) -> None:
    """Calls in a thread, and waits so long: a stream may lead into a pipe that nobody reads."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


def _say(text: str) -> None:
    begin = "\n" if os.isatty(2) else ""  # behind what a progress bar or the echo of ^C left there
    with contextlib.suppress(OSError):
        os.write(2, f"{begin}{text}\n".encode("utf-8", "replace"))


def _leave(code: int) -> NoReturn:
    """Ends the process without Python's own end, which waits for threads and worker processes."""
    for process in multiprocessing.active_children():  # they would end by themselves, but later
        process.kill()
    _side_by_side(_flush, 1)
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _let_go_of_terminal() -> None:
    """Writing to a terminal that is gone would be an error, before what was done is saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(stream):
                os.dup2(nowhere, stream)


def _parent_pipe() -> int | None:
    number = os.environ.pop(_PARENT, "")
    if not number.isdecimal():
        return None
    try:
        if not stat.S_ISFIFO(os.fstat(int(number)).st_mode):  # of another process: its number means nothing here
            return None
        os.set_inheritable(int(number), False)
    except OSError:
        return None
    return int(number)


class _Life:
    """The two ends of a pipe; only this process has the second, so that it closes when this process has ended."""

    ends: tuple[int, int] | None = None


def ends_with_this(environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[int]]:
    """`env` and `pass_fds` of `subprocess.Popen` for a command of this package that is to stop when this process ends.

    However that comes: it is stopped as by SIGTERM.

    Args:
      environment: its variables.
    """
    if _Life.ends is None:
        _Life.ends = os.pipe()
    end = _Life.ends[0]
    return {**environment, _PARENT: str(end)}, (end,)


@contextlib.contextmanager
def orderly(
    *, when_asked: Callable[[], None] | None = None, at_once: Callable[[], None] | None = None, advice: str = ""
) -> Generator[None]:
    """While this lasts, a request to stop waits for `check_alone`, or for the end of the block, where it is raised.

    Without a listener, as in another's program, this does nothing.

    Args:
      when_asked: called when the process is asked, by another thread.
      at_once: called before it ends without order since it was asked twice, by another thread.
      advice: what the user is then told; '' for what is said elsewhere too.

    Raises:
      Preempted: the process was asked, and the block ended well.
    """
    listener = _Current.listener
    if listener is None:
        yield
        return
    first, last = ([call] if call else [] for call in (when_asked, at_once))
    with listener.lock:
        listener.orderly += 1
        listener.first += first
        listener.last += last
        before, listener.advice = listener.advice, advice or listener.advice
    try:
        yield
    finally:
        with listener.lock:
            listener.orderly -= 1
            listener.first = [call for call in listener.first if call not in first]
            listener.last = [call for call in listener.last if call not in last]
            listener.advice = before
            # Nobody else is there to stop it: this thread cannot, and the main one does not wait.
            unattended = not listener.orderly and not listener.stopping and not _in_main_thread()
            if listener.asked and unattended:
                listener.end(listener.asked, again=False)
    check_alone()


@contextlib.contextmanager
def advising(text: str) -> Generator[None]:
    """While this lasts, this is what the user is told if the process is stopped."""
    listener = _Current.listener
    before = ""
    if listener is not None:
        before, listener.advice = listener.advice, text
    try:
        yield
    finally:
        if listener is not None:
            listener.advice = before


@contextlib.contextmanager
def tidying(call: Callable[[], None]) -> Generator[None]:
    """While this lasts, `call` is called before the process is ended without order, by another thread."""
    listener = _Current.listener
    if listener is None:
        yield
        return
    listener.last.append(call)
    try:
        yield
    finally:
        listener.last.remove(call)


def end_at_once() -> None:
    """Ends a command from any thread, where going on would spoil what another process writes."""
    if _Current.listener is not None:
        _leave(1)


def wait() -> None:
    """Returns when the process is asked to stop; in an `orderly` block."""
    while _Current.listener is not None and not _Current.listener.asked:
        time.sleep(0.1)


def is_asked() -> bool:
    """Whether this process was asked to stop, by itself and not as one of many."""
    listener = _Current.listener
    return listener is not None and listener.asked is not None and not listener.shared


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def check_alone() -> None:
    """Raises `Preempted` if this process was asked to stop; in `orderly` work that it does for itself.

    Training saves first (`Notice`), and many processes stop together: there this does nothing.
    """
    listener, notice = _Current.listener, _Current.notice
    if listener is None or listener.asked is None or listener.stopping or not _in_main_thread():
        return
    if notice is not None and (notice.shared or notice.in_steps):
        return
    raise Preempted(
        f"stopped by {_NAMES[listener.asked]}; {listener.advice}",
        INTERRUPTED if listener.asked == signal.SIGINT else EXIT_CODE,
    )


class Notice:
    """Whether this run was asked to stop. A context manager, one at a time: signals are the whole process's.

    In a single process the request ends the run at once, except between `start_steps` and `end_steps`, where it waits
    for `reached`. In a run of many processes JAX takes the signal, and each process asks JAX at points that all of them
    pass: after a training step (`reached`), before a batch of an evaluation (`check`). The processes agree on the first
    point that none of them has passed, so every one of them stops there, or none, if the run ends before.

    In a program that does not `listen` it is SIGTERM alone that is met, and what ends the run raises `Preempted`.
    """

    # Of the points, over all runs of this process: JAX knows a point by its number and wants it to grow.
    _points = itertools.count(1)

    def __init__(self) -> None:
        """Listens to nothing yet."""
        import jax  # see the top

        self._asked = self.in_steps = False
        self._previous: Any = None
        self._clock: float | None = None
        self._ticks = 0
        self._blocks = contextlib.ExitStack()
        self.shared: bool = jax.distributed.is_initialized()
        if _Current.listener is not None:
            _Current.listener.shared = self.shared
        # Python lets only the main thread listen to signals; a program that trains in another has to stop it itself.
        self._listens = not self.shared and _Current.listener is None and _in_main_thread()

    def __enter__(self) -> Self:
        """Starts listening."""
        _Current.notice = self
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        if self.shared:
            self._blocks.enter_context(orderly())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the signal as it was."""
        self.in_steps = False
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)
        try:
            self._blocks.__exit__(kind, error, trace)
        finally:
            _Current.notice = None

    def start_steps(self) -> None:
        """From here on `reached` is asked after every step, and what was asked for waits until then.

        To be called when a first step was made, which takes as long as it is compiled; it may be called again.
        """
        if not self.in_steps:
            self.in_steps = True
            if not self.shared:
                self._blocks.enter_context(orderly())

    def end_steps(self) -> None:
        """No more steps will run, and the last one is saved.

        Raises:
          Preempted: it was asked to stop since.
        """
        if not self.shared:
            self._blocks.close()
        self.in_steps = False
        if not self.shared:
            self.check()

    def reached(self) -> bool:
        """Whether to save and stop, the same on all processes; to be asked after every step, by all."""
        self._pass_point()
        return self._asked

    def check(self) -> None:
        """Raises `Preempted` if the run was asked to stop and is at no step; all processes call it equally often."""
        self._pass_point()
        if self._asked and not self.in_steps:
            raise Preempted(_at_no_step(self.cause))

    @property
    def cause(self) -> str:
        """What asked."""
        listener = _Current.listener
        return _NAMES[(listener and listener.asked) or signal.SIGTERM]

    def start_clock(self) -> None:
        """From here on this run's points are the seconds that pass (`check_clock`); all processes call it together."""
        if self.shared:
            from jax.experimental import multihost_utils

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
        if not self.shared:
            self._asked = self._asked or is_asked()
        elif not self._asked:
            from jax.experimental import multihost_utils

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
    cause = _Current.notice.cause if _Current.notice else _NAMES[signal.SIGTERM]
    return Preempted(
        f"stopped by {cause} after step {step} of {num_steps}, which is saved in {workdir}; the same command goes on "
        "from there"
    )
