"""Loads a pretrained dual encoder by the `model_type` of its config.json."""

from __future__ import annotations

import functools
from collections.abc import Callable

from mpafer_jax.backbones.base import Pretrained
from mpafer_jax.backbones.clip import load as clip
from mpafer_jax.backbones.clip.rules import DTYPES
from mpafer_jax.backbones.files import OPEN_CLIP_CONFIG, find_files, find_local_files, read_json
from mpafer_jax.backbones.other_encoders import fields, other

# By `model_type`: load(files, name=.., dtype=..).
LOADERS: dict[str, Callable[..., Pretrained]] = {"clip": clip.load}


def load_backbone(
    name: str, *, revision: str = "main", cache_dir: str = "", dtype: str = "float32", activation: str = ""
) -> Pretrained:
    """Loads a dual encoder from the package, this machine, or the Hub (without network if cached).

    Args:
      name: one of `files.SHIPPED`, a folder or a file of weights, OpenAI's 'ViT-B/16', or a repository such as
        'openai/clip-vit-base-patch16'.
      revision, cache_dir: see `files.find_files`.
      dtype: of the image tower's parameters, one of `rules.DTYPES`; all others are float32.
      activation: 'quick_gelu' or 'gelu', for weights whose files do not say; ''.

    Raises:
      FileNotFoundError: a file of the checkpoint is missing.
      ModuleNotFoundError: the only weights are PyTorch's, and torch is not installed.
      ValueError: a file is invalid or of another encoder, the activation is not known, or `dtype` is unknown.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype of CLIP's weights is {dtype!r}, expected one of {', '.join(DTYPES)}")
    files = find_files(name, revision=revision, cache_dir=cache_dir, activation=activation)
    if files.config is None or files.config.name == OPEN_CLIP_CONFIG:
        return clip.load(files, name=name, dtype=dtype)
    raw = read_json(files.config)
    kind = raw.get("model_type")
    if kind not in LOADERS:
        raise ValueError(
            f"{files.config}: model_type is {kind!r}, supported is {', '.join(map(repr, LOADERS))} "
            f"(OpenAI's CLIP ViT-B/32, B/16, L/14, L/14@336 and others of that architecture). "
            + other(fields(raw, raw.get("text_config")))
        )
    return LOADERS[kind](files, name=name, dtype=dtype)


@functools.cache  # sweeps call it for every run, and large files take seconds
def local_content_hash(name: str, *, revision: str, cache_dir: str, activation: str) -> str | None:
    """`Pretrained.content_hash` without loading the model; None if it is not on this machine.

    Raises:
      FileNotFoundError, ModuleNotFoundError, ValueError: as for `load_backbone`.
    """
    files = find_local_files(name, revision=revision, cache_dir=cache_dir, activation=activation)
    return None if files is None else files.content_hash()
