"""The system's page cache, as far as another process has a say in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_DROP: Final = Path("/proc/sys/vm/drop_caches")
# Pages of files; not the names of files, which only make everything else slower.
_PAGES: Final = "1\n"


def write_back(folder: Path) -> None:
    """Have all that was written to a folder's files on the device."""
    for fd in _open_files(folder):
        os.fdatasync(fd)


def forget(folder: Path) -> None:
    """Have what a folder's files hold read from the device when it is wanted next.

    The system is asked to forget these files, and as root, to forget everything that it can.
    Whoever measures looks by himself whether it did.
    """
    for fd in _open_files(folder):
        # Only clean pages can be forgotten.
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with contextlib.suppress(OSError):
        _DROP.write_text(_PAGES, encoding="ascii")


def _open_files(folder: Path) -> Iterator[int]:
    """Each of the files, open for reading until the next one is asked for."""
    for path in sorted(folder.rglob("*")):
        # The server may have removed it since.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                try:
                    yield fd
                finally:
                    os.close(fd)
