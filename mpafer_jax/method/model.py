"""The model: a frozen dual encoder with learned prompts and global-local logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mpafer_jax.backbones.base import Backbone, DeepPrompts, Outputs, Params, l2_normalize
from mpafer_jax.method import prompts as prompts_lib


def global_local_logits(
    image_features: jax.Array,
    patch_features: jax.Array,
    text_features: jax.Array,
    *,
    logit_scale: jax.Array | float,
    top_k: int,
    local_weight: float,
    center_patch_scores: bool = False,
    patch_weights: jax.Array | None = None,
    normalize_scores: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits from the image feature and each class's top-k patches (MPA-FER Eq. 8-10).

    logits_d = s * (cos(z^g, theta(t_d)) + lambda * S_local(d)), where S_local(d) is the mean of cos(z^l_i, theta(t_d))
    over the k patches with the highest ranking r for class d.

    With patch weights w, the ranking is w_{d,i} * (r_{d,i} - min_j r_{d,j}), so that more weight always ranks higher,
    also for negative cosines. S_local(d) is then sum w c / sum w over the chosen patches' cosines c, which keeps the
    scale of the global score for all classes. Weights of 1 change nothing.

    Args:
      image_features: z^g [B, D].
      patch_features: Z^l [B, N, D].
      text_features: theta(t) [C, D]. Features need not be normalised.
      logit_scale: s.
      top_k: k, between 1 and N.
      local_weight: lambda; with 0 patches are not scored.
      center_patch_scores: rank patches by their cosine minus its mean over classes, so that patches close to all texts
        are not chosen for every class; the averaged cosines stay uncentred.
      patch_weights: w [C, N], positive, mean 1 (`motion_prior`); None for equal weights.
      normalize_scores: divide an image's scores of all classes, the global and the local ones, by their Euclidean
        length before they are added, as CEPrompt does (Zhou et al., 2024); the returned scores are not divided.

    Returns:
      logits [B, C], and 'global_scores' [B, C]; with local_weight also 'local_scores' [B, C], 'patch_scores'
      [B, N, C] and 'top_patches' [B, C, k] (indices, best first).

    Raises:
      ValueError: top_k is not between 1 and N.
    """
    texts = l2_normalize(text_features)
    global_scores = l2_normalize(image_features) @ texts.T  # [B, C]

    def scaled(scores: jax.Array) -> jax.Array:
        return l2_normalize(scores) if normalize_scores else scores

    if not local_weight:
        return logit_scale * scaled(global_scores), {"global_scores": global_scores}
    num_patches = patch_features.shape[1]
    if not 1 <= top_k <= num_patches:
        raise ValueError(f"head.top_k must be between 1 and the {num_patches} patches of this CLIP, found {top_k}")
    patch_scores = jnp.einsum("bnd,cd->bcn", l2_normalize(patch_features), texts)
    ranking = patch_scores
    if center_patch_scores:
        ranking = patch_scores - jnp.mean(patch_scores, axis=1, keepdims=True)
    if patch_weights is not None:
        # w * (c - min) + min, in a form that is bitwise c for w = 1.
        ranking = ranking + (patch_weights - 1) * (ranking - jnp.min(ranking, axis=2, keepdims=True))
    _, top_patches = jax.lax.top_k(jax.lax.stop_gradient(ranking), top_k)  # [B, C, k]
    chosen = jnp.take_along_axis(patch_scores, top_patches, axis=2)  # [B, C, k]
    if patch_weights is not None:
        weights = jnp.take_along_axis(patch_weights[None], top_patches, axis=2)  # [1, C, N] -> [B, C, k]
        chosen = chosen * (weights * (top_k / jnp.sum(weights, axis=2, keepdims=True)))
    local_scores = jnp.mean(chosen, axis=2)  # [B, C]
    out = {
        "global_scores": global_scores,
        "local_scores": local_scores,
        "patch_scores": jnp.swapaxes(patch_scores, 1, 2),
        "top_patches": top_patches,
    }
    return logit_scale * (scaled(global_scores) + local_weight * scaled(local_scores)), out


