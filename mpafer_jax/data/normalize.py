"""Image normalisation on the device; the host transfers uint8, a quarter of the size of floats."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def normalize_images(images: jax.Array, mean: tuple[float, float, float], std: tuple[float, float, float]) -> jax.Array:
    """(image / 255 - mean) / std per RGB channel, uint8[..., 3] to float32[..., 3]; mean and std in [0, 1]."""
    if images.dtype != jnp.uint8:
        raise TypeError(f"expected uint8 images with values 0 to 255, found {images.dtype}")
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
