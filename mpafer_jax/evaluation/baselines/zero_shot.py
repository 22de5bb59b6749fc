"""Zero-shot CLIP: classification by hard prompts, without training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
import numpy.typing as npt

from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import Dataset
from mpafer_jax.evaluation.baselines.registry import Context, Result, baseline
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.method.build import Experiment
from mpafer_jax.method.hard_prompts.features import class_features, encode_hard_prompts, text_encoder
from mpafer_jax.method.hard_prompts.templates import HardPrompts, configured_hard_prompts, prompt_names
from mpafer_jax.method.model import variables
from mpafer_jax.method.prompts import PromptLearner

TYPES = {"zero_shot_type1": 1, "zero_shot_type2": 2, "zero_shot_type3": 3, "zero_shot_permuted": 3}
_PERMUTED = "zero_shot_permuted"


def hard_prompts(name: str, config: Config, class_names: Sequence[str]) -> HardPrompts:
    """Hard prompts of a baseline in `TYPES`; those of type 3 are the configured ones."""
    section = config.hard_prompts.model_copy(update={"type": TYPES[name]})
    read = prompt_names(class_names, as_spelled=bool(config.data.class_names))
    return configured_hard_prompts(section, read, permute_seed=config.seed if name == _PERMUTED else None)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Hard prompts and the class features [C, D] of the frozen text tower, see `features.class_features`."""

    prompts: HardPrompts
    features: jax.Array


def encode(experiment: Experiment, prompts: Mapping[str, HardPrompts]) -> dict[str, EncodedTexts]:
    """Encodes several sets of hard prompts, by name."""
    encoder = text_encoder(experiment.model, experiment.frozen.backbone, experiment.tokenizer.encode)
    encoded = encode_hard_prompts(prompts, encoder)
    return {name: EncodedTexts(prompts[name], class_features(features)) for name, (features, _) in encoded.items()}


def frozen_logits(
    experiment: Experiment, image_features: npt.NDArray[np.float32], text_features: jax.Array
) -> npt.NDArray[np.float32]:
    """CLIP's global logits s * cos(z^g, theta) [n, C] of image features [n, D] and text features [C, D]."""
    logits = experiment.model.apply(
        variables(experiment.frozen.backbone, {}), image_features, text_features, method="classify_frozen"
    )
    return np.asarray(cast(jax.Array, logits))


def _texts(context: Context) -> dict[str, EncodedTexts]:
    """Encodes the texts of all configured zero-shot baselines at once, since each text length is compiled."""
    names = [name for name in context.config.eval.baselines if name in TYPES]
    class_names = context.experiment.class_names
    return encode(context.experiment, {name: hard_prompts(name, context.config, class_names) for name in names})


def _check(name: str, config: Config, dataset: Dataset) -> None:
    hard_prompts(name, config, dataset.class_names)


def _compute(name: str, context: Context) -> Result:
    experiment, texts = context.experiment, context.once(_texts)[name]
    metrics = context.measure(lambda split: frozen_logits(experiment, split.image_features, texts.features))
    of_class = [list(texts.prompts.of_class(index)) for index in range(len(experiment.class_names))]
    return metrics, {"texts": dict(zip(experiment.class_names, of_class, strict=True))}


for _name, _title in (
    ("zero_shot_type1", "zero-shot, prompts of type 1"),
    ("zero_shot_type2", "zero-shot, prompts of type 2"),
    ("zero_shot_type3", "zero-shot, prompts of type 3 (descriptions)"),
    (_PERMUTED, "zero-shot, type 3, descriptions permuted"),
):
    baseline(_name, _title, reads_bank=TYPES[_name] == 3, check=functools.partial(_check, _name))(
        functools.partial(_compute, _name)
    )


@baseline("zero_shot_global_local", "zero-shot, global-local logits", features="no split")
def global_local(context: Context) -> Result:
    """The run's head on unprompted features, with hard prompts of `hard_prompts.type` and without the motion prior.

    The motion prior is left out because it is made from training images and labels.
    """
    bare = context.experiment.with_learner(PromptLearner()).with_patch_weights(None)

    def hard_text_features(_: Any, frozen: Any) -> jax.Array:
        return class_features(frozen.hard_text_features)

    evaluator = dataclasses.replace(make_evaluator(context.config, bare), encode_texts=hard_text_features)
    return {split.name: evaluator({}, split) for split in context.dataset.held_out}, {}
