"""Disks that are full, fail, or disappear."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from pocketkv.engine.cold import CLEAR
from pocketkv.engine.errors import CommandError
from pocketkv.limits import KIB, MIB
from pocketkv.tiers.volume import journal as journal_module
from pocketkv.tiers.volume.volume import VolumeError
from tests.core import plain_only
from tests.tiers.volume.table import SMALL, Table

LAYOUT = replace(SMALL, segment_bytes=64 * KIB, collect_bytes=16 * KIB)


def mounted(folder: Path, *command: str) -> None:
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    done = subprocess.run(["mount", *command, str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.decode(errors='replace').strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    if request.param == "tmpfs":
        mounted(folder, "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(4 * MIB)
        made = subprocess.run(
            ["mkfs.ext4", "-q", "-m", "0", str(image)], capture_output=True, check=False
        )
        if made.returncode != 0:
            pytest.skip("cannot make an ext4 file system")
        mounted(folder, "-o", "loop", str(image))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def failing(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    when: Callable[[], bool],
    module: ModuleType = os,
) -> None:
    """Have a function of `os`, or of another module, fail with an error while `when` says so."""
    real = getattr(module, name)

    def maybe(*arguments: object) -> object:
        if when():
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(module, name, maybe)


def use_up(path: Path) -> None:
    """Write a file for as long as there is room."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)


def fill(table: Table, *, value: bytes = b"x" * 4000) -> int:
    """Write as a server does, until there is no room; return how many values found some."""
    count = 0
    while table.volume.open("job").reserve(len(value) + 64):
        table.put("job", 0, b"%d" % count, value)
        table.volume.commit()
        count += 1
        assert count < 5000
    return count


def test_a_full_disk_is_met_before_a_command_is_executed(small_disk: Path) -> None:
    table = Table(small_disk / "volume", layout=LAYOUT)
    count = fill(table)
    assert count > 100
    assert "space" in table.volume.refusal
    # Nothing is lost, and everything can be read and deleted.
    assert len(table.values()) == count
    table.check()
    for number in range(count):
        table.delete("job", 0, b"%d" % number)
        table.volume.commit()
    table.collect()
    assert table.volume.live_bytes == 0
    # The room is there again, but for what the last segment holds.
    assert fill(table) > count * 0.8
    table.volume.close()
    again = Table(small_disk / "volume", layout=LAYOUT)
    assert len(again.values()) > count * 0.8
    again.volume.close()


def test_a_full_disk_can_be_collected(small_disk: Path) -> None:
    table = Table(small_disk / "volume", layout=LAYOUT)
    count = fill(table)
    for number in range(count):
        if number % 3:
            table.delete("job", 0, b"%d" % number)
            table.volume.commit()
    assert table.volume.pressed
    table.collect()
    table.check()
    assert len(table.values()) == -(-count // 3)
    more = 0
    while table.volume.open("job").reserve(4064):
        table.put("job", 0, b"more:%d" % more, b"x" * 4000)
        table.volume.commit()
        more += 1
    assert more > count / 3
    table.volume.close()


def test_what_does_not_fit_stays_in_memory_until_it_does(small_disk: Path) -> None:
    table = Table(small_disk / "volume", layout=LAYOUT)
    filler = small_disk / "filler"
    table.put("job", 0, b"first", b"value")
    table.volume.commit()
    with pytest.raises(OSError, match="space"):
        use_up(filler)
    # More than the ballast is.
    for number in range(100):
        table.put("job", 0, b"%d" % number, b"y" * 4000)
    for _ in range(2):
        with pytest.raises(OSError, match="space"):
            table.volume.commit()
        assert table.volume.error is not None
        assert not table.volume.open("job").reserve(100)
        assert len(table.values()) == 101
    filler.unlink()
    table.volume.commit()
    assert table.volume.error is None
    assert table.volume.buffered_bytes == 0
    assert len(table.values()) == 101
    table.volume.close()


def test_a_disk_that_refuses_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path)
    table.put("a", 0, b"key", b"old")
    table.volume.commit()
    broken = [True]
    failing(monkeypatch, "pwrite", errno.EIO, lambda: broken[0])
    table.put("a", 0, b"key", b"new")
    table.put("b", 0, b"key", b"other")
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            table.volume.commit()
    assert not table.volume.open("a").reserve(1)
    assert "Input/output" in table.volume.refusal
    assert table.value("a", 0, b"key") == b"new"
    broken[0] = False
    table.volume.commit()
    assert table.volume.open("a").reserve(1)
    table.volume.close()
    again = Table(tmp_path)
    assert again.value("a", 0, b"key") == b"new"
    assert again.value("b", 0, b"key") == b"other"
    again.volume.close()


