"""What a person sees: lines with a date in a log, a bar at a terminal, results on stdout."""

import io
import logging
import os
import pathlib
import pty
import re
import subprocess
import sys
import termios
import warnings

import pytest
from absl import logging as absl_logging
from rich.console import Console as RichConsole

from mpafer_jax.runtime import console, progress

SHOW = """
import sys, time
from absl import logging
from mpafer_jax.runtime import console, progress
with console.Console(), progress.task("training", 30, "steps", done=10) as work:
    work.advance()
    time.sleep(0.3)
    work.advance(9)
    work.report("loss 0.5")
    progress.fact("validation", "after step 20")
    console.line("a result")
    time.sleep(0.7)
    work.advance(10)
    time.sleep(0.3)
"""


class Stream(io.TextIOWrapper):
    """A stream that says it leads to a terminal, or not; `text` is what was written to it."""

    def __init__(self, *, terminal, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding, errors="backslashreplace", newline="", write_through=True)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def opened(monkeypatch):
    """Opens consoles on streams: (stderr, stdout) of a terminal of so many columns, or of a file."""

    def open_(*, terminal=True, columns=80, encoding="utf-8", term="xterm-256color", **environment):
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"COLUMNS": str(columns), "LINES": "24", "TERM": term, **environment}.items():
            monkeypatch.setenv(name, value)
        streams = Stream(terminal=terminal, encoding=encoding), Stream(terminal=terminal, encoding=encoding)
        monkeypatch.setattr(console, "_OWN", (pathlib.Path(__file__).parent, *console._OWN))
        monkeypatch.setattr("sys.stderr", streams[0])
        monkeypatch.setattr("sys.stdout", streams[1])
        return streams

    return open_


@pytest.fixture
def clock(monkeypatch):
    """The console's monotonic clock, which stands still until its "now" is changed."""
    time = {"now": 100.0}
    monkeypatch.setattr("mpafer_jax.runtime.console.time.monotonic", lambda: time["now"])
    return time


def lines_of(stream):
    """Lines of a log, each of which has a date, without it."""
    found = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", line) for line in stream.text.splitlines()]
    assert all(found), stream.text
    return [match[1] for match in found]


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.95, "10 s"),
        (59.6, "1 min 0 s"),
        (144, "2 min 24 s"),
        (3600, "1 h 0 min"),
        (4 * 3600 + 12 * 60, "4 h 12 min"),
        (86399, "1 d 0 h"),
        (3.2 * 86400, "3 d 5 h"),
    ],
)
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def test_a_log_has_lines_with_rate_and_time_left_and_no_bar(opened, clock):
    stderr, stdout = opened(terminal=False)
    with console.Console():
        progress.fact("devices", "1 x cpu")
        with progress.task("training", 1040, "steps", done=10) as work:
            clock["now"] += 30  # compiling, which is no measure of the steps after it
            work.advance()
            clock["now"] += 10
            work.advance(19)
            work.report("loss 0.5123")
            with progress.task("evaluating", 100) as inner:
                clock["now"] += 5
                inner.advance(100)
            absl_logging.info("validation after step %d", 30)
            clock["now"] += 15.5
            work.advance(1)
        absl_logging.warning("an image is broken")
        console.line("result")
    assert lines_of(stderr) == [
        "devices: 1 x cpu",
        "training: 10/1,040 steps",
        "training: 11/1,040 steps",
        "training: 30/1,040 steps, loss 0.5123, 1.9 steps/s, 8 min 52 s left",
        "validation after step 30",
        "training: 31/1,040 steps, loss 0.5123, 1.5 s each, 25 min 39 s left",
        "training: 31 steps in 1 min 0 s",
        "warning: an image is broken",
    ]
    assert stdout.text == "result\n"


def test_work_that_fails_is_not_called_done(opened):
    stderr, _ = opened(terminal=False)
    with pytest.raises(RuntimeError), console.Console(), progress.task("training"):
        raise RuntimeError
    assert lines_of(stderr) == ["training"]


@pytest.mark.parametrize("columns", [30, 60, 80, 120])
def test_the_bar_fits_the_terminal_and_leaves_out_what_matters_least(opened, clock, columns):
    opened(columns=columns)
    with console.Console() as shown, shown.task("training", 600, "steps", 0, False) as work:
        work.advance(150)
        clock["now"] += 30
        work.report("loss 1.234 accuracy 0.5")
        drawn = RichConsole(file=io.StringIO(), width=columns, force_terminal=True)
        drawn.print(work)
    (line,) = plain(drawn.file.getvalue()).splitlines()
    assert len(line) <= columns
    assert line.startswith("training  \N{BOX DRAWINGS HEAVY HORIZONTAL}")
    filled, left = line.count("\N{BOX DRAWINGS HEAVY HORIZONTAL}"), line.count("\N{BOX DRAWINGS LIGHT HORIZONTAL}")
    assert filled == (filled + left) // 4
    for least, part in ((60, "150/600 steps"), (60, "1 min 30 s left"), (80, "loss 1.234"), (120, "5.0 steps/s")):
        assert (part in line) == (columns >= least), line


