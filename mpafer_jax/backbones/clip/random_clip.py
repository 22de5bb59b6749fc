"""Writes a small CLIP with random weights in the Hub's layout, for tests and for trying commands without a download."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mpafer_jax.backbones.clip.export import save_clip
from mpafer_jax.backbones.clip.model import ClipConfig, plain_config
from mpafer_jax.backbones.clip.openai import OPENAI_MEAN, OPENAI_STD
from mpafer_jax.backbones.clip.rules import Array, Params, param_shapes, unflatten
from mpafer_jax.backbones.clip.tokenizer import train_tokenizer

DEFAULT_TEXTS = (
    "a photo of a face that looks angry, contemptuous, disgusted, afraid, fearful, happy, neutral, sad or surprised",
    "a photo of a person making a neutral facial expression with relaxed eyebrows and a closed mouth",
    "the corners of the mouth are raised and the eyes are narrowed, the person is happy",
    "the eyebrows are lowered and drawn together, the lips are pressed, the person is angry",
    "the eyes are wide open, the jaw drops and the eyebrows are raised, the person is surprised",
)


def random_params(config: ClipConfig, seed: int = 0) -> Params:
    """Random float32 parameters, scaled so that activations neither vanish nor explode.

    Drawn by NumPy in the order of `RULES`: a seed gives the same values on every machine.
    """
    rng = np.random.default_rng(seed)
    flat: dict[str, Array] = {}
    for path, shape in param_shapes(config).items():
        leaf = path.rsplit("/", 1)[-1]
        noise = rng.standard_normal(shape, np.float32)
        if leaf == "logit_scale":
            flat[path] = np.asarray(np.log(1 / 0.07), np.float32)  # CLIP's initial value
        elif leaf == "scale":
            flat[path] = 1 + np.float32(0.1) * noise
        elif leaf == "kernel":  # [..., in, out]; a convolution has rows and columns of a patch before `in`
            fan_in = int(np.prod(shape[:-1])) // (shape[0] if "/blocks/" in path else 1)
            flat[path] = noise * np.float32(fan_in**-0.5)
        else:  # biases and embeddings
            flat[path] = noise * np.float32(0.1)
    return unflatten(flat)


def write_random_clip(
    folder: Path | str,
    *,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    image_size: int = 32,
    patch_size: int = 8,
    projection_dim: int = 16,
    vocab_size: int = 600,
    eos_token_id: int | None = 2,
    seed: int = 0,
    texts: Iterable[str] = DEFAULT_TEXTS,
) -> Path:
    """Writes a random CLIP with a tokenizer trained on `texts`; returns the folder.

    Args:
      folder: new or empty.
      hidden: width of both towers; the MLPs are four times as wide.
      layers, heads: of each tower; `heads` divides `hidden`.
      image_size, patch_size: sides in pixels.
      projection_dim: size of the joint space.
      vocab_size: maximum vocabulary, at least 514; few texts give fewer tokens.
      eos_token_id: in config.json; 2 as OpenAI's (see `model.find_ends`), None for the actual id.

    Raises:
      FileExistsError: the folder is not empty.
      ValueError: sizes do not fit.
    """
    if hidden % heads or image_size < patch_size:
        raise ValueError(
            f"hidden {hidden} must be a multiple of heads {heads}, and image_size {image_size} at least "
            f"patch_size {patch_size}"
        )
    with tempfile.TemporaryDirectory() as tokenizer_folder:
        tokenizer = train_tokenizer(texts, tokenizer_folder, vocab_size)
        tower = (hidden, layers, heads)
        config = plain_config(
            tower,
            tower,
            image_size=image_size,
            patch_size=patch_size,
            projection_dim=projection_dim,
            vocab_size=tokenizer.vocab_size,
            eos_token_id=tokenizer.eos_id if eos_token_id is None else eos_token_id,
        )
        return save_clip(
            folder,
            config=config,
            params=random_params(config, seed),
            tokenizer_folder=tokenizer_folder,
            image_mean=OPENAI_MEAN,
            image_std=OPENAI_STD,
        )
