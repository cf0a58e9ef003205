"""Segments: the files that a job's records are appended to, and what is known of each."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from pathlib import Path
from typing import Final

from pocketkv.tiers.volume.index_file import IndexWriter
from pocketkv.tiers.volume.page_cache import read_nothing_ahead
from pocketkv.tiers.volume.records import PAGE_BYTES, SEGMENT_HEADER_BYTES, segment_header

NOT_OPEN: Final = -2
_NO_PAGES: Final = bytearray()
_PAGE_BYTES: Final = PAGE_BYTES


class Segment:
    """One file of records.

    Attributes:
        folder: Of its job.
        number: Its place in the order of the job's segments.
        seed: Of its checksums.
        size: With what is still in the buffer.
        written: What is in the file; the buffer follows.
        reserved: What the file may take up on the medium without asking for more.
        roll_at: A record that would end behind this goes to the next segment.
        live: Bytes of records that somebody needs.
        marks: Records that matter only for what older segments hold (DELETE, EXPIRE, CLEAR).
        clears: Databases whose latest CLEAR stands here.
        finished: Its file is whole, and never written again.
        drained: Collection has been through it: no mark in it is needed.
        stuck: Collection cannot empty it: a part of it is unreadable, or in use.
        retired: Nothing in it is needed.
        sparse_below: It is worth collecting when less than this is live.
        fd: Its descriptor, -1 while it is not open.
        pins: Threads that read by `fd` now; guarded by the lock of `OpenFiles`.
        direct_fd: The same to read past the page cache by: `NOT_OPEN`, or -1 if it cannot be.
        recent: It was read since the last look for files to close.
        unsynced: It waits for its data to be brought to the medium.
        synced: How much of it, from the beginning on, is known to be on the medium.
        lost_from: What stands from there on is not on the medium, and the system will not bring it
            there; -1 if nothing is lost.
        doubted: What stands before that may not be the newest of its key: records behind it are
            damaged, and nobody knows whose they were.
        made: Its file was made since its folder was brought to the medium.
        index: What is written beside it, None if nothing is.
    """

    __slots__ = (
        "_passed",
        "_passed_before",
        "_passed_in",
        "buffer",
        "clears",
        "direct_fd",
        "doubted",
        "drained",
        "fd",
        "finished",
        "folder",
        "index",
        "live",
        "lost_from",
        "made",
        "marks",
        "number",
        "pins",
        "recent",
        "reserved",
        "retired",
        "roll_at",
        "seed",
        "size",
        "sparse_below",
        "stuck",
        "synced",
        "unsynced",
        "written",
    )

    def __init__(self, folder: str, number: int, seed: int) -> None:
        self.folder = folder
        self.number = number
        self.seed = seed
        self.buffer = bytearray()
        self.size = 0
        self.written = 0
        self.reserved = 0
        self.roll_at = 0
        self.live = 0
        self.marks = 0
        self.clears: set[int] = set()
        self.finished = False
        self.drained = False
        self.stuck = False
        self.retired = False
        self.sparse_below = 0
        self.fd = -1
        self.direct_fd = NOT_OPEN
        self.pins = 0
        self.recent = False
        self.unsynced = False
        self.synced = 0
        self.lost_from = -1
        self.doubted = 0
        self.made = False
        self.index: IndexWriter | None = None
        # A bit for each page that a read past the page cache began in, in this era and the last.
        self._passed = _NO_PAGES
        self._passed_before = _NO_PAGES
        self._passed_in = 0

    def begin(self) -> None:
        """Write the header of a new one to its buffer."""
        self.buffer += segment_header(self.number, self.seed)
        self.size = SEGMENT_HEADER_BYTES

    def passes_cache(self, offset: int, era: int) -> bool:
        """Whether a record may be read past the page cache: what is wanted again belongs there.

        So do its neighbours, if it is small: what is remembered is that a page was wanted.

        Args:
            offset: Of the record.
            era: A number that grows; what was read in this era or the one before is remembered.
        """
        if era != self._passed_in:
            self._passed_before = self._passed if era == self._passed_in + 1 else _NO_PAGES
            self._passed = _NO_PAGES
            self._passed_in = era
        page = offset // _PAGE_BYTES
        place, bit = page // 8, 1 << page % 8
        for pages in (self._passed, self._passed_before):
            if place < len(pages) and pages[place] & bit:
                pages[place] &= ~bit & 255
                return False
        if place >= len(self._passed):
            self._passed = self._passed + bytes(
                self.size // _PAGE_BYTES // 8 + 1 - len(self._passed)
            )
        self._passed[place] |= bit
        return True

    @property
    def path(self) -> str:
        """Of its file."""
        return f"{self.folder}/{self.number:08d}.log"

    @property
    def index_path(self) -> str:
        """Of the file that repeats its headers."""
        return f"{self.folder}/{self.number:08d}.idx"


class OpenFiles:
    """Descriptors of segments, no more than so many.

    Only the serving thread closes them, so it may use `Segment.fd` as it is. Other threads pin the
    segment first.

    Args:
        count_max: What may stay open when `trim` is called.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._lock = threading.Lock()
        self._open: deque[Segment] = deque()
        # Closed as soon as nobody reads by them.
        self._leaving: list[Segment] = []

    def __len__(self) -> int:
        return len(self._open) + len(self._leaving)

    def writable(self, segment: Segment) -> int:
        """A descriptor that a segment can be written by; its file and folder are made if absent.

        For the serving thread.

        Raises:
            OSError: It cannot be opened.
        """
        if segment.fd >= 0:
            return segment.fd
        # Before it is opened, so that it is not the one to be closed.
        self.trim()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(segment.path, flags, 0o600)
        except FileNotFoundError:
            # Only the job's folder: if the volume is gone, its place must not be filled.
            Path(segment.folder).mkdir(mode=0o700, exist_ok=True)
            fd = os.open(segment.path, flags, 0o600)
        if segment.written == 0:
            segment.made = True
        with self._lock:
            self._keep(segment, fd)
        return segment.fd

    def _keep(self, segment: Segment, fd: int) -> None:
        """Have a descriptor that was opened, unless another thread was first; with the lock."""
        if segment.fd >= 0:
            os.close(fd)
            return
        try:
            read_nothing_ahead(fd)
        except OSError:
            os.close(fd)
            raise
        segment.fd = fd
        self._open.append(segment)

    def pin(self, segment: Segment) -> int:
        """A descriptor that stays open until `unpin`; for any thread.

        Raises:
            OSError: It cannot be opened.
        """
        with self._lock:
            if segment.fd >= 0:
                segment.pins += 1
                return segment.fd
        try:
            fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
                raise
            # What cannot be written any more can still be read.
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        with self._lock:
            self._keep(segment, fd)
            segment.pins += 1
            return segment.fd

    def direct(self, segment: Segment) -> int:
        """A descriptor to read an open segment past the page cache by, as long as it is open.

        For the serving thread.

        Returns:
            The descriptor; -1: it cannot be read so.
        """
        if segment.direct_fd == NOT_OPEN:
            try:
                flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
                segment.direct_fd = os.open(segment.path, flags)
            except OSError:
                # The file system has no such thing, or it is gone: who reads it will see.
                segment.direct_fd = -1
        return segment.direct_fd

    def refuse_direct(self, segment: Segment) -> None:
        """A segment cannot be read past the page cache; by the serving thread."""
        fd, segment.direct_fd = segment.direct_fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def unpin(self, segment: Segment) -> None:
        """The thread that pinned it is done."""
        with self._lock:
            segment.pins -= 1

    def trim(self) -> None:
        """Close what is too many, those first that were not read lately; by the serving thread."""
        if len(self._open) <= self._count_max and not self._leaving:
            return
        with self._lock:
            for segment in self._leaving:
                self._close(segment)
            self._leaving = [segment for segment in self._leaving if segment.fd >= 0]
            looks = 2 * len(self._open)
            while len(self._open) > self._count_max and looks > 0:
                looks -= 1
                segment = self._open.popleft()
                if segment.retired:
                    self._leave(segment)
                elif segment.recent or segment.pins:
                    segment.recent = False
                    self._open.append(segment)
                else:
                    self._close(segment)

    def close_those(self, unwanted: list[Segment]) -> None:
        """Close segments that are gone, or soon, when their last reader is done."""
        with self._lock:
            gone = {id(segment) for segment in unwanted if segment.fd >= 0}
            if gone:
                kept: deque[Segment] = deque()
                for segment in self._open:
                    if id(segment) in gone:
                        self._leave(segment)
                    else:
                        kept.append(segment)
                self._open = kept

    def close_all(self) -> None:
        """Close everything; nobody reads any more."""
        with self._lock:
            for segment in (*self._open, *self._leaving):
                segment.pins = 0
                self._close(segment)
            self._open.clear()
            self._leaving.clear()

    def _leave(self, segment: Segment) -> None:
        self._close(segment)
        if segment.fd >= 0:
            self._leaving.append(segment)

    def _close(self, segment: Segment) -> None:
        if segment.pins == 0 and segment.fd >= 0:
            fds = (segment.fd, segment.direct_fd)
            segment.fd, segment.direct_fd = -1, NOT_OPEN
            for fd in fds:
                if fd >= 0:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            if segment.index is not None:
                segment.index.close()
