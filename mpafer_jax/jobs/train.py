"""Training: `train_and_evaluate(config, workdir)`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from mpafer_jax.artifacts import checkpoints as checkpoints_lib
from mpafer_jax.artifacts import run_checkpoints, warm_start
from mpafer_jax.artifacts import run_dir as workdir_lib
from mpafer_jax.artifacts.description import Description, circumstances, package_versions
from mpafer_jax.backbones.base import Pretrained
from mpafer_jax.config.schema import Config
from mpafer_jax.config.semantics import traced_numbers
from mpafer_jax.data import pipeline, registry
from mpafer_jax.data.splits import Dataset, Split, load_dataset
from mpafer_jax.evaluation import confidence as confidence_lib
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.evaluation.baselines import compute as baselines
from mpafer_jax.evaluation.evaluator import Evaluator, make_evaluator
from mpafer_jax.evaluation.predictions import Predictions, measure
from mpafer_jax.jobs import after_run
from mpafer_jax.jobs.fit import HostBatch, Loop, fit
from mpafer_jax.jobs.idle_fields import idle_fields
from mpafer_jax.method import build as build_lib
from mpafer_jax.method import motion_prior, optim, prototypes, steps
from mpafer_jax.method.features import encode_splits
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.hard_prompts.templates import check_hard_prompts
from mpafer_jax.method.losses import Objective
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices, distributed, files, locks, preemption, progress
from mpafer_jax.runtime.errors import ConfigError
from mpafer_jax.runtime.flops import count_flops

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that training reads.

    Attributes:
      step: the training step of one device, not compiled.
    """

    config: Config
    workdir: pathlib.Path
    num_steps: int
    dataset: Dataset
    experiment: build_lib.Experiment
    fresh_prompts: dict[str, Any]
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    step: steps.TrainStep
    evaluator: Evaluator
    description: Description

    @property
    def selecting(self) -> Split | None:
        """The split that selects the checkpoint: validation, or test with `eval.select_on_test_split`."""
        return self.dataset.test if self.config.eval.select_on_test_split else self.dataset.validation

    @property
    def constants(self) -> Frozen:
        """What the training step reads besides the state and the batch."""
        return self.experiment.with_frozen(numbers=traced_numbers(self.config)).frozen


