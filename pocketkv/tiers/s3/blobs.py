"""A large value in S3: a range of an object, with a checksum for each block of it.

An object of a spilled value is the value's bytes and nothing else. The checksums (xxh3, 64 bits;
one for each `BLOCK_BYTES` from the value's beginning on, the last for what is left) stay with
whoever wrote it. So any part of a value can be read and checked by reading little more than that.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from pocketkv import limits
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.options import BLOCK_BYTES, PARTS_MAX, S3Options
from pocketkv.tiers.volume.checksums import checksum

Reader: TypeAlias = Callable[[int, int], bytes]
"""Gives so many bytes of a value from an offset on; asked once for each, in order."""

Source: TypeAlias = Iterable[bytes] | Reader
"""Where a value comes from: its pieces, of any sizes, or whoever can be asked for them."""

READ_BYTES: Final = 1024 * 1024
"""A reader is asked for so much at a time, so that its pieces stay small beside a part."""


SMALL_BYTES_MAX: Final = 64 * limits.KIB
"""Values up to this size are read together with others that lie nearby (`gathering`)."""


class Blob:
    """A value in S3 that can be read in pieces.

    Attributes:
        job_id: Whose it is.
        name: Of its object.
        offset: Where it begins in that.
        size: Its bytes.
        checksums: Of its blocks.
    """

    __slots__ = ("checksums", "job_id", "name", "offset", "size")

    def __init__(
        self, job_id: str, name: str, offset: int, size: int, checksums: array[int]
    ) -> None:
        if len(checksums) != -(-size // BLOCK_BYTES):
            raise ValueError(f"{len(checksums)} checksums for {size} bytes")
        self.job_id = job_id
        self.name = name
        self.offset = offset
        self.size = size
        self.checksums = checksums

    @property
    def is_small(self) -> bool:
        """Whether to read it together with others is worth while."""
        return 0 < self.size <= SMALL_BYTES_MAX

    def blocks_around(self, start: int, end: int) -> tuple[int, int]:
        """The range of whole blocks that holds a range, so that it can be checked."""
        first = start - start % BLOCK_BYTES
        return first, min(self.size, -(-end // BLOCK_BYTES) * BLOCK_BYTES)

    def is_right(self, start: int, data: bytes) -> bool:
        """Whether these are the bytes that were written, from the beginning of a block on."""
        first = start // BLOCK_BYTES
        view = memoryview(data)
        return all(
            checksum(view[at : at + BLOCK_BYTES]) == self.checksums[first + at // BLOCK_BYTES]
            for at in range(0, len(data), BLOCK_BYTES)
        )


class Blobs:
    """Which large values of this run there are.

    Attributes:
        size: Of all together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, Blob] = {}
        self._names: dict[str, set[str]] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._blobs)

    def add(self, blob: Blob) -> None:
        """One has been written."""
        with self._lock:
            self._blobs[blob.name] = blob
            self._names.setdefault(blob.job_id, set()).add(blob.name)
            self.size += blob.size

    def remove(self, blob: Blob) -> bool:
        """One is not needed any more; false if it was not there."""
        with self._lock:
            return self._remove(blob.name)

    def forget(self, name: str) -> None:
        """One is deleted by somebody else, if it is one."""
        with self._lock:
            self._remove(name)

    def forget_job(self, job_id: str) -> None:
        """All of a job are deleted by somebody else."""
        with self._lock:
            for name in tuple(self._names.get(job_id, ())):
                self._remove(name)

    def _remove(self, name: str) -> bool:
        blob = self._blobs.pop(name, None)
        if blob is None:
            return False
        self.size -= blob.size
        names = self._names[blob.job_id]
        names.remove(name)
        if not names:
            del self._names[blob.job_id]
        return True


class Summing:
    """Computes the checksums of a value's blocks while it passes in pieces.

    Attributes:
        checksums: Of the blocks; complete when `end` was called.
        size: What has passed.
    """

    def __init__(self) -> None:
        self.checksums: array[int] = array("Q")
        self.size = 0
        self._begun = bytearray()

    def add(self, data: bytes) -> None:
        """A piece passes."""
        self.size += len(data)
        view = memoryview(data)
        if self._begun:
            lacking = BLOCK_BYTES - len(self._begun)
            self._begun += view[:lacking]
            view = view[lacking:]
            if len(self._begun) < BLOCK_BYTES:
                return
            self.checksums.append(checksum(self._begun))
            self._begun = bytearray()
        whole = len(view) - len(view) % BLOCK_BYTES
        for at in range(0, whole, BLOCK_BYTES):
            self.checksums.append(checksum(view[at : at + BLOCK_BYTES]))
        self._begun += view[whole:]

    def end(self) -> None:
        """Nothing more passes."""
        if self._begun:
            self.checksums.append(checksum(self._begun))
            self._begun = bytearray()


def pieces_of(source: Source, size: int) -> Iterator[bytes]:
    """Yield a value's pieces, and see that they have just `size` bytes together.

    Raises:
        ValueError: They have not.
    """
    passed = 0
    for piece in _asked_for(source, size) if callable(source) else source:
        passed += len(piece)
        if passed > size:
            raise ValueError(f"a value of {size} bytes has more")
        if piece:
            yield piece
    if passed != size:
        raise ValueError(f"a value of {size} bytes has only {passed}")


def _asked_for(reader: Reader, size: int) -> Iterator[bytes]:
    for offset in range(0, size, READ_BYTES):
        yield reader(offset, min(READ_BYTES, size - offset))


def part_bytes_for(size: int, options: S3Options) -> int:
    """The size of the parts of a value: S3 limits their number."""
    least = -(-size // PARTS_MAX)
    return max(options.part_bytes, -(-least // BLOCK_BYTES) * BLOCK_BYTES)


def parts_of(pieces: Iterable[bytes], part_bytes: int) -> Iterator[bytes]:
    """Join pieces to parts that all have the same size, but for the last."""
    held: list[bytes] = []
    held_bytes = 0
    for piece in pieces:
        view = memoryview(piece)
        while held_bytes + len(view) >= part_bytes:
            lacking = part_bytes - held_bytes
            held.append(bytes(view[:lacking]))
            view = view[lacking:]
            yield b"".join(held)
            held.clear()
            held_bytes = 0
        if view:
            held.append(bytes(view))
            held_bytes += len(view)
    if held:
        yield b"".join(held)


def corrupt(name: str, offset: int, size: int) -> S3Error:
    """The error of a range that is not what was written."""
    return S3Error(
        "corrupt", f"object {name}: {size} bytes at {offset} are not those that were written"
    )
