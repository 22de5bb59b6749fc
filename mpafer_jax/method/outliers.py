"""Distance of an image from the training images, from what the forward pass computes anyway.

The image's mean patch feature is compared with a Gaussian of those of training images: Mahalanobis distance, as Lee et
al. ("A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018) take of a
layer's mean feature; here with one mean for all classes, which was as good as one for each.
"""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_SMALLEST = 1e-6  # of the largest variance, below which float32 features have no digits


def mean_patch(patch_features: jax.Array) -> jax.Array:
    """Mean over the patches [B, D] of Z^l [B, N, D], in float32."""
    return jnp.mean(patch_features.astype(jnp.float32), axis=1)


def fit_gaussian(features: Floats) -> tuple[Floats, Floats]:
    """Mean [D] of features [n, D], and the whitening S^(-1/2) [D, D] of their covariance S (Ledoit and Wolf, 2004)."""
    mean = features.mean(axis=0, dtype=np.float64)
    ledoit_wolf: Any = importlib.import_module("sklearn.covariance").ledoit_wolf
    covariance: npt.NDArray[np.float64] = ledoit_wolf(features - mean, assume_centered=True)[0]
    variances, directions = np.linalg.eigh(covariance)
    variances = np.maximum(variances, max(_SMALLEST * float(variances.max()), np.finfo(np.float32).tiny))
    whitening = directions / np.sqrt(variances) @ directions.T
    return np.asarray(mean, np.float32), np.asarray(whitening, np.float32)


def mahalanobis(features: jax.Array, mean: jax.Array, whitening: jax.Array) -> jax.Array:
    """Distances |W (x - m)| [B] of features x [B, D]; m [D] and W [D, D] from `fit_gaussian`."""
    return jnp.sqrt(jnp.sum(jnp.square((features - mean) @ whitening), axis=-1))
