"""A region: bytes of large values in a file, with a checksum for each block of 256 KiB.

A region is filled from its beginning and never written twice: what changes goes to another region.
So whoever reads a part of it (a reply that is under way for minutes, a copy of the value) needs no
more than that the region is there, and a `RegionHold` keeps it there. A region that nothing refers
to any more gives its room back by itself, and no address is ever used again: the system may still
refer to its pages for a client that takes its time.

What a reader gets was written by this process, or compared with its checksum after it was read
from the device. Only `fetch` reads from the device; the serving thread sends and reads no more
than `ready` says. Between asking and sending the system may drop a page, which the thread then
waits for; it happens only when the machine is so short of memory that pages live for microseconds.
"""

from __future__ import annotations

import errno
import os
import threading
from array import array
from typing import TYPE_CHECKING, Final, Protocol

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.tiers.volume import page_cache
from pocketkv.tiers.volume.checksums import RunningChecksum, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pocketkv.tiers.volume.data_file import DataFile
    from pocketkv.tiers.volume.direct import Loaded

BLOCK_BYTES: Final = 256 * limits.KIB
# Regions begin and end with a page, so that they can be made holes.
PAGE_BYTES: Final = 4096
# The longest; a longer value has several.
REGION_BYTES_MAX: Final = limits.GIB
# What a worker reads at a time.
_FETCH_BLOCKS: Final = 4
# What is backed at a time where it is not known how much will come.
_STEP_BYTES_MIN: Final = 256 * limits.KIB
_STEP_BYTES_MAX: Final = 16 * limits.MIB

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# What a client is told of bytes that are not what was written.
DAMAGED: Final = b"IOERR the stored value is damaged: its checksum does not match"
_TRUNCATED: Final = b"IOERR the stored value is damaged: its file is too short"


def io_error(error: OSError) -> CommandError:
    """What a client is told about an error of the device."""
    text = error.strerror or type(error).__name__
    return CommandError(b"IOERR the device failed: " + text.encode(errors="replace"))


class _Running(Protocol):
    """A checksum of bytes that come in pieces."""

    def update(self, data: memoryview, /) -> None: ...

    def intdigest(self) -> int: ...


class _Scratch(threading.local):
    """What a thread reads into to compare checksums."""

    def __init__(self) -> None:
        self.buffer = bytearray(_FETCH_BLOCKS * BLOCK_BYTES)


_scratch: Final = _Scratch()


