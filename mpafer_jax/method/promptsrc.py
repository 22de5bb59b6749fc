"""PromptSRC's prompts: deep prompts of both towers, independent of each other.

Khattak et al., "Self-regulating Prompts: Foundational Model Adaptation without Forgetting", ICCV 2023 (arXiv
2307.06948). As in MaPLe (`maple`), prompts are positions of the sequence, replaced before each of the first J layers of
both towers and passed on by the others; here those of the image tower are parameters of their own. The paper regulates
them in three ways:

- mutual agreement with the frozen CLIP : L = L_CE + 10 L_image + 25 L_text + L_logits, which are the terms
  `image_consistency`, `text_consistency` and `logit_consistency` of `losses`;
- textual diversity: the frozen text feature of a class is the mean over many texts, here its hard prompts;
- the average of the prompts over training, with Gaussian weights: `optim.gaussian_average`.

Numbers from the authors' code for ViT-B/16, base-to-novel: 4 prompts in each tower, J = 9, the first text prompts from
"a photo of a", all others from N(0, 0.02^2), 20 epochs, Gaussian of mean 15 and deviation 1.

Differs from the authors' code: prompts are not rounded to float16; the texts are descriptions of expressions in place
of 60 templates for ImageNet, and are normalised before they are averaged; parts of training of equal length take the
place of epochs in the average; optimizer, batch size and length are the run's, as for all methods here.
"""

from __future__ import annotations

from typing import Self

from flax import linen as nn

from mpafer_jax.backbones.base import BackboneSpec
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.method.prompts import Prompts, normal
from mpafer_jax.method.sequence_prompts import SequencePrompts, first_layers
from mpafer_jax.runtime.errors import ConfigError


class PromptSrcPrompts(SequencePrompts):
    """PromptSRC's learner, with parameters `text_prompts` [J, M, W] and `visual_prompts` [J, N_p, W_v].

    Attributes, beside those of `SequencePrompts`:
      num_visual: N_p.
      visual_std: standard deviation of the initial visual prompts.
    """

    num_visual: int
    visual_std: float

    @classmethod
    def configured(cls, config: ModelSections, spec: BackboneSpec, num_classes: int) -> Self:
        """See `PromptLearner.configured`; reads `config.ctx` and `config.visual_prompts`."""
        ctx, visual = config.ctx, config.visual_prompts
        if ctx.class_specific or not visual.num_prompts:
            raise ConfigError(
                "config.learner 'promptsrc' has prompts in both towers, which all classes share: set "
                f"ctx.class_specific to False and visual_prompts.num_prompts, found {visual.num_prompts}, above 0"
            )
        depth = first_layers("promptsrc", visual.layers, spec)
        return cls(
            text=spec.text,
            vision=spec.vision,
            depth=depth,
            num_ctx=ctx.num_ctx,
            num_visual=visual.num_prompts,
            ctx_std=ctx.init_std,
            visual_std=visual.init_std,
            ctx_text=ctx.init_text,
            before_norm=visual.before_ln_pre,
        )

    @nn.compact
    def __call__(self) -> Prompts:
        """Text prompts and visual prompts."""
        text = self.param("text_prompts", normal(self.ctx_std), (self.depth, self.num_ctx, self.text.width))
        shape = (self.depth, self.num_visual, self.vision.width)
        visual = self.param("visual_prompts", normal(self.visual_std), shape)
        return self.in_both_towers(text, visual)
