"""Replay: what a job's segments tell when a server starts, read in the order of their writing.

A segment that was finished has a whole index, and is not read itself. Of any other, what its index
knows is compared with what stands in the segment, and the rest is scanned. A record that is damaged
stays where it is, so that its key is an error; its key is known by the index, or by itself.

What was written is *certain* to have been there if the machine has run ever since, or if an index
tells that it was on the medium before. From the first thing that is bad and not certain on, a
segment is cut off: the machine has stopped before that came to the medium. So is what follows the
last good record that no index knows of: its writing was not over, so nobody was told of it.

Where something certain is damaged and no index knows what it was (that takes two damaged places),
nothing that was written before in this job can be taken for the newest value of its key: it becomes
an error (`JobJournal.doubt`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from pocketkv.engine.cold import CARRIED, CHANGE, CLEAR, DELETE, EXPIRE, PART, Cold
from pocketkv.limits import BULK_BYTES_MAX, MIB
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.index_file import Index, IndexWriter, load_index, read_entries
from pocketkv.tiers.volume.journal import JobJournal
from pocketkv.tiers.volume.records import (
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
# What belongs to a value, and is none by itself.
_PIECES: Final = frozenset({CHANGE, PART, CARRIED})


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

    def part(self, db: int, key: bytes, cold: Cold, group: int) -> None:
        """A part of a value that is to come; a `put` ends those of the last group of its key.

        It is released when something else comes for its key before that.
        """

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
    """

    def __init__(self, fd: int, seed: int) -> None:
        self._fd = fd
        self._seed = seed
        self.size = os.fstat(fd).st_size
        self._start = 0
        self._window = b""

    def records(self, start: int, stop: int) -> Iterator[tuple[int, Header]]:
        """Yield each good record's offset and header; its payload may be damaged.

        Args:
            start: Where the first one should be.
            stop: Where something begins that is known, or the file ends.
        """
        offset = start
        while offset < stop:
            header = self.header_at(offset)
            if header is None or offset + header.record_bytes > stop:
                offset = self._find(offset + 8, stop)
                if offset < 0:
                    return
                continue
            yield offset, header
            offset += header.record_bytes

    def payload_is_good(self, offset: int, header: Header) -> bool:
        """Whether a payload is what was written."""
        begin = offset + HEADER_BYTES + len(header.key)
        payload = read_plainly(self._fd, begin, header.payload_bytes)
        return checksum(payload) == header.payload_checksum

    def is_hole(self, start: int, stop: int) -> bool:
        """Whether collection gave back what is between two records, but for parts of pages."""
        first = -(-start // PAGE_BYTES) * PAGE_BYTES
        try:
            data = os.lseek(self._fd, first, os.SEEK_DATA)
        except OSError as error:
            # There is no data behind: all of it is a hole.
            return error.errno == errno.ENXIO and first < stop
        return first < data and data >= stop // PAGE_BYTES * PAGE_BYTES

    def is_damaged(self, offset: int) -> bool:
        """Whether what follows the last record was one, and not just the beginning of one."""
        rest = read_plainly(self._fd, offset, min(max(self.size - offset, 0), _WINDOW_BYTES))
        if not any(rest):
            return False
        needed = read_header(rest, 0, self._seed + offset)
        if isinstance(needed, Header):
            return False
        # If it seems to reach beyond the end although the file ends as records do, it is rather
        # its length that is damaged.
        return needed == 0 or (len(rest) >= HEADER_BYTES and self.size % 8 == 0)

    def header_at(self, offset: int) -> Header | None:
        """The record at an offset, if it is one, and the file is long enough for it."""
        if offset >= self.size:
            return None
        if not self._start <= offset < self._start + len(self._window):
            self._load(offset, 0)
        while True:
            header = read_header(self._window, offset - self._start, self._seed + offset)
            if isinstance(header, Header):
                return header if offset + header.record_bytes <= self.size else None
            if header == 0 or header > BULK_BYTES_MAX or offset + header > self.size:
                return None
            self._load(offset, header)

    def _find(self, offset: int, stop: int) -> int:
        """The offset of the next good record; -1 if there is none."""
        while offset + 4 <= stop:
            if not self._start <= offset <= self._start + len(self._window) - 4:
                self._load(offset, 4)
            at = self._window.find(MAGIC_BYTES, offset - self._start)
            if at < 0:
                # The next window begins with what may be the beginning of a magic.
                offset = self._start + len(self._window) - 3
                continue
            offset = self._start + at
            if offset % 8 == 0 and offset < stop and self.header_at(offset) is not None:
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


class _Merge:
    """What a segment and its index together tell.

    Args:
        segment: The segment.
        fd: Of its file, -1 if there is none.
        index: What there is of its index.
        trusts: Whether the machine has run ever since it was written.

    Attributes:
        damaged: Places where there should have been a good record.
    """

    def __init__(self, segment: Segment, fd: int, index: Index | None, *, trusts: bool) -> None:
        self._scanner = None if fd < 0 else Scanner(fd, segment.seed)
        self._size = 0 if self._scanner is None else self._scanner.size
        self._spans = [] if index is None else index.spans
        synced = 0 if index is None else index.synced
        # Whatever stands before that was there.
        self._certain = sys.maxsize if trusts else synced
        self.damaged = 0

    def records(self) -> Iterator[tuple[int, Header | int]]:
        """Yield the offset of each record, and its header.

        In place of a header: the size of a stretch whose records are not known.
        """
        position = SEGMENT_HEADER_BYTES
        for start, stop, entries in self._spans:
            if start > position:
                for offset, found in self._unknown(position, start):
                    if found is None:
                        return
                    yield offset, found
            for offset, known in read_entries(entries, start):
                if isinstance(known, Header) and not self._is_there(offset, known):
                    return
                yield offset, known
            position = stop
        yield from self._tail(position)

    def _is_there(self, offset: int, known: Header) -> bool:
        """Whether a record that the index knows was there; it may be damaged now."""
        scanner = self._scanner
        return offset < self._certain or (
            scanner is not None
            and scanner.header_at(offset) == known
            and scanner.payload_is_good(offset, known)
        )

    def _unknown(self, start: int, stop: int) -> Iterator[tuple[int, Header | int | None]]:
        """What stands where the index is damaged or was not written; None: here it is cut off."""
        position = start
        scanner = self._scanner
        if scanner is not None:
            for offset, header in scanner.records(start, stop):
                if offset > position:
                    yield from self._gap(position, offset)
                if offset >= self._certain and not scanner.payload_is_good(offset, header):
                    yield offset, None
                yield offset, header
                position = offset + header.record_bytes
        if stop > position:
            yield from self._gap(position, stop)

    def _gap(self, start: int, stop: int) -> Iterator[tuple[int, int | None]]:
        """A stretch without a record, before something that is one."""
        if self._scanner is not None and self._scanner.is_hole(start, stop):
            return
        self.damaged += 1
        yield start, stop - start if start < self._certain else None

    def _tail(self, position: int) -> Iterator[tuple[int, Header | int]]:
        """What was written last, and no index knows."""
        scanner = self._scanner
        if scanner is None or position >= self._size:
            return
        end = position
        for offset, header in scanner.records(position, self._size):
            if offset > end:
                for start, found in self._gap(end, offset):
                    if found is None:
                        return
                    yield start, found
            if offset >= self._certain and not scanner.payload_is_good(offset, header):
                return
            yield offset, header
            end = offset + header.record_bytes
        if scanner.is_damaged(end):
            self.damaged += 1


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
        index = load_index(segment.index_path, seed)
        if index is not None and self._is_enough(segment, index):
            self._from_index(segment, index, last=last)
            return
        try:
            fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self._note(segment, f"cannot be read: {error.strerror}")
            fd = -1
        try:
            self._from_file(segment, fd, index, last=last)
        finally:
            if fd >= 0:
                os.close(fd)

    def _is_enough(self, segment: Segment, index: Index) -> bool:
        """Whether an index alone tells what is in a segment."""
        if index.is_finished:
            return True
        try:
            size = Path(segment.path).stat().st_size
        except OSError:
            return False
        return index.is_whole and self._state.trusts and size == index.end > SEGMENT_HEADER_BYTES

    def _from_index(self, segment: Segment, index: Index, *, last: bool) -> None:
        end = index.end
        segment.size = segment.written = end
        segment.synced = index.synced
        size = taken = 0
        with contextlib.suppress(OSError):
            if not index.is_finished:
                # Cut even where nothing is to be cut: what was reserved lies behind the end.
                os.truncate(segment.path, end)
            status = Path(segment.path).stat()
            size = status.st_size
            # Some of it may have been given back.
            taken = min(size, status.st_blocks * 512)
        if size < end:
            self._note(segment, f"has {size} bytes of {end}")
        self._state.account(segment, taken)
        # A server that is often stopped would leave many small ones.
        goes_on = last and size == end < self._state.layout.segment_bytes // 2
        self._journal.adopt(segment, active=goes_on)
        writer = IndexWriter(segment.index_path, segment.seed, index.file_bytes, end)
        if goes_on:
            segment.roll_at = self._state.layout.segment_bytes
            segment.index = writer
        elif not index.is_finished:
            writer.finish(end, index.synced)
        for offset, header in index.records():
            if isinstance(header, Header):
                self._tell(segment, offset, header)
            else:
                self._journal.doubt(segment, offset)

    def _from_file(self, segment: Segment, fd: int, index: Index | None, *, last: bool) -> None:
        if fd >= 0:
            head = read_plainly(fd, 0, SEGMENT_HEADER_BYTES)
            if os.fstat(fd).st_size <= SEGMENT_HEADER_BYTES and index is None:
                # It was made, and nothing was written to it.
                Path(segment.path).unlink()
                return
            if seed_of(head, segment.number) != segment.seed:
                self._note(segment, "has a damaged header")
        self._journal.adopt(segment, active=False)
        merged = _Merge(segment, fd, index, trusts=self._state.trusts)
        # It is written under another name: until it is whole, what is there is needed.
        writer = IndexWriter(segment.index_path + ".tmp", segment.seed)
        expected = SEGMENT_HEADER_BYTES
        for offset, header in merged.records():
            if offset > expected:
                writer.gap(offset - expected, doubted=False)
            if isinstance(header, Header):
                writer.entries += header.body()
                self._tell(segment, offset, header)
                expected = offset + header.record_bytes
            else:
                writer.gap(header, doubted=True)
                self._journal.doubt(segment, offset)
                expected = offset + header
            writer.write_some(expected, expected)
        if merged.damaged:
            self._note(segment, f"has {merged.damaged} damaged places", merged.damaged)
        self._end(segment, writer, fd, expected, last=last)

    def _end(self, segment: Segment, writer: IndexWriter, fd: int, end: int, *, last: bool) -> None:
        """What follows the last record is cut off; the newest segment is written on."""
        state = self._state
        cut = False
        size = taken = 0
        if fd >= 0:
            size = os.fstat(fd).st_size
            if size > end:
                state.torn_bytes += size - end
                logger.warning("%s: cut off %d bytes at its end", segment.path, size - end)
            with contextlib.suppress(OSError):
                os.ftruncate(fd, min(size, end))
                cut = size >= end
            taken = min(end if cut else size, os.fstat(fd).st_blocks * 512)
        segment.size = segment.written = segment.synced = end
        state.account(segment, taken)
        if last and cut and end < state.layout.segment_bytes:
            writer.write(end, end)
            if writer.replace(segment.index_path):
                segment.roll_at = state.layout.segment_bytes
                segment.index = writer
                self._journal.adopt(segment, active=True)
            return
        writer.finish(end, end, path=segment.index_path)

    def _tell(self, segment: Segment, offset: int, header: Header) -> None:
        kind = header.kind
        visitor = self._visitor
        if kind <= VALUE_KIND_LAST or kind in _PIECES:
            cold = Cold(kind, header.payload_bytes, segment, offset, header.record_bytes)
            segment.live += cold.record_bytes
            self._journal.live_bytes += cold.record_bytes
            if kind == CHANGE:
                visitor.change(header.db, header.key, cold)
            elif kind in _PIECES:
                visitor.part(header.db, header.key, cold, header.due_ms)
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
