"""CRC64 as Redis uses it (Jones); `crc64.pyx` is the same by eight bytes at a time."""

from __future__ import annotations

from functools import cache
from typing import Final

# Reflected.
_POLYNOMIAL: Final = 0x95AC9329AC4BC9B5
# From so many bytes on the larger table is worth being made.
_LONG_BYTES: Final = 1 << 14


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ _POLYNOMIAL if byte & 1 else byte >> 1
    return byte


_TABLE: Final = tuple(_entry(byte) for byte in range(256))


@cache
def _pairs() -> list[int]:
    """The table for two bytes at a time."""
    once = [_TABLE[pair & 0xFF] ^ pair >> 8 for pair in range(1 << 16)]
    return [_TABLE[crc & 0xFF] ^ crc >> 8 for crc in once]


def crc64(data: bytes, crc: int = 0) -> int:
    """The checksum of bytes, or of those that `crc` is the checksum of and these behind them."""
    position = 0
    if len(data) >= _LONG_BYTES:
        position = len(data) & ~1
        pairs = _pairs()
        # The servers run on little-endian machines only, as the file formats do.
        for pair in memoryview(data)[:position].cast("H"):
            crc = pairs[(crc ^ pair) & 0xFFFF] ^ crc >> 16
    table = _TABLE
    for byte in data[position:]:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc
