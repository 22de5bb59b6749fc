"""Locks: one process at a time writes into a folder; others are told which one.

    <path>.lock         locked by the operating system, which frees it when the process ends
    <path>.lock.owner   the holder, and since when; touched every 10 s

Both are deleted on release. The first decides on one machine, and between machines on file systems with locks (mostly
NFS); buckets and some file systems have none. Another machine's lock, and any where there are none, counts as free once
its owner file was not touched for 30 s: so long waits a job that was requeued after its machine was lost. A machine is
known by its name and the id of its start: a pod that Kubernetes makes anew has its name and process ids from before.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Generator
from typing import Any, cast

import filelock
from absl import logging

from mpafer_jax.runtime import distributed, files, signals
from mpafer_jax.runtime.errors import LockedError

RUN = ".lock"  # in the folder of a run
_BEAT_SECONDS = 10.0
_SILENT_SECONDS = 30.0
_POLL_SECONDS = 1.0
_LONGEST_COMMAND = 300
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without locks
_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")  # Linux only


@contextlib.contextmanager
def hold_for_run(path: pathlib.Path, place: pathlib.Path) -> Generator[None]:
    """`hold` by process 0 for all processes of a run; all must call it.

    Raises:
      LockedError: on every process.
    """
    failed: LockedError | None = None
    with contextlib.ExitStack() as stack:
        if distributed.is_first():
            try:
                stack.enter_context(hold(path, place))
            except LockedError as error:
                failed = error
        agreed = failed is None
        if distributed.is_one_of_many():
            agreed = distributed.all_agree(agreed)
        if not agreed:
            raise failed or LockedError(f"another run is at work in {place}, as process 0 says")
        yield


@contextlib.contextmanager
def hold(path: pathlib.Path, place: pathlib.Path, *, wait: bool = False) -> Generator[None]:
    """Holds a lock inside the block.

    Args:
      path: of the lock, on a disk or in a bucket; its folder is created if missing.
      place: the locked folder or file, for messages.
      wait: whether to wait for another holder.

    Raises:
      LockedError: another process holds it, and `wait` is False.
      OSError: the folder is not writable.
    """
    owner = path.with_name(f"{path.name}.owner")
    bucket = files.in_bucket(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        told = False
        while holder := _holder(path, owner, stack, bucket=bucket):
            if not wait:
                raise _refusal(place, holder)
            if not told:
                logging.info("waiting for %s, which works on %s", _described(holder), place)
                told = True
            signals.check_alone()
            time.sleep(_POLL_SECONDS)
        mine = {
            **_machine(),
            "pid": os.getpid(),
            "command": shlex.join(sys.orig_argv)[:_LONGEST_COMMAND],
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "token": secrets.token_hex(8),
        }
        _write(owner, mine)
        stack.callback(_release, owner, mine)
        stack.enter_context(signals.tidying(lambda: _tidy(path, owner, mine)))
        ended = threading.Event()
        stack.callback(ended.set)
        threading.Thread(target=_beat, args=(owner, mine, ended, place), name="lock", daemon=True).start()
        yield


def refuse_if_held(path: pathlib.Path, place: pathlib.Path) -> None:
    """Raises LockedError if another process of this machine holds the lock; to be called before any work."""
    owner = path.with_name(f"{path.name}.owner")
    if files.in_bucket(path) or not path.is_file() or not distributed.is_first():
        return
    if _locked_here(path) and (holder := _read(owner)):
        raise _refusal(place, holder)


def _refusal(place: pathlib.Path, holder: dict[str, Any]) -> LockedError:
    return LockedError(
        f"{place} is in use by {_described(holder)}; wait until that ends, or stop it, or name another place"
    )


def _locked_here(path: pathlib.Path) -> bool:
    try:
        with filelock.FileLock(path).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except (NotImplementedError, OSError):
        return False


def _holder(
    path: pathlib.Path, owner: pathlib.Path, stack: contextlib.ExitStack, *, bucket: bool
) -> dict[str, Any] | None:
    """The process that holds the lock; None if it is free: then the stack holds the system's lock, if one exists."""
    locked, lockless = True, bucket
    if not bucket:
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
            stack.callback(lock.release)
            stack.callback(path.unlink, missing_ok=True)  # before the release: the next process makes a new file
            locked = False
        except filelock.Timeout:
            pass
        except NotImplementedError:
            lockless = True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            lockless = True
            path.unlink(missing_ok=True)  # nobody would
    holder = _read(owner)
    if holder is None:
        # The holder may have just taken it, or wrote no owner file.
        return {"unknown": True} if locked and not lockless and _locked_here(path) else None
    mine = _machine()
    elsewhere = lockless or any(holder.get(name, value) != value for name, value in mine.items())
    if (locked and not elsewhere) or (elsewhere and not _is_silent(owner, holder)):
        if not locked:
            stack.pop_all().close()
        return holder
    if locked and not bucket:
        path.unlink(missing_ok=True)  # where the system has no locks, it is one by being there, and would stay
    return None


def _machine() -> dict[str, str]:
    boot = {"boot": _BOOT.read_text().strip()} if _BOOT.is_file() else {}
    return {"host": socket.gethostname(), **boot}


def _is_silent(owner: pathlib.Path, holder: dict[str, Any]) -> bool:
    """Whether another process's owner file stays untouched while it is watched; its clock may differ."""
    first, begun, told = _sign(owner), time.monotonic(), False
    while time.monotonic() - begun < _SILENT_SECONDS:
        if not told:
            logging.info("looking for up to %.0f s whether %s is alive", _SILENT_SECONDS, _described(holder))
            told = True
        time.sleep(_POLL_SECONDS)
        now = _sign(owner)
        if now is None:
            return True
        if now != first:
            return False
    logging.warning("%s has shown no sign of life for %.0f s and counts as ended", _described(holder), _SILENT_SECONDS)
    return True


def _sign(owner: pathlib.Path) -> Any:
    try:
        return owner.read_bytes() if files.in_bucket(owner) else (owner.read_bytes(), owner.stat().st_mtime_ns)
    except OSError:
        return None


def _beat(owner: pathlib.Path, mine: dict[str, Any], ended: threading.Event, place: pathlib.Path) -> None:
    beats = 0
    while not ended.wait(_BEAT_SECONDS):
        beats += 1
        with contextlib.suppress(Exception):  # a disk or network that fails for a while
            holder = _read(owner)
            if holder is not None and holder["token"] != mine["token"]:
                logging.error("%s was taken over by %s; this process ends", place, _described(holder))
                signals.end_at_once()
            if files.in_bucket(owner):
                _write(owner, {**mine, "beats": beats})
            else:
                os.utime(owner)


def _release(owner: pathlib.Path, mine: dict[str, Any]) -> None:
    holder = _read(owner)
    if holder is not None and holder["token"] == mine["token"]:
        with contextlib.suppress(OSError):
            owner.unlink()


def _tidy(path: pathlib.Path, owner: pathlib.Path, mine: dict[str, Any]) -> None:
    _release(owner, mine)
    if not files.in_bucket(path):
        path.unlink(missing_ok=True)


def _write(owner: pathlib.Path, content: dict[str, Any]) -> None:
    files.write_text(owner, json.dumps(content))


def _read(owner: pathlib.Path) -> dict[str, Any] | None:
    try:
        return cast(dict[str, Any], json.loads(owner.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _described(holder: dict[str, Any]) -> str:
    if "host" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']} ({holder['command']}), since {holder['since']}"
