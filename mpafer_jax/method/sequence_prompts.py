"""What MaPLe and PromptSRC have in common: prompts that are positions of the sequence, in both towers.

They are replaced before each of the first J layers of both towers and passed on by the others. The first layer's text
prompts replace the first M tokens of the words before the class name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from mpafer_jax.backbones.base import BackboneSpec, Encode, TokenSpec, Tower
from mpafer_jax.method.prompts import (
    Params,
    PromptLearner,
    Prompts,
    Texts,
    at_layers,
    first_words,
    tokenize_soft,
)
from mpafer_jax.runtime.errors import ConfigError

_DEPTH = 9  # MaPLe's and PromptSRC's, of 12 layers


class SequencePrompts(PromptLearner):
    """Base class of their learners, which have a parameter `text_prompts` [J, M, W].

    Attributes:
      depth: J.
      num_ctx: M.
      ctx_std: standard deviation of the initial text prompts.
      ctx_text: words before the class name; its first M tokens initialise layer 1. '' for random values.
      before_norm: whether layer 1's visual prompts pass CLIP's `ln_pre`.
    """

    text: Tower
    vision: Tower
    depth: int
    num_ctx: int
    ctx_std: float
    ctx_text: str
    before_norm: bool

    def in_both_towers(self, text: jax.Array, visual: jax.Array) -> Prompts:
        """Prompts from text prompts [J, M, W] and visual prompts [J, N_p, W_v]."""
        layers = tuple(range(1, self.depth + 1))
        return Prompts(
            ctx=text[0],
            text=at_layers(text[1:], layers[1:], self.text.num_layers, in_sequence=True),
            visual=at_layers(visual, layers, self.vision.num_layers, in_sequence=True, before_norm=self.before_norm),
        )

    def texts(self, class_names: Sequence[str], encode: Encode, spec: TokenSpec) -> Texts:
        """See `PromptLearner.texts`."""
        return tokenize_soft(class_names, encode, spec, self.num_ctx, self.ctx_text)

    def start(self, params: Params, embed: Callable[[str], jax.Array]) -> Params:
        """See `PromptLearner.start`: initialises layer 1's text prompts from `ctx_text`."""
        if not self.ctx_text:
            return params
        words, text = first_words(self.ctx_text, embed, self.num_ctx), params["text_prompts"]
        return {**params, "text_prompts": text.at[0].set(words.astype(text.dtype))}


def first_layers(learner: str, layers: Sequence[int], spec: BackboneSpec) -> int:
    """Number of layers J, the first of both towers, that get prompts; `layers` is `visual_prompts.layers`.

    Raises:
      ConfigError: `layers` are others than the first, or more than a tower has; names `learner`.
    """
    deepest = min(spec.text.num_layers, spec.vision.num_layers)
    layers = layers or tuple(range(1, min(_DEPTH, deepest) + 1))
    if tuple(layers) != tuple(range(1, len(layers) + 1)) or len(layers) > deepest:
        raise ConfigError(
            f"config.learner {learner!r} has prompts in the first layers of both towers: visual_prompts.layers must be "
            f"1, 2, .. up to {deepest} at most (this CLIP's), found {layers}"
        )
    return len(layers)
