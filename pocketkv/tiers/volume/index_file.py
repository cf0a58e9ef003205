"""Index files: what a segment holds, without the payloads, in a file of its own.

An index repeats of every record the part of the header behind its checksum, and the key, in the
segment's order; offsets follow, since records are contiguous (what is not a record is an entry of
kind `GAP`). It is written along with the segment, a frame with each write, before anything is
acknowledged: so a key is known whose record was damaged, and the other way round.

A frame is a header (`_FRAME`) and entries. Its checksum is seeded by the segment and by the frame's
place, so that no key that a client chooses can pass for a frame. The last frame of a finished
segment has no entries, and another magic.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from pocketkv.limits import MIB
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.records import (
    BODY_STRUCT,
    DOUBTED,
    GAP,
    SEGMENT_HEADER_BYTES,
    Header,
)

# The checksum of all that follows with the entries; magic, bytes of entries, bytes of their
# records, where in the segment those begin, and how much of the segment was on the medium then.
_FRAME: Final = Struct("<Q4sIIQQ")
_CHECKED: Final = Struct("<4sIIQQ")
_CHECKSUM_BYTES: Final = 8
_MAGIC: Final = b"PKVX"
_MAGIC_LAST: Final = b"PKVE"
# Where many entries are written at once.
_PIECE_BYTES: Final = 256 * 1024
# What is kept for another attempt when an index cannot be written.
_KEPT_BYTES_MAX: Final = 4 * MIB

_pack_checked: Final = _CHECKED.pack


class IndexWriter:
    """Writes the index of a segment while that is written.

    An index that ends early costs a scan at the next start, and protection of what it does not
    name. So what fails here fails silently: it is tried again with the next frame, until that would
    take too much memory.

    Args:
        path: Of the index.
        seed: The segment's.
        size: What is there of it, if it is to be written on.
        covered: Up to where in the segment.

    Attributes:
        entries: Those not written yet; the journal appends to them.
        stopped: It is given up.
    """

    __slots__ = (
        "_covered",
        "_fd",
        "_path",
        "_retry_bytes",
        "_seed",
        "_size",
        "_synced",
        "entries",
        "stopped",
    )

    def __init__(
        self, path: str, seed: int, size: int = 0, covered: int = SEGMENT_HEADER_BYTES
    ) -> None:
        self._path = path
        self._seed = seed
        self._size = size
        self._covered = covered
        self._synced = 0
        self._fd = -1
        # After a failure it is tried again when there is so much.
        self._retry_bytes = 0
        self.stopped = False
        self.entries = bytearray()

    def gap(self, size: int, *, doubted: bool) -> None:
        """The next `size` bytes of the segment are no record.

        Args:
            size: How long the stretch is.
            doubted: There was one, and it is not known of which key.
        """
        self.entries += BODY_STRUCT.pack(GAP, DOUBTED if doubted else 0, 0, 0, size, 0, 0)

    def write(self, end: int, synced: int) -> None:
        """Write the entries.

        Args:
            end: Where in the segment the last of their records ends.
            synced: How much of the segment is on the medium.
        """
        if len(self.entries) >= self._retry_bytes and self._put(_MAGIC, end, synced):
            self._covered = end

    def tell_synced(self, end: int, synced: int) -> None:
        """Note how much of the segment is on the medium, if that is not written yet.

        Args:
            end: As `write` says.
            synced: So much.
        """
        self._retry_bytes = 0
        if self.entries:
            self.write(end, synced)
        elif synced > self._synced:
            self._put(_MAGIC, self._covered, synced)

    def write_some(self, end: int, synced: int) -> None:
        """`write` if there are many."""
        if len(self.entries) >= _PIECE_BYTES:
            self.write(end, synced)

    def finish(self, segment_bytes: int, synced: int, *, path: str = "") -> None:
        """The segment is whole.

        Args:
            segment_bytes: Its size.
            synced: How much of it is on the medium.
            path: Of the index whose place this one takes.
        """
        self._retry_bytes = 0
        if self.entries:
            self.write(segment_bytes, synced)
        if not self.entries:
            self._put(_MAGIC_LAST, self._covered, synced)
        if path:
            self.replace(path)
        self.close()

    def replace(self, path: str) -> bool:
        """Take the place of the index that is there; false if that failed."""
        if self.stopped or self.entries or self._fd < 0:
            return False
        try:
            os.fdatasync(self._fd)
            Path(self._path).replace(path)
        except OSError:
            return False
        self._path = path
        return True

    def close(self) -> None:
        """Close the file, until something is written again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _put(self, magic: bytes, end: int, synced: int) -> bool:
        """Write a frame; whether it is there."""
        if self.stopped:
            return False
        size = self._size
        entries = self.entries
        covered = self._covered
        checked = _pack_checked(magic, len(entries), end - covered, covered, synced) + entries
        frame = checksum(checked, self._seed + size).to_bytes(_CHECKSUM_BYTES, "little") + checked
        try:
            fd = self._fd
            if fd < 0:
                fd = self._open()
            if os.pwrite(fd, frame, size) != len(frame):
                return self._failed()
        except OSError:
            return self._failed()
        self._size = size + len(frame)
        self._synced = synced
        entries.clear()
        return True

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if self._size else os.O_TRUNC)
        self._fd = os.open(self._path, flags, 0o600)
        return self._fd

    def _failed(self) -> bool:
        """What was written of the frame is written over by the next."""
        self.close()
        # Not with each frame: the more is kept, the longer that takes.
        self._retry_bytes = len(self.entries) + (len(self.entries) >> 2) + _PIECE_BYTES // 4
        if len(self.entries) > _KEPT_BYTES_MAX:
            self.stopped = True
            self.entries = bytearray()
        return False


