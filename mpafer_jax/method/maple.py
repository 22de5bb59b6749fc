"""MaPLe's prompts: deep text prompts, and visual prompts that are a linear map of them.

Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023. Prompts are positions of the sequence, replaced before
each of the first J layers of both towers and passed on by the others. The first layer's text prompts replace the first
M tokens of "a photo of a [class]."

Differs from the authors' code: prompts are not rounded to float16, and the linear maps of layers 2 to J do not start
as copies of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from mpafer_jax.backbones.base import BackboneSpec
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.method.prompts import Prompts, normal
from mpafer_jax.method.sequence_prompts import SequencePrompts, first_layers
from mpafer_jax.runtime.errors import ConfigError


class MaplePrompts(SequencePrompts):
    """MaPLe's learner, with parameters `text_prompts` [J, M, W], `coupling` [J, W, W_v], `coupling_bias` [J, W_v].

    Both towers have M prompts; attributes are those of `SequencePrompts`.
    """

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
        return self.in_both_towers(text, visual)


def _uniform_bias(limit: float) -> nn.initializers.Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: object = None) -> jax.Array:
        del dtype
        return jax.random.uniform(key, tuple(shape), jnp.float32, -limit, limit)

    return init
