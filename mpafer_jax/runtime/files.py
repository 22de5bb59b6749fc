"""Files on this machine or in a bucket, written atomically."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import glob
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import re
import secrets
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Generator
from importlib.resources.abc import Traversable
from typing import Any, TextIO, cast

from absl import logging

from mpafer_jax.runtime import signals
from mpafer_jax.runtime.errors import ConfigError, DataError, UserError

# What NumPy raises for damaged .npz files, with the archive's and the decompression's own.
DAMAGED_NPZ = (ValueError, EOFError, NotImplementedError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
# URL scheme -> package that fsspec needs, and our extra that installs it.
_BUCKETS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_HALF_A_URL = re.compile(rf"({'|'.join(_BUCKETS)}):(?!//)")


# Longer marks first: UTF-32's begins with UTF-16's.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SAVE_AS_UTF8 = "save it as UTF-8 (an editor's 'Save as', a spreadsheet's 'CSV UTF-8')"


def cache_directory() -> pathlib.Path:
    """Folder of caches: `mpafer_jax` in $XDG_CACHE_HOME, else (also if that is relative) in ~/.cache."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else pathlib.Path.home() / ".cache") / "mpafer_jax"


def local_path(text: str, field: str) -> pathlib.Path:
    """A local path; `~` is expanded, since the shell does not in `--flag=~`. `field` is named in errors.

    Raises:
      ConfigError: it is empty or a URL.
    """
    _refuse_slips(text, field)
    if "://" in text:
        raise ConfigError(
            f"{field} is {text!r}: expected a file or folder of this machine, where a bucket can be mounted"
        )
    return home_expanded(text)


def home_expanded(name: str | os.PathLike[str]) -> pathlib.Path:
    """A path with a leading `~` expanded."""
    # Not Path.expanduser, which raises for a name such as "~old" that belongs to no user.
    return pathlib.Path(os.path.expanduser(name))  # noqa: PTH111


def any_path(text: str | os.PathLike[str], field: str) -> pathlib.Path:
    """A local path, `~` expanded, or a bucket's, gs://BUCKET/NAME or s3://BUCKET/NAME. `field` is named in errors.

    Returns:
      For a bucket an `etils.epath.Path`, which reads and writes like `pathlib.Path`, but cannot be appended to or
      opened by native code (use `replacing` and `local_copy` for that).

    Raises:
      ConfigError: it is empty, another kind of URL, one without a bucket, or the package for its scheme is missing.
    """
    name = os.fspath(text)
    _refuse_slips(name, field)
    scheme, separator, rest = name.partition("://")
    if not separator:
        return home_expanded(name)
    if scheme not in _BUCKETS or not rest.strip("/"):
        raise ConfigError(f"{field} is {name!r}: expected a folder, gs://BUCKET/NAME or s3://BUCKET/NAME")
    package, extra = _BUCKETS[scheme]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{field} is {name!r}, for which {package} is not installed: pip install -e '.[{extra}]'")
    return _bucket_path(name)


def _refuse_slips(name: str, field: str) -> None:
    """Refuses names that would be taken for folders of this machine: the current one, and one named `gs:`."""
    if not name:
        raise ConfigError(f"{field} is empty: expected a path; the current folder is '.'")
    if (slip := _HALF_A_URL.match(name)) is not None:
        scheme = slip[1]
        raise ConfigError(
            f"{field} is {name!r}: a bucket is {scheme}://BUCKET/NAME with two slashes, and a folder of this machine "
            f"whose name begins so is ./{scheme}:"
        )


def is_pattern(path: pathlib.Path) -> bool:
    """Whether a path has glob characters (`*`, `?`, `[...]`) and does not exist itself."""
    return glob.has_magic(str(path)) and not path.exists()


def matching(path: pathlib.Path) -> list[pathlib.Path]:
    """Sorted files and folders that match a glob pattern; in a bucket only the last part may be one."""
    if in_bucket(path):
        return sorted(path.parent.glob(path.name))
    return [pathlib.Path(name) for name in sorted(glob.iglob(pattern(str(path)), recursive=True))]  # noqa: PTH207


def pattern(name: str) -> str:
    """A `glob` pattern in which existing folders are escaped."""
    folder, rest = pathlib.Path(name), list[str]()
    while not os.path.lexists(folder) and folder != folder.parent:
        rest.insert(0, folder.name)
        folder = folder.parent
    return os.path.join(glob.escape(str(folder)), *rest)  # noqa: PTH118


def _bucket_path(url: str) -> pathlib.Path:
    from etils import epath

    _keep_no_listings()
    return cast(pathlib.Path, epath.Path(url.rstrip("/")))  # declared otherwise, with the same methods


