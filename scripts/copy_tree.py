"""Copies this checkout to a folder where it is built: ``python scripts/copy_tree.py FOLDER``.

A file that is the same there already is left alone, whatever its time says, and one whose contents
differ is new there; so what is built from it is built anew exactly when that is due. What has gone
from the checkout goes from the copy, with the extension module that was built from it. When
``setup.py`` has changed, nothing that was built is kept: flags may have changed.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

# Made in the copy, by tools and builds.
_MADE: Final = frozenset(
    ".hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache __pycache__"
    " build".split()
)
_SOURCES: Final = (".py", ".pyx")


def listed(root: Path) -> list[Path]:
    """Return the files of a checkout, those that git does not know yet included, by their paths.

    Raises:
        subprocess.CalledProcessError: It is no checkout.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    paths = {Path(name) for name in done.stdout.split("\0") if name}
    # Git still lists a file that was removed until that is committed.
    return sorted(path for path in paths if (root / path).is_file())


def copy(root: Path, target: Path, files: Iterable[Path]) -> list[Path]:
    """Make `target` hold these files of `root` as they are, and no others; those that changed.

    Raises:
        OSError: A file cannot be read or written.
    """
    wanted = set(files)
    changed = []
    for path in sorted(wanted):
        made = target / path
        if made.is_file() and filecmp.cmp(root / path, made, shallow=False):
            continue
        made.parent.mkdir(parents=True, exist_ok=True)
        # Not the time: what is built from it must be older.
        shutil.copy(root / path, made)
        changed.append(path)
    _remove_others(target, wanted, keeps_built=Path("setup.py") not in changed)
    return changed


def _remove_others(target: Path, wanted: set[Path], *, keeps_built: bool) -> None:
    if not keeps_built:
        shutil.rmtree(target / "build", ignore_errors=True)
    for made in target.rglob("*"):
        path = made.relative_to(target)
        if path in wanted or not _MADE.isdisjoint(path.parts) or made.is_dir():
            continue
        if made.suffix == ".so" and keeps_built and _source_is_in(path, wanted):
            continue
        made.unlink()


def _source_is_in(extension: Path, wanted: set[Path]) -> bool:
    """Whether the source of an extension module is there; its name has the Python version in it."""
    name = extension.name.partition(".")[0]
    return any(extension.with_name(name + suffix) in wanted for suffix in _SOURCES)


def main(arguments: Sequence[str]) -> int:
    """Copy the checkout that this file belongs to."""
    [target] = arguments
    copy(ROOT, Path(target), listed(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
