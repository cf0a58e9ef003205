from __future__ import annotations

import gc
import random
from pathlib import Path

import pytest

from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.resp.replies import FileBulk
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.large_file import LargeFile
from tests.tiers.large.support import (
    BLOCK,
    KIB,
    MIB,
    drop_cache,
    open_file,
    restarted,
    sent,
    some_bytes,
    string_of,
    used_bytes,
)


@pytest.fixture
def file(tmp_path: Path) -> LargeFile:
    return open_file(tmp_path / "job")


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, 100_000, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
def test_a_string_is_the_bytes_that_were_written(file: LargeFile, size: int) -> None:
    data = some_bytes(size)
    string = string_of(file, data)
    assert isinstance(string, LargeString)
    assert len(string) == size
    assert bytes(string) == data
    assert string[size // 3 : size // 2] == data[size // 3 : size // 2]
    assert string[::3] == data[::3]
    assert sent(string.bulk()) == data
    assert b"".join(string.views(0, size)) == data
    assert string.is_ready(0, size)
    # Whole pages, and little else.
    assert size <= string.size_bytes <= size + 4096 + 1200


def test_an_empty_string(file: LargeFile) -> None:
    string = FileString(file)
    string.write(0, b"")
    assert bytes(string) == b""
    assert string.bulk().ranges == []
    assert not file.directory.exists()


# --- writing -----------------------------------------------------------------------------------


def test_appends_are_linear(file: LargeFile) -> None:
    part = some_bytes(MIB)
    string = string_of(file, part)
    string.payload()
    changes = 0
    for number in range(1, 64):
        string.write(len(string), part)
        changes += sum(map(len, string.take_changes()))
        assert string.pieces <= 2 + number // 4
    assert bytes(string) == part * 64
    # A change says what is new, and not the whole string.
    assert changes < 64 * 200
    string.validate()


def test_small_appends_fill_the_same_region(file: LargeFile) -> None:
    string = string_of(file, some_bytes(70_000))
    expected = some_bytes(70_000)
    for number in range(500):
        part = some_bytes(number, number)
        string.write(len(string), part)
        expected += part
    assert bytes(string) == expected
    assert string.pieces <= 3
    string.validate()


def test_a_string_from_a_sink_is_taken_over_without_copying(file: LargeFile) -> None:
    string = string_of(file, some_bytes(MIB))
    other = string_of(file, some_bytes(MIB, 1))
    (place,) = [(region.offset, size) for region, _, size in other.parts()]
    string.write(MIB, other)
    assert [(region.offset, size) for region, _, size in string.parts()][-1] == place
    assert len(other) == 0
    assert bytes(string) == some_bytes(MIB) + some_bytes(MIB, 1)


def test_a_gap_takes_no_room(file: LargeFile) -> None:
    string = string_of(file, b"begin")
    string.write(5_000 * MIB, b"end")
    assert len(string) == 5_000 * MIB + 3
    assert used_bytes(file.directory) < MIB
    assert string.size_bytes < MIB
    assert string.read(0, 10) == b"begin" + bytes(5)
    assert string.read(4_000 * MIB, 4_000 * MIB + 4) == bytes(4)
    assert string.read(len(string) - 5, len(string)) == b"\0\0end"
    (part,) = string.part_bulk(MIB, 3 * MIB).ranges
    assert (part.fd, part.size) == (-1, 2 * MIB)
    assert part.owner.view(0, MIB) == bytes(MIB)
    string.write(MIB, b"middle")
    assert string.read(MIB - 1, MIB + 7) == b"\0middle\0"
    string.validate()


def test_writes_leave_few_pieces(file: LargeFile) -> None:
    """However small they are, and wherever."""
    rng = random.Random(4)
    string = string_of(file, some_bytes(4 * MIB))
    expected = bytearray(some_bytes(4 * MIB))
    for _ in range(600):
        offset = rng.randrange(4 * MIB - 100)
        part = rng.randbytes(rng.randrange(1, 100))
        string.write(offset, part)
        expected[offset : offset + len(part)] = part
    assert bytes(string) == expected
    assert string.pieces <= 2 * 4 * MIB // (64 * KIB) + 2
    string.validate()


def test_a_write_reads_nothing(file: LargeFile) -> None:
    string = string_of(file, some_bytes(2 * MIB))
    drop_cache(file)
    string.write(MIB, b"new")
    assert not string.is_ready(0, MIB)
    assert bytes(string) == some_bytes(2 * MIB)[:MIB] + b"new" + some_bytes(2 * MIB)[MIB + 3 :]


# --- copies and replies ------------------------------------------------------------------------


def test_copies_share_their_bytes_until_they_differ(file: LargeFile) -> None:
    data = some_bytes(2 * MIB)
    string = string_of(file, data)
    before = used_bytes(file.directory)
    twin = string.copy()
    assert used_bytes(file.directory) <= before
    string.write(0, b"string")
    twin.write(2 * MIB, b"twin")
    assert bytes(string) == b"string" + data[6:]
    assert bytes(twin) == data + b"twin"
    del string
    file.punch_pending()
    assert bytes(twin) == data + b"twin"
    twin.validate()


def test_a_reply_keeps_its_bytes(file: LargeFile) -> None:
    data = some_bytes(MIB)
    string = string_of(file, data)
    reply = string.bulk()
    for offset in range(0, MIB, BLOCK):
        string.write(offset, bytes(BLOCK))
    string.write(MIB, b"more")
    file.punch_pending()
    assert sent(reply) == data
    later = string.part_bulk(0, len(string))
    del string
    file.punch_pending()
    assert sent(reply) == data
    assert sent(later) == bytes(MIB) + b"more"
    # A job's end takes nothing from a reply either.
    file.close()
    assert sent(reply) == data


def test_what_is_written_over_is_given_back_piece_by_piece(file: LargeFile) -> None:
    string = string_of(file, some_bytes(8 * MIB))
    for offset in range(0, 7 * MIB, 64 * KIB):
        string.write(offset, bytes(64 * KIB))
        if offset % MIB == 0:
            file.punch_pending()
    file.punch_pending()
    assert used_bytes(file.directory) <= 9 * MIB
    assert bytes(string) == bytes(7 * MIB) + some_bytes(8 * MIB)[7 * MIB :]


def test_what_a_reply_holds_is_given_back_after_it(file: LargeFile) -> None:
    string = string_of(file, some_bytes(4 * MIB))
    reply = string.bulk()
    string.write(0, bytes(3 * MIB))
    file.punch_pending()
    assert used_bytes(file.directory) >= 7 * MIB
    del reply
    file.punch_pending()
    assert used_bytes(file.directory) <= 5 * MIB


# --- records -----------------------------------------------------------------------------------


def test_a_string_comes_back_from_its_record(file: LargeFile) -> None:
    data = some_bytes(5 * BLOCK + 99)
    string = string_of(file, data)
    string.write(2 * BLOCK, b"changed")
    string.write(6 * MIB, b"after a gap")
    expected = bytes(string)
    _, (again,) = restarted(file, string)
    again.validate()
    assert not again.is_ready(0, 1)
    assert bytes(again) == expected
    assert again.is_ready(0, len(again))
    again.write(len(again), b"!")
    assert bytes(again) == expected + b"!"


def test_changes_are_what_happened_since_the_last_record(file: LargeFile) -> None:
    string = string_of(file, some_bytes(MIB))
    assert (string.has_record, string.take_changes()) == (False, [])
    record = string.payload()
    assert (string.has_record, string.take_changes()) == (True, [])
    string.write(MIB, b"a")
    string.write(MIB + 1, b"bb")
    string.write(7, some_bytes(3 * BLOCK))
    changes = string.take_changes()
    assert string.take_changes() == []
    found = open_file(file.directory)
    again = FileString.from_payload(found, record)
    for change in changes:
        again.apply_change(change)
    found.finish_recovery()
    assert bytes(again) == bytes(string)
    again.validate()


def test_what_no_record_claims_is_freed_at_a_restart(file: LargeFile) -> None:
    kept = string_of(file, some_bytes(MIB))
    lost = string_of(file, some_bytes(8 * MIB))
    half = string_of(file, some_bytes(8 * MIB, 1))
    half.write(BLOCK, bytes(7 * MIB))
    found, (kept_again, half_again) = restarted(file, kept, half)
    found.punch_pending()
    assert used_bytes(file.directory) <= 10 * MIB
    assert bytes(kept_again) == some_bytes(MIB)
    assert bytes(half_again) == bytes(half)
    del lost
    assert found.live_bytes >= 9 * MIB


def test_where_records_cannot_be_read_nothing_is_freed(file: LargeFile) -> None:
    kept = string_of(file, some_bytes(MIB))
    unread = string_of(file, some_bytes(MIB, 1))
    found = open_file(file.directory)
    again = FileString.from_payload(found, kept.payload())
    found.finish_recovery(free=False)
    assert bytes(again) == some_bytes(MIB)
    del again
    found.punch_pending()
    _, (later,) = restarted(file, unread)
    assert bytes(later) == some_bytes(MIB, 1)


def test_files_that_nobody_claims_go_at_a_restart(file: LargeFile) -> None:
    string_of(file, some_bytes(MIB))
    found, _ = restarted(file)
    found.punch_pending()
    assert list(file.directory.iterdir()) == []
    string_of(found, b"anew")
    assert [path.name for path in file.directory.iterdir()] == ["large-000002.dat"]


def test_copies_share_after_a_restart_too(file: LargeFile) -> None:
    data = some_bytes(2 * MIB)
    string = string_of(file, data)
    twin = string.copy()
    twin.write(0, b"twin")
    found, strings = restarted(file, string, twin)
    again = strings.pop()
    strings.clear()
    again.write(MIB, b"more")
    found.punch_pending()
    assert bytes(again) == b"twin" + data[4:MIB] + b"more" + data[MIB + 4 :]
    again.validate()


def test_records_that_were_superseded_do_not_count(file: LargeFile) -> None:
    string = string_of(file, some_bytes(2 * MIB))
    found = open_file(file.directory)
    FileString.from_payload(found, string.payload())
    again = FileString.from_payload(found, string.payload())
    found.finish_recovery()
    assert found.live_bytes == 2 * MIB
    # So nobody shares it, and parts of it can go.
    again.write(0, bytes(MIB))
    found.punch_pending()
    assert used_bytes(file.directory) <= 2 * MIB + BLOCK


def test_a_record_without_its_file_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    string = string_of(open_file(tmp_path / "one"), some_bytes(MIB))
    file = open_file(tmp_path / "other")
    again = FileString.from_payload(file, string.payload())
    with pytest.raises(CommandError, match="IOERR"):
        again.read(0, 1)
    with pytest.raises(CommandError, match="IOERR"):
        again.bulk()
    del again
    file.punch_pending()
    assert file.live_bytes == 0


def test_a_record_that_makes_no_sense_is_an_error(file: LargeFile) -> None:
    string = string_of(file, some_bytes(BLOCK))
    payload = string.payload()
    for wrong in (b"", b"\xff" + payload[1:], payload[:-1]):
        with pytest.raises(CommandError, match="IOERR"):
            FileString.from_payload(file, wrong)
    for change in (b"\x07", b"\x01\0", b"\x02" + bytes(20)):
        with pytest.raises(CommandError, match="IOERR"):
            string.apply_change(change)
    assert bytes(string) == some_bytes(BLOCK)


def test_a_parked_string_keeps_its_bytes(file: LargeFile) -> None:
    data = some_bytes(MIB)
    string = string_of(file, data)
    assert not string.park()
    record = string.payload()
    reply = string.bulk()
    assert not string.park()
    del reply
    assert string.park()
    live_bytes = file.live_bytes
    del string
    file.punch_pending()
    again = FileString.from_payload(file, record)
    assert bytes(again) == data
    assert file.live_bytes == live_bytes
    del again
    assert file.live_bytes == 0


def test_a_string_with_changes_or_a_copy_cannot_be_parked(file: LargeFile) -> None:
    string = string_of(file, some_bytes(MIB))
    string.payload()
    string.write(0, b"x")
    assert not string.park()
    string.take_changes()
    assert not string.park()
    string.payload()
    twin = string.copy()
    assert not string.park()
    assert not twin.park()


# --- like bytes --------------------------------------------------------------------------------

SIZES = (1, 7, 100, 4096, 50_000, 64 * KIB, 100_000, BLOCK - 1, BLOCK, BLOCK + 5, 700_000)


class Machine:
    """Strings in files, and what they should be; with the records that a journal would have."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self.rng = rng
        self.file = open_file(directory, file_bytes=16 * MIB)
        self.strings = [FileString(self.file)]
        self.expected = [bytearray()]
        self.logs = [[self.strings[0].payload()]]
        self.replies: list[tuple[FileBulk, bytes]] = []

    def write(self, index: int, offset: int, data: bytes) -> None:
        string, model = self.strings[index], self.expected[index]
        if offset + len(data) > 6 * MIB:
            return
        is_string = self.rng.random() < 0.3
        string.write(offset, string_of(self.file, data) if is_string else data)
        model.extend(bytes(max(0, offset - len(model))))
        model[offset : offset + len(data)] = data

    def somewhere(self, model: bytearray) -> int:
        end = len(model)
        gap = self.rng.choice(SIZES)
        places = (0, end, end, end // 2, max(0, end - 10), self.rng.randint(0, end), end + gap)
        return self.rng.choice(places)

    def step(self) -> None:
        rng = self.rng
        index = rng.randrange(len(self.strings))
        string, model = self.strings[index], self.expected[index]
        action = rng.choice("wwwwwwwwcrrRpd")
        if action == "w":
            self.write(index, self.somewhere(model), rng.randbytes(rng.choice(SIZES)))
        elif action == "c" and len(self.strings) < 4:
            self.strings.append(string.copy())
            self.expected.append(bytearray(model))
            self.logs.append([self.strings[-1].payload()])
        elif action == "r":
            start = rng.randint(0, len(model))
            stop = rng.randint(start, len(model))
            assert string.read(start, stop) == model[start:stop]
            self.replies.append((string.part_bulk(start, stop), bytes(model[start:stop])))
        elif action == "p":
            self.file.punch_pending()
            if rng.random() < 0.5 and self.directory.exists():
                drop_cache(self.file)
        elif action == "d" and len(self.strings) > 1:
            del self.strings[index], self.expected[index], self.logs[index]
            return
        string.validate()
        # As a journal does: the whole now and then, otherwise changes.
        if rng.random() < 0.1:
            self.logs[index] = [string.payload()]
        else:
            self.logs[index] += string.take_changes()
        if action == "R":
            self.restart()
        if rng.random() < 0.2:
            self.replies.clear()

    def restart(self) -> None:
        self.check()
        # Another process has none of these.
        self.replies.clear()
        self.file.close()
        self.file = open_file(self.directory, file_bytes=16 * MIB)
        found: dict[int, FileString] = {}
        for at in self.rng.sample(range(len(self.logs)), len(self.logs)):
            found[at] = string = FileString.from_payload(self.file, self.logs[at][0])
            for change in self.logs[at][1:]:
                string.apply_change(change)
            string.validate()
        self.strings = [found[at] for at in range(len(self.logs))]
        self.file.finish_recovery()

    def check(self) -> None:
        for string, model in zip(self.strings, self.expected, strict=True):
            assert bytes(string) == model
            assert sent(string.bulk()) == model
        for reply, expected in self.replies:
            assert sent(reply) == expected


@pytest.mark.parametrize("seed", range(12))
def test_strings_are_like_bytes(tmp_path: Path, seed: int) -> None:
    """Any writes, copies, restarts and replies."""
    machine = Machine(tmp_path / "job", random.Random(seed))
    for _ in range(150):
        machine.step()
    machine.file.punch_pending()
    machine.check()
    file = machine.file
    del machine
    gc.collect()
    assert file.live_bytes == 0
    file.punch_pending()
    if file.directory.exists():
        assert used_bytes(file.directory) <= 64 * KIB
