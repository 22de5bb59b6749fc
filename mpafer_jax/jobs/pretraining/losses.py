"""Losses of contrastive image-text pre-training: pure functions that return one value per example.

Shapes: B images (with one caption each) on one device, G over all devices, A attributes, D features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from mpafer_jax.backbones.base import normalize


def contrastive(
    features: jax.Array, candidates: jax.Array, positives: jax.Array, logit_scale: jax.Array, same: jax.Array
) -> jax.Array:
    """One direction of InfoNCE (Radford et al., 2021, section 2.3).

    Args:
      features: [B, D].
      candidates: [G, D], of the other modality.
      positives: [B] int, index of each row's positive.
      logit_scale: s.
      same: [B, G] bool, true for candidates with the same caption as the row; those are excluded as negatives.

    Returns:
      [B].
    """
    logits = logit_scale * normalize(features) @ normalize(candidates).T  # [B, G]
    is_own = jax.nn.one_hot(positives, candidates.shape[0], dtype=bool)
    logits = jnp.where(same & ~is_own, -jnp.inf, logits)
    return optax.softmax_cross_entropy_with_integer_labels(logits, positives)


def statements(scores: jax.Array, truth: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Sigmoid cross-entropy of statements on cosine scores, as in SigLIP (Zhai et al., 2023).

    Args:
      scores: [B, A], cosine similarities of images and statements.
      truth: [B, A] in 0..1, NaN where unknown.
      scale: s of the logits s * cosine + bias.
      bias: scalar.

    Returns:
      [B], the mean over each image's known statements, 0 without any.
    """
    return masked_mean(optax.sigmoid_binary_cross_entropy(scale * scores + bias, jnp.nan_to_num(truth)), truth)


def attributes(logits: jax.Array, truth: jax.Array) -> jax.Array:
    """Sigmoid cross-entropy of the linear attribute head; arguments and result as for `statements`."""
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, jnp.nan_to_num(truth)), truth)


def masked_mean(values: jax.Array, truth: jax.Array) -> jax.Array:
    """[B]: mean of values [B, A] over the entries with known truth (not NaN); 0 for a row without any."""
    known = ~jnp.isnan(truth)
    number = jnp.maximum(jnp.sum(known, axis=-1), 1).astype(values.dtype)
    return jnp.sum(jnp.where(known, values, 0), axis=-1) / number


def top_patch_scores(patch_features: jax.Array, text_features: jax.Array, top_k: int) -> jax.Array:
    """[B, A]: mean cosine of the k best patches for each text, for Z^l [B, N, D] and texts [A, D]."""
    scores = jnp.einsum("bnd,ad->ban", normalize(patch_features), normalize(text_features))
    best, _ = jax.lax.top_k(scores, top_k)  # [B, A, k]
    return jnp.mean(best, axis=-1)
