"""What a large string in files is made of, and what has to be waited for to read a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pocketkv import limits
from pocketkv.engine.cold import NO_STEPS
from pocketkv.engine.errors import CommandError
from pocketkv.resp.replies import FileRange
from pocketkv.tiers.volume.large_region import PAGE_BYTES, Region, RegionHold

_ZEROS: Final = bytes(limits.MIB)


class ZeroOwner:
    """Bytes that are zero, wherever; they stand in no file."""

    __slots__ = ()

    def view(self, offset: int, size: int) -> memoryview:
        """So many zeros."""
        return memoryview(_ZEROS)[:size] if size <= len(_ZEROS) else memoryview(bytes(size))

    def resident(self, offset: int, size: int) -> int:
        """All of them."""
        return size

    def fetch(self, offset: int, size: int) -> None:
        """There is nothing to do."""


ZERO_OWNER: Final = ZeroOwner()


class PendingPart:
    """A part of a string that has to be read before it can be had without waiting.

    Attributes:
        is_coming: As `pocketkv.engine.cold.PendingRead` says.
    """

    __slots__ = ("_part",)

    def __init__(self, region: Region, offset: int, size: int) -> None:
        hold = RegionHold(region)
        self._part = FileRange(hold.fd, region.offset + offset, size, hold)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PendingPart) and self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def _place(self) -> tuple[int, int, int]:
        return self._part.fd, self._part.offset, self._part.size

    # Nobody but a worker may bring it into the page cache: it has to be verified.
    is_coming = False

    def try_read(self) -> None:
        """It is never there by itself."""

    def read(self) -> bytes:
        """Bring it into the page cache, and verify it; for a worker.

        Raises:
            CommandError: IOERR: it cannot be read, or is not what was written.
        """
        hold = self._part.owner
        assert isinstance(hold, RegionHold)  # It was made so.
        hold.fetch(self._part.offset, self._part.size)
        return b""

    def keep(self, result: bytes | CommandError) -> bool:
        """It is in the page cache, so there is nothing to keep; errors are not kept."""
        return not isinstance(result, CommandError)

    def prepare(self) -> Iterator[None]:
        """There is nothing to do."""
        return NO_STEPS

    def forget(self) -> None:
        """There is nothing to forget."""


class FilePiece:
    """A part of a string: `size` bytes from `offset` in a region on; without one, zeros."""

    __slots__ = ("offset", "region", "size")

    def __init__(self, region: Region | None, offset: int, size: int) -> None:
        self.region = region
        self.offset = offset
        self.size = size

    def read(self, start: int, size: int) -> bytes:
        """A part of it, copied; this waits for the device if it must.

        Raises:
            CommandError: IOERR.
        """
        if self.region is None:
            return bytes(size)
        return self.region.read(self.offset + start, size)

    def is_ready(self) -> bool:
        """Whether all of it can be read without waiting."""
        region = self.region
        try:
            return region is None or region.ready(self.offset, self.size) == self.size
        except OSError:
            return False

    def device_bytes(self) -> int:
        """What it takes on the device."""
        return 0 if self.region is None else -(-self.size // PAGE_BYTES) * PAGE_BYTES
