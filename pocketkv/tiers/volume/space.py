"""Room on a file system: reserved ahead of writing, and a little of it kept for emergencies."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from pocketkv.tiers.holes import reserve

# No more than this part of a small file system is kept as ballast.
_BALLAST_SHARE: Final = 16
_GROWN_BALLAST_SHARE: Final = 3


def preallocate(fd: int, offset: int, size: int) -> None:
    """Make sure that writing a range of a file will find room; the file's size stays.

    Raises:
        OSError: ENOSPC if there is no room, or what else the system says.
    """
    while True:
        try:
            reserve(fd, offset, size)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            # The file system cannot promise it. What it says to have is the next best.
            if free_bytes(fd) < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        return


def free_bytes(where: int | Path) -> int:
    """What a process without privileges can still write to a file system."""
    status = os.statvfs(where)
    return status.f_bavail * status.f_frsize


def is_memory(folder: Path) -> bool:
    """Whether a folder's file system keeps its files in memory, so that reading never waits."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in mounts.splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == wanted:
            return kind.split()[0] in {"tmpfs", "ramfs"}
    return False


class Ballast:
    """A file that takes room for nothing, and is thrown off when what must be written finds none.

    Args:
        path: Of the file.
        size: What it should take.

    Attributes:
        size, taken: What it should take, and does.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        status = os.statvfs(path.parent)
        total = status.f_blocks * status.f_frsize
        self.size = min(size, total // _BALLAST_SHARE)
        self._size_min = self.size
        self._size_max = total // _GROWN_BALLAST_SHARE
        self.taken = 0

    def resize(self, size: int) -> None:
        """It should take so much, within limits; `take` sees to it."""
        self.size = max(self._size_min, min(size, self._size_max))

    def take(self) -> None:
        """Take the room (again), if there is much more."""
        if self.taken > 2 * self.size:
            self.throw_off()
        missing = self.size - self.taken
        if missing <= 0:
            return
        with contextlib.suppress(OSError):
            if free_bytes(self._path.parent) < missing + self.size:
                return
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                preallocate(fd, self.taken, missing)
            finally:
                os.close(fd)
            self.taken += missing

    def throw_off(self) -> bool:
        """Give the room back; False if there was none to give."""
        if self.taken == 0:
            return False
        self.taken = 0
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)
            return True
        return False
