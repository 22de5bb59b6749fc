"""MPA-FER's prompts: soft text context and independent deep visual prompts (section 3, Eq. 5).

The class prompt [SOS] v_1 .. v_M [class name] . [EOS] is CoOp's (Zhou et al., 2022), deep visual prompts are VPT's (Jia
et al., 2022), as extra keys and values of each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mpafer_jax.backbones.base import BackboneSpec, Encode, TokenSpec, Tower
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.method.prompts import (
    Adapted,
    ClassRows,
    Params,
    PromptLearner,
    Prompts,
    Texts,
    at_layers,
    first_words,
    normal,
    tokenize_soft,
)
from mpafer_jax.runtime.errors import CheckpointError, PromptError


class MpaPrompts(PromptLearner):
    """MPA-FER's learner, with parameters `ctx` [M, W] or [C, M, W] and `visual_prompts` [layers, N_p, W].

    Attributes:
      num_ctx: M.
      num_classes: C if the context is per class, 0 if shared.
      ctx_std: standard deviation of the initial context vectors.
      ctx_text: words before the class name; its first M tokens initialise the context. '' for random values.
      num_visual: N_p, 0 for no visual prompts.
      visual_layers: the layers that get prompts, ascending, counted from 1.
      visual_std: standard deviation of the initial visual prompts.
      before_norm: whether layer 1's visual prompts pass CLIP's `ln_pre`.
    """

    text: Tower
    vision: Tower
    num_ctx: int
    num_classes: int
    ctx_std: float
    ctx_text: str
    num_visual: int
    visual_layers: tuple[int, ...]
    visual_std: float
    before_norm: bool

    @classmethod
    def configured(cls, config: ModelSections, spec: BackboneSpec, num_classes: int) -> Self:
        """See `PromptLearner.configured`; reads `config.ctx` and `config.visual_prompts`."""
        ctx, visual = config.ctx, config.visual_prompts
        every = tuple(range(1, spec.vision.num_layers + 1))
        layers = visual.layers or every
        if list(layers) != sorted(set(layers)) or not set(layers) <= set(every):
            raise PromptError(
                f"visual_prompts.layers must ascend within 1..{len(every)} (this CLIP's image tower), found {layers}"
            )
        return cls(
            text=spec.text,
            vision=spec.vision,
            num_ctx=ctx.num_ctx,
            num_classes=num_classes if ctx.class_specific else 0,
            ctx_std=ctx.init_std,
            ctx_text=ctx.init_text,
            num_visual=visual.num_prompts,
            visual_layers=layers,
            visual_std=visual.init_std,
            before_norm=visual.before_ln_pre,
        )

    @nn.compact
    def __call__(self) -> Prompts:
        """Context, and visual prompts for all K layers (disabled in layers without)."""
        classes = (self.num_classes,) if self.num_classes else ()
        ctx = self.param("ctx", normal(self.ctx_std), (*classes, self.num_ctx, self.text.width))
        if not self.num_visual or not self.visual_layers:
            return Prompts(ctx)
        shape = (len(self.visual_layers), self.num_visual, self.vision.width)
        tokens = self.param("visual_prompts", normal(self.visual_std), shape)
        visual = at_layers(tokens, self.visual_layers, self.vision.num_layers, before_norm=self.before_norm)
        return Prompts(ctx, visual=visual)

    def texts(self, class_names: Sequence[str], encode: Encode, spec: TokenSpec) -> Texts:
        """See `PromptLearner.texts`."""
        return tokenize_soft(class_names, encode, spec, self.num_ctx, self.ctx_text)

    def start(self, params: Params, embed: Callable[[str], jax.Array]) -> Params:
        """See `PromptLearner.start`: initialises the context from `ctx_text`."""
        if not self.ctx_text:
            return params
        words, ctx = first_words(self.ctx_text, embed, self.num_ctx), params["ctx"]
        return {**params, "ctx": jnp.broadcast_to(words.astype(ctx.dtype), ctx.shape)}

    def select_classes(self, params: Params, rows: Sequence[int], class_names: Sequence[str]) -> Params:
        """See `PromptLearner.select_classes`: selects the rows of a context per class."""
        if params["ctx"].ndim < 3:
            return params
        new = [name for name, row in zip(class_names, rows, strict=True) if row < 0]
        if new:
            raise CheckpointError(
                f"the checkpoint has learned a context for each of its classes (ctx.class_specific), and none for "
                f"{', '.join(new)}; only a context that all classes share (ctx.class_specific=False) goes with new ones"
            )
        return {**params, "ctx": np.asarray(params["ctx"])[np.array(rows)]}

    def adapt(self, name: str, fresh: Any, saved: Any, saved_config: ModelSections, rows: ClassRows) -> Adapted:
        """See `PromptLearner.adapt`: matches a context per class by class, visual prompts by layer."""
        if name == "ctx" and saved.ndim == fresh.ndim == 3 and saved.shape[1:] == fresh.shape[1:]:
            here, there, names = rows()
            if not names:
                return None, "of no class of this run, starts fresh"
            taken = jnp.asarray(fresh).at[np.array(here, np.int32)].set(saved[there])
            return taken, f"taken for {', '.join(names)}; the others start fresh"
        if name == "visual_prompts" and saved.shape == fresh.shape:
            layers = saved_config.visual_prompts.layers or tuple(range(1, len(saved) + 1))
            if layers != self.visual_layers:
                return None, f"of the layers {list(layers)}, not {list(self.visual_layers)}, starts fresh"
        return super().adapt(name, fresh, saved, saved_config, rows)
