"""Gives freed memory back to the system.

CPython and the C library keep what is freed for their own later use. A job that ends must free
its memory to the *system*, so large blocks are mapped one by one (and unmapped when freed), and
the C library is asked to trim the rest.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# Setting it fixes it: left alone, glibc raises the threshold to 32 MiB as blocks are freed, and
# values of that size then fragment the heap.
_MAPPED_FROM_BYTES: Final = 128 * 1024


def configure_allocator() -> bool:
    """Have large blocks mapped one by one; false where the C library cannot (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in (
            (_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES),
            (_M_TRIM_THRESHOLD, 4 * _MAPPED_FROM_BYTES),
            # One heap: worker threads must not keep free memory of their own.
            (_M_ARENA_MAX, 1),
        )
    )


def release_free_memory() -> bool:
    """Return unused memory to the system; false where the C library cannot.

    It takes the longer the more there is to return, up to some 100 ms for a gigabyte.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
