"""Reading without waiting: what there is, and no more; errors of the system as they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.tiers.volume.page_cache import PAGE_BYTES, counts_pages, resident_bytes
from pocketkv.tiers.volume.reading import cached_pages, read_at_once

CONTENTS = os.urandom(200_000)
# cachestat(2), and a call that no system has.
CACHESTAT, NO_SUCH_CALL = 451, 100_000


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


# The second is longer than the compiled one's buffer.
@pytest.mark.parametrize("size", [1, 4096, 150_000])
@pytest.mark.parametrize("flags", [0, os.RWF_NOWAIT])
def test_what_is_in_memory_is_read(fd: int, size: int, flags: int) -> None:
    assert read_at_once(fd, size, 1234, flags) == CONTENTS[1234 : 1234 + size]


@pytest.mark.parametrize("wanted", [100, 100_000])
def test_a_file_that_ends_gives_less(fd: int, wanted: int) -> None:
    assert read_at_once(fd, wanted, len(CONTENTS) - 7, 0) == CONTENTS[-7:]
    assert read_at_once(fd, wanted, len(CONTENTS), 0) == b""


@pytest.mark.parametrize("size", [4096, 150_000])
def test_what_is_on_the_device_is_not_waited_for(fd: int, size: int) -> None:
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    if resident_bytes(fd, 0, size) == size:
        pytest.skip("the file system is in memory")
    found = read_at_once(fd, size, 0, os.RWF_NOWAIT)
    # A device may be as quick as that.
    assert found is None or CONTENTS.startswith(found)
    assert read_at_once(fd, size, 0, 0) == CONTENTS[:size]


@pytest.mark.parametrize("size", [4096, 150_000])
def test_errors_are_the_systems(tmp_path: Path, size: int) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):
            read_at_once(folder, size, 0, 0)
    finally:
        os.close(folder)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        read_at_once(folder, size, 0, 0)


def test_pages_in_memory_are_counted(fd: int) -> None:
    if not counts_pages():
        pytest.skip("this system has no cachestat")
    os.pread(fd, len(CONTENTS), 0)
    assert cached_pages(CACHESTAT, fd, 0, 3 * PAGE_BYTES) == 3
    assert cached_pages(CACHESTAT, fd, 100 * 1000 * PAGE_BYTES, PAGE_BYTES) == 0


def test_a_call_that_is_not_there(fd: int) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        cached_pages(NO_SUCH_CALL, fd, 0, PAGE_BYTES)
