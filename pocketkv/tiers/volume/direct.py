"""Reading large values past the page cache.

To bring a value into the page cache takes a page for each 4 KiB, and to send it from there as many
references. To read it to a buffer of the server, compare it with its checksums there, and send it
from there takes a third of that. So whole blocks that are not in memory are read in this way. What
is asked for again soon is brought into the page cache, from where others then have it; a scan
through many values leaves there what was in use.

There are few buffers. Without one, without a file system that has such reads, or as long as the
device has not all of the value, it is read by a worker through the page cache; also if there was an
error, so that there is one place that says what it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
from typing import TYPE_CHECKING, Any, Final

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.tiers.volume import page_cache
from pocketkv.tiers.volume.async_reads import AsyncReads
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.file_pieces import PendingPart
from pocketkv.tiers.volume.large_region import BLOCK_BYTES, PAGE_BYTES

if TYPE_CHECKING:
    from pocketkv.tiers.volume.eras import Eras
    from pocketkv.tiers.volume.large_region import Region

BUFFER_BYTES: Final = limits.MIB
# Of the memory of a server, what the buffers may take, within limits.
_MEMORY_SHARE: Final = 1 / 32
_BUFFERS_MIN: Final = 4
_BUFFERS_MAX: Final = 32


def buffers_for(memory_bytes: int) -> int:
    """How many buffers a server with so much memory should have."""
    return max(_BUFFERS_MIN, min(_BUFFERS_MAX, int(memory_bytes * _MEMORY_SHARE) // BUFFER_BYTES))


class Buffer:
    """Memory that goes back by itself when nobody refers to it any more; made by `Buffers`."""

    __slots__ = ("_index", "_owner", "address", "memory")

    def __init__(self, owner: Buffers, index: int) -> None:
        self._owner = owner
        self._index = index
        self.address = owner.address + index * BUFFER_BYTES
        begin = index * BUFFER_BYTES
        self.memory = owner.memory[begin : begin + BUFFER_BYTES]

    def __del__(self) -> None:
        self._owner.free.append(self._index)


class Buffers:
    """A few buffers of `BUFFER_BYTES`, which take memory when they are first used.

    Args:
        count: How many.

    Attributes:
        address, memory: Where they stand, one behind the other.
        free: Which of them nobody has.

    Raises:
        OSError: There are not so many addresses.
    """

    def __init__(self, count: int) -> None:
        self._map = mmap.mmap(-1, count * BUFFER_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_DONTDUMP)
        with contextlib.suppress(OSError):
            # The device is told of each page.
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.memory = memoryview(self._map)
        self._count = count
        self.free = list(range(count))
        self._is_used = False

    def take(self) -> Buffer | None:
        """One of them; ``None`` if all are in use."""
        if not self.free:
            return None
        self._is_used = True
        # The one that was used last: it is in the processor's cache.
        return Buffer(self, self.free.pop())

    def trim(self) -> None:
        """Give their memory back, if none was used since the last call."""
        if not self._is_used and len(self.free) == self._count:
            self._map.madvise(mmap.MADV_DONTNEED)
        self._is_used = False


class Loaded:
    """Bytes of a region in a buffer, verified; it is who keeps them for a reply.

    Attributes:
        start, stop: Which bytes of the region.
    """

    __slots__ = ("_buffer", "start", "stop")

    def __init__(self, start: int, stop: int, buffer: Buffer) -> None:
        self.start = start
        self.stop = stop
        self._buffer = buffer

    def view(self, offset: int, size: int) -> memoryview:
        """A part of it; `offset` is told within the region."""
        begin = offset - self.start
        return self._buffer.memory[begin : begin + size]


class DirectPart(PendingPart):
    """Whole blocks of a region that are not in memory, no more than a buffer holds."""

    __slots__ = ("_buffer", "_loaded", "_region", "_start", "_stop", "_sums")

    def __init__(self, region: Region, start: int, stop: int) -> None:
        super().__init__(region, start, stop - start)
        self._region = region
        self._start = start
        self._stop = stop
        self._buffer: Buffer | None = None
        self._loaded: Loaded | None = None
        self._sums: list[int] = []

    def begin(self, reads: AsyncReads, buffers: Buffers, token: int, era: int) -> bool:
        """Have it read past the page cache; false: it has to be read by a worker.

        Raises:
            OSError: Its file cannot be asked.
        """
        region = self._region
        # What the device has not yet is waited for by who reads it there.
        if not region.file.is_synced(region):
            return False
        fd = region.file.direct_fd()
        # It may be in the page cache after all, left there by others, and not verified.
        if fd < 0 or page_cache.resident_bytes(fd, region.offset + self._start, PAGE_BYTES):
            return False
        if not region.passes_cache(self._start, self._stop, era):
            return False
        buffer = buffers.take()
        if buffer is None:
            return False
        first, last = self._start // BLOCK_BYTES, -(-self._stop // BLOCK_BYTES)
        self._sums = list(region.sums[first:last])
        size = -(-(self._stop - self._start) // PAGE_BYTES) * PAGE_BYTES
        if not reads.begin(fd, region.offset + self._start, buffer.address, size, token):
            return False
        self._buffer = buffer
        return True

    def finish(self, count: int) -> bool:
        """It was read, `count` bytes or with an error; whether it is what was written."""
        buffer, self._buffer = self._buffer, None
        assert buffer is not None  # It was begun.
        size = self._stop - self._start
        if count < size:
            if count == -errno.EINVAL:
                # Its blocks may be larger than our pages, or it knows no such reads after all.
                self._region.file.refuse_direct()
            return False
        view = buffer.memory[:size]
        for index, value in enumerate(self._sums):
            if checksum(view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]) != value:
                return False
        self._loaded = Loaded(self._start, self._stop, buffer)
        return True

    def keep(self, result: bytes | CommandError) -> bool:
        """Have it at hand for the command that waits."""
        if isinstance(result, CommandError):
            return False
        if self._loaded is not None:
            self._region.keep(self._loaded)
        return True

    def forget(self) -> None:
        """Whoever still needs it refers to it."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            self._region.let_loaded_go(loaded)


