"""MPA-FER: a frozen CLIP, the prompts that adapt it, and global-local logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.method import prompts as prompts_lib

Params = dict[str, Any]
PatchWeights = tuple[tuple[float, ...], ...]  # of C classes, N each; a tuple, since a module's attributes are hashed


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
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits from the whole image and from the patches that speak most for each class (MPA-FER Eq. 8-10).

    logits_d = s * (cos(z^g, theta(t_d)) + lambda * S_local(d)), with S_local(d) the mean of cos(z^l_i, theta(t_d)) over
    the k patches that score highest for class d. With a weight of 0 the patches cost nothing.

    With patch weights w_{d,i} the k patches are those with the highest w_{d,i} * (r_{d,i} - min_j r_{d,j}), r what
    ranks without: counted from the image's lowest, so that weight speaks for a patch whatever the sign of its cosine.
    S_local(d) is then the weighted mean of their cosines c, sum w c / sum w: on the global score's scale still, for
    every class, however unequal its weights; a mean of w c would favour the classes whose weights lie on few patches.
    Weights of 1 change nothing.

    Args:
      image_features: z^g [B, D].
      patch_features: Z^l [B, N, D].
      text_features: theta(t) [C, D]. None of the three needs to be normalised.
      logit_scale: s.
      top_k: k, between 1 and N.
      local_weight: lambda.
      center_patch_scores: choose the k patches after subtracting each patch's mean over the classes, so that patches
        that are close to every text do not win everywhere; the scores that are averaged stay the plain ones.
      patch_weights: w [C, N], positive, 1 on average (`motion_prior`); None for equal ones.

    Returns:
      logits [B, C], and 'global_scores' [B, C]; with a weight above 0 also 'local_scores' [B, C], 'patch_scores'
      [B, N, C] and 'top_patches' [B, C, k] (indices of the chosen patches, best first).

    Raises:
      ValueError: top_k is not between 1 and N.
    """
    texts = clip_lib.normalize(text_features)
    global_scores = clip_lib.normalize(image_features) @ texts.T  # [B, C]
    if not local_weight:
        return logit_scale * global_scores, {"global_scores": global_scores}
    num_patches = patch_features.shape[1]
    if not 1 <= top_k <= num_patches:
        raise ValueError(f"head.top_k must be between 1 and the {num_patches} patches of this CLIP, found {top_k}")
    patch_scores = jnp.einsum("bnd,cd->bcn", clip_lib.normalize(patch_features), texts)
    ranking = patch_scores
    if center_patch_scores:
        ranking = patch_scores - jnp.mean(patch_scores, axis=1, keepdims=True)
    if patch_weights is not None:
        # w * (c - min) + min, in the form that leaves c as it is, to the bit, where w is 1.
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
    return logit_scale * (global_scores + local_weight * local_scores), out


