"""Evaluation of prompts on a split, and the command that evaluates a checkpoint on any configured dataset."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts import run_dir as workdir_lib
from mpafer_jax.artifacts.description import Description, circumstances
from mpafer_jax.artifacts.loaded import load_checkpoints_clip
from mpafer_jax.backbones.clip.load import PretrainedClip
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.schema import ClassChoice, Config
from mpafer_jax.data import registry
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.evaluation.predictions import measure
from mpafer_jax.jobs import after_run
from mpafer_jax.method import build
from mpafer_jax.method.hard_prompts.templates import build_hard_prompts, prompt_names
from mpafer_jax.runtime import devices, distributed, files, locks, preemption
from mpafer_jax.runtime.errors import CheckpointError, ConfigError


def choose_classes(choice: ClassChoice, trained: Sequence[str], dataset: Sequence[str]) -> tuple[str, ...]:
    """The classes that an evaluation chooses among (`config.eval.classes`), as the checkpoint spells those it knows.

    Args:
      choice: "checkpoint", "common" or "dataset".
      trained: the checkpoint's classes.
      dataset: the dataset's classes.

    Raises:
      ConfigError: fewer than two are left.
    """
    position: list[int] = map_classes(dataset, trained).tolist()  # [dataset's classes] -> the checkpoint's, or -1
    if choice == "checkpoint":
        chosen = list(trained)
    elif choice == "common":
        chosen = [name for index, name in enumerate(trained) if index in position]
    else:
        chosen = [trained[index] if index >= 0 else name for name, index in zip(dataset, position, strict=True)]
    if len(chosen) < 2:
        raise ConfigError(
            f"eval.classes={choice!r} leaves {', '.join(chosen) or 'no class'} to choose among: the checkpoint's "
            f"classes are {', '.join(trained)}, the dataset's {', '.join(dataset)}"
        )
    return tuple(chosen)


def experiment_of(
    config: Config,
    params: checkpoints.Params,
    description: Description,
    clip: PretrainedClip,
    class_names: Sequence[str],
) -> tuple[build.Experiment, checkpoints.Params]:
    """A checkpoint's model for evaluation among some classes, and the prompts that go with it.

    Args:
      config: what `description.applied_to` returned.
      params: the checkpoint's prompts.
      description: of the checkpoint.
      clip: the one that it was trained on.
      class_names: of `choose_classes`.

    Raises:
      CheckpointError: a class is new, and every class has a context of its own; or the prompts do not have the shapes
        that the description says.
    """
    weights = description.patch_weights
    known = dict(zip(description.class_names, description.prompt_names, strict=True))
    configured = prompt_names(class_names, as_spelled=bool(config.data.class_names))
    read = [known.get(name, otherwise) for name, otherwise in zip(class_names, configured, strict=True)]
    if tuple(class_names) == description.class_names:
        experiment = build.build_experiment(config, class_names, clip, description.hard_prompts, read)
        build.check_prompts(params, experiment.model)
        return experiment.with_patch_weights(weights), params
    rows: list[int] = map_classes(class_names, description.class_names).tolist()
    new = [name for name, row in zip(class_names, rows, strict=True) if row < 0]
    if params["ctx"].ndim == 3:
        if new:
            raise CheckpointError(
                f"the checkpoint has learned a context for each of its classes (ctx.class_specific), and none for "
                f"{', '.join(new)}; only a context that all classes share (ctx.class_specific=False) goes with new ones"
            )
        params = {**params, "ctx": np.asarray(params["ctx"])[rows]}
    # Training alone reads hard prompts, and new classes may have no descriptions.
    unread = build_hard_prompts(read, 2, None)
    if weights is not None and new:
        logging.warning("no motion prior is known for %s: their patches weigh the same", ", ".join(new))
    chosen = weights and tuple(weights[row] if row >= 0 else (1.0,) * len(weights[0]) for row in rows)
    return build.build_experiment(config, class_names, clip, unread, read).with_patch_weights(chosen), params


def evaluate_checkpoint(config: Config, workdir: pathlib.Path, *, clip: str = "") -> dict[str, Any]:
    """Evaluates a checkpoint on the configured dataset's validation and test splits (`--mode=eval`).

    Prompts, hard prompts, the head, the CLIP and the images' mean and std come from the checkpoint; data, CLIP's type
    and the batch size from the configuration, which also says among which classes to choose (`eval.classes`). Writes
    `<workdir>/evaluation.json`, and what `eval.report` asks for.

    Args:
      config: as docs/configuration.md lists it.
      workdir: where results are written; the checkpoint is its own where `eval.checkpoint` names none.
      clip: the CLIP that the checkpoint was trained on, where that is no longer found under its name; '' for that name.

    Returns:
      What was written.

    Raises:
      CheckpointError: no checkpoint, or one that was trained on another CLIP, or has no context for new classes.
      ConfigError: no split to evaluate, or none of its classes is one of the checkpoint's.
      ReportError: the numbers are written, but their report could not be made.
      signals.Preempted: it was asked to stop; nothing is written, and the same command evaluates again.
    """
    with preemption.Notice():
        return _evaluate_checkpoint(config, workdir, clip)


def _evaluate_checkpoint(config: Config, workdir: pathlib.Path, clip_name: str) -> dict[str, Any]:
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    registry.check(config.data)
    params, description, step = checkpoints.load(config.eval.checkpoint or workdir, config.eval.which)
    chosen_on_test = description.chosen_on_test(config.eval.which)
    if chosen_on_test:
        logging.warning("the checkpoint of %s: %s", description.data["dataset"], protocol.TEST_SELECTED)
    config, clip = load_checkpoints_clip(config, description, clip_name)
    dataset = load_dataset(config.data)
    held_out = dataset.held_out
    if not held_out:
        raise ConfigError(
            "nothing to evaluate: config.data names neither a validation nor a test split, nor a fraction that splits "
            "one; to evaluate all images of a dataset: --config.data.train_splits='()' "
            "--config.data.test_split=all"
        )
    classes = choose_classes(config.eval.classes, description.class_names, dataset.class_names)
    experiment, params = experiment_of(config, params, description, clip, classes)
    evaluator = make_evaluator(config, experiment)
    on_devices = devices.replicate(params)
    result: dict[str, Any] = {
        "checkpoint": str(config.eval.checkpoint or workdir),
        "step": step,
        "trained_classes": list(description.class_names),
        "chosen_on_test": chosen_on_test,
        "clip": {"name": clip.name, "hash": clip.content_hash},
        "data": dataset.description.splitlines(),
        "fingerprints": {split.name: split.fingerprint for split in held_out},
    }
    # Not the lock of training, beside which its checkpoints may be evaluated.
    with locks.hold_for_run(workdir / ".evaluation.lock", workdir / "evaluation.json"):
        measured, predictions = measure(evaluator, on_devices, held_out, step=step, report=config.eval.report)
        for name, metrics in measured.items():
            logging.debug(
                "%s: WAR %.2f%% UAR %.2f%%, %d images", name, 100 * metrics.war, 100 * metrics.uar, metrics.count
            )
            result[name] = metrics.to_dict()
        result |= circumstances()
        path = workdir / workdir_lib.EVALUATION_PREDICTIONS
        if distributed.is_first():
            path.unlink(missing_ok=True)  # of an earlier evaluation
            files.write_json(workdir / "evaluation.json", result)
        after_run.leave_report(config, predictions, held_out, path)
    return result


def table(result: Mapping[str, Any]) -> str:
    """What `evaluate_checkpoint` returned as a Markdown table, in %."""
    splits = {name: result[name] for name in ("validation", "test") if name in result}
    lines = [
        [name, str(scores["count"]), *(f"{100 * scores[metric]:.2f}" for metric in ("war", "uar", "macro_f1"))]
        for name, scores in splits.items()
    ]
    return table_lib.markdown(("split", "images", "accuracy (WAR), %", "UAR, %", "macro F1, %"), lines)
