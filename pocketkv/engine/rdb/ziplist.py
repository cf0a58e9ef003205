"""The forms that small collections had before there were listpacks: ziplists and zipmaps.

They are only read. A ziplist is its size and the place of its last entry in four bytes each, the
number of its entries in two, the entries, and a byte of ones. An entry begins with the length of
the one before it, in one byte or, behind 254, in four. A zipmap is a byte with its number of
pairs, the strings, and a byte of ones; a string is its length, in one byte or behind 254 in four,
and if it is a value the number of bytes behind it that are of no use.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.reader import Reader

_HEADER_BYTES: Final = 10
_END: Final = 0xFF
_LONG: Final = 0xFE
_UNCOUNTED: Final = 0xFFFF
_ELEMENT_BYTES: Final = 48
_INTEGERS: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}
# Kinds that are integers themselves, from 0 on.
_FIRST_SMALL: Final = 0xF1
_LAST_SMALL: Final = 0xFD


def ziplist(blob: bytes, reader: Reader) -> list[bytes]:
    """The entries of a ziplist.

    Args:
        blob: The ziplist.
        reader: Is told what they take in memory.

    Raises:
        RdbError: It is none.
    """
    end = len(blob) - 1
    if end < _HEADER_BYTES or int.from_bytes(blob[:4], "little") != len(blob) or blob[end] != _END:
        raise RdbError("no ziplist")
    found: list[bytes] = []
    position = last = _HEADER_BYTES
    before = 0
    while position < end:
        last = position
        width = 5 if blob[position] == _LONG else 1
        size = blob[position]
        if width > 1:
            size = int.from_bytes(blob[position + 1 : position + 5], "little")
        if size != before:
            raise RdbError("an entry that does not lead back")
        entry, position = _entry(blob, position + width)
        if position > end:
            raise RdbError("an entry is cut off")
        before = position - last
        found.append(entry)
        reader.count(_ELEMENT_BYTES + before)
    if int.from_bytes(blob[4:8], "little") != last:
        raise RdbError("the last entry is elsewhere")
    if int.from_bytes(blob[8:10], "little") not in (_UNCOUNTED, len(found)):
        raise RdbError("a wrong number of entries")
    return found


def _entry(blob: bytes, position: int) -> tuple[bytes, int]:
    """An entry from its kind on, and where it ends, which may be behind the ziplist."""
    rest = blob[position : position + 5]
    if not rest:
        raise RdbError("an entry is cut off")
    kind = rest[0]
    if kind < 0xC0:
        if kind < 0x40:
            size, start = kind, position + 1
        elif kind < 0x80:
            size, start = (kind & 0x3F) << 8 | int.from_bytes(rest[1:2], "big"), position + 2
        elif kind == 0x80:
            size, start = int.from_bytes(rest[1:5], "big"), position + 5
        else:
            raise RdbError("an entry of no kind")
        return blob[start : start + size], start + size
    if _FIRST_SMALL <= kind <= _LAST_SMALL:
        return b"%d" % (kind - _FIRST_SMALL), position + 1
    width = _INTEGERS.get(kind)
    if width is None:
        raise RdbError("an entry of no kind")
    end = position + 1 + width
    return b"%d" % int.from_bytes(blob[position + 1 : end], "little", signed=True), end


def zipmap(blob: bytes, reader: Reader) -> list[bytes]:
    """Keys and values of a zipmap, in turn.

    Args:
        blob: The zipmap.
        reader: Is told what they take in memory.

    Raises:
        RdbError: It is none.
    """
    end = len(blob) - 1
    if end < 1 or blob[end] != _END:
        raise RdbError("no zipmap")
    found: list[bytes] = []
    position = 1
    while position < end:
        size = blob[position]
        position += 1
        if size == _LONG:
            size = int.from_bytes(blob[position : position + 4], "little")
            position += 4
        elif size == _END:
            raise RdbError("an early end")
        free = 0
        if len(found) % 2:
            free = blob[position] if position < end else _END
            position += 1
        found.append(blob[position : position + size])
        position += size + free
        if position > end:
            raise RdbError("a string is cut off")
        reader.count(_ELEMENT_BYTES + size)
    if len(found) % 2:
        raise RdbError("a key without its value")
    if blob[0] < _LONG and blob[0] != len(found) // 2:
        raise RdbError("a wrong number of pairs")
    return found
