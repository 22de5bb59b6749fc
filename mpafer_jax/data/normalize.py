"""The normalisation of images, on the device: the host sends bytes, a quarter of the floats' traffic."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def normalize(images: jax.Array, mean: tuple[float, float, float], std: tuple[float, float, float]) -> jax.Array:
    """Bytes to the floats that CLIP's image tower expects: (value / 255 - mean) / std per channel.

    Args:
      images: uint8[..., 3].
      mean: per channel, RGB, on the scale 0 to 1.
      std: likewise.

    Returns:
      float32[..., 3].
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"expected uint8 images with values 0 to 255, found {images.dtype}")
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