def test_a_write_that_stops_half_way_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:10], at))
    table = Table(tmp_path)
    for number in range(30):
        table.put("job", 0, b"%d" % number, b"value" * 50)
    table.volume.commit()
    before = table.values()
    table.volume.close()
    again = Table(tmp_path)
    assert again.values() == before
    again.volume.close()


def test_the_jobs_that_can_be_written_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path)
    for job in ("a", "b", "c"):
        table.put(job, 0, b"key", job.encode())
    calls = iter([True, False, False])
    failing(monkeypatch, "pwrite", errno.EIO, lambda: next(calls, False))
    with pytest.raises(OSError, match="Input/output"):
        table.volume.commit()
    assert table.volume.buffered_bytes > 0
    # The end of the job whose writing failed is the end of the trouble.
    table.drop("a")
    assert table.volume.error is None
    assert {name[0] for name in table.values()} == {"b", "c"}
    table.volume.close()


@pytest.mark.parametrize("name", [pytest.param("read_record", marks=plain_only), "pread"])
def test_a_disk_that_refuses_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    table = Table(tmp_path)
    journal = table.volume.open("job")
    table.put("job", 0, b"key", b"value")
    table.volume.commit()
    cold = table.entries["job", 0, b"key"].base
    broken = [True]
    owner = os if name == "pread" else journal_module
    failing(monkeypatch, name, errno.EIO, lambda: broken[0], owner)
    with pytest.raises(CommandError, match=r"IOERR .*Input/output"):
        journal.read(cold) if name == "pread" else journal.read_now(cold)
    assert table.volume.state.read_errors == 1
    broken[0] = False
    assert journal.read(cold) == b"value"
    table.volume.close()


def test_a_segment_that_cannot_be_read_is_not_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path)
    table.put("job", 0, b"key", b"value")
    for number in range(10):
        table.put("job", 0, b"filler:%d" % (number % 2), b"x" * 1500)
    table.volume.commit()
    broken = [True]
    failing(monkeypatch, "pread", errno.EIO, lambda: broken[0])
    table.collect()
    broken[0] = False
    assert table.value("job", 0, b"key") == b"value"
    table.check()
    table.volume.close()


def test_what_is_not_synced_keeps_what_it_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path)
    for number in range(10):
        table.put("job", 0, b"key", b"%d" % number * 3000)
    table.volume.commit()
    old = Path(table.volume.open("job").folder) / "00000001.log"
    broken = [True]
    failing(monkeypatch, "fdatasync", errno.EIO, lambda: broken[0])
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            table.volume.sync()
    assert old.exists()
    broken[0] = False
    # What the system has forgotten is written again before anything is removed.
    with pytest.raises(OSError, match="Input/output"):
        table.volume.sync()
    assert old.exists()
    assert table.volume.rescue()
    table.volume.sync()
    assert not old.exists()
    assert table.value("job", 0, b"key") == b"9" * 3000
    table.volume.close()