def pending_parts(region: Region, start: int, size: int) -> list[PendingPart]:
    """What has to be read before a part of a region can be had without waiting.

    Raises:
        CommandError: IOERR: its file cannot be opened.
    """
    if not region.file.reads_directly:
        return [PendingPart(region, start, size)]
    found: list[PendingPart] = []
    stop = start + size
    begin = start
    while start < stop:
        end = min((start // BUFFER_BYTES + 1) * BUFFER_BYTES, stop)
        is_whole = start % BLOCK_BYTES == 0 and (end % BLOCK_BYTES == 0 or end == region.used)
        if is_whole or region.ready(start, end - start) == end - start:
            if begin < start:
                found.append(PendingPart(region, begin, start - begin))
            if region.ready(start, end - start) < end - start:
                found.append(DirectPart(region, start, end))
            begin = end
        start = end
    if begin < stop:
        found.append(PendingPart(region, begin, stop - begin))
    return found


class DirectReads:
    """The reads past the page cache that are under way for one server; for the serving thread.

    Args:
        depth: How many buffers there are, and reads at a time.
        eras: Tell what was read lately.
        wake_fd: As `AsyncReads`.

    Raises:
        OSError: They cannot be had.
    """

    def __init__(self, depth: int, eras: Eras, wake_fd: int) -> None:
        self._reads = AsyncReads(depth, wake_fd)
        self.buffers = Buffers(depth)
        self._begun: dict[int, tuple[DirectPart, Any]] = {}
        self._next_token = 0
        self._eras = eras

    @property
    def under_way(self) -> int:
        """How many reads were begun and are not taken."""
        return len(self._begun)

    def begin(self, part: DirectPart, context: Any) -> bool:
        """Begin a read, from `submit` on; false: it has to be read by a worker."""
        token = self._next_token
        try:
            if not part.begin(self._reads, self.buffers, token, self._eras.now):
                return False
        except OSError:
            # The worker will meet the same, and say so.
            return False
        self._next_token += 1
        self._begun[token] = part, context
        return True

    def submit(self) -> None:
        """Have the system begin what was asked for since the last call."""
        self._reads.submit()

    def take(self) -> tuple[Any, bool] | None:
        """The context of a read that is done, and whether it was good; ``None``: none is done."""
        for token, count in self._reads.take(1):
            part, context = self._begun.pop(token)
            self._eras.read(max(count, 0))
            return context, part.finish(count)
        return None

    def close(self) -> None:
        """End it; this waits for what is under way."""
        self._reads.close()
        self._begun.clear()
