"""Evaluation of prompts on a split."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Split
from mpafer_jax.evaluation import metrics as metrics_lib
from mpafer_jax.method import build, steps
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError, NonFiniteError


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
    run: build.Experiment
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
        for batch in build.eval_batches(self.config, self.run, split, "evaluating on"):
            label = to_model[batch["label"]]
            mask = batch["mask"] * (label >= 0)
            yield {"image": batch["image"], "label": np.maximum(label, 0), "mask": mask.astype(np.float32)}


def make_evaluator(config: Config, run: build.Experiment) -> Evaluator:
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
