"""Gives a part of a file back to the system, so that it becomes a hole; its size stays."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2

# The C library's own, since Python offers only posix_fallocate, which makes no holes.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Free what a range of a file takes; it reads as zeros from then on.

    Raises:
        OSError: The file system cannot do it, or the descriptor is none of a file.
    """
    if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
