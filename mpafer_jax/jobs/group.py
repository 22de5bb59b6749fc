"""Training of several runs of one shape by one compiled step: `train_group(members)`.

A sweep's runs mostly differ in seeds and in numbers. Each compiles, decodes and computes alone what it could share:

Members. Runs are alike (`shape`) if their configurations differ only in
    numbers   fields declared `traced` (learning rate, weight decay, momentum, weights and temperature of the loss,
              label smoothing), none of which is 0 in one run and not in another: a 0 leaves a part of the method out;
    seeds     fields with the role 'seed': initial prompts, order, augmentation, few-shot draws;
    free      fields that change no result: baselines, reports.
  After preparation their numbers of updates and the shapes of their arrays must be equal, too.
Numbers. They are arguments of every run's step, in `Frozen.numbers`: the loss reads them in place of its options, the
  optimizer as the argument `numbers` of its update, from which it makes its schedule. So also runs that are trained one
  by one, in processes of their own, find each other's compiled step in JAX's persistent cache.
Step. `steps.make_group_step` takes a tuple of states and of constants, stacks them inside of the compiled function,
  applies the step of one run under `jax.vmap`, and returns each run's part. The backbone has no run axis. On a CPU,
  which one run keeps busy, it loops over the runs instead, with the memory of one: unless the runs have image features
  in common, which `jax.vmap` computes once. Outside of the function a run's state is what it always is, for evaluation,
  checkpoints and resume.
Batches. Runs with equal data and seed share each batch, which is decoded once and has no run axis. Otherwise the runs'
  batches are stacked along axis 1, [b, runs, ..]: axis 0 is split over the devices as always. Without visual prompts
  or updated weights the features of a shared batch have no run axis, either. With them no layer's pass is the same for
  two runs.
Loop. `fit.fit_together` has a record for each run: metrics.jsonl, evaluations, checkpoints, as alone. `fit` is the loop
  of one run.
Failure. A run whose numbers are no longer finite is recorded no further; under vmap it does not touch the others,
  whose step stays as compiled. Its failure is in the result, and so is that of its report. What is wrong before
  training, such as a run's configuration, and what concerns the disk or a signal stops all.
Resume. All members save at the same steps, so a stopped group resumes as one. If they stand at different steps (a
  checkpoint was damaged, a member failed or has ended), or are not alike, they run one by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Generator, Sequence
from typing import Any, cast

import jax
import numpy as np
from absl import logging

from mpafer_jax.artifacts import run_dir
from mpafer_jax.config.schema import Config
from mpafer_jax.config.semantics import traced_numbers, with_role
from mpafer_jax.jobs import train
from mpafer_jax.jobs.fit import HostBatch, fit, fit_together
from mpafer_jax.method.state import TrainState
from mpafer_jax.method.steps import Metrics, make_group_step
from mpafer_jax.runtime import devices, preemption, progress
from mpafer_jax.runtime.errors import NonFiniteError, ReportError, UserError


def shape(config: Config) -> dict[str, Any]:
    """The fields, by dotted name, that are equal for all runs of a group."""
    numbers = {f"{section}.{field}" for section, fields in traced_numbers(config).items() for field in fields}
    differing = {*numbers, *with_role(Config, "seed", "free")}
    return {name: value for name, value in run_dir.flatten(config.model_dump()).items() if name not in differing}


Failure = NonFiniteError | ReportError


def train_group(members: Sequence[tuple[Config, pathlib.Path]]) -> list[dict[str, Any] | Failure]:
    """Trains runs together where they are alike, else one by one; each leaves what `train_and_evaluate` leaves.

    Args:
      members: configuration and workdir of each run.

    Returns:
      For each run its summary, or what made it fail.

    Raises:
      As `train.train_and_evaluate`, with a note that names the run, but for NonFiniteError in training and ReportError.
    """
    started = time.monotonic()
    with preemption.Notice() as notice, contextlib.ExitStack() as stack:
        for config, workdir in members:
            with naming(workdir):
                train.check_before_preparation(config, workdir)
        runs: list[train.Run] = []
        for config, workdir in members:
            with naming(workdir):
                runs.append(_with_one_backbone(train.prepare(config, workdir), runs))
        for run in runs:
            with naming(run.workdir):
                stack.enter_context(run_dir.hold(run.workdir, run.config))
        saved = [stack.enter_context(contextlib.closing(train.open_checkpoints(run))) for run in runs]
        states = [train.begin(run, checkpoints) for run, checkpoints in zip(runs, saved, strict=True)]
        first_steps = [int(devices.to_host(state.step)) for state in states]
        loops = [train.make_loop(run) for run in runs]
        results: list[TrainState | NonFiniteError] = []
        if len(set(first_steps)) == 1 and _alike(runs):
            logging.info("%d runs are trained together", len(runs))
            shared = _see_the_same_batches(runs)
            constants = tuple(run.constants for run in runs)
            in_turn = jax.default_backend() == "cpu" and not (shared and _have_image_features_in_common(runs[0]))
            step = train.compiled(make_group_step(runs[0].step, shared_batch=shared, in_turn=in_turn))

            def batches(first_step: int) -> Generator[HostBatch]:
                return _batches(runs[:1] if shared else runs, first_step)

            def update(number: int, states: Sequence[TrainState], batch: Any) -> Sequence[tuple[TrainState, Metrics]]:
                del number
                return step(tuple(states), constants, batch)

            results = fit_together(loops, states, saved, notice, batches=batches, update=update)
        else:
            logging.info("%d runs differ in more than seeds and numbers, or in steps, and are trained apart", len(runs))
            for loop, state, checkpoints in zip(loops, states, saved, strict=True):
                try:
                    results.append(fit(loop, state, checkpoints, notice))
                except NonFiniteError as failure:
                    notice.end_steps()
                    results.append(failure)
        together = (time.monotonic() - started) / len(runs)
        summaries: list[dict[str, Any] | Failure] = []
        for run, result, checkpoints, first_step in zip(runs, results, saved, first_steps, strict=True):
            if isinstance(result, NonFiniteError):
                summaries.append(result)
                continue
            started = time.monotonic()
            progress.fact("run", str(run.workdir))
            try:
                summary, predictions = train.summarize(run, result, checkpoints)
                seconds = together + time.monotonic() - started
                summary["process"] = train.process(run, first_step, seconds)
                summaries.append(train.finish(run, summary, predictions))
            except (NonFiniteError, ReportError) as failure:
                summaries.append(failure)
    return summaries


@contextlib.contextmanager
def naming(workdir: pathlib.Path) -> Generator[None]:
    """Adds to an error which run it is of."""
    try:
        yield
    except UserError as error:
        error.add_note(f"This is of the run in {workdir}.")
        raise


def _with_one_backbone(run: train.Run, earlier: Sequence[train.Run]) -> train.Run:
    """The run, sharing the arrays of the first one's CLIP if that is its own, so that there is one copy of them."""
    if not earlier:
        return run
    first = earlier[0]
    if run.experiment.clip_hash != first.experiment.clip_hash or run.config.clip != first.config.clip:
        return run
    frozen = dataclasses.replace(run.experiment.frozen, backbone=first.experiment.frozen.backbone)
    experiment = dataclasses.replace(run.experiment, frozen=frozen)
    return dataclasses.replace(
        run, experiment=experiment, evaluator=dataclasses.replace(run.evaluator, experiment=experiment)
    )


