"""The progress line: plain lines in a log, a bar on a terminal; both with rate and time left."""

import logging
import os
import pty
import subprocess
import sys
import termios

from mpafer_jax.metric_writer import Progress

SHOW = """
import time
from mpafer_jax.metric_writer import Progress
with Progress(first_step=10, num_steps=30, batch_size=8) as progress:
    time.sleep(0.2)
    progress.update(20, {"loss": 0.5})
    progress.note("validation after step 20")
    time.sleep(0.2)
    progress.update(30, {"loss": 0.25})
"""


def test_lines_where_there_is_no_terminal(caplog, monkeypatch):
    seconds = iter([0.0, 5.0, 7.0])
    monkeypatch.setattr("mpafer_jax.metric_writer.time.monotonic", lambda: next(seconds))
    with caplog.at_level(logging.INFO), Progress(first_step=10, num_steps=40, batch_size=8) as progress:
        progress.update(20, {"loss": 0.51234, "accuracy": 1.0})
        progress.note("validation after step 20")
        progress.update(40, {"loss": 0.25, "accuracy": 1.0})
    assert caplog.messages == [
        "step 20/40 (50%) loss 0.5123 accuracy 1 | 16.0 images/s, 00:10 left",
        "validation after step 20",
        "step 40/40 (100%) loss 0.25 accuracy 1 | 80.0 images/s, 00:00 left",
    ]


def test_a_bar_on_a_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", SHOW], stderr=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how a terminal says that nobody writes to it any more
            pass
        assert process.stdout.read() == b""
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert "10/30" in text
    assert "20/30" in text
    assert "30/30" in text
    assert "step/s, loss 0.25]" in text
    assert "validation after step 20\r\n" in text