def lose(path: Path, start: int) -> None:
    """What is in a file from some place on never came to the disk, and has left memory."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(start)
        file.write(bytes(size - start))


def test_what_the_device_has_lost_is_written_again_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path / "volume", layout=LAYOUT)
    for number in range(20):
        table.put("job", 0, b"%d" % number, b"%d" % number * 50)
        table.put("job", 1, b"%d" % number, b"to be cleared")
    table.put("job", 0, b"chain", b"base")
    table.volume.commit()
    table.volume.sync()
    segment = table.volume.open("job").active
    assert segment is not None
    synced = segment.size
    assert segment.synced == synced
    # From here on the device takes nothing.
    for number in range(5):
        table.put("job", 0, b"%d" % number, b"newer %d" % number)
    table.delete("job", 0, b"5")
    table.expire("job", 0, b"6", 66)
    table.clear("job", 1)
    table.put("job", 1, b"1", b"not cleared")
    table.change("job", 0, b"chain", b"+changed")
    table.put("other", 0, b"key", b"of another job")
    table.volume.commit()
    expected = table.values()
    broken = [True]
    failing(monkeypatch, "fdatasync", errno.EIO, lambda: broken[0])
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            table.volume.sync()
    assert not table.volume.takes_writes()
    assert not table.volume.rescue()
    # Writing goes on meanwhile.
    table.put("job", 0, b"meanwhile", b"value")
    table.volume.commit()
    expected["job", 0, b"meanwhile"] = (b"value", 0)
    broken[0] = False
    assert table.volume.rescue()
    table.volume.sync()
    assert table.values() == expected
    table.check()
    # The machine stops; but for a CLEAR, which has no other place, nothing was trusted to the old
    # ones.
    clear = Path(segment.path).read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(table.volume._root, copy)
    table.volume.close()
    log = copy / "jobs" / "job" / Path(segment.path).name
    at = clear.index(b"PKV1", synced)
    while clear[at + 8] != CLEAR:
        at = clear.index(b"PKV1", at + 8)
    lose(log, synced)
    with log.open("r+b") as file:
        file.seek(at)
        file.write(clear[at : at + 40])
    (copy / "lock").write_bytes(b"another boot")
    again = Table(copy, layout=LAYOUT)
    assert again.values() == expected
    again.volume.close()


def test_what_cannot_be_read_back_is_an_error_at_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path, layout=LAYOUT)
    table.put("job", 0, b"old", b"value")
    table.volume.commit()
    table.volume.sync()
    for name in (b"a", b"b", b"c"):
        table.put("job", 0, name, name * 3000)
    table.volume.commit()
    segment = table.volume.open("job").active
    assert segment is not None
    broken = [True]
    failing(monkeypatch, "fdatasync", errno.EIO, lambda: broken[0])
    with pytest.raises(OSError, match="Input/output"):
        table.volume.sync()
    broken[0] = False
    lose(Path(segment.path), table.entries["job", 0, b"c"].base.offset)
    damaged = table.entries["job", 0, b"b"].base.offset + 2000
    with Path(segment.path).open("r+b") as file:
        file.seek(damaged)
        file.write(b"?")
    assert table.volume.rescue()
    table.volume.sync()
    values, refused = table.readable()
    assert refused == {("job", 0, b"b"), ("job", 0, b"c")}
    assert values["job", 0, b"a"] == (b"a" * 3000, 0)
    assert values["job", 0, b"old"] == (b"value", 0)
    assert table.volume.corrupt_records == 2
    table.volume.close()
    again = Table(tmp_path, layout=LAYOUT)
    assert again.readable() == (values, refused)
    again.volume.close()


def test_files_that_vanish_cost_their_keys_only(tmp_path: Path) -> None:
    table = Table(tmp_path)
    for number in range(40):
        table.put("job", 0, b"%d" % number, b"%d" % number * 200)
    table.volume.commit()
    table.volume.state.files.close_all()
    segments = list(table.volume.open("job").segments.values())
    Path(segments[0].path).unlink()
    os.truncate(segments[1].path, 500)
    values, refused = table.readable()
    gone = {
        name for name, entry in table.entries.items()
        if entry.base.place is segments[0]
        or (entry.base.place is segments[1] and entry.base.offset + entry.base.record_bytes > 500)
    }  # fmt: skip
    assert gone
    assert refused == gone
    assert len(values) == 40 - len(gone)
    # What is written from now on is fine.
    table.put("job", 0, b"0", b"new")
    table.volume.commit()
    table.volume.sync()
    assert table.value("job", 0, b"0") == b"new"
    table.volume.close()


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.put("job", 0, b"old", b"value")
    table.volume.commit()
    table.volume.state.files.close_all()
    folder = Path(table.volume.open("job").folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    table.put("job", 0, b"new", b"value")
    table.volume.commit()
    assert table.readable() == ({("job", 0, b"new"): (b"value", 0)}, {("job", 0, b"old")})
    table.volume.close()
    again = Table(tmp_path)
    assert again.value("job", 0, b"new") == b"value"
    again.volume.close()


def test_a_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "open", errno.EROFS, lambda: True)
    with pytest.raises(VolumeError, match="Read-only"):
        Table(tmp_path)
