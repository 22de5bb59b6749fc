"""The training loop of all jobs: updates, log lines, evaluation, checkpoints and SIGTERM handling."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from absl import logging

from mpafer_jax.artifacts import run_dir
from mpafer_jax.artifacts.description import Described
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.config.schema import IntervalsSection
from mpafer_jax.method.state import TrainState
from mpafer_jax.method.steps import Metrics
from mpafer_jax.runtime import devices, distributed, preemption, progress, signals
from mpafer_jax.runtime.errors import CheckpointError, NonFiniteError
from mpafer_jax.runtime.metric_writer import TRAIN, MetricWriter, mean_metrics, to_numbers

_AHEAD = 2  # steps dispatched ahead of the devices

HostBatch = Mapping[str, np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Loop:
    """What `fit` trains. Steps are counted from 1.

    Attributes:
      num_steps: updates in total.
      every: intervals of log lines, evaluations and checkpoints. All are also made after the last step; an evaluation
        makes a checkpoint, a checkpoint a log line, so that a resumed run logs the same.
      batches: first step (number of earlier updates) -> this process's part of every later batch, on the host.
      update: (step, state, batch on the devices) -> (state, metrics).
      schedule: learning rate by the number of earlier updates.
      evaluate: params -> name of the evaluated split, its metrics, and the metrics as text; None: nothing to evaluate.
      describe: description of a checkpoint saved now.
      shown: names of metrics in the progress line.
      end_of_stage: a further step with a log line, after which other metrics are logged; 0 for none.
    """

    workdir: pathlib.Path
    num_steps: int
    every: IntervalsSection
    batches: Callable[[int], Iterable[HostBatch]]
    update: Callable[[int, TrainState, Any], tuple[TrainState, Metrics]]
    schedule: optax.Schedule
    evaluate: Callable[[dict[str, Any]], tuple[str, Mapping[str, float], str]] | None
    describe: Callable[[], Described]
    shown: tuple[str, ...]
    end_of_stage: int = 0


def fit(loop: Loop, state: TrainState, checkpoints: Checkpoints, notice: preemption.Notice) -> TrainState:
    """Trains from the state's step to the last one.

    Args:
      state: initial state on the devices: fresh, or restored from `checkpoints`.
      checkpoints: of the run; also holds the state's metrics that are not logged yet.
      notice: requests to stop.

    Returns:
      The last state, which is saved.

    Raises:
      CheckpointError: a checkpoint cannot be written, or the state is after a later step than the last one.
      NonFiniteError: a metric or parameter is not finite; names the first step.
      signals.Preempted: stopped on request; the state is saved.
    """

    def update(step: int, states: Sequence[TrainState], batch: Any) -> list[tuple[TrainState, Metrics]]:
        return [loop.update(step, states[0], batch)]

    (result,) = fit_together([loop], [state], [checkpoints], notice, batches=loop.batches, update=update)
    if isinstance(result, NonFiniteError):
        raise result
    return result


def fit_together(
    loops: Sequence[Loop],
    states: Sequence[TrainState],
    checkpoints: Sequence[Checkpoints],
    notice: preemption.Notice,
    *,
    batches: Callable[[int], Iterable[HostBatch]],
    update: Callable[[int, Sequence[TrainState], Any], Sequence[tuple[TrainState, Metrics]]],
) -> list[TrainState | NonFiniteError]:
    """`fit` of several runs by one compiled update; each has the log lines and checkpoints that it has alone.

    Args:
      loops: with equal numbers of steps; their `batches` and `update` are not read.
      states: all after the same step.
      batches: of all runs, as in `Loop`.
      update: of all runs, as in `Loop`.

    Returns:
      For each run its last state, or what made it fail: then the others go on.

    Raises:
      CheckpointError, signals.Preempted: as in `fit`; for all runs.
    """
    first_step, num_steps = int(devices.to_host(states[0].step)), loops[0].num_steps
    if first_step > num_steps:
        raise CheckpointError(
            f"{loops[0].workdir} has a checkpoint after step {first_step}, and this run has {num_steps} steps; give "
            "another --workdir, or the number of steps of the run that saved it"
        )
    pending = [saved.is_pending() for saved in checkpoints]
    if first_step == num_steps and not any(pending):
        return list(states)
    work = progress.task("training", num_steps, "steps", done=first_step)
    moved = devices.prefetch(batches(first_step))
    with work as shown, contextlib.closing(moved), contextlib.ExitStack() as writers:
        records = [
            _Record(
                loop,
                saved,
                writers.enter_context(
                    MetricWriter(
                        loop.workdir,
                        first_step=first_step,
                        enabled=distributed.is_first(),
                        evaluated=not evaluates_first,
                    )
                ),
                shown,
                notice,
                name=f"{loop.workdir}: " if len(loops) > 1 else "",
            )
            for loop, saved, evaluates_first in zip(loops, checkpoints, pending, strict=True)
        ]
        for record, state, evaluates_first in zip(records, states, pending, strict=True):
            if evaluates_first:
                record.evaluate_saved(first_step, state)
        ahead = collections.deque[Metrics]()
        for step, batch in enumerate(moved, start=first_step + 1):
            updated = update(step, states, batch)
            states = [state for state, _ in updated]
            notice.start_steps()
            ahead.append(updated[0][1])
            if len(ahead) > _AHEAD:  # otherwise waiting batches would fill the devices' memory
                jax.block_until_ready(ahead.popleft())
            shown.advance()
            stopping = notice.reached()
            for record, (state, metrics) in zip(records, updated, strict=True):
                record.add(step, state, metrics, stopping=stopping)
                stopping = stopping or record.interrupted
            failures = [record.failure for record in records if record.failure is not None]
            if len(failures) == len(records):
                return list(failures)
            if stopping:
                for saved in checkpoints:
                    saved.wait()
                raise preemption.stopped_after(step, num_steps, *(loop.workdir for loop in loops))
        for saved in checkpoints:
            saved.wait()
        notice.end_steps()
    return [record.failure or state for record, state in zip(records, states, strict=True)]


class _Record:
    """Log lines, evaluations and checkpoints of a run in training.

    Attributes:
      name: before the lines of one of several runs.
      failure: what made the run fail; nothing is recorded after it.
      interrupted: whether an evaluation was broken off by a request to stop.
    """

    def __init__(
        self,
        loop: Loop,
        checkpoints: Checkpoints,
        writer: MetricWriter,
        shown: progress.Task,
        notice: preemption.Notice,
        *,
        name: str,
    ) -> None:
        self.name = name
        self.failure: NonFiniteError | None = None
        self.interrupted = False
        self._loop, self._checkpoints, self._writer, self._shown = loop, checkpoints, writer, shown
        self._notice = notice
        self._earlier, self._interval = checkpoints.latest_interval(), list[Metrics]()

    def add(self, step: int, state: TrainState, metrics: Metrics, *, stopping: bool) -> None:
        """Records an update: state and metrics; `stopping` saves in any case, without an evaluation."""
        if self.failure is not None:
            return
        self._interval.append(metrics)
        with self._recording_failure():
            self._add(step, state, stopping=stopping)

    def evaluate_saved(self, step: int, state: TrainState) -> None:
        """Makes the evaluation of the restored state, which the last start left out because it was to stop."""
        with self._recording_failure():
            evaluated = self._evaluate(step, state)
            self._writer.flush()
            self._checkpoints.complete(evaluated)

    @contextlib.contextmanager
    def _recording_failure(self) -> Generator[None]:
        try:
            yield
        except NonFiniteError as failure:
            self.failure = failure
            if distributed.is_first():
                run_dir.record_divergence(self._loop.workdir, failure)
            if self.name:
                logging.warning("%s%s", self.name, failure)

    def _add(self, step: int, state: TrainState, *, stopping: bool) -> None:
        loop, writer = self._loop, self._writer
        every, last = loop.every, step == loop.num_steps
        evaluates = loop.evaluate is not None and (last or step % every.eval_every == 0)
        saves = last or evaluates or step % every.checkpoint_every == 0
        if saves or step % every.log_every == 0 or step == loop.end_of_stage:
            means = mean_metrics([*self._earlier, *devices.to_host(self._interval)], step)
            writer.write(step, TRAIN, {**means, "learning_rate": float(np.asarray(loop.schedule(step - 1)))})
            self._shown.report(
                self.name + " ".join(f"{name} {means[name]:.4g}" for name in loop.shown if name in means)
            )
            self._earlier, self._interval = [], []
        evaluated: Mapping[str, float] | None = None
        if evaluates and not stopping:
            try:
                with self._notice.interruptible():
                    evaluated = self._evaluate(step, state)
            except signals.Preempted:  # an evaluation may take longer than the machine is left to the run
                self.interrupted = True
        if saves or stopping:
            writer.flush()
            # A checkpoint between two log lines holds the metrics of the interrupted interval.
            waiting = to_numbers([*self._earlier, *devices.to_host(self._interval)], step)
            pending = evaluates and evaluated is None
            self._checkpoints.save(state, loop.describe(), evaluated, waiting, pending=pending)

    def _evaluate(self, step: int, state: TrainState) -> Mapping[str, float]:
        assert self._loop.evaluate is not None
        name, evaluated, text = self._loop.evaluate(state.params)
        self._writer.write(step, name, evaluated)
        logging.info("%s%s after step %d: %s", self.name, name, step, text)
        return evaluated
