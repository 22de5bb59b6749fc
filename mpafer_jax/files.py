"""Files that are either there whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Generator
from typing import Any


def cache_directory() -> pathlib.Path:
    """Where things are kept that can be made again: `mpafer_jax` in $XDG_CACHE_HOME, else in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(root) if root else pathlib.Path.home() / ".cache") / "mpafer_jax"


def local_path(text: str, field: str) -> pathlib.Path:
    """A folder or file by its name.

    Args:
      text: the name, as a flag or field gives it.
      field: of which flag or field, for the message.

    Raises:
      ValueError: it is a URL, which as a name would mean a folder of this machine that is called "gs:".
    """
    if "://" in text:
        raise ValueError(
            f"{field} is {text!r}: expected a folder of this machine. Mount the bucket (gcsfuse, s3fs, or the cloud's "
            "own driver) and name the folder, see launch/README.md"
        )
    return pathlib.Path(text)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Generator[pathlib.Path]:
    """Yields a temporary name beside `path`; what was written there becomes `path` if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON, as a whole; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
