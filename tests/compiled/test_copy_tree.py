"""The copy in which the hot path is compiled must be what is edited, and nothing older."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.copy_tree import copy, listed

FILES = {"setup.py": "one", "package/a.py": "a", "package/b.pyx": "b", "tests/test_a.py": "t"}
EXTENSIONS = ("package/a.cpython-311-x86_64-linux-gnu.so", "package/b.abi3.so")
LONG_AGO_S = 1_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return folder


@pytest.fixture
def target(root: Path, tmp_path: Path) -> Path:
    """A copy in which everything is built."""
    folder = tmp_path / "copy"
    assert copy(root, folder, names(root)) == sorted(map(Path, FILES))
    for name in (*EXTENSIONS, "build/cython/a.c", "package/__pycache__/a.pyc"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("built")
    return folder


def names(root: Path) -> list[Path]:
    return [path.relative_to(root) for path in root.rglob("*") if path.is_file()]


def test_what_is_the_same_is_left_alone(root: Path, target: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert copy(root, target, names(root)) == []
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def test_what_was_edited_is_newer_than_what_was_built_from_it(root: Path, target: Path) -> None:
    # An older version comes back, as from an archive, with its old time.
    (root / "package/a.py").write_text("A")
    os.utime(root / "package/a.py", (LONG_AGO_S, LONG_AGO_S))
    for name in EXTENSIONS:
        os.utime(target / name, (LONG_AGO_S + 9, LONG_AGO_S + 9))
    assert copy(root, target, names(root)) == [Path("package/a.py")]
    made = target / "package/a.py"
    assert made.read_text() == "A"
    assert made.stat().st_mtime > (target / EXTENSIONS[0]).stat().st_mtime


def test_what_is_gone_goes_with_what_was_built_from_it(root: Path, target: Path) -> None:
    (root / "package/a.py").unlink()
    (root / "tests/test_a.py").unlink()
    assert copy(root, target, names(root)) == []
    left = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert left == {
        *("setup.py", "package/b.pyx", EXTENSIONS[1]),
        *("build/cython/a.c", "package/__pycache__/a.pyc"),
    }


def test_other_ways_to_build_build_everything_anew(root: Path, target: Path) -> None:
    (root / "setup.py").write_text("two")
    assert copy(root, target, names(root)) == [Path("setup.py")]
    assert not (target / "build").exists()
    assert list(target.rglob("*.so")) == []


def test_files_that_are_new_are_listed_and_removed_ones_are_not(tmp_path: Path) -> None:
    for name in ("kept", "removed", "ignored", ".gitignore"):
        (tmp_path / name).write_text("ignored\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "kept", "removed", ".gitignore"], cwd=tmp_path, check=True)
    (tmp_path / "removed").unlink()
    (tmp_path / "new").write_text("")
    assert listed(tmp_path) == [Path(".gitignore"), Path("kept"), Path("new")]
