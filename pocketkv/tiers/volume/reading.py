"""Reading without waiting; `reading.pyx` is the same without objects for what goes in."""

from __future__ import annotations

import os


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
