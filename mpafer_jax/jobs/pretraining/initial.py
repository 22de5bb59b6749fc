"""Initial weights of a CLIP that is trained from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.backbones.clip.model import ClipConfig, VisionConfig
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


def mimetic(visual: Params, config: VisionConfig, seed: int) -> Params:
    """An image tower that looks as if it were trained (Trockman and Kolter, "Mimetic Initialization", ICML 2023).

    Of each head W_q W_k^T is about 0.7 Z + 0.7 I, so that patches attend to those like them, and of each layer W_v W_o
    about 0.4 Z - 0.4 I, with random Z; positions are sinusoids, so that those like a patch are its neighbours.

    Args:
      visual: parameters of the tower, nested.
      seed: of Z.

    Returns:
      A copy of `visual` with other kernels of attention and other positions, but for CLS.
    """
    rng = np.random.default_rng(seed)
    width, heads = config.hidden_size, config.num_heads
    shape, size = (config.num_layers, width, width), width // heads
    query, key, value, out = (np.zeros(shape, np.float32) for _ in range(4))
    for layer in range(config.num_layers):
        for head in range(heads):
            columns = slice(head * size, (head + 1) * size)
            left, right = _factors(rng, width, 0.7, 0.7)
            query[layer][:, columns], key[layer][:, columns] = left[:, :size], right[:, :size]
        left, right = _factors(rng, width, 0.4, -0.4)
        value[layer], out[layer] = left, right.T
    kernels = {"q_proj": query, "k_proj": key, "v_proj": value, "out_proj": out}
    attention = {name: {**visual["blocks"]["attn"][name], "kernel": kernel} for name, kernel in kernels.items()}
    positions = np.concatenate([visual["position_embedding"][:1], _sinusoids(config)])
    return {**visual, "position_embedding": positions, "blocks": {**visual["blocks"], "attn": attention}}


def _factors(rng: np.random.Generator, width: int, noise: float, identity: float) -> tuple[Array, Array]:
    """[W, W] twice: A and B with A B^T = noise Z + identity I, Z normal with variance 1 / W, by singular values.

    Their first k columns give the best approximation of rank k.
    """
    product = noise * rng.standard_normal((width, width)) / np.sqrt(width) + identity * np.eye(width)
    left, values, right = np.linalg.svd(product)
    root = np.sqrt(values)
    return (left * root).astype(np.float32), (right.T * root).astype(np.float32)


def _sinusoids(config: VisionConfig) -> Array:
    """float32[N, W]: sines and cosines of row and column, of wavelengths from 4 patches to nearly 30 times as many."""
    side, number = config.image_size // config.patch_size, config.hidden_size // 4
    frequencies = 1.5 * 30.0 ** (-np.arange(number) / number)
    rows, columns = (axis.reshape(-1, 1) * frequencies for axis in np.mgrid[:side, :side])
    waves = np.concatenate([function(angle) for angle in (rows, columns) for function in (np.sin, np.cos)], axis=1)
    padded = np.zeros((side * side, config.hidden_size), np.float32)
    padded[:, : waves.shape[1]] = 0.7 * waves
    return padded


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