def _alike(runs: Sequence[train.Run]) -> bool:
    def described(run: train.Run) -> tuple[Any, ...]:
        arrays, structure = cast(tuple[list[jax.Array], Any], jax.tree.flatten((run.fresh_prompts, run.constants)))
        shapes = [(array.shape, array.dtype) for array in arrays]
        return shape(run.config), run.num_steps, run.experiment.clip_hash, structure, shapes

    first = described(runs[0])
    return all(described(run) == first for run in runs[1:])


def _see_the_same_batches(runs: Sequence[train.Run]) -> bool:
    first = runs[0]
    return all(
        (run.config.seed, run.config.data, run.dataset.train.fingerprint)
        == (first.config.seed, first.config.data, first.dataset.train.fingerprint)
        for run in runs
    )


def _have_image_features_in_common(run: train.Run) -> bool:
    """Whether the features of a batch are the same for all runs of this shape."""
    learner = run.experiment.model.learner
    return not learner.changes_weights and learner.prompts(run.fresh_prompts).visual is None


def _batches(runs: Sequence[train.Run], first_step: int) -> Generator[HostBatch]:
    """The batches of one run, or those of several as arrays [b, runs, ..]."""
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(contextlib.closing(train.training_batches(run, first_step))) for run in runs]
        for parts in zip(*streams, strict=True):
            if len(parts) == 1:
                yield parts[0]
            else:
                yield {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}
