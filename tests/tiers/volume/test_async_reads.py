"""Reads that go on by themselves, on a real file: what comes where, and how one hears of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.tiers.volume.async_reads import AsyncReads

PAGE = 4096
CONTENTS = b"".join([bytes([number]) * PAGE for number in range(16)])


class Ground:
    """A file that is read past the page cache, memory, and who is told."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(CONTENTS)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            pytest.skip("this file system has no reads past the page cache")
        with contextlib.suppress(OSError):
            os.fsync(self.fd)
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.memory = mmap.mmap(-1, len(CONTENTS))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        try:
            self.reads = AsyncReads(4, self.wake_fd)
        except OSError as error:
            pytest.skip(f"this system has no such reads: {error}")

    def begin(self, page: int, token: int, pages: int = 1) -> bool:
        place = self.address + token * PAGE
        return self.reads.begin(self.fd, page * PAGE, place, pages * PAGE, token)

    def wait(self, count: int) -> dict[int, int]:
        """What is done, when so many are."""
        self.reads.submit()
        found: dict[int, int] = {}
        while len(found) < count:
            ready, _, _ = select.select([self.wake_fd], [], [], 20)
            assert ready
            os.eventfd_read(self.wake_fd)
            found |= dict(self.reads.take(count))
        return found

    def close(self) -> None:
        self.reads.close()
        os.close(self.fd)
        os.close(self.wake_fd)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path / "file")
    yield made
    made.close()


def test_reads_come_where_they_belong(ground: Ground) -> None:
    assert ground.reads.take(4) == []
    assert all(ground.begin(page, token) for token, page in enumerate((3, 7, 1, 15)))
    assert ground.reads.under_way == 4
    assert ground.wait(4) == {0: PAGE, 1: PAGE, 2: PAGE, 3: PAGE}
    for token, page in enumerate((3, 7, 1, 15)):
        assert ground.memory[token * PAGE : (token + 1) * PAGE] == bytes([page]) * PAGE
    assert (ground.reads.under_way, ground.reads.take(4)) == (0, [])


def test_no_more_than_there_is_room_for(ground: Ground) -> None:
    assert [ground.begin(0, token) for token in range(5)] == [True, True, True, True, False]
    assert sorted(ground.wait(4)) == [0, 1, 2, 3]
    assert ground.begin(2, 9)
    assert ground.wait(1) == {9: PAGE}


def test_a_file_that_ends_gives_less(ground: Ground) -> None:
    assert ground.begin(14, 0, pages=4)
    assert ground.wait(1) == {0: 2 * PAGE}
    assert ground.begin(40, 0)
    assert ground.wait(1) == {0: 0}


def test_what_the_file_system_refuses_is_told_as_well(ground: Ground) -> None:
    assert ground.reads.begin(ground.fd, 1, ground.address + 1, 7, 0)
    ground.reads.submit()
    # Some systems refuse it at once, and tell nobody.
    found = dict(ground.reads.take(1)) or ground.wait(1)
    assert found == {0: -errno.EINVAL}
    assert ground.reads.under_way == 0


def test_what_is_refused_does_not_hold_up_the_others(ground: Ground) -> None:
    assert ground.begin(3, 0)
    assert ground.reads.begin(-1, 0, ground.address, PAGE, 1)
    assert ground.begin(7, 2)
    ground.reads.submit()
    assert ground.reads.under_way == 3
    found: dict[int, int] = dict(ground.reads.take(1))
    assert found == {1: -errno.EBADF}
    assert ground.wait(2) == {0: PAGE, 2: PAGE}
    assert ground.memory[2 * PAGE : 3 * PAGE] == bytes([7]) * PAGE


def test_what_was_begun_waits_until_it_is_submitted(ground: Ground) -> None:
    assert ground.begin(3, 0)
    assert ground.begin(5, 1)
    assert select.select([ground.wake_fd], [], [], 0.05)[0] == []
    assert (ground.reads.under_way, ground.reads.take(4)) == (2, [])
    assert ground.wait(2) == {0: PAGE, 1: PAGE}


def test_it_can_be_closed_with_reads_under_way(ground: Ground) -> None:
    assert ground.begin(5, 2)
    ground.reads.submit()
    ground.reads.close()
    assert ground.memory[2 * PAGE : 3 * PAGE] == bytes([5]) * PAGE
    ground.reads.close()
    assert not ground.begin(5, 2)
