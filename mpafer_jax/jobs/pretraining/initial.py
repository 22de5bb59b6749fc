"""Initial weights of a CLIP that is trained from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.backbones.clip.model import ClipConfig
from mpafer_jax.backbones.clip.rules import Params, param_shapes, unflatten

Array = npt.NDArray[Any]


def initial_params(config: ClipConfig, seed: int) -> Params:
    """OpenAI's initialisation (Radford et al., 2021; `CLIP.initialize_parameters`): nested float32 arrays.

    Normal with standard deviation W^-1/2, times (2 K)^-1/2 in layers that add to the residual stream of K blocks. Drawn
    by NumPy in the order of the rules' table, so that a seed gives the same weights on every machine.
    """
    rng = np.random.default_rng(seed)
    flat: dict[str, Array] = {}
    for path, shape in param_shapes(config).items():
        tower = config.vision if path.startswith("visual/") else config.text
        flat[path] = _leaf(path, shape, tower.hidden_size, tower.num_layers, rng)
    return unflatten(flat)


def _leaf(path: str, shape: tuple[int, ...], width: int, layers: int, rng: np.random.Generator) -> Array:
    *_, module, leaf = ("", *path.split("/"))
    noise = rng.standard_normal(shape, np.float32)
    if leaf == "logit_scale":
        return np.asarray(np.log(1 / 0.07), np.float32)
    if leaf == "scale":
        return np.ones(shape, np.float32)
    if leaf == "bias":
        return np.zeros(shape, np.float32)
    deviation = width**-0.5
    if module in ("out_proj", "fc2"):
        deviation *= (2 * layers) ** -0.5
    if module == "fc1":
        deviation = (2 * width) ** -0.5
    if module == "patch_embedding":
        deviation = float(np.prod(shape[:-1])) ** -0.5
    return noise * np.float32(deviation)


def whiten_patches(images: npt.NDArray[np.floating], patch_size: int, width: int, seed: int) -> Array:
    """A patch embedding with uncorrelated outputs of unit variance over the given images (PCA whitening).

    Neighbouring pixels are nearly equal, so a random embedding mostly shows a patch's mean brightness; whitened
    components show fine lines too (Coates and Ng, "Learning Feature Representations with K-means", 2012, section 3). A
    random rotation spreads them evenly over the width.

    Args:
      images: float [n, S, S, 3], normalised as for the tower.
      patch_size: P, in pixels.
      width: W.
      seed: of the rotation.

    Returns:
      float32[P, P, 3, W], the kernel of `patch_embedding`.
    """
    count, side = len(images), images.shape[1] // patch_size
    cut = images[:, : side * patch_size, : side * patch_size]
    grid = cut.reshape(count, side, patch_size, side, patch_size, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = grid.reshape(count * side**2, -1)  # [n * N, P * P * 3]
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    rank = min(width, len(values))
    # Components below a thousandth of the mean variance are noise and are not amplified further.
    scale = 1 / np.sqrt(np.maximum(values[-rank:], 1e-3 * values.mean()))
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    kernel = (vectors[:, -rank:] * scale) @ rotation[:rank]
    return kernel.reshape(patch_size, patch_size, 3, width).astype(np.float32)
