from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from pocketkv.tiers.volume import pacing
from pocketkv.tiers.volume.pacing import Pacer
from tests.tiers.large.support import MIB, open_file, some_bytes, string_of


def test_what_is_written_is_outstanding_until_it_was_drained(tmp_path: Path) -> None:
    pacer = Pacer(start_bytes=2 * MIB, behind_bytes=4 * MIB, window_bytes=MIB)
    file = open_file(tmp_path / "job", pacer)
    string = string_of(file, some_bytes(MIB))
    assert pacer.outstanding_bytes == MIB
    assert (pacer.is_due, pacer.is_behind) == (False, False)
    string.write(MIB, some_bytes(MIB))
    assert (pacer.is_due, pacer.is_behind) == (True, False)
    string.write(2 * MIB, some_bytes(3 * MIB))
    assert (pacer.is_due, pacer.is_behind) == (True, True)
    pacer.drain(4 * MIB)
    assert pacer.outstanding_bytes <= 4 * MIB
    pacer.drain()
    assert pacer.outstanding_bytes == 0
    assert pacer.drained_bytes == 5 * MIB
    pacer.drain()
    assert bytes(string)[: 2 * MIB] == some_bytes(MIB) * 2


def test_what_was_drained_is_on_the_device(tmp_path: Path) -> None:
    """So that it can leave the page cache."""
    pacer = Pacer()
    file = open_file(tmp_path / "job", pacer)
    string = string_of(file, some_bytes(MIB))
    part = string.bulk().ranges[0]
    os.posix_fadvise(part.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert string.is_ready(0, MIB)
    pacer.drain()
    os.posix_fadvise(part.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if string.is_ready(0, MIB):
        pytest.skip("this file system keeps its files in memory")
    assert bytes(string) == some_bytes(MIB)


def test_what_was_removed_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def note(fd: int, offset: int, size: int, flags: int) -> None:
        written.append(size)

    monkeypatch.setattr(pacing, "_write_back", note)
    pacer = Pacer()
    file = open_file(tmp_path / "job", pacer)
    string_of(file, some_bytes(MIB))
    pacer.drain()
    assert (written, pacer.outstanding_bytes) == ([], 0)
    string = string_of(file, some_bytes(MIB))
    pacer.drain()
    # Begun, and waited for.
    assert written == [MIB, MIB]
    string.write(MIB, some_bytes(MIB))
    file.close()
    pacer.drain()
    assert len(written) == 2


def test_parts_that_follow_each_other_are_one(tmp_path: Path) -> None:
    pacer = Pacer()
    file = open_file(tmp_path / "job", pacer)
    string = string_of(file, some_bytes(100_000))
    for _ in range(100):
        string.write(len(string), bytes(1000))
    assert len(pacer._parts) <= 3
    assert pacer.outstanding_bytes == 200_000


def test_a_device_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, offset: int, size: int, flags: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    pacer = Pacer()
    string = string_of(open_file(tmp_path / "job", pacer), some_bytes(MIB))
    with monkeypatch.context() as patches:
        patches.setattr(pacing, "_write_back", fail)
        with pytest.raises(OSError, match="Input/output"):
            pacer.drain()
    assert pacer.outstanding_bytes == 0
    assert len(string) == MIB


def test_a_file_system_that_cannot_write_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(pacing, "_sync_file_range", lambda *_: -1)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EOPNOTSUPP)
    pacer = Pacer()
    string = string_of(open_file(tmp_path / "job", pacer), some_bytes(MIB))
    pacer.drain()
    assert len(synced) == 1
    assert bytes(string) == some_bytes(MIB)
