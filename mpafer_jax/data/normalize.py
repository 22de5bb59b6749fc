"""Image normalisation on the device; the host transfers uint8, a quarter of the size of floats."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def normalize_images(
    images: jax.Array,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    grayscale: bool = False,
) -> jax.Array:
    """(image / 255 - mean) / std per RGB channel, uint8[..., 3] to float32[..., 3]; mean and std in [0, 1].

    With `grayscale` all channels are the luminance first. A grey image stays the same, to the bit.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"expected uint8 images with values 0 to 255, found {images.dtype}")
    values = images.astype(jnp.float32)
    scaled = (to_luminance(values) if grayscale else values) / 255.0
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def to_luminance(images: jax.Array) -> jax.Array:
    """0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded, in all channels of float32[..., 3] of whole numbers 0..255.

    The weights are Pillow's, in units of 1 / 65536; the sums are below 2^24, so that float32 holds them exactly.
    """
    red, green, blue = (images[..., channel] for channel in range(3))
    luminance = jnp.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)
    return jnp.broadcast_to(luminance[..., None], images.shape)
