"""Losses of contrastive image-text pre-training: pure functions that return one value per example.

Shapes: B images (with one caption each) on one device, G over all devices, A attributes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mpafer_jax.backbones.base import l2_normalize

Groups = Sequence[Sequence[int]]


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
    logits = logit_scale * l2_normalize(features) @ l2_normalize(candidates).T  # [B, G]
    is_own = jax.nn.one_hot(positives, candidates.shape[0], dtype=bool)
    logits = jnp.where(same & ~is_own, -jnp.inf, logits)
    return optax.softmax_cross_entropy_with_integer_labels(logits, positives)


def statements(logits: jax.Array, truth: jax.Array, groups: Groups = ()) -> jax.Array:
    """Cross-entropy of statements: of the sigmoid as in SigLIP (Zhai et al., 2023), of the softmax in groups.

    Args:
      logits: [B, A].
      truth: [B, A] in 0..1, NaN where unknown. In a group it sums to 1, or is unknown as a whole.
      groups: positions of the statements of each group, of which exactly one is true.

    Returns:
      [B], the mean over each image's known groups and known other statements; 0 without any.
    """
    target = jnp.nan_to_num(truth)
    alone = sorted(set(range(truth.shape[1])).difference(*groups))
    losses = [optax.sigmoid_binary_cross_entropy(logits, target)[:, np.array(alone, np.int32)]]
    losses += [optax.softmax_cross_entropy(logits[:, g], target[:, g])[:, None] for g in map(np.array, groups)]
    known = truth[:, np.array([*alone, *(group[0] for group in groups)], np.int32)]
    return masked_mean(jnp.concatenate(losses, axis=1), known)


def probabilities(logits: jax.Array, groups: Groups) -> jax.Array:
    """[B, A]: how likely each statement is true by the logits [B, A] of `statements`; those of a group sum to 1."""
    chances = jax.nn.sigmoid(logits)
    for group in map(np.array, groups):
        chances = chances.at[:, group].set(jax.nn.softmax(logits[:, group]))
    return chances


def guidance(patches: jax.Array, maps: jax.Array, kept: jax.Array | None) -> jax.Array:
    """[B]: mean squared difference of patches [B, N', F] and the maps [B, N, F] at the N' patches `kept` [B, N']."""
    if kept is not None:
        maps = jnp.take_along_axis(maps, kept[:, :, None], axis=1)
    return jnp.mean((patches - maps) ** 2, axis=(1, 2))


def masked_mean(values: jax.Array, truth: jax.Array) -> jax.Array:
    """[B]: mean of values [B, A] over the entries with known truth (not NaN); 0 for a row without any."""
    known = ~jnp.isnan(truth)
    number = jnp.maximum(jnp.sum(known, axis=-1), 1).astype(values.dtype)
    return jnp.sum(jnp.where(known, values, 0), axis=-1) / number


def top_patch_scores(patch_features: jax.Array, text_features: jax.Array, top_k: int) -> jax.Array:
    """[B, A]: mean cosine of the k best patches for each text, for Z^l [B, N, D] and texts [A, D]."""
    scores = jnp.einsum("bnd,ad->ban", l2_normalize(patch_features), l2_normalize(text_features))
    best, _ = jax.lax.top_k(scores, top_k)  # [B, A, k]
    return jnp.mean(best, axis=-1)
