"""One file of a job's large values, and who keeps few of all such files open."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.tiers.volume.page_cache import read_nothing_ahead
from pocketkv.tiers.volume.space import preallocate

if TYPE_CHECKING:
    from pocketkv.tiers.volume.large_file import LargeFile
    from pocketkv.tiers.volume.large_region import Region

# A file's length grows in steps, ahead of what is written to it.
_LENGTH_STEP_BYTES: Final = 64 * limits.MIB
_OPEN_FILES_MAX: Final = 256
_NOT_OPEN: Final = -2
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Descriptors:
    """Keeps few files of many open: those that are in use, and those that were used last.

    Args:
        open_max: How many at most, beside those in use.

    Attributes:
        lock: What all threads agree by. It may be taken again by who has it, since an object that
            is freed meanwhile may need it.
        reads_directly: Whether there is somebody who reads past the page cache.
    """

    def __init__(self, open_max: int = _OPEN_FILES_MAX) -> None:
        self._open_max = open_max
        self._open: OrderedDict[DataFile, None] = OrderedDict()
        self.lock = threading.RLock()
        self.reads_directly = False

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, file: DataFile) -> None:
        """A file was opened; others may have to be closed. The caller has the lock."""
        self._open[file] = None
        if len(self._open) > self._open_max:
            idle = [other for other in self._open if other.pins == 0]
            for other in idle[: len(self._open) - self._open_max]:
                other.close_now()

    def used(self, file: DataFile) -> None:
        """A file was used. The caller has the lock."""
        self._open.move_to_end(file)

    def closed(self, file: DataFile) -> None:
        """A file was closed. The caller has the lock."""
        self._open.pop(file, None)


class DataFile:
    """One file of a job.

    Attributes:
        number, path: Which one.
        fd: Its descriptor, or -1 while it is not open.
        pins: How many need the descriptor.
        end: From here on nothing was handed out.
        live_bytes: What is handed out.
        held_bytes: The same with what was given back and still takes room.
        is_closed: Whether its job has ended.
    """

    __slots__ = (
        "_direct_fd",
        "_length",
        "end",
        "fd",
        "held_bytes",
        "is_closed",
        "live_bytes",
        "lock",
        "number",
        "owner",
        "path",
        "pins",
    )

    def __init__(self, owner: LargeFile, number: int) -> None:
        self.owner = owner
        self.lock = owner.descriptors.lock
        self.number = number
        self.path = owner.directory / f"large-{number:06}.dat"
        self.fd = -1
        self._direct_fd = _NOT_OPEN
        self.pins = 0
        self.end = 0
        self._length = 0
        self.live_bytes = 0
        self.held_bytes = 0
        self.is_closed = False

    @property
    def is_recovering(self) -> bool:
        """Whether it is not known yet what is claimed."""
        return self.owner.is_recovering

    @property
    def reads_directly(self) -> bool:
        """Whether there is somebody who reads past the page cache."""
        return self.owner.descriptors.reads_directly

    def is_synced(self, region: Region) -> bool:
        """Whether the device has all that was written to a region."""
        return self.owner.is_synced(self, region)

    # --- its descriptor ------------------------------------------------------------------------

    def create(self) -> None:
        """Make the file.

        Raises:
            OSError: It cannot be made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with self.lock:
            self._open(flags)

    def _open(self, flags: int) -> None:
        fd = os.open(self.path, flags, 0o600)
        try:
            read_nothing_ahead(fd)
        except OSError:
            os.close(fd)
            raise
        self.fd = fd
        self.owner.descriptors.opened(self)

    def pin(self) -> int:
        """Its descriptor, which stays open until `unpin`.

        Raises:
            OSError: It cannot be opened.
        """
        with self.lock:
            if self.fd >= 0:
                self.owner.descriptors.used(self)
                self.pins += 1
                return self.fd
            if self.is_closed:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            # Opening another one must not close this one at once.
            self.pins += 1
            try:
                self._open(os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                self.pins -= 1
                raise
            return self.fd

    def direct_fd(self) -> int:
        """A descriptor to read past the page cache, good while it is pinned; -1: there is none."""
        with self.lock:
            if self._direct_fd == _NOT_OPEN:
                try:
                    self._direct_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
                except OSError:
                    # The file system has no such thing, or it is gone: who reads it will see.
                    self._direct_fd = -1
            return self._direct_fd

    def refuse_direct(self) -> None:
        """It cannot be read past the page cache."""
        with self.lock:
            if self._direct_fd >= 0:
                os.close(self._direct_fd)
            self._direct_fd = -1

    def unpin(self) -> None:
        """End one `pin`."""
        with self.lock:
            self.pins -= 1
            if self.is_closed and self.pins == 0:
                self.close_now()

    def close_now(self) -> None:
        """Close the descriptor. The caller has the lock, and nobody needs it."""
        fd, self.fd = self.fd, -1
        if self._direct_fd >= 0:
            os.close(self._direct_fd)
        self._direct_fd = _NOT_OPEN
        self.owner.descriptors.closed(self)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """The file is no more, but for who still needs its descriptor."""
        with self.lock:
            self.is_closed = True
            if self.pins == 0:
                self.close_now()

    # --- its bytes -----------------------------------------------------------------------------

    def back(self, offset: int, size: int) -> bool:
        """Have room for a range; false if there is none.

        Raises:
            OSError: The device failed.
        """
        may_use = self.owner.may_use
        if may_use is not None and not may_use(size):
            return False
        try:
            fd = self.pin()
            try:
                if offset + size > self._length:
                    # Holes can be made only within a file's length.
                    steps = -(-(offset + size) // _LENGTH_STEP_BYTES)
                    os.ftruncate(fd, steps * _LENGTH_STEP_BYTES)
                    self._length = steps * _LENGTH_STEP_BYTES
                preallocate(fd, offset, size)
            finally:
                self.unpin()
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise
        return True

    def write(self, offset: int, data: memoryview) -> None:
        """Write a range.

        Raises:
            OSError: The device failed, or has no room after all.
        """
        fd = self.pin()
        try:
            while data:
                count = os.pwrite(fd, data, offset)
                offset += count
                data = data[count:]
        finally:
            self.unpin()

    def wrote(self, region: Region, offset: int, size: int) -> None:
        """A part of a region was written."""
        self.owner.wrote(self, region, offset, size)

    def failed(self) -> None:
        """The device has failed to take something that was written."""
        self.owner.failed(self)

    def release(self, offset: int, size: int) -> None:
        """A region, or the end of one, is not needed any more."""
        if not self.is_closed:
            self.owner.release(self, offset, size)

    def release_part(self, offset: int, size: int) -> None:
        """A part within a region is not needed any more; the region itself goes back later."""
        if not self.is_closed:
            self.owner.release_part(self, offset, size)
