"""Evaluation of prompts on a split, and the command that evaluates a checkpoint on any configured dataset."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax import checkpoint, devices, distributed, experiment, files, locks, preemption, steps
from mpafer_jax import workdir as workdir_lib
from mpafer_jax.checkpoint_description import Description, package_versions
from mpafer_jax.config import ClassChoice, Config, ConfigError
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.evaluation import metrics as metrics_lib
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation import table as table_lib
from mpafer_jax.expressions import map_classes
from mpafer_jax.finite import NonFiniteError
from mpafer_jax.hard_prompts.templates import build_hard_prompts, prompt_names
from mpafer_jax.weights.load import PretrainedClip


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates prompts; compiled once, used for every split and step.

    Attributes:
      config: of the data and of the batch size.
      run: the model.
      text_step: (params, frozen) -> text features.
      eval_step: see `steps.make_eval_step`.
    """

    config: Config
    run: experiment.Experiment
    text_step: Callable[..., jax.Array]
    eval_step: Callable[..., dict[str, jax.Array]]

    def __call__(self, params: dict[str, Any], split: Split) -> metrics_lib.ClassificationMetrics:
        """Every image of the split once; classes are matched by name, images of classes unknown here are left out.

        Raises:
          ConfigError: none is left.
          NonFiniteError: logits are NaN or infinite.
        """
        to_model = map_classes(split.class_names, self.run.class_names)  # [dataset's classes] -> ours, or -1
        _check_classes(split, self.run.class_names, to_model)
        text_features = devices.replicate(self.text_step(params, self.run.frozen))
        classes = len(self.run.class_names)
        confusion, loss = np.zeros((classes, classes)), 0.0
        step = functools.partial(self.eval_step, params, self.run.frozen, text_features)
        for sums in devices.results(step, self._batches(split, to_model)):
            confusion += sums["confusion"]
            loss += float(sums["cross_entropy"])
        try:
            return metrics_lib.from_confusion(confusion, loss, self.run.class_names)
        except NonFiniteError as error:
            raise NonFiniteError(f"{split.name}: {error}") from error

    def _batches(self, split: Split, to_model: npt.NDArray[np.int32]) -> Generator[dict[str, npt.NDArray[Any]]]:
        for batch in experiment.eval_batches(self.config, self.run, split, "evaluating on"):
            label = to_model[batch["label"]]
            mask = batch["mask"] * (label >= 0)
            yield {"image": batch["image"], "label": np.maximum(label, 0), "mask": mask.astype(np.float32)}


def make_evaluator(config: Config, run: experiment.Experiment) -> Evaluator:
    """Compiles what an evaluation needs."""
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    return Evaluator(
        config=config,
        run=run,
        text_step=steps.make_text_step(model=run.model),
        eval_step=steps.make_eval_step(model=run.model, mean=config.data.mean, std=config.data.std),
    )


def _check_classes(split: Split, class_names: Sequence[str], to_model: npt.NDArray[np.int32]) -> None:
    for name, index, count in zip(split.class_names, to_model, split.class_counts(), strict=True):
        if index < 0 and count:
            logging.warning(
                "%s: %d images of %r are left out, the model's classes are %s", split.name, count, name, class_names
            )
    if not split.class_counts()[to_model >= 0].sum():
        raise ConfigError(
            f"nothing to evaluate in {split.name}: its classes are {', '.join(split.class_names)}, the model's are "
            f"{', '.join(class_names)}; write class_names=('<the model's>=<the dataset's>', ...) where only the "
            "spelling differs"
        )


