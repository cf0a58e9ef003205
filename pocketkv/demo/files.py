"""The demo's input: the text files below a folder, up to a limit, shared out among mappers."""

from __future__ import annotations

import heapq
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# As grep does it: a file with a NUL byte near its beginning is no text.
_BINARY_PROBE_BYTES: Final = 8192
# Installed packages and compiled files are no part of the standard library's sources.
_NO_SOURCES: Final = frozenset(("site-packages", "dist-packages", "__pycache__"))


class InputError(Exception):
    """There is no input; one line. The exit status is 2."""


@dataclass(frozen=True)
class File:
    """A file of the input; its number stands for it in the index."""

    number: int
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class Input:
    """The files, in the order of their numbers; `is_cut` if the limit left some out.

    `folder` is None for the standard library's sources.
    """

    folder: Path | None
    files: tuple[File, ...]
    is_cut: bool = False

    @property
    def description(self) -> str:
        """How many files from where, for people."""
        count = f"{len(self.files)} file{'' if len(self.files) == 1 else 's'}"
        where = "of the Python standard library" if self.folder is None else f"in {self.folder}"
        return f"{count} {where}"

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


def standard_library() -> Path:
    """Return the folder of the Python standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_files(folder: Path | None, limit_bytes: int) -> Input:
    """Return the text files below `folder`, or the standard library's sources.

    Hidden files and folders are left out, and so are links, which could lead in circles.

    Raises:
        InputError: There is none, or the folder cannot be read.
    """
    root = standard_library() if folder is None else folder
    try:
        found = sorted(_walk(root, only_python=folder is None))
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror}") from error
    files: list[File] = []
    left_bytes = limit_bytes
    for path, size_bytes in found:
        if size_bytes <= left_bytes:
            files.append(File(len(files), path, size_bytes))
            left_bytes -= size_bytes
    if not files:
        reason = f"none of {len(found)} text files fits" if found else "there is no text file"
        raise InputError(f"{root}: {reason}")
    return Input(folder, tuple(files), is_cut=len(files) < len(found))


def _walk(root: Path, *, only_python: bool) -> Iterator[tuple[Path, int]]:
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.is_symlink():
                    continue
                if entry.is_dir():
                    if not (only_python and entry.name in _NO_SOURCES):
                        folders.append(Path(entry.path))
                    continue
                wanted = entry.name.endswith(".py") if only_python else entry.is_file()
                if not wanted:
                    continue
                size_bytes = entry.stat().st_size
                if size_bytes and _is_text(Path(entry.path)):
                    yield Path(entry.path), size_bytes


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(_BINARY_PROBE_BYTES)


def share_out(files: tuple[File, ...], workers: int) -> list[tuple[File, ...]]:
    """Return each worker's files, in the order of their numbers: about as many bytes for each."""
    shares: list[list[File]] = [[] for _ in range(workers)]
    loads = [(0, worker) for worker in range(workers)]
    for file in sorted(files, key=lambda file: (-file.size_bytes, file.number)):
        load, worker = heapq.heappop(loads)
        shares[worker].append(file)
        heapq.heappush(loads, (load + file.size_bytes, worker))
    return [tuple(sorted(share, key=lambda file: file.number)) for share in shares]
