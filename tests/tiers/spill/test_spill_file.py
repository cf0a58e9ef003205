"""A dram server that spills to a directory, as a process."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pocketkv import limits
from tests.tiers.files.disks import leave_cache, thin_ext4, tmpfs
from tests.tiers.spill.writing import EXCESS, MEMORY_BYTES, Peak, keys_of, read, value_of, write
from tests.tiers.storage_process import eventually, storage

KIB = limits.KIB
MIB = limits.MIB


@pytest.mark.parametrize("size", [4 * KIB, 50_000, MIB, 10 * MIB])
def test_three_times_the_memory(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "spill"
    with storage(tmp_path, "--memory", "64mb", "--spill", str(folder)) as server:
        client = server.client()
        peak = Peak(server)
        numbers = keys_of(3 * MEMORY_BYTES, size)
        assert write(client, numbers, size, peak) == []
        assert server.info("used_memory") <= MEMORY_BYTES
        assert server.info("spilled_keys") > len(numbers) / 2
        assert read(client, numbers, size, peak) == []
        random.Random(1).shuffle(numbers)
        # What is written over, and removed, gives its room back.
        assert write(client, numbers[: len(numbers) // 2], size, peak) == []
        assert read(client, numbers, size, peak) == []
        # One value of this size at a time may be on its way back beyond the memory.
        assert peak.share < 1 + EXCESS + size / MEMORY_BYTES
        assert client("FLUSHALL") == "OK"
        assert server.info("spilled_keys") == 0
        eventually(lambda: sum(path.stat().st_blocks for path in folder.glob("jobs/*/*")) == 0)
        assert write(client, numbers[:10], size) == []
        assert read(client, numbers[:10], size) == []
    assert list(folder.glob("jobs/*")) == []


def test_below_the_mark_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    with storage(tmp_path, "--memory", "64mb", "--spill", str(folder)) as server:
        numbers = keys_of(MEMORY_BYTES // 2, 10_000)
        client = server.client()
        assert write(client, numbers, 10_000) == []
        assert read(client, numbers, 10_000) == []
        assert server.info("spill_moved_out") == 0
        assert list(folder.glob("jobs/*")) == []


def test_sets_and_long_values_together(tmp_path: Path) -> None:
    with storage(tmp_path, "--memory", "64mb", "--spill", str(tmp_path / "spill")) as server:
        client = server.client()
        for number in range(400):
            members = [b"member %d of %d" % (i, number) for i in range(200)]
            assert client("SADD", b"set %d" % number, *members) == 200
        numbers = keys_of(2 * MEMORY_BYTES, 300_000)
        assert write(client, numbers, 300_000) == []
        assert server.info("spill_moved_out") > 0
        for number in range(400):
            assert client("SCARD", b"set %d" % number) == 200
            assert client("SISMEMBER", b"set %d" % number, b"member 7 of %d" % number) == 1
            assert client("SREM", b"set %d" % number, b"member 7 of %d" % number) == 1
        for number in numbers:
            assert client("APPEND", b"k%d" % number, b"tail") == 300_004
        for number in numbers:
            assert client.get(b"k%d" % number) == value_of(number, 300_000) + b"tail"
        for number in range(400):
            assert client("SCARD", b"set %d" % number) == 199


def test_a_full_disk(tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "disk", 40 * MIB) as disk,
        storage(tmp_path, "--memory", "64mb", "--spill", str(disk / "spill")) as server,
    ):
        client = server.client()
        numbers = keys_of(200 * MIB, 100_000)
        written: list[int] = []
        refused: list[bytes] = []
        for number in numbers:
            refused = write(client, [number], 100_000)
            if refused:
                break
            written.append(number)
        assert refused[0].startswith(b"-OOM command not allowed")
        assert b"No space left on device" in refused[0]
        # More than there is memory; and nothing of it is lost.
        assert len(written) * 100_000 > 80 * MIB
        assert read(client, written, 100_000) == []
        assert server.info("spilled_keys") > 0
        # What is removed makes room.
        for number in written[: len(written) // 2]:
            assert client("DEL", b"k%d" % number) == 1
        rest = written[len(written) // 2 :]
        assert write(client, written[:50], 100_000) == []
        assert read(client, rest, 100_000) == []


def test_a_damaged_large_value_is_an_error_and_never_wrong_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    with storage(tmp_path, "--memory", "64mb", "--spill", str(folder)) as server:
        client = server.client()
        numbers = keys_of(2 * MEMORY_BYTES, MIB)
        assert write(client, numbers, MIB) == []
        for path in folder.glob("jobs/*/large-*.dat"):
            with path.open("r+b") as file:
                for offset in range(300_000, path.stat().st_size, MIB):
                    file.seek(offset)
                    file.write(b"damage")
        damaged: list[int] = []
        for number in numbers:
            # What is read displaces others, which are written and read without damage.
            reply = client("GETRANGE", b"k%d" % number, 0, -1)
            if reply != value_of(number, MIB):
                assert "IOERR the stored value is damaged" in str(reply)
                damaged.append(number)
        assert 0 < len(damaged) < len(numbers)
        assert write(client, damaged, MIB) == []
        assert read(client, numbers, MIB) == []


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(AssertionError, match="--spill"),
        storage(tmp_path, "--memory", "64mb", "--spill", str(tmp_path / "file")),
    ):
        pass


@pytest.mark.parametrize("size", [50_000, MIB])
def test_what_a_disk_loses_after_it_had_taken_it_is_written_again(
    tmp_path: Path, size: int
) -> None:
    log = tmp_path / "log"
    with thin_ext4(tmp_path / "disk", 256 * MIB) as disk:
        folder = disk.folder / "spill"
        with storage(tmp_path, "--memory", "64mb", "--spill", str(folder)) as server:
            client = server.client()
            numbers = keys_of(int(1.5 * MEMORY_BYTES), size)
            before, after = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
            assert write(client, before, size) == []
            disk.fail()
            # Some of it is moved out, and seems to be written at first.
            refused = write(client, after, size)
            assert all(line.startswith(b"-OOM") for line in refused)
            eventually(lambda: "the spill directory fails" in log.read_text(), timeout_s=30)
            held = [number for number in numbers if client("EXISTS", f"k{number}") == 1]
            disk.work()
            eventually(lambda: "is written again" in log.read_text(), timeout_s=60)
            leave_cache(folder)
            wrong = read(client, held, size)
            assert wrong == []
