"""Who may write into a folder: of processes of this machine, of another host, and in order after a kill."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

from mpafer_jax.runtime import locks
from mpafer_jax.runtime.errors import LockedError

pytestmark = pytest.mark.processes


def hold_and_wait(path, pipe):
    with locks.hold(path, path.parent):
        pipe.send("held")
        pipe.recv()


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold_and_wait, args=(tmp_path / locks.RUN, there))
    process.start()
    assert here.recv() == "held"
    yield process, here
    process.kill()
    process.join()


def test_the_second_is_told_who_holds_it_and_a_killed_process_holds_nothing(tmp_path, other):
    process, _ = other
    path = tmp_path / locks.RUN
    for refused in (lambda: locks.hold(path, tmp_path).__enter__(), lambda: locks.refuse_if_held(path, tmp_path)):
        with pytest.raises(LockedError) as raised:
            refused()
        said = str(raised.value)
        assert said.startswith(f"{tmp_path} is in use by process {process.pid} on ")
        assert "multiprocessing" in said  # its command
        assert "UTC; wait until that ends, or stop it, or name another place" in said
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / ".lock.owner").is_file()  # what it left says nothing any more
    locks.refuse_if_held(path, tmp_path)
    with locks.hold(path, tmp_path):
        assert json.loads((tmp_path / ".lock.owner").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_one_that_waits_comes_in_when_the_other_has_ended(tmp_path, other):
    _, pipe = other
    threading.Timer(0.3, pipe.send, ["end"]).start()
    with locks.hold(tmp_path / locks.RUN, tmp_path, wait=True):
        pass


@pytest.mark.parametrize("alive", [True, False])
def test_what_another_host_holds_is_free_once_it_is_silent(tmp_path, monkeypatch, alive):
    monkeypatch.setattr(locks, "_SILENT_SECONDS", 0.5)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.05)
    owner = tmp_path / ".lock.owner"
    record = {"host": "elsewhere", "pid": 7, "command": "python -m x", "since": "1999", "token": "t"}
    owner.write_text(json.dumps(record))
    ended = threading.Event()

    def beat():
        while alive and not ended.wait(0.02):
            os.utime(owner, ns=(0, time.monotonic_ns()))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        if alive:
            with pytest.raises(LockedError, match=r"by process 7 on elsewhere \(python -m x\), since 1999"):
                locks.hold(tmp_path / locks.RUN, tmp_path).__enter__()
            assert json.loads(owner.read_text()) == record
        else:
            with locks.hold(tmp_path / locks.RUN, tmp_path):
                assert json.loads(owner.read_text())["pid"] == os.getpid()
    finally:
        ended.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_the_systems_locks_a_killed_process_holds_nothing_for_long(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.05)
    record = {"host": "elsewhere", "pid": 7, "command": "python -m x", "since": "1999", "token": "t"}
    for host in ("elsewhere", socket.gethostname()):
        (tmp_path / ".lock.owner").write_text(json.dumps({**record, "host": host}))
        if host == "elsewhere":
            (tmp_path / ".lock").touch()
        for _ in range(2):
            with locks.hold(tmp_path / locks.RUN, tmp_path):
                pass
    assert not list(tmp_path.iterdir())


def test_a_pod_that_was_made_anew_is_another_machine(tmp_path, monkeypatch, other, caplog):
    """Its name and process ids are those of the lost one, whose lock the disk's server still keeps."""
    process, _ = other
    owner = tmp_path / ".lock.owner"
    held = json.loads(owner.read_text())
    with pytest.raises(LockedError, match=f"process {process.pid} on {socket.gethostname()}"):
        locks.hold(tmp_path / locks.RUN, tmp_path).__enter__()
    monkeypatch.setattr(locks, "_SILENT_SECONDS", 0.5)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.05)
    owner.write_text(json.dumps({**held, "boot": "another"}))
    with locks.hold(tmp_path / locks.RUN, tmp_path):
        assert json.loads(owner.read_text())["boot"] == held["boot"]
    assert "has shown no sign of life" in caplog.text


def test_it_shows_that_it_is_alive_and_leaves_what_was_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_BEAT_SECONDS", 0.01)
    owner = tmp_path / ".lock.owner"
    with locks.hold(tmp_path / locks.RUN, tmp_path):
        os.utime(owner, ns=(0, 0))
        deadline = time.monotonic() + 30
        while not owner.stat().st_mtime_ns:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner.write_text(json.dumps({**json.loads(owner.read_text()), "token": "another's"}))
    assert owner.is_file()
