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

from collections.abc import Callable, Sequence
from typing import Self

import jax
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


class PromptSrcPrompts(PromptLearner):
    """PromptSRC's learner, with parameters `text_prompts` [J, M, W] and `visual_prompts` [J, N_p, W_v].

    Attributes:
      depth: J.
      num_ctx: M.
      num_visual: N_p.
      ctx_std: standard deviation of the initial text prompts.
      visual_std: standard deviation of the initial visual prompts.
      ctx_text: words before the class name; its first M tokens initialise layer 1. '' for random values.
      before_norm: whether layer 1's visual prompts pass CLIP's `ln_pre`.
    """

    text: Tower
    vision: Tower
    depth: int
    num_ctx: int
    num_visual: int
    ctx_std: float
    visual_std: float
    ctx_text: str
    before_norm: bool

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
