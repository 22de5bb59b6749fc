"""Files, on this machine or in a bucket, that are either there whole or not there."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import importlib.util
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Generator
from typing import Any, cast

# Scheme of a bucket's URL -> the package through which fsspec reads it, and our extra that installs it.
_BUCKETS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}


def cache_directory() -> pathlib.Path:
    """Where things are kept that can be made again: `mpafer_jax` in $XDG_CACHE_HOME, else in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(root) if root else pathlib.Path.home() / ".cache") / "mpafer_jax"


def local_path(text: str, field: str) -> pathlib.Path:
    """A folder or file of this machine by its name.

    Args:
      text: the name, as a flag or field gives it; `~` is the home, as in a shell, which does not see it in `--flag=~`.
      field: of which flag or field, for the message.

    Raises:
      ValueError: it is a URL, which as a name would mean a folder of this machine that is called "gs:".
    """
    if "://" in text:
        raise ValueError(
            f"{field} is {text!r}: expected a file or folder of this machine, where a bucket can be mounted"
        )
    return _home_expanded(text)


def _home_expanded(name: str) -> pathlib.Path:
    # Not Path.expanduser, which raises for a name such as "~old" that belongs to no user.
    return pathlib.Path(os.path.expanduser(name))  # noqa: PTH111


def path_argument(flag: str) -> Callable[[str], pathlib.Path]:
    """`local_path` as argparse's `type`: a URL ends the command with exit code 2.

    Args:
      flag: of which flag, for the message.
    """

    def parse(text: str) -> pathlib.Path:
        try:
            return local_path(text, flag)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def any_path(text: str | os.PathLike[str], field: str) -> pathlib.Path:
    """A folder or file of this machine or in a bucket by its name: a plain one, gs://BUCKET/NAME or s3://BUCKET/NAME.

    Args:
      text: the name, as a flag, field or caller gives it; `~` as in `local_path`.
      field: of which flag or field, for the message.

    Returns:
      For a bucket an `etils.epath.Path`, which reads and writes as `pathlib.Path` does, but can neither be appended
      to nor handed to what opens files by itself (`replacing` and `local_copy` give such a file).

    Raises:
      ValueError: another kind of URL, no bucket in it, or the package is missing that reads it.
    """
    name = os.fspath(text)
    scheme, separator, rest = name.partition("://")
    if not separator:
        return _home_expanded(name)
    if scheme not in _BUCKETS or not rest.strip("/"):
        raise ValueError(f"{field} is {name!r}: expected a folder, gs://BUCKET/NAME or s3://BUCKET/NAME")
    package, extra = _BUCKETS[scheme]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{field} is {name!r}, for which {package} is not installed: pip install -e '.[{extra}]'")
    return _bucket_path(name)


def _bucket_path(url: str) -> pathlib.Path:
    from etils import epath

    _keep_no_listings()
    return cast(pathlib.Path, epath.Path(url.rstrip("/")))  # declared otherwise, with the same methods


@functools.cache
def _keep_no_listings() -> None:
    """Makes fsspec ask the bucket each time: what another host has written meanwhile has to be seen."""
    import fsspec

    settings: dict[str, dict[str, Any]] = cast(Any, fsspec).config.conf
    for scheme in _BUCKETS:
        settings.setdefault(scheme, {}).setdefault("use_listings_cache", False)


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a bucket's URL."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Generator[pathlib.Path]:
    """Yields a temporary file's name on this machine; what was written there becomes `path` if the block ends well.

    On a disk it lies beside `path` and is renamed; in a bucket, where an object appears as a whole, it is copied.
    """
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder) / path.name
            yield temporary
            path.write_bytes(temporary.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def local_copy(path: pathlib.Path) -> Generator[pathlib.Path]:
    """Yields a file with the content of `path` on this machine: `path` itself, or a copy of what is in a bucket."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def is_not_writable(error: OSError) -> bool:
    """Whether an error says that a place is not to be written to, by permissions or as mounted (read-only)."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def rename_folder(folder: pathlib.Path, name: str) -> None:
    """Gives a folder another name; in a bucket, which has no folders, each of its objects is copied and deleted."""
    target = folder.with_name(name)
    if not in_bucket(folder):
        folder.rename(target)
        return
    _copy_objects(folder, target)
    cast(Any, folder).rmtree()


def _copy_objects(folder: pathlib.Path, target: pathlib.Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _copy_objects(path, target / path.name)
        else:
            (target / path.name).write_bytes(path.read_bytes())


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON, as a whole; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
