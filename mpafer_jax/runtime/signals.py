"""SIGTERM handling: checkpoint and exit. Ctrl-C and SIGHUP are handled likewise.

A command calls `listen` first. The effect of a signal depends on what the process is doing:

- Training saves a checkpoint and exits with `EXIT_CODE` (`preemption.Notice`). A signal to one of several processes is
  enough: JAX's preemption service stops all of them after the same step.
- Work inside `orderly` stops at its next `check_alone`.
- Anywhere else, such as during imports or compilation, the process prints a message and ends. It raises no exception,
  which inside a compilation or a call from native code would crash.

A second signal ends the process at once; of one of several processes, whose SIGTERM JAX receives, a second Ctrl-C.
"""

# Imported first, so that a command handles signals from its start: only fast imports here.

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from types import FrameType
from typing import Any, NoReturn

# sysexits.h's EX_TEMPFAIL: try again. Not 0, which schedulers read as done, and not 1 or 2, which are errors.
EXIT_CODE = os.EX_TEMPFAIL
INTERRUPTED = 128 + signal.SIGINT  # the shell's convention for Ctrl-C

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP (its terminal is gone)"}
# Signals within so many seconds are one request: `timeout` sends two, and launchers forward what a terminal has sent
# already.
_ECHO_SECONDS = 0.3
_TRACKER = "ignore:resource_tracker:UserWarning"
# Environment variable with the file descriptor of a pipe that closes when the parent process ends.
_PARENT = "MPAFER_JAX_PARENT_PIPE"


