"""Byte strings packed into one, for media.

The length of each in four bytes, little endian, is followed by its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

_LENGTH: Final = struct.Struct("<I")


class PayloadError(ValueError):
    """Stored bytes that are no collection: written by a newer version, or damaged."""


def pack(items: Iterable[bytes]) -> bytes:
    """Byte strings as one."""
    parts: list[bytes] = []
    for item in items:
        parts.append(_LENGTH.pack(len(item)))
        parts.append(item)
    return b"".join(parts)


def unpack(payload: bytes) -> list[bytes]:
    """What was packed.

    Raises:
        PayloadError: It was not.
    """
    return unpack_some(payload, 0, len(payload))[0]


def unpack_some(
    payload: bytes, position: int, count: int, size: int = 0
) -> tuple[list[bytes], int]:
    """At most so many items from a position on, and the position behind them.

    With a `size`, they end with the one that makes them so many bytes together.

    Raises:
        PayloadError: They were not packed.
    """
    items: list[bytes] = []
    end = min(len(payload), position + size) if size else len(payload)
    while position < end and len(items) < count:
        start = position + _LENGTH.size
        if start > len(payload):
            raise PayloadError("a length is cut off")
        position = start + int.from_bytes(payload[position:start], "little")
        if position > len(payload):
            raise PayloadError("an item is cut off")
        items.append(payload[start:position])
    return items, position