class Region:
    """Bytes of large values in one range of a file.

    Attributes:
        file, offset, size: The range.
        used: How many bytes of it, from the first on, were written.
        backed: How many are sure to find room.
        sums: The checksum of each block; the last one's is of what there is of it.
        unverified: A bit for each block that must be compared with its checksum first.
        holds: Replies under way that refer to it.
        is_shared: Whether several strings have it, so that no part of it can be given back alone.
        is_kept: Whether it stays though nothing refers to it: its value's record knows it.
    """

    __slots__ = (
        "__weakref__",
        "_cut",
        "_given_up",
        "_loaded",
        "_passed",
        "_passed_in",
        "_running",
        "backed",
        "file",
        "holds",
        "is_kept",
        "is_shared",
        "offset",
        "size",
        "sums",
        "unverified",
        "used",
    )

    def __init__(self, file: DataFile, offset: int, size: int) -> None:
        self.file = file
        self.offset = offset
        self.size = size
        self.used = 0
        self.backed = 0
        self.sums = array("Q")
        self.unverified = 0
        self.holds = 0
        self.is_shared = False
        self.is_kept = False
        # The checksum of the last block, as long as more may be appended to it.
        self._running: _Running | None = None
        # Of blocks that are partly given up: how many bytes.
        self._cut: dict[int, int] | None = None
        # Blocks that can be given back when the last reply was sent, as a bit each.
        self._given_up = 0
        # What commands wait for, and was read past the page cache.
        self._loaded: list[Loaded] | None = None
        # Blocks that were lately, as a bit each, and in which era.
        self._passed = 0
        self._passed_in = 0

    def __del__(self) -> None:
        if not self.is_kept:
            self.file.release(self.offset, self.size)

    # --- writing -------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many bytes can be appended."""
        if self.is_shared or self.used == self.size or (self.used and self.unverified):
            return 0
        if self._running is None and self.used % BLOCK_BYTES:
            return 0
        return self.size - self.used

    def back(self, until: int, step_bytes: int = 0) -> bool:
        """Have room on the device for the first `until` bytes; false if there is none.

        Args:
            until: At most `size`.
            step_bytes: How much to ask for at least, if it is to be had.

        Raises:
            OSError: The device failed.
        """
        if until <= self.backed:
            return True
        wanted = min(self.size, max(until, self.backed + step_bytes))
        for end in [wanted, until] if wanted > until else [until]:
            end = -(-end // PAGE_BYTES) * PAGE_BYTES
            if self.file.back(self.offset + self.backed, end - self.backed):
                self.backed = end
                return True
        return False

    def back_for(self, count: int) -> bool:
        """The same for the next `count` bytes, where more will follow: twice as much each time.

        Raises:
            OSError: The device failed.
        """
        step_bytes = min(max(self.used, _STEP_BYTES_MIN), _STEP_BYTES_MAX)
        return self.back(self.used + count, step_bytes)

    def append(self, data: memoryview) -> bool:
        """Write behind the last byte, no more than `room`; false, and no change: no space.

        Raises:
            OSError: The device failed; nothing has changed.
        """
        size = len(data)
        if not self.back(self.used + size):
            return False
        try:
            self.file.write(self.offset + self.used, data)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise
        self.file.wrote(self, self.offset + self.used, size)
        with self.file.lock:
            # Who compares checksums meanwhile must see both, or none.
            self._count(data)
            self.used += size
        return True

    def _count(self, data: memoryview) -> None:
        """Bring the checksums up to date: `data` comes behind the last byte."""
        sums = self.sums
        within = self.used % BLOCK_BYTES
        while data:
            part = data[: BLOCK_BYTES - within]
            data = data[len(part) :]
            if len(part) == BLOCK_BYTES:
                sums.append(checksum(part))
                continue
            if within == 0:
                self._running = RunningChecksum()
                sums.append(0)
            running = self._running
            assert running is not None  # `room` has looked.
            running.update(part)
            sums[-1] = running.intdigest()
            within = (within + len(part)) % BLOCK_BYTES
            if within == 0:
                self._running = None

    def seal(self) -> None:
        """Nothing more will be appended: what is left of it is given back."""
        self._running = None
        size = -(-self.used // PAGE_BYTES) * PAGE_BYTES
        if size < self.size:
            self.file.release(self.offset + size, self.size - size)
            self.size = size
            self.backed = min(self.backed, size)

    def can_append_now(self) -> bool:
        """Whether there is room, and a page that is begun has not left the cache meanwhile."""
        if self.room == 0:
            return False
        begun = self.used % PAGE_BYTES
        if not begun:
            return True
        return self.cached(self.used - begun, begun) == begun

    # --- giving parts of it back ---------------------------------------------------------------

    def cut(self, start: int, size: int) -> None:
        """A part of it is no part of its string any more; its blocks go back as they become free.

        Each byte is cut once. What is shared goes back as a whole.
        """
        if self.is_shared or self.file.is_recovering:
            return
        blocks = 0
        end = start + size
        while start < end:
            index = start // BLOCK_BYTES
            stop = min((index + 1) * BLOCK_BYTES, end)
            if self._cut_block(index, stop - start):
                blocks |= 1 << index
            start = stop
        if blocks:
            self._give_back(blocks)

    def _cut_block(self, index: int, size: int) -> bool:
        """Note a cut within one block; whether all of it is free now."""
        whole = min(BLOCK_BYTES, self.used - index * BLOCK_BYTES)
        cuts = self._cut
        if size < whole and cuts is None:
            cuts = self._cut = {}
        if cuts is not None:
            size += cuts.pop(index, 0)
            if size < whole:
                cuts[index] = size
        return size == whole

    def _give_back(self, blocks: int) -> None:
        with self.file.lock:
            if self.holds:
                self._given_up |= blocks
                return
        for first, last in runs(blocks):
            start = first * BLOCK_BYTES
            self.file.release_part(self.offset + start, min(last * BLOCK_BYTES, self.size) - start)

    def hold(self) -> int:
        """Keep all of it as it is; its file's descriptor.

        Raises:
            OSError: The file cannot be opened.
        """
        fd = self.file.pin()
        with self.file.lock:
            self.holds += 1
        return fd

    def let_go(self) -> None:
        """End one `hold`."""
        with self.file.lock:
            self.holds -= 1
            blocks = self._given_up if self.holds == 0 else 0
            if blocks:
                self._given_up = 0
        self.file.unpin()
        if blocks:
            self._give_back(blocks)

    # --- reading -------------------------------------------------------------------------------

    def learn(self, used: int, first: int, sums: array[int]) -> None:
        """Take over what a record says: so many bytes, and these blocks' checksums.

        A record may be older than another one, of when the region was shorter.
        """
        blocks = -(-used // BLOCK_BYTES)
        missing = blocks - len(self.sums)
        if missing > 0:
            self.sums.extend([0] * missing)
        for index, value in enumerate(sums, first):
            if min((index + 1) * BLOCK_BYTES, self.used) > used:
                # The block has grown since then, and whoever needs it knows its newer checksum.
                continue
            self.sums[index] = value
            self.unverified |= 1 << index
        self.used = max(self.used, used)
        self.size = max(self.size, -(-used // PAGE_BYTES) * PAGE_BYTES)
        self.backed = self.size

    def ready(self, start: int, size: int) -> int:
        """How many bytes from `start` on, at most `size`, can be had now: no waiting, verified.

        For the serving thread.

        Raises:
            OSError: The file cannot be asked.
        """
        if not self._loaded:
            return self.cached(start, size)
        found = 0
        for begin, count, loaded in self.spans(start, size):
            there = count if loaded is not None else self.cached(begin, count)
            found += there
            if there < count:
                break
        return found

    def spans(self, start: int, size: int) -> Iterator[tuple[int, int, Loaded | None]]:
        """The parts of a part: where from, how many bytes, and in what, if not in the file."""
        stop = start + size
        while start < stop:
            found = None
            end = stop
            for loaded in self._loaded or ():
                if loaded.start <= start < loaded.stop:
                    found, end = loaded, min(loaded.stop, stop)
                    break
                if start < loaded.start < end:
                    end = loaded.start
            yield start, end - start, found
            start = end

    def passes_cache(self, start: int, stop: int, era: int) -> bool:
        """Whether a part may be read past the page cache: what is wanted again belongs there.

        Args:
            start: Where the part begins.
            stop: Where it ends.
            era: A number that grows; what was read in this era or the one before is remembered.
        """
        first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
        blocks = ((1 << (last - first)) - 1) << first
        if era > self._passed_in + 1:
            self._passed = 0
        self._passed_in = era
        if self._passed & blocks:
            self._passed &= ~blocks
            return False
        self._passed |= blocks
        return True

    def keep(self, loaded: Loaded) -> None:
        """Have bytes of it at hand that were read past the page cache."""
        if self._loaded is None:
            self._loaded = []
        self._loaded.append(loaded)

    def let_loaded_go(self, loaded: Loaded) -> None:
        """End one `keep`, if there was one."""
        if self._loaded and loaded in self._loaded:
            self._loaded.remove(loaded)

    def cached(self, start: int, size: int) -> int:
        """`ready`, of what stands in the page cache alone; for any thread.

        Raises:
            OSError: The file cannot be asked.
        """
        if size <= 0:
            return 0
        if self.unverified:
            first = start // BLOCK_BYTES
            bits = self.unverified >> first
            if bits:
                end = (first + (bits & -bits).bit_length() - 1) * BLOCK_BYTES
                size = min(size, end - start)
                if size <= 0:
                    return 0
        fd = self.file.pin()
        try:
            return page_cache.resident_bytes(fd, self.offset + start, size)
        finally:
            self.file.unpin()

    def fetch(self, start: int, size: int) -> None:
        """Bring a part into the page cache, and verify it. For a worker: it waits for the device.

        Raises:
            CommandError: IOERR: it cannot be read, or is not what was written.
        """
        try:
            fd = self.file.pin()
            try:
                self._fetch(fd, start, size)
            finally:
                self.file.unpin()
        except OSError as error:
            raise io_error(error) from None

    def _fetch(self, fd: int, start: int, size: int) -> None:
        first = start // BLOCK_BYTES
        last = -(-(start + size) // BLOCK_BYTES)
        asked = first
        while first < last:
            stop = min(first + _FETCH_BLOCKS, last)
            # While one part is compared, the device reads the next one.
            while asked < min(stop + 1, last):
                self._ask(fd, asked, min(asked + _FETCH_BLOCKS, last))
                asked += _FETCH_BLOCKS
            begin = first * BLOCK_BYTES
            # Another thread may append to the last block; what it has now stays as it is.
            with self.file.lock:
                used = min(stop * BLOCK_BYTES, self.used)
                sums = self.sums[first:stop]
            if self.cached(begin, used - begin) < used - begin:
                self._read_and_verify(fd, first, used - begin, sums)
            first = stop

    def _ask(self, fd: int, first: int, stop: int) -> None:
        """Have the device begin to read blocks that are not there."""
        begin = first * BLOCK_BYTES
        size = min(stop * BLOCK_BYTES, self.used) - begin
        if self.cached(begin, size) < size:
            self._distrust(first, stop)
            # It is given all of it at once, instead of one part after the other.
            os.posix_fadvise(fd, self.offset + begin, size, os.POSIX_FADV_WILLNEED)

    def _distrust(self, first: int, stop: int) -> None:
        """Until blocks are compared, their pages that come into the cache are nobody's."""
        with self.file.lock:
            self.unverified |= ((1 << (stop - first)) - 1) << first

    def _read_and_verify(self, fd: int, first: int, size: int, sums: array[int]) -> None:
        self._distrust(first, first + len(sums))
        begin = self.offset + first * BLOCK_BYTES
        view = memoryview(_scratch.buffer)[:size]
        if read_into(fd, begin, view) < size:
            raise CommandError(_TRUNCATED)
        for index, value in enumerate(sums):
            if checksum(view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]) != value:
                # The next attempt shall ask the device again.
                page_cache.forget(fd, begin, size)
                raise CommandError(DAMAGED)
        with self.file.lock:
            self.unverified &= ~(((1 << len(sums)) - 1) << first)

    def read(self, start: int, size: int) -> bytes:
        """A part of it, copied. This waits for the device if it must.

        Raises:
            CommandError: IOERR: it cannot be read, or is not what was written.
        """
        if not self._loaded:
            return self._read_cached(start, size)
        # A view is good only as long as somebody refers to what it is of.
        spans = list(self.spans(start, size))
        parts = [
            self._read_cached(begin, count) if loaded is None else loaded.view(begin, count)
            for begin, count, loaded in spans
        ]
        return b"".join(parts)

    def _read_cached(self, start: int, size: int) -> bytes:
        try:
            fd = self.file.pin()
            try:
                if self.cached(start, size) < size:
                    self._fetch(fd, start, size)
                data = bytearray(size)
                if read_into(fd, self.offset + start, memoryview(data)) < size:
                    raise CommandError(_TRUNCATED)
            finally:
                self.file.unpin()
        except OSError as error:
            raise io_error(error) from None
        return bytes(data)


def read_into(fd: int, offset: int, view: memoryview) -> int:
    """Read a part of a file; less than all of it only where the file ends.

    Raises:
        OSError: The device failed.
    """
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def runs(bits: int) -> list[tuple[int, int]]:
    """The runs of ones in a number: first bit, and the one after the last."""
    found: list[tuple[int, int]] = []
    position = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        position += skip
        length = (~bits & (bits + 1)).bit_length() - 1
        found.append((position, position + length))
        bits >>= length
        position += length
    return found


class RegionHold:
    """Keeps a region as it is for a reply. Offsets are told within the file, as in a `FileRange`.

    Raises:
        CommandError: IOERR: the file cannot be opened.
    """

    __slots__ = ("_region", "fd")

    def __init__(self, region: Region) -> None:
        self.fd = -1
        self._region = region
        try:
            self.fd = region.hold()
        except OSError as error:
            raise io_error(error) from None

    def __del__(self) -> None:
        if self.fd >= 0:
            self._region.let_go()

    def resident(self, offset: int, size: int) -> int:
        """How many bytes from `offset` on, at most `size`, can be sent now.

        They are in the page cache, and were written by this process or verified.

        Raises:
            OSError: The file cannot be asked.
        """
        return self._region.cached(offset - self._region.offset, size)

    def fetch(self, offset: int, size: int) -> None:
        """Make a part of it `resident`. For a worker: it waits for the device.

        Raises:
            CommandError: IOERR: it cannot be read, or is not what was written.
        """
        self._region.fetch(offset - self._region.offset, size)

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes of a part of it, copied; this waits for the device if it must.

        Raises:
            CommandError: IOERR: it cannot be read, or is not what was written.
        """
        return memoryview(self._region.read(offset - self._region.offset, size))
