"""Replay: what a job's segments tell when a server starts, read in the order of their writing.

A segment that was finished has an index file, and is not read itself. Any other is scanned: what
stands between two good records is skipped and counted; what follows the last good one was never
acknowledged (or is beyond help), and is cut off.

What this cannot detect: a damaged record that is not in an index, if it was the newest of its key.
Its key then has the value before, or none. It is counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from pocketkv.engine.cold import CHANGE, CLEAR, DELETE, EXPIRE, Cold
from pocketkv.limits import BULK_BYTES_MAX, MIB
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.index_file import Index, IndexWriter, load_index
from pocketkv.tiers.volume.journal import JobJournal
from pocketkv.tiers.volume.records import (
    BODY_STRUCT,
    HEADER_BYTES,
    MAGIC_BYTES,
    PAGE_BYTES,
    SEGMENT_HEADER_BYTES,
    VALUE_KIND_LAST,
    Header,
    read_header,
    seed_of,
    segment_seed,
)
from pocketkv.tiers.volume.segment import Segment
from pocketkv.tiers.volume.state import VolumeState

logger: Final = logging.getLogger("pocketkv.volume")

_WINDOW_BYTES: Final = MIB
# What of a segment is unreadable at least if any of it is.
_BLOCK_BYTES: Final = 4096
# A payload that was not written whole before the machine stopped ends in zeros of this length.
_TORN_ZEROS: Final = 512


class Visitor(Protocol):
    """Is told what a journal holds, in the order of its writing.

    A key's records that no longer matter may be missing: a change or an expiry may come for a key
    that does not exist, and is ignored; a `put` stands for the whole value. What a `put` or
    `change` gives is released when something replaces it.
    """

    def put(self, db: int, key: bytes, kind: int, cold: Cold, due_ms: int) -> None:
        """A key's whole value."""

    def change(self, db: int, key: bytes, cold: Cold) -> None:
        """A change to a key's value."""

    def delete(self, db: int, key: bytes) -> None:
        """A key is no more."""

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        """A key's due time; 0: none."""

    def clear(self, db: int) -> None:
        """A database is empty."""


