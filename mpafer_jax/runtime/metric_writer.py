"""Metrics of a run as JSON lines and TensorBoard events."""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from absl import logging

from mpafer_jax.runtime import files, without_torch
from mpafer_jax.runtime.errors import ReportError
from mpafer_jax.runtime.finite import HostMetrics, check_metrics

LINES, _EVENTS = "metrics.jsonl", "tensorboard"
TRAIN = "train"  # kind of the lines that are of no evaluation

_COPY_SECONDS = 30.0  # between copies into a bucket, which cannot append


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to TensorBoard; a context manager.

    For a workdir in a bucket both are written locally and copied there: from time to time, on `flush`, and at the end.
    With a `flush` before each checkpoint, a killed run loses only lines of steps that it repeats on resume. A copy from
    time to time may fail, as where the bucket does not answer for a while; the others may not.
    """

    def __init__(self, workdir: pathlib.Path, *, first_step: int, enabled: bool, evaluated: bool = True) -> None:
        """Opens the files and truncates the log to `first_step`, from which the run resumes.

        Args:
          workdir: of the run.
          first_step: number of earlier updates.
          enabled: without it all calls do nothing.
          evaluated: whether the evaluation after `first_step` was saved; otherwise the run makes it, and logs it again.
        """
        with without_torch.hidden():
            import tensorboardX

        self._stream = self._events = None
        self._warned = False  # whether a copy has failed
        if not enabled:
            return
        lines = _lines_up_to(workdir / LINES, first_step, evaluated=evaluated)
        self._workdir, self._copies, self._copied = workdir, None, time.monotonic()
        if files.in_bucket(workdir):
            self._copies = tempfile.TemporaryDirectory()
            workdir = pathlib.Path(self._copies.name)
        self._written = workdir
        files.write_text(workdir / LINES, "".join(lines))
        self._stream = (workdir / LINES).open("a", encoding="utf-8")
        self._events = tensorboardX.SummaryWriter(
            str(workdir / _EVENTS), purge_step=first_step + 1 if first_step else None
        )

    def write(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        """Adds one line; `kind` is 'train' or the name of an evaluated split."""
        if self._stream is None or self._events is None:
            return
        with files.naming(self._written / LINES):
            self._stream.write(json.dumps({"step": step, "kind": kind, **metrics}) + "\n")
            self._stream.flush()
        with files.naming(self._written / _EVENTS):
            for name, value in metrics.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)
            self._events.flush()
        if time.monotonic() - self._copied > _COPY_SECONDS:
            self._copy_if_possible()

    def _copy_if_possible(self) -> None:
        try:
            self.flush()
        except Exception as error:  # those of buckets' clients have no common base
            self._copied = time.monotonic()
            if not self._warned:
                self._warned = True
                logging.warning(
                    "the metrics cannot be copied to %s (%s: %s); trying again in %.0f s, and before a checkpoint",
                    self._workdir,
                    type(error).__name__,
                    error,
                    _COPY_SECONDS,
                )

    def flush(self) -> None:
        """Copies the files into a workdir in a bucket; an error of that is raised."""
        if self._stream is None or self._copies is None:
            return
        local = pathlib.Path(self._copies.name)
        for path in (local / LINES, *(local / _EVENTS).iterdir()):
            (self._workdir / path.relative_to(local)).write_bytes(path.read_bytes())
        self._copied = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None and self._events is not None:
            with files.naming(self._written / LINES):
                self._stream.close()
            with files.naming(self._written / _EVENTS):
                self._events.close()
            self.flush()
            if self._copies is not None:
                self._copies.cleanup()


def read(workdir: pathlib.Path) -> dict[str, dict[str, dict[int, float]]]:
    """What was written in a workdir: kind -> metric -> step -> value; empty without `metrics.jsonl`.

    A last line without an end, as a kill leaves it, is skipped: its run writes it again when it resumes.

    Raises:
      ReportError: another line has no metrics.
    """
    path = workdir / LINES
    found: dict[str, dict[str, dict[int, float]]] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            continue
        try:
            record: dict[str, Any] = json.loads(line)
            kind, step = str(record.pop("kind")), int(record.pop("step"))
        except (ValueError, KeyError) as error:
            raise ReportError(f"{path} line {number} is no line of metrics ({error})") from error
        for name, value in record.items():
            found.setdefault(kind, {}).setdefault(name, {})[step] = float(value)
    return found


def to_numbers(metrics: Sequence[HostMetrics], last_step: int) -> list[dict[str, tuple[float, float]]]:
    """Metrics of consecutive steps as plain numbers for JSON; arguments and errors of `check_metrics`."""
    check_metrics(metrics, last_step)
    return [{name: (float(total), float(count)) for name, (total, count) in terms.items()} for terms in metrics]


def mean_metrics(metrics: Sequence[HostMetrics], last_step: int) -> dict[str, float]:
    """Mean of each metric over consecutive steps, weighted by its counts; arguments and errors of `check_metrics`."""
    check_metrics(metrics, last_step)
    return {
        name: sum(float(terms[name][0]) for terms in metrics) / sum(float(terms[name][1]) for terms in metrics)
        for name in metrics[0]
    }


def _lines_up_to(path: pathlib.Path, step: int, *, evaluated: bool) -> list[str]:
    lines: list[str] = []
    if not path.is_file():
        return lines
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:  # truncated by a kill
            continue
        repeated = record["step"] == step and record["kind"] != TRAIN and not evaluated
        if record["step"] <= step and not repeated and line.endswith("\n"):
            lines.append(line)
    return lines
