"""Holds writers to the pace of the device.

What is written goes to the page cache at the speed of memory, until the system finds that too much
waits for the device and stops whoever writes next: the serving thread, with everybody behind it.
So what waits is counted here, its way to the device begins early and in a worker, and who receives
values can look whether the device is behind before it takes more.

What was removed before its turn never goes to the device on our account.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Final
from weakref import ref

from pocketkv import limits
from pocketkv.tiers.volume.page_cache import PAGE_BYTES

if TYPE_CHECKING:
    from pocketkv.tiers.volume.data_file import DataFile
    from pocketkv.tiers.volume.large_region import Region

# SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER: all of a range is on the device afterwards,
# though it may still be in the device's own cache.
_WRITE_AND_WAIT: Final = 1 | 2 | 4
_WRITE: Final = 2
# File systems that have no such call.
_UNKNOWN: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ESPIPE, errno.EINVAL})

_sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_sync_file_range.restype = ctypes.c_int


class _Part:
    """A range of a file that was written; without its region it need not be."""

    __slots__ = ("offset", "region", "size")

    def __init__(self, region: Region, offset: int, size: int) -> None:
        self.region = ref(region)
        self.offset = offset
        self.size = size


class Pacer:
    """Counts what was written to files and is not on the device yet.

    Args:
        start_bytes: From so much on, writing it to the device should begin.
        behind_bytes: From so much on, writers should be held back.
        window_bytes: What the device is given at a time.

    Attributes:
        outstanding_bytes: What is not known to be on the device.
        drained_bytes: What was brought to the device so far.
        refuses: Whether it is behind for so long that nothing more should be taken in.
    """

    def __init__(
        self,
        *,
        start_bytes: int = 16 * limits.MIB,
        behind_bytes: int = 128 * limits.MIB,
        window_bytes: int = 8 * limits.MIB,
    ) -> None:
        self._start_bytes = start_bytes
        self._behind_bytes = behind_bytes
        self._window_bytes = window_bytes
        self._parts: deque[_Part] = deque()
        self._lock = threading.Lock()
        self.outstanding_bytes = 0
        self.drained_bytes = 0
        self.refuses = False

    @property
    def is_due(self) -> bool:
        """Whether a worker should call `drain` now."""
        return self.outstanding_bytes >= self._start_bytes

    @property
    def is_behind(self) -> bool:
        """Whether writers should wait until the device has caught up."""
        return self.outstanding_bytes >= self._behind_bytes

    def wrote(self, region: Region, offset: int, size: int) -> None:
        """A part of a region was written; it is told by its offset in the file."""
        with self._lock:
            self.outstanding_bytes += size
            last = self._parts[-1] if self._parts else None
            if (
                last is not None
                and last.region() is region
                and last.offset + last.size == offset
                and last.size < self._window_bytes
            ):
                last.size += size
            else:
                self._parts.append(_Part(region, offset, size))

    def drain(self, left_bytes: int = 0) -> None:
        """Bring what was written to the device until at most so much is left; for a worker.

        Raises:
            OSError: The device failed. What it concerned is not tried again here, since the system
                has forgotten it: it is `LargeFile.lost`.
        """
        while self.outstanding_bytes > left_bytes:
            window = self._next_window()
            if not window:
                return
            try:
                self._write_window(window)
            finally:
                done = sum(part.size for part in window)
                with self._lock:
                    self.outstanding_bytes -= done
                    self.drained_bytes += done

    def _next_window(self) -> list[_Part]:
        window: list[_Part] = []
        room = self._window_bytes
        with self._lock:
            while self._parts and room > 0:
                part = self._parts.popleft()
                room -= part.size
                window.append(part)
        return window

    def _write_window(self, window: list[_Part]) -> None:
        """Have all of it begun before the first is waited for, so that the device has a choice."""
        ranges = _joined(window)
        for flags in (_WRITE, _WRITE_AND_WAIT):
            for file, start, stop in ranges:
                try:
                    fd = file.pin()
                except FileNotFoundError:
                    # Its job has ended.
                    continue
                try:
                    _write_back(fd, start, stop - start, flags)
                except OSError:
                    file.failed()
                    raise
                finally:
                    file.unpin()


def _joined(window: list[_Part]) -> list[tuple[DataFile, int, int]]:
    """Where the parts are whose regions are still there; neighbours are one range.

    Values that are received side by side are written in turns, so few parts follow each other.
    """
    by_file: dict[DataFile, list[tuple[int, int]]] = {}
    for part in window:
        region = part.region()
        if region is not None:
            spans = by_file.setdefault(region.file, [])
            spans.append((part.offset, part.offset + part.size))
    joined: list[tuple[DataFile, int, int]] = []
    for file, spans in by_file.items():
        spans.sort()
        begin, end = spans[0]
        for start, stop in spans[1:]:
            # Regions begin with a page.
            if start > -(-end // PAGE_BYTES) * PAGE_BYTES:
                joined.append((file, begin, end))
                begin = start
            end = max(end, stop)
        joined.append((file, begin, end))
    return joined


def _write_back(fd: int, offset: int, size: int, flags: int) -> None:
    while _sync_file_range(fd, offset, size, flags) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number not in _UNKNOWN:
            raise OSError(number, os.strerror(number))
        if flags != _WRITE:
            os.fdatasync(fd)
        return
