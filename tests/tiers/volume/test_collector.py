from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from pocketkv.engine.errors import CommandError
from pocketkv.tiers.volume.segment import Segment
from tests.core import plain_only
from tests.tiers.volume.table import Table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "volume")


def reopened(table: Table, tmp_path: Path) -> Table:
    table.volume.close()
    return Table(tmp_path / "volume")


def test_the_room_of_overwritten_values_is_given_back(table: Table, tmp_path: Path) -> None:
    for round_ in range(20):
        for number in range(50):
            table.put("job", 0, b"%d" % number, b"%d" % round_ * 300)
        table.volume.commit()
        table.collect()
    table.check()
    assert table.volume.used_bytes < 3 * table.volume.live_bytes
    before = table.values()
    table = reopened(table, tmp_path)
    assert table.values() == before


def test_what_lives_long_is_moved_out_of_sparse_segments(table: Table, tmp_path: Path) -> None:
    for number in range(200):
        table.put("job", 0, b"%d" % number, b"x" * 300, due_ms=number)
    table.volume.commit()
    for number in range(200):
        if number % 4:
            table.delete("job", 0, b"%d" % number)
        else:
            table.expire("job", 0, b"%d" % number, 10_000 + number)
    table.volume.commit()
    used = table.volume.used_bytes
    table.collect()
    # What is reserved for the next records does not count.
    table.volume.open("job").seal()
    table.volume.commit()
    table.check()
    assert table.volume.state.collected_bytes > 0
    assert table.volume.used_bytes < used / 2
    before = table.values()
    assert len(before) == 50
    table = reopened(table, tmp_path)
    assert table.values() == before
    table.check()


def test_the_deleted_does_not_come_back(table: Table, tmp_path: Path) -> None:
    """The oldest segment stays, with a dead value in it whose deletion stands in a later one."""
    table.put("job", 0, b"dead", b"x")
    for number in range(3):
        table.put("job", 0, b"live:%d" % number, b"x" * 1000)
    for number in range(20):
        table.put("job", 0, b"filler:%d" % number, b"x" * 500)
    table.delete("job", 0, b"dead")
    for number in range(20):
        table.delete("job", 0, b"filler:%d" % number)
    table.put("job", 0, b"last", b"x" * 3000)
    table.put("job", 0, b"roll", b"x" * 3000)
    table.volume.commit()
    for _ in range(3):
        table.collect()
        table = reopened(table, tmp_path)
        assert {name[2] for name in table.entries} == {
            b"live:0", b"live:1", b"live:2", b"last", b"roll",
        }  # fmt: skip
        table.check()


def test_deletions_are_forgotten_in_the_end(table: Table) -> None:
    for round_ in range(30):
        for number in range(30):
            table.put("job", 0, b"%d.%d" % (round_, number), b"x" * 200)
        for number in range(30):
            table.delete("job", 0, b"%d.%d" % (round_, number))
        table.volume.commit()
        table.collect()
    assert table.volume.live_bytes == 0
    assert table.volume.segments <= 3


def test_clearing_frees_everything_before(table: Table) -> None:
    for round_ in range(10):
        for number in range(30):
            table.put("job", 0, b"%d" % number, b"%d" % round_ * 200)
        table.clear("job", 0)
        table.volume.commit()
        table.collect()
        assert table.volume.segments <= 1


def test_a_cleared_database_stays_empty_beside_one_that_lives(table: Table, tmp_path: Path) -> None:
    table.put("job", 1, b"kept", b"x" * 3900)
    for _ in range(30):
        for number in range(10):
            table.put("job", 0, b"%d" % number, b"x" * 300)
        table.clear("job", 0)
        table.volume.commit()
        table.collect()
    # Of all that was cleared there is one CLEAR, in one segment.
    assert table.volume.segments <= 4
    table = reopened(table, tmp_path)
    assert set(table.entries) == {("job", 1, b"kept")}


