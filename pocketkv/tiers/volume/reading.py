"""Reading without waiting; `reading.pyx` is the same without objects for what goes in."""

from __future__ import annotations

import ctypes
import os

from pocketkv.tiers.volume.records import payload_of

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


def read_record(
    fd: int, size: int, offset: int, flags: int, seed: int, length: int
) -> bytes | None:
    """The payload of a record, if all of it can be had without waiting.

    Args:
        fd: The file's descriptor.
        size: Of the record, with its padding.
        offset: Where it begins.
        flags: As `read_at_once`.
        seed: The segment's, with the record's offset added.
        length: Of the payload.

    Returns:
        The payload; ``None``: not all of the record is there, now or ever.

    Raises:
        OSError: As `os.preadv`.
        ValueError: It is not what was written.
    """
    record = read_at_once(fd, size, offset, flags)
    if record is None or len(record) < size:
        return None
    return _required(payload_of(record, seed, length))


def record_at(address: int, size: int, seed: int, length: int) -> bytes:
    """The payload of a record that stands in memory.

    Args:
        address: Where it begins.
        size: Of the record, with its padding.
        seed: As `read_record`.
        length: As `read_record`.

    Raises:
        ValueError: It is not what was written.
    """
    return _required(payload_of(ctypes.string_at(address, size), seed, length))


def _required(payload: bytes | None) -> bytes:
    if payload is None:
        raise ValueError
    return payload


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