def train_and_evaluate(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains prompts, evaluates the last and the best checkpoint and the baselines, writes `summary.json`.

    A rerun with the same arguments resumes; a finished run is only evaluated again.

    Args:
      config: as in docs/configuration.md.
      workdir: the run's folder, see `artifacts.run_dir`.

    Returns:
      The content of `summary.json`.

    Raises:
      CheckpointError: a checkpoint cannot be written, or no existing one can be read.
      ConfigError: the configuration does not fit the workdir, the CLIP or the devices, or the processes have different
        configurations, CLIPs, hard prompts or packages.
      signals.Preempted: stopped on request; the state is saved.
      NonFiniteError: a loss term, parameter, feature or logit became NaN or infinite.
      ReportError: the run has finished and its numbers are written, but not its report.
    """
    started = time.monotonic()
    with preemption.Notice() as notice:
        check_before_preparation(config, workdir)
        run = prepare(config, workdir)
        with workdir_lib.hold(workdir, config):
            return _run(run, notice, started)


def _run(run: Run, notice: preemption.Notice, started: float) -> dict[str, Any]:
    with contextlib.closing(open_checkpoints(run)) as saved:
        state = begin(run, saved)
        first_step = int(devices.to_host(state.step))
        state = fit(make_loop(run), state, saved, notice)
        summary, predictions = summarize(run, state, saved)
    summary["process"] = process(run, first_step, time.monotonic() - started)
    return finish(run, summary, predictions)


def process(run: Run, first_step: int, seconds: float) -> dict[str, Any]:
    """What `summary.json` says of how long training took: of a finished run that was evaluated again, what it said."""
    path = run.workdir / workdir_lib.SUMMARY
    if first_step == run.num_steps and path.is_file():
        return workdir_lib.read_json(path)["process"]
    return {"resumed_after_step": first_step, "wall_seconds": seconds}


def open_checkpoints(run: Run) -> run_checkpoints.Checkpoints:
    """The run's checkpoints; to be closed."""
    section = run.config.eval
    return run_checkpoints.Checkpoints(run.workdir, keep=run.config.train.keep, select_by=section.select_by)


def begin(run: Run, checkpoints: run_checkpoints.Checkpoints) -> TrainState:
    """The initial state, of a run that from now on has its folder to itself."""
    run.description.check_same()
    state = start(run, checkpoints)
    announce(run)
    if distributed.is_first():  # not earlier: a configuration that cannot run must not claim the folder
        workdir_lib.claim(run.workdir, run.config)
    return state


def finish(run: Run, summary: dict[str, Any], predictions: Predictions | None) -> dict[str, Any]:
    """Computes baselines and writes the results; arguments from `summarize`. Returns the completed summary."""
    config, workdir = run.config, run.workdir
    summary["baselines"] = baselines.compute(config, run.dataset, run.experiment, run.num_steps)
    described = protocol.items(summary, workdir_lib.flatten(config.model_dump()))
    if distributed.is_first():
        tables = f"{table_lib.render(summary)}\n{table_lib.render_groups(summary)}"
        files.write_text(workdir / "results.md", tables + protocol.to_markdown(described))
        files.write_json(workdir / workdir_lib.SUMMARY, summary)
    after_run.leave_report(config, predictions, run.dataset.held_out, workdir / workdir_lib.TRAINING_PREDICTIONS)
    return summary


def check_before_preparation(config: Config, workdir: pathlib.Path) -> None:
    """Checks names and the workdir; all processes must call it.

    Raises:
      ConfigError, LockedError: see `train_and_evaluate`.
    """
    check_names(config)
    workdir_lib.check(workdir, config)
    workdir_lib.check_writable(workdir)
    locks.refuse_if_held(workdir / locks.RUN, workdir)
    if config.eval.select_on_test_split:
        logging.warning("%s", protocol.TEST_SELECTED)
    workdir_lib.check_same(config)
    workdir_lib.check_shared(workdir)


def prepare(config: Config, workdir: pathlib.Path) -> Run:
    """Loads CLIP and data, computes prototypes and the motion prior; the training step is compiled later."""
    clip = check_before_data(config, workdir)
    dataset = load_dataset(config.data, without="" if config.eval.measure_test else "test")
    if not len(dataset.train):
        raise ConfigError("config.data.train_splits is empty, so there is nothing to train on")
    if len(dataset.class_names) < 2:
        raise ConfigError(f"one class {dataset.class_names} leaves nothing to tell apart; train on two or more")
    for warning in check_hard_prompts(config.hard_prompts, dataset.class_names):
        logging.warning("%s", warning)
    baselines.check(config, dataset)
    motion_prior.check(config, dataset.class_names)
    experiment = build_lib.build_experiment(config, dataset.class_names, clip)
    # Here, since it may raise and later steps are slow; on the host, since training steps donate their arguments.
    fresh = jax.device_get(build_lib.initial_prompts(config, experiment))
    epochs, images = config.train.num_epochs, dataset.train.images_per_epoch
    num_steps = config.train.num_steps or round(epochs * images / config.train.batch_size)
    tx, schedule = optim.configured_optimizer(config, experiment.model.learner, num_steps)
    objective = Objective.of(config.loss)
    if objective.reads_prototypes:
        experiment = experiment.with_prototypes(jnp.asarray(class_prototypes(config, dataset.train, experiment)))
    if config.loss.imbalance:
        experiment = experiment.with_frozen(class_counts=jnp.asarray(class_counts(config, dataset.train)))
    if motion_prior.is_read(config):
        experiment = experiment.with_patch_weights(
            motion_prior.patch_weights(config, workdir, dataset.train, experiment)
        )
    step = steps.make_train_step(
        forward=Forward.configured(
            build_lib.training_model(config, experiment.model),
            config.data,
            with_frozen=objective.reads_frozen,
        ),
        tx=tx,
        objective=objective,
        accumulate=config.train.accumulate,
        trained=optim.trained(fresh, config.optimizer.lr_scales),
    )
    return Run(
        config=config,
        workdir=workdir,
        num_steps=num_steps,
        dataset=dataset,
        experiment=experiment,
        fresh_prompts=fresh,
        tx=tx,
        schedule=schedule,
        step=step,
        evaluator=make_evaluator(config, experiment),
        description=describe(config, dataset, experiment),
    )


def check_names(config: Config) -> None:
    """Checks the names of dataset and baselines, and fields that depend on the dataset.

    Raises:
      ConfigError: names the field, its value and the valid values.
    """
    registry.check(config.data)
    baselines.check_names(config)


def check_before_data(config: Config, workdir: pathlib.Path) -> Pretrained:
    """Checks the configuration before the slow preparation of data; returns the CLIP.

    Raises:
      CheckpointError: the warm-start checkpoint is missing.
      ConfigError, PromptError: the configuration does not fit the devices, the CLIP or itself.
    """
    devices.check_batch_size("train.batch_size", config.train.batch_size, config.train.accumulate)
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    # As one: to load takes all processes.
    if config.train.warm_start and not distributed.all_agree(run_checkpoints.is_begun(workdir)):
        checkpoints_lib.load(config.train.warm_start, config.eval.which)
    baselines.check_banks(config)
    for warning in (*Objective.of(config.loss).idle_options(), *idle_fields(config)):
        logging.warning("%s", warning)
    clip = build_lib.load_before_data(config)
    # The length of a run counted in epochs depends on the data; here any sufficient one will do.
    num_steps = config.train.num_steps or config.optimizer.warmup_steps + 1
    learner = build_lib.make_model(config, clip.backbone, num_classes=1).learner
    optim.check_patterns(learner.param_shapes(), config.optimizer.lr_scales)
    optim.configured_optimizer(config, learner, num_steps)
    return clip


def class_prototypes(config: Config, split: Split, experiment: build_lib.Experiment) -> np.ndarray[Any, Any]:
    """p [C, D] of the training split, from the frozen features of its images (`method.features`)."""
    section = config.prototypes
    chosen = prototypes.choose_images(split.labels, section.images_per_class, config.seed)
    logging.debug("prototypes: from %d of %d training %s", len(chosen), len(split), split.unit)
    frozen = encode_splits(config, experiment, [split.take(chosen)])[split.name]
    return prototypes.mean_features(
        frozen.image_features, frozen.labels, experiment.class_names, normalize=section.normalize
    )


def class_counts(config: Config, split: Split) -> np.ndarray[Any, np.dtype[np.float32]]:
    """n_c [C]: labels of each class in the training split, votes in fractions.

    Raises:
      ConfigError: a class has none.
    """
    counts = split.label_distributions.sum(axis=0, dtype=np.float64)
    if empty := [name for name, count in zip(split.class_names, counts, strict=True) if not count]:
        raise ConfigError(
            f"no training image shows {', '.join(empty)}, so {config.loss.imbalance} has no count for it; leave the "
            "class out of data.class_names, or set loss.class_weights to 'none' and loss.logit_adjustment to 0"
        )
    return counts.astype(np.float32)


def describe(config: Config, dataset: Dataset, experiment: build_lib.Experiment) -> Description:
    """The description stored in this run's checkpoints."""
    weights = experiment.frozen.patch_weights
    return Description(
        config=config.model_dump(mode="json"),
        class_names=experiment.class_names,
        clip_name=experiment.clip_name,
        clip_hash=experiment.clip_hash,
        hard_prompts=experiment.hard_prompts,
        data={
            "dataset": config.data.dataset,
            "label_rule": config.data.label_rule,
            "train_fingerprint": dataset.train.fingerprint,
            "counts": {split.name: split.class_counts().tolist() for split in _splits(dataset)},
            **({} if dataset.face_margin is None else {"face_margin": dataset.face_margin}),
        },
        versions=package_versions(),
        patch_weights=None if weights is None else tuple(map(tuple, np.asarray(weights).tolist())),
    )


def _splits(dataset: Dataset) -> list[Split]:
    return [dataset.train, *dataset.held_out]


def start(run: Run, checkpoints: run_checkpoints.Checkpoints) -> TrainState:
    """The initial state: this workdir's newest checkpoint, else the warm start, else fresh prompts.

    CLIP's weights are not part of the state.
    """
    params = run.fresh_prompts
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=run.tx.init(params))
    restored = checkpoints.restore_latest(devices.replicate(state), run.description)
    if restored is not None:
        logging.info("resuming after step %d", int(restored.step))
        return restored
    if run.config.train.warm_start:
        saved, description, step = checkpoints_lib.load(run.config.train.warm_start, run.config.eval.which)
        params, notes = warm_start.warm_start(run.experiment.model.learner, params, run.description, saved, description)
        logging.info("warm start from %s, step %d:\n  %s", run.config.train.warm_start, step, "\n  ".join(notes))
        if description.clip_hash != run.experiment.clip_hash:
            logging.warning(
                "%s was trained on another CLIP (%s, hash %s); on this one (hash %s) its prompts may be no better than "
                "fresh ones",
                run.config.train.warm_start,
                description.clip_name,
                description.clip_hash[:16],
                run.experiment.clip_hash[:16],
            )
        state = TrainState(step=state.step, params=params, opt_state=run.tx.init(params))
    return devices.replicate(state)


