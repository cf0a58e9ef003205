"""What the journals of one volume share: its buffers' state, its room, its counters.

The serving thread changes it. Other threads use only the two queues, which are made for that, and
the counters, which they read.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pocketkv.limits import KIB, MIB
from pocketkv.tiers.volume.layout import Layout
from pocketkv.tiers.volume.segment import OpenFiles, Segment
from pocketkv.tiers.volume.space import Ballast, free_bytes, is_memory, preallocate

if TYPE_CHECKING:
    from pocketkv.engine.cold import Cold
    from pocketkv.tiers.volume.journal import JobJournal

# Room is reserved as a segment grows: thousands of jobs hold little, a large one asks seldom.
RESERVE_BYTES_MIN: Final = 64 * KIB
RESERVE_BYTES_MAX: Final = 4 * MIB
_BLOCK_BYTES: Final = 4096

# Errors of a full file system, or of a quota on it.
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class VolumeState:
    """Shared by the journals of a volume.

    Args:
        root: The volume's directory.
        secret: Seeds the checksums.
        layout: Sizes.
        capacity_bytes: What all segments together may take; None: what the disk has.
        indexed: Whether index files are written.
        trusts: Whether the machine has run ever since the directory was last used, so that all that
            was written is there.

    Attributes:
        nowait_flags: Of `preadv`; 0 where reading never waits.
        in_memory: The file system keeps its files in memory.
        reads_wait: The file system cannot say whether a read would wait.
        passes_cache: Whether there is somebody who reads records past the page cache.
        cold_looks: How many more look-ups begin with whether a record is in the page cache at all,
            since some lately were not: to try and read it would bring it there.
        absent: The record that the last look-up has found not to be in the page cache.
        dirty: Journals with something to write.
        error: What the last `commit` could not do, None if it did everything.
        refusal: Why room was last refused, for people.
        lacks_room: Whether that was because there is none.
        full: Room was refused since some was last freed or found.
        unsynced: Segments to be brought to the medium, in the order of their writing.
        synced: Segments of which more is on the medium than their indexes tell.
        lost: Segments with a part that the medium has lost; nothing is removed meanwhile.
        unindexed: Segments whose indexes the medium may have lost as well.
        emptied: Segments that are to be removed once what replaced them is written.
        removable: The same, after that; oldest first within a job.
        removed: Segments whose files are gone, for the serving thread to forget.
        drained: Parts of segments of which nothing is needed once what replaced them is written.
        punchable: The same, after that.
        punched: Segments whose files take so much less, for the serving thread to account.
        sparse: Segments worth collecting.
        used_bytes: What the segments take.
        first_number: Of a new job's segments: higher than any that was dropped, since a file of a
            job that is gone may be about to be removed by its name.
        corrupt_records: Places in segments where records could not be read at the start, and live
            records that collection found to be damaged.
        torn_bytes: What was cut off the ends of segments at the start.
    """

    def __init__(
        self,
        root: Path,
        secret: int,
        layout: Layout,
        capacity_bytes: int | None,
        *,
        indexed: bool,
        trusts: bool = False,
    ) -> None:
        self.root = root
        self.secret = secret
        self.layout = layout
        self.capacity_bytes = capacity_bytes
        self.indexed = indexed
        self.trusts = trusts
        self.files = OpenFiles(layout.open_files_max)
        self.ballast = Ballast(root / "ballast", layout.ballast_bytes)
        self.nowait_flags = os.RWF_NOWAIT
        self.in_memory = is_memory(root)
        self.reads_wait = False
        self.passes_cache = False
        self.cold_looks = 0
        self.absent: Cold | None = None
        self.dirty: list[JobJournal] = []
        self.error: OSError | None = None
        self.refusal = ""
        self.lacks_room = True
        self.full = False
        self.unsynced: deque[Segment] = deque()
        self.synced: deque[Segment] = deque()
        self.lost: deque[Segment] = deque()
        self.unindexed: deque[Segment] = deque()
        self.emptied: list[tuple[JobJournal, Segment]] = []
        self.removable: deque[tuple[JobJournal, Segment]] = deque()
        self.removed: deque[tuple[JobJournal, Segment]] = deque()
        self.drained: list[tuple[Segment, int, int]] = []
        self.punchable: deque[tuple[Segment, int, int]] = deque()
        self.punched: deque[tuple[Segment, int]] = deque()
        self.sparse: dict[Segment, JobJournal] = {}
        self.used_bytes = 0
        self.first_number = 1
        self.written_bytes = 0
        self.read_bytes = 0
        self.reads = 0
        self.waits = 0
        self.commits = 0
        self.corrupt_records = 0
        self.torn_bytes = 0
        self.read_errors = 0
        self.collected_bytes = 0

    def account(self, segment: Segment, file_bytes: int) -> None:
        """Remember that a segment's file takes so much."""
        self.used_bytes += file_bytes - segment.reserved
        segment.reserved = file_bytes

    def reserve(self, segment: Segment, size: int, *, spare: bool = False) -> bool:
        """Find room so that a segment can grow to `size`, and some way beyond if there is.

        With `spare` also where it is kept for what makes room.
        """
        ahead = min(max(size, RESERVE_BYTES_MIN), RESERVE_BYTES_MAX)
        for wanted in (size + ahead, size):
            target = -(-wanted // _BLOCK_BYTES) * _BLOCK_BYTES
            if self._reserve(segment, target, spare=spare):
                self.full = False
                return True
        return False

    def _reserve(self, segment: Segment, target: int, *, spare: bool) -> bool:
        more = target - segment.reserved
        beyond = self.ballast.size if spare else 0
        used_bytes = self.used_bytes + more
        if self.capacity_bytes is not None and used_bytes > self.capacity_bytes + beyond:
            self.refusal = "the capacity that it was given is used"
            self.lacks_room = self.full = True
            return False
        try:
            fd = self.files.writable(segment)
            self._leave_ballast(fd, more, spare=spare)
            preallocate(fd, segment.reserved, more)
        except OSError as error:
            self.refuse(error)
            self.full = self.full or error.errno in _FULL
            return False
        self.account(segment, target)
        return True

    def refuse(self, error: OSError) -> None:
        """Note why room is refused."""
        self.refusal = error.strerror or str(error)
        self.lacks_room = error.errno in _FULL

    def _leave_ballast(self, fd: int, size: int, *, spare: bool) -> None:
        """Refuse to take what was the ballast: half is for deletions, and none for new values.

        Raises:
            OSError: ENOSPC.
        """
        kept = self.ballast.size // 2 if spare else self.ballast.size
        missing = kept - self.ballast.taken
        if missing > 0 and free_bytes(fd) < size + missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, segment: Segment) -> None:
        """Write a segment's buffer to its file, whole or not at all.

        Raises:
            OSError: It was not written; the buffer keeps it.
        """
        buffer = segment.buffer
        size = len(buffer)
        fd = self.files.writable(segment)
        try:
            done = os.pwrite(fd, buffer, segment.written)
            if done < size:
                self._write_rest(fd, segment, done)
        except OSError as error:
            self._not_written(segment, error)
            self._write_rest(fd, segment, 0)
        # Readers in other threads look at `written` before and after they look at the buffer.
        segment.written += size
        segment.buffer = bytearray()
        self.written_bytes += size
        if segment.written > segment.reserved:
            self.account(segment, segment.written)
        if not segment.unsynced:
            segment.unsynced = True
            self.unsynced.append(segment)

    def _not_written(self, segment: Segment, error: OSError) -> None:
        """Raise what a write failed at, unless there is room now for trying again."""
        if error.errno == errno.EBADF:
            # It was opened when the file system could only be read.
            self.files.close_those([segment])
        if error.errno not in _FULL:
            raise error
        self.full = True
        if not self.ballast.throw_off():
            raise error

    def _write_rest(self, fd: int, segment: Segment, done: int) -> None:
        rest = memoryview(segment.buffer)[done:]
        try:
            while rest:
                done = os.pwrite(fd, rest, segment.written + len(segment.buffer) - len(rest))
                rest = rest[done:]
        finally:
            # The buffer cannot grow while somebody looks at it.
            rest.release()

    def commit(self) -> None:
        """Write what the journals have in their buffers.

        Raises:
            OSError: Something was not written; it is tried again by the next call.
        """
        dirty, self.dirty = self.dirty, []
        error: OSError | None = None
        for journal in dirty:
            try:
                journal.write_out()
            except OSError as reason:
                self.dirty.append(journal)
                error = error or reason
        self.error = error
        self.commits += 1
        self.tidy()
        if error is not None:
            raise error
        if self.emptied:
            self.removable.extend(self.emptied)
            self.emptied.clear()
        if self.drained:
            self.punchable.extend(self.drained)
            self.drained.clear()

    def tidy(self) -> None:
        """Forget the segments whose files are gone, and close files that are too many."""
        while self.removed:
            journal, segment = self.removed.popleft()
            journal.forget(segment)
            self.full = False
        while self.synced:
            segment = self.synced.popleft()
            # An index must tell of nothing that is not written.
            if segment.index is not None and not segment.retired and not segment.buffer:
                segment.index.tell_synced(segment.written, segment.synced)
        while self.punched:
            segment, size = self.punched.popleft()
            if not segment.retired:
                self.account(segment, max(segment.reserved - size, 0))
                self.full = False
        self.files.trim()