def test_terminals_without_colour_or_unicode_or_a_cursor(opened):
    def show():
        with console.Console(), progress.task("drawing", 8) as work:
            work.advance(4)
            absl_logging.warning("careful")
            absl_logging.info("\N{GREEK SMALL LETTER ALPHA}")

    stderr, _ = opened()
    show()
    assert "\x1b[33mwarning: " in stderr.text
    assert "careful" in stderr.text
    stderr, _ = opened(NO_COLOR="1")
    show()
    assert "\x1b[33m" not in stderr.text
    assert "warning: careful" in stderr.text
    stderr, _ = opened(encoding="ascii")
    show()
    assert "drawing  ====" in plain(stderr.text)
    assert "\\u03b1" in stderr.text
    stderr, _ = opened(term="dumb")
    show()
    assert "\x1b" not in stderr.text
    assert lines_of(stderr)[:2] == ["drawing: 0/8 images", "warning: careful"]
    stderr, _ = opened()
    with console.Console(log="plain"):
        absl_logging.info("one")
    assert lines_of(stderr) == ["one"]


def test_details_and_libraries_lines_are_shown_where_they_are_asked_for(opened):
    def show(**options):
        stderr, _ = opened(terminal=False)
        with console.Console(**options), progress.task("working"):
            absl_logging.debug("a detail")
            logging.getLogger("library").info("routine")
            logging.getLogger("library").debug("more")
            logging.getLogger("library").warning("trouble")
        return [line for line in lines_of(stderr) if "working" not in line]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "_is_own", lambda record: record.name == "absl")  # both are of this file
        assert show() == ["warning: library: trouble"]
        assert show(others=("library",)) == ["library: routine", "warning: library: trouble"]
        assert show(verbosity=1) == ["a detail", "library: routine", "warning: library: trouble"]
        assert show(verbosity=2) == ["a detail", "library: routine", "library: more", "warning: library: trouble"]
        assert show(verbosity=-1) == ["warning: library: trouble"]


def test_results_are_markdown_in_a_file_and_tables_at_a_terminal(opened):
    table = "|   | UAR, % |\n|---|-------:|\n| a |  12.50 |\n"
    _, stdout = opened(terminal=False)
    with console.Console():
        console.markdown(table)
    assert stdout.text == table + "\n"
    _, stdout = opened(columns=60)
    with console.Console():
        console.markdown(table)
        console.line("x" * 100)  # the terminal's to break
    shown = plain(stdout.text).splitlines()
    assert "|" not in stdout.text
    assert shown[-1] == "x" * 100
    assert [line.split() for line in shown if "12.50" in line] == [["a", "12.50"]]
    assert max(map(len, shown[:-1])) <= 60


def test_nothing_is_shown_to_who_only_imports_the_package(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with progress.task("training", 2, "steps") as work:
            work.advance()
            work.report("loss 1")
        assert list(progress.track([1, 2], "counting")) == [1, 2]
        assert progress.announcing(max, "compiling")(1, 2) == 2
    assert capsys.readouterr() == ("", "")


def test_the_log_is_as_before_once_the_console_is_closed(opened):
    stderr, _ = opened(terminal=False)
    root, basic = logging.getLogger(), logging.StreamHandler(stderr)  # as `logging.basicConfig` adds it
    root.addHandler(basic)
    try:
        before = set(root.handlers), root.level
        with console.Console():
            absl_logging.info("once")
        assert (set(root.handlers), root.level) == before
    finally:
        root.removeHandler(basic)
    assert lines_of(stderr) == ["once"]


@pytest.mark.processes
def test_a_bar_on_a_real_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    arguments = [sys.executable, "-c", SHOW]
    with subprocess.Popen(
        arguments, stderr=theirs, stdout=subprocess.PIPE, env={**environment, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how a terminal says that nobody writes to it any more
            pass
        assert process.stdout.read() == b"a result\n"
    os.close(ours)
    assert process.returncode == 0
    text = plain(shown.decode())
    assert "10/30 steps" in text or "11/30 steps" in text
    assert "20/30 steps" in text
    assert "30/30 steps" in text
    assert "loss 0.5" in text
    assert "validation after step 20\r\n" in text
    assert "training: 30 steps in 1." in text
    assert shown.endswith(b"\r\n")
    assert b"\x1b[?25h" in shown  # the cursor is there again