class PromptedModel(nn.Module):
    """A frozen dual encoder with a prompt learner; `variables` joins their parameters.

    Attributes:
      top_k, local_weight, center_patch_scores, normalize_scores: see `global_local_logits`. Normalised scores are
        averaged with weights 1 and local_weight, and have no temperature.
      text_chunk: texts per chunk, 0 for all at once. Chunks are rematerialised in the backward pass, so that memory
        does not grow with the number of classes.
    """

    backbone: Backbone
    learner: prompts_lib.PromptLearner
    top_k: int = 16
    local_weight: float = 1.0
    center_patch_scores: bool = False
    normalize_scores: bool = False
    text_chunk: int = 0

    def embed(self, texts: prompts_lib.Texts) -> prompts_lib.TextEmbeddings:
        """Token embeddings [C, L, W] of texts, from the frozen table."""
        return prompts_lib.TextEmbeddings(self.backbone.embed_tokens(texts.ids), texts.ends, texts.content)

    def encode_hard_prompts(self, texts: prompts_lib.TextEmbeddings) -> tuple[jax.Array, jax.Array]:
        """Texts without prompts: (theta(t*) [C, D], pooled token embeddings t* [C, W])."""
        return self._encode_texts(texts, None), prompts_lib.pool_tokens(texts)

    def encode_soft_prompts(self, texts: prompts_lib.TextEmbeddings) -> tuple[jax.Array, jax.Array]:
        """Texts with learned prompts: (theta(t) [C, D], pooled token embeddings t [C, W])."""
        prompts = self.learner()
        if prompts.ctx is not None:
            texts = prompts_lib.insert_context(texts, prompts.ctx, self.backbone.spec.tokens.prefix)
        return self._encode_texts(texts, prompts.text), prompts_lib.pool_tokens(texts)

    def _encode_texts(self, texts: prompts_lib.TextEmbeddings, prompts: DeepPrompts | None) -> jax.Array:
        if 0 < self.text_chunk < len(texts.embeddings):
            return _encode_in_chunks(self.backbone, texts, prompts, self.text_chunk)
        features, _ = self.backbone.encode_embeddings(texts.embeddings, texts.ends, prompts)
        return features

    def encode_image_frozen(self, images: jax.Array) -> jax.Array:
        """z^g [B, D] of the backbone without prompts, for class prototypes (Eq. 6)."""
        features, _ = self.backbone.encode_image(images)
        return features

    def encode_patches_frozen(self, images: jax.Array) -> jax.Array:
        """Z^l [B, N, D] of the backbone without prompts."""
        _, out = self.backbone.encode_image(images)
        return out["patch_features"]

    def classify_frozen(self, image_features: jax.Array, text_features: jax.Array) -> jax.Array:
        """Logits s * cos(z^g, theta) [B, C] of image features [B, D] and text features [C, D]."""
        logits, _ = global_local_logits(
            image_features,
            image_features[:, None],  # not read without local score
            text_features,
            logit_scale=self.backbone.temperature_scale(),
            top_k=1,
            local_weight=0.0,
        )
        return logits

    def classify(
        self,
        images: jax.Array,
        text_features: jax.Array,
        patch_weights: jax.Array | None = None,
        *,
        prompts: prompts_lib.Prompts,
    ) -> tuple[jax.Array, Outputs]:
        """Logits [B, C] of images [B, S, S, 3] and text features [C, D], and intermediates by name.

        Prompts are arguments, as exported programs hold them as arrays; those of texts are not read.
        """
        _, image_out = self.backbone.encode_image(images, prompts.visual)
        if prompts.mask is not None:
            mask = prompts.mask(image_out["patch_features"])
            image_out = {**image_out, "image_features": image_out["image_features"] * mask}
        scale = 1 / (1 + self.local_weight) if self.normalize_scores else self.backbone.temperature_scale()
        logits, head_out = global_local_logits(
            image_out["image_features"],
            image_out["patch_features"],
            text_features,
            logit_scale=scale,
            top_k=self.top_k,
            local_weight=self.local_weight,
            center_patch_scores=self.center_patch_scores,
            patch_weights=patch_weights,
            normalize_scores=self.normalize_scores,
        )
        return logits, {**image_out, **head_out}

    def __call__(
        self, images: jax.Array, soft_prompts: prompts_lib.TextEmbeddings, patch_weights: jax.Array | None = None
    ) -> tuple[jax.Array, Outputs]:
        """Forward pass over images and texts.

        Args:
          images: [B, S, S, 3] float, normalised.
          soft_prompts: embedded class prompts, without context.
          patch_weights: see `global_local_logits`.

        Returns:
          logits [B, C] and intermediates by name, among them 'image_features' [B, D], 'patch_features' [B, N, D],
          'text_features' [C, D] and 'token_features' [C, W].
        """
        text_features, token_features = self.encode_soft_prompts(soft_prompts)
        logits, out = self.classify(images, text_features, patch_weights, prompts=self.learner())
        return logits, {**out, "text_features": text_features, "token_features": token_features}


def _encode_in_chunks(
    backbone: Backbone, texts: prompts_lib.TextEmbeddings, prompts: DeepPrompts | None, size: int
) -> jax.Array:
    """theta [C, D] of texts, `size` at a time."""
    classes = len(texts.embeddings)
    chunks = -(-classes // size)

    def cut(x: jax.Array) -> jax.Array:  # [C, ..] -> [chunks, size, ..], the last padded with the first texts
        filled = jnp.concatenate([x, x[: chunks * size - classes]])
        return filled.reshape(chunks, size, *x.shape[1:])

    def encode(backbone: Backbone, carry: tuple[()], chunk: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        features, _ = backbone.encode_embeddings(*chunk, prompts)
        return carry, features

    scanned: Any = nn.scan(
        nn.remat(encode, prevent_cse=False), variable_broadcast="params", split_rngs={"params": False}
    )
    _, features = scanned(backbone, (), (cut(texts.embeddings), cut(texts.ends)))
    return features.reshape(chunks * size, -1)[:classes]  # [chunks, size, D] -> [C, D]


def variables(backbone: Params, learner: Params) -> dict[str, Params]:
    """Joins frozen and trained parameters for `PromptedModel.apply`."""
    return {"params": {"backbone": backbone, "learner": learner}}
