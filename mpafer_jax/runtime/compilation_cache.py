"""Compiled functions kept from one process to the next, for commands whose user waits for the first result."""

from __future__ import annotations

import os
import pathlib
from typing import Any, cast

import filelock
import jax

from mpafer_jax.runtime import files

_FOLDER = "jax"
_MAX_BYTES = 2**28  # 256 MiB
_LOCK, _LOCK_SECONDS = ".lockfile", 5.0  # the file by which JAX's processes keep apart
_ENTRY, _WHEN_READ = "-cache", "-atime"  # what JAX calls an entry's two files


def keep() -> None:
    """Has JAX keep what it compiles in the user's cache folder; to be called before anything is compiled.

    Does nothing where JAX_COMPILATION_CACHE_DIR is set (empty: no cache), or where that folder cannot be written and
    locked. JAX removes what was not used for longest; what it cannot read it compiles, with a warning.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = files.cache_directory() / _FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # JAX runs what lies there
        with filelock.FileLock(folder / _LOCK, timeout=_LOCK_SECONDS):
            _remove_half_written(folder)
    except (OSError, RuntimeError):  # the second: there is no home, or no lock on its file system
        return
    config = cast(Any, jax.config)
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _remove_half_written(folder: pathlib.Path) -> None:
    """Removes entries of processes that were ended while they wrote them: JAX would warn of each for ever."""
    for entry in folder.glob(f"*{_ENTRY}"):
        if not entry.with_name(entry.name.removesuffix(_ENTRY) + _WHEN_READ).exists():
            entry.unlink()
