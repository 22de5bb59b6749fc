"""Evaluation of prompts on a split."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.backbones.clip.model import Outputs
from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Split
from mpafer_jax.evaluation import metrics as metrics_lib
from mpafer_jax.method import build, steps
from mpafer_jax.method.batches import eval_batches
from mpafer_jax.method.forward import Forward
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError
from mpafer_jax.runtime.finite import check_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What a model computes of a split: of the n images or clips whose class is one of its C.

    Attributes:
      class_names: C names.
      positions: int64[n], their positions in the split.
      names: str[n].
      labels: int32[n], the true classes.
      logits: float32[n, C], of a clip the mean over its frames.
      features: float16[m, D], z^g under the visual prompts, normalised, of all images of the split and frames of clips.
      mean_patches: float32[m, D] of the same, see `method.outliers`.
      unit: "images" or "clips".
      attributes: str[n] by name, see `data.splits.Split`.
    """

    class_names: tuple[str, ...]
    positions: npt.NDArray[np.int64]
    names: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float16]
    mean_patches: npt.NDArray[np.float32]
    unit: str
    attributes: Mapping[str, npt.NDArray[np.str_]]

    @property
    def metrics(self) -> metrics_lib.ClassificationMetrics:
        """Metrics of the split."""
        return metrics_lib.from_logits(
            self.logits, self.labels, self.class_names, names=self.names, attributes=self.attributes
        )


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates prompts on splits; compiled once.

    Attributes:
      encode_texts: (params, frozen) -> text features [C, D].
      step: `steps.make_eval_step`, compiled.
    """

    config: Config
    experiment: build.Experiment
    encode_texts: Callable[..., jax.Array]
    step: Callable[..., Outputs]

    def __call__(self, params: dict[str, Any], split: Split) -> metrics_lib.ClassificationMetrics:
        """Metrics of a split; arguments and errors as for `score`."""
        return self.score(params, split).metrics

    def score(self, params: dict[str, Any], split: Split) -> Scores:
        """One pass over a split. Classes are matched by name; images of classes unknown to the model are left out.

        The logits of a clip are the mean of those of its frames (`Split.frames`).

        Raises:
          ConfigError: the split has no image of the model's classes.
          NonFiniteError: logits are NaN or infinite.
        """
        labels, (images, grouping) = self.labels(split), split.frames()
        logits, features, mean_patches = self.encode(params, images)
        known = np.flatnonzero(labels >= 0)
        return Scores(
            class_names=self.experiment.class_names,
            positions=known,
            names=split.names[known],
            labels=labels[known],
            logits=grouping.mean(logits)[known],
            features=features,
            mean_patches=mean_patches,
            unit=split.unit,
            attributes={name: values[known] for name, values in split.attributes.items()},
        )

    def encode(
        self, params: dict[str, Any], images: Split
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float16], npt.NDArray[np.float32]]:
        """Of m images logits [m, C], features z^g [m, D], normalised, and mean patches [m, D], as in `Scores`.

        Raises:
          NonFiniteError: logits are NaN or infinite.
        """
        classes, width = len(self.experiment.class_names), self.experiment.model.backbone.spec.embedding_size
        logits = np.full((len(images), classes), np.nan, np.float32)
        features = np.zeros((len(images), width), np.float16)
        mean_patches = np.zeros((len(images), width), np.float32)
        for batch in self.batches(params, images, ("logits", "image_features", "mean_patch")):
            logits[batch["index"]] = batch["logits"]
            features[batch["index"]] = batch["image_features"]
            mean_patches[batch["index"]] = batch["mean_patch"]
        check_rows("logits", logits, images.names)
        return logits, features, mean_patches

    def labels(self, split: Split) -> npt.NDArray[np.int32]:
        """int32[n]: the model's class of each image, -1 for classes unknown to it, which are logged as a warning.

        Raises:
          ConfigError: the split has no image of the model's classes.
        """
        to_model = map_classes(split.class_names, self.experiment.class_names)  # -1 for unknown
        _check_classes(split, self.experiment.class_names, to_model)
        return to_model[split.labels]

    def batches(
        self, params: dict[str, Any], split: Split, outputs: Sequence[str]
    ) -> Generator[dict[str, npt.NDArray[Any]]]:
        """Outputs of `steps.make_eval_step` for every image of a split, batch by batch, on the host.

        Args:
          params: the prompts, on the devices.
          split: of images.
          outputs: names of the outputs; those that the model does not have are left out.

        Yields:
          The outputs, and 'index', each image's position in the split.
        """
        texts = devices.replicate(self.encode_texts(params, self.experiment.frozen))

        def step(batch: Any) -> Outputs:
            computed = self.step(params, self.experiment.frozen, texts, batch)
            return {name: computed[name] for name in (*outputs, "index", "mask") if name in computed}

        parts = (
            {name: batch[name] for name in ("image", "index", "mask")}
            for batch in eval_batches(self.config, self.experiment, split, "evaluating on")
        )
        for rows in devices.results(step, parts):
            real = rows.pop("mask") > 0
            yield {name: np.asarray(value[real]) for name, value in rows.items()}


def make_evaluator(config: Config, experiment: build.Experiment) -> Evaluator:
    """Compiles the evaluation of a model."""
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    encode_texts, step = _compiled(Forward.configured(experiment.model, config.data))
    return Evaluator(config, experiment, encode_texts, step)


@functools.lru_cache(maxsize=8)  # models of one shape share the compiled functions
def _compiled(forward: Forward) -> tuple[Callable[..., jax.Array], Callable[..., Outputs]]:
    return jax.jit(forward.encode_texts), devices.data_parallel(steps.make_eval_step(forward))


def _check_classes(split: Split, class_names: Sequence[str], to_model: npt.NDArray[np.int32]) -> None:
    for name, index, count in zip(split.class_names, to_model, split.class_counts(), strict=True):
        if index < 0 and count:
            logging.warning(
                "%s: %d %s of %r are left out, the model's classes are %s",
                *(split.name, count, split.unit, name, class_names),
            )
    if not split.class_counts()[to_model >= 0].sum():
        raise ConfigError(
            f"nothing to evaluate in {split.name}: its classes are {', '.join(split.class_names)}, the model's are "
            f"{', '.join(class_names)}; where only the spelling differs, set "
            "--config.data.class_names=\"('<name of the model>=<name in the dataset>',...)\""
        )
