"""Index files: what a finished segment holds, without the payloads.

An index file repeats of every record the part of the header behind its checksum, and the key, in
the segment's order; offsets follow, since records are contiguous (what is not a record is an entry
of kind `GAP`). It ends in a footer with a checksum of everything. It is written in pieces beside
the segment, under another name until it is whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from pocketkv.tiers.volume.checksums import RunningChecksum
from pocketkv.tiers.volume.records import (
    BODY_STRUCT,
    GAP,
    SEGMENT_HEADER_BYTES,
    Header,
)

_FOOTER: Final = Struct("<8sQQQ")
_CHECKSUM: Final = Struct("<Q")
_MAGIC: Final = b"PKVIDX1\n"
_PIECE_BYTES: Final = 64 * 1024


class IndexWriter:
    """Writes the index of a segment while that is written.

    Without index the segment is scanned at the next start, so what fails here fails silently: the
    writer just stops.

    Attributes:
        entries: Those not written yet; the journal appends to them.
    """

    __slots__ = ("_checksum", "_path", "_size", "_stopped", "entries")

    def __init__(self, path: str) -> None:
        self._path = path
        self._checksum = RunningChecksum()
        self._size = 0
        self._stopped = False
        self.entries = bytearray()

    def gap(self, size: int) -> None:
        """The next `size` bytes of the segment are no record."""
        self.entries += BODY_STRUCT.pack(GAP, 0, 0, 0, size, 0, 0)

    def flush(self, bytes_min: int = _PIECE_BYTES) -> None:
        """Write the entries out if they are so many."""
        if len(self.entries) < bytes_min:
            return
        self._checksum.update(self.entries)
        self._write(self.entries)
        self.entries.clear()

    def finish(self, number: int, seed: int, segment_bytes: int) -> None:
        """The segment is whole: the index gets its footer and its name."""
        self.flush(1)
        footer = _FOOTER.pack(_MAGIC, number, seed, segment_bytes)
        self._checksum.update(footer)
        self._write(footer + _CHECKSUM.pack(self._checksum.intdigest()))
        if not self._stopped:
            with contextlib.suppress(OSError):
                Path(f"{self._path}.tmp").replace(self._path)

    def _write(self, data: bytes | bytearray) -> None:
        if self._stopped:
            return
        # Opened each time: there may be thousands of jobs, and this is rare.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if self._size else os.O_TRUNC)
        try:
            fd = os.open(f"{self._path}.tmp", flags, 0o600)
            try:
                if os.pwrite(fd, data, self._size) != len(data):
                    self._stop()
            finally:
                os.close(fd)
        except OSError:
            self._stop()
        self._size += len(data)

    def _stop(self) -> None:
        self._stopped = True
        with contextlib.suppress(OSError):
            Path(f"{self._path}.tmp").unlink()


@dataclass(frozen=True, slots=True)
class Index:
    """An index file's contents, found to be whole.

    Attributes:
        seed: Of the segment's checksums.
        segment_bytes: The segment's size.
        entries: As written.
    """

    seed: int
    segment_bytes: int
    entries: memoryview

    def records(self) -> Iterator[tuple[int, Header]]:
        """Yield each record's offset in the segment, and its header."""
        entries = self.entries
        position = 0
        offset = SEGMENT_HEADER_BYTES
        while position < len(entries):
            kind, _flags, db, key_bytes, payload_bytes, digest, due_ms = BODY_STRUCT.unpack_from(
                entries, position
            )
            position += BODY_STRUCT.size
            if kind == GAP:
                offset += payload_bytes
                continue
            key = bytes(entries[position : position + key_bytes])
            position += key_bytes
            header = Header(kind, db, key, payload_bytes, digest, due_ms)
            yield offset, header
            offset += header.record_bytes


def load_index(path: str, number: int) -> Index | None:
    """Read a segment's index; None if there is none, or it is damaged."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    end = len(data) - _FOOTER.size - _CHECKSUM.size
    if end < 0:
        return None
    magic, said_number, seed, segment_bytes = _FOOTER.unpack_from(data, end)
    (digest,) = _CHECKSUM.unpack_from(data, end + _FOOTER.size)
    view = memoryview(data)
    running = RunningChecksum()
    running.update(view[: -_CHECKSUM.size])
    if magic != _MAGIC or said_number != number or running.intdigest() != digest:
        return None
    return Index(seed, segment_bytes, view[:end])
