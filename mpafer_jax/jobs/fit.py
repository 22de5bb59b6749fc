"""The training loop of all jobs: updates, log lines, evaluation, checkpoints and SIGTERM handling."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from absl import logging

from mpafer_jax.artifacts.description import Described
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.config.schema import IntervalsSection
from mpafer_jax.method.state import TrainState
from mpafer_jax.method.steps import Metrics
from mpafer_jax.runtime import devices, distributed, preemption, progress
from mpafer_jax.runtime.metric_writer import MetricWriter, mean_metrics, to_numbers

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
      CheckpointError: a checkpoint cannot be written.
      NonFiniteError: a metric or parameter is not finite; names the first step.
      signals.Preempted: stopped on request; the state is saved.
    """
    first_step = int(devices.to_host(state.step))
    if first_step == loop.num_steps:
        return state
    every = loop.every
    writer = MetricWriter(loop.workdir, first_step=first_step, enabled=distributed.is_first())
    work = progress.task("training", loop.num_steps, "steps", done=first_step)
    batches = devices.prefetch(loop.batches(first_step))
    with writer, work as shown, contextlib.closing(batches):
        earlier, interval = checkpoints.latest_interval(), list[Metrics]()
        for step, batch in enumerate(batches, start=first_step + 1):
            state, metrics = loop.update(step, state, batch)
            notice.start_steps()
            interval.append(metrics)
            if len(interval) > _AHEAD:  # otherwise waiting batches would fill the devices' memory
                jax.block_until_ready(interval[-1 - _AHEAD])
            shown.advance()
            stopping, last = notice.reached(), step == loop.num_steps
            evaluates = loop.evaluate is not None and (last or step % every.eval_every == 0)
            saves = last or evaluates or step % every.checkpoint_every == 0
            if saves or step % every.log_every == 0 or step == loop.end_of_stage:
                means = mean_metrics([*earlier, *devices.to_host(interval)], step)
                writer.write(step, "train", {**means, "learning_rate": float(np.asarray(loop.schedule(step - 1)))})
                shown.report(" ".join(f"{name} {means[name]:.4g}" for name in loop.shown if name in means))
                earlier, interval = [], []
            evaluated: Mapping[str, float] | None = None
            if loop.evaluate is not None and evaluates:
                name, evaluated, text = loop.evaluate(state.params)
                writer.write(step, name, evaluated)
                logging.info("%s after step %d: %s", name, step, text)
            if saves or stopping:
                writer.flush()
                # A checkpoint between two log lines holds the metrics of the interrupted interval.
                waiting = to_numbers([*earlier, *devices.to_host(interval)], step)
                checkpoints.save(state, loop.describe(), evaluated, waiting)
            if stopping:
                checkpoints.wait()
                raise preemption.stopped_after(step, loop.num_steps, loop.workdir)
        checkpoints.wait()
        notice.end_steps()
    return state
