"""The training loop of all jobs: steps, log lines, evaluations, checkpoints, and a stop that loses nothing."""

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

from mpafer_jax.artifacts.checkpoints import Checkpoints
from mpafer_jax.artifacts.description import Described
from mpafer_jax.method.state import TrainState
from mpafer_jax.method.steps import Metrics
from mpafer_jax.runtime import devices, distributed, preemption, progress
from mpafer_jax.runtime.metric_writer import MetricWriter, mean_metrics, to_numbers

_AHEAD = 2  # steps that may wait for the devices

HostBatch = Mapping[str, np.ndarray[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Loop:
    """What a job trains. Steps are counted from 1.

    Attributes:
      workdir: of the run.
      num_steps: updates in all.
      batches: from a number of updates to this process's part of every batch after them, on the host.
      update: (step, state, batch on the devices) -> (state, metrics).
      schedule: the learning rate by the number of updates before.
      logs: whether the metrics of an interval are written after a step. They are wherever the state is saved, so that a
        resumed run writes the same lines.
      evaluates: whether the state is evaluated after a step.
      evaluate: params -> the name of what was evaluated, its metrics, and those as a text.
      saves: whether the state is saved after a step; it is after the last one.
      describe: what a checkpoint saved now says of itself.
      shown: names of the metrics that are shown while it trains.
    """

    workdir: pathlib.Path
    num_steps: int
    batches: Callable[[int], Iterable[HostBatch]]
    update: Callable[[int, TrainState, Any], tuple[TrainState, Metrics]]
    schedule: optax.Schedule
    logs: Callable[[int], bool]
    evaluates: Callable[[int], bool]
    evaluate: Callable[[dict[str, Any]], tuple[str, Mapping[str, float], str]]
    saves: Callable[[int], bool]
    describe: Callable[[], Described]
    shown: tuple[str, ...]


def fit(loop: Loop, state: TrainState, checkpoints: Checkpoints, notice: preemption.Notice) -> TrainState:
    """Trains from the state's step to the last.

    Args:
      loop: what to train.
      state: where to start, on the devices: fresh, or what `checkpoints` restored.
      checkpoints: of the run; of the state's step it knows the metrics that no line holds yet.
      notice: whether to stop.

    Returns:
      The last state, which is saved.

    Raises:
      CheckpointError: a checkpoint cannot be written.
      NonFiniteError: names the first step with a metric that is not finite, and all of them; or a parameter.
      signals.Preempted: it was asked to stop; the state is saved.
    """
    first_step = int(devices.to_host(state.step))
    if first_step == loop.num_steps:
        return state
    writer = MetricWriter(loop.workdir, first_step=first_step, enabled=distributed.is_first())
    work = progress.task("training", loop.num_steps, "steps", done=first_step)
    batches = devices.prefetch(loop.batches(first_step))
    with writer, work as shown, contextlib.closing(batches):
        earlier, interval = checkpoints.latest_interval(), list[Metrics]()
        for step, batch in enumerate(batches, start=first_step + 1):
            state, metrics = loop.update(step, state, batch)
            notice.start_steps()
            interval.append(metrics)
            if len(interval) > _AHEAD:  # else batches that wait for their step would fill the devices' memory
                jax.block_until_ready(interval[-1 - _AHEAD])
            shown.advance()
            stopping, saves = notice.reached(), loop.saves(step) or step == loop.num_steps
            if loop.logs(step) or saves:
                means = mean_metrics([*earlier, *devices.to_host(interval)], step)
                writer.write(step, "train", {**means, "learning_rate": float(np.asarray(loop.schedule(step - 1)))})
                shown.report(" ".join(f"{name} {means[name]:.4g}" for name in loop.shown if name in means))
                earlier, interval = [], []
            evaluated: Mapping[str, float] | None = None
            if loop.evaluates(step):
                name, evaluated, text = loop.evaluate(state.params)
                writer.write(step, name, evaluated)
                logging.info("%s after step %d: %s", name, step, text)
            if saves or stopping:
                writer.flush()
                # Between two log lines the checkpoint holds the metrics that would have been part of the next.
                waiting = to_numbers([*earlier, *devices.to_host(interval)], step)
                checkpoints.save(state, loop.describe(), evaluated, waiting)
            if stopping:
                checkpoints.wait()
                raise preemption.stopped_after(step, loop.num_steps, loop.workdir)
        checkpoints.wait()
        notice.end_steps()
    return state
