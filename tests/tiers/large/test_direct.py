"""Large values that are read past the page cache: what is, what is sent, and what goes wrong."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.engine.cold import PendingRead
from pocketkv.tiers.volume.direct import (
    BUFFER_BYTES,
    Buffers,
    DirectPart,
    DirectReads,
    buffers_for,
)
from pocketkv.tiers.volume.eras import Eras
from pocketkv.tiers.volume.file_pieces import PendingPart
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.large_file import LargeFile
from tests.tiers.large.support import (
    BLOCK,
    MIB,
    drop_cache,
    open_file,
    restarted,
    sent,
    some_bytes,
    string_of,
)


class Ground:
    """A job's files, and who reads past the page cache."""

    def __init__(self, directory: Path, buffers: int = 4) -> None:
        self.file = open_file(directory)
        self.file.descriptors.reads_directly = True
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            self.reads = DirectReads(buffers, Eras(), self.wake_fd)
        except OSError as error:
            pytest.skip(f"this system has no such reads: {error}")

    def cold(self, data: bytes) -> FileString:
        """A string that is on the device and nowhere else."""
        string = string_of(self.file, data)
        self.forget(self.file)
        if string.is_ready(0, 1):
            pytest.skip("this file system keeps its files in memory")
        (region, *_), *_ = string.parts()
        if region.file.direct_fd() < 0:
            pytest.skip("this file system has no reads past the page cache")
        return string

    @staticmethod
    def forget(file: LargeFile) -> None:
        file.sync()
        drop_cache(file)

    def fetch(self, missing: list[PendingRead]) -> list[bool]:
        """Read parts past the page cache; which were good. All of them must be taken."""
        assert all(isinstance(part, DirectPart) for part in missing)
        for index, part in enumerate(missing):
            assert isinstance(part, DirectPart)
            assert self.reads.begin(part, index)
        self.reads.submit()
        found: dict[int, bool] = {}
        while len(found) < len(missing):
            ready, _, _ = select.select([self.wake_fd], [], [], 20)
            assert ready
            os.eventfd_read(self.wake_fd)
            while (taken := self.reads.take()) is not None:
                found[taken[0]] = taken[1]
        return [found[index] for index in range(len(missing))]

    def close(self) -> None:
        self.reads.close()
        os.close(self.wake_fd)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path / "job")
    yield made
    made.close()


def test_a_value_is_sent_from_the_buffers_it_was_read_to(ground: Ground) -> None:
    data = some_bytes(2 * MIB + 100_000)
    string = ground.cold(data)
    missing = string.missing(0, len(data))
    assert len(missing) == 3
    assert ground.fetch(missing) == [True] * 3
    assert not string.is_ready(0, len(data))
    assert all(part.keep(b"") for part in missing)
    assert string.is_ready(0, len(data))
    assert string.read(5, 2 * MIB + 5) == data[5 : 2 * MIB + 5]
    bulk, part = string.bulk(), string.part_bulk(MIB - 7, MIB + 9)
    for pending in missing:
        pending.forget()
        pending.forget()
    missing.clear()
    # It was not brought into the page cache; but a reply keeps what it refers to.
    assert not string.is_ready(0, 1)
    assert len(ground.reads.buffers.free) == 1
    assert [one.fd for one in bulk.ranges] == [-1] * 3
    assert sent(bulk) == data
    assert sent(part) == data[MIB - 7 : MIB + 9]
    del bulk, part
    assert len(ground.reads.buffers.free) == 4


def test_what_is_in_the_page_cache_is_sent_from_there(ground: Ground) -> None:
    data = some_bytes(3 * MIB)
    string = ground.cold(data)
    string.read(MIB, 2 * MIB)
    missing = string.missing(100, len(data))
    # The first part of it is not whole blocks, so that others may want the rest of them.
    assert [type(part) for part in missing] == [PendingPart, DirectPart]
    missing[0].keep(missing[0].read())
    assert ground.fetch(missing[1:]) == [True]
    missing[1].keep(b"")
    bulk = string.part_bulk(100, len(data))
    assert [one.fd >= 0 for one in bulk.ranges] == [True, False]
    assert sent(bulk) == data[100:]


def test_what_is_wanted_again_is_brought_into_the_page_cache(ground: Ground) -> None:
    string = ground.cold(some_bytes(MIB))
    (part,) = string.missing(0, MIB)
    assert ground.fetch([part]) == [True]
    (again,) = string.missing(0, MIB)
    assert isinstance(again, DirectPart)
    assert not ground.reads.begin(again, 0)
    again.read()
    assert string.missing(0, MIB) == []
    # Later it is as before.
    ground.forget(ground.file)
    assert ground.fetch(string.missing(0, MIB)) == [True]


def test_what_was_read_long_ago_is_not_wanted_again(ground: Ground) -> None:
    (region, *_), *_ = ground.cold(some_bytes(MIB)).parts()
    assert region.passes_cache(0, BLOCK, 5)
    assert region.passes_cache(BLOCK, 2 * BLOCK, 6)
    assert not region.passes_cache(0, BLOCK, 6)
    assert region.passes_cache(0, MIB, 8)