class Index:
    """What an index file tells, as far as it is good.

    Args:
        data: The file's.
        seed: The segment's.

    Attributes:
        spans: Stretches of the segment that it knows: from where to where, and the entries.
        synced: How much of the segment was on the medium for certain.
        end: Up to where it knows something of the segment.
        file_bytes: Of the index file.
        is_whole: All of it is good, and it knows everything up to `end`.
        is_finished: And the segment has nothing behind that.
    """

    def __init__(self, data: bytes, seed: int) -> None:
        self.spans: list[tuple[int, int, bytearray]] = []
        self.synced = 0
        self.end = SEGMENT_HEADER_BYTES
        self.file_bytes = len(data)
        self.is_whole = True
        self.is_finished = False
        self._view = memoryview(data)
        self._data = data
        self._seed = seed
        self._read()

    def _read(self) -> None:
        position = 0
        begin = covered = SEGMENT_HEADER_BYTES
        known = bytearray()
        while position < len(self._data):
            frame = self._frame(position)
            if frame is None:
                self.is_whole = False
                position = self._next(position + 1)
                continue
            magic, span, offset, self.synced, entries = frame
            if offset != covered:
                self.is_whole = False
                if known:
                    self.spans.append((begin, covered, known))
                begin = covered = offset
                known = bytearray()
            covered += span
            known += entries
            self.is_finished = magic == _MAGIC_LAST
            position += _FRAME.size + len(entries)
        if known:
            self.spans.append((begin, covered, known))
        self.end = covered
        self.is_finished = self.is_finished and self.is_whole

    def _frame(self, position: int) -> tuple[bytes, int, int, int, memoryview] | None:
        """The frame at a place of the file, if there is one and it is good."""
        begin = position + _FRAME.size
        if begin > len(self._data):
            return None
        digest, magic, size, span, offset, synced = _FRAME.unpack_from(self._data, position)
        if magic not in {_MAGIC, _MAGIC_LAST} or begin + size > len(self._data):
            return None
        checked = self._view[position + _CHECKSUM_BYTES : begin + size]
        if checksum(checked, self._seed + position) != digest:
            return None
        entries = checked[_CHECKED.size :]
        return magic, span, offset, synced, entries

    def _next(self, position: int) -> int:
        """Where the next frame may begin; the file's end if none does."""
        start = position + _CHECKSUM_BYTES
        found = (self._data.find(magic, start) for magic in (_MAGIC, _MAGIC_LAST))
        places = (place - _CHECKSUM_BYTES for place in found if place >= 0)
        return min(places, default=len(self._data))

    def records(self) -> Iterator[tuple[int, Header | int]]:
        """Yield each record's offset in the segment, and its header.

        In place of a header: the size of a stretch whose records are not known.
        """
        for offset, _, entries in self.spans:
            yield from read_entries(entries, offset)


def read_entries(entries: bytearray, offset: int) -> Iterator[tuple[int, Header | int]]:
    """`Index.records` of one stretch that begins at `offset`."""
    position = 0
    while position < len(entries):
        kind, flags, db, key_bytes, payload_bytes, digest, due_ms = BODY_STRUCT.unpack_from(
            entries, position
        )
        position += BODY_STRUCT.size
        if kind == GAP:
            if flags & DOUBTED:
                yield offset, payload_bytes
            offset += payload_bytes
            continue
        key = bytes(entries[position : position + key_bytes])
        position += key_bytes
        header = Header(kind, db, key, payload_bytes, digest, due_ms)
        yield offset, header
        offset += header.record_bytes


def load_index(path: str, seed: int) -> Index | None:
    """What is there of a segment's index; None if there is none."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    return Index(data, seed)
