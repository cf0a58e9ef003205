"""Records that are read past the page cache: which are, and what goes wrong meanwhile."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pocketkv.engine.cold import STRING, Cold
from pocketkv.limits import MIB
from pocketkv.tiers.volume import record_reads as module
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.eras import Eras
from pocketkv.tiers.volume.journal import JobJournal
from pocketkv.tiers.volume.page_cache import PAGE_BYTES, counts_pages, resident_bytes
from pocketkv.tiers.volume.record_reads import DEPTH, RecordReads
from pocketkv.tiers.volume.segment import NOT_OPEN, Segment
from tests.core import plain_only
from tests.tiers.volume.table import SMALL, Table

MEMORY_BYTES = 64 * MIB


class Ground:
    """A journal on a real file system, and who reads it past the page cache."""

    def __init__(self, folder: Path) -> None:
        self.table = Table(folder, layout=replace(SMALL, segment_bytes=4 * MIB))
        self.state = self.table.volume.state
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.eras = Eras(MEMORY_BYTES)
        try:
            self.reads = RecordReads(self.state, self.eras, self.wake_fd)
        except OSError as error:
            pytest.skip(f"this system has no such reads: {error}")
        self.journal: JobJournal = self.table.volume.open("job")

    def put(self, values: list[bytes]) -> list[Cold]:
        """Records on the device and nowhere else, in a segment that is finished."""
        colds = [
            self.journal.put(0, b"key:%d" % number, STRING, value, 0)
            for number, value in enumerate(values)
        ]
        self.journal.seal()
        self.table.volume.commit()
        self.forget()
        segment = colds[0].place
        if resident_bytes(segment.fd, 0, PAGE_BYTES) or not counts_pages():
            pytest.skip("this system keeps files in memory, or does not say which")
        if self.state.files.direct(segment) < 0:
            pytest.skip("this file system has no reads past the page cache")
        return colds

    def forget(self) -> None:
        """Have the page cache empty."""
        for segment in self.journal.segments.values():
            fd = self.state.files.pin(segment)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self.state.files.unpin(segment)

    def take(self, count: int) -> dict[int, bytes | None]:
        """What so many reads give."""
        self.reads.submit()
        found: dict[int, bytes | None] = {}
        while len(found) < count:
            found |= dict(self.reads.take(count))
            if len(found) < count:
                assert select.select([self.wake_fd], [], [], 20)[0]
                os.eventfd_read(self.wake_fd)
        return found

    def read(self, cold: Cold) -> bytes | None:
        """One of them, which can be begun."""
        assert self.reads.begin(cold, 0)
        return self.take(1)[0]

    def close(self) -> None:
        self.reads.close()
        os.close(self.wake_fd)
        self.table.volume.close()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path / "volume")
    yield made
    made.close()


def value(number: int, size: int = 5000) -> bytes:
    return (b"%d/" % number * size)[:size]


def test_records_of_any_size_and_place(ground: Ground) -> None:
    values = [value(number, size) for number, size in enumerate((0, 7, 5000, 300, 65_000, 4096))]
    colds = ground.put(values)
    for cold, expected in zip(colds, values, strict=True):
        assert ground.read(cold) == expected
        assert ground.reads.under_way == 0
        # Some begin in the same page: it is not wanted again if that is long after.
        for _ in range(2):
            ground.eras.read(MEMORY_BYTES)
    assert resident_bytes(colds[0].place.fd, 0, PAGE_BYTES) == 0


def test_no_more_than_there_are_buffers_for(ground: Ground) -> None:
    values = [value(number) for number in range(DEPTH + 1)]
    colds = ground.put(values)
    for number in range(DEPTH):
        assert ground.reads.begin(colds[number], number)
    assert not ground.reads.begin(colds[DEPTH], DEPTH)
    assert ground.take(DEPTH) == dict(enumerate(values[:DEPTH]))
    assert ground.read(colds[DEPTH]) == values[DEPTH]


def test_what_is_in_the_page_cache_is_read_from_there(ground: Ground) -> None:
    cold, other = ground.put([value(0), value(1)])
    assert ground.journal.read(cold) == value(0)
    assert not ground.reads.begin(cold, 0)
    assert ground.journal.read_now(cold) == value(0)
    assert ground.journal.read(other) == value(1)


def test_to_look_for_a_cold_record_does_not_bring_it_into_the_page_cache(ground: Ground) -> None:
    first, *others = ground.put([value(number) for number in range(40)])
    # The first look is a read, since nobody knows yet that there are cold ones.
    if ground.journal.read_now(first) is not None:
        pytest.skip("the device is as quick as memory")
    for cold in others[1:]:
        assert ground.journal.read_now(cold) is None
        assert ground.state.absent is cold
        assert resident_bytes(cold.place.fd, cold.offset, cold.record_bytes) == 0
    # Others that are at hand are found meanwhile.
    assert ground.journal.read(others[0]) == value(1)
    assert ground.journal.read_now(others[0]) == value(1)


def test_what_is_wanted_again_is_brought_into_the_page_cache(ground: Ground) -> None:
    (cold,) = ground.put([value(0)])
    assert ground.read(cold) == value(0)
    assert not ground.reads.begin(cold, 0)
    # After that it is as before.
    assert ground.read(cold) == value(0)


def test_what_was_read_long_ago_is_not_wanted_again() -> None:
    segment = Segment("folder", 1, 0)
    segment.size = 40 * PAGE_BYTES
    assert segment.passes_cache(5 * PAGE_BYTES + 8, 3)
    assert segment.passes_cache(39 * PAGE_BYTES, 3)
    # Its neighbour in the page, in this era and the next.
    assert not segment.passes_cache(5 * PAGE_BYTES + 800, 3)
    assert segment.passes_cache(5 * PAGE_BYTES, 3)
    assert not segment.passes_cache(5 * PAGE_BYTES, 4)
    assert segment.passes_cache(39 * PAGE_BYTES, 5)
    assert segment.passes_cache(6 * PAGE_BYTES, 5)
    assert segment.passes_cache(6 * PAGE_BYTES, 7)


def test_eras_go_by_what_was_read() -> None:
    eras = Eras(4000)
    for now in (0, 0, 1, 1, 1, 2):
        eras.read(400)
        assert eras.now == now


def test_the_page_that_is_written_next_is_left_alone(ground: Ground) -> None:
    """To read it so would wait for the device to have what was written to it."""
    ground.put([value(0)])
    colds = [ground.journal.put(0, b"%d" % n, STRING, value(n, 6000), 0) for n in range(3)]
    # Some of it is in the buffer only.
    assert not ground.reads.begin(colds[0], 0)
    ground.table.volume.commit()
    ground.forget()
    assert ground.read(colds[0]) == value(0, 6000)
    assert not ground.reads.begin(colds[-1], 0)
    assert ground.journal.read(colds[-1]) == value(2, 6000)


def test_damage_is_found(ground: Ground) -> None:
    colds = ground.put([value(number) for number in range(3)])
    segment: Segment = colds[0].place
    with Path(segment.path).open("r+b") as file:
        file.seek(colds[1].offset + 2000)
        file.write(b"?")
    ground.forget()
    for number, cold in enumerate(colds):
        assert ground.reads.begin(cold, number)
    assert ground.take(3) == {0: value(0), 1: None, 2: value(2)}


def test_a_file_that_is_too_short_is_found(ground: Ground) -> None:
    first, last = ground.put([value(0), value(1)])
    segment: Segment = last.place
    os.truncate(segment.path, last.offset + 100)
    ground.forget()
    assert ground.reads.begin(first, 0)
    assert ground.reads.begin(last, 1)
    assert ground.take(2) == {0: value(0), 1: None}


def test_a_record_that_is_moved_while_it_is_read(ground: Ground) -> None:
    (cold,) = ground.put([value(0)])
    old: Segment = cold.place
    assert ground.reads.begin(cold, 0)
    ground.reads.submit()
    with memoryview(value(0)) as payload:
        ground.journal.move(cold, 0, b"key:0", payload, checksum(value(0)), 0)
    assert cold.place is not old
    ground.table.volume.commit()
    assert ground.take(1) == {0: None}
    assert ground.journal.read(cold) == value(0)


def test_a_file_that_is_closed_while_it_is_read(ground: Ground) -> None:
    (cold,) = ground.put([value(0)])
    segment: Segment = cold.place
    assert ground.reads.begin(cold, 0)
    ground.reads.submit()
    ground.state.files.close_those([segment])
    assert (segment.fd, segment.direct_fd) == (-1, NOT_OPEN)
    assert ground.take(1) == {0: value(0)}
    # Who opens it again may have to wait for that.
    assert not ground.reads.begin(cold, 0)


def play(ground: Ground, monkeypatch: pytest.MonkeyPatch, system: object) -> None:
    """Have the system's answers played: those that it does not give on this machine."""
    ground.reads._reads.close()
    monkeypatch.setattr(ground.reads, "_reads", system)


