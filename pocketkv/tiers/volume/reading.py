"""Reading without waiting; `reading.pyx` is the same without objects for what goes in."""

from __future__ import annotations

import ctypes
import os

# The interpreter's lock is kept: it only looks at memory, and takes a few microseconds.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_Range = ctypes.c_uint64 * 2
_Counts = ctypes.c_uint64 * 5


def read_at_once(fd: int, size: int, offset: int, flags: int) -> bytes | None:
    """Read a part of a file, if that can be had without waiting.

    Args:
        fd: The file's descriptor.
        size: How many bytes are wanted.
        offset: Where they begin.
        flags: Of `preadv`: `os.RWF_NOWAIT`, or 0 where reading never waits.

    Returns:
        What was read, which is less if that is all that there is now; ``None``: nothing is, and
        the system has begun to read it.

    Raises:
        OSError: As `os.preadv`.
    """
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, (buffer,), offset, flags)
    except BlockingIOError:
        return None
    return bytes(memoryview(buffer)[:count])


def cached_pages(call: int, fd: int, offset: int, size: int) -> int:
    """How many pages of a range of a file are in the page cache, changed ones included.

    Args:
        call: The number of the system call, cachestat(2).
        fd: The file's descriptor.
        offset: Where the range begins.
        size: How long it is.

    Raises:
        OSError: The system has no such call, or refuses it.
    """
    counts = _Counts()
    part = _Range(offset, size)
    if _libc.syscall(call, fd, ctypes.byref(part), ctypes.byref(counts), 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(counts[0])
