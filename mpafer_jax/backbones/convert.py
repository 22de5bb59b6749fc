"""Converts a CLIP of any form that is read to a folder in the Hub's layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from mpafer_jax.backbones.base import Pretrained
from mpafer_jax.backbones.clip.export import save_clip
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.rules import flatten, unflatten
from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.files import find_files
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.runtime.errors import ConfigError


def convert_clip(
    source: str,
    folder: Path,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    revision: str = "main",
    cache_dir: str = "",
    activation: str = "",
) -> Pretrained:
    """Converts a CLIP; the result needs no PyTorch, and in float32 has the source's content hash.

    Args:
      source, revision, cache_dir, activation: as for `registry.load_backbone`.
      folder: new or empty; created atomically.
      dtype: of the file's numbers, but for the logit scale. float16 halves the file and is another CLIP than the
        source, with rounded weights; it is computed with in float32 all the same.

    Returns:
      The source, with the result's content hash.

    Raises:
      ConfigError: the source cannot be read, or has numbers that float16 does not hold.
      FileExistsError: the folder is not empty.
    """
    options = {"revision": revision, "cache_dir": cache_dir, "activation": activation}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already; a CLIP is written into a new or empty folder only")
    try:
        clip, tokenizer = load_backbone(source, **options), find_files(source, **options).tokenizer
        clip.load_tokenizer()
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"{source}: {error}") from error
    if not isinstance(clip.backbone, CLIP):
        raise ConfigError(f"{source} is a {type(clip.backbone).__name__}, expected a CLIP")
    config = clip.backbone.config
    text = dataclasses.replace(config.text, eos_token_id=load_tokenizer(tokenizer).eos_id)
    with np.errstate(over="ignore"):  # reported by `save_clip`
        flat = {
            path: value if path == "logit_scale" else np.asarray(value, dtype)
            for path, value in flatten(clip.params).items()
        }
    try:
        save_clip(
            folder,
            config=dataclasses.replace(config, text=text),
            params=unflatten(flat),
            tokenizer_folder=tokenizer,
            image_mean=clip.image_mean,
            image_std=clip.image_std,
            grayscale=clip.grayscale,
            converted_from=clip.content_hash if dtype == "float32" else "",
        )
    except ValueError as error:
        raise ConfigError(f"{source} cannot be written in {dtype}: {error}") from error
    return dataclasses.replace(clip, content_hash=find_files(str(folder)).content_hash())
