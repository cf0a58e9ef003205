"""Where files come from and go to on this machine: paths and open files, whole or not at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pocketkv.client.errors import FileTooLargeError, InvalidArgumentError
from pocketkv.limits import BULK_BYTES_MAX

FILE_BYTES_MAX: Final = BULK_BYTES_MAX
"""Largest file, in bytes: a value is one Redis string."""

Place = str | os.PathLike[str] | BinaryIO
"""A path, or a file that is open in binary mode."""


def check_size(size_bytes: int) -> None:
    """Check that a value can be so large.

    Raises:
        FileTooLargeError: It cannot.
    """
    if size_bytes > FILE_BYTES_MAX:
        raise FileTooLargeError(f"a file has at most {FILE_BYTES_MAX} bytes")


@contextlib.contextmanager
def contents(source: Place) -> Iterator[bytes | memoryview]:
    """Give the bytes of `source`: a path's file mapped, not read; an open file's rest.

    Raises:
        FileTooLargeError: There are too many.
        OSError: They cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        yield _read(source)
        return
    with Path(source).open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        # What has no size of its own (an empty file, /proc, a pipe) cannot be mapped.
        if size_bytes == 0:
            yield _read(file)
            return
        check_size(size_bytes)
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view


def _read(file: BinaryIO) -> bytes:
    data = file.read(FILE_BYTES_MAX + 1)
    if not isinstance(data, bytes):
        raise InvalidArgumentError("the file is not open in binary mode")
    check_size(len(data))
    return data


@contextlib.contextmanager
def destination(place: Place) -> Iterator[BinaryIO]:
    """Give a file to write to; a path gets its contents only if all goes well.

    Raises:
        OSError: It cannot be written.
    """
    if not isinstance(place, str | os.PathLike):
        yield place
        return
    path = Path(place).resolve()
    if path.exists() and not path.is_file():
        # A device or a pipe is written to; a file in its place would be no use.
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`, also to a file that takes only a part at a time.

    Raises:
        OSError: It takes no more.
    """
    with memoryview(data) as rest:
        position = 0
        while position < len(rest):
            written = file.write(rest[position:])
            if not written:
                raise OSError("the file takes no more bytes")
            position += written
