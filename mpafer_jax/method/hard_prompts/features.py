"""Features of hard prompts under the frozen text tower, and their means by class.

Shapes: T texts, G groups, C classes, D joint features, W width of the text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from mpafer_jax.backbones.base import Encode, Params, l2_normalize
from mpafer_jax.method.hard_prompts.templates import HardPrompts
from mpafer_jax.method.model import PromptedModel, variables
from mpafer_jax.method.prompts import Texts, tokenize

# T texts -> (theta(t*) [T, D], pooled token embeddings t* [T, W])
TextEncoder = Callable[[Sequence[str]], tuple[jax.Array, jax.Array]]


def text_encoder(model: PromptedModel, backbone: Params, encode: Encode) -> TextEncoder:
    """The frozen text tower as a function of texts; it raises PromptError if a text is too long.

    Args:
      backbone: the frozen parameters.
      encode: text to token ids.
    """

    def features(backbone: Params, texts: Texts) -> tuple[jax.Array, jax.Array]:
        bound = model.bind(variables(backbone, {}))
        return bound.encode_hard_prompts(bound.embed(texts))

    compiled = cast(Callable[[Params, Texts], tuple[jax.Array, jax.Array]], jax.jit(features))
    return lambda texts: compiled(backbone, tokenize(texts, encode, model.backbone.spec.tokens))


def encode_hard_prompts(
    prompts: Mapping[str, HardPrompts], encoder: TextEncoder
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Encodes several sets of hard prompts in one pass, as the tower is compiled for each text length.

    Returns:
      By name: theta(t*) [G, C, D] and pooled token embeddings t* [G, C, W], averaged over a class's texts in a group
      by `mean_of_texts`.
    """
    if not prompts:
        return {}
    texts = list(dict.fromkeys(text for hard_prompts in prompts.values() for text in hard_prompts.every_text()))
    row = {text: index for index, text in enumerate(texts)}
    text_features, token_features = encoder(texts)
    encoded: dict[str, tuple[jax.Array, jax.Array]] = {}
    for name, hard_prompts in prompts.items():
        rows = [[[row[text] for text in texts] for texts in group.texts] for group in hard_prompts.groups]
        both = (jnp.stack([mean_of_texts(features, of) for of in rows]) for features in (text_features, token_features))
        encoded[name] = next(both), next(both)
    return encoded


def mean_of_texts(features: jax.Array, rows: Sequence[Sequence[int]]) -> jax.Array:
    """Mean feature of each class's texts, [C, D].

    A single text's feature is returned unchanged; several are normalised, averaged and normalised.

    Args:
      features: of all texts [T, D].
      rows: indices of each class's texts.
    """

    count = np.array([len(class_rows) for class_rows in rows])
    index = np.array(
        [[*class_rows, *class_rows[:1] * (count.max() - len(class_rows))] for class_rows in map(list, rows)]
    )  # [C, longest]
    first = features[index[:, 0]]
    if count.max() == 1:
        return first
    real = jnp.asarray(np.arange(count.max()) < count[:, None], features.dtype)
    total = jnp.sum(l2_normalize(features[index]) * real[:, :, None], axis=1)
    return jnp.where(count[:, None] == 1, first, l2_normalize(total))


def class_features(group_features: jax.Array) -> jax.Array:
    """Class features [C, D] for zero-shot classification: mean of the normalised features of groups [G, C, D].

    A single group's features are returned unchanged. Not normalised, as logits only depend on directions.
    """
    if group_features.shape[0] == 1:
        return group_features[0]
    return jnp.mean(l2_normalize(group_features), axis=0)