@functools.cache
def _keep_no_listings() -> None:
    """Turns off fsspec's cache of listings, to see files from other hosts."""
    import fsspec

    settings: dict[str, dict[str, Any]] = cast(Any, fsspec).config.conf
    for scheme in _BUCKETS:
        settings.setdefault(scheme, {}).setdefault("use_listings_cache", False)


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a bucket's URL."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def reaching(path: str | os.PathLike[str], field: str) -> Generator[None]:
    """Turns a failed access to a bucket into a ConfigError that names `field`; on a disk errors stay as they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # exceptions of fsspec's backends have no common base
        if not in_bucket(path):
            raise
        raise ConfigError(
            f"{field} is {os.fspath(path)!r}, which cannot be reached ({type(error).__name__}: {error}); see that the "
            "name is right, the network reaches the bucket, and the credentials give access"
        ) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, make_folder: bool = True) -> Generator[pathlib.Path]:
    """Yields a temporary local path, which becomes `path` if the block succeeds.

    On a disk it is renamed; in a bucket, where objects are atomic, it is copied.

    Args:
      make_folder: whether to make its folder on a disk if missing.
    """
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder) / path.name
            yield temporary
            path.write_bytes(temporary.read_bytes())
        return
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Random: in containers of several hosts process ids are the same.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with signals.orderly():
        try:
            with naming(path):
                yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Generator[None]:
    """Adds the path to an OSError without one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def local_copy(path: pathlib.Path) -> Generator[pathlib.Path]:
    """Yields a local file with the content of `path`: `path` itself, or a copy from the bucket."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


_FULL = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)}


def full_disk(error: BaseException, path: pathlib.Path) -> OSError | None:
    """An OSError if a library's error comes from a full disk, else None."""
    number = next((number for number, words in _FULL.items() if words in str(error)), None)
    return None if number is None else OSError(number, _FULL[number], str(path))


def is_full_disk(error: OSError) -> bool:
    """Whether a disk or a quota is full."""
    return error.errno in _FULL


def is_not_writable(error: OSError) -> bool:
    """Whether a folder is not writable: permissions, or mounted read-only."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def rename_folder(folder: pathlib.Path, name: str) -> None:
    """Renames a folder; in a bucket, which has no folders, by copying and deleting each object."""
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


@contextlib.contextmanager
def open_text(path: pathlib.Path | Traversable, newline: str | None = None) -> Generator[TextIO]:
    """Opens a text file for reading: UTF-8, with or without byte order mark; `newline` as of `open`.

    Raises:
      DataError: on opening or on reading: it is not UTF-8.
      OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        start = mark_length(stream.read(64), path)
        stream.seek(start)
        with io.TextIOWrapper(cast(Any, stream), encoding="utf-8", newline=newline) as text:
            try:
                yield text
            except UnicodeDecodeError as error:
                around = error.object[max(0, error.start - 20) : error.end + 20]
                raise DataError(f"{path} is not UTF-8: it holds {around!r}; {_SAVE_AS_UTF8}") from error


def mark_length(head: bytes, path: pathlib.Path | Traversable) -> int:
    """Length of UTF-8's byte order mark in a file's first bytes: 3 or 0. `path` is for the message.

    Raises:
      DataError: the file has another encoding.
    """
    for mark, encoding in _OTHER_MARKS.items():
        if head.startswith(mark):
            raise DataError(
                f"{path} is not UTF-8: its first bytes are {mark.hex(' ')}, the mark of {encoding}; {_SAVE_AS_UTF8}"
            )
    if b"\0" in head:
        raise DataError(
            f"{path} is not UTF-8: it begins with {head[:20]!r}, as UTF-16 without a mark or a file that is no text; "
            f"{_SAVE_AS_UTF8}"
        )
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def utf8_name(name: str) -> str:
    r"""A file's name for JSON and tables; bytes that are not UTF-8 are escaped, as in `caf\xe9.jpg`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    """Whether a file's name is UTF-8; Python keeps other bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: pathlib.Path | Traversable) -> str:
    """Content of a text file; errors as in `open_text`."""
    with open_text(path) as text:
        return text.read()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically; bytes of file names that are not UTF-8 become escapes (`\\udce9` for E9)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_cached(path: pathlib.Path) -> dict[str, Any] | None:
    """A result that can be made again, from its JSON file; None if there is none, or, with a warning, a damaged one."""
    if not path.is_file():
        return None
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return cast(dict[str, Any], value)
        problem = f"it holds a {type(value).__name__}"
    except (OSError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    logging.warning("%s is damaged (%s), and is made again", path, problem)
    return None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON atomically; refuses NaN."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal; the order of keys and a round trip through JSON make no difference."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
