"""Directories that a server cannot use: one line that says why, and exit status 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tiers.files.disks import tmpfs
from tests.tiers.files.servers import FILE_TIERS, refusal, serving


def refused(folder: Path, *options: str) -> str:
    """What a server says that cannot use a directory: one line."""
    status, said = refusal("--tier", "nvme", "--dir", str(folder), *options)
    assert status == 2, said
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    assert str(folder) in said
    return said


@pytest.mark.parametrize("tier", FILE_TIERS)
def test_two_servers_on_one_directory(tmp_path: Path, tier: str) -> None:
    folder = tmp_path / "values"
    with serving(tmp_path, "--tier", tier, "--dir", str(folder)) as server:
        server.control("SET", "key", "value")
        assert "another server uses it" in refused(folder)
        assert server.control("GET", "key") == b"value"
        server.kill()
    with serving(tmp_path, "--tier", tier, "--dir", str(folder)) as server:
        assert server.control("GET", "key") == b"value"


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a directory")
    refused(path)
    refused(path / "below")
    assert path.read_text() == "not a directory"


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 1 << 20) as folder:
        assert os.system(f"mount -o remount,ro {folder}") == 0  # noqa: S605 - a path of ours
        assert "ead-only" in refused(folder)
        assert "ead-only" in refused(folder / "below")


def test_another_format(tmp_path: Path) -> None:
    folder = tmp_path / "values"
    with serving(tmp_path, "--tier", "nvme", "--dir", str(folder)) as server:
        server.control("SET", "key", "value")
    before = (folder / "FORMAT").read_text()
    for text in ("", "pocketkv 1\nsecret 00 00\n", "pocketkv 2\nsecret x y\n", "\0\xff"):
        (folder / "FORMAT").write_text(text)
        assert "FORMAT" in refused(folder)
    (folder / "FORMAT").unlink()
    assert "FORMAT" in refused(folder)
    (folder / "FORMAT").write_text(before)
    with serving(tmp_path, "--tier", "nvme", "--dir", str(folder)) as server:
        assert server.control("GET", "key") == b"value"


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "values"
    (folder / "jobs" / "default").mkdir(parents=True)
    precious = folder / "jobs" / "default" / "precious.txt"
    precious.write_text("mine")
    refused(folder)
    assert precious.read_text() == "mine"
