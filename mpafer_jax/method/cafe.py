"""CAFE's mask on frozen image features, with the parameters of a small network in place of prompts.

Zhang et al., "Generalizable Facial Expression Recognition", ECCV 2024 (arXiv 2408.10614): the image feature z of the
frozen CLIP is multiplied by a mask m in (0, 1)^D that a network computes from the image, z' = z * m, and z' is
classified. Channels of z' are divided among the classes. The numbers are the authors' code's, for ViT-B/32:
L = L_CE + 1.5 L_separation + 5 L_diversity (`losses.channel_separation`, `losses.channel_diversity`).

From the paper: frozen features that only a sigmoid mask changes, one mask for all classes, both losses on channels and
their weights, the share of channels that is dropped. Different here:

- The mask is computed from CLIP's own patch features (`prompts.ChannelMask`), by a network of 66,112 parameters for
  ViT-B/16. The paper's is a ResNet-18 on the image, of 11 million parameters, trained on the faces of MS-Celeb-1M
  before: the sigmoid of its last feature map, averaged over places. Both average features of places, but what the
  frozen CLIP does not see, the mask does not see here.
- The class texts "a photo of a [class]." are the head; the authors' code trains a linear one.
- The features are those of any CLIP, the classes any number of them; the share of channels that is dropped in training
  is that of the code's 7 classes.
- Optimizer, augmentation, length and CLIP's normalisation of images are the run's; the authors' are Adam, 2e-4 with a
  decay of 0.9 an epoch, random flips and erasing, 60 epochs, and ImageNet's normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import jax.numpy as jnp
from flax import linen as nn

from mpafer_jax.backbones.base import BackboneSpec, Encode, TokenSpec
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.method.prompts import ChannelMask, PromptLearner, Prompts, Texts, tokenize_soft
from mpafer_jax.runtime.errors import ConfigError


class CafeMask(PromptLearner):
    """CAFE's learner, with parameters `mask_in` [D, H], `mask_in_bias` [H], `mask_out` [H, D], `mask_out_bias` [D].

    Attributes:
      features: D.
      width: H.
      before: words before the class name in the class texts, '' for none.
    """

    features: int
    width: int
    before: str

    @classmethod
    def configured(cls, config: ModelSections, spec: BackboneSpec, num_classes: int) -> Self:
        """See `PromptLearner.configured`; reads `config.mask_width` and `config.ctx.init_text`."""
        if config.visual_prompts.num_prompts or config.ctx.class_specific:
            raise ConfigError(
                "config.learner 'cafe' has a mask in place of prompts: set ctx.class_specific to False and "
                f"visual_prompts.num_prompts, found {config.visual_prompts.num_prompts}, to 0"
            )
        return cls(spec.embedding_size, config.mask_width, config.ctx.init_text)

    @nn.compact
    def __call__(self) -> Prompts:
        """The network of the mask."""
        weights, zeros = nn.initializers.lecun_normal(dtype=jnp.float32), nn.initializers.zeros_init()
        features, width = self.features, self.width
        return Prompts(
            mask=ChannelMask(
                self.param("mask_in", weights, (features, width)),
                self.param("mask_in_bias", zeros, (width,), jnp.float32),
                self.param("mask_out", weights, (width, features)),
                self.param("mask_out_bias", zeros, (features,), jnp.float32),
            )
        )

    def texts(self, class_names: Sequence[str], encode: Encode, spec: TokenSpec) -> Texts:
        """See `PromptLearner.texts`."""
        return tokenize_soft(class_names, encode, spec, 0, self.before)
