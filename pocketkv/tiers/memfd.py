"""The medium of the dram tier: an anonymous file in memory, all of it mapped.

The file is far larger than what may be stored in it, and a hole at first: what is neither backed
nor written takes no memory, so there is always a range in one piece.

A range is backed before it is written. The system makes the pages of a hole one by one as they are
first touched, with an interrupt for each, and a process that touches one for which there is no
memory is killed. To ask for many at once costs less, and a refusal is an error like any other.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Final

from pocketkv import limits
from pocketkv.tiers.holes import punch_hole

# Addresses per byte that may be stored, so that values of all sizes find room in one piece.
_ADDRESSES_PER_BYTE: Final = 16
_ADDRESSES_MIN: Final = 64 * limits.GIB
# What a worker asks for at a time, since the file is locked meanwhile.
_FILL_BYTES: Final = limits.MIB
# MADV_POPULATE_WRITE, since Linux 5.14; Python has no name for it.
_POPULATE_WRITE: Final = 23
# MFD_NOEXEC_SEAL, since Linux 6.3: a system may demand that such files hold no programs.
_NO_EXECUTION: Final = 8
# There is no memory, or not for us.
_NO_ROOM: Final = frozenset({errno.ENOMEM, errno.ENOSPC, errno.EFAULT, errno.EDQUOT})


class Memfd:
    """An anonymous file in memory.

    Args:
        memory_bytes: What it may be asked to hold at least.

    Attributes:
        fd, page_bytes, capacity_bytes: As `pocketkv.engine.extents.Medium` says.

    Raises:
        OSError: The system makes no such file, or has not so many addresses.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.page_bytes = mmap.PAGESIZE
        self.fd = _anonymous_file()
        try:
            self._map = _map(self.fd, memory_bytes)
        except OSError:
            os.close(self.fd)
            raise
        # Not for core dumps: it is large, and clients' own.
        self._map.madvise(mmap.MADV_DONTDUMP)
        self.capacity_bytes = len(self._map)
        self._view = memoryview(self._map)
        self._populates = True

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes of a range, to be read, and written where it is backed."""
        return self._view[offset : offset + size]

    def back(self, offset: int, size: int) -> bool:
        """Give a range memory; false, and no change, if there is none."""
        try:
            if self._populates:
                self._map.madvise(_POPULATE_WRITE, offset, size)
            else:
                os.posix_fallocate(self.fd, offset, size)
        except OSError as error:
            if error.errno == errno.EINVAL and self._populates:
                # An older system: it makes the pages, and the first write to each maps it.
                self._populates = False
                return self.back(offset, size)
            if error.errno not in _NO_ROOM:
                raise
            # Some of it may have been backed.
            self.punch(offset, size)
            return False
        return True

    def fill(self, offset: int, size: int) -> bool:
        """`back` for a worker: in steps, and without the interpreter's lock.

        The pages are made, and mapped as they are written.
        """
        end = offset + size
        for start in range(offset, end, _FILL_BYTES):
            try:
                os.posix_fallocate(self.fd, start, min(_FILL_BYTES, end - start))
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self.punch(offset, size)
                return False
        return True

    def punch(self, offset: int, size: int) -> None:
        """Give the memory of a range back to the system.

        Raises:
            OSError: The system cannot; this is not to be expected.
        """
        punch_hole(self.fd, offset, size)

    def resident_bytes(self) -> int:
        """The memory that the file takes now."""
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        """Give everything back. No view may be in use any more.

        Raises:
            BufferError: One is.
        """
        self._view.release()
        self._map.close()
        os.close(self.fd)


def _anonymous_file() -> int:
    try:
        return os.memfd_create("pocketkv", os.MFD_CLOEXEC | _NO_EXECUTION)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("pocketkv", os.MFD_CLOEXEC)


def _map(fd: int, memory_bytes: int) -> mmap.mmap:
    """Make the file as large as the system has addresses for, and map it."""
    pages = -(-memory_bytes // mmap.PAGESIZE)
    least = 2 * pages * mmap.PAGESIZE
    size = max(_ADDRESSES_MIN, _ADDRESSES_PER_BYTE * pages * mmap.PAGESIZE)
    while True:
        try:
            os.ftruncate(fd, size)
            return mmap.mmap(fd, size)
        except (OSError, OverflowError):
            if size == least:
                raise
            size = max(least, size // 2 // mmap.PAGESIZE * mmap.PAGESIZE)
