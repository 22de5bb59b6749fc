"""CLIP without any training: each class is its hard prompts, an image is of the class that it is nearest to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import jax
import numpy as np
import numpy.typing as npt

from mpafer_jax.config.schema import Config
from mpafer_jax.method.build import Experiment
from mpafer_jax.method.hard_prompts.features import class_features, encode_hard_prompts, text_encoder
from mpafer_jax.method.hard_prompts.templates import HardPrompts, configured_hard_prompts, prompt_names
from mpafer_jax.method.model import variables

_TYPES = {"zero_shot_type1": 1, "zero_shot_type2": 2, "zero_shot_type3": 3, "zero_shot_permuted": 3}
_PERMUTED = "zero_shot_permuted"
NAMES = tuple(_TYPES)


def reads_bank(name: str) -> bool:
    """Whether a baseline of this name reads descriptions."""
    return _TYPES.get(name) == 3


def hard_prompts(name: str, config: Config, class_names: Sequence[str]) -> HardPrompts:
    """The texts of each class for one of NAMES; those of type 3 are the configured ones.

    Raises:
      PromptError: type 3 is asked for, and the bank lacks a class.
    """
    section = config.hard_prompts.model_copy(update={"type": _TYPES[name]})
    read = prompt_names(class_names, as_spelled=bool(config.data.class_names))
    return configured_hard_prompts(section, read, permute_seed=config.seed if name == _PERMUTED else None)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Hard prompts, and one feature per class [C, D] under the frozen text tower, see `features.class_features`."""

    prompts: HardPrompts
    features: jax.Array


def encode(experiment: Experiment, prompts: Mapping[str, HardPrompts]) -> dict[str, EncodedTexts]:
    """Encodes several sets of hard prompts, by name.

    Raises:
      PromptError: a text does not fit the tower.
    """
    encoder = text_encoder(experiment.model, experiment.frozen.clip, experiment.tokenizer.encode)
    encoded = encode_hard_prompts(prompts, encoder)
    return {name: EncodedTexts(prompts[name], class_features(features)) for name, (features, _) in encoded.items()}


def frozen_logits(
    experiment: Experiment, image_features: npt.NDArray[np.float32], text_features: jax.Array
) -> npt.NDArray[np.float32]:
    """CLIP's own logits s * cos(z^g, theta) [n, C] of image features [n, D] and text features [C, D]."""
    logits = experiment.model.apply(
        variables(experiment.frozen.clip, {}), image_features, text_features, method="classify_frozen"
    )
    return np.asarray(cast(jax.Array, logits))