def announce(run: Run) -> None:
    """Logs what is trained, on what, and where."""
    params = run.fresh_prompts
    trained = optim.trained(params, run.config.optimizer.lr_scales)
    for name, value in params.items():
        fate = "trained" if name in trained else "frozen"
        logging.debug("%s: %s %s, %d parameters", fate, name, value.shape, value.size)
    shapes = ", ".join(f"{name} {' x '.join(map(str, params[name].shape))}" for name in params if name in trained)
    number = sum(value.size for name, value in params.items() if name in trained)
    progress.fact("trained", f"{number:,} parameters: {shapes}")
    progress.fact("loss", str(Objective.of(run.config.loss)))
    progress.fact("steps", f"{run.num_steps:,} of {run.config.train.batch_size} images")
    progress.fact("workdir", str(run.workdir))


def compiled(step: Callable[..., T]) -> Callable[..., T]:
    """A training step for all devices, compiled at its first call; the first argument is donated."""
    return progress.announcing(devices.data_parallel(step, donate=(0,)), "compiling the training step")


def make_loop(run: Run) -> Loop:
    """The run as a `Loop` for `fit`."""
    constants, selecting = run.constants, run.selecting
    train_step = compiled(run.step)

    def evaluate(split: Split, params: dict[str, Any]) -> tuple[str, dict[str, float], str]:
        scalars = run.evaluator(params, split).scalars()
        return split.name, scalars, _percentages(scalars)

    return Loop(
        workdir=run.workdir,
        num_steps=run.num_steps,
        every=run.config.train,
        batches=functools.partial(training_batches, run),
        update=lambda step, state, batch: train_step(state, constants, batch),
        schedule=run.schedule,
        evaluate=None if selecting is None else functools.partial(evaluate, selecting),
        describe=lambda: run.description,
        shown=("loss", "accuracy"),
    )


