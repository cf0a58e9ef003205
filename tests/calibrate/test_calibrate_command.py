"""`pocketkv calibrate` as people run it, on small files."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pocketkv import cli
from pocketkv.calibrate import command
from pocketkv.calibrate.medium import Medium
from pocketkv.calibrate.scratch import ScratchFile
from pocketkv.catalog import load_catalog

SMALL = ["--size", "2mb", "--seconds", "1", "--tier", "nvme"]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("POCKETKV_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    path = tmp_path / "medium"
    path.mkdir()
    return path


def calibrate(*arguments: object) -> int:
    return cli.main(["calibrate", *map(str, arguments)])


def test_a_table_for_people_and_the_entry_to_paste(
    medium: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate("--dir", medium, *SMALL) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"{medium}: ")
    for words in ("write, 1 MiB", "read, 1 MiB", "1 at a time", "16 at a time", "fsync"):
        (line,) = [line for line in out.splitlines() if words in line]
        assert " p50 " in line
        assert " p99 " in line
    assert "USD an hour for a server" in out
    pasted = tmp_path / "own.toml"
    start, end = out.index("[nvme."), out.index("Cost by")
    pasted.write_text(out[start:end])
    machine = load_catalog(str(pasted)).tier("nvme").reference
    assert machine.name == load_catalog().tier("nvme").reference.name
    assert "measured by pocketkv calibrate" in machine.source
    assert list(medium.iterdir()) == []


def test_json_for_scripts(medium: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate("--dir", medium, *SMALL, "--json", "--network", "8mbps") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["write"]["moved_bytes"] == 2 << 20
    assert (found["tier"], found["machine_type"]) == ("nvme", "i4i.2xlarge")
    assert found["entry"]["bandwidth"] == "1000k"
    assert found["random_read_depth_1"]["p50_us"] <= found["random_read_depth_1"]["p99_us"]
    assert found["random_read_depth_16"]["per_s"] > 0
    assert found["fsync"]["operations"] > 0
    assert found["cost_usd_per_hour"] == pytest.approx(0.686)
    assert not [note for note in found["notes"] if "network" in note]


def test_the_entry_is_written_and_merged(medium: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    assert calibrate("--dir", medium, *SMALL, "--write", own) == 0
    first = own.read_text()
    assert stat.S_IMODE(own.stat().st_mode) == 0o644
    own.write_text("# Ours.\n" + first + "price_per_hour = 0.2\n")
    own.chmod(0o600)
    box = ("--machine-type", "box", "--price-per-hour", "0.3", "--price-per-gb-month", "0")
    assert calibrate("--dir", medium, *SMALL, "--write", own, *box) == 0
    assert calibrate("--dir", medium, *SMALL, "--write", own) == 0
    assert own.read_text().startswith("# Ours.\n")
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    nvme = load_catalog(str(own)).tier("nvme")
    assert (nvme.reference.name, nvme.price_per_hour) == ("i4i.2xlarge", 0.2)
    assert nvme.machine("box").price_per_hour == 0.3
    assert sorted(tmp_path.iterdir()) == [medium, own]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert calibrate(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pocketkv calibrate: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--dir or POCKETKV_DIR is needed"),
        (["--dir", "{}/missing"], "No such file or directory"),
        (["--dir", "{}/file"], "Not a directory"),
        (["--dir", "{}", "--size", "8000tb"], "are free, --size is 8000tb"),
        (["--dir", "{}", "--size", "1kb"], "--size: '1kb' is less than 1mb"),
        (["--dir", "{}", "--seconds", "0"], "--seconds: '0' is not a number of seconds"),
        (["--dir", "{}", "--tier", "tape"], "--tier: 'tape' is none of"),
        (["--dir", "{}", "--network", "0"], "--network: '0' is no network"),
        (["--dir", "{}", "--price-per-hour", "nan"], "--price-per-hour: 'nan' is not a price"),
        (["--dir", "{}", "--price-per-hour", "-1"], "--price-per-hour: '-1' is not a price"),
        (["--dir", "{}", "--machine-type", "a b"], "--machine-type: 'a b' is not"),
        (["--dir", "{}", "--machine-type", "box"], "the catalog has no box of nvme"),
        (["--dir", "{}", "--catalog", "{}/missing"], "missing: No such file"),
        (["--dir", "{}", "--write", "{}/missing/own.toml"], "cannot be written to"),
        (["--dir", "{}", "--write", "{}/file"], "file: not TOML"),
        (["--dir", "{}", "--write", "{}"], "Is a directory"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_measured(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(command, "measure", None)
    (tmp_path / "file").write_text("[[")
    given = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    # The first of two wins with argparse's last: the test's own come last.
    assert words in refused(capsys, *SMALL, *given)


def test_a_medium_that_tells_nothing_needs_a_tier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Medium("nfs4", None, None, 1 << 40, None)
    monkeypatch.setattr(command, "look_at", lambda path: unknown)
    assert "--tier or POCKETKV_TIER is needed: nfs4 does not tell" in refused(
        capsys, "--dir", tmp_path
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_medium_that_fails_is_one_line(
    medium: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def fail(self: ScratchFile, offset: int, buffer: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ScratchFile, "write_at", fail)
    assert os.strerror(number) in refused(capsys, "--dir", medium, *SMALL)
    assert list(medium.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
def test_a_full_disk_is_one_line(
    medium: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", medium], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        roomy = Medium("tmpfs", None, None, 1 << 30, "dram")
        monkeypatch.setattr(command, "look_at", lambda path: roomy)
        assert "No space left on device" in refused(capsys, "--dir", medium, *SMALL)
        assert list(medium.iterdir()) == []
        assert os.statvfs(medium).f_bavail * 4096 == 1 << 20
    finally:
        subprocess.run(["umount", medium], check=True)


@pytest.mark.parametrize("phase", [b"reading at random ...", b"16 at a time ..."])
def test_an_interrupt_leaves_nothing_behind(medium: Path, phase: bytes) -> None:
    terminal, its_end = pty.openpty()
    # Single reads, which come before deep ones, take 15 % of this.
    seconds = "100" if phase.startswith(b"reading") else "10"
    arguments = ["calibrate", "--dir", str(medium), "--size", "2mb", "--seconds", seconds]
    with subprocess.Popen(
        [sys.executable, "-m", "pocketkv", *arguments, "--tier", "nvme"],
        stdout=subprocess.PIPE,
        stderr=its_end,
    ) as process:
        os.close(its_end)
        said = b""
        # It tells a terminal what it is doing: then is the time.
        while phase not in said:
            said += os.read(terminal, 1024)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == cli.INTERRUPTED
    os.close(terminal)
    assert out == b""
    assert list(medium.iterdir()) == []
