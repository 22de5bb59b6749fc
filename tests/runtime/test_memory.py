"""A command starts again with a malloc that keeps freed memory, in the same process and with the same words."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from mpafer_jax.runtime import memory

pytestmark = pytest.mark.skipif(not memory._has_glibc(), reason="glibc's malloc has these settings")

_PROGRAM = """
import ctypes, json, os, resource, sys
from mpafer_jax.runtime import memory

memory.keep_freed()

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size, faults = 100 << 20, []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps({
    "faults": faults, "process": os.getpid(), "words": sys.argv[1:], "optimize": sys.flags.optimize,
    "tunables": os.environ.get("GLIBC_TUNABLES"),
}))
"""

_SAY = "import os; print('before', flush=True); memory.keep_freed(); print(os.environ.get('GLIBC_TUNABLES'))"


def _environment(**variables: str) -> dict[str, str]:
    unset = ("GLIBC_TUNABLES", "JAX_PLATFORMS")
    kept = {name: x for name, x in os.environ.items() if name not in unset and not name.startswith("MALLOC_")}
    return {**kept, **variables}


def _run(folder: pathlib.Path, **variables: str) -> dict[str, object]:
    """What the program found, started with `-O` and three words, and its process's number as its parent knows it."""
    (folder / "program.py").write_text(_PROGRAM)
    words = [sys.executable, "-O", str(folder / "program.py"), "--a=b c", "", "ä"]
    with subprocess.Popen(words, env=_environment(**variables), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        return {**json.loads(process.stdout.read()), "parent says": process.pid}


def test_memory_that_was_freed_is_there_for_the_next_allocation(tmp_path):
    found = _run(tmp_path, JAX_PLATFORMS="cpu")
    assert found["faults"][1:] == [0, 0]
    assert found["process"] == found["parent says"]
    assert (found["words"], found["optimize"]) == (["--a=b c", "", "ä"], 1)


@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""},
        {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"},
        {"JAX_PLATFORMS": "cuda"},
    ],
)
def test_where_the_user_has_set_malloc_or_wants_an_accelerator_nothing_changes(tmp_path, variables):
    found = _run(tmp_path, **variables)
    assert found["tunables"] == variables.get("GLIBC_TUNABLES")
    assert min(found["faults"]) > 1000


def test_a_program_that_runs_a_command_is_not_started_again(tmp_path):
    program = f"import sys; sys.argv = ['x', '--config=y']; from mpafer_jax.runtime import memory; {_SAY}"
    words, environment = [sys.executable, "-c", program, "--other"], _environment(JAX_PLATFORMS="cpu")
    shown = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert shown.stdout == "before\nNone\n"


@pytest.mark.parametrize(
    ("file", "platforms", "on_cpu"),
    [("null", "", True), ("nvidiactl", "", False), ("nvidiactl", "cpu", True), ("accel0", "", False)],
)
def test_device_files_tell_of_accelerators(tmp_path, file, platforms, on_cpu):
    (tmp_path / file).touch()
    assert memory._computes_on_cpu({"JAX_PLATFORMS": platforms}, tmp_path) is on_cpu
