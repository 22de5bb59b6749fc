"""Terminal output of commands: messages and progress bars on stderr, results on stdout.

At a terminal, long work has a progress bar. In a log, with --log=plain, or if TERM is "dumb", all output is lines with
date and time. With several processes only the first shows more than warnings.
"""

from __future__ import annotations

import contextlib
import logging as python_logging
import os
import pathlib
import sys
import time
from collections.abc import Generator
from types import TracebackType
from typing import Literal, Self

import jax
from absl import logging
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mpafer_jax.runtime import distributed, progress

Log = Literal["auto", "plain"]

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_OWN = (_PACKAGE,)
_REFRESHES = 5  # a second
_WORTH_A_LINE = 1.0  # seconds: shorter work leaves no line at a terminal
_FIRST_LINE, _LINES = 15.0, 20  # seconds to a log's first line of progress; about how many while the time doubles
_BAR_OF, _ASCII_BAR = "\N{BOX DRAWINGS HEAVY HORIZONTAL}\N{BOX DRAWINGS LIGHT HORIZONTAL}", "=-"  # done, to do
_BAR = (10, 32)  # columns, at least and at most
_NAMES = 9  # columns for names of facts


def duration(seconds: float) -> str:
    """A duration for people: 0.4 s, 47 s, 2 min 24 s, 1 h 12 min, 3 d 4 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


class Work(progress.Task):
    """A task on the display: count, rate and remaining time."""

    def __init__(self, console: Console, title: str, total: int | None, unit: str, done: int, warms_up: bool) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.text = ""
        self._console, self._warms_up = console, warms_up
        self._started = self._logged = time.monotonic()
        self._first = done  # `done` when the clock for the rate began
        self._since = None if warms_up else self._started

    def advance(self, number: int = 1) -> None:
        """See `progress.Task`."""
        self.done = self.done + number if self.total is None else min(self.done + number, self.total)
        now = time.monotonic()
        if self._since is None:
            self._first, self._since = self.done, now
        if self._console.plain and now - self._logged > max(_FIRST_LINE, (now - self._started) / _LINES):
            self._log_line()

    def report(self, text: str) -> None:
        """See `progress.Task`."""
        self.text = text
        if self._console.plain:
            self._log_line()

    def _log_line(self) -> None:
        self._logged = time.monotonic()
        parts = [self.count(), self.text, self.speed(), self.left()]
        logging.info("%s: %s", self.title, ", ".join(part for part in parts if part))

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float | None:
        """Units per second; None if unknown."""
        if self._since is None or self.done == self._first:
            return None
        return (self.done - self._first) / max(time.monotonic() - self._since, 1e-9)

    def count(self) -> str:
        """600/4,600 images."""
        if self.total is None:
            return f"{self.done:,} {self.unit}" if self.done else ""
        return f"{self.done:,}/{self.total:,} {self.unit}"

    def speed(self) -> str:
        """98 images/s, or the time for one."""
        rate = self.rate
        if rate is None:
            return ""
        shown = f"{rate:,.0f}" if rate >= 99.5 else f"{rate:.1f}"
        return f"{shown} {self.unit}/s" if rate >= 1 else f"{duration(1 / rate)} each"

    def left(self) -> str:
        """2 min 24 s left."""
        if self.rate is None or self.total is None or self.done >= self.total:
            return ""
        return f"{duration((self.total - self.done) / self.rate)} left"

    def closing(self) -> str:
        """The closing line: "drawing faces: 4,600 images in 47 s"."""
        done = f"{self.done:,} {self.unit} in " if self.done else ""
        return f"{self.title}: {done}{duration(self.seconds)}"

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """The progress line at a terminal; drops the least important parts that do not fit."""
        line = f"{self.title}  "
        parts = [self.count() or duration(self.seconds), self.left(), self.text, self.speed()]
        room = options.max_width - cell_len(line) - (_BAR[0] + 2 if self.total else 0) - 1
        shown: list[str] = []
        for part in parts:
            if part and cell_len("  ".join([*shown, part])) <= room:
                shown.append(part)
        text = Text(line, "bold", no_wrap=True, overflow="ellipsis" if not options.ascii_only else "crop")
        if self.total:
            width = min(_BAR[1], _BAR[0] + room - cell_len("  ".join(shown)))
            full = min(width, width * self.done // self.total)
            done, todo = _ASCII_BAR if options.ascii_only else _BAR_OF
            text.append(done * full, "not bold green").append(todo * (width - full) + "  ", "not bold dim")
        yield text.append("  ".join(shown), "not bold")


class Console(contextlib.AbstractContextManager["Console"], progress.Display):
    """Shows the package's messages and progress inside the context; one at a time."""

    def __init__(self, *, log: Log = "auto", verbosity: int = 0, others: tuple[str, ...] = ()) -> None:
        """Chooses plain lines or progress bars by stderr.

        Args:
          log: "plain" for dated lines in any case.
          verbosity: 1 adds debug and libraries' info messages, 2 libraries' debug messages too, -1 shows warnings only.
          others: libraries' loggers whose info messages are always shown.
        """
        self.plain = log == "plain" or not sys.stderr.isatty() or _is_dumb()
        self._log, self._verbosity, self._others = log, verbosity, others
        self._rich = RichConsole(file=sys.stderr, force_terminal=not self.plain, highlight=False, markup=False)
        self._live: Live | None = None
        self._tasks: list[Work] = []
        self._handler = _Handler(self)
        self._before: tuple[list[python_logging.Handler], int, progress.Display | None, Console | None]

    def __enter__(self) -> Self:
        """Replaces other handlers that print log lines."""
        root, of_absl = python_logging.getLogger(), logging.get_absl_handler()
        # absl's, and that of `logging.basicConfig`, which absl calls if no handler exists.
        removed: list[python_logging.Handler] = [
            handler for handler in root.handlers if handler is of_absl or type(handler) is python_logging.StreamHandler
        ]
        for handler in removed:
            root.removeHandler(handler)
        self._before = removed, root.level, progress.show_on(self), _Current.console
        root.addHandler(self._handler)
        root.setLevel(python_logging.INFO if self._verbosity < 1 else python_logging.DEBUG)
        python_logging.getLogger("absl").setLevel(python_logging.NOTSET)
        _Current.console = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = python_logging.getLogger()
        root.removeHandler(self._handler)
        handlers, level, display, _Current.console = self._before
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
        progress.show_on(display)

    @contextlib.contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int, warms_up: bool) -> Generator[progress.Task]:
        """See `progress.task`."""
        if not distributed.is_first() or self._verbosity < 0:
            yield progress.Task()
            return
        work, inner = Work(self, title, total, unit, done, warms_up), bool(self._tasks)
        self._tasks.append(work)
        if self.plain and not inner:
            logging.info("%s%s", title, f": {work.count()}" if total else "")
        if not self.plain and not inner:
            self._live = Live(
                get_renderable=lambda: Group(*self._tasks),
                console=self._rich,
                refresh_per_second=_REFRESHES,
                transient=True,
                redirect_stdout=False,  # stdout may be a file
            )
            self._live.start()
        try:
            yield work
        finally:
            self._tasks.remove(work)
            if self._live is not None and not self._tasks:
                self._live.stop()
                self._live = None
        # Not reached if the work failed.
        if not inner and (self.plain or work.seconds >= _WORTH_A_LINE):
            logging.info("%s", work.closing(), extra={"work": True})

    def show(self, record: python_logging.LogRecord) -> None:
        """Prints one log record."""
        if not self._wants(record):
            return
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + python_logging.Formatter().formatException(record.exc_info)
        level = "" if record.levelno < python_logging.WARNING else f"{record.levelname.lower()}: "
        process = "" if distributed.is_first() else f"process {jax.process_index()}: "
        if not _is_own(record):
            level = f"{level}{record.name}: "
        if self.plain:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
            self._rich.file.write(f"{when} {process}{level}{text}\n")
            self._rich.file.flush()
        elif level == process == "" and (name := getattr(record, "fact", None)):
            row = Table.grid(padding=(0, 1))
            row.add_column(style="bold", min_width=_NAMES, no_wrap=True)
            row.add_column(overflow="fold")
            row.add_row(name, text.removeprefix(f"{name}: "))
            self._rich.print(row)
        else:
            style = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red", "DEBUG": "dim"}
            shown = Text(f"{process}{level}", style.get(record.levelname, ""))
            # soft_wrap: the terminal breaks long lines, so that they can be copied whole.
            self._rich.print(shown.append(text, "dim" if hasattr(record, "work") else None), soft_wrap=True)

    def _wants(self, record: python_logging.LogRecord) -> bool:
        if record.levelno >= python_logging.WARNING:
            return True
        if not distributed.is_first():
            return False
        is_ours = _is_own(record) or record.name in self._others
        least = python_logging.INFO - 10 * (self._verbosity if is_ours else self._verbosity - 1)
        return record.levelno >= least

    def out(self) -> RichConsole | None:
        """The terminal for results; None if stdout is no terminal or output is plain.

        While a bar is shown, results pass through its console, which keeps them apart.
        """
        if not sys.stdout.isatty() or self._log == "plain" or _is_dumb():
            return None
        return self._rich if self._live else RichConsole(file=sys.stdout, highlight=False, markup=False)


class _Handler(python_logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: python_logging.LogRecord) -> None:
        try:
            self._console.show(record)
        except Exception:
            self.handleError(record)


def _is_own(record: python_logging.LogRecord) -> bool:
    path = pathlib.Path(record.pathname)
    return any(path.is_relative_to(folder) for folder in _OWN)


def _is_dumb() -> bool:
    return os.environ.get("TERM") == "dumb"


class _Current:
    console: Console | None = None


def _terminal() -> RichConsole | None:
    return _Current.console.out() if _Current.console else None


def is_at_terminal() -> bool:
    """Whether results are shown at a terminal, in columns, rather than piped."""
    return _terminal() is not None


def line(text: str) -> None:
    """Prints a line of results on stdout."""
    out = _terminal()
    if out is None:
        # File names may have characters that stdout cannot encode.
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(f"{text}\n".encode(encoding, "replace").decode(encoding))
    else:
        out.print(Text(text.encode("utf-8", "replace").decode()), soft_wrap=True)


def markdown(text: str) -> None:
    """Prints Markdown on stdout; at a terminal, rendered."""
    out = _terminal()
    if out is None:
        line(text)
    else:
        from rich.markdown import Markdown  # here, since it imports a highlighter of programs too

        out.print(Markdown(text))
