"""Receives large strings into the files in which they stay.

All connections share one buffer, small enough to stay in the processor's cache: what came is
hashed and written while it is there, before anybody else is served, so an unfinished string takes
no memory. As in `pocketkv.engine.sinks`, what was received is charged to the job at once, and a
string that there is no room for is received and forgotten, and its request refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from pocketkv import limits
from pocketkv.engine.charge import Charge
from pocketkv.engine.commands import COMMANDS
from pocketkv.engine.sinks import COPY_LARGE, RefusedString
from pocketkv.tiers.volume.file_string import NO_ROOM, FileString
from pocketkv.tiers.volume.large_region import (
    PAGE_BYTES,
    REGION_BYTES_MAX,
    Region,
    io_error,
)

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.session import Session
    from pocketkv.tiers.volume.large_file import LargeFile

WARM_BYTES: Final = 256 * limits.KIB
_TOO_SLOW: Final = b"IOERR the medium takes no writes: it has been behind for %d seconds" % (
    limits.LARGE_HOLD_MAX_S
)


class FileSinks:
    """Knows which arguments of a session's requests go to files.

    Args:
        session: Whose.
        file_of: The large values of a job; OSError, if its files cannot be had, refuses a string.
        warm: What all connections receive into, by `warm_buffer`.
    """

    __slots__ = ("_file_of", "_session", "_warm")

    def __init__(
        self, session: Session, file_of: Callable[[str], LargeFile], warm: memoryview
    ) -> None:
        self._session = session
        self._file_of = file_of
        self._warm = warm

    def open(self, arguments: list[bytes], size: int) -> FileSink | None:
        """The sink of an argument of `size` bytes that follows these, or ``None``: in memory."""
        if not arguments:
            return None
        name = arguments[0]
        command = COMMANDS.get(name) or COMMANDS.get(name.upper())
        if command is None or not command.takes_large(len(arguments)):
            return None
        space = self._session.space
        is_copy = command.name == COPY_LARGE and self._session.proxied
        refuses = space.refuses_copied if is_copy else space.refuses_large
        sink = FileSink(self._file_of, space, size, self._warm, refuses)
        if size > limits.LARGE_BULK_FIRST_BYTES:
            unfinished: WeakSet[Any] = space.keyspace.unfinished
            unfinished.add(sink)
        return sink


def warm_buffer() -> memoryview:
    """The buffer that all connections of a server receive into."""
    return memoryview(bytearray(WARM_BYTES))


class FileSink:
    """Receives one string of a known length.

    Args:
        file_of: The large values of a job.
        space: The job that it is charged to.
        size: Its length.
        warm: What it is received into.
        refuses: Whether there is no room for so much more; ``None``: as for any write.
    """

    __slots__ = (
        "__weakref__",
        "_charge",
        "_error",
        "_file",
        "_file_of",
        "_filled",
        "_refuses",
        "_regions",
        "_rest",
        "_seen",
        "_size",
        "_warm",
    )

    def __init__(
        self,
        file_of: Callable[[str], LargeFile],
        space: JobSpace,
        size: int,
        warm: memoryview,
        refuses: Callable[[int], bool] | None = None,
    ) -> None:
        self._charge = Charge(space)
        self._refuses = refuses or space.refuses_large
        self._file_of = file_of
        self._file: LargeFile | None = None
        self._size = size
        self._warm = warm
        self._regions: list[Region] = []
        self._filled = 0
        # What came behind the last whole page and is not written yet: pages are written once.
        self._rest = b""
        # How much had been received when somebody last looked whether it goes on.
        self._seen = 0
        # What it stands for in its request if it is not kept.
        self._error: RefusedString | None = None
        if self._refuses(size):
            self._refuse(RefusedString(space.refusal(0, size)))

    @property
    def buffered_bytes(self) -> int:
        """Nothing that is not charged to the job."""
        return 0

    def writable(self) -> memoryview:
        """Where the next bytes belong, not empty while some are missing; until the next call."""
        rest = self._rest
        begin = len(rest)
        if begin:
            # Others may have received into the buffer since.
            self._warm[:begin] = rest
        return self._warm[begin : begin + self._size - self._filled]

    def wrote(self, count: int) -> None:
        """So many bytes were received into what `writable` gave."""
        received = len(self._rest) + count
        self._filled += count
        if self._error is None:
            whole = received if self._filled == self._size else received // PAGE_BYTES * PAGE_BYTES
            self._rest = bytes(self._warm[whole:received])
            self._store_or_refuse(self._warm[:whole])
        if self._error is None:
            self._charge.add(count)
            space = self._charge.space
            if self._refuses(0):
                self._refuse(RefusedString(space.refusal(0)))

    def _store_or_refuse(self, data: memoryview) -> None:
        try:
            refusal = self._store(data)
        except OSError as error:
            refusal = io_error(error).text
        if refusal:
            self._refuse(RefusedString(refusal))

    def _store(self, data: memoryview) -> bytes:
        """Write what came behind what came before; why that is refused, or nothing.

        Raises:
            OSError: The device failed.
        """
        file = self._file
        if file is None:
            file = self._file = self._file_of(self._charge.space.job_id)
        if file.pacer is not None and file.pacer.refuses:
            return _TOO_SLOW
        missing = self._size - sum(region.used for region in self._regions)
        while data:
            region = self._regions[-1] if self._regions else None
            if region is None or region.room == 0:
                region = file.allocate(min(missing, REGION_BYTES_MAX))
                if region is None:
                    return NO_ROOM
                self._regions.append(region)
            part = data[: region.room]
            if not (region.back_for(len(part)) and region.append(part)):
                return NO_ROOM
            data = data[len(part) :]
            missing -= len(part)
        return b""

    def finish(self) -> FileString | RefusedString:
        """The string, which is whole; or what has its request refused."""
        if self._error is not None:
            return self._error
        if self._filled != self._size or self._file is None:
            raise ValueError("the bulk is not whole")
        string = FileString(self._file, self._regions)
        string.charge = self._charge
        self._charge = Charge(self._charge.space)
        self._regions = []
        return string

    def abort(self) -> None:
        """The string will never be whole."""
        self._refuse(RefusedString())

    def give_back_rest(self) -> None:
        """Give back what was taken and not used, unless much was received since the last call."""
        progress = self._filled - self._seen
        self._seen = self._filled
        if progress < limits.EXTENT_BYTES_MIN and self._regions:
            self._regions[-1].seal()

    def _refuse(self, error: RefusedString) -> None:
        self._error = error
        self._regions = []
        self._rest = b""
        self._charge.add(-self._charge.size_bytes)
