"""Writing again what the device has lost.

When a segment cannot be brought to the device, the system tells so once, and forgets it: what was
written is still in its memory for a while, but it is never written again. So everything that was
not known to be on the device is read from there and moved to a new segment, as collection does it.
What cannot be read any more, or is not what was written, stays where it is, and is an error at its
key.

Until that is done and on the device, nothing is removed that could be needed instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Final

from pocketkv.tiers.volume.collector import Claim, Collector, Part
from pocketkv.tiers.volume.journal import JobJournal
from pocketkv.tiers.volume.segment import Segment

logger: Final = logging.getLogger("pocketkv.volume")


class Rescuer(Collector):
    """Moves what is live in the lost part of segments (`VolumeState.lost`), one after the other."""

    # A deletion that is lost also matters for a value that stands before it in the same segment.
    _beyond = 1
    _at_once = True

    def seal_lost(self) -> None:
        """Write nothing more to segments with lost parts; to be followed by `commit`."""
        for segment in self._state.lost:
            journal = self._journal_of(segment)
            if journal is not None and journal.active is segment:
                journal.seal()

    def apply(self, part: Part) -> bool:
        """Move what is live; False if there was no room."""
        claim = part.claim
        segment = claim.segment
        if segment is not self._segment or claim.offset != self._offset or segment.retired:
            return True
        journal = claim.journal
        while not journal.reserve(claim.size, spare=True):
            if self._state.error is not None or not self._state.ballast.throw_off():
                return False
        if part.data is None:
            logger.error("%s: %d bytes are lost", segment.path, claim.size)
            self._state.corrupt_records += 1
            self._offset += claim.size
            self._wanted = 0
        elif part.data:
            self._walk(journal, segment, part.data)
        if self._offset >= segment.size:
            self._end(journal, segment)
        return True

    def _choose(self, *, pressed: bool) -> Segment | None:
        self._leave()
        lost = self._state.lost
        while lost:
            segment = lost[0]
            journal = self._journal_of(segment)
            if journal is None or segment.retired:
                lost.popleft()
                continue
            self._segment = segment
            self._journal = journal
            self._offset = segment.lost_from
            return segment
        return None

    def _journal_of(self, segment: Segment) -> JobJournal | None:
        for journal in self._journals.values():
            if journal.segments.get(segment.number) is segment:
                return journal
        return None

    def _met_gap(self, segment: Segment, stretch: memoryview) -> None:
        logger.error("%s: a record is lost", segment.path)
        self._state.corrupt_records += 1

    def _met_clear(self, segment: Segment, offset: int, record: memoryview) -> None:
        """Write it again where it stands, since there is no other place for it."""
        with contextlib.suppress(OSError):
            # What fails here is told by the next commit, or the next sync.
            os.pwrite(self._state.files.writable(segment), record, offset)

    def _end(self, journal: JobJournal, segment: Segment) -> None:
        """All of it was seen."""
        if self._rewrite_some(journal, segment):
            return
        self._state.lost.remove(segment)
        segment.lost_from = -1
        self._leave()
        if self._state.indexed:
            self._state.unindexed.append(segment)
        # What was written again in its place.
        if not segment.unsynced and not segment.retired:
            segment.unsynced = True
            self._state.unsynced.append(segment)


__all__ = ["Claim", "Part", "Rescuer"]
