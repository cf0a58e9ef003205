"""CRC16 as Redis Cluster uses it (XMODEM); `crc16.pyx` is the same without the call."""

from __future__ import annotations

from binascii import crc_hqx


def crc16(data: bytes) -> int:
    """CRC16/XMODEM: polynomial 0x1021, from 0, not reflected."""
    return crc_hqx(data, 0)