def test_what_the_device_has_not_yet_is_read_by_a_worker(ground: Ground) -> None:
    string = ground.cold(some_bytes(MIB))
    string.write(MIB, some_bytes(MIB, 1))
    drop_cache(ground.file)
    first, second = string.missing(0, 2 * MIB)
    assert isinstance(second, DirectPart)
    assert not ground.reads.begin(second, 0)
    assert ground.fetch([first]) == [True]


def test_without_a_buffer_it_is_read_by_a_worker(ground: Ground) -> None:
    string = ground.cold(some_bytes(6 * MIB))
    missing = string.missing(0, 6 * MIB)
    assert ground.fetch(missing[:4]) == [True] * 4
    last = missing[4]
    assert isinstance(last, DirectPart)
    assert not ground.reads.begin(last, 0)
    del missing[0]
    # The memory of the one that is not needed any more.
    other = missing[-1]
    assert ground.fetch([other]) == [True]


def test_damage_is_found(ground: Ground) -> None:
    string = ground.cold(some_bytes(MIB))
    (path,) = ground.file.directory.iterdir()
    with path.open("r+b") as file:
        file.seek(BLOCK + 5)
        byte = file.read(1)
        file.seek(BLOCK + 5)
        file.write(bytes([byte[0] ^ 1]))
    drop_cache(ground.file)
    (part,) = string.missing(0, MIB)
    assert ground.fetch([part]) == [False]
    assert part.keep(b"")
    part.forget()
    # It is not served.
    assert not string.is_ready(0, MIB)


def test_a_file_that_is_too_short_is_found(ground: Ground) -> None:
    string = ground.cold(some_bytes(MIB))
    (path,) = ground.file.directory.iterdir()
    os.truncate(path, MIB // 2)
    (part,) = string.missing(0, MIB)
    assert ground.fetch([part]) == [False]


def test_a_file_system_that_refuses_is_not_asked_again(ground: Ground) -> None:
    string = ground.cold(some_bytes(MIB))
    missing = string.missing(0, MIB)
    (part,) = missing
    assert isinstance(part, DirectPart)
    assert ground.reads.begin(part, 0)
    ground.reads.submit()
    select.select([ground.wake_fd], [], [], 20)
    # The kernel says this of devices whose blocks are larger than a page, of which there is none.
    assert not part.finish(-errno.EINVAL)
    (region, *_), *_ = string.parts()
    assert region.file.direct_fd() == -1


def test_after_a_restart_values_are_compared_as_well(ground: Ground) -> None:
    data = some_bytes(2 * MIB)
    file, (again,) = restarted(ground.file, ground.cold(data))
    file.descriptors.reads_directly = True
    missing = again.missing(0, 2 * MIB)
    assert ground.fetch(missing) == [True, True]
    for part in missing:
        part.keep(b"")
    assert sent(again.bulk()) == data


def test_what_is_in_the_page_cache_unverified_is_read_from_there(ground: Ground) -> None:
    file, (again,) = restarted(ground.file, ground.cold(some_bytes(MIB)))
    file.descriptors.reads_directly = True
    (region, *_), *_ = again.parts()
    fd = region.file.pin()
    os.pread(fd, MIB, region.offset)
    region.file.unpin()
    (part,) = again.missing(0, MIB)
    assert isinstance(part, DirectPart)
    assert not ground.reads.begin(part, 0)


def test_a_value_that_goes_while_it_is_read(ground: Ground) -> None:
    """Its place is given back only when nobody reads there any more."""
    string = ground.cold(some_bytes(MIB))
    missing = string.missing(0, MIB)
    (part,) = missing
    assert isinstance(part, DirectPart)
    assert ground.reads.begin(part, 0)
    ground.reads.submit()
    del string
    assert not ground.file.has_released
    assert ground.fetch([]) == []
    select.select([ground.wake_fd], [], [], 20)
    assert ground.reads.take() == (0, True)
    del part
    missing.clear()
    assert ground.file.has_released


def test_without_anybody_who_does_nothing_is_read_directly(tmp_path: Path) -> None:
    file = open_file(tmp_path / "job")
    string = string_of(file, some_bytes(2 * MIB))
    Ground.forget(file)
    assert [type(part) for part in string.missing(0, 2 * MIB)] in ([PendingPart], [])


def test_memory_of_buffers_goes_back_when_they_are_not_used() -> None:
    buffers = Buffers(2)
    first = buffers.take()
    assert first is not None
    first.memory[:4] = b"here"
    buffers.trim()
    buffers.trim()
    assert bytes(first.memory[:4]) == b"here"
    index = first.address
    del first
    buffers.trim()
    buffers.trim()
    again = buffers.take()
    assert again is not None
    assert (again.address, bytes(again.memory[:4])) == (index, bytes(4))


def test_buffers_take_a_small_part_of_the_memory() -> None:
    assert [buffers_for(size * BUFFER_BYTES) for size in (0, 128, 512, 10_000)] == [4, 4, 16, 32]
