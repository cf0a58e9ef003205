"""A large string whose bytes stand in regions of files.

It is a chain of pieces, each a part of a region, or zeros that take no room. Nothing is written
over: what is set goes to a new region, and what was there is cut out of the chain. So a write reads
nothing, a reply under way keeps its bytes, and a crash finds either the old value or the new one.
Where writes leave small pieces side by side, those are made one, so that there are never more than
two for each 64 KiB.

What a record of the journal must say is `payload`, the whole chain, or `take_changes`, what
happened since: a few dozen bytes for an append.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.resp.replies import FileBulk, FileRange
from pocketkv.tiers.volume.direct import pending_parts
from pocketkv.tiers.volume.file_pieces import ZERO_OWNER, FilePiece
from pocketkv.tiers.volume.large_region import (
    BLOCK_BYTES,
    REGION_BYTES_MAX,
    Region,
    RegionHold,
    io_error,
)
from pocketkv.tiers.volume.string_records import (
    PieceRecord,
    Reader,
    encode_payload,
    encode_splice,
    encode_tail,
)

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.tiers.volume.large_file import LargeFile

NO_ROOM: Final = b"OOM no room is left on the device"
# Smaller pieces are made one where two of them are neighbours.
_SMALL_BYTES: Final = 64 * limits.KIB
# Another string's bytes are copied up to this size, and its pieces taken over from there on.
_COPIED_BYTES_MAX: Final = 256 * limits.KIB
# A gap of this size and less is filled with zeros where other bytes are written anyway.
_FILLED_GAP_BYTES: Final = 16 * limits.KIB
# A string that grows gets addresses for more, within limits; they take no room.
_GROWTH_PART: Final = 16
_GROWTH_BYTES_MIN: Final = 256 * limits.KIB
_GROWTH_BYTES_MAX: Final = 16 * limits.MIB
# What a string and a piece cost in memory.
_STRING_BYTES: Final = 400
_PIECE_BYTES: Final = 400


class FileString(LargeString):
    """A string in files.

    Args:
        file: Where its regions come from.
        regions: Bytes that it has from the beginning; nobody else has these regions.
    """

    __slots__ = (
        "__weakref__",
        "_chain",
        "_changes",
        "_device_bytes",
        "_file",
        "_is_whole",
        "_stops",
    )

    def __init__(self, file: LargeFile, regions: list[Region] | None = None) -> None:
        # Nothing of the base is used but its methods: it has no extents.
        self.charge = None
        self.written_from = 0
        self._file = file
        self._chain: list[FilePiece] = []
        # Where each piece ends within the string.
        self._stops: list[int] = []
        self._device_bytes = 0
        # What happened since a record was made of it; None: there is no record yet.
        self._changes: list[bytes] | None = None
        # Whether that record alone tells all of it, and no change does.
        self._is_whole = False
        for region in regions or ():
            region.seal()
            if region.used:
                self._attach(FilePiece(region, 0, region.used))

    def _attach(self, piece: FilePiece) -> None:
        self._stops.append(len(self) + piece.size)
        self._chain.append(piece)
        self._device_bytes += piece.device_bytes()

    def __len__(self) -> int:
        stops = self._stops
        return stops[-1] if stops else 0

    @property
    def size_bytes(self) -> int:
        """What it costs, as it is accounted to its job: on the device, and in memory."""
        return self._device_bytes + self.memory_bytes

    @property
    def memory_bytes(self) -> int:
        """What it costs in memory."""
        # A checksum of 8 bytes for each block.
        return _STRING_BYTES + _PIECE_BYTES * len(self._chain) + (len(self) >> 15)

    @property
    def pieces(self) -> int:
        """How many pieces it has, which tells how long it takes to free."""
        return len(self._chain)

    def parts(self) -> Iterator[tuple[Region, int, int]]:
        """Its regions with what of them belongs to it, in order: from where on, how many bytes."""
        for piece in self._chain:
            if piece.region is not None:
                yield piece.region, piece.offset, piece.size

    # --- reading -------------------------------------------------------------------------------

    def _slices(self, start: int, stop: int) -> Iterator[tuple[FilePiece, int, int]]:
        """What of which pieces is the string from `start` up to `stop`."""
        index = bisect_right(self._stops, start)
        while start < stop:
            piece = self._chain[index]
            within = start - (self._stops[index] - piece.size)
            size = min(piece.size - within, stop - start)
            yield piece, within, size
            start += size
            index += 1

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, copied; this waits for the device if it must.

        Raises:
            CommandError: IOERR: they cannot be read, or are not what was written.
        """
        return b"".join(
            [piece.read(within, size) for piece, within, size in self._slices(start, stop)]
        )

    def views(self, start: int, stop: int) -> list[memoryview]:
        """The same, piece by piece.

        Raises:
            CommandError: As `read`.
        """
        return [
            memoryview(piece.read(within, size))
            for piece, within, size in self._slices(start, stop)
        ]

    def bulk(self) -> FileBulk:
        """The reply that is this string.

        Raises:
            CommandError: IOERR: a file cannot be opened.
        """
        return self.part_bulk(0, len(self))

    def part_bulk(self, start: int, stop: int) -> FileBulk:
        """The reply that is a part of it.

        Raises:
            CommandError: IOERR: a file cannot be opened.
        """
        return FileBulk(stop - start, self.ranges(start, stop))

    def reference_bulk(self, start: int, stop: int) -> FileBulk:
        """The same: nothing is ever copied.

        Raises:
            CommandError: IOERR: a file cannot be opened.
        """
        return self.part_bulk(start, stop)

    def ranges(self, start: int, stop: int) -> list[FileRange]:
        """The bytes from `start` up to `stop` where they are, kept as they are.

        The owner of each that is in a file is a `RegionHold`, which also says what of it can be had
        without waiting; those that are in memory have no descriptor.

        Raises:
            CommandError: IOERR: a file cannot be opened.
        """
        found: list[FileRange] = []
        for piece, within, size in self._slices(start, stop):
            if piece.region is None:
                found.append(FileRange(-1, 0, size, ZERO_OWNER))
            else:
                found += _ranges_of(piece.region, piece.offset + within, size)
        return found

    def is_ready(self, start: int, stop: int) -> bool:
        """Whether `read` of these bytes would not wait.

        Raises:
            CommandError: IOERR: a file cannot be opened.
        """
        return not self.missing(start, stop)

    def missing(self, start: int, stop: int) -> list[PendingRead]:
        """What has to be read before `read` of these bytes would not wait.

        Raises:
            CommandError: IOERR: a file cannot be opened.
        """
        found: list[PendingRead] = []
        try:
            for piece, within, size in self._slices(start, stop):
                region = piece.region
                if region is not None and region.ready(piece.offset + within, size) < size:
                    found += pending_parts(region, piece.offset + within, size)
        except OSError as error:
            raise io_error(error) from None
        return found

    # --- changing ------------------------------------------------------------------------------

    def copy(self) -> FileString:
        """A string with the same bytes, which both have until one of them changes its own."""
        self._seal()
        twin = FileString(self._file)
        for region, _, _ in self.parts():
            region.is_shared = True
        # Pieces are changed only at the end of a region that may grow, and none may now.
        twin._chain = self._chain.copy()
        twin._stops = self._stops.copy()
        twin._device_bytes = self._device_bytes
        return twin

    def write(self, offset: int, data: bytes | bytearray | LargeString) -> None:
        """Write bytes from `offset` on; the string grows if it must, zero bytes fill a gap.

        Another string in files is used up, and long ones are not copied.

        Raises:
            CommandError: OOM: there is no room; IOERR: the device failed. Nothing has changed then.
        """
        self.written_from = min(self.written_from, offset, len(self))
        try:
            self._write(offset, data)
        except OSError as error:
            raise io_error(error) from None

    def _write(self, offset: int, data: bytes | bytearray | LargeString) -> None:
        size = len(self)
        gap = max(0, offset - size)
        if isinstance(data, FileString) and len(data) > _COPIED_BYTES_MAX:
            pieces = data._give_up()
        else:
            view = memoryview(bytes(data) if isinstance(data, LargeString) else data)
            if 0 < gap <= _FILLED_GAP_BYTES:
                view = memoryview(bytes(gap) + view)
                offset, gap = size, 0
            if not view and not gap:
                return
            if offset == size and self._append_in_place(view):
                return
            pieces = self._stored(view, grows=offset + len(view) > size > 0)
        if gap:
            pieces.insert(0, FilePiece(None, 0, gap))
            offset = size
        new = sum(piece.size for piece in pieces)
        first, last = self._splice(offset, min(offset + new, size) - offset, pieces)
        self._join_small(first - 1, last + 1)

    def _give_up(self) -> list[FilePiece]:
        """All of its pieces; it is empty then."""
        self._seal()
        chain, self._chain, self._stops = self._chain, [], []
        self._device_bytes = 0
        self._changes = None
        return chain

    def _append_in_place(self, data: memoryview) -> bool:
        """Append to the last region if all of it, or a good part, has room there."""
        piece = self._chain[-1] if self._chain else None
        if piece is None or piece.region is None:
            return False
        region = piece.region
        if piece.offset + piece.size != region.used or not region.can_append_now():
            return False
        inside = data[: region.room]
        rest = data[len(inside) :]
        # What may fail without a change comes first.
        pieces = self._stored(rest, grows=True) if rest else []
        first = region.used // BLOCK_BYTES
        if not region.append(inside):
            raise CommandError(NO_ROOM)
        self._grow_tail(len(inside))
        if self._changes is not None:
            self._changes.append(encode_tail(region.used, piece.size, first, region.sums[first:]))
        if pieces:
            self._splice(len(self), 0, pieces)
        return True

    def _grow_tail(self, count: int) -> None:
        piece = self._chain[-1]
        self._device_bytes -= piece.device_bytes()
        piece.size += count
        self._device_bytes += piece.device_bytes()
        self._stops[-1] += count

    def _stored(self, data: memoryview, *, grows: bool) -> list[FilePiece]:
        """Write bytes to new regions; with `grows` the last one can take more."""
        room = 0
        if grows:
            # Who appends once appends again, and as much.
            likely = max(len(self) // _GROWTH_PART, 4 * len(data), _GROWTH_BYTES_MIN)
            room = min(likely, _GROWTH_BYTES_MAX)
        pieces: list[FilePiece] = []
        while data:
            part = data[:REGION_BYTES_MAX]
            data = data[len(part) :]
            region = self._file.allocate(len(part), 0 if data else room)
            if region is None or not region.append(part):
                raise CommandError(NO_ROOM)
            if not grows or data:
                region.seal()
            pieces.append(FilePiece(region, 0, len(part)))
        return pieces

    def _splice(self, start: int, removed: int, pieces: list[FilePiece]) -> tuple[int, int]:
        """Put pieces in place of `removed` bytes from `start` on; where they then are."""
        size = len(self)
        stop = start + removed
        if stop == size:
            # It will not be the end any more.
            self._seal()
        if self._changes is not None:
            records = [_record_of(piece) for piece in pieces]
            self._changes.append(encode_splice(start, removed, records))
        first = bisect_right(self._stops, start)
        new = list(pieces)
        last = first
        position = self._stops[first - 1] if first else 0
        begin = position
        while last < len(self._chain) and position < stop:
            old = self._chain[last]
            end = position + old.size
            if position < start:
                new.insert(0, FilePiece(old.region, old.offset, start - position))
            if end > stop:
                new.append(FilePiece(old.region, old.offset + stop - position, end - stop))
            inside = min(end, stop) - max(position, start)
            if old.region is not None and inside > 0:
                old.region.cut(old.offset + max(position, start) - position, inside)
            self._device_bytes -= old.device_bytes()
            position = end
            last += 1
        self._chain[first:last] = new
        self._device_bytes += sum(piece.device_bytes() for piece in new)
        stops: list[int] = []
        for piece in new:
            begin += piece.size
            stops.append(begin)
        self._stops[first:last] = stops
        return first, first + len(new)

    def _seal(self) -> None:
        """The last region takes nothing more."""
        region = self._chain[-1].region if self._chain else None
        if region is not None and not region.is_shared:
            region.seal()

    def _join_small(self, first: int, last: int) -> None:
        """Make small pieces one that are neighbours, among these.

        It is left for later where that would wait for the device, or finds no room on it.
        """
        index = max(0, first)
        while index < min(last, len(self._chain)) - 1:
            group = [self._chain[index]]
            for piece in self._chain[index + 1 : last]:
                if piece.size >= _SMALL_BYTES or group[0].size >= _SMALL_BYTES:
                    break
                group.append(piece)
            if len(group) > 1 and self._join(index, group):
                last -= len(group) - 1
            index += 1

    def _join(self, index: int, group: list[FilePiece]) -> bool:
        if not all(piece.is_ready() for piece in group):
            return False
        is_tail = index + len(group) == len(self._chain)
        try:
            data = b"".join([piece.read(0, piece.size) for piece in group])
            if any(piece.region is not None for piece in group):
                joined = self._stored(memoryview(data), grows=is_tail)
            else:
                joined = [FilePiece(None, 0, len(data))]
        except (CommandError, OSError):
            return False
        self._splice(self._stops[index] - group[0].size, len(data), joined)
        return True

    # --- after the device has lost something ---------------------------------------------------

    def pieces_in(self, regions: AbstractSet[Region]) -> list[FilePiece]:
        """The pieces that stand in some regions, to which nothing is appended from now on."""
        found = [piece for piece in self._chain if piece.region in regions]
        for piece in found:
            assert piece.region is not None  # It is one of those.
            if not piece.region.is_shared:
                piece.region.seal()
        return found

    def exchange(self, piece: FilePiece, region: Region) -> bool:
        """Have the bytes of a piece in another region; false if it is no piece of it any more."""
        for index, other in enumerate(self._chain):
            if other is piece and piece.size == region.used:
                # Another string may have the same piece.
                self._chain[index] = FilePiece(region, 0, piece.size)
                return True
        return False

    # --- records -------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """All that a record must say of it; changes until now need no record any more."""
        self._changes = []
        self._is_whole = True
        return encode_payload([_record_of(piece) for piece in self._chain])

    def take_changes(self) -> list[bytes]:
        """What happened since the last record, in order; nothing if there was none yet."""
        changes = self._changes
        if not changes:
            return []
        self._changes = []
        self._is_whole = False
        return [b"".join(changes)]

    @property
    def has_record(self) -> bool:
        """Whether a record of it was made, so that `take_changes` is all that is missing."""
        return self._changes is not None

    @staticmethod
    def from_payload(file: LargeFile, payload: bytes) -> FileString:
        """The string that a record is of.

        Raises:
            CommandError: IOERR: it is none.
        """
        string = FileString(file)
        regions: dict[tuple[int, int], Region] = {}
        for record in Reader(payload).payload():
            string._attach(string._piece_of(record, regions))
        string._changes = []
        string._is_whole = True
        file.claim(string)
        return string

    def apply_change(self, payload: bytes) -> None:
        """Do what a record of a change says.

        Raises:
            CommandError: IOERR: it is none, or none of this string.
        """
        reader = Reader(payload)
        regions = {(region.file.number, region.offset): region for region, _, _ in self.parts()}
        while (change := reader.change()) is not None:
            if change.pieces is None:
                piece = self._chain[-1] if self._chain else None
                if piece is None or piece.region is None or change.size < piece.size:
                    raise reader.damaged()
                piece.region.learn(change.used, change.first, change.sums)
                self._grow_tail(change.size - piece.size)
            else:
                if change.start + change.removed > len(self):
                    raise reader.damaged()
                pieces = [self._piece_of(record, regions) for record in change.pieces]
                self._splice(change.start, change.removed, pieces)
        self._changes = []
        self._is_whole = False

    def _piece_of(self, record: PieceRecord, regions: dict[tuple[int, int], Region]) -> FilePiece:
        if record.number == 0:
            return FilePiece(None, 0, record.size)
        place = record.number, record.offset
        region = regions.get(place)
        if region is None:
            region = regions[place] = self._file.adopt(record.number, record.offset, record.used)
        region.learn(record.used, record.start // BLOCK_BYTES, record.sums)
        return FilePiece(region, record.start, record.size)

    def park(self) -> bool:
        """Forget it without giving its bytes back: a record knows all of it.

        Returns:
            Whether that was possible: not while replies or other strings refer to its regions, or
            if it has changed since `payload`.
        """
        if self._changes or not self._is_whole:
            return False
        self._seal()
        if any(region.is_shared or region.holds for region, _, _ in self.parts()):
            return False
        for region, _, _ in self.parts():
            region.is_kept = True
        return True

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        end = 0
        for piece, stop in zip(self._chain, self._stops, strict=True):
            assert piece.size > 0
            end += piece.size
            assert stop == end
            region = piece.region
            if region is not None:
                assert piece.offset + piece.size <= region.used <= region.backed
                assert len(region.sums) == -(-region.used // BLOCK_BYTES)
        assert self._device_bytes == sum(piece.device_bytes() for piece in self._chain)


def _ranges_of(region: Region, start: int, size: int) -> list[FileRange]:
    """Where a part of a region is: in its file, or in memory if it was read past the page cache."""
    found: list[FileRange] = []
    for begin, count, loaded in region.spans(start, size):
        if loaded is not None:
            found.append(FileRange(-1, begin, count, loaded))
        else:
            hold = RegionHold(region)
            found.append(FileRange(hold.fd, region.offset + begin, count, hold))
    return found


def _record_of(piece: FilePiece) -> PieceRecord:
    region = piece.region
    if region is None:
        return PieceRecord(0, 0, 0, 0, piece.size, array("Q"))
    first = piece.offset // BLOCK_BYTES
    last = -(-(piece.offset + piece.size) // BLOCK_BYTES)
    return PieceRecord(
        region.file.number,
        region.offset,
        region.used,
        piece.offset,
        piece.size,
        region.sums[first:last],
    )