class MPAFER(nn.Module):
    """The whole model. Its parameters are {'clip': frozen, 'prompts': trained}; see `variables`.

    Attributes:
      clip_config: shape of the CLIP.
      prompt_shape: sizes of the prompts.
      top_k, local_weight, center_patch_scores: see `global_local_logits`.
      patch_weights: see `global_local_logits`; constants of the model, as `top_k` is, and no parameters.
      prompts_before_ln_pre: whether layer 1's visual prompts pass `ln_pre`.
      dtype, residual_dtype: of the image tower, see `clip.CLIP`; features, logits and losses are float32.
      remat: what the backward pass may keep of each layer, see `clip.VisionTransformer`.
      text_chunk: texts that are encoded at once, 0 for all. With a chunk the backward pass encodes each chunk once more
        and keeps nothing of it, so that memory does not grow with the number of classes.
    """

    clip_config: clip_lib.ClipConfig
    prompt_shape: prompts_lib.PromptShape
    top_k: int = 16
    local_weight: float = 1.0
    center_patch_scores: bool = False
    patch_weights: PatchWeights | None = None
    prompts_before_ln_pre: bool = False
    dtype: Any = jnp.float32
    residual_dtype: Any = jnp.float32
    remat: str = "none"
    text_chunk: int = 0

    def setup(self) -> None:
        """Creates the two halves under the names `clip` and `prompts`."""
        self.clip = clip_lib.CLIP(self.clip_config, self.dtype, self.residual_dtype, self.remat)
        self.prompts = prompts_lib.Prompts(self.prompt_shape)

    def embed(self, texts: prompts_lib.Texts) -> prompts_lib.TextEmbeddings:
        """Token embeddings [C, L, W] of texts, from the frozen table."""
        return prompts_lib.TextEmbeddings(self.clip.embed_tokens(texts.ids), texts.eos_positions, texts.content)

    def encode_hard_prompts(self, texts: prompts_lib.TextEmbeddings) -> tuple[jax.Array, jax.Array]:
        """Frozen texts: (theta(t*) [C, D], pooled token embeddings t* [C, W])."""
        if 0 < self.text_chunk < len(texts.embeddings):
            features = _encode_in_chunks(self.clip, texts, self.text_chunk)
        else:
            features, _ = self.clip.encode_embeddings(texts.embeddings, texts.eos_positions)
        return features, prompts_lib.pool_tokens(texts)

    def encode_soft_prompts(self, texts: prompts_lib.TextEmbeddings) -> tuple[jax.Array, jax.Array]:
        """Texts with the learned context: (theta(t) [C, D], pooled token embeddings t [C, W])."""
        ctx, _ = self.prompts()
        return self.encode_hard_prompts(prompts_lib.insert_context(texts, ctx))

    def encode_image(self, images: jax.Array) -> tuple[jax.Array, clip_lib.Outputs]:
        """Image and patch features under the visual prompts; images [B, S, S, 3], normalised."""
        _, visual_prompts = self.prompts()
        return self.clip.encode_image(images, visual_prompts, prompts_before_ln_pre=self.prompts_before_ln_pre)

    def encode_image_frozen(self, images: jax.Array) -> jax.Array:
        """z^g [B, D] of CLIP as it came, without prompts: what class prototypes are made of (Eq. 6)."""
        features, _ = self.clip.encode_image(images)
        return features

    def encode_patches_frozen(self, images: jax.Array) -> jax.Array:
        """Z^l [B, N, D] of CLIP as it came, without prompts."""
        _, out = self.clip.encode_image(images)
        return out["patch_features"]

    def classify_frozen(self, image_features: jax.Array, text_features: jax.Array) -> jax.Array:
        """CLIP's own logits s * cos(z^g, theta) [B, C] of image features that were computed before: [B, D], [C, D]."""
        logits, _ = global_local_logits(
            image_features,
            image_features[:, None],  # not read: there is no local score
            text_features,
            logit_scale=self.clip.temperature_scale(),
            top_k=1,
            local_weight=0.0,
        )
        return logits

    def classify(self, images: jax.Array, text_features: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits [B, C] of images against text features [C, D], and every intermediate by name."""
        _, image_out = self.encode_image(images)
        logits, head_out = global_local_logits(
            image_out["image_features"],
            image_out["patch_features"],
            text_features,
            logit_scale=self.clip.temperature_scale(),
            top_k=self.top_k,
            local_weight=self.local_weight,
            center_patch_scores=self.center_patch_scores,
            patch_weights=None if self.patch_weights is None else jnp.asarray(self.patch_weights, jnp.float32),
        )
        return logits, {**image_out, **head_out}

    def __call__(
        self, images: jax.Array, soft_prompts: prompts_lib.TextEmbeddings
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One forward pass.

        Args:
          images: [B, S, S, 3] float, normalised.
          soft_prompts: the embedded class prompts, context still missing.

        Returns:
          logits [B, C] and every intermediate by name, among them 'image_features' [B, D], 'patch_features' [B, N, D],
          'text_features' [C, D] and 'token_features' [C, W].
        """
        text_features, token_features = self.encode_soft_prompts(soft_prompts)
        logits, out = self.classify(images, text_features)
        return logits, {**out, "text_features": text_features, "token_features": token_features}


def _encode_in_chunks(clip: clip_lib.CLIP, texts: prompts_lib.TextEmbeddings, size: int) -> jax.Array:
    """theta [C, D] of texts, `size` of them at a time."""
    classes = len(texts.embeddings)
    chunks = -(-classes // size)

    def cut(x: jax.Array) -> jax.Array:  # [C, ..] -> [chunks, size, ..], the last filled up with texts that are there
        filled = jnp.concatenate([x, x[: chunks * size - classes]])
        return filled.reshape(chunks, size, *x.shape[1:])

    def encode(clip: clip_lib.CLIP, carry: tuple[()], chunk: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        features, _ = clip.encode_embeddings(*chunk)
        return carry, features

    scanned: Any = nn.scan(
        nn.remat(encode, prevent_cse=False), variable_broadcast="params", split_rngs={"params": False}
    )
    _, features = scanned(clip, (), (cut(texts.embeddings), cut(texts.eos_positions)))
    return features.reshape(chunks * size, -1)[:classes]  # [chunks, size, D] -> [C, D]


def variables(clip_params: Params, prompts: Params) -> dict[str, Params]:
    """Joins the frozen and the trained half into what `MPAFER.apply` takes."""
    return {"params": {"clip": clip_params, "prompts": prompts}}
