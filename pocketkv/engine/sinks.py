"""Receives large strings straight into the extents in which they stay.

A client announces how long a string will be, and that is not to be believed: addresses are taken
for all of it, so that it stands in one piece, but memory follows what was received, and whoever
does not go on loses what it does not use. What was received is charged to the job at once, until
the string is a value, which is accounted for, or is dropped.

A string that the job has no room for is received and forgotten; the request that it belongs to is
refused by the gate, and the connection goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.charge import Charge
from pocketkv.engine.commands import COMMANDS
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString

if TYPE_CHECKING:
    from pocketkv.engine.extents import Extent, Extents
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.session import Session

# More than any server has, and so many times as one request can have that, it is still a C long.
_REFUSED_BYTES: Final = 2**48
# By which a server is sent what is moved to it; it may be more than the job's quota.
COPY_LARGE: Final = "pocketkv.copylarge"
# What is received of it at a time.
COPY_TURN_BYTES: Final = 256 * limits.KIB
# Where bytes go that nobody will look at; all connections share it.
_WASTE: Final = memoryview(bytearray(256 * limits.KIB))


class RefusedString:
    """Stands for a string that was not kept: it is longer than there is memory.

    Attributes:
        text: Why, as an error with its code; empty: because there was no room.
    """

    __slots__ = ("text",)

    def __init__(self, text: bytes = b"") -> None:
        self.text = text

    def __len__(self) -> int:
        return _REFUSED_BYTES


def charged_bytes(request: Sequence[object]) -> int:
    """What of a request's arguments is charged to a job already."""
    charged = 0
    for argument in request:
        if isinstance(argument, LargeString) and argument.charge is not None:
            charged += argument.charge.size_bytes
    return charged


def refuse_failed(request: Sequence[object]) -> None:
    """Tell why one of a request's arguments was not kept, if it was not for want of room.

    Raises:
        CommandError: With the reason.
    """
    for argument in request:
        if isinstance(argument, RefusedString) and argument.text:
            raise CommandError(argument.text)


def settle(request: Sequence[object]) -> None:
    """End the charge for a request's arguments: it is executed now."""
    for argument in request:
        if isinstance(argument, LargeString):
            argument.charge = None


class ExtentSinks:
    """Knows which arguments of a session's requests go to extents."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def open(self, arguments: list[bytes], size: int) -> ExtentSink | None:
        """The sink of an argument of `size` bytes that follows these, or ``None``: in memory."""
        keyspace = self.session.node.keyspace
        if keyspace.extents is None or not arguments:
            return None
        name = arguments[0]
        command = COMMANDS.get(name) or COMMANDS.get(name.upper())
        if command is None or not command.takes_large(len(arguments)):
            return None
        sink = ExtentSink(keyspace.extents, self.session.space, size)
        if command.name == COPY_LARGE and self.session.proxied:
            sink.ignore_quota(size)
        if size > limits.LARGE_BULK_FIRST_BYTES:
            keyspace.unfinished.add(sink)
        return sink


class ExtentSink:
    """Receives one string of a known length.

    Args:
        extents: Where it goes.
        space: The job that it is charged to.
        size: Its length.
    """

    __slots__ = (
        "__weakref__",
        "_chain",
        "_charge",
        "_extents",
        "_filled",
        "_index",
        "_is_copy",
        "_refused",
        "_seen",
        "_size",
        "_step_bytes",
        "_within",
    )

    def __init__(self, extents: Extents, space: JobSpace, size: int) -> None:
        self._extents = extents
        self._charge = Charge(space)
        self._size = size
        # Extents before the one at `_index` are full; in that one are `_within` bytes.
        self._chain: list[Extent] = []
        self._index = 0
        self._within = 0
        self._filled = 0
        # How much is backed at a time.
        self._step_bytes = limits.EXTENT_FIRST_BYTES
        # How much had been received when somebody last looked whether it goes on.
        self._seen = 0
        self._is_copy = False
        self._refused = space.lacks_room(size)

    @property
    def buffered_bytes(self) -> int:
        """Nothing that is not charged to the job."""
        return 0

    def ignore_quota(self, size: int) -> None:
        """Refuse only what the server has no room for: the string is moved here."""
        self._is_copy = True
        self._refused = self._charge.space.refuses_copied(size)

    def writable(self) -> memoryview:
        """Where the next bytes belong, not empty while some are missing; until the next call."""
        missing = self._size - self._filled
        if not self._refused:
            extent = self._next_extent(missing)
            if extent is not None:
                if self._is_copy:
                    # Clients have their turn in between.
                    missing = min(missing, COPY_TURN_BYTES)
                end = min(extent.backed_bytes(), self._within + missing)
                return extent.view(self._within, end - self._within)
            self._refuse()
        return _WASTE[:missing]

    def wrote(self, count: int) -> None:
        """So many bytes were received into what `writable` gave."""
        self._filled += count
        if self._refused:
            return
        self._within += count
        self._charge.add(count)
        space = self._charge.space
        if space.refuses_copied(0) if self._is_copy else space.lacks_room(0):
            self._refuse()

    def finish(self) -> LargeString | RefusedString:
        """The string, which is whole; or what has its request refused."""
        if self._refused:
            return RefusedString()
        if self._filled != self._size:
            raise ValueError("the bulk is not whole")
        chain = self._chain
        del chain[self._index + 1 :]
        page_bytes = self._extents.page_bytes
        self._extents.take_back(chain[-1], -(-self._within // page_bytes))
        string = LargeString(self._extents, chain, self._size)
        string.charge = self._charge
        self._charge = Charge(self._charge.space)
        self._chain = []
        return string

    def abort(self) -> None:
        """The string will never be whole."""
        self._refuse()

    def give_back_rest(self) -> None:
        """Give back what was taken and not used, unless much was received since the last call."""
        progress = self._filled - self._seen
        self._seen = self._filled
        if progress >= limits.EXTENT_BYTES_MIN or self._refused or not self._chain:
            return
        extents = self._extents
        del self._chain[self._index + 1 :]
        extents.take_back(self._chain[self._index], -(-self._within // extents.page_bytes))
        if self._within == 0:
            self._chain.pop()
        # Whoever sends a byte a second must not have much prepared for each.
        self._step_bytes = extents.page_bytes

    def _refuse(self) -> None:
        self._refused = True
        self._chain = []
        self._charge.add(-self._charge.size_bytes)

    def _next_extent(self, missing: int) -> Extent | None:
        """The extent that the next bytes belong to, backed at `_within`; ``None``: no room."""
        chain = self._chain
        if self._index < len(chain) and self._within == chain[self._index].size_bytes():
            self._index += 1
            self._within = 0
        if self._index == len(chain):
            more = self._extents.allocate(missing)
            if not more:
                # A part of it may be had, and more of it later.
                first = max(self._filled, limits.LARGE_BULK_FIRST_BYTES)
                more = self._extents.allocate(min(missing, first))
            if not more:
                return None
            chain += more
        extent = chain[self._index]
        if self._within == extent.backed_bytes():
            step_pages = self._step_bytes // self._extents.page_bytes
            pages = min(extent.pages, extent.backed_pages + step_pages)
            if not self._extents.back(extent, pages):
                return None
            step_bytes_max = COPY_TURN_BYTES if self._is_copy else limits.RECEIVE_LARGE_BYTES
            self._step_bytes = min(2 * self._step_bytes, step_bytes_max)
        return extent
