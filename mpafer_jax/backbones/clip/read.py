"""Reads a checkpoint's weight files into NumPy arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from mpafer_jax.backbones.clip.rules import Array, flatten
from mpafer_jax.backbones.files import FileKind

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of the model's tensors in training checkpoints


def read_tensors(paths: Iterable[Path], kind: FileKind) -> dict[str, Array]:
    """Reads all tensors of a checkpoint.

    Args:
      paths: one file, or all shards.
      kind: 'safetensors'; 'flax' (msgpack); 'pytorch' (torch.save, read with `weights_only`).

    Returns:
      Arrays by name: PyTorch's names for 'safetensors' and 'pytorch', paths joined with '/' for 'flax'. bfloat16
      becomes `ml_dtypes.bfloat16`. A common prefix of all names, such as 'module.', is stripped.

    Raises:
      ValueError: a file is not in this format, or two shards hold the same tensor.
    """
    reader = {"safetensors": _read_safetensors, "flax": _read_msgpack, "pytorch": _read_torch}[kind]
    tensors: dict[str, Array] = {}
    for path in paths:
        with path.open("rb") as file:
            if file.read(20).startswith(b"version https://git-"):
                raise ValueError(
                    f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` where it is from"
                )
        try:
            found = reader(path)
        except OSError:
            raise
        except Exception as error:  # the libraries' errors have no common base class
            raise ValueError(
                f"{path} cannot be read as {kind} weights, download or copy it again: {type(error).__name__}: {error}"
            ) from error
        if twice := sorted(tensors.keys() & found.keys()):
            raise ValueError(f"{path} holds tensors that another shard holds too: {', '.join(twice)}")
        tensors.update(found)
    return _without_prefix(tensors)


def _read_safetensors(path: Path) -> dict[str, Array]:
    import safetensors.numpy

    return safetensors.numpy.load_file(path)


def _read_msgpack(path: Path) -> dict[str, Array]:
    from flax import serialization

    tree = cast("dict[str, Any]", serialization.msgpack_restore(path.read_bytes()))
    return {name: np.asarray(value) for name, value in flatten(tree).items()}


def _state_dict(loaded: dict[str, Any]) -> dict[str, Any]:
    """The model's tensors, also from a training checkpoint that holds them as one entry."""
    held = [loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), dict)]
    return held[0] if len(held) == 1 else loaded


def _without_prefix(tensors: dict[str, Array]) -> dict[str, Array]:
    """Strips a prefix that all names share with 'logit_scale': 'module.' (DataParallel), 'model.', 'params/'."""
    prefixes = [name.removesuffix("logit_scale") for name in tensors if name.endswith("logit_scale")]
    if len(prefixes) != 1 or not all(name.startswith(prefixes[0]) for name in tensors):
        return tensors
    return {name.removeprefix(prefixes[0]): value for name, value in tensors.items()}


def _read_torch(path: Path) -> dict[str, Array]:
    import torch

    # torch's format before 1.6 is not a zip archive and cannot be memory-mapped.
    mmap = zipfile.is_zipfile(path)
    loaded = cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))
    tensors: dict[str, Array] = {}
    for name, value in _state_dict(loaded).items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{name} is a {type(value).__name__}, expected a tensor; of what a training run saves, give the "
                "model's state_dict alone"
            )
        if value.dtype == torch.bfloat16:  # not in NumPy: reinterpret the bits as ml_dtypes.bfloat16
            tensors[name] = value.detach().contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        else:
            tensors[name] = value.detach().numpy()
    return tensors
