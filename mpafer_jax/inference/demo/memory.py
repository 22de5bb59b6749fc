"""Memory of freed images, given back to the system."""

from __future__ import annotations

import ctypes
import platform

# Parameters of malloc.h, and what they are set to.
_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 20  # bytes from which on a block is the system's own
_M_ARENA_MAX, _HEAPS = -8, 2


def return_large_blocks() -> None:
    """Has the C library give a large block back to the system as soon as it is freed.

    glibc does so at first, but once a block of up to 32 MB was freed it keeps blocks of that size, in as many heaps as
    threads have asked for some: with photos of a dozen megapixels, decoded by one thread or another, the process grows
    to gigabytes of which nothing is in use. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_ARENA_MAX, _HEAPS)
