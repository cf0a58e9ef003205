"""The file that a medium is measured with: without a name, and past the page cache if possible.

Having no name, it is gone with the process, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Final

BLOCK_BYTES: Final = 4096
"""Small reads and writes; what O_DIRECT wants sizes and offsets to be multiples of, at most."""

# What says that a file cannot be made without a name, or not be opened past the page cache.
_NOT_SUPPORTED: Final = frozenset({errno.EINVAL, errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP})


def aligned_buffer(size_bytes: int) -> mmap.mmap:
    """Return memory that starts at a page, as O_DIRECT wants it."""
    return mmap.mmap(-1, size_bytes)


class ScratchFile:
    """A file in a directory, as a context manager.

    Attributes:
        is_direct: Whether it is read and written past the page cache.
    """

    def __init__(self, directory: Path, *, direct: bool = True) -> None:
        """Make the file; with `direct`, past the page cache where that is supported.

        Raises:
            OSError: it cannot be made.
        """
        self._fd = _open_nameless(directory)
        self.is_direct = False
        try:
            self.is_direct = direct and self._bypass_cache()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> ScratchFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def write_at(self, offset: int, buffer: memoryview) -> None:
        """Write all of `buffer`.

        Raises:
            OSError: the disk is full, or something else is wrong with it.
        """
        while buffer:
            count = os.pwrite(self._fd, buffer, offset)
            offset, buffer = offset + count, buffer[count:]

    def read_at(self, offset: int, buffer: memoryview) -> int:
        """Read into `buffer`, as much as is there; how much that was."""
        return os.preadv(self._fd, [buffer], offset)

    def sync(self) -> None:
        """Wait until the medium has all that was written."""
        os.fsync(self._fd)

    def forget_cached(self) -> None:
        """Have what was written read from the medium, as far as the kernel does one the favour."""
        if not self.is_direct:
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def expect_random_reads(self) -> None:
        """Have the kernel read nothing ahead."""
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def _bypass_cache(self) -> bool:
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT)
            # Some file systems take the flag and then refuse what is done with it.
            with memoryview(aligned_buffer(BLOCK_BYTES)) as block:
                self.write_at(0, block)
                self.read_at(0, block)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags)
            return False
        return True


def _open_nameless(directory: Path) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED or not directory.is_dir():
            raise
    path = directory / f".pocketkv-calibrate-{secrets.token_hex(8)}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    path.unlink()
    return fd
