from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pocketkv.engine.cold import STRING
from pocketkv.limits import MIB
from pocketkv.tiers.volume import journal as journal_module
from pocketkv.tiers.volume.layout import LAYOUTS, layout_of
from pocketkv.tiers.volume.reading import read_record
from pocketkv.tiers.volume.volume import Volume, VolumeError
from tests.core import plain_only
from tests.tiers.volume.table import SMALL, Table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "volume")


def files_of(table: Table, job: str) -> list[str]:
    folder = Path(table.volume.open(job).folder)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def forget_pages(path: Path) -> None:
    """Have the system drop what it holds of a file in memory."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def test_a_value_can_be_read_before_and_after_it_is_written(table: Table) -> None:
    journal = table.volume.open("job")
    cold = journal.put(0, b"key", STRING, b"value", 0)
    assert (cold.kind, cold.length) == (STRING, 5)
    assert journal.read_now(cold) == b"value"
    assert journal.read(cold) == b"value"
    table.volume.commit()
    assert journal.read_now(cold) == b"value"
    assert journal.read(cold) == b"value"


def test_nothing_is_made_for_a_job_that_writes_nothing(table: Table) -> None:
    table.volume.open("job")
    table.volume.commit()
    assert table.volume.jobs() == []
    table.put("job", 0, b"key", b"value")
    assert table.volume.jobs() == []
    table.volume.commit()
    assert table.volume.jobs() == ["job"]


def test_a_commit_writes_once_to_the_segment_and_once_to_its_index(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    pwrite = os.pwrite

    def counted(fd: int, data: bytes, offset: int) -> int:
        written.append(len(data))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    for number in range(50):
        table.put("job", 0, b"%d" % number, b"value")
    assert written == []
    table.volume.commit()
    table.volume.commit()
    assert len(written) == 2
    assert table.volume.buffered_bytes == 0


def test_a_value_that_is_not_in_memory_is_not_waited_for(table: Table) -> None:
    if table.volume.state.in_memory:
        pytest.skip("the file system is in memory")
    journal = table.volume.open("job")
    cold = journal.put(0, b"key", STRING, b"value" * 1000, 0)
    table.volume.commit()
    forget_pages(Path(journal.folder) / "00000001.log")
    if journal.read_now(cold) is not None:
        pytest.skip("the system keeps the file in memory")
    assert table.volume.state.waits == 1
    assert journal.read(cold) == b"value" * 1000
    assert journal.read_now(cold) == b"value" * 1000


@plain_only
def test_reads_where_the_system_cannot_promise_not_to_wait(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(
        fd: int, size: int, offset: int, flags: int, seed: int, length: int
    ) -> bytes | None:
        if flags:
            raise OSError(95, "Operation not supported")
        return read_record(fd, size, offset, flags, seed, length)

    monkeypatch.setattr(journal_module, "read_record", refused)
    journal = table.volume.open("job")
    cold = journal.put(0, b"key", STRING, b"value", 0)
    table.volume.commit()
    table.volume.state.in_memory = False
    assert journal.read_now(cold) is None
    assert journal.read(cold) == b"value"
    table.volume.state.reads_wait = False
    table.volume.state.in_memory = True
    assert journal.read_now(cold) == b"value"


def test_large_and_empty_values(table: Table) -> None:
    values = {b"empty": b"", b"": b"of the empty key", b"large": os.urandom(3 * MIB)}
    for key, value in values.items():
        table.put("job", 0, key, value)
    assert {name[2]: kept[0] for name, kept in table.values().items()} == values
    table.volume.commit()
    assert {name[2]: kept[0] for name, kept in table.values().items()} == values


def test_room_is_reserved_before_it_is_needed(tmp_path: Path) -> None:
    table = Table(tmp_path, layout=replace(SMALL, segment_bytes=MIB), capacity_bytes=MIB)
    journal = table.volume.open("job")
    assert journal.reserve(1000)
    first = table.volume.used_bytes
    assert 1000 <= first <= 256 * 1024
    assert not journal.reserve(2 * MIB)
    assert "capacity" in table.volume.refusal
    assert journal.reserve(1000)
    assert table.volume.used_bytes == first
    # What is over at the end is given back.
    table.put("job", 0, b"key", b"value")
    journal.seal()
    table.volume.commit()
    path = Path(journal.folder) / "00000001.log"
    assert table.volume.used_bytes == path.stat().st_size < 1000
    assert path.stat().st_blocks * 512 <= 8192


def test_a_large_command_stays_within_its_reservation(tmp_path: Path) -> None:
    table = Table(tmp_path)
    journal = table.volume.open("job")
    assert journal.reserve(100_000)
    used = table.volume.used_bytes
    for number in range(90):
        table.put("job", 0, b"%d" % number, b"x" * 1000)
    table.volume.commit()
    assert table.volume.used_bytes == used


def test_thousands_of_files_need_few_descriptors(tmp_path: Path) -> None:
    table = Table(tmp_path)
    for number in range(300):
        for key in (b"a", b"b"):
            table.put(f"job-{number}", 0, key, b"x" * 3000)
        table.volume.commit()
    assert table.volume.segments == 600
    assert table.volume.open_files <= SMALL.open_files_max + 1
    assert len(table.values()) == 600
    table.check()
    assert table.volume.open_files <= SMALL.open_files_max + 1


def test_the_end_of_a_job_frees_all_at_once(table: Table) -> None:
    for job in ("a", "b"):
        for number in range(20):
            table.put(job, 0, b"%d" % number, b"x" * 1000)
    table.volume.commit()
    used = table.volume.used_bytes
    table.drop("a")
    assert table.volume.used_bytes == used / 2
    assert table.volume.jobs() == ["b"]
    assert list((table.volume._trash).iterdir()) != []
    table.volume.empty_trash()
    assert list((table.volume._trash).iterdir()) == []
    # Its name can be used again, and has nothing of what was.
    table.put("a", 0, b"new", b"value")
    table.volume.commit()
    table.volume.sync()
    assert len(table.values()) == 21
    table.check()


def test_a_job_that_wrote_nothing_can_be_dropped(table: Table) -> None:
    table.volume.drop("unknown")
    table.put("job", 0, b"key", b"value")
    table.drop("job")
    table.volume.commit()
    assert table.volume.jobs() == []


def test_a_directory_is_one_servers(tmp_path: Path) -> None:
    first = Table(tmp_path)
    with pytest.raises(VolumeError, match="another server"):
        Table(tmp_path)
    first.volume.close()
    Table(tmp_path).volume.close()


@pytest.mark.parametrize("text", ["", "pocketkv 9\n", "pocketkv 1\n", "pocketkv 2\nsecret 12 34\n"])
def test_a_strange_directory_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "FORMAT").write_text(text)
    with pytest.raises(VolumeError, match="FORMAT"):
        Table(tmp_path)
    # It is not locked by the attempt.
    (tmp_path / "FORMAT").unlink()
    Table(tmp_path).volume.close()


def test_jobs_without_format_are_not_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "mine").mkdir(parents=True)
    for fresh in (False, True):
        with pytest.raises(VolumeError, match="no FORMAT"):
            Table(tmp_path, fresh=fresh)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VolumeError, match="file"):
        Volume(tmp_path / "file", index=object())  # type: ignore[arg-type]


def test_a_spill_store_keeps_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        table = Table(tmp_path, fresh=True)
        assert table.entries == {}
        for number in range(20):
            table.put("job", 0, b"%d" % number, b"x" * 1000)
        table.volume.commit()
        assert len(table.values()) == 20
        table.volume.close()
        assert files_of(table, "job") == [f"{number:08d}.log" for number in range(1, 8)]
    Table(tmp_path, fresh=True).volume.empty_trash()
    assert list((tmp_path / "trash").iterdir()) == []


def test_every_file_tier_has_a_layout() -> None:
    assert layout_of("hdd").segment_bytes > layout_of("nvme").segment_bytes
    assert layout_of("unknown") is LAYOUTS["ssd"]
