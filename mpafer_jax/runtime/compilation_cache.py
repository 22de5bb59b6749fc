"""Compiled functions kept from one process to the next, for commands whose user waits for the first result."""

from __future__ import annotations

import os
import pathlib
from typing import Any, cast

import filelock
import jax
from absl import logging

from mpafer_jax.runtime import files

_FOLDER = "jax"
_SETTINGS = {
    "jax_compilation_cache_max_size": 2**28,  # 256 MiB
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}
_LOCK, _LOCK_SECONDS = ".lockfile", 5.0  # the file by which JAX's processes keep apart
_ENTRY, _WHEN_READ = "-cache", "-atime"  # what JAX calls an entry's two files


def enable() -> None:
    """Has JAX keep what it compiles in the user's cache folder; to be called before anything is compiled.

    Does nothing where JAX_COMPILATION_CACHE_DIR is set (empty: no cache), or where that folder cannot be written and
    locked, or is not the user's alone. Other settings of JAX's environment variables stay.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = files.cache_directory() / _FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(folder)
        with filelock.FileLock(folder / _LOCK, timeout=_LOCK_SECONDS):
            _remove_half_written(folder)
    except (OSError, RuntimeError) as error:  # the second: there is no home, or no lock on its file system
        logging.debug("compiled functions are not kept: %s", error)
        return
    config = cast(Any, jax.config)
    config.update("jax_compilation_cache_dir", str(folder))
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            config.update(name, value)


def _check_private(folder: pathlib.Path) -> None:
    """Raises PermissionError if others may write into the folder: JAX runs what lies there."""
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{folder} is another user's, or others may write there (mode {status.st_mode & 0o777:o})"
        )


def _remove_half_written(folder: pathlib.Path) -> None:
    """Removes entries of processes that were ended while they wrote them: JAX would warn of each for ever.

    Such an entry lacks its second file; where the machine itself stopped, it may have both and be empty or all zeros.
    """
    for entry in folder.glob(f"*{_ENTRY}"):
        with entry.open("rb") as file:
            begun = file.read(1) not in (b"", b"\0")
        if not (begun and entry.with_name(entry.name.removesuffix(_ENTRY) + _WHEN_READ).exists()):
            entry.unlink()
