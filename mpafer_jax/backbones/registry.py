"""Loads a pretrained dual encoder by the `model_type` of its config.json."""

from __future__ import annotations

import functools
from collections.abc import Callable

from mpafer_jax.backbones.base import Pretrained
from mpafer_jax.backbones.clip import load as clip
from mpafer_jax.backbones.clip.rules import DTYPES
from mpafer_jax.backbones.files import find_files, find_local_files, hash_files, read_json

# By `model_type`: load(files, name=.., dtype=..).
LOADERS: dict[str, Callable[..., Pretrained]] = {"clip": clip.load}


def load_backbone(name: str, *, revision: str = "main", cache_dir: str = "", dtype: str = "float32") -> Pretrained:
    """Loads a dual encoder from the package, a local folder, or the Hub (without network if cached).

    Args:
      name: 'tiny-face-clip', a folder in the Hub's layout, or a repository such as 'openai/clip-vit-base-patch16'.
      revision, cache_dir: see `files.find_files`.
      dtype: of the image tower's parameters, one of `rules.DTYPES`; all others are float32.

    Raises:
      FileNotFoundError: a file of the checkpoint is missing.
      ModuleNotFoundError: the only weights are PyTorch's, and torch is not installed.
      ValueError: a file is invalid, or `dtype` is unknown.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype of CLIP's weights is {dtype!r}, expected one of {', '.join(DTYPES)}")
    files = find_files(name, revision=revision, cache_dir=cache_dir)
    kind = read_json(files.config).get("model_type")
    if kind not in LOADERS:
        raise ValueError(
            f"{files.config}: model_type is {kind!r}, supported is {', '.join(map(repr, LOADERS))} "
            "(OpenAI's CLIP ViT-B/32, B/16, L/14, L/14@336 and others of that architecture, such as LAION's)"
        )
    return LOADERS[kind](files, name=name, dtype=dtype)


@functools.cache  # sweeps call it for every run, and large files take seconds
def local_content_hash(name: str, *, revision: str, cache_dir: str) -> str | None:
    """`Pretrained.content_hash` without loading the model; None if it is not on this machine.

    Raises:
      FileNotFoundError, ModuleNotFoundError, ValueError: as for `load_backbone`.
    """
    files = find_local_files(name, revision=revision, cache_dir=cache_dir)
    return None if files is None else hash_files([files.config, *files.weights])
