"""Takes room for a part of a file ahead of writing, or gives it back; the file's size stays."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2

# The C library's own: Python offers only posix_fallocate, which makes no holes, writes zeros where
# the file system cannot reserve, and makes the file longer.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Free what a range of a file takes; it reads as zeros from then on.

    Raises:
        OSError: The file system cannot do it, or the descriptor is none of a file.
    """
    _call(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size)


def reserve(fd: int, offset: int, size: int) -> None:
    """Have room for a range of a file.

    Raises:
        OSError: ENOSPC if there is none, or what else the system says.
    """
    _call(fd, _KEEP_SIZE, offset, size)


def _call(fd: int, mode: int, offset: int, size: int) -> None:
    if _fallocate(fd, mode, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
