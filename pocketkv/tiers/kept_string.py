"""Large strings that a job has left in S3: sent a part at a time, and never whole in memory.

A reply has a file in memory of its own. A reader brings a part of the value there, it is sent from
there as any large value is, and what was sent is given back before the next part is brought.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.resp.replies import FileBulk, FileRange
from pocketkv.tiers.holes import punch_hole

if TYPE_CHECKING:
    from pocketkv.engine.cold import Cold, PendingRead

_PAGE_BYTES: Final = 4096
_READ_ONLY: Final = b"ERR what a job has retained in S3 cannot be changed"
_NO_DESCRIPTOR: Final = b"IOERR no file for a part of the value: "


class PartReader(Protocol):
    """Reads parts of large strings.

    Attributes:
        parts: Those that were read for commands, by string, start and end.
    """

    parts: dict[tuple[Cold, int, int], bytes]

    def read_part(self, cold: Cold, start: int, stop: int) -> bytes:
        """Read one; for a worker thread.

        Raises:
            CommandError: IOERR.
        """
        ...


class KeptPart:
    """A part of a string that has to be read (`pocketkv.engine.cold.PendingRead`)."""

    __slots__ = ("_place", "_reader")

    is_coming = False

    def __init__(self, reader: PartReader, cold: Cold, start: int, stop: int) -> None:
        self._reader = reader
        self._place = cold, start, stop

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeptPart) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    def try_read(self) -> None:
        """It is never there by itself."""

    def read(self) -> bytes:
        """Read it; for a worker thread.

        Raises:
            CommandError: IOERR.
        """
        return self._reader.read_part(*self._place)

    def keep(self, result: bytes | CommandError) -> bool:
        """Have it at hand; errors are not kept."""
        if isinstance(result, CommandError):
            return False
        self._reader.parts[self._place] = result
        return True

    def prepare(self) -> Iterator[None]:
        """There is nothing to do."""
        return iter(())

    def forget(self) -> None:
        """It is not needed any more."""
        self._reader.parts.pop(self._place, None)


class KeptHold:
    """What of a string is on its way to one client (`pocketkv.resp.replies.StoredOwner`).

    Offsets are those of the reply.

    Attributes:
        fd: Of the file in which parts stand until they are sent.
    """

    __slots__ = ("_cold", "_freed", "_reader", "_ready", "_start", "fd")

    def __init__(self, reader: PartReader, cold: Cold, start: int, first: bytes) -> None:
        self._reader = reader
        self._cold = cold
        self._start = start
        self._freed = 0
        self._ready = 0
        self.fd = -1
        try:
            self.fd = os.memfd_create("pocketkv-kept", os.MFD_CLOEXEC)
            self._add(0, first)
        except OSError as error:
            reason = (error.strerror or str(error)).encode()
            raise CommandError(_NO_DESCRIPTOR + reason) from None

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def _add(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, offset)
            offset += count
            view = view[count:]
        self._ready = offset

    def view(self, offset: int, size: int) -> memoryview:
        """What is there of a part."""
        return memoryview(os.pread(self.fd, size, offset))

    def resident(self, offset: int, size: int) -> int:
        """How many bytes from `offset` on can be sent now; those before it were sent."""
        end = offset - offset % _PAGE_BYTES
        if end - self._freed >= limits.MIB:
            punch_hole(self.fd, self._freed, end - self._freed)
            self._freed = end
        return max(0, min(size, self._ready - offset))

    def fetch(self, offset: int, size: int) -> None:
        """Bring a part; for a worker thread.

        Raises:
            CommandError: IOERR.
            OSError: There is no memory for it.
        """
        start = self._start + offset
        self._add(offset, self._reader.read_part(self._cold, start, start + size))


class KeptString(LargeString):
    """A string in S3.

    Args:
        reader: Who reads it.
        cold: Where it is.
    """

    __slots__ = ("_cold", "_reader")

    def __init__(self, reader: PartReader, cold: Cold) -> None:
        # Nothing of the base is used but its methods: it has no extents.
        self.charge = None
        self._reader = reader
        self._cold = cold

    def __len__(self) -> int:
        return self._cold.length

    @property
    def size_bytes(self) -> int:
        """What it costs: it is not here."""
        return 0

    @property
    def pieces(self) -> int:
        """How many pieces it has, which tells how long it takes to free."""
        return 0

    # --- reading -------------------------------------------------------------------------------

    def missing(self, start: int, stop: int) -> list[PendingRead]:
        """What has to be read before these bytes can be had."""
        if start >= stop or self._part(start, stop) is not None:
            return []
        return [KeptPart(self._reader, self._cold, start, stop)]

    def require_head(self, start: int, stop: int) -> None:
        """Have at hand what is sent first of these bytes: less than of files, for it takes memory.

        Raises:
            NotResident: It cannot be had without waiting.
        """
        self.require(start, _first_stop(start, stop))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, which were required just now.

        Raises:
            NotResident: They were not.
        """
        self.require(start, stop)
        part = self._part(start, stop)
        return b"" if part is None else part

    def _part(self, start: int, stop: int) -> bytes | None:
        """Bytes that were read and not forgotten since, by themselves or within a longer part."""
        parts = self._reader.parts
        exact = parts.get((self._cold, start, stop))
        if exact is not None:
            return exact
        for (cold, first, last), part in parts.items():
            if cold is self._cold and first <= start and stop <= last:
                return part[start - first : stop - first]
        return None

    def views(self, start: int, stop: int) -> list[memoryview]:
        """The same.

        Raises:
            NotResident: As `read`.
        """
        return [memoryview(self.read(start, stop))]

    def bulk(self) -> FileBulk:
        """The reply that is this string.

        Raises:
            CommandError: IOERR: there is no file for it.
        """
        return self.part_bulk(0, len(self))

    def part_bulk(self, start: int, stop: int) -> FileBulk:
        """The reply that is a part of it.

        Raises:
            CommandError: IOERR: there is no file for it.
        """
        first = self._reader.parts.get((self._cold, start, _first_stop(start, stop)), b"")
        hold = KeptHold(self._reader, self._cold, start, first)
        return FileBulk(stop - start, [FileRange(hold.fd, 0, stop - start, hold)])

    # --- changing ------------------------------------------------------------------------------

    def copy(self) -> KeptString:
        """The same string: nobody changes it."""
        return self

    def write(self, offset: int, data: bytes | bytearray | LargeString) -> None:
        """Refuse.

        Raises:
            CommandError: ERR.
        """
        raise CommandError(_READ_ONLY)


def _first_stop(start: int, stop: int) -> int:
    """Up to where a part that begins at `start` is read before the reply begins."""
    return min(stop, start + limits.FETCH_BYTES)
