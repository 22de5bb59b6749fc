"""What this process does with memory that it has freed: settings of glibc's malloc."""

# Imported first, before a command listens to signals: only fast imports here.

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
_KEPT = 1 << 32  # bytes
_TUNABLES = f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={_KEPT}:glibc.malloc.trim_threshold={_KEPT}"
# Device files of accelerators: NVIDIA's, AMD's, Google's.
_ACCELERATORS = ("nvidiactl", "kfd", "accel[0-9]*", "vfio/[0-9]*")


def keep_freed() -> None:
    """Starts this process's program again with a malloc that keeps freed memory, up to 4 GiB, and asks for large pages.

    A step on a CPU frees and allocates the same hundreds of megabytes each time. By default glibc returns large blocks
    to the system, which then provides them page by page again, filled with zeros. glibc reads these settings only as a
    program starts ("Memory Allocation Tunables" in its manual). The process keeps its number; whatever it has done
    before, it does twice, so a command calls this first.

    Does nothing if the environment sets malloc already (`GLIBC_TUNABLES`, also an empty one, or `MALLOC_...`), without
    glibc, where JAX will compute on an accelerator, or in another program that runs the command: that one would start
    again.
    """
    if _is_program() and _has_glibc() and not _is_set(os.environ) and _computes_on_cpu(os.environ):
        with contextlib.suppress(OSError):  # then it goes on as it is
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _VARIABLE: _TUNABLES})


def _is_program() -> bool:
    """Whether the interpreter was started with the command's words."""
    words = sys.argv[1:]
    return bool(sys.executable and words) and sys.orig_argv[-len(words) :] == words


def _has_glibc() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ())


def _is_set(environment: Mapping[str, str]) -> bool:
    return any(name == _VARIABLE or name.startswith("MALLOC_") for name in environment)


def _computes_on_cpu(environment: Mapping[str, str], devices: pathlib.Path = pathlib.Path("/dev")) -> bool:
    platforms = environment.get("JAX_PLATFORMS", "")
    return platforms == "cpu" or not (platforms or any(any(devices.glob(name)) for name in _ACCELERATORS))
