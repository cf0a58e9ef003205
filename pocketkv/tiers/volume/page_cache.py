"""What the system's page cache holds of a file, asked without reading and without waiting.

A page counts as there from the moment that it is being read. Whoever reads in another thread must
therefore say so itself (`large_region` does).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Final

from pocketkv import limits
from pocketkv.tiers.volume.reading import cached_pages

PAGE_BYTES: Final = 4096
# cachestat(2), since Linux 6.5; it has the same number on every architecture but alpha.
CACHESTAT: Final = 451
# This system has no such call, or does not let us use it for this file.
_UNKNOWN: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})
# What is looked at at most, where pages cannot be counted.
_MAPPED_BYTES_MAX: Final = limits.MIB
_PROT_NONE: Final = 0
_FAILED: Final = ctypes.c_void_p(-1).value

# The interpreter's lock is kept: the calls only look at memory, and take a few microseconds.
_libc = ctypes.PyDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64)
_mmap.restype = ctypes.c_void_p
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mincore = _libc.mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


class _Probe:
    """How residency is found out on this system.

    Attributes:
        counts: Whether the system counts the pages of a range (`cachestat`).
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = True

    def resident(self, fd: int, offset: int, size: int) -> int:
        """How many bytes from `offset` on, of `size`, are there."""
        if self.counts:
            try:
                return _by_counting(fd, offset, size)
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise
                self.counts = False
        return _by_mapping(fd, offset, min(size, _MAPPED_BYTES_MAX))


def _by_counting(fd: int, offset: int, size: int) -> int:
    first = offset // PAGE_BYTES
    pages = -(-(offset + size) // PAGE_BYTES) - first
    cached = _cached_pages(fd, first, pages)
    if cached == pages:
        return size
    # The longest run of pages from the first on that are all there: fewer than `beyond`.
    run, beyond = 0, min(cached + 1, pages)
    while beyond - run > 1:
        middle = (run + beyond) // 2
        if _cached_pages(fd, first, middle) == middle:
            run = middle
        else:
            beyond = middle
    return max(0, (first + run) * PAGE_BYTES - offset)


def _cached_pages(fd: int, first: int, pages: int) -> int:
    """How many of these pages are in the page cache, changed ones included."""
    return cached_pages(CACHESTAT, fd, first * PAGE_BYTES, pages * PAGE_BYTES)


def _by_mapping(fd: int, offset: int, size: int) -> int:
    """The same with a map that nobody looks into.

    Reading without waiting (RWF_NOWAIT) would not do: it has the system begin to read what is
    missing, and what then comes into the cache has not been verified.
    """
    first = offset // PAGE_BYTES * PAGE_BYTES
    pages = -(-(offset + size - first) // PAGE_BYTES)
    length = pages * PAGE_BYTES
    address = _mmap(None, length, _PROT_NONE, mmap.MAP_SHARED, fd, first)
    if address == _FAILED:
        raise _error()
    try:
        there = ctypes.create_string_buffer(pages)
        if _mincore(address, length, there) != 0:
            raise _error()
    finally:
        _munmap(address, length)
    # Only the lowest bit has a meaning.
    states = there.raw
    run = 0
    while run < pages and states[run] & 1:
        run += 1
    return min(size, max(0, first + run * PAGE_BYTES - offset))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


_probe: Final = _Probe()


def resident_bytes(fd: int, offset: int, size: int) -> int:
    """How many bytes of a file from `offset` on, at most `size`, can be had without waiting.

    Where the system cannot count pages, at most 1 MiB is looked at. Pages may leave the cache at
    any time, so this is good for the moment.

    Raises:
        OSError: It is no descriptor of a file.
    """
    return _probe.resident(fd, offset, size) if size > 0 else 0


def counts_pages() -> bool:
    """Whether the system counts the pages of a range, so that asking takes no copying."""
    return _probe.counts


def read_nothing_ahead(fd: int) -> None:
    """Have nothing brought into the cache but what is read.

    Raises:
        OSError: It is no descriptor of a file.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)


def forget(fd: int, offset: int, size: int) -> None:
    """Have clean pages leave the cache, so that they are read anew; a wish, and no promise.

    Raises:
        OSError: It is no descriptor of a file.
    """
    os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)
