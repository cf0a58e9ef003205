"""Reading records past the page cache, many with one call.

To look for a record in the page cache, have the system begin to read it, look again and copy it
takes two calls for each and twice the time. So a record of which nothing is in the page cache is
read to a buffer of the server, with all others that were asked for in the same round. What is asked
for again soon is brought into the page cache, with its neighbours.

Where that cannot be, or there was an error, false or nothing is the answer, and the record is read
as if this were not here; so there is one place that says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
from typing import TYPE_CHECKING, Any, Final

from pocketkv.limits import KIB
from pocketkv.tiers.volume.async_reads import AsyncReads
from pocketkv.tiers.volume.page_cache import CACHESTAT
from pocketkv.tiers.volume.reading import cached_pages, record_at
from pocketkv.tiers.volume.records import PAGE_BYTES

if TYPE_CHECKING:
    from pocketkv.engine.cold import Cold
    from pocketkv.tiers.volume.eras import Eras
    from pocketkv.tiers.volume.segment import Segment
    from pocketkv.tiers.volume.state import VolumeState

DEPTH: Final = 64
"""Reads that may be under way, and buffers for them."""

# Reads are given to the system so many at a time, and what is left when a round is over. With more,
# the device would wait for the server to have served everybody, and then the server for the device.
_BATCH: Final = 4
# After so many that could not be begun without waiting, it is left for some seconds.
_REFUSALS_MAX: Final = 64
# Strings of 64 KiB and more have files of their own; a record has a header and a key as well.
_BUFFER_BYTES: Final = 72 * KIB
# What reads past the page cache must begin and end at: blocks of most devices, or a page where the
# device's are larger.
_BLOCK_BYTES: Final = 512
_PAGE_BYTES: Final = PAGE_BYTES
_CACHESTAT: Final = CACHESTAT


class _Buffer:
    """A buffer, and the read that it is for."""

    __slots__ = ("address", "cold", "context", "first", "index", "offset", "segment")

    def __init__(self, index: int, address: int) -> None:
        self.index = index
        self.address = address
        self.context: Any = None
        self.cold: Cold | None = None
        self.segment: Segment | None = None
        # Where the record begins in the segment, and what is read of it.
        self.offset = 0
        self.first = 0


class RecordReads:
    """The reads of records that are under way for one volume; for the serving thread.

    Args:
        state: The volume's.
        eras: Tell what was read lately.
        wake_fd: As `AsyncReads`.

    Attributes:
        under_way: How many reads were begun and are not taken.

    Raises:
        OSError: They cannot be had.
    """

    def __init__(self, state: VolumeState, eras: Eras, wake_fd: int) -> None:
        # To begin one may take the device, a lock, or what the file system knows of the file.
        self._reads = AsyncReads(DEPTH, wake_fd, nowait=True)
        self._state = state
        self._eras = eras
        self._block_bytes = _BLOCK_BYTES
        self._map = mmap.mmap(-1, DEPTH * _BUFFER_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_DONTDUMP)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._buffers = [_Buffer(index, address + index * _BUFFER_BYTES) for index in range(DEPTH)]
        # The one that was used last is in the processor's cache.
        self._free = list(self._buffers)
        self._is_used = False
        self._begun = 0
        # Reads in a row that could not be begun without waiting.
        self._refusals = 0
        self.under_way = 0
        state.passes_cache = True

    def begin(self, cold: Cold, context: Any) -> bool:
        """Have a record read, from `submit` on; false: it has to be read in another way."""
        state = self._state
        absent = state.absent
        state.absent = None
        if not state.passes_cache or not self._free:
            return False
        segment: Segment = cold.place
        if segment.fd < 0:
            # Who opens it may have to wait for that.
            return False
        offset = cold.offset
        first = offset - offset % self._block_bytes
        end = offset + cold.record_bytes + self._block_bytes - 1
        size = end - end % self._block_bytes - first
        if size > _BUFFER_BYTES or not self._is_passed_by(cold, absent, segment, first + size):
            return False
        fd = segment.direct_fd
        if fd < 0:
            fd = state.files.direct(segment)
            if fd < 0:
                return False
        buffer: _Buffer = self._free.pop()
        if not self._reads.begin(fd, first, buffer.address, size, buffer.index):
            self._free.append(buffer)
            return False
        segment.recent = True
        buffer.context = context
        buffer.cold = cold
        buffer.segment = segment
        buffer.offset = offset
        buffer.first = first
        self._eras.read(size)
        self._is_used = True
        self.under_way += 1
        self._begun += 1
        if self._begun == _BATCH:
            self.submit()
        return True

    def _is_passed_by(self, cold: Cold, absent: Cold | None, segment: Segment, end: int) -> bool:
        """Whether a record may be read past the page cache: nothing of it is there."""
        # The page that is written next is not read so: that would wait for the device to have it.
        if not segment.finished and end > segment.written - segment.written % _PAGE_BYTES:
            return False
        if absent is not cold:
            try:
                if cached_pages(_CACHESTAT, segment.fd, cold.offset, cold.record_bytes):
                    return False
            except OSError:
                # This system does not count pages.
                self._state.passes_cache = False
                return False
        return segment.passes_cache(cold.offset, self._eras.now)

    def submit(self) -> None:
        """Have the system begin what was asked for since the last call."""
        self._begun = 0
        self._reads.submit()

    def take(self, count: int) -> list[tuple[Any, bytes | None]]:
        """At most so many reads that are done: their contexts and what is stored.

        ``None``: it has to be read in another way, by which it is told what is wrong.
        """
        taken: list[tuple[Any, bytes | None]] = []
        for index, read_bytes in self._reads.take(count):
            buffer: _Buffer = self._buffers[index]
            payload = self._payload(buffer, read_bytes)
            taken.append((buffer.context, payload))
            buffer.context = buffer.cold = buffer.segment = None
            self._free.append(buffer)
            self.under_way -= 1
        return taken

    def _payload(self, buffer: _Buffer, read_bytes: int) -> bytes | None:
        cold, segment, offset = buffer.cold, buffer.segment, buffer.offset
        assert cold is not None  # It was begun.
        assert segment is not None
        skip = offset - buffer.first
        if read_bytes < skip + cold.record_bytes:
            self._refused(segment, -read_bytes)
            return None
        self._refusals = 0
        # Collection may have moved it meanwhile.
        if cold.place is not segment or cold.offset != offset or offset < segment.doubted:
            return None
        try:
            payload = record_at(
                buffer.address + skip, cold.record_bytes, segment.seed + offset, cold.length
            )
        except ValueError:
            return None
        state = self._state
        state.read_bytes += cold.record_bytes
        state.reads += 1
        return payload

    def _refused(self, segment: Segment, error: int) -> None:
        """A read was refused, or failed otherwise."""
        if error == errno.EAGAIN:
            self._refusals += 1
            if self._refusals == _REFUSALS_MAX:
                self._state.passes_cache = False
        elif error == errno.EINVAL and self._block_bytes < _PAGE_BYTES:
            # The device's blocks are larger.
            self._block_bytes = _PAGE_BYTES
        elif error in (errno.EINVAL, errno.EOPNOTSUPP):
            # Or it never reads so.
            self._state.files.refuse_direct(segment)

    def trim(self) -> None:
        """Give the buffers' memory back, if none was used since the last call.

        After many refusals, this is also when it is tried again.
        """
        if self._refusals >= _REFUSALS_MAX:
            self._refusals = 0
            self._state.passes_cache = True
        if not self._is_used and not self.under_way:
            self._map.madvise(mmap.MADV_DONTNEED)
        self._is_used = False

    def close(self) -> None:
        """End it; this waits for what is under way."""
        self._state.passes_cache = False
        self._reads.close()
        self.under_way = 0
