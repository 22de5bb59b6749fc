"""Evaluation of prompts on a split, and the command that evaluates a checkpoint on any configured dataset."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts import run_dir as workdir_lib
from mpafer_jax.artifacts.description import circumstances
from mpafer_jax.artifacts.loaded import for_classes, load_checkpoints_clip
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.schema import ClassChoice, Config
from mpafer_jax.data import registry
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.evaluation.predictions import measure
from mpafer_jax.jobs import after_run
from mpafer_jax.runtime import devices, distributed, files, locks, preemption
from mpafer_jax.runtime.errors import ConfigError


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
    experiment, params = for_classes(config, params, description, clip, classes)
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