def test_values_of_many_records_are_written_anew(table: Table, tmp_path: Path) -> None:
    table.put("job", 0, b"log", b"begin ", due_ms=7)
    for number in range(40):
        table.put("job", 0, b"filler", b"x" * 1000)
        table.change("job", 0, b"log", b"%d " % number)
    table.volume.commit()
    before = table.values()
    table.collect()
    assert table.entries["job", 0, b"log"].changes == []
    assert table.values() == before
    table = reopened(table, tmp_path)
    assert table.values() == before


def test_one_step_is_bounded(table: Table) -> None:
    for number in range(100):
        table.put("job", 0, b"%d" % number, b"x" * 90)
    table.volume.commit()
    for number in range(60):
        table.delete("job", 0, b"%d" % number)
    for number in range(100, 300):
        table.put("job", 0, b"%d" % number, b"x" * 90)
    table.volume.commit()
    claim = table.volume.collect_pick(500)
    while claim is not None:
        before = table.volume.state.collected_bytes
        part = table.volume.collect_read(claim)
        assert part.data is not None
        assert len(part.data) <= 500
        assert table.volume.collect_apply(part)
        assert table.volume.state.collected_bytes - before <= 500
        table.volume.commit()
        claim = table.volume.collect_pick(500)
    table.check()


@plain_only
def test_a_reader_in_a_thread_finds_a_value_that_moves(table: Table) -> None:
    """Between the two looks of a reader, collection moves the record and removes its file."""
    journal = table.volume.open("job")
    table.put("job", 0, b"key", b"value" * 20)
    for number in range(10):
        table.put("job", 0, b"filler:%d" % (number % 2), b"x" * 1500)
    table.volume.commit()
    cold = table.entries["job", 0, b"key"].base
    read_file = journal._read_file
    asked: list[Segment] = []

    def meanwhile(segment: Segment, offset: int, size: int) -> bytes:
        if not asked:
            asked.append(cold.place)
            table.collect()
            assert cold.place is not asked[0]
            assert not Path(asked[0].path).exists()
        return read_file(segment, offset, size)

    journal._read_file = meanwhile  # type: ignore[method-assign]
    assert journal.read(cold) == b"value" * 20
    assert asked


def test_readers_in_threads_see_nothing_of_all_the_moving(table: Table) -> None:
    """Every read gives the value of its key, or the record was released meanwhile."""
    journal = table.volume.open("job")
    stop = threading.Event()
    wrong: list[object] = []
    done = [0, 0]

    def read(reader: int) -> None:
        dice = random.Random(reader)
        while not stop.is_set():
            key = b"%d" % dice.randrange(40)
            entry = table.entries.get(("job", 0, key))
            if entry is None:
                continue
            try:
                value = journal.read(entry.base)
                if not value.startswith(key + b":"):
                    wrong.append(value)
            except CommandError as error:
                # What was replaced may be gone from the disk.
                if table.entries.get(("job", 0, key)) is entry:
                    wrong.append(error)
            done[reader] += 1

    readers = [threading.Thread(target=read, args=(reader,)) for reader in range(2)]
    dice = random.Random(2)
    for reader in readers:
        reader.start()
    for number in range(3000):
        key = b"%d" % min(dice.randrange(40), dice.randrange(40))
        table.put("job", 0, key, key + b":" + b"x" * dice.randrange(600))
        if number % 3 == 0:
            table.volume.commit()
            table.volume.collect_step()
        if number % 50 == 0:
            table.volume.sync()
    stop.set()
    for reader in readers:
        reader.join(10)
    assert wrong == []
    assert min(done) > 0
    assert table.volume.state.collected_bytes > 0
    table.volume.commit()
    table.check()


def test_segments_are_removed_only_after_what_replaced_them_is_synced(table: Table) -> None:
    journal = table.volume.open("job")
    table.put("job", 0, b"key", b"x" * 4000)
    table.put("job", 0, b"other", b"x" * 4000)
    table.volume.commit()
    old = Path(journal.folder) / "00000001.log"
    table.put("job", 0, b"key", b"y" * 4000)
    assert old.exists()
    table.volume.sync()
    assert old.exists()
    table.volume.commit()
    assert old.exists()
    table.volume.sync()
    assert not old.exists()
    table.check()
