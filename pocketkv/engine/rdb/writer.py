"""Numbers and strings, written as Redis writes them."""

from __future__ import annotations

import struct
from typing import Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.rdb.lzf import LENGTH_MAX, compress

_DOUBLE: Final = struct.Struct("<d")
# Longer strings are no numbers of 32 bits.
_INTEGER_CHARACTERS_MAX: Final = 11
# Strings of fewer bytes are not compressed.
_COMPRESSED_BYTES_MIN: Final = 21
# What compression has to gain.
_GAIN_BYTES: Final = 4


class Writer:
    """Collects the bytes of a dump."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def byte(self, value: int) -> None:
        """One byte."""
        self.parts.append(bytes((value,)))

    def length(self, number: int) -> None:
        """A length, or any number that is not negative."""
        self.parts.append(_length(number))

    def string(self, text: bytes) -> None:
        """A string: as a number if it is one, compressed if that is shorter."""
        size = len(text)
        if size <= _INTEGER_CHARACTERS_MAX:
            number = canonical_integer(text)
            if number is not None and -(2**31) <= number < 2**31:
                self.parts.append(_integer(number))
                return
        elif _COMPRESSED_BYTES_MIN <= size <= LENGTH_MAX:
            compressed = compress(text, size - _GAIN_BYTES)
            if compressed is not None:
                self.parts += (b"\xc3", _length(len(compressed)), _length(size), compressed)
                return
        self.parts.append(_length(size))
        self.parts.append(text)

    def double(self, number: float) -> None:
        """A double in its eight bytes."""
        self.parts.append(_DOUBLE.pack(number))

    def milliseconds(self, time_ms: int) -> None:
        """A time, as a signed number of eight bytes."""
        self.parts.append(time_ms.to_bytes(8, "little", signed=True))


def _length(number: int) -> bytes:
    if number < 1 << 6:
        return bytes((number,))
    if number < 1 << 14:
        return bytes((0x40 | number >> 8, number & 0xFF))
    if number < 1 << 32:
        return b"\x80" + number.to_bytes(4, "big")
    return b"\x81" + number.to_bytes(8, "big")


def _integer(number: int) -> bytes:
    """A number in place of a string."""
    if -(2**7) <= number < 2**7:
        return b"\xc0" + number.to_bytes(1, "little", signed=True)
    if -(2**15) <= number < 2**15:
        return b"\xc1" + number.to_bytes(2, "little", signed=True)
    return b"\xc2" + number.to_bytes(4, "little", signed=True)
