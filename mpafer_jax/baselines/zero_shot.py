"""CLIP without any training: each class is a hard prompt, an image is of the class whose text it is nearest to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mpafer_jax.config import Config
from mpafer_jax.experiment import Experiment
from mpafer_jax.hard_prompts.bank import load_bank, permuted
from mpafer_jax.hard_prompts.templates import build_hard_prompts
from mpafer_jax.models.mpafer import variables
from mpafer_jax.models.prompts import tokenize

_TYPES = {"zero_shot_type1": 1, "zero_shot_type2": 2, "zero_shot_type3": 3}
_PERMUTED = "zero_shot_permuted"
NAMES = (*_TYPES, _PERMUTED)


def hard_prompts(name: str, config: Config, class_names: Sequence[str]) -> list[str]:
    """The text of each class for one of NAMES.

    Raises:
      BankError: type 3 is asked for, and the bank lacks a class.
    """
    if name in ("zero_shot_type1", "zero_shot_type2"):
        return build_hard_prompts(class_names, _TYPES[name], None)
    bank = load_bank(config.hard_prompts.bank)
    return build_hard_prompts(class_names, 3, permuted(bank, class_names, config.seed) if name == _PERMUTED else bank)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedTexts:
    """One text per class, and their features theta(t*) [C, D] under the frozen text tower."""

    texts: tuple[str, ...]
    features: jax.Array


def encode(built: Experiment, texts: Mapping[str, Sequence[str]]) -> dict[str, EncodedTexts]:
    """Encodes several sets of texts, by name, in one pass: a tower compiles anew for every length.

    Raises:
      PromptError: a text does not fit the tower.
    """
    if not texts:
        return {}
    positions = built.model.clip_config.text.max_position_embeddings
    every_text = [text for group in texts.values() for text in group]
    tokens = tokenize(every_text, built.tokenizer.encode, positions)
    bound = built.model.bind(variables(built.frozen.clip, {}))
    features, _ = bound.encode_hard_prompts(bound.embed(tokens))
    ends = np.cumsum([len(group) for group in texts.values()])[:-1]
    parts = jnp.split(features, ends)
    return {name: EncodedTexts(tuple(group), part) for (name, group), part in zip(texts.items(), parts, strict=True)}


def frozen_logits(
    built: Experiment, image_features: npt.NDArray[np.float32], text_features: jax.Array
) -> npt.NDArray[np.float32]:
    """CLIP's own logits s * cos(z^g, theta) [n, C] of image features [n, D] and text features [C, D]."""
    logits = built.model.apply(
        variables(built.frozen.clip, {}), image_features, text_features, method="classify_frozen"
    )
    return np.asarray(cast(jax.Array, logits))
