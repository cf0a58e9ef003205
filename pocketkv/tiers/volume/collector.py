"""Collection: live records are moved out of segments of which little is live.

In steps: the serving thread picks a part of a segment, any thread reads it, the serving thread
moves what of it is live. Nothing else is written by another thread, so nothing is locked.

A moved record carries its key's due time. A DELETE is written again as long as there is a segment
that is older than it, unless its key exists; an EXPIRE, while the key's value is older than it. A
CLEAR cannot be written again, since it would clear what came after it: its segment stays until it
is the oldest, or the database is cleared again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pocketkv.engine.cold import CARRIED, CHANGE, CLEAR, DELETE, EXPIRE, PART, Cold
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.journal import JobJournal
from pocketkv.tiers.volume.records import (
    HEADER_BYTES,
    MAGIC_BYTES,
    PAGE_BYTES,
    SEGMENT_HEADER_BYTES,
    VALUE_KIND_LAST,
    Header,
    read_header,
)
from pocketkv.tiers.volume.segment import Segment
from pocketkv.tiers.volume.state import VolumeState

logger: Final = logging.getLogger("pocketkv.volume")

# Under pressure a segment is collected even if most of it is live.
_PRESSED_SHARE: Final = 0.9
# Values that the engine is asked to write anew in one step.
_REWRITES_PER_STEP: Final = 8


class Index(Protocol):
    """Knows which records are needed: the engine."""

    def record_of(self, job_id: str, db: int, key: bytes) -> Cold | None:
        """A key's value's record; None if there is no key, or its value is not just that record."""

    def due_ms(self, job_id: str, db: int, key: bytes) -> int:
        """When an existing key expires; 0: never."""

    def exists(self, job_id: str, db: int, key: bytes) -> bool:
        """Whether there is such a key."""

    def rewrite(self, job_id: str, db: int, key: bytes, place: Segment, *, now: bool) -> None:
        """Put a key's whole value anew, if some of it is in a segment, and release what was there.

        Without `now`, that may be done later.
        """


@dataclass(slots=True)
class Claim:
    """A part of a segment that is to be read; made by `Collector.pick`."""

    journal: JobJournal
    segment: Segment
    offset: int
    size: int


@dataclass(slots=True)
class Part:
    """What `Claim` asked for; `data` is None if it cannot be read."""

    claim: Claim
    data: bytes | None


class Collector:
    """Collects one segment after the other.

    Args:
        state: The volume's.
        index: Tells what is live.
        journals: The volume's, by job.
    """

    # Deletions in a segment matter for values in older ones; for those in itself, if this is 1.
    _beyond = 0
    # Whether what is asked for has to be done before the segment is left.
    _at_once = False

    def __init__(
        self, state: VolumeState, index: Index, journals: Mapping[str, JobJournal]
    ) -> None:
        self._state = state
        self._journals = journals
        self._index = index
        self._journal: JobJournal | None = None
        self._segment: Segment | None = None
        self._offset = 0
        # What the next part has to hold at least.
        self._wanted = 0
        # Keys in this segment whose values are more than one record.
        self._rewrites: dict[tuple[int, bytes], None] = {}
        # Keys of which a DELETE or EXPIRE of this segment is already written again.
        self._carried: set[tuple[int, int, bytes, int]] = set()

    def pick(self, effort_bytes: int, *, pressed: bool) -> Claim | None:
        """What is to be read next; None if there is nothing to collect.

        Args:
            effort_bytes: Read so many, and possibly move them.
            pressed: Room is short: any segment that gives some is worth it.
        """
        self._state.tidy()
        segment = self._segment
        if segment is None or segment.retired:
            segment = self._choose(pressed=pressed)
        if segment is None or self._journal is None:
            return None
        size = min(max(effort_bytes, self._wanted), segment.size - self._offset)
        return Claim(self._journal, segment, self._offset, size)

    def read(self, claim: Claim) -> Part:
        """Read a part; by any thread."""
        files = self._state.files
        try:
            fd = files.pin(claim.segment)
            try:
                data = os.pread(fd, claim.size, claim.offset)
            finally:
                files.unpin(claim.segment)
        except OSError:
            return Part(claim, None)
        self._state.read_bytes += len(data)
        return Part(claim, data if len(data) == claim.size else None)

    def apply(self, part: Part) -> bool:
        """Move what is live; False if there was no room, or nothing came of it."""
        claim = part.claim
        segment = claim.segment
        if segment is not self._segment or claim.offset != self._offset or segment.retired:
            return True
        if part.data is None:
            logger.error("%s: a part is unreadable, it is not collected", segment.path)
            segment.stuck = True
            self._leave()
            return True
        journal = claim.journal
        while not journal.reserve(claim.size, spare=True):
            if self._state.error is not None or not self._state.ballast.throw_off():
                return False
        if part.data:
            self._walk(journal, segment, part.data)
            self._drain(segment, claim.offset)
        if segment.stuck:
            logger.error("%s: a record is damaged, it is not collected", segment.path)
            self._leave()
        elif self._offset >= segment.size:
            self._end(journal, segment)
        return True

    def _choose(self, *, pressed: bool) -> Segment | None:
        self._leave()
        sparse = self._state.sparse
        for segment in [
            segment
            for segment, journal in sparse.items()
            if segment.retired or segment.stuck or segment.drained or journal.dropped
        ]:
            del sparse[segment]
        candidates = sparse
        if not sparse and pressed:
            candidates = self._worth_it()
        if not candidates:
            return None
        self._segment = min(candidates, key=_live_share)
        self._journal = candidates[self._segment]
        self._offset = SEGMENT_HEADER_BYTES
        return self._segment

    def _worth_it(self) -> dict[Segment, JobJournal]:
        """The segments that give a little room at least."""
        return {
            segment: journal
            for journal in self._journals.values()
            for segment in journal.segments.values()
            if segment.finished
            and not (segment.retired or segment.stuck or segment.drained)
            and segment.live < segment.size * _PRESSED_SHARE
        }

    def _walk(self, journal: JobJournal, segment: Segment, data: bytes) -> None:
        """Deal with the records in a part; the next part begins behind the last whole one."""
        start = self._offset
        position = 0
        self._wanted = 0
        view = memoryview(data)
        while position < len(data):
            offset = start + position
            header = read_header(data, position, segment.seed + offset)
            if not isinstance(header, Header):
                if header and offset + header <= segment.size:
                    self._wanted = header
                    break
                begin, position = position, self._skip(segment, data, position)
                self._met_gap(segment, view[begin:position])
                continue
            size = header.record_bytes
            if position + size > len(data):
                self._wanted = size
                break
            self._record(journal, segment, offset, header, view[position : position + size])
            position += size
        self._offset = start + min(position, len(data))

    def _drain(self, segment: Segment, start: int) -> None:
        """Nothing up to here is needed any more: it need not wait for the rest of the segment.

        A value of several records is moved last, so its segment goes as a whole; and so does one
        with a CLEAR, which is needed where it stands.
        """
        first = -(-start // PAGE_BYTES) * PAGE_BYTES
        last = self._offset // PAGE_BYTES * PAGE_BYTES
        if last > first and not self._rewrites and not segment.clears:
            self._state.drained.append((segment, first, last - first))

    def _met_gap(self, segment: Segment, stretch: memoryview) -> None:
        """Here is no record."""
        if any(stretch):
            # Not what collection gave back itself: a record is damaged. It may be one that says
            # that a key is no more.
            segment.stuck = True

    def _skip(self, segment: Segment, data: bytes, position: int) -> int:
        """Where the next record may begin, behind something that is none."""
        at = position + 4
        while True:
            at = data.find(MAGIC_BYTES, at)
            if at < 0:
                return len(data)
            if (self._offset + at) % 8 == 0:
                return at
            at += 1

    def _record(
        self, journal: JobJournal, segment: Segment, offset: int, header: Header, record: memoryview
    ) -> None:
        kind = header.kind
        db = header.db
        key = header.key
        index = self._index
        if kind <= VALUE_KIND_LAST:
            cold = index.record_of(journal.job_id, db, key)
            if cold is None:
                self._maybe_rewrite(journal, db, key)
            elif cold.place is segment and cold.offset == offset:
                begin = HEADER_BYTES + len(key)
                payload = record[begin : begin + header.payload_bytes]
                due_ms = index.due_ms(journal.job_id, db, key)
                if checksum(payload) != header.payload_checksum:
                    self._state.corrupt_records += 1
                journal.move(cold, db, key, payload, header.payload_checksum, due_ms)
                self._state.collected_bytes += cold.record_bytes
        elif kind in (CHANGE, PART, CARRIED):
            self._maybe_rewrite(journal, db, key)
        elif kind == DELETE:
            covers = header.due_ms or segment.number + self._beyond
            if journal.oldest() < covers and not index.exists(journal.job_id, db, key):
                self._carry(journal, header, covers)
        elif kind == EXPIRE and index.exists(journal.job_id, db, key):
            cold = index.record_of(journal.job_id, db, key)
            if cold is None or _stands_before(cold, segment, offset):
                self._carry(journal, header, index.due_ms(journal.job_id, db, key))
        elif kind == CLEAR:
            self._met_clear(segment, offset, record)

    def _met_clear(self, segment: Segment, offset: int, record: memoryview) -> None:
        """It is needed where it stands: the segment stays."""

    def _maybe_rewrite(self, journal: JobJournal, db: int, key: bytes) -> None:
        if self._index.exists(journal.job_id, db, key):
            self._rewrites[db, key] = None

    def _carry(self, journal: JobJournal, header: Header, due_ms: int) -> None:
        identity = (header.kind, header.db, header.key, due_ms)
        if identity not in self._carried:
            self._carried.add(identity)
            journal.mark(header.kind, header.db, header.key, due_ms)

    def _end(self, journal: JobJournal, segment: Segment) -> None:
        """All of it was seen; what is still live in it belongs to values of several records."""
        if self._rewrite_some(journal, segment):
            return
        segment.drained = True
        self._leave()
        journal.retire()

    def _rewrite_some(self, journal: JobJournal, segment: Segment) -> bool:
        """Have values of several records written anew; whether there are more."""
        for _ in range(_REWRITES_PER_STEP):
            if not self._rewrites or segment.live == 0:
                return False
            db, key = self._rewrites.popitem()[0]
            self._index.rewrite(journal.job_id, db, key, segment, now=self._at_once)
        return bool(self._rewrites)

    def _leave(self) -> None:
        if self._segment is not None:
            self._state.sparse.pop(self._segment, None)
        self._segment = None
        self._journal = None
        self._offset = 0
        self._wanted = 0
        self._rewrites.clear()
        self._carried.clear()


def _live_share(segment: Segment) -> float:
    return segment.live / segment.size


def _stands_before(cold: Cold, segment: Segment, offset: int) -> bool:
    number = cold.place.number
    return bool(number < segment.number or (number == segment.number and cold.offset < offset))