def choose_classes(choice: ClassChoice, trained: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """The classes that an evaluation chooses among (`config.eval.classes`), as the checkpoint spells those it knows.

    Args:
      choice: "checkpoint", "common" or "dataset".
      trained: the checkpoint's classes.
      found: the dataset's classes.

    Raises:
      ConfigError: fewer than two are left.
    """
    position: list[int] = map_classes(found, trained).tolist()  # [dataset's classes] -> the checkpoint's, or -1
    if choice == "checkpoint":
        chosen = list(trained)
    elif choice == "common":
        chosen = [name for index, name in enumerate(trained) if index in position]
    else:
        chosen = [trained[index] if index >= 0 else name for name, index in zip(found, position, strict=True)]
    if len(chosen) < 2:
        raise ConfigError(
            f"eval.classes={choice!r} leaves {', '.join(chosen) or 'no class'} to choose among: the checkpoint's "
            f"classes are {', '.join(trained)}, the dataset's {', '.join(found)}"
        )
    return tuple(chosen)


def experiment_of(
    config: Config,
    params: checkpoint.Params,
    description: Description,
    clip: PretrainedClip,
    class_names: Sequence[str],
) -> tuple[experiment.Experiment, checkpoint.Params]:
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
        run = experiment.build_experiment(config, class_names, clip, description.hard_prompts, read)
        experiment.check_prompts(params, run.model)
        return run.with_patch_weights(weights), params
    rows: list[int] = map_classes(class_names, description.class_names).tolist()
    new = [name for name, row in zip(class_names, rows, strict=True) if row < 0]
    if params["ctx"].ndim == 3:
        if new:
            raise checkpoint.CheckpointError(
                f"the checkpoint has learned a context for each of its classes (ctx.class_specific), and none for "
                f"{', '.join(new)}; only a context that all classes share (ctx.class_specific=False) goes with new ones"
            )
        params = {**params, "ctx": np.asarray(params["ctx"])[rows]}
    # Training alone reads hard prompts, and new classes may have no descriptions.
    unread = build_hard_prompts(read, 2, None)
    if weights is not None and new:
        logging.warning("no motion prior is known for %s: their patches weigh the same", ", ".join(new))
    chosen = weights and tuple(weights[row] if row >= 0 else (1.0,) * len(weights[0]) for row in rows)
    return experiment.build_experiment(config, class_names, clip, unread, read).with_patch_weights(chosen), params


def evaluate_checkpoint(config: Config, workdir: pathlib.Path, *, clip: str = "") -> dict[str, Any]:
    """Evaluates a checkpoint on the configured dataset's validation and test splits (`--mode=eval`).

    Prompts, hard prompts, the head, the CLIP and the pictures' mean and std come from the checkpoint; data, CLIP's type
    and the batch size from the configuration, which also says among which classes to choose (`eval.classes`). Writes
    `<workdir>/evaluation.json`, and what `eval.report` asks for.

    Args:
      config: see `configs/common.py`.
      workdir: where results are written; the checkpoint is its own where `eval.checkpoint` names none.
      clip: the CLIP that the checkpoint was trained on, where that is no longer found under its name; '' for that name.

    Returns:
      What was written.

    Raises:
      CheckpointError: no checkpoint, or one that was trained on another CLIP, or has no context for new classes.
      ConfigError: no split to evaluate, or none of its classes is one of the checkpoint's.
      ReportError: the numbers are written, but their report could not be made.
      preemption.Preempted: it was asked to stop; nothing is written, and the same command evaluates again.
    """
    with preemption.Notice():
        return _evaluate_checkpoint(config, workdir, clip)


def _evaluate_checkpoint(config: Config, workdir: pathlib.Path, clip_name: str) -> dict[str, Any]:
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    params, description, step = checkpoint.load(config.eval.checkpoint or workdir, config.eval.which)
    chosen_on_test = description.chosen_on_test(config.eval.which)
    if chosen_on_test:
        logging.warning("the checkpoint of %s: %s", description.data["dataset"], protocol.TEST_SELECTED)
    config, clip = experiment.load_checkpoints_clip(config, description, clip_name)
    dataset = load_dataset(config.data)
    held_out = dataset.held_out
    if not held_out:
        raise ConfigError(
            "nothing to evaluate: config.data names neither a validation nor a test split, nor a fraction that carves "
            "one; to evaluate all pictures of a dataset: --config.data.train_splits='()' "
            "--config.data.test_split=all"
        )
    classes = choose_classes(config.eval.classes, description.class_names, dataset.class_names)
    run, params = experiment_of(config, params, description, clip, classes)
    evaluator = make_evaluator(config, run)
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
        for split in held_out:
            found = evaluator(on_devices, split)
            logging.debug(
                "%s: WAR %.2f%% UAR %.2f%%, %d images", split.name, 100 * found.war, 100 * found.uar, found.count
            )
            result[split.name] = found.to_dict()
        result |= circumstances()
        predictions = workdir / workdir_lib.EVALUATION_PREDICTIONS
        if distributed.is_first():
            predictions.unlink(missing_ok=True)  # of an earlier evaluation
            files.write_json(workdir / "evaluation.json", result)
        if config.eval.report != "none":
            from mpafer_jax.report import after_run  # here: it builds on this module

            after_run.leave_report(evaluator, params, step, held_out, predictions)
    return result


def table(result: Mapping[str, Any]) -> str:
    """What `evaluate_checkpoint` returned as a Markdown table, in %."""
    found = {name: result[name] for name in ("validation", "test") if name in result}
    lines = [
        [name, str(scores["count"]), *(f"{100 * scores[metric]:.2f}" for metric in ("war", "uar", "macro_f1"))]
        for name, scores in found.items()
    ]
    return table_lib.markdown(("split", "images", "accuracy (WAR), %", "UAR, %", "macro F1, %"), lines)


def circumstances() -> dict[str, Any]:
    """With what a result was made, and when: 'versions', 'devices' (kind, number), 'matmul_precision', 'settings' (what
    `devices.unusual_settings` says), 'finished'."""
    return {
        "versions": package_versions(),
        "devices": [devices.kind(), jax.device_count()],
        "matmul_precision": devices.matmul_precision(),
        "settings": devices.unusual_settings(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