def update_flops(run: Run, state: TrainState) -> float:
    """Floating-point operations of the matrix products and convolutions of an update, on all devices together."""
    section, experiment, devices_here = run.config.train, run.experiment, jax.local_device_count()
    images = (devices_here, section.batch_size // jax.device_count())
    classes = len(experiment.class_names)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*images, *shape), dtype)

    batch = {
        "image": array(np.uint8, experiment.image_size, experiment.image_size, 3),
        "label": array(np.int32),
        "label_distribution": array(np.float32, classes),
        "mask": array(np.float32),
    }
    return count_flops(devices.data_parallel(run.step), state, run.constants, batch) * jax.device_count()


def training_batches(run: Run, first_step: int) -> Generator[HostBatch]:
    """This process's part of every batch, starting at `first_step`."""
    batches = pipeline.train_batches(
        run.dataset.train,
        section=run.config.data,
        image_size=run.experiment.image_size,
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
        start_step=first_step,
        num_steps=run.num_steps,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    fields = ("image", "label", "label_distribution", "mask")
    return ({name: batch[name] for name in fields} for batch in batches)


def _percentages(metrics: Mapping[str, float]) -> str:
    shown = (("WAR", "war"), ("UAR", "uar"), ("macro F1", "macro_f1"))
    return ", ".join(f"{title} {100 * metrics[name]:.2f}%" for title, name in shown)


def summarize(
    run: Run, state: TrainState, checkpoints: run_checkpoints.Checkpoints
) -> tuple[dict[str, Any], Predictions | None]:
    """Evaluates the last and, if selected, the best prompts on every held-out split; leaves the latter's confidence.

    Returns:
      The summary, and the predictions for `eval.report`: of the best prompts, or of the last if none were selected.
    """
    best_step = checkpoints.best_step()
    steps_of = {"last": run.num_steps} | ({} if best_step is None else {"best": best_step})
    reported = list(steps_of.values())[-1]
    results: dict[str, Any] = {}
    evaluated: dict[int, dict[str, Any]] = {}
    predictions: Predictions | None = None
    confidence: dict[str, Any] = {}
    for name, step in steps_of.items():
        if step not in evaluated:
            params = state.params
            if name == "best":
                params = devices.replicate(checkpoints.restore_params(step, params))
            report = run.config.eval.report if step == reported else "none"
            scores, predicted = measure(run.evaluator, params, run.dataset.held_out, step=step, report=report)
            predictions = predicted or predictions
            evaluated[step] = {split: scored.metrics.to_dict() for split, scored in scores.items()}
            if step == reported and after_run.can_fit(run.dataset):
                fitted = confidence_lib.fit(run.evaluator, params, run.dataset.train, scores["validation"], step=step)
                after_run.leave_confidence(checkpoints_lib.folder(run.workdir, step), fitted, devices.to_host(params))
                confidence = {"confidence": confidence_lib.describe(fitted, scores, own=True)}
        results[name] = {"step": step, **evaluated[step]}
        for split, metrics in evaluated[step].items():
            title = f"{name} (step {step}), {split}"
            logging.debug("%s: %s, %d %s", title, _percentages(metrics), metrics["count"], run.dataset.train.unit)
    summary = {
        **results,
        "method": protocol.method_name(workdir_lib.flatten(run.config.model_dump())),
        "selected_by": "nothing: last step only"
        if best_step is None or run.selecting is None
        else f"{run.selecting.name} {run.config.eval.select_by}",
        "num_steps": run.num_steps,
        "seed": run.config.seed,
        "trained_parameters": {
            name: int(state.params[name].size) for name in optim.trained(state.params, run.config.optimizer.lr_scales)
        },
        "gflop_per_update": update_flops(run, state) / 1e9,
        "class_names": list(run.experiment.class_names),
        "clip": {"name": run.experiment.clip_name, "hash": run.experiment.clip_hash},
        "data": run.dataset.description.splitlines(),
        "fingerprints": {split.name: split.fingerprint for split in _splits(run.dataset)},
        "counts": {
            split.name: dict(zip(split.class_names, split.class_counts().tolist(), strict=True))
            for split in _splits(run.dataset)
        },
        **confidence,
        **circumstances(),
    }
    return summary, predictions
