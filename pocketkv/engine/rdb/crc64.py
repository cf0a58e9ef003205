"""CRC64 as Redis uses it (Jones); `crc64.pyx` is the same by eight bytes at a time."""

from __future__ import annotations

from typing import Final

# Reflected.
_POLYNOMIAL: Final = 0x95AC9329AC4BC9B5


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ _POLYNOMIAL if byte & 1 else byte >> 1
    return byte


_TABLE: Final = tuple(_entry(byte) for byte in range(256))


def crc64(data: bytes, crc: int = 0) -> int:
    """The checksum of bytes, or of those that `crc` is the checksum of and these behind them."""
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc
