"""Converts a CLIP of any form that is read to a folder in the Hub's layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mpafer_jax.backbones.base import Pretrained
from mpafer_jax.backbones.clip.export import save_clip
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.files import find_files
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.runtime.errors import ConfigError


def convert_clip(
    source: str, folder: Path, *, revision: str = "main", cache_dir: str = "", activation: str = ""
) -> Pretrained:
    """Converts a CLIP, in float32; the result needs no PyTorch and has the source's content hash.

    Args:
      source, revision, cache_dir, activation: as for `registry.load_backbone`.
      folder: new or empty; created atomically.

    Returns:
      The source.

    Raises:
      ConfigError: the source cannot be read.
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
    save_clip(
        folder,
        config=dataclasses.replace(config, text=text),
        params=clip.params,
        tokenizer_folder=tokenizer,
        image_mean=clip.image_mean,
        image_std=clip.image_std,
        converted_from=clip.content_hash,
    )
    return clip
