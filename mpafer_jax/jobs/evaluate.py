"""Evaluation of a checkpoint on any configured dataset (`--mode=eval`)."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts import run_dir as workdir_lib
from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.artifacts.description import circumstances
from mpafer_jax.artifacts.loaded import for_classes, load_checkpoints_clip
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.schema import ClassChoice, Config
from mpafer_jax.data import registry
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import confidence as confidence_lib
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.evaluation.predictions import measure
from mpafer_jax.jobs import after_run
from mpafer_jax.runtime import devices, distributed, files, locks, preemption
from mpafer_jax.runtime.errors import ConfigError


def choose_classes(choice: ClassChoice, trained: Sequence[str], dataset: Sequence[str]) -> tuple[str, ...]:
    """The candidate classes of an evaluation (`config.eval.classes`), in the checkpoint's spelling where it knows them.

    Args:
      choice: "checkpoint", "common" or "dataset".
      trained: the checkpoint's classes.
      dataset: the dataset's classes.

    Raises:
      ConfigError: fewer than two classes remain.
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


def evaluate_checkpoint(
    config: Config, workdir: pathlib.Path, *, clip: str = "", given: Collection[str] = ()
) -> dict[str, Any]:
    """Evaluates a checkpoint on the configured dataset's validation and test splits (`--mode=eval`).

    Prompts, hard prompts, head, CLIP and image normalization come from the checkpoint; data, dtype of CLIP, batch size
    and candidate classes (`eval.classes`) from the configuration. Writes `<workdir>/evaluation.json` and the report of
    `eval.report`. A checkpoint without `confidence.npz` gets one, if the data are those of its training.

    Args:
      config: as in docs/configuration.md.
      workdir: for the results; also of the checkpoint if `eval.checkpoint` is empty.
      clip: name of the checkpoint's CLIP if that has moved; '' for the recorded name.
      given: fields that were set by name, which may not differ from what the checkpoint determines.

    Returns:
      The content of `evaluation.json`.

    Raises:
      CheckpointError: no checkpoint, one trained on another CLIP, or one without context for new classes.
      ConfigError: no split to evaluate, no class in common with the checkpoint, or see `given`.
      ReportError: the numbers are written, but not their report.
      signals.Preempted: stopped on request; nothing is written.
    """
    with preemption.Notice():
        return _evaluate_checkpoint(config, workdir, clip, given)


def _evaluate_checkpoint(
    config: Config, workdir: pathlib.Path, clip_name: str, given: Collection[str]
) -> dict[str, Any]:
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    registry.check(config.data)
    checkpoint = config.eval.checkpoint or workdir
    params, description, step = checkpoints.load(checkpoint, config.eval.which)
    description.refuse_others(config, given)
    chosen_on_test = checkpoints.chosen_on_test(checkpoint, config.eval.which, description)
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
        "checkpoint": str(checkpoint),
        "step": step,
        "trained_classes": list(description.class_names),
        "chosen_on_test": chosen_on_test,
        "clip": {"name": clip.name, "hash": clip.content_hash},
        "data": dataset.description.splitlines(),
        "fingerprints": {split.name: split.fingerprint for split in held_out},
    }
    # A lock separate from training's, so that checkpoints can be evaluated during training.
    with locks.hold_for_run(workdir / ".evaluation.lock", workdir / workdir_lib.EVALUATION):
        scores, predictions = measure(evaluator, on_devices, held_out, step=step, report=config.eval.report)
        for name, scored in scores.items():
            metrics = scored.metrics
            logging.debug(
                "%s: WAR %.2f%% UAR %.2f%%, %d images", name, 100 * metrics.war, 100 * metrics.uar, metrics.count
            )
            result[name] = metrics.to_dict()
        if classes == description.class_names:
            folder, trained = checkpoints.folder(checkpoint, step), description.data
            confidence = Confidence.load(folder, params)
            own = dataset.train.fingerprint == trained["train_fingerprint"] and after_run.can_fit(dataset)
            if own and not distributed.all_agree(confidence is not None):
                confidence = confidence_lib.fit(evaluator, on_devices, dataset.train, scores["validation"], step=step)
                after_run.leave_confidence(folder, confidence, params)
            if confidence is not None:
                result["confidence"] = confidence_lib.describe(confidence, scores, own=own)
        result |= circumstances()
        path = workdir / workdir_lib.EVALUATION_PREDICTIONS
        if distributed.is_first():
            path.unlink(missing_ok=True)  # of an earlier evaluation
            files.write_json(workdir / workdir_lib.EVALUATION, result)
        after_run.leave_report(config, predictions, held_out, path)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The result of `evaluate_checkpoint` as a Markdown table, in percent."""
    splits = {name: result[name] for name in ("validation", "test") if name in result}
    lines = [
        [name, str(scores["count"]), *(f"{100 * scores[metric]:.2f}" for metric in ("war", "uar", "macro_f1"))]
        for name, scores in splits.items()
    ]
    shown = table_lib.markdown(("split", protocol.unit(result), "accuracy (WAR), %", "UAR, %", "macro F1, %"), lines)
    return f"{shown}\n**{protocol.TEST_SELECTED}**\n" if result["chosen_on_test"] else shown
