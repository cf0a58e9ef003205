"""What the journal's records say of a large string; all numbers little endian.

A piece:   file number u32 (0: zeros, all else but the size is 0 then), region's offset in the file
           u64, bytes of the region that were written u32, piece's offset in the region u32,
           piece's size u64, then a checksum u64 for each block of the region that it touches
A payload: version u8, number of pieces u32, the pieces
A change, one after another:
           1 u8, position u64, bytes removed there u64, number of pieces u32, the pieces
           2 u8, bytes of the last region that were written u32, size of the last piece u64, first
           block u32 whose checksum is new, number of checksums u32, the checksums
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final, NamedTuple

from pocketkv.engine.errors import CommandError
from pocketkv.tiers.volume.large_region import BLOCK_BYTES, REGION_BYTES_MAX

_VERSION: Final = 1
_PAYLOAD: Final = struct.Struct("<BI")
_PIECE: Final = struct.Struct("<IQIIQ")
_SPLICE: Final = struct.Struct("<BQQI")
_TAIL: Final = struct.Struct("<BIQII")
_SPLICED: Final = 1
_GREW: Final = 2
_SUM_BYTES: Final = 8


class PieceRecord(NamedTuple):
    """A piece, with the checksums of the blocks that it touches."""

    number: int
    offset: int
    used: int
    start: int
    size: int
    sums: array[int]


class Change(NamedTuple):
    """A splice, or without `pieces` the growth of the last piece."""

    pieces: list[PieceRecord] | None
    start: int
    removed: int
    used: int
    size: int
    first: int
    sums: array[int]


def encode_payload(pieces: list[PieceRecord]) -> bytes:
    """A whole string."""
    return _PAYLOAD.pack(_VERSION, len(pieces)) + _encode_pieces(pieces)


def encode_splice(start: int, removed: int, pieces: list[PieceRecord]) -> bytes:
    """Pieces in place of `removed` bytes from `start` on."""
    return _SPLICE.pack(_SPLICED, start, removed, len(pieces)) + _encode_pieces(pieces)


def encode_tail(used: int, size: int, first: int, sums: array[int]) -> bytes:
    """The growth of the last piece, with the checksums that are new."""
    return _TAIL.pack(_GREW, used, size, first, len(sums)) + _encode_sums(sums)


def _encode_pieces(pieces: list[PieceRecord]) -> bytes:
    return b"".join([_PIECE.pack(*piece[:5]) + _encode_sums(piece.sums) for piece in pieces])


def _encode_sums(sums: array[int]) -> bytes:
    if sys.byteorder == "big":
        sums = sums[:]
        sums.byteswap()
    return sums.tobytes()


class Reader:
    """Reads records. Those of a journal have checksums, so what is wrong here is not chance.

    Raises:
        CommandError: IOERR, from all methods: this is no such record.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def damaged(self) -> CommandError:
        """The error of a record that makes no sense."""
        return CommandError(b"IOERR the record of the stored value is damaged")

    def payload(self) -> list[PieceRecord]:
        """The pieces of a whole string."""
        version, count = self._take(_PAYLOAD)
        if version != _VERSION:
            raise self.damaged()
        return self._pieces(count)

    def change(self) -> Change | None:
        """The next change; ``None`` after the last one."""
        if self._position == len(self._data):
            return None
        if self._data[self._position] == _SPLICED:
            _, start, removed, count = self._take(_SPLICE)
            return Change(self._pieces(count), start, removed, 0, 0, 0, array("Q"))
        kind, used, size, first, count = self._take(_TAIL)
        if kind != _GREW or not 0 < used <= REGION_BYTES_MAX:
            raise self.damaged()
        if first + count != -(-used // BLOCK_BYTES):
            raise self.damaged()
        return Change(None, 0, 0, used, size, first, self._sums(count))

    def _take(self, form: struct.Struct) -> tuple[int, ...]:
        if len(self._data) - self._position < form.size:
            raise self.damaged()
        values: tuple[int, ...] = form.unpack_from(self._data, self._position)
        self._position += form.size
        return values

    def _pieces(self, count: int) -> list[PieceRecord]:
        pieces: list[PieceRecord] = []
        for _ in range(count):
            number, offset, used, start, size = self._take(_PIECE)
            blocks = 0
            if number:
                if start + size > used or used > REGION_BYTES_MAX:
                    raise self.damaged()
                blocks = -(-(start + size) // BLOCK_BYTES) - start // BLOCK_BYTES
            if size == 0:
                raise self.damaged()
            sums = self._sums(blocks)
            pieces.append(PieceRecord(number, offset, used, start, size, sums))
        return pieces

    def _sums(self, count: int) -> array[int]:
        end = self._position + count * _SUM_BYTES
        if end > len(self._data):
            raise self.damaged()
        sums = array("Q", self._data[self._position : end])
        self._position = end
        if sys.byteorder == "big":
            sums.byteswap()
        return sums
