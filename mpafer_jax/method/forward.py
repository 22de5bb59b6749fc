"""The forward pass: one for training, evaluation, prediction, attribution and export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax

from mpafer_jax.backbones.base import Outputs
from mpafer_jax.config.data_section import DataSection
from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.method.hard_prompts.features import class_features
from mpafer_jax.method.model import PromptedModel, variables
from mpafer_jax.method.outliers import mean_patch
from mpafer_jax.method.prompts import Prompts
from mpafer_jax.method.state import Frozen

Params = dict[str, jax.Array]
Batch = Mapping[str, jax.Array]
Rgb = tuple[float, float, float]
# (params, frozen, batch) -> logits [B, C], intermediates for the loss.
TrainForward = Callable[[Params, Frozen, Batch], tuple[jax.Array, Outputs]]


@dataclasses.dataclass(frozen=True)
class Forward:
    """Applies a model to images uint8 [B, S, S, 3].

    Attributes:
      mean, std: normalisation of R, G, B in 0..1.
      grayscale: whether images are turned into grey ones before.
      with_frozen: whether a call also computes the CLIP without prompts, for losses that compare with it
        (`losses.Objective.reads_frozen`).
    """

    model: PromptedModel
    mean: Rgb
    std: Rgb
    grayscale: bool = False
    with_frozen: bool = False

    @classmethod
    def configured(cls, model: PromptedModel, data: DataSection, *, with_frozen: bool = False) -> Forward:
        """With the normalisation of a configuration."""
        return cls(model, data.mean, data.std, data.grayscale, with_frozen)

    def __call__(self, params: Params, frozen: Frozen, batch: Batch) -> tuple[jax.Array, Outputs]:
        """Encodes soft prompts and a batch's 'image': logits [B, C], intermediates of `losses.Context`."""
        both = variables(self.merged(params, frozen).backbone, params)
        logits, out = self._apply(both, batch["image"], frozen.soft_prompts, frozen.patch_weights, method=None)
        if not self.with_frozen:
            return logits, out
        # By the same head, so that logits with and without prompts are on one scale.
        texts = class_features(frozen.hard_text_features)
        frozen_logits, bare = self.classify(Prompts(), frozen, batch["image"], texts)
        return logits, {**out, "frozen_image_features": bare["image_features"], "frozen_logits": frozen_logits}

    def encode_texts(self, params: Params, frozen: Frozen) -> jax.Array:
        """Text features theta(t) [C, D] of the soft prompts; computed once per evaluation."""
        both = variables(self.merged(params, frozen).backbone, params)
        features, _ = cast(Any, self.model.apply(both, frozen.soft_prompts, method="encode_soft_prompts"))
        return features

    def merged(self, params: Params, frozen: Frozen) -> Frozen:
        """Constants whose backbone holds what the learner adds to its weights (`PromptLearner.merge`)."""
        backbone = self.model.learner.merge(params, self.model.backbone, frozen.backbone)
        return dataclasses.replace(frozen, backbone=backbone)

    def image_prompts(self, params: Params) -> Prompts:
        """What images are encoded with, from the learner's parameters."""
        return self.model.learner.prompts(params).of_images()

    def classify(
        self,
        prompts: Prompts,
        frozen: Frozen,
        images: jax.Array,
        text_features: jax.Array,
        *,
        attention: bool = False,
    ) -> tuple[jax.Array, Outputs]:
        """Classifies images against encoded texts.

        Args:
          prompts: from `image_prompts`.
          frozen: from `merged`; backbone and patch weights are read.
          images: uint8 [B, S, S, 3].
          text_features: theta(t) [C, D].
          attention: whether to return 'attention' too, see `Backbone.attention`.

        Returns:
          logits [B, C], and intermediates by name; with a local score also 'patch_scores' [B, N, C].
        """
        options: dict[str, Any] = {"prompts": prompts, "method": "classify"}
        arguments = (variables(frozen.backbone, {}), images, text_features, frozen.patch_weights)
        if not attention:
            return self._apply(*arguments, **options)
        (logits, out), state = self._apply(*arguments, **options, mutable=["intermediates"])
        return logits, {**out, "attention": self.model.backbone.attention(state["intermediates"]["backbone"])}

    def predict(self, prompts: Prompts, frozen: Frozen, images: jax.Array, text_features: jax.Array) -> Outputs:
        """'logits' and 'probabilities' [B, C], 'mean_patch' [B, D] (`outliers`); with a local score also 'patch_scores'
        [B, N, C], 'top_patches' [B, C, k]. Arguments as for `classify`."""
        logits, out = self.classify(prompts, frozen, images, text_features)
        local = {name: out[name] for name in ("patch_scores", "top_patches") if name in out}
        probabilities, mean = jax.nn.softmax(logits, axis=-1), mean_patch(out["patch_features"])
        return {"logits": logits, "probabilities": probabilities, "mean_patch": mean, **local}

    def frozen_features(self, backbone: dict[str, Any], images: jax.Array) -> jax.Array:
        """z^g [B, D] of the backbone without prompts, not normalised."""
        return self._apply(variables(backbone, {}), images, method="encode_image_frozen")

    def frozen_patches(self, backbone: dict[str, Any], images: jax.Array) -> jax.Array:
        """Z^l [B, N, D] of the backbone without prompts, not normalised."""
        return self._apply(variables(backbone, {}), images, method="encode_patches_frozen")

    def _apply(self, params: dict[str, Any], images: jax.Array, *arguments: Any, **options: Any) -> Any:
        pixels = normalize_images(images, self.mean, self.std, grayscale=self.grayscale)
        return self.model.apply(params, pixels, *arguments, **options)


def forward_features(model: PromptedModel) -> TrainForward:
    """Forward pass on cached 'image_features' z^g [B, D] of the un-prompted tower, with global logits only.

    Equals `Forward` of a model without visual prompts and local score, but returns no 'patch_features'.
    """

    def forward(params: Params, frozen: Frozen, batch: Batch) -> tuple[jax.Array, Outputs]:
        both = variables(frozen.backbone, params)
        encoded = model.apply(both, frozen.soft_prompts, method="encode_soft_prompts")
        text_features, token_features = cast(tuple[jax.Array, jax.Array], encoded)
        image_features = batch["image_features"]
        logits = cast(jax.Array, model.apply(both, image_features, text_features, method="classify_frozen"))
        out = {"image_features": image_features, "text_features": text_features, "token_features": token_features}
        return logits, out

    return forward