@plain_only
def test_a_device_with_large_blocks(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    colds = ground.put([value(number) for number in range(4)])
    segment: Segment = colds[0].place
    sizes: list[int] = []

    class Refusing:
        token = 0

        def begin(self, fd: int, offset: int, address: int, size: int, token: int) -> bool:
            assert offset % 512 == size % 512 == 0
            sizes.append(size % PAGE_BYTES or offset % PAGE_BYTES)
            self.token = token
            return True

        def submit(self) -> None:
            pass

        def take(self, count: int) -> list[tuple[int, int]]:
            return [(self.token, -errno.EINVAL)]

        def close(self) -> None:
            pass

    play(ground, monkeypatch, Refusing())
    assert ground.read(colds[0]) is None
    assert ground.read(colds[1]) is None
    assert sizes[0] > 0
    assert sizes[1] == 0
    # Not even in whole pages: this file is not read so any more.
    assert segment.direct_fd == -1
    assert not ground.reads.begin(colds[2], 0)


@plain_only
def test_a_system_that_would_wait_is_left_for_some_time(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REFUSALS_MAX", 3)
    colds = ground.put([value(number) for number in range(5)])

    class Waiting:
        def begin(self, *request: int) -> bool:
            return True

        def submit(self) -> None:
            pass

        def take(self, count: int) -> list[tuple[int, int]]:
            return [(DEPTH - 1, -errno.EAGAIN)]

        def close(self) -> None:
            pass

    play(ground, monkeypatch, Waiting())
    for cold in colds[:3]:
        assert ground.read(cold) is None
    assert not ground.reads.begin(colds[3], 0)
    ground.reads.trim()
    assert ground.reads.begin(colds[4], 0)


def test_it_can_be_closed_with_reads_under_way(ground: Ground) -> None:
    colds = ground.put([value(number) for number in range(3)])
    for number, cold in enumerate(colds):
        assert ground.reads.begin(cold, number)
    ground.reads.submit()
    ground.reads.close()
    assert ground.reads.under_way == 0
    assert not ground.state.passes_cache
    assert not ground.reads.begin(colds[0], 0)
