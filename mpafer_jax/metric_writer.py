"""Where numbers go while a run runs: JSON lines, TensorBoard events, and a progress line."""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import tqdm
from absl import logging

from mpafer_jax import files

_LINES, _EVENTS = "metrics.jsonl", "tensorboard"

_COPY_SECONDS = 30.0  # between copies into a bucket, whose objects cannot be appended to


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard; a context manager.

    For a workdir in a bucket both are written on this machine and copied there whole: now and then, when asked to, and
    at the end. A run that is killed loses lines of steps that its next start makes anew, if what it asks for comes
    before each checkpoint.
    """

    def __init__(self, workdir: pathlib.Path, *, first_step: int, enabled: bool) -> None:
        """Opens the files; lines after `first_step`, which a stopped run left and a resumed one writes anew, go.

        Args:
          workdir: of the run.
          first_step: how many updates were made before.
          enabled: whether this process writes; otherwise every call does nothing.
        """
        import tensorboardX  # here: it imports PyTorch where it can, which a command prevents first

        self._stream = self._events = None
        if not enabled:
            return
        kept = _lines_up_to(workdir / _LINES, first_step)
        self._workdir, self._copies, self._copied = workdir, None, time.monotonic()
        if files.in_bucket(workdir):
            self._copies = tempfile.TemporaryDirectory()
            workdir = pathlib.Path(self._copies.name)
        files.write_text(workdir / _LINES, "".join(kept))
        self._stream = (workdir / _LINES).open("a", encoding="utf-8")
        self._events = tensorboardX.SummaryWriter(
            str(workdir / _EVENTS), purge_step=first_step + 1 if first_step else None
        )

    def write(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        """Adds one line: `kind` is 'train' or the name of an evaluated split."""
        if self._stream is None or self._events is None:
            return
        self._stream.write(json.dumps({"step": step, "kind": kind, **metrics}) + "\n")
        self._stream.flush()
        for name, value in metrics.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)
        self._events.flush()
        if time.monotonic() - self._copied > _COPY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Puts what was written where the workdir is; to be called before a checkpoint is begun that continues it."""
        if self._stream is None or self._copies is None:
            return
        here = pathlib.Path(self._copies.name)
        for path in (here / _LINES, *(here / _EVENTS).iterdir()):
            (self._workdir / path.relative_to(here)).write_bytes(path.read_bytes())
        self._copied = time.monotonic()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files, whatever happened."""
        if self._stream is not None and self._events is not None:
            self._stream.close()
            self._events.close()
            self.flush()
            if self._copies is not None:
                self._copies.cleanup()


def _lines_up_to(path: pathlib.Path, step: int) -> list[str]:
    kept: list[str] = []
    if not path.is_file():
        return kept
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was killed
            continue
        if record["step"] <= step and line.endswith("\n"):
            kept.append(line)
    return kept


class Progress:
    """A bar on a terminal, log lines otherwise; both with rate and time left. A context manager."""

    def __init__(self, *, first_step: int, num_steps: int, batch_size: int, enabled: bool = True) -> None:
        """Starts the clock.

        Args:
          first_step: how many updates were made before.
          num_steps: updates in all.
          batch_size: images a step, for the rate.
          enabled: whether this process shows anything; otherwise every call does nothing.
        """
        self._num_steps, self._batch_size = num_steps, batch_size
        self._last_step, self._last_time = first_step, time.monotonic()
        self._enabled = enabled
        terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm.tqdm(total=num_steps, initial=first_step, unit="step", disable=not terminal)
        self._log_lines = not terminal

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the metrics of the interval that ends at `step`."""
        if not self._enabled:
            return
        now = time.monotonic()
        done, seconds = step - self._last_step, now - self._last_time
        self._last_step, self._last_time = step, now
        shown = " ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(done)
        if self._log_lines:
            rate = done / seconds if seconds else float("inf")
            left = tqdm.tqdm.format_interval((self._num_steps - step) / rate)
            logging.info(
                "step %d/%d (%.0f%%) %s | %.1f images/s, %s left",
                step,
                self._num_steps,
                100 * step / self._num_steps,
                shown,
                rate * self._batch_size,
                left,
            )

    def note(self, text: str) -> None:
        """Shows a line of its own, above the bar where there is one."""
        if not self._enabled:
            return
        if self._log_lines:
            logging.info("%s", text)
        else:
            self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the bar."""
        self._bar.close()
