"""LoRA: low-rank updates of the attention of both towers, with fixed class texts.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, as Zanella and Ben Ayed, "Low-Rank Few-Shot
Adaptation of Vision-Language Models" (CLIP-LoRA), CVPR workshops 2024, apply it to CLIP: queries, keys and values of
every layer of both towers, rank 2, alpha 1. A frozen projection W becomes (LoRA's Eq. 3)

    h = W x + (alpha / r) B A x,   A uniform and B zero at the start

so that the first step is the zero-shot CLIP. The update is added to the weights once a step: the towers are those of
every other learner, prediction costs what zero-shot CLIP costs, and exported programs hold the sum. The backward pass
computes the gradient of the whole projection [W, W], which adding x A B to each output would not need.

Differs from CLIP-LoRA's code, which divides alpha by sqrt(r), drops out a quarter of A's inputs in training, computes
in float16, and makes 500 updates of 32 images for each image of a class; length, warm-up and batches are the run's
here. With `clip.dtype` bfloat16 the sum has that type, so that small updates are rounded away in the image tower's
forward pass; A, B and their gradients are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from mpafer_jax.backbones.base import Backbone, BackboneSpec, Encode, TokenSpec, Tower
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.method.prompts import Params, PromptLearner, Prompts, Texts, tokenize_soft
from mpafer_jax.runtime.errors import ConfigError


class LoraUpdates(PromptLearner):
    """LoRA's learner: `visual_a` [K, 3, W, r], `visual_b` [K, 3, r, W], and the text tower's `text_a`, `text_b`.

    The 3 are queries, keys and values. A and B are transposed, as projections are x W here.

    Attributes:
      rank: r.
      alpha: the update's weight is alpha / r.
      words: before the class name.
    """

    changes_weights: ClassVar[bool] = True

    text: Tower
    vision: Tower
    rank: int
    alpha: float
    words: str

    @classmethod
    def configured(cls, config: ModelSections, spec: BackboneSpec, num_classes: int) -> Self:
        """See `PromptLearner.configured`; reads `config.lora` and `config.ctx.init_text`."""
        if config.ctx.class_specific or config.visual_prompts.num_prompts:
            raise ConfigError(
                "config.learner 'lora' has no prompts: set ctx.class_specific to False, and "
                f"visual_prompts.num_prompts, found {config.visual_prompts.num_prompts}, to 0"
            )
        return cls(spec.text, spec.vision, config.lora.rank, config.lora.alpha, config.ctx.init_text)

    @nn.compact
    def __call__(self) -> Prompts:
        """No prompts; declares the parameters."""
        # U(-1 / sqrt(W), 1 / sqrt(W)), PyTorch's default for linear layers.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0, 1), dtype=jnp.float32)
        for name, tower in (("visual", self.vision), ("text", self.text)):
            self.param(f"{name}_a", uniform, (tower.num_layers, 3, tower.width, self.rank))
            self.param(f"{name}_b", nn.initializers.zeros, (tower.num_layers, 3, self.rank, tower.width), jnp.float32)
        return Prompts()

    def texts(self, class_names: Sequence[str], encode: Encode, spec: TokenSpec) -> Texts:
        """See `PromptLearner.texts`: the words and the class name, without context."""
        return tokenize_soft(class_names, encode, spec, 0, self.words)

    def merge(self, params: Params, backbone: Backbone, frozen: Params) -> Params:
        """See `PromptLearner.merge`."""
        visual, text = (self._update(params[f"{name}_a"], params[f"{name}_b"]) for name in ("visual", "text"))
        return backbone.add_to_attention(frozen, visual, text)

    def _update(self, a: jax.Array, b: jax.Array) -> jax.Array:  # [K, 3, W, r], [K, 3, r, W] -> [K, 3, W, W]
        return self.alpha / self.rank * jnp.matmul(a, b, precision="highest")
