"""Reads a checkpoint's weight files into NumPy arrays."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from mpafer_jax.backbones.clip.rules import Array, flatten
from mpafer_jax.backbones.files import FileKind

# Names of the model's tensors in training checkpoints, which decide where there are others, as a mean of the weights.
_USUAL = ("state_dict", "model_state_dict", "model")
_SHOWN = 5  # names in an error
# What training programs note beside tensors, and no code runs to read: arguments, and NumPy's numbers.
_SCALAR = cast("Any", np.float64(0)).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?ilqfd"},
    *((_SCALAR, f"numpy.{package}.multiarray.scalar") for package in ("core", "_core")),  # NumPy 1 and 2
]

_TORCHSCRIPT_CODE = re.compile(r"^[^/]+/code/.*\.py$")


class _ContentError(ValueError):
    """A whole file that holds something else than a CLIP's tensors: to copy it again is no help."""


def read_tensors(paths: Iterable[Path], kind: FileKind) -> dict[str, Array]:
    """Reads all tensors of a checkpoint.

    Args:
      paths: one file, or all shards.
      kind: 'safetensors'; 'flax' (msgpack); 'pytorch' (torch.save, read with `weights_only`, or a TorchScript archive).

    Returns:
      Arrays by name: PyTorch's names for 'safetensors' and 'pytorch', paths joined with '/' for 'flax'. bfloat16
      becomes `ml_dtypes.bfloat16`. The prefix of 'logit_scale', such as 'module.', is stripped from all names, and
      'text.' from those of a text tower that is CLIP's.

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
        except _ContentError as error:
            raise ValueError(f"{path} cannot be read as {kind} weights: {error}") from error
        except Exception as error:  # the libraries' errors have no common base class
            raise ValueError(
                f"{path} cannot be read as {kind} weights, download or copy it again: {type(error).__name__}: {error}"
            ) from error
        if twice := sorted(tensors.keys() & found.keys()):
            raise ValueError(f"{path} holds tensors that another shard holds too: {', '.join(twice)}")
        tensors.update(found)
    return _without_text(_without_prefix(tensors))


def _read_safetensors(path: Path) -> dict[str, Array]:
    import safetensors.numpy

    return safetensors.numpy.load_file(path)


def _read_msgpack(path: Path) -> dict[str, Array]:
    from flax import serialization

    tree = cast("dict[str, Any]", serialization.msgpack_restore(path.read_bytes()))
    return {name: np.asarray(value) for name, value in flatten(tree).items()}


def _state_dict(loaded: dict[str, Any]) -> dict[str, Any]:
    """The CLIP's tensors, also from a training checkpoint, whatever it calls them: those with one of 'logit_scale'.

    Raises:
      _ContentError: there are none, or several.
    """
    import torch

    def has_scale(entries: dict[str, Any]) -> bool:
        return any(str(name).endswith("logit_scale") for name, value in entries.items() if torch.is_tensor(value))

    held = {where: entries for where, entries in _dictionaries(loaded, "") if has_scale(entries)}
    if len(held) > 1:
        held = {where: entries for where, entries in held.items() if where in _USUAL} or held
    if len(held) > 1:
        raise _ContentError(
            f"it holds {len(held)} models with a logit_scale ({', '.join(where or 'itself' for where in held)}); save "
            "the tensors of one alone"
        )
    if held or all(torch.is_tensor(value) for value in loaded.values()):
        return next(iter(held.values()), loaded)  # what tensors alone lack is listed later
    raise _ContentError(
        f"it holds no tensor whose name ends in logit_scale, which every CLIP has, but {_contents(loaded)}; give the "
        "state_dict of the whole CLIP"
    )


def _dictionaries(entries: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dictionary and those inside it, by the names that lead to them, joined with dots."""
    yield where, entries
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from _dictionaries(cast("dict[str, Any]", value), f"{where}.{name}".strip("."))


def _contents(entries: dict[str, Any]) -> str:
    """What a dictionary holds, for an error: the first names with their types, and what is in dictionaries."""
    kinds = {name: type(value).__name__ for name, value in entries.items()}
    inside = {name: cast("dict[str, Any]", value) for name, value in entries.items() if isinstance(value, dict)}
    kinds |= {name: f"dict of {_first(value) or 'nothing'}" for name, value in inside.items()}
    return _first([f"{name} ({kind})" for name, kind in kinds.items()])


def _first(names: Collection[object]) -> str:
    return ", ".join(map(str, list(names)[:_SHOWN])) + (", .." if len(names) > _SHOWN else "")


def _without_prefix(tensors: dict[str, Array]) -> dict[str, Array]:
    """Strips the prefix of 'logit_scale' from all names: 'module.' (DataParallel), 'model.', 'params/'.

    Tensors without that prefix are something else's, and become unknown ones.
    """
    prefixes = [name.removesuffix("logit_scale") for name in tensors if name.endswith("logit_scale")]
    if len(prefixes) != 1:
        return tensors
    return _stripped(tensors, prefixes[0])


def _without_text(tensors: dict[str, Array]) -> dict[str, Array]:
    """Strips 'text.' from CLIP's own text tower, as open_clip names it with `custom_text`; others keep it."""
    is_clips = any(name.startswith("text.transformer.resblocks.0.") for name in tensors)
    return _stripped(tensors, "text.") if is_clips else tensors


def _stripped(tensors: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Without the prefix, unless two names would become one."""
    stripped = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return stripped if len(stripped) == len(tensors) else tensors


def torchscript_code(path: Path) -> str:
    """Source of the modules in a TorchScript archive, without running it; '' for any other file."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if _TORCHSCRIPT_CODE.search(name)]
        return "\n".join(archive.read(name).decode("utf-8", "replace") for name in names)


def _read_torch(path: Path) -> dict[str, Array]:
    import torch

    if torchscript_code(path):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)  # the files outlive it
            loaded = cast(object, torch.jit.load(path, map_location="cpu").state_dict())
    else:
        # torch's format before 1.6 is not a zip archive and cannot be memory-mapped.
        mmap = zipfile.is_zipfile(path)
        try:
            with torch.serialization.safe_globals(_HARMLESS):
                loaded = cast(object, torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))
        except pickle.UnpicklingError as error:
            if names := sorted(set(re.findall(r"GLOBAL (\S+)", str(error)))):
                raise _ContentError(
                    f"it holds Python objects ({', '.join(names)}), which are not unpickled, as that can run any code. "
                    "Save the tensors alone, torch.save(model.state_dict(), ..)"
                ) from error
            with path.open("rb") as file:
                # PyTorch's message advises to read it in a way that can run any code.
                raise ValueError(f"it is no file of torch.save; its first bytes are {file.read(16)!r}") from error
    if not isinstance(loaded, dict):
        raise _ContentError(f"it holds a {type(loaded).__name__}, expected tensors by name")
    tensors: dict[str, Array] = {}
    for name, value in _state_dict(cast("dict[str, Any]", loaded)).items():
        if not isinstance(value, torch.Tensor):
            raise _ContentError(
                f"{name} is a {type(value).__name__}, expected a tensor; of what a training run saves, give the "
                "model's state_dict alone"
            )
        if value.dtype == torch.bfloat16:  # not in NumPy: reinterpret the bits as ml_dtypes.bfloat16
            tensors[name] = value.detach().contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        else:
            tensors[name] = value.detach().numpy()
    return tensors
