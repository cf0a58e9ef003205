"""What is read: verified, and by the serving thread only what is there."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from pocketkv.engine.errors import CommandError
from pocketkv.resp.replies import FileRange
from pocketkv.tiers.volume import large_region, page_cache
from pocketkv.tiers.volume.file_pieces import ZeroOwner
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.large_file import LargeFile
from pocketkv.tiers.volume.large_region import RegionHold, runs
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

PAGE = 4096


@pytest.fixture
def file(tmp_path: Path) -> LargeFile:
    return open_file(tmp_path / "job")


def only_range(string: FileString) -> FileRange:
    (part,) = string.bulk().ranges
    return part


def owner(part: FileRange) -> RegionHold | ZeroOwner:
    """Who is asked before it is sent."""
    assert isinstance(part.owner, RegionHold | ZeroOwner)
    return part.owner


def flip(file: LargeFile, offset: int) -> None:
    """Change a byte on the device, behind everybody's back."""
    (path,) = file.directory.iterdir()
    fd = os.open(path, os.O_RDWR)
    byte = os.pread(fd, 1, offset)
    os.pwrite(fd, bytes([byte[0] ^ 1]), offset)
    os.close(fd)
    drop_cache(file)


def needs_eviction(file: LargeFile) -> None:
    """Skip where a file system keeps its pages whatever one wishes."""
    string = string_of(file, some_bytes(PAGE))
    drop_cache(file)
    if string.is_ready(0, PAGE):
        pytest.skip("this file system keeps its files in memory")


# --- what is there -----------------------------------------------------------------------------


def test_what_was_written_can_be_sent_at_once(file: LargeFile) -> None:
    part = only_range(string_of(file, some_bytes(MIB + 5)))
    assert owner(part).resident(part.offset, part.size) == MIB + 5
    assert owner(part).resident(part.offset + 700, 9) == 9
    assert os.pread(part.fd, part.size, part.offset) == some_bytes(MIB + 5)


def test_what_left_the_cache_must_be_fetched(file: LargeFile) -> None:
    needs_eviction(file)
    part = only_range(string_of(file, some_bytes(2 * MIB)))
    drop_cache(file)
    assert owner(part).resident(part.offset, part.size) == 0
    owner(part).fetch(part.offset + MIB, 1)
    # The block that was asked for is there, and nothing else was read.
    assert owner(part).resident(part.offset + MIB, MIB) == BLOCK
    assert owner(part).resident(part.offset + MIB - 1, 1) == 0
    assert owner(part).resident(part.offset, part.size) == 0
    owner(part).fetch(part.offset, part.size)
    assert owner(part).resident(part.offset, part.size) == 2 * MIB


def test_a_part_of_a_block_that_is_there_can_be_sent(file: LargeFile) -> None:
    needs_eviction(file)
    part = only_range(string_of(file, some_bytes(MIB)))
    drop_cache(file)
    os.pread(part.fd, 3 * PAGE, part.offset)
    assert owner(part).resident(part.offset, part.size) == 3 * PAGE
    assert owner(part).resident(part.offset + 100, part.size - 100) == 3 * PAGE - 100
    assert owner(part).resident(part.offset + 3 * PAGE, PAGE) == 0


def test_after_a_restart_everything_must_be_fetched_once(file: LargeFile) -> None:
    string = string_of(file, some_bytes(3 * BLOCK))
    _, (again,) = restarted(file, string)
    part = only_range(again)
    assert owner(part).resident(part.offset, part.size) == 0
    owner(part).fetch(part.offset, 1)
    assert owner(part).resident(part.offset, part.size) == BLOCK
    owner(part).fetch(part.offset, part.size)
    assert owner(part).resident(part.offset, part.size) == 3 * BLOCK


def test_zeros_are_always_there(file: LargeFile) -> None:
    string = FileString(file)
    string.write(MIB, b"x")
    zeros = string.bulk().ranges[0]
    assert owner(zeros).resident(0, MIB) == MIB
    owner(zeros).fetch(0, MIB)
    assert bytes(owner(zeros).view(0, 3 * MIB)) == bytes(3 * MIB)


def test_what_a_read_would_wait_for(file: LargeFile) -> None:
    string = string_of(file, some_bytes(3 * BLOCK))
    string.write(4 * BLOCK, some_bytes(100))
    assert string.missing(0, len(string)) == []
    _, (again,) = restarted(file, string)
    missing = again.missing(BLOCK, len(again))
    assert len(missing) == 2
    assert missing == again.missing(BLOCK, len(again))
    assert len({*missing, *again.missing(BLOCK, len(again))}) == 2
    for pending in missing:
        assert pending.keep(pending.read())
        pending.forget()
    assert again.missing(BLOCK, len(again)) == []
    assert len(again.missing(0, len(again))) == 1
    assert not missing[0].keep(CommandError(b"IOERR"))


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_flipped_byte_is_an_error_and_never_sent(file: LargeFile, is_restarted: bool) -> None:
    if not is_restarted:
        needs_eviction(file)
    data = some_bytes(5 * BLOCK + 77)
    string = string_of(file, data)
    part = only_range(string)
    flip(file, part.offset + 2 * BLOCK + 1000)
    if is_restarted:
        _, (string,) = restarted(file, string)
        part = only_range(string)
    for _ in range(2):
        with pytest.raises(CommandError, match="IOERR") as refusal:
            owner(part).fetch(part.offset, part.size)
        assert refusal.value.text.startswith(b"IOERR ")
        # Blocks beside it may be verified; it is not.
        assert owner(part).resident(part.offset + 2 * BLOCK, BLOCK) == 0
    with pytest.raises(CommandError, match="IOERR"):
        string.read(2 * BLOCK + 999, 2 * BLOCK + 1000)
    # All else is fine.
    assert string.read(0, 2 * BLOCK) == data[: 2 * BLOCK]
    assert string.read(3 * BLOCK, len(data)) == data[3 * BLOCK :]
    owner(part).fetch(part.offset + 3 * BLOCK, 1)
    # What is written over it makes it good again.
    string.write(2 * BLOCK, bytes(BLOCK))
    assert bytes(string) == data[: 2 * BLOCK] + bytes(BLOCK) + data[3 * BLOCK :]


