"""A string whose bytes stand in extents of the medium instead of in an object.

It is a chain of pieces, each a part of an extent, so that it may be longer than any free range,
and grow without being copied. A reply takes no bytes along but refers to them: `Hold` keeps those
bytes as they are until the reply was sent, and whoever wants to change them meanwhile changes a
copy. What was appended since then is no part of the reply, so appending never copies.

An extent goes back when nothing refers to it any more: no string, and no reply.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.cold import NotResident
from pocketkv.engine.errors import OUT_OF_MEMORY, CommandError
from pocketkv.resp.replies import FileBulk, FileRange, Reply

if TYPE_CHECKING:
    from pocketkv.engine.charge import Charge
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.extents import Extent, Extents

NEVER_WRITTEN: Final = 1 << 62
"""No string is so long (see `LargeString.written_from`)."""

# What a string costs beside its pages: itself, its two lists; and each piece with its extent.
_STRING_BYTES: Final = 256
_PIECE_BYTES: Final = 224
# What is changed while somebody else needs it as it is, is copied in blocks of this size.
_COPIED_BLOCK_BYTES: Final = 64 * limits.KIB
# A string that grows in small steps gets room for more: a part of what it has, within limits.
_GROWTH_PART: Final = 16
_GROWTH_BYTES_MIN: Final = 16 * limits.KIB
_GROWTH_BYTES_MAX: Final = limits.MIB
# Zeros to copy from.
_ZEROS: Final = bytes(256 * limits.KIB)


class Hold:
    """Keeps an extent's bytes as they are for as long as it lives."""

    __slots__ = ("extent",)

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        extent.holds += 1

    def __del__(self) -> None:
        self.extent.holds -= 1

    def view(self, offset: int, size: int) -> memoryview:
        """A part of the medium."""
        return self.extent.extents.medium.view(offset, size)

    def resident(self, offset: int, size: int) -> int:
        """How much of it can be sent now: all of it is in memory."""
        return size


class Piece:
    """A part of an extent that is a part of a string: `size` bytes from `offset` on."""

    __slots__ = ("extent", "offset", "size")

    def __init__(self, extent: Extent, offset: int, size: int) -> None:
        self.extent = extent
        self.offset = offset
        self.size = size


