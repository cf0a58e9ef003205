"""One job's journal: its records, appended to segments.

What is appended stays in the buffer of the newest segment until the volume commits. A record's
`Cold` tells its segment (`place`) and its offset there; collection moves records, and changes both.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from pocketkv.engine.cold import CHANGE, CLEAR, DELETE, EXPIRE, Cold
from pocketkv.engine.errors import CommandError
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.index_file import IndexWriter
from pocketkv.tiers.volume.page_cache import CACHESTAT
from pocketkv.tiers.volume.reading import cached_pages, read_record
from pocketkv.tiers.volume.records import (
    BODY_STRUCT,
    HEADER_BYTES,
    LOW_HALF,
    MAGIC,
    PADDING,
    PREFIX,
    SEGMENT_HEADER_BYTES,
    payload_of,
    record_bytes,
    segment_seed,
)
from pocketkv.tiers.volume.segment import Segment
from pocketkv.tiers.volume.state import VolumeState

# Reserved beyond what is asked for: the headers of a command's records, and deletions, which are
# written without asking.
_SLACK_BYTES: Final = 4096
# Look-ups after one that found nothing in the page cache, which begin with asking for that.
_COLD_LOOKS: Final = 16
_CACHESTAT: Final = CACHESTAT

_pack_prefix: Final = PREFIX.pack
_pack_body: Final = BODY_STRUCT.pack


class JobJournal:
    """Implements `pocketkv.engine.cold.Journal` for one job; made by `Volume.open`.

    For the serving thread, but for `read`.

    Attributes:
        job_id: Whose it is.
        folder: Where its files are, or will be: nothing is made before the first write.
        live_bytes: Of the records that somebody needs.
        segments: By number, oldest first, those included whose files are about to be removed.
        active: The newest segment, None if the next record begins one.
        dropped: The job is gone.
    """

    def __init__(self, state: VolumeState, job_id: str, folder: str) -> None:
        self.job_id = job_id
        self.folder = folder
        self.live_bytes = 0
        self.segments: dict[int, Segment] = {}
        self.dropped = False
        self._state = state
        self.active: Segment | None = None
        self._next_number = state.first_number
        # Segments that are not written any more, but whose files are not whole yet.
        self._closing: list[Segment] = []
        self._dirty = False
        self._clears: dict[int, Segment] = {}

    # --- writing -------------------------------------------------------------------------------

    def reserve(self, size: int, *, spare: bool = False) -> bool:
        """Whether so many more bytes find room.

        Args:
            spare: They make room in the end, and may have what is kept for such.
            size: Of the records that are going to be written, as `record_bytes` tells. A few
                records' headers need not be counted.
        """
        segment = self.active
        if (
            segment is not None
            and segment.size + size + _SLACK_BYTES <= segment.reserved
            and self._state.error is None
        ):
            return True
        return self._reserve(size + _SLACK_BYTES, spare=spare)

    def put(self, db: int, key: bytes, kind: int, payload: bytes, due_ms: int) -> Cold:
        """Write a key's whole value; `due_ms` is 0 if it does not expire."""
        return self._append_live(kind, db, key, payload, checksum(payload), due_ms)

    def change(self, db: int, key: bytes, payload: bytes) -> Cold:
        """Write a change to the value that a key has."""
        return self._append_live(CHANGE, db, key, payload, checksum(payload), 0)

    def part(self, db: int, key: bytes, kind: int, payload: bytes, group: int) -> Cold:
        """Write a part of a value, which counts once a `put` has ended the parts of its group."""
        return self._append_live(kind, db, key, payload, checksum(payload), group)

    def delete(self, db: int, key: bytes) -> None:
        """Write that a key is no more."""
        self.mark(DELETE, db, key, 0)

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        """Write a key's new due time; 0: it does not expire."""
        self.mark(EXPIRE, db, key, due_ms)

    def clear(self, db: int) -> None:
        """Write that a database is empty."""
        self.note_clear(db, self.mark(CLEAR, db, b"", 0))

    def mark(self, kind: int, db: int, key: bytes, due_ms: int) -> Segment:
        """Write a record that has no payload.

        Of a DELETE that is written again, `due_ms` is the last segment that it speaks of.
        """
        segment, _ = self._append(kind, db, key, b"", 0, due_ms)
        segment.marks += 1
        return segment

    def move(
        self, cold: Cold, db: int, key: bytes, payload: memoryview, digest: int, due_ms: int
    ) -> None:
        """Write a live record again, and point its `Cold` there.

        Args:
            cold: The record's.
            db: As it is.
            key: As it is.
            payload: As it is.
            digest: The payload's checksum as it stands in the record: a damaged payload stays so.
            due_ms: The key's due time.
        """
        segment, offset = self._append(cold.kind, db, key, payload, digest, due_ms)
        segment.live += cold.record_bytes
        self.live_bytes += cold.record_bytes
        self.release(cold)
        cold.place = segment
        cold.offset = offset

    def release(self, cold: Cold) -> None:
        """Nobody needs a record any more."""
        segment: Segment = cold.place
        size = cold.record_bytes
        self.live_bytes -= size
        segment.live -= size
        if segment.live < segment.sparse_below:
            self._thinned(segment)

    def _append_live(
        self, kind: int, db: int, key: bytes, payload: bytes, digest: int, due_ms: int
    ) -> Cold:
        segment, offset = self._append(kind, db, key, payload, digest, due_ms)
        size = segment.size - offset
        segment.live += size
        self.live_bytes += size
        return Cold(kind, len(payload), segment, offset, size)

    def _append(
        self, kind: int, db: int, key: bytes, payload: bytes | memoryview, digest: int, due_ms: int
    ) -> tuple[Segment, int]:
        length = len(payload)
        content = HEADER_BYTES + len(key) + length
        size = (content + 7) & -8
        segment = self.active
        if segment is None or segment.size + size > segment.roll_at:
            segment = self.roll(size)
        offset = segment.size
        body = _pack_body(kind, 0, db, len(key), length, digest, due_ms) + key
        buffer = segment.buffer
        buffer += _pack_prefix(MAGIC, checksum(body, segment.seed + offset) & LOW_HALF)
        buffer += body
        buffer += payload
        if size != content:
            buffer += PADDING[size - content]
        segment.size = offset + size
        if segment.index is not None:
            segment.index.entries += body
        if not self._dirty:
            self._dirty = True
            self._state.dirty.append(self)
        return segment, offset

    def roll(self, size: int) -> Segment:
        """Begin the next segment, whose first record takes `size`; only memory is touched."""
        self.seal()
        state = self._state
        number = self._next_number
        self._next_number = number + 1
        segment = Segment(self.folder, number, segment_seed(state.secret, self.job_id, number))
        segment.begin()
        segment.roll_at = max(state.layout.segment_bytes, segment.size + size)
        if state.indexed:
            segment.index = IndexWriter(segment.index_path, segment.seed)
        self.segments[number] = segment
        self.active = segment
        return segment

    def seal(self) -> None:
        """Write no more to the newest segment; its file is finished by the next commit."""
        if self.active is not None:
            self._closing.append(self.active)
            self.active = None
            if not self._dirty:
                self._dirty = True
                self._state.dirty.append(self)

    def _reserve(self, size: int, *, spare: bool) -> bool:
        state = self._state
        if state.error is not None:
            state.refuse(state.error)
            return False
        segment = self.active
        if segment is None or segment.size >= state.layout.segment_bytes:
            segment = self.roll(size)
        if segment.size + size <= segment.reserved:
            return True
        if not state.reserve(segment, segment.size + size, spare=spare):
            return False
        segment.roll_at = max(segment.roll_at, segment.reserved)
        return True

    def write_out(self) -> None:
        """Write what the buffers hold, and finish the segments that are full.

        Raises:
            OSError: Not everything is written; calling it again goes on where it stopped.
        """
        while self._closing:
            segment = self._closing[0]
            if segment.buffer:
                self._state.write(segment)
            self._closing.pop(0)
            self._finish(segment)
        active = self.active
        if active is not None and active.buffer and active.size > SEGMENT_HEADER_BYTES:
            self._state.write(active)
            if active.index is not None:
                active.index.write(active.written, active.synced)
        self._dirty = False

    def _finish(self, segment: Segment) -> None:
        """Give back what was reserved behind a segment's end, and make its index."""
        state = self._state
        # If this fails, the room stays reserved, and accounted for.
        with contextlib.suppress(OSError):
            # Cut even where nothing is to be cut: what was reserved lies behind the end.
            os.ftruncate(state.files.writable(segment), segment.size)
            state.account(segment, segment.size)
        if segment.index is not None:
            segment.index.finish(segment.size, segment.synced)
            segment.index = None
        self.watch(segment)

    def watch(self, segment: Segment) -> None:
        """A segment is finished: from now on it matters how little of it is live."""
        segment.finished = True
        segment.sparse_below = max(int(segment.size * self._state.layout.sparse_share), 1)
        if segment.live < segment.sparse_below:
            self._thinned(segment)

    # --- reading -------------------------------------------------------------------------------

    def read_now(self, cold: Cold) -> bytes | None:
        """What is stored, from the buffer or from memory; None if the disk must be asked.

        Raises:
            CommandError: IOERR: the system says that it cannot be read, or it is damaged.
        """
        segment: Segment = cold.place
        state = self._state
        if state.cold_looks and cold.offset < segment.written and segment.fd >= 0:
            state.cold_looks -= 1
            if self._is_absent(cold, segment.fd):
                state.cold_looks = _COLD_LOOKS
                state.waits += 1
                state.absent = cold
                return None
        return self.try_read(cold)

    def try_read(self, cold: Cold) -> bytes | None:
        """As `read_now`; what must be asked of the disk is on its way to memory then.

        Raises:
            CommandError: As `read_now`.
        """
        segment: Segment = cold.place
        offset = cold.offset
        size = cold.record_bytes
        if offset >= segment.written or offset < segment.doubted:
            begin = offset - segment.written
            record = segment.buffer[begin : begin + size] if begin >= 0 else b""
            return self._checked(cold, record, segment, offset)
        fd = segment.fd
        state = self._state
        if fd < 0 or state.reads_wait:
            state.waits += 1
            return None
        segment.recent = True
        try:
            payload = read_record(
                fd, size, offset, state.nowait_flags, segment.seed + offset, cold.length
            )
        except OSError as error:
            if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
                return self._read_unsupported(cold)
            raise self._unreadable(error) from None
        except ValueError:
            raise self._damaged(b"is damaged") from None
        if payload is None:
            # Nothing or only a part is in memory, or the file is too short: `read` tells which.
            state.waits += 1
            state.cold_looks = _COLD_LOOKS if state.passes_cache else 0
            return None
        state.read_bytes += size
        state.reads += 1
        return payload

    def _is_absent(self, cold: Cold, fd: int) -> bool:
        """Whether nothing of a record is in the page cache."""
        try:
            return cached_pages(_CACHESTAT, fd, cold.offset, cold.record_bytes) == 0
        except OSError:
            # This system does not count pages.
            self._state.passes_cache = False
            return False

    def read(self, cold: Cold) -> bytes:
        """What is stored; this may take long, and may be called by any thread.

        Raises:
            CommandError: As `read_now`.
        """
        while True:
            segment: Segment = cold.place
            offset = cold.offset
            size = cold.record_bytes
            written = segment.written
            try:
                if offset >= written:
                    begin = offset - written
                    record = bytes(segment.buffer[begin : begin + size])
                else:
                    record = self._read_file(segment, offset, size)
                if (
                    cold.place is segment
                    and cold.offset == offset
                    and (offset < written or segment.written == written)
                ):
                    return self._checked(cold, record, segment, offset)
            except OSError as error:
                # Collection may have moved it, and removed the file.
                if cold.place is segment and cold.offset == offset:
                    raise self._unreadable(error) from None

    def _read_file(self, segment: Segment, offset: int, size: int) -> bytes:
        state = self._state
        fd = state.files.pin(segment)
        try:
            record = os.pread(fd, size, offset)
            while 0 < len(record) < size:
                more = os.pread(fd, size - len(record), offset + len(record))
                if not more:
                    break
                record += more
        finally:
            state.files.unpin(segment)
        state.read_bytes += size
        state.reads += 1
        return record

    def _checked(
        self, cold: Cold, record: bytes | bytearray | memoryview, segment: Segment, offset: int
    ) -> bytes:
        if offset < segment.doubted:
            reason = b"may be older than what was written: a part of the journal is damaged"
        elif len(record) == cold.record_bytes:
            payload = payload_of(record, segment.seed + offset, cold.length)
            if payload is not None:
                return payload
            reason = b"is damaged"
        else:
            reason = b"is missing"
        raise self._damaged(reason)

    def _damaged(self, reason: bytes) -> CommandError:
        self._state.read_errors += 1
        return CommandError(b"IOERR what is stored at this key %b" % reason)

    def _unreadable(self, error: OSError) -> CommandError:
        self._state.read_errors += 1
        reason = error.strerror or str(error)
        return CommandError(b"IOERR what is stored at this key cannot be read: " + reason.encode())

    def _read_unsupported(self, cold: Cold) -> bytes | None:
        """The file system does not know RWF_NOWAIT."""
        state = self._state
        if state.nowait_flags == 0:
            # Neither does it read plainly: let `read` say why.
            state.reads_wait = True
        elif state.in_memory:
            state.nowait_flags = 0
        else:
            state.reads_wait = True
        return self.try_read(cold)

    # --- what is not needed any more -----------------------------------------------------------

    def note_clear(self, db: int, segment: Segment) -> None:
        """A database's latest CLEAR stands in `segment`; those before it do not matter."""
        former = self._clears.get(db)
        self._clears[db] = segment
        if former is not None:
            former.clears.discard(db)
        segment.clears.add(db)
        if former is not None and former.finished and former.live == 0:
            self.retire()

    def oldest(self) -> int:
        """The number of the oldest segment that has a file, or may have one."""
        return next(iter(self.segments), self._next_number)

    def retire(self) -> None:
        """Mark for removal the segments in which nothing matters, which is told by their age.

        A mark matters as long as there is an older segment; the volume removes files oldest first.
        """
        first = True
        for segment in self.segments.values():
            if segment.retired:
                continue
            unneeded = segment.marks == 0 or segment.drained
            if (
                segment.finished
                and segment.live == 0
                and (first or (unneeded and not segment.clears))
            ):
                segment.retired = True
                segment.sparse_below = 0
                self._state.sparse.pop(segment, None)
                self._state.emptied.append((self, segment))
            else:
                first = False

    def forget(self, segment: Segment) -> None:
        """A segment's file is gone."""
        if not self.dropped and self.segments.pop(segment.number, None) is not None:
            self._state.account(segment, 0)
            self._state.files.close_those([segment])
            for db in segment.clears:
                del self._clears[db]

    def adopt(self, segment: Segment, *, active: bool) -> None:
        """Take up a segment that was found on the disk, after all older ones."""
        self.segments[segment.number] = segment
        self._next_number = segment.number + 1
        if active:
            self.active = segment

    def doubt(self, segment: Segment, offset: int) -> None:
        """Records behind an offset were damaged, and it is not known whose they were.

        So no record before that can be taken for the newest of its key.
        """
        for other in self.segments.values():
            end = offset if other is segment else other.size
            other.doubted = max(other.doubted, end)
            # What is moved would pass for newer than it is.
            other.stuck = True
            if other is segment:
                break

    def drop(self) -> None:
        """The job is gone: nothing is written any more."""
        state = self._state
        self.dropped = True
        self._dirty = True
        state.first_number = max(state.first_number, self._next_number)
        state.used_bytes -= sum(segment.reserved for segment in self.segments.values())
        for segment in self.segments.values():
            segment.retired = True
            state.sparse.pop(segment, None)
        state.files.close_those(list(self.segments.values()))
        self.segments.clear()
        self.active = None
        self._closing.clear()

    def _thinned(self, segment: Segment) -> None:
        if segment.live == 0:
            self.retire()
        if not segment.retired and not segment.stuck and not segment.drained:
            self._state.sparse[segment] = self


def folder_of(jobs: Path, job_id: str) -> str:
    """Where a job's files are: its id with what a file name must not have written as %XX."""
    safe = "".join(
        character
        if character.isascii() and (character.isalnum() or character in "-_.")
        else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in job_id
    )
    if safe.startswith("."):
        safe = "%2E" + safe[1:]
    return str(jobs / safe)


__all__ = ["JobJournal", "folder_of", "record_bytes"]