def test_damage_that_was_mended_is_forgotten(file: LargeFile) -> None:
    string = string_of(file, some_bytes(BLOCK))
    flip(file, 5)
    _, (again,) = restarted(file, string)
    with pytest.raises(CommandError, match="IOERR"):
        again.read(0, 1)
    flip(file, 5)
    assert bytes(again) == some_bytes(BLOCK)


def test_a_file_that_is_too_short_is_an_error(file: LargeFile) -> None:
    string = string_of(file, some_bytes(4 * BLOCK))
    (path,) = file.directory.iterdir()
    os.truncate(path, 2 * BLOCK)
    _, (again,) = restarted(file, string)
    assert again.read(0, 2 * BLOCK) == some_bytes(4 * BLOCK)[: 2 * BLOCK]
    with pytest.raises(CommandError, match="IOERR"):
        again.read(2 * BLOCK, 2 * BLOCK + 1)


def test_an_error_of_the_device_is_an_error_of_the_key(
    file: LargeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    string = string_of(file, some_bytes(BLOCK))
    _, (again,) = restarted(file, string)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patches:
        patches.setattr(large_region, "read_into", fail)
        part = only_range(again)
        with pytest.raises(CommandError) as refusal:
            owner(part).fetch(part.offset, part.size)
        assert refusal.value.text == b"IOERR the device failed: Input/output error"
        assert owner(part).resident(part.offset, part.size) == 0
    assert bytes(again) == some_bytes(BLOCK)


# --- several threads ---------------------------------------------------------------------------


def test_fetching_while_the_string_grows(file: LargeFile) -> None:
    """The last block's checksum changes with each append."""
    string = string_of(file, b"begin")
    string.write(5, bytes(1))
    errors: list[BaseException] = []
    stop = threading.Event()

    def fetch() -> None:
        try:
            while not stop.is_set():
                for part in string.bulk().ranges:
                    owner(part).fetch(part.offset, part.size)
        except BaseException as error:  # noqa: BLE001 - whatever it was, the test tells
            errors.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    expected = bytearray(b"begin\0")
    for number in range(300):
        data = some_bytes(997, number)
        string.write(len(string), data)
        expected += data
        if number % 50 == 0:
            drop_cache(file)
    stop.set()
    thread.join()
    assert errors == []
    assert bytes(string) == expected
    assert sent(string.bulk()) == expected


# --- the page cache ----------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [True, False])
def test_what_the_page_cache_holds(
    tmp_path: Path, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = page_cache._Probe()
    probe.counts = counts
    monkeypatch.setattr(page_cache, "_probe", probe)
    path = tmp_path / "data"
    path.write_bytes(some_bytes(MIB))
    fd = os.open(path, os.O_RDWR)
    try:
        page_cache.read_nothing_ahead(fd)
        assert page_cache.resident_bytes(fd, 0, MIB) == MIB
        assert page_cache.resident_bytes(fd, 5, 0) == 0
        os.fsync(fd)
        page_cache.forget(fd, 0, MIB)
        if page_cache.resident_bytes(fd, 0, MIB):
            pytest.skip("this file system keeps its files in memory")
        for pages in (1, 2, 7, 100, 255):
            os.pread(fd, pages * PAGE, 0)
            assert page_cache.resident_bytes(fd, 0, MIB) == pages * PAGE
        os.pread(fd, MIB, 0)
        page_cache.forget(fd, 64 * PAGE, PAGE)
        assert page_cache.resident_bytes(fd, 10, MIB - 10) == 64 * PAGE - 10
        assert page_cache.resident_bytes(fd, 65 * PAGE, MIB - 65 * PAGE) == MIB - 65 * PAGE
    finally:
        os.close(fd)


def test_a_system_that_does_not_count_is_asked_otherwise(tmp_path: Path) -> None:
    probe = page_cache._Probe()
    path = tmp_path / "data"
    path.write_bytes(bytes(3 * PAGE))
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(page_cache, "CACHESTAT", 100_000)
            assert probe.resident(fd, 0, 3 * PAGE) == 3 * PAGE
        assert probe.counts is False
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file"):
        page_cache.resident_bytes(fd, 0, 1)


def test_runs_of_bits() -> None:
    assert runs(0) == []
    assert runs(0b1) == [(0, 1)]
    assert runs(0b1101110) == [(1, 4), (5, 7)]
    assert runs(1 << 4095) == [(4095, 4096)]
