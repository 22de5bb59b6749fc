"""Local copies, in the cache (`files.cache_directory`), of datasets in buckets.

Every start syncs by size: missing or changed files are fetched, files deleted in the bucket are deleted.
"""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any, cast

from absl import logging

from mpafer_jax.data.records import PREPARED_FOLDER
from mpafer_jax.runtime import files, locks, progress
from mpafer_jax.runtime.errors import DataError

_AT_ONCE = 256  # files of one request to fsspec, which fetches them in parallel


def copy_of(url: str) -> pathlib.Path:
    """The local copy's folder; for a dataset of the Hub, the folder of its preparations."""
    url = url.rstrip("/")
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return files.cache_directory() / "datasets" / f"{url.rpartition('/')[2]}-{digest}"


def fetch(url: str) -> pathlib.Path:
    """Syncs the local copy of gs://BUCKET/NAME or s3://BUCKET/NAME, one process at a time; DataError if that fails."""
    copy = copy_of(url)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(copy.with_name(f"{copy.name}.lock"), copy, wait=True):
        try:
            _update(url, copy)
        except DataError:
            raise
        except Exception as error:  # exceptions of fsspec's backends have no common base
            raise DataError(
                f"config.data.dir is {url!r}, which cannot be fetched into {copy} ({type(error).__name__}: {error}); "
                "see that the name is right, the credentials give access, and the disk has room"
            ) from error
    return copy


def _update(url: str, copy: pathlib.Path) -> None:
    import fsspec

    opened = cast(Any, fsspec).core.url_to_fs(str(files.any_path(url, "config.data.dir")))
    system, root = opened[0], str(opened[1])
    remote: dict[str, int] = {
        name.removeprefix(f"{root}/"): int(info["size"])
        for name, info in system.find(root, detail=True).items()
        if not name.endswith("/") and not name.startswith(f"{root}/{PREPARED_FOLDER}/")
    }
    if not remote:
        raise DataError(f"config.data.dir is {url!r}: nothing is stored under that name")
    local = {
        path.relative_to(copy).as_posix(): path.stat().st_size
        for path in copy.rglob("*")
        if path.is_file() and not path.is_relative_to(copy / PREPARED_FOLDER)
    }
    for gone in local.keys() - remote.keys():
        (copy / gone).unlink()
    new = sorted(name for name, size in remote.items() if local.get(name) != size)
    if not new:
        return
    logging.info("%s: %d of %d files are fetched into %s", url, len(new), len(remote), copy)
    with progress.task(f"fetching {url}", len(new), "files") as work:
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            system.get([f"{root}/{name}" for name in part], [str(copy / name) for name in part])
            work.advance(len(part))
