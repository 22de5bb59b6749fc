"""Compiled functions in the user's cache folder: kept between processes, bounded, and never in the way."""

import os
import subprocess
import sys

import jax
import pytest

from mpafer_jax.runtime import compilation_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)
COMPUTES = """
import jax, jax.numpy as jnp
from mpafer_jax.runtime import compilation_cache
compilation_cache.enable()
print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(3.0))))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder, in a process that has set nothing of JAX's."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "mpafer_jax" / "jax"
    for name, value in before.items():
        jax.config.update(name, value)


def settings():
    return [getattr(jax.config, name) for name in SETTINGS]


def test_it_is_private_and_bounded(cache):
    compilation_cache.enable()
    assert settings() == [str(cache), 2**28, 0]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_what_the_user_has_set_stays(cache, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3)
    compilation_cache.enable()
    assert settings() == [str(cache), -1, 3]
    before = settings()
    for folder in ("elsewhere", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "another"))
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        compilation_cache.enable()
    assert settings() == before


@pytest.mark.parametrize("place", ["a file", "a file in the way of the lock", "a folder in which others may write"])
def test_a_folder_that_cannot_be_used_is_left_alone(place, cache):
    before = settings()
    cache.parent.mkdir()
    if place == "a file":
        cache.write_text("")
    elif place == "a file in the way of the lock":
        (cache / ".lockfile").mkdir(parents=True)
    else:
        cache.mkdir()
        cache.chmod(0o777)
    compilation_cache.enable()
    assert settings() == before


def test_entries_that_were_not_written_to_their_end_are_removed(cache):
    cache.mkdir(mode=0o700, parents=True)
    whole = {"whole-cache", "whole-atime"}
    for name in (*whole, "half-cache"):
        (cache / name).write_bytes(b"12345678")
    for name, content in (("empty", b""), ("zeros", bytes(8))):
        (cache / f"{name}-cache").write_bytes(content)
        (cache / f"{name}-atime").write_bytes(b"12345678")
    compilation_cache.enable()
    assert {path.name for path in cache.iterdir()} - {".lockfile", "empty-atime", "zeros-atime"} == whole


@pytest.mark.processes
def test_processes_share_it_and_compile_what_they_cannot_read(cache):
    def start():
        return subprocess.Popen(
            [sys.executable, "-c", COMPUTES], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )

    both = [process.communicate(timeout=300) for process in [start(), start()]]
    assert both[0] == both[1]
    value, said = both[0]
    assert said == ""
    entries = {path: path.read_bytes() for path in cache.glob("*-cache")}
    assert entries
    assert start().communicate(timeout=300) == (value, "")
    assert {path: path.read_bytes() for path in cache.glob("*-cache")} == entries
    for path in entries:
        path.write_bytes(b"not what JAX has written")
    again, said = start().communicate(timeout=300)
    assert again == value
    assert "Error reading persistent compilation cache entry" in said