class Preempted(BaseException):
    """The run stopped on a signal; the message says where it resumes. Like KeyboardInterrupt, this is not an error."""

    def __init__(self, message: str, exit_code: int = EXIT_CODE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        if Current.listener is not None:
            Current.listener.stopping = True


class StepwiseRun:
    """A run that checks for signals between its steps (`preemption.Notice`).

    Attributes:
      shared: whether it is one of several processes, which stop together.
      in_steps: whether it will check after the current step.
    """

    shared = False
    in_steps = False


class Current:
    """State of this process."""

    run: StepwiseRun | None = None
    listener: Listener | None = None


def listen() -> None:
    """Installs the handlers; to be called first by a command, in its main thread."""
    if Current.listener is None:
        Current.listener = Listener()


def take_back() -> None:
    """Sets the handlers of `listen` again, where a library has set its own since; to be called in the main thread."""
    if Current.listener is not None:
        Current.listener.handle()


@contextlib.contextmanager
def ending() -> Generator[None]:
    """Ends the process with the message and exit code of a `Preempted` raised in the block."""
    try:
        yield
    except Preempted as stopped:
        _say(f"{stopped} (exit code {stopped.exit_code})")
        if is_requested():  # False for one of several processes, which need a regular exit
            _leave(stopped.exit_code)
        sys.exit(stopped.exit_code)


@contextlib.contextmanager
def listening() -> Generator[None]:
    """Handles signals inside the block, in a program that does not call `listen`."""
    if Current.listener is not None or not in_main_thread():
        yield
        return
    Current.listener = listener = Listener()
    try:
        yield
    finally:
        Current.listener = None
        listener.close()


class Listener:
    """A thread that receives signals at once, even while the main thread runs native code."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.orderly = 0  # nesting depth of `orderly` blocks
        self.on_request: list[Callable[[], None]] = []
        self.on_end: list[Callable[[], None]] = []  # called before the process is ended without a checkpoint
        self.advice = "the same command starts again, or resumes where it had saved"
        self.stopping = False  # whether `Preempted` was raised
        self.shared = False  # whether this is one of several processes
        self.lock = threading.RLock()
        self._time = 0.0
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # Ignored signals stay ignored, as shells set them for background commands.
        signals = [number for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN]
        self._before: dict[Any, Any] = {number: signal.getsignal(number) for number in signals}
        self.handle()
        atexit.register(self._finished)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(_parent_pipe(),), name="stop", daemon=True).start()
        # Inherited by child processes, so that only this process handles a terminal's Ctrl-C. The thread above unblocks
        # it for itself.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # Inherited by `multiprocessing`'s resource tracker, which would warn about its cleanup.
        if _TRACKER not in sys.warnoptions:
            sys.warnoptions.append(_TRACKER)

    def handle(self) -> None:
        """Sets the handlers."""
        for number in self._before:
            signal.signal(number, _do_nothing)

    def close(self) -> None:
        """Restores the handlers."""
        atexit.unregister(self._finished)
        signal.set_wakeup_fd(self._wakeup)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writer)

    def _finished(self) -> None:
        """Ignores signals during Python's shutdown, which removes handlers: the command has succeeded."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _watch(self, parent: int | None) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(NAMES))
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
                    if number in NAMES:
                        self.ask(signal.Signals(number))

    def ask(self, number: signal.Signals) -> None:
        """Handles a signal."""
        now = time.monotonic()
        with self.lock:
            again = self.requested is not None
            if again and now - self._time < _ECHO_SECONDS:
                return
            self._time = now
            if again or not self.orderly:
                self.end(number, again=again)
            if number == signal.SIGHUP:
                _let_go_of_terminal()
            # Before `requested` is set, after which the process may end.
            _side_by_side(lambda: _say(f"{NAMES[number]}: stopping in good order; once more ends it at once"))
            self.requested, calls = number, list(self.on_request)
        run = Current.run
        if run is not None and run.shared and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # the one that JAX handles
        for call in calls:
            call()

    def end(self, number: signal.Signals, *, again: bool) -> NoReturn:
        """Ends the process without a checkpoint, from any thread."""
        interrupted = 128 + number
        code = interrupted if again or number == signal.SIGINT else EXIT_CODE
        message = f"{'ended at once' if again else 'stopped'} by {NAMES[number]}; {self.advice}"
        if Current.run is not None and not again:
            message = at_no_step(NAMES[number])
        _side_by_side(lambda: _say(f"{message} (exit code {code})"))
        for call in self.on_end:
            with contextlib.suppress(Exception):
                call()
        _leave(code)


def at_no_step(cause: str) -> str:
    """Message of a run that is stopped outside its steps."""
    return f"stopped by {cause} while no step was running; the same command resumes"


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """A Python handler, without which Python does not write to the wakeup fd."""
    del number, frame


def _side_by_side(call: Callable[[], None]) -> None:
    """Calls in a thread, and waits a second at most: a stream may be a pipe without a reader."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(1)


def _say(text: str) -> None:
    begin = "\n" if os.isatty(2) else ""  # after a progress bar or the echo of ^C
    with contextlib.suppress(OSError):
        os.write(2, f"{begin}{text}\n".encode("utf-8", "replace"))


def _leave(code: int) -> NoReturn:
    """Ends the process without Python's shutdown, which waits for threads and worker processes."""
    for process in multiprocessing.active_children():  # would end by themselves, but later
        process.kill()
    _side_by_side(_flush)
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _let_go_of_terminal() -> None:
    """Redirects output from a closed terminal, where writing fails, to the null device."""
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
        if not stat.S_ISFIFO(os.fstat(int(number)).st_mode):  # the descriptor was not inherited
            return None
        os.set_inheritable(int(number), False)
    except OSError:
        return None
    return int(number)


class _Life:
    """A pipe whose write end only this process has, so that it closes when this process ends."""

    ends: tuple[int, int] | None = None


def ends_with_this(environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[int]]:
    """`env` and `pass_fds` of `subprocess.Popen` for a command of this package that stops, as by SIGTERM, when this
    process ends for any reason. `environment` holds its variables.
    """
    if _Life.ends is None:
        _Life.ends = os.pipe()
    end = _Life.ends[0]
    return {**environment, _PARENT: str(end)}, (end,)


@contextlib.contextmanager
def orderly(
    *, on_request: Callable[[], None] | None = None, on_end: Callable[[], None] | None = None
) -> Generator[None]:
    """Defers a signal to the next `check_alone` or to the block's end, which raise `Preempted`.

    Does nothing in a program that does not call `listen`.

    Args:
      on_request: called in another thread on the first signal.
      on_end: called in another thread before a second signal ends the process.
    """
    listener = Current.listener
    if listener is None:
        yield
        return
    first, last = ([call] if call else [] for call in (on_request, on_end))
    with listener.lock:
        listener.orderly += 1
        listener.on_request += first
        listener.on_end += last
    try:
        yield
    finally:
        with listener.lock:
            listener.orderly -= 1
            listener.on_request = [call for call in listener.on_request if call not in first]
            listener.on_end = [call for call in listener.on_end if call not in last]
            # This thread cannot raise in the main thread, which does not wait for it.
            unattended = not listener.orderly and not listener.stopping and not in_main_thread()
            if listener.requested and unattended:
                listener.end(listener.requested, again=False)
    check_alone()


@contextlib.contextmanager
def advising(text: str) -> Generator[None]:
    """Sets the advice shown if the process stops inside the block."""
    listener = Current.listener
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
    """Has another thread call `call` before the process is ended without a checkpoint inside the block."""
    listener = Current.listener
    if listener is None:
        yield
        return
    listener.on_end.append(call)
    try:
        yield
    finally:
        listener.on_end.remove(call)


def end_at_once() -> None:
    """Ends a command from any thread, before it overwrites another process's files."""
    if Current.listener is not None:
        _leave(1)


def wait() -> None:
    """Waits for a signal; inside an `orderly` block."""
    while Current.listener is not None and not Current.listener.requested:
        time.sleep(0.1)


def is_requested() -> bool:
    """Whether a signal came; False for one of several processes, which stop together."""
    listener = Current.listener
    return listener is not None and listener.requested is not None and not listener.shared


def in_main_thread() -> bool:
    """Whether the caller runs in the main thread, which alone may set handlers."""
    return threading.current_thread() is threading.main_thread()


def check_alone() -> None:
    """Raises `Preempted` if a signal came; does nothing in a `StepwiseRun`'s steps and for one of several processes."""
    listener, run = Current.listener, Current.run
    if listener is None or listener.requested is None or listener.stopping or not in_main_thread():
        return
    if run is not None and (run.shared or run.in_steps):
        return
    raise Preempted(
        f"stopped by {NAMES[listener.requested]}; {listener.advice}",
        INTERRUPTED if listener.requested == signal.SIGINT else EXIT_CODE,
    )