class LargeString:
    """A string in extents.

    Attributes:
        charge: By which it is accounted to a job while it is no value yet.
        written_from: From where on it was written since somebody set this to `NEVER_WRITTEN`.
    """

    __slots__ = ("_ends", "_extents", "_pages", "_pieces", "charge", "written_from")

    def __init__(self, extents: Extents, chain: list[Extent], size: int) -> None:
        """Make a string of the first `size` bytes of extents that are filled already."""
        self._extents = extents
        self._pieces: list[Piece] = []
        # Where each piece ends within the string.
        self._ends: list[int] = []
        # Of the extents, each counted once.
        self._pages = 0
        self.charge: Charge | None = None
        self.written_from = 0
        self._adopt(chain, size)

    def _adopt(self, chain: list[Extent], size: int) -> None:
        for extent in chain:
            part = min(size, extent.size_bytes())
            self._add(Piece(extent, 0, part))
            size -= part

    def _add(self, piece: Piece) -> None:
        """Add a piece of an extent that the string did not have."""
        ends = self._ends
        ends.append((ends[-1] if ends else 0) + piece.size)
        self._pieces.append(piece)
        self._pages += piece.extent.pages

    def __len__(self) -> int:
        ends = self._ends
        return ends[-1] if ends else 0

    def __bytes__(self) -> bytes:
        return self.read(0, len(self))

    def __getitem__(self, part: slice) -> bytes:
        start, stop, step = part.indices(len(self))
        return self.read(start, stop) if step == 1 else bytes(self)[part]

    @property
    def size_bytes(self) -> int:
        """What it costs, as it is accounted to its job."""
        pages_bytes = self._pages * self._extents.page_bytes
        return pages_bytes + _STRING_BYTES + _PIECE_BYTES * len(self._pieces)

    @property
    def pieces(self) -> int:
        """How many pieces it has, which tells how long it takes to free."""
        return len(self._pieces)

    # --- reading -------------------------------------------------------------------------------

    def missing(self, start: int, stop: int) -> list[PendingRead]:
        """What has to be read before these bytes can be had: nothing, where all is in memory."""
        return []

    def require(self, start: int, stop: int) -> None:
        """Have these bytes at hand.

        Raises:
            NotResident: They cannot be had without waiting.
        """
        missing = self.missing(start, stop)
        if missing:
            raise NotResident(missing)

    def require_head(self, start: int, stop: int) -> None:
        """Have at hand what is sent first of these bytes.

        Raises:
            NotResident: It cannot be had without waiting.
        """
        self.require(start, min(stop, start + limits.FETCH_FIRST_BYTES))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, copied."""
        return b"".join(self.views(start, stop))

    def views(self, start: int, stop: int) -> list[memoryview]:
        """The same bytes where they stand; nothing may be changed before they were used."""
        parts = self._parts(start, stop)
        return [extent.view(offset, size) for extent, offset, size in parts]

    def bulk(self) -> FileBulk:
        """The reply that is this string."""
        return self.part_bulk(0, len(self))

    def part_bulk(self, start: int, stop: int) -> FileBulk:
        """The reply that is a part of it."""
        ranges: list[FileRange] = []
        for extent, offset, size in self._parts(start, stop):
            fd = _sent_by(extent, size)
            ranges.append(FileRange(fd, extent.offset() + offset, size, Hold(extent)))
        return FileBulk(stop - start, ranges)

    def reference_bulk(self, start: int, stop: int) -> FileBulk:
        """The same for who will need the string no more: it is not copied to be sent."""
        ranges: list[FileRange] = []
        for extent, offset, size in self._parts(start, stop):
            fd = -1
            if size >= limits.EXTENT_REFERENCE_BYTES_MIN:
                extent.is_sent = True
                fd = self._extents.medium.fd
            ranges.append(FileRange(fd, extent.offset() + offset, size, Hold(extent)))
        return FileBulk(stop - start, ranges)

    def _parts(self, start: int, stop: int) -> list[tuple[Extent, int, int]]:
        """What of which extents holds the bytes from `start` up to `stop`: offset and size."""
        parts: list[tuple[Extent, int, int]] = []
        index = bisect_right(self._ends, start)
        while start < stop:
            piece = self._pieces[index]
            within = start - (self._ends[index] - piece.size)
            size = min(piece.size - within, stop - start)
            parts.append((piece.extent, piece.offset + within, size))
            start += size
            index += 1
        return parts

    # --- changing ------------------------------------------------------------------------------

    def copy(self) -> LargeString:
        """A string with the same bytes; they are copied when one of the two changes them."""
        self._give_back_room()
        twin = LargeString(self._extents, [], 0)
        for piece in self._pieces:
            piece.extent.is_shared = True
            twin._pieces.append(Piece(piece.extent, piece.offset, piece.size))
        twin._ends = self._ends.copy()
        twin._pages = self._pages
        return twin

    def write(self, offset: int, data: bytes | bytearray | LargeString) -> None:
        """Write bytes from `offset` on; the string grows if it must, zero bytes fill a gap.

        Another string is used up: what of it comes after the end of this one is not copied.

        Raises:
            CommandError: OOM; nothing has changed then.
        """
        size = len(self)
        self.written_from = min(self.written_from, offset, size)
        if isinstance(data, LargeString) and offset >= size:
            self._append_zeros(offset - size)
            self._append_string(data)
            return
        stop = offset + len(data)
        if offset < size:
            self._make_writable(offset, min(stop, size))
        self._reserve(stop - size)
        self._append_zeros(offset - size)
        parts = data.views(0, len(data)) if isinstance(data, LargeString) else [memoryview(data)]
        for part in parts:
            inside = min(len(part), len(self) - offset)
            self._overwrite(offset, part[:inside])
            self._fill(part[inside:])
            offset += len(part)

    def _overwrite(self, offset: int, data: memoryview) -> None:
        """Write over bytes that there are, and that may be changed where they stand."""
        written = 0
        for extent, start, size in self._parts(offset, offset + len(data)):
            extent.view(start, size)[:] = data[written : written + size]
            written += size

    def _append_zeros(self, count: int) -> None:
        self._reserve(count)
        zeros = memoryview(_ZEROS)
        while count > 0:
            part = min(count, len(zeros))
            self._fill(zeros[:part])
            count -= part

    def _append_string(self, other: LargeString) -> None:
        """Add another string's pieces; it is empty then."""
        self._give_back_room()
        for piece in other._pieces:
            self._add(piece)
        other._pieces = []
        other._ends = []
        other._pages = 0

    # --- for media that are files ---------------------------------------------------------------

    def payload(self) -> bytes:
        """What a journal has to know of it."""
        raise NotImplementedError  # Bytes in memory need no journal.

    def take_changes(self) -> list[bytes]:
        """What a journal has to know beside that, since it was last told."""
        raise NotImplementedError  # As `payload`.

    # --- room at the end -----------------------------------------------------------------------

    def _room(self) -> int:
        """How many bytes fit behind the last one, in its extent and in those that are empty."""
        room = 0
        for piece in reversed(self._pieces):
            room += _room_behind(piece)
            if piece.size:
                break
        return room

    def _reserve(self, count: int) -> None:
        """Make room for so many bytes at the end, and for more that may follow."""
        count -= self._room()
        if count <= 0:
            return
        growth = min(max(len(self) // _GROWTH_PART, _GROWTH_BYTES_MIN), _GROWTH_BYTES_MAX)
        if not (self._extend(count + growth) or self._extend(count)):
            chain = self._extents.allocate_backed(count + growth)
            if not chain:
                chain = self._extents.allocate_backed(count)
            if not chain:
                raise CommandError(OUT_OF_MEMORY)
            for extent in chain:
                self._add(Piece(extent, 0, 0))

    def _extend(self, count: int) -> bool:
        """Make the last extent longer where it is."""
        if not self._pieces or self._pieces[-1].extent.is_shared:
            return False
        pages = -(-count // self._extents.page_bytes)
        if not self._extents.extend(self._pieces[-1].extent, pages):
            return False
        self._pages += pages
        return True

    def _fill(self, data: memoryview) -> None:
        """Write behind the last byte, where room was made."""
        if not data:
            return
        index = len(self._pieces) - 1
        # Pieces that were added for room are still empty.
        while index > 0 and self._pieces[index].size == 0:
            index -= 1
        while data:
            piece = self._pieces[index]
            part = data[: _room_behind(piece)]
            if part:
                piece.extent.view(piece.offset + piece.size, len(part))[:] = part
                piece.size += len(part)
                data = data[len(part) :]
            self._ends[index] = (self._ends[index - 1] if index else 0) + piece.size
            index += 1
        for rest in range(index, len(self._pieces)):
            self._ends[rest] = self._ends[rest - 1]

    def _give_back_room(self) -> None:
        """Give the pages behind the last byte back."""
        while self._pieces and self._pieces[-1].size == 0:
            self._pages -= self._pieces.pop().extent.pages
            self._ends.pop()
        if self._room() >= self._extents.page_bytes:
            last = self._pieces[-1]
            pages = -(-(last.offset + last.size) // self._extents.page_bytes)
            self._pages -= last.extent.pages - pages
            self._extents.take_back(last.extent, pages)

    # --- copying what others need as it is -----------------------------------------------------

    def _make_writable(self, start: int, stop: int) -> None:
        """Put copies in place of what of these bytes must not be changed where it stands."""
        copies: list[tuple[int, int, int, list[Extent]]] = []
        index = bisect_right(self._ends, start)
        while index < len(self._ends) and self._ends[index] - self._pieces[index].size < stop:
            piece = self._pieces[index]
            begin = self._ends[index] - piece.size
            if not piece.extent.is_writable() and piece.size:
                # In blocks, counted from the extent's beginning; so every piece begins with one.
                first = piece.offset + max(start - begin, 0)
                last = piece.offset + min(stop - begin, piece.size)
                first = first // _COPIED_BLOCK_BYTES * _COPIED_BLOCK_BYTES
                last = -(-last // _COPIED_BLOCK_BYTES) * _COPIED_BLOCK_BYTES
                last = min(last, piece.offset + piece.size)
                chain = self._extents.allocate_backed(last - first)
                if not chain:
                    raise CommandError(OUT_OF_MEMORY)
                copies.append((index, first, last, chain))
            index += 1
        for index, first, last, chain in reversed(copies):
            self._replace(index, first, last, chain)
        if copies:
            self._count()

    def _replace(self, index: int, first: int, last: int, chain: list[Extent]) -> None:
        """Put a copy in place of a part of a piece; the part is told within its extent."""
        piece = self._pieces[index]
        source = piece.extent
        pieces: list[Piece] = []
        if first > piece.offset:
            pieces.append(Piece(source, piece.offset, first - piece.offset))
        position = first
        for extent in chain:
            size = min(extent.size_bytes(), last - position)
            extent.view(0, size)[:] = source.view(position, size)
            pieces.append(Piece(extent, 0, size))
            position += size
        end = piece.offset + piece.size
        if last < end:
            pieces.append(Piece(source, last, end - last))
        self._pieces[index : index + 1] = pieces

    def _count(self) -> None:
        """Count ends and pages anew."""
        end = 0
        ends: list[int] = []
        pages = 0
        seen: set[int] = set()
        for piece in self._pieces:
            end += piece.size
            ends.append(end)
            if piece.extent.start not in seen:
                seen.add(piece.extent.start)
                pages += piece.extent.pages
        self._ends = ends
        self._pages = pages

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        ends, pages = self._ends, self._pages
        self._count()
        assert (ends, pages) == (self._ends, self._pages)
        for piece in self._pieces:
            assert piece.offset >= 0
            assert piece.offset % _COPIED_BLOCK_BYTES == 0
            assert piece.offset + piece.size <= piece.extent.backed_bytes()


def _room_behind(piece: Piece) -> int:
    """How many bytes fit behind a string's last piece in its extent."""
    extent = piece.extent
    # Another string may have bytes of its own there.
    return 0 if extent.is_shared else extent.backed_bytes() - piece.offset - piece.size


def reply_of(value: bytes | bytearray | LargeString | None) -> Reply:
    """The reply that is a string, or nil, as it is now.

    Raises:
        NotResident: It cannot be had without waiting.
    """
    if not isinstance(value, LargeString):
        return value
    require_first(value, 0, len(value))
    return value.bulk()


def require_first(value: LargeString, start: int, stop: int) -> None:
    """Have at hand what is sent first of these bytes: once a reply has begun, it cannot fail.

    Raises:
        NotResident: It cannot be had without waiting.
    """
    value.require_head(start, stop)


def _sent_by(extent: Extent, size: int) -> int:
    """How a part of an extent is best sent: by this descriptor, or by copying it if negative.

    What was sent by reference can never be written again: its pages must be made anew, which costs
    as much as several copies save. A value that is read a few times and then removed is copied to
    its readers; one that is read again and again is not.
    """
    if size < limits.EXTENT_REFERENCE_BYTES_MIN:
        return -1
    if not extent.is_sent:
        if extent.copied_bytes < limits.EXTENT_COPIES_MAX * extent.size_bytes():
            extent.copied_bytes += size
            return -1
        extent.is_sent = True
    return extent.extents.medium.fd
