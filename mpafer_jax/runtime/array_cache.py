"""Cache of computed arrays in .npy files, named by a key of all their inputs."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.runtime import distributed, files
from mpafer_jax.runtime.errors import DataError, NonFiniteError
from mpafer_jax.runtime.finite import not_finite


def cache_key(**contents: Any) -> str:
    """A hash of everything that an array depends on, such as CLIP's hash, data, seed, sizes."""
    text = json.dumps(contents, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    try:
        with path.open("rb") as stream:
            stored = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and it is computed again") from error
    if stored.shape != shape or stored.dtype != np.float32 or not np.isfinite(stored).all():
        raise DataError(
            f"{path} holds {stored.dtype} {list(stored.shape)}, expected float32 {list(shape)}, all of it finite; "
            "delete it, and it is computed again"
        )
    return stored


def load_or_compute(
    path: pathlib.Path, compute: Callable[[], npt.NDArray[np.float32]], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Reads a float32 array of this shape from an .npy file named by its `cache_key`, or computes and stores it.

    Only process 0 reads and writes the file, so that all processes compute together or not at all.

    Raises:
      DataError: the file is damaged.
      NonFiniteError: the computed array is not finite.
    """
    stored = np.zeros(shape, np.float32)
    is_stored = distributed.is_first() and path.is_file()
    if is_stored:
        logging.debug("read from %s", path)
        stored = _read(path, shape)
    is_stored, stored = distributed.broadcast((np.asarray(is_stored), stored))
    if is_stored:
        return stored
    computed = compute()
    if broken := not_finite({path.name: computed}):
        raise NonFiniteError(f"NaN or infinite numbers were computed for {path.parent}: {', '.join(broken)}")
    if distributed.is_first():
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, computed, allow_pickle=False)
        logging.debug("stored in %s", path)
    return computed
