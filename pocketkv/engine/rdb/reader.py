"""Numbers and strings as they stand in a dump, read from bytes that may be anything."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Final

from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.lzf import decompress

_DOUBLE: Final = struct.Struct("<d")
# The two upper bits of a length's first byte.
_SIX_BITS: Final = 0
_FOURTEEN_BITS: Final = 1
_WHOLE_BYTES: Final = 2
_LENGTH_32: Final = 0x80
_LENGTH_64: Final = 0x81
# In place of a length: how a string is written.
_INTEGER_BYTES: Final = {0xC0: 1, 0xC1: 2, 0xC2: 4}
_COMPRESSED: Final = 0xC3
# Lengths of the oldest form of doubles that are none.
_OLD_DOUBLES: Final = {253: math.nan, 254: math.inf, 255: -math.inf}
# A reference of three bytes stands for at most 264.
_EXPANSION_MAX: Final = 100
# What may have been made of the dump before the bill is shown.
_BILL_BYTES: Final = 1 << 20


class Reader:
    """A place in a dump.

    Args:
        data: All of it.
        charge: Is told from time to time how many bytes of memory what was read takes beside the
            dump itself, and raises if that is too much.
    """

    __slots__ = ("_billed", "_charge", "_made", "data", "position")

    def __init__(self, data: bytes, charge: Callable[[int], None]) -> None:
        self.data = data
        self.position = 0
        self._charge = charge
        self._made = 0
        self._billed = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self.data) - self.position

    def count(self, memory_bytes: int) -> None:
        """Something was made that takes so much memory, or is about to be."""
        self._made += memory_bytes
        if self._made - self._billed >= _BILL_BYTES:
            self._billed = self._made
            self._charge(self._made)

    def bytes_(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            RdbError: There are not so many.
        """
        start = self.position
        if count > len(self.data) - start:
            raise RdbError("it ends too early")
        self.position = start + count
        return self.data[start : start + count]

    def byte(self) -> int:
        """The next byte."""
        return self.bytes_(1)[0]

    def length(self) -> int:
        """A length, or any number that is not negative."""
        return self._length(self.byte())

    def _length(self, first: int) -> int:
        kind = first >> 6
        if kind == _SIX_BITS:
            return first & 0x3F
        if kind == _FOURTEEN_BITS:
            return (first & 0x3F) << 8 | self.byte()
        if first == _LENGTH_32:
            return int.from_bytes(self.bytes_(4), "big")
        if first == _LENGTH_64:
            return int.from_bytes(self.bytes_(8), "big")
        raise RdbError("no length")

    def items(self) -> int:
        """The number of items that follow, each of at least a byte.

        Raises:
            RdbError: None follow, or there is no room for so many.
        """
        count = self.length()
        if count == 0:
            raise RdbError("an empty collection")
        if count > self.left:
            raise RdbError("more items than bytes")
        return count

    def string(self) -> bytes:
        """A string, whichever way it is written."""
        first = self.byte()
        size = _INTEGER_BYTES.get(first)
        if size is not None:
            return b"%d" % int.from_bytes(self.bytes_(size), "little", signed=True)
        if first == _COMPRESSED:
            compressed_size = self.length()
            size = self.length()
            if compressed_size > self.left or size > compressed_size * _EXPANSION_MAX:
                raise RdbError("a compressed string of an impossible length")
            self.count(size)
            return decompress(self.bytes_(compressed_size), size)
        return self.bytes_(self._length(first))

    def double(self) -> float:
        """A double in its eight bytes."""
        number: float = _DOUBLE.unpack(self.bytes_(8))[0]
        return number

    def old_double(self) -> float:
        """A double as it was written before there were eight bytes: as text."""
        length = self.byte()
        if length in _OLD_DOUBLES:
            return _OLD_DOUBLES[length]
        return parse_double(self.bytes_(length))

    def milliseconds(self) -> int:
        """A time, as a signed number of eight bytes."""
        return int.from_bytes(self.bytes_(8), "little", signed=True)


def parse_double(text: bytes) -> float:
    """The number that a text is.

    Raises:
        RdbError: It is none.
    """
    try:
        number = float(text)
    except ValueError:
        raise RdbError("no number") from None
    if b"_" in text:
        raise RdbError("no number")
    return number
