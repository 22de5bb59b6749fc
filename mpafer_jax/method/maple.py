"""MaPLe's prompts: deep text prompts, and visual prompts that are a linear map of them.

Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023. Prompts are positions of the sequence, replaced before
each of the first J layers of both towers and passed on by the others. The first layer's text prompts replace the first
M tokens of "a photo of a [class]."

Differs from the authors' code: prompts are not rounded to float16, and the linear maps of layers 2 to J do not start
as copies of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from mpafer_jax.backbones.base import BackboneSpec, Encode, TokenSpec, Tower
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.method.prompts import (
    Params,
    PromptLearner,
    Prompts,
    Texts,
    at_layers,
    first_layers,
    first_words,
    normal,
    tokenize_soft,
)
from mpafer_jax.runtime.errors import ConfigError


class MaplePrompts(PromptLearner):
    """MaPLe's learner, with parameters `text_prompts` [J, M, W], `coupling` [J, W, W_v], `coupling_bias` [J, W_v].

    Attributes:
      depth: J.
      num_ctx: M, in both towers.
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

    @classmethod
    def configured(cls, config: ModelSections, spec: BackboneSpec, num_classes: int) -> Self:
        """See `PromptLearner.configured`; reads `config.ctx` and `config.visual_prompts`."""
        ctx, visual = config.ctx, config.visual_prompts
        if ctx.class_specific or visual.num_prompts != ctx.num_ctx:
            raise ConfigError(
                "config.learner 'maple' couples the prompts of both towers, which all classes share: set ctx."
                f"class_specific to False and visual_prompts.num_prompts, found {visual.num_prompts}, to ctx.num_ctx, "
                f"{ctx.num_ctx}"
            )
        depth = first_layers("maple", visual.layers, spec)
        return cls(spec.text, spec.vision, depth, ctx.num_ctx, ctx.init_std, ctx.init_text, visual.before_ln_pre)

    @nn.compact
    def __call__(self) -> Prompts:
        """Text prompts, and visual prompts computed from them."""
        depth, width, visual_width = self.depth, self.text.width, self.vision.width
        text = self.param("text_prompts", normal(self.ctx_std), (depth, self.num_ctx, width))
        # Both U(-1 / sqrt(W), 1 / sqrt(W)), PyTorch's default for linear layers.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=0, dtype=jnp.float32)
        coupling = self.param("coupling", uniform, (depth, width, visual_width))
        bias = self.param("coupling_bias", _uniform_bias(width**-0.5), (depth, visual_width))
        visual = jnp.einsum("jmw,jwv->jmv", text, coupling) + bias[:, None]
        layers = tuple(range(1, depth + 1))
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


def _uniform_bias(limit: float) -> nn.initializers.Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: object = None) -> jax.Array:
        del dtype
        return jax.random.uniform(key, tuple(shape), jnp.float32, -limit, limit)

    return init
