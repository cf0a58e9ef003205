from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.tiers.volume.index_file import load_index
from pocketkv.tiers.volume.records import seed_of
from tests.tiers.volume.table import Name, Table

JOB = "job"

# Writes until it is killed; a key's number is printed only after its commit.
WRITER = """
import sys
from pathlib import Path
from tests.tiers.volume.table import Table
table = Table(Path(sys.argv[1]))
number = 0
while True:
    for _ in range(7):
        key = b"%d" % (number % 500)
        table.put("job", 0, key, b"%d:" % number + b"x" * (number % 300), number)
        number += 1
    table.volume.commit()
    if number % 10 == 0:
        table.volume.collect_step()
    if number % 50 == 0:
        table.volume.sync()
    print(number, flush=True)
"""


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    table = Table(tmp_path / "volume")
    yield table
    table.volume.close()


def write_some(table: Table, count: int = 60) -> dict[Name, tuple[bytes, int]]:
    for number in range(count):
        table.put(JOB, 0, b"%d" % number, b"%d," % number * 40, due_ms=number)
    table.volume.commit()
    return table.values()


def crashed(table: Table, target: Path) -> Path:
    """What a killed process leaves: a copy of its directory, which has no lock."""
    shutil.copytree(table.volume._root, target)
    return target


def segments_in(folder: Path) -> list[Path]:
    return sorted((folder / "jobs" / JOB).glob("*.log"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_what_was_committed_is_there_after_a_crash(table: Table, tmp_path: Path) -> None:
    before = write_some(table)
    table.put(JOB, 0, b"0", b"never committed")
    again = Table(crashed(table, tmp_path / "copy"))
    assert again.values() == before
    again.check()
    assert again.volume.state.corrupt_records == again.volume.state.torn_bytes == 0
    again.volume.close()


def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[3],
        ) as writer:
            assert writer.stdout is not None
            seen = b""
            while seen.count(b"\n") < 400:
                ready, _, _ = select.select([writer.stdout], [], [], 30)
                assert ready
                seen += os.read(writer.stdout.fileno(), 65536)
            writer.send_signal(signal.SIGKILL)
            seen += writer.stdout.read()
        acknowledged = int(seen[: seen.rindex(b"\n")].split()[-1])
        table = Table(folder)
        values = table.values()
        assert len(values) == min(acknowledged, 500)
        for (_, _, key), (value, due_ms) in values.items():
            # One more commit than was printed may have come through.
            last = (acknowledged - 1 - int(key)) // 500 * 500 + int(key)
            assert due_ms in {last, last + 500}
            assert value == b"%d:" % due_ms + b"x" * (due_ms % 300)
        table.check()
        table.volume.close()


def index_of(log: Path) -> Path:
    return log.with_suffix(".idx")


def restarted_machine(folder: Path) -> None:
    """Have a volume take the machine for one that has stopped since."""
    (folder / "lock").write_bytes(b"another boot")


@pytest.mark.parametrize("restarted", [False, True], ids=["killed", "machine restarted"])
def test_a_torn_tail_is_cut_off_wherever_it_ends(
    table: Table, tmp_path: Path, *, restarted: bool
) -> None:
    before = write_some(table, 3)
    log = segments_in(table.volume._root)[0]
    whole = log.stat().st_size
    indexed = index_of(log).stat().st_size
    table.put(JOB, 0, b"1", b"torn" * 20)
    table.volume.commit()
    source = crashed(table, tmp_path / "source")
    size = segments_in(source)[0].stat().st_size
    for cut in range(whole, size):
        copy = tmp_path / f"copy{cut}"
        shutil.copytree(source, copy)
        os.truncate(segments_in(copy)[0], cut)
        if restarted:
            # The index may have come to the medium when the records did not.
            restarted_machine(copy)
        else:
            # It is written after the records.
            os.truncate(index_of(segments_in(copy)[0]), indexed)
        again = Table(copy)
        assert again.values() == before
        assert again.volume.state.torn_bytes == cut - whole
        assert again.volume.state.corrupt_records == 0
        # It is written on where it was cut.
        again.put(JOB, 0, b"new", b"value")
        again.volume.commit()
        twice = Table(crashed(again, tmp_path / "twice"))
        assert twice.values() == {**before, (JOB, 0, b"new"): (b"value", 0)}
        twice.volume.close()
        again.volume.close()
        shutil.rmtree(tmp_path / "twice")
        shutil.rmtree(copy)


def test_what_a_machine_had_not_written_when_it_stopped_is_cut_off(
    table: Table, tmp_path: Path
) -> None:
    before = write_some(table, 3)
    table.volume.sync()
    table.put(JOB, 0, b"1", b"new" * 600)
    table.put(JOB, 0, b"2", b"new")
    table.volume.commit()
    copy = crashed(table, tmp_path / "copy")
    log = segments_in(copy)[0]
    # The end of the larger one never came to the disk, but what follows it did.
    with log.open("r+b") as file:
        file.seek(log.stat().st_size - 1000)
        file.write(bytes(900))
    as_it_was = tmp_path / "as it was"
    shutil.copytree(copy, as_it_was)
    restarted_machine(copy)
    again = Table(copy)
    assert again.values() == before
    again.volume.close()
    # If the machine has not stopped, it is damaged.
    again = Table(as_it_was)
    values, refused = again.readable()
    assert refused == {(JOB, 0, b"1")}
    assert values[JOB, 0, b"2"] == (b"new", 0)
    again.volume.close()


def test_what_was_on_the_medium_is_damaged_and_not_torn(table: Table, tmp_path: Path) -> None:
    write_some(table, 3)
    for value in (b"old", b"new"):
        table.put(JOB, 0, b"last", value)
        table.volume.commit()
        table.volume.sync()
    # As soon as there is anything to do, the index is told how much is on the medium.
    table.volume.state.tidy()
    copy = crashed(table, tmp_path / "copy")
    restarted_machine(copy)
    log = segments_in(copy)[0]
    with log.open("r+b") as file:
        file.seek(log.stat().st_size - 48)
        file.write(bytes(48))
    again = Table(copy)
    assert again.readable()[1] == {(JOB, 0, b"last")}
    again.volume.close()


def write_history(table: Table) -> dict[Name, tuple[bytes, int]]:
    """Some of everything; and what is there in the end."""
    journal = table.volume.open(JOB)
    for number in range(4):
        table.put(JOB, 0, b"%d" % number, b"old")
        table.put(JOB, 1, b"%d" % number, b"cleared")
        table.volume.commit()
    table.delete(JOB, 0, b"0")
    table.expire(JOB, 0, b"1", 77)
    table.volume.commit()
    table.clear(JOB, 1)
    table.put(JOB, 1, b"1", b"after")
    table.volume.commit()
    table.put(JOB, 0, b"2", b"newer, and it ends in zeros" + bytes(520))
    table.change(JOB, 0, b"3", b"+changed")
    table.volume.commit()
    # Written once, and the last of all.
    table.put(JOB, 0, b"once", b"value")
    table.volume.commit()
    assert len(journal.segments) == 1
    return table.values()


@pytest.mark.timeout(300)
def test_any_single_byte_that_is_damaged_is_an_error_at_its_key(tmp_path: Path) -> None:
    """Never an older value, never a key that is gone or back, wherever the byte is."""
    table = Table(tmp_path / "volume")
    before = write_history(table)
    source = crashed(table, tmp_path / "source")
    table.volume.close()
    log = segments_in(source)[0]
    hurt = 0
    for path in (log, index_of(log)):
        data = path.read_bytes()
        for at in range(len(data)):
            if path == log and at % 32 and not any(data[at - 8 : at + 8]):
                # Within a long row of zeros one is as good as another.
                continue
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
            copy = tmp_path / "copy"
            shutil.copytree(source, copy)
            refused: set[Name] = set()
            for _ in range(1 + (at % 5 == 0)):
                # The second one finds what the first one has written.
                again = Table(copy)
                values, refused = again.readable()
                assert values.keys() | refused == before.keys(), at
                assert len(refused) <= 1, at
                assert all(before[name] == value for name, value in values.items()), at
                again.check()
                again.volume.close()
            hurt += len(refused)
            shutil.rmtree(copy)
        path.write_bytes(data)
    assert hurt > 200


def test_what_is_known_of_nothing_makes_all_before_it_doubtful(
    table: Table, tmp_path: Path
) -> None:
    """A record is damaged and what the index says of it, too: no older value may be the newest."""
    write_some(table, 60)
    journal = table.volume.open(JOB)
    for number in (1, 2, 3):
        table.put(JOB, 0, b"%d" % number, b"newer")
        table.volume.commit()
    assert len(journal.segments) > 1
    cold = table.entries[JOB, 0, b"2"].base
    copy = crashed(table, tmp_path / "copy")
    log = segments_in(copy)[-1]
    flip(log, cold.offset + 20)
    index = index_of(log)
    flip(index, index.read_bytes().rindex(b"2", 0, index.read_bytes().rindex(b"3")))
    again = Table(copy)
    values, refused = again.readable()
    assert values == {(JOB, 0, b"3"): (b"newer", 0)}
    assert len(refused) == 59
    assert again.volume.state.corrupt_records == 1
    # What is written anew is good, and collection does not make the others look new.
    again.put(JOB, 0, b"7", b"again")
    again.volume.commit()
    again.collect()
    again.volume.close()
    again = Table(copy)
    values, refused = again.readable()
    assert values == {(JOB, 0, b"3"): (b"newer", 0), (JOB, 0, b"7"): (b"again", 0)}
    assert len(refused) == 58
    # Nothing is left of it when those are gone.
    for name in refused:
        again.delete(*name)
    again.volume.commit()
    again.collect()
    assert again.readable() == (values, set())
    again.check()
    again.volume.close()
    again = Table(copy)
    assert again.readable() == (values, set())
    again.volume.close()


def test_flipped_bits_cost_their_keys_and_no_others(table: Table, tmp_path: Path) -> None:
    """In finished segments, whose keys their indexes know."""
    before = write_some(table, 100)
    source = crashed(table, tmp_path / "source")
    dice = random.Random(4)
    finished = [path for path in segments_in(source) if path.with_suffix(".idx").exists()]
    assert len(finished) > 2
    for attempt in range(60):
        copy = tmp_path / f"copy{attempt}"
        shutil.copytree(source, copy)
        log = copy / dice.choice(finished).relative_to(source)
        for _ in range(dice.randint(1, 3)):
            flip(log, dice.randrange(32, log.stat().st_size), dice.randrange(8))
        again = Table(copy)
        values, refused = again.readable()
        assert values.keys() | refused == before.keys()
        assert len(refused) <= 3
        assert all(before[name] == value for name, value in values.items())
        # Collection leaves good values good, and bad ones bad.
        for number in range(0, 100, 2):
            if (JOB, 0, b"%d" % number) in again.entries:
                again.delete(JOB, 0, b"%d" % number)
        again.volume.commit()
        again.collect()
        kept, still_refused = again.readable()
        assert still_refused <= refused
        assert all(before[name] == value for name, value in kept.items())
        again.volume.close()
        shutil.rmtree(copy)


def test_flipped_bits_never_give_wrong_bytes(table: Table, tmp_path: Path) -> None:
    """Without indexes: what is lost is counted, what is there is right, what may be old is not."""
    before = write_some(table)
    source = crashed(table, tmp_path / "source")
    for path in source.glob("jobs/*/*.idx"):
        path.unlink()
    dice = random.Random(5)
    for attempt in range(60):
        copy = tmp_path / f"copy{attempt}"
        shutil.copytree(source, copy)
        log = dice.choice(segments_in(copy))
        flip(log, dice.randrange(log.stat().st_size), dice.randrange(8))
        again = Table(copy)
        values, refused = again.readable()
        lost = before.keys() - values.keys() - refused
        assert len(lost) <= 1
        assert all(before[name] == value for name, value in values.items())
        assert len(lost) <= again.volume.state.corrupt_records
        again.check()
        again.volume.close()
        shutil.rmtree(copy)


def is_whole(path: Path) -> bool:
    """Whether an index alone tells what is in its segment."""
    index = load_index(
        str(path), seed_of(path.with_suffix(".log").read_bytes(), int(path.stem)) or 0
    )
    return index is not None and index.is_finished


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_without_a_good_index_the_segment_is_read(
    table: Table, tmp_path: Path, damage: str
) -> None:
    before = write_some(table)
    table.volume.open(JOB).seal()
    table.volume.commit()
    copy = crashed(table, tmp_path / "copy")
    for path in copy.glob("jobs/*/*.idx"):
        assert is_whole(path)
        if damage == "flip":
            flip(path, path.stat().st_size // 2)
        elif damage == "cut":
            os.truncate(path, path.stat().st_size - 1)
        elif damage == "empty":
            os.truncate(path, 0)
        else:
            path.unlink()
        assert not is_whole(path)
    again = Table(copy)
    assert again.values() == before
    # And has one afterwards.
    active = again.volume.open(JOB).active
    for path in copy.glob("jobs/*/*.idx"):
        assert is_whole(path) or (active is not None and int(path.stem) == active.number)
    again.volume.close()


def test_an_index_spares_reading_the_values(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_some(table)
    table.volume.open(JOB).seal()
    table.volume.commit()
    copy = crashed(table, tmp_path / "copy")
    for path in segments_in(copy):
        # The same size, and nothing in it.
        path.write_bytes(bytes(path.stat().st_size))
    again = Table(copy)
    values, refused = again.readable()
    assert values == {}
    assert refused == table.entries.keys()
    again.volume.close()


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_a_segment_that_is_gone_costs_its_keys_only(
    table: Table, tmp_path: Path, damage: str
) -> None:
    before = write_some(table)
    copy = crashed(table, tmp_path / "copy")
    victim = segments_in(copy)[1]
    assert victim.with_suffix(".idx").exists()
    if damage == "remove":
        victim.unlink()
    else:
        os.truncate(victim, 100)
    again = Table(copy)
    assert again.volume.state.corrupt_records == 1
    values, refused = again.readable()
    assert values.keys() | refused == before.keys()
    assert 5 < len(refused) < 30
    assert all(before[name] == value for name, value in values.items())
    # A client that writes such a key anew has it back.
    for job, db, key in refused:
        again.put(job, db, key, b"new")
    again.volume.commit()
    assert again.readable()[1] == set()
    again.check()
    again.volume.close()


def test_a_value_that_looks_like_records_is_only_a_value(table: Table, tmp_path: Path) -> None:
    """A client stores a segment's very bytes, and the record before it is damaged."""
    write_some(table, 3)
    forged = segments_in(table.volume._root)[0].read_bytes()
    table.put(JOB, 0, b"x", forged[32:] + b"\0" * 8)
    table.delete(JOB, 0, b"0")
    table.put(JOB, 0, b"last", b"value")
    table.volume.commit()
    copy = crashed(table, tmp_path / "copy")
    # The header of the record that holds the forged ones.
    log = segments_in(copy)[0]
    flip(log, len(forged) + 9)
    index_of(log).unlink()
    again = Table(copy)
    assert {name[2] for name in again.entries} == {b"1", b"2", b"last"}
    assert again.readable()[0] == {(JOB, 0, b"last"): (b"value", 0)}
    assert again.volume.state.corrupt_records == 1
    again.volume.close()


def test_many_restarts_leave_one_segment(table: Table, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    for number in range(10):
        again = Table(folder)
        again.put(JOB, 0, b"%d" % number, b"value")
        assert len(again.values()) == number + 1
        again.volume.close()
    assert len(segments_in(folder)) == 1


def test_a_deletion_that_is_damaged_holds_after_collection(table: Table, tmp_path: Path) -> None:
    table.put(JOB, 0, b"key", b"value" * 300)
    write_some(table, 30)
    journal = table.volume.open(JOB)
    table.delete(JOB, 0, b"key")
    segment = journal.active
    assert segment is not None
    at = segment.size - 10
    for number in range(60):
        table.put(JOB, 0, b"%d" % (number % 30), b"newer" * 40)
    table.volume.commit()
    copy = crashed(table, tmp_path / "copy")
    flip(copy / "jobs" / JOB / f"{segment.number:08d}.log", at)
    for _ in range(3):
        again = Table(copy)
        assert (JOB, 0, b"key") not in again.entries
        assert again.readable() == (table.values(), set())
        again.collect()
        again.volume.close()