class Scanner:
    """Finds the records of one segment.

    Args:
        fd: Of its file.
        seed: Of its checksums.

    Attributes:
        size: Of the file.
        end: Behind the last good record, once `records` is through.
        gaps: Places where there should have been a record.
    """

    def __init__(self, fd: int, seed: int) -> None:
        self._fd = fd
        self._seed = seed
        self.size = os.fstat(fd).st_size
        self.end = SEGMENT_HEADER_BYTES
        self.gaps = 0
        self._start = 0
        self._window = b""

    def records(self) -> Iterator[tuple[int, Header]]:
        """Yield each good record's offset and header; its payload may be damaged."""
        offset = SEGMENT_HEADER_BYTES
        while offset < self.size:
            header = self._header_at(offset)
            if header is None:
                found = self._find(offset + 8)
                if found < 0:
                    break
                if not self._is_hole(offset, found):
                    self.gaps += 1
                offset = found
                continue
            yield offset, header
            offset += header.record_bytes
            self.end = offset
        if self._is_damaged(self.end):
            self.gaps += 1

    def payload_is_torn(self, offset: int, header: Header) -> bool:
        """Whether a payload is damaged in the way of one that was never written whole."""
        if header.payload_bytes == 0:
            return False
        begin = offset + HEADER_BYTES + len(header.key)
        payload = read_plainly(self._fd, begin, header.payload_bytes)
        if checksum(payload) == header.payload_checksum:
            return False
        return not any(payload[-_TORN_ZEROS:])

    def _is_hole(self, start: int, stop: int) -> bool:
        """Whether collection gave back what is between two records, but for parts of pages."""
        first = -(-start // PAGE_BYTES) * PAGE_BYTES
        try:
            data = os.lseek(self._fd, first, os.SEEK_DATA)
        except OSError:
            return False
        return first < data and data >= stop // PAGE_BYTES * PAGE_BYTES

    def _is_damaged(self, offset: int) -> bool:
        """Whether what follows the last record was one, and not just the beginning of one."""
        rest = read_plainly(self._fd, offset, min(self.size - offset, _WINDOW_BYTES))
        if not any(rest):
            return False
        needed = read_header(rest, 0, self._seed + offset)
        if isinstance(needed, Header):
            return False
        # If it seems to reach beyond the end although the file ends as records do, it is rather
        # its length that is damaged.
        return needed == 0 or (len(rest) >= HEADER_BYTES and self.size % 8 == 0)

    def _header_at(self, offset: int) -> Header | None:
        """The record at an offset, if it is one, and the file is long enough for it."""
        if not self._start <= offset < self._start + len(self._window):
            self._load(offset, 0)
        while True:
            header = read_header(self._window, offset - self._start, self._seed + offset)
            if isinstance(header, Header):
                return header if offset + header.record_bytes <= self.size else None
            if header == 0 or header > BULK_BYTES_MAX or offset + header > self.size:
                return None
            self._load(offset, header)

    def _find(self, offset: int) -> int:
        """The offset of the next good record; -1 if there is none."""
        while offset + 4 <= self.size:
            if not self._start <= offset <= self._start + len(self._window) - 4:
                self._load(offset, 4)
            at = self._window.find(MAGIC_BYTES, offset - self._start)
            if at < 0:
                # The next window begins with what may be the beginning of a magic.
                offset = self._start + len(self._window) - 3
                continue
            offset = self._start + at
            if offset % 8 == 0 and self._header_at(offset) is not None:
                return offset
            offset += 1
        return -1

    def _load(self, offset: int, size: int) -> None:
        size = min(max(size, _WINDOW_BYTES), self.size - offset)
        self._window = read_plainly(self._fd, offset, size)
        self._start = offset


def read_plainly(fd: int, offset: int, size: int) -> bytes:
    """Read part of a file, with zeros in place of what cannot be read."""
    try:
        data = os.pread(fd, size, offset)
        if len(data) == size:
            return data
    except OSError:
        data = b""
    pieces = [data]
    done = len(data)
    while done < size:
        wanted = min(_BLOCK_BYTES - (offset + done) % _BLOCK_BYTES, size - done)
        try:
            piece = os.pread(fd, wanted, offset + done)
        except OSError:
            piece = b""
        pieces.append(piece.ljust(wanted, b"\0"))
        done += wanted
    return b"".join(pieces)


def numbers_of(folder: Path) -> list[int]:
    """The numbers of a job's segments, of each of which at least the index is there."""
    numbers = set()
    for path in folder.iterdir():
        if path.suffix == ".tmp":
            with contextlib.suppress(OSError):
                path.unlink()
        elif path.suffix in {".log", ".idx"} and path.stem.isdecimal():
            numbers.add(int(path.stem))
    return sorted(numbers)


class Replay:
    """Reads one job's segments into its journal, and tells a visitor.

    Args:
        state: The volume's.
        journal: The job's; nothing has been written to it.
        visitor: Is told.
    """

    def __init__(self, state: VolumeState, journal: JobJournal, visitor: Visitor) -> None:
        self._state = state
        self._journal = journal
        self._visitor = visitor

    def run(self) -> None:
        """Read everything.

        Raises:
            OSError: The job's directory cannot be read.
        """
        folder = Path(self._journal.folder)
        if not folder.is_dir():
            return
        numbers = numbers_of(folder)
        for number in numbers:
            self._replay(number, last=number == numbers[-1])
        # Only now is known what of each is live.
        for segment in list(self._journal.segments.values()):
            if segment is not self._journal.active:
                self._journal.watch(segment)

    def _replay(self, number: int, *, last: bool) -> None:
        journal = self._journal
        seed = segment_seed(self._state.secret, journal.job_id, number)
        segment = Segment(journal.folder, number, seed)
        index = load_index(segment.index_path, number)
        if index is not None:
            self._from_index(segment, index, last=last)
            return
        try:
            fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self._note(segment, f"cannot be read: {error.strerror}")
            return
        try:
            self._from_file(segment, fd, last=last)
        finally:
            os.close(fd)

    def _from_index(self, segment: Segment, index: Index, *, last: bool) -> None:
        segment.seed = index.seed
        segment.size = segment.written = index.segment_bytes
        size = taken = 0
        with contextlib.suppress(OSError):
            status = Path(segment.path).stat()
            size = status.st_size
            # Some of it may have been given back.
            taken = min(size, status.st_blocks * 512)
        if size < index.segment_bytes:
            self._note(segment, f"has {size} bytes of {index.segment_bytes}")
        self._state.account(segment, taken)
        small = last and size == index.segment_bytes < self._state.layout.segment_bytes // 2
        self._journal.adopt(segment, active=small)
        if small:
            # A server that is often stopped would leave many small ones.
            segment.roll_at = self._state.layout.segment_bytes
            segment.index = IndexWriter(segment.index_path)
            segment.index.entries += index.entries
            Path(segment.index_path).unlink()
        for offset, header in index.records():
            self._tell(segment, offset, header)

    def _from_file(self, segment: Segment, fd: int, *, last: bool) -> None:
        head = read_plainly(fd, 0, SEGMENT_HEADER_BYTES)
        seed = seed_of(head, segment.number)
        scanner = Scanner(fd, segment.seed if seed is None else seed)
        if scanner.size <= SEGMENT_HEADER_BYTES:
            # It was made, and nothing was written to it.
            Path(segment.path).unlink()
            return
        if seed is None:
            self._note(segment, "has a damaged header")
        else:
            segment.seed = seed
        writer = IndexWriter(segment.index_path)
        self._journal.adopt(segment, active=False)
        expected = SEGMENT_HEADER_BYTES
        held: tuple[int, Header] | None = None
        for offset, header in scanner.records():
            if held is not None:
                expected = self._take(segment, writer, expected, *held)
            held = (offset, header)
        if held is not None:
            if last and scanner.payload_is_torn(*held):
                scanner.end = held[0]
            else:
                expected = self._take(segment, writer, expected, *held)
        if scanner.gaps:
            self._note(segment, f"has {scanner.gaps} damaged places", scanner.gaps)
        self._end(segment, writer, fd, scanner, last=last)

    def _take(
        self, segment: Segment, writer: IndexWriter, expected: int, offset: int, header: Header
    ) -> int:
        """Tell a record, and index it; return where the next one should be."""
        if offset > expected:
            writer.gap(offset - expected)
        writer.entries += (
            BODY_STRUCT.pack(
                header.kind,
                0,
                header.db,
                len(header.key),
                header.payload_bytes,
                header.payload_checksum,
                header.due_ms,
            )
            + header.key
        )
        writer.flush()
        self._tell(segment, offset, header)
        return offset + header.record_bytes

    def _end(
        self, segment: Segment, writer: IndexWriter, fd: int, scanner: Scanner, *, last: bool
    ) -> None:
        """What follows the last good record is cut off; the newest segment is written on."""
        state = self._state
        end = max(scanner.end, SEGMENT_HEADER_BYTES)
        if scanner.size > end:
            state.torn_bytes += scanner.size - end
            logger.warning("%s: cut off %d bytes at its end", segment.path, scanner.size - end)
        cut = False
        with contextlib.suppress(OSError):
            os.ftruncate(fd, end)
            cut = True
        segment.size = segment.written = end
        state.account(segment, min(end if cut else scanner.size, os.fstat(fd).st_blocks * 512))
        if last and cut and end < state.layout.segment_bytes:
            segment.roll_at = state.layout.segment_bytes
            segment.index = writer
            self._journal.adopt(segment, active=True)
        else:
            writer.finish(segment.number, segment.seed, end)

    def _tell(self, segment: Segment, offset: int, header: Header) -> None:
        kind = header.kind
        visitor = self._visitor
        if kind <= VALUE_KIND_LAST or kind == CHANGE:
            cold = Cold(kind, header.payload_bytes, segment, offset, header.record_bytes)
            segment.live += cold.record_bytes
            self._journal.live_bytes += cold.record_bytes
            if kind == CHANGE:
                visitor.change(header.db, header.key, cold)
            else:
                visitor.put(header.db, header.key, kind, cold, header.due_ms)
            return
        segment.marks += 1
        if kind == DELETE:
            visitor.delete(header.db, header.key)
        elif kind == EXPIRE:
            visitor.expire(header.db, header.key, header.due_ms)
        elif kind == CLEAR:
            self._journal.note_clear(header.db, segment)
            visitor.clear(header.db)
        else:
            self._note(segment, f"has a record of unknown kind {kind}")

    def _note(self, segment: Segment, what: str, count: int = 1) -> None:
        self._state.corrupt_records += count
        logger.error("%s %s", segment.path, what)
