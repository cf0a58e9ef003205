from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.engine.errors import CommandError
from pocketkv.tiers.volume import large_file
from pocketkv.tiers.volume.data_file import DataFile, Descriptors
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.large_file import LargeFile
from pocketkv.tiers.volume.large_region import Region
from tests.tiers.large.support import MIB, open_file, sent, some_bytes, string_of, used_bytes


@pytest.fixture
def file(tmp_path: Path) -> LargeFile:
    return open_file(tmp_path / "job")


@pytest.fixture
def small_device(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "device"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def allocated(file: LargeFile, size: int, room: int = 0) -> Region:
    region = file.allocate(size, room)
    assert region is not None
    return region


# --- handing out -------------------------------------------------------------------------------


def test_no_file_is_made_before_it_is_needed(file: LargeFile) -> None:
    assert not file.directory.exists()
    allocated(file, 1)
    assert [path.name for path in file.directory.iterdir()] == ["large-000001.dat"]


def test_no_address_is_handed_out_twice(file: LargeFile) -> None:
    first = allocated(file, 5000)
    place = first.offset, first.size
    assert place == (0, 8192)
    del first
    file.punch_pending()
    assert allocated(file, 1).offset == 8192


def test_addresses_take_no_room(file: LargeFile) -> None:
    region = allocated(file, 1024 * MIB)
    assert used_bytes(file.directory) <= MIB
    assert region.back(3 * MIB)
    assert 3 * MIB <= used_bytes(file.directory) <= 4 * MIB


def test_a_region_takes_what_there_is_room_for(file: LargeFile) -> None:
    region = allocated(file, 4096, 4096)
    assert region.room == 8192
    assert region.append(memoryview(bytes(5000)))
    assert region.room == 3192
    region.seal()
    assert region.room == 0
    with pytest.raises(ValueError, match="no size"):
        file.allocate(0)


def test_the_next_file_is_begun(tmp_path: Path) -> None:
    file = open_file(tmp_path, file_bytes=4 * MIB)
    strings = [string_of(file, some_bytes(MIB, number)) for number in range(9)]
    assert file.files == 3
    # One that is longer than a file has one of its own.
    strings.append(string_of(file, some_bytes(6 * MIB, 9)))
    assert file.files == 4
    for number, string in enumerate(strings):
        assert bytes(string) == some_bytes(len(string), number)


def test_few_files_are_open(tmp_path: Path) -> None:
    descriptors = Descriptors(3)
    strings: list[FileString] = []
    for number in range(20):
        file = LargeFile(tmp_path / str(number), descriptors)
        strings.append(string_of(file, some_bytes(1000, number)))
        assert len(descriptors) <= 3
    replies = [string.bulk() for string in strings[:10]]
    # Those in use stay open.
    assert len(descriptors) >= 10
    for number, reply in enumerate(replies):
        assert os.pread(reply.ranges[0].fd, 1000, 0) == some_bytes(1000, number)
    del reply
    replies.clear()
    for number, string in enumerate(strings):
        assert bytes(string) == some_bytes(1000, number)
    assert len(descriptors) <= 3


# --- taking back -------------------------------------------------------------------------------


def test_what_is_released_is_given_back(file: LargeFile) -> None:
    kept = string_of(file, some_bytes(MIB))
    string = string_of(file, some_bytes(8 * MIB))
    assert file.live_bytes == 9 * MIB
    del string
    assert file.live_bytes == MIB
    assert used_bytes(file.directory) >= 9 * MIB
    file.punch_pending()
    assert used_bytes(file.directory) <= 2 * MIB
    assert file.punched_bytes == 8 * MIB
    assert bytes(kept) == some_bytes(MIB)


def test_nothing_is_given_back_before_the_journal_is_safe(file: LargeFile) -> None:
    kept = string_of(file, some_bytes(MIB))
    string = string_of(file, some_bytes(MIB))
    released = file.take_released()
    assert released == []
    del string
    released = file.take_released()
    assert len(released) == 1
    assert not file.has_released
    other = string_of(file, some_bytes(MIB))
    del other
    file.punch(released)
    # What was released since then waits for the next time.
    assert used_bytes(file.directory) >= 2 * MIB
    file.punch_pending()
    assert used_bytes(file.directory) <= MIB + 65536
    assert len(kept) == MIB


def test_a_dead_file_is_removed(tmp_path: Path) -> None:
    file = open_file(tmp_path, file_bytes=4 * MIB)
    strings = [string_of(file, some_bytes(MIB)) for _ in range(9)]
    del strings[:8]
    assert len(list(tmp_path.iterdir())) == 3
    file.punch_pending()
    assert len(list(tmp_path.iterdir())) == file.files == 1
    assert bytes(strings[0]) == some_bytes(MIB)
    # The last one stays, since more will come.
    strings.clear()
    file.punch_pending()
    assert file.files == 1
    assert used_bytes(tmp_path) <= 65536


def test_a_large_file_without_live_bytes_is_left(
    file: LargeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_file, "_LEFT_BYTES", MIB)
    string = string_of(file, some_bytes(2 * MIB))
    del string
    file.punch_pending()
    assert list(file.directory.iterdir()) == []
    assert bytes(string_of(file, b"anew")) == b"anew"
    file.sync()


def test_a_file_system_without_holes(file: LargeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = string_of(file, some_bytes(MIB))

    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(large_file, "punch_hole", refuse)
    string = string_of(file, some_bytes(MIB))
    del string
    file.punch_pending()
    assert bytes(kept) == some_bytes(MIB)


def test_the_end_of_a_job(file: LargeFile) -> None:
    string = string_of(file, some_bytes(MIB))
    reply = string.bulk()
    file.close()
    file.directory.rename(file.directory.with_name("trash"))
    assert sent(reply) == some_bytes(MIB)
    del reply, string
    file.punch_pending()
    assert len(file.descriptors) == 0
    assert not file.directory.exists()


# --- the device --------------------------------------------------------------------------------


def test_a_full_device_refuses_and_keeps_all_it_has(small_device: Path) -> None:
    file = open_file(small_device / "job")
    kept = string_of(file, some_bytes(5 * MIB))
    string = string_of(file, some_bytes(MIB))
    with pytest.raises(CommandError) as refusal:
        string.write(MIB, some_bytes(4 * MIB))
    assert refusal.value.text.startswith(b"OOM ")
    string.validate()
    with pytest.raises(CommandError, match="OOM"):
        string.write(5, some_bytes(4 * MIB))
    with pytest.raises(CommandError, match="OOM"):
        FileString(file).write(0, some_bytes(4 * MIB))
    assert bytes(string) == some_bytes(MIB)
    file.punch_pending()
    string.write(MIB, some_bytes(MIB, 1))
    assert bytes(string) == some_bytes(MIB) + some_bytes(MIB, 1)
    assert bytes(kept) == some_bytes(5 * MIB)
    del kept
    file.punch_pending()
    assert bytes(string_of(file, some_bytes(5 * MIB))) == some_bytes(5 * MIB)


def test_appends_until_the_device_is_full(small_device: Path) -> None:
    file = open_file(small_device / "job")
    string = FileString(file)
    expected = bytearray()
    part = some_bytes(100_000)
    refusals = 0
    for number in range(100):
        size = 100_000 if number < 90 else 4096
        try:
            string.write(len(string), part[:size])
        except CommandError:
            refusals += 1
        else:
            expected += part[:size]
    assert refusals > 0
    with pytest.raises(CommandError, match="OOM"):
        string.write(len(string), bytes(MIB))
    assert len(expected) >= 7 * MIB
    assert bytes(string) == expected
    string.validate()


def test_whoever_counts_may_refuse(tmp_path: Path) -> None:
    file = LargeFile(tmp_path, Descriptors(), may_use=lambda size: size <= MIB)
    assert file.allocate(MIB) is not None
    string = string_of(file, some_bytes(MIB))
    with pytest.raises(CommandError, match="OOM"):
        string.write(0, some_bytes(3 * MIB))
    assert bytes(string) == some_bytes(MIB)


def test_an_error_of_the_device_changes_nothing(
    file: LargeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    string = string_of(file, some_bytes(MIB))

    def fail(self: DataFile, offset: int, data: memoryview) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patches:
        patches.setattr(DataFile, "write", fail)
        for offset in (0, MIB, 3 * MIB):
            with pytest.raises(CommandError, match="IOERR the device failed: Input"):
                string.write(offset, b"data")
    string.validate()
    assert bytes(string) == some_bytes(MIB)


def test_sync_is_for_what_was_written(file: LargeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    string = string_of(file, some_bytes(MIB))
    file.sync()
    assert len(synced) == 1
    file.sync()
    assert len(synced) == 1
    string.write(0, b"x")
    file.sync()
    assert len(synced) == 2


def test_a_sync_that_fails_leaves_the_others_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_file(tmp_path / "job", file_bytes=MIB)
    strings = [string_of(file, some_bytes(MIB)) for _ in range(3)]
    attempts: list[int] = []

    def fail_once(fd: int) -> None:
        attempts.append(fd)
        if len(attempts) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail_once)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.sync()
    file.sync()
    assert len(attempts) == len(strings)


WRITER = """
import os, signal, sys
from pathlib import Path
from tests.tiers.large.support import open_file, some_bytes, string_of
string = string_of(open_file(Path(sys.argv[1])), some_bytes(700_000))
payload = string.payload()
string.write(100_000, b"changed")
string.write(700_000, some_bytes(300_000, 1))
print(payload.hex(), b"".join(string.take_changes()).hex(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=root,
        timeout=30,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    payload, change = map(bytes.fromhex, killed.stdout.split())
    file = open_file(tmp_path)
    string = FileString.from_payload(file, payload)
    string.apply_change(change)
    file.finish_recovery()
    data = some_bytes(700_000)
    expected = data[:100_000] + b"changed" + data[100_007:] + some_bytes(300_000, 1)
    assert bytes(string) == expected
    file.punch_pending()
    assert bytes(string) == expected


def test_a_worker_gives_back_while_others_are_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_file, "_LEFT_BYTES", MIB)
    file = open_file(tmp_path / "job", file_bytes=2 * MIB)
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                released = file.take_released()
                file.sync()
                file.punch(released)
        except BaseException as error:  # noqa: BLE001 - whatever it was, the test tells
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    kept: dict[int, FileString] = {}
    for number in range(400):
        kept[number % 7] = string_of(file, some_bytes(100_000 + number, number))
        if number % 5 == 0:
            kept.clear()
    stop.set()
    thread.join()
    assert errors == []
    for string in kept.values():
        assert bytes(string) == some_bytes(len(string), len(string) - 100_000)
    kept.clear()
    del string
    file.punch_pending()
    assert file.live_bytes == 0
    assert file.files <= 1
