"""The system's page cache, as far as another process has a say in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pocketkv.tiers.volume import page_cache

# A page that somebody is just looking at stays.
_ATTEMPTS: Final = 5


def write_back(folder: Path) -> None:
    """Have all that was written to a folder's files on the device."""
    for fd in _open_files(folder):
        os.fdatasync(fd)


def forget(folder: Path) -> None:
    """Have what a folder's files hold read from the device when it is wanted next.

    Only these files are forgotten: others on the machine may need what theirs hold, above all
    where a disk has failed. Whoever measures looks by himself whether the system did it.
    """
    for fd in _open_files(folder):
        size = os.fstat(fd).st_size
        for _ in range(_ATTEMPTS):
            # Only clean pages can be forgotten.
            os.fdatasync(fd)
            page_cache.forget(fd, 0, 0)
            if not page_cache.resident_bytes(fd, 0, size):
                break


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
