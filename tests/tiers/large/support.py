"""What the tests of large values in files share."""

from __future__ import annotations

import os
import random
from pathlib import Path

from pocketkv.resp.replies import FileBulk
from pocketkv.tiers.volume.data_file import Descriptors
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.large_file import FILE_BYTES, LargeFile
from pocketkv.tiers.volume.pacing import Pacer

KIB = 1024
MIB = 1024 * KIB
BLOCK = 256 * KIB


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def open_file(
    directory: Path, pacer: Pacer | None = None, *, file_bytes: int = FILE_BYTES
) -> LargeFile:
    return LargeFile(directory, Descriptors(4), pacer=pacer, file_bytes=file_bytes)


def string_of(file: LargeFile, data: bytes) -> FileString:
    string = FileString(file)
    string.write(0, data)
    string.validate()
    return string


def sent(bulk: FileBulk) -> bytes:
    """What a connection would send: what is not ready is fetched first."""
    assert bulk.size == sum(part.size for part in bulk.ranges)
    return b"".join(part.read() for part in bulk.ranges)


def used_bytes(directory: Path) -> int:
    """What the files take on the device."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def restarted(file: LargeFile, *strings: FileString) -> tuple[LargeFile, list[FileString]]:
    """What another process finds: the same directory, and the strings' records."""
    found = open_file(file.directory)
    again = [FileString.from_payload(found, string.payload()) for string in strings]
    found.finish_recovery()
    return found, again


def drop_cache(file: LargeFile) -> None:
    """Have a job's pages leave the page cache, as they do when memory is short."""
    for path in file.directory.iterdir():
        fd = os.open(path, os.O_RDWR)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
