"""Listpacks: strings and integers in one piece, each of which can be walked to from both ends.

A listpack is its size in four bytes, the number of its elements in two (all ones: they have to be
counted), the elements, and a byte of ones. An element is its kind and length, its content, and the
length of both, by seven bits, so that it can be read backwards. All numbers but the last are little
endian. Integers stand for the strings that they are written as.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.reader import Reader

_HEADER_BYTES: Final = 6
_END: Final = 0xFF
_UNCOUNTED: Final = 0xFFFF
# What an element takes in memory beside its bytes.
_ELEMENT_BYTES: Final = 48
# Kinds of integers whose first byte says nothing else: their bytes.
_INTEGERS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}
_LONG_STRING: Final = 0xF0


# --- writing -----------------------------------------------------------------------------------


def listpack(items: Iterable[bytes | int]) -> bytes:
    """A listpack of strings and integers; strings that are integers are written as such."""
    parts = [element_bytes(element) for element in items]
    return packed(parts, len(parts))


def packed(parts: Iterable[bytes], count: int) -> bytes:
    """A listpack of `count` elements that are written already."""
    body = b"".join(parts)
    size = _HEADER_BYTES + len(body) + 1
    header = size.to_bytes(4, "little") + min(count, _UNCOUNTED).to_bytes(2, "little")
    return header + body + b"\xff"


def element_bytes(element: bytes | int) -> bytes:
    """One element of a listpack, with its length."""
    number = element if isinstance(element, int) else canonical_integer(element)
    if number is not None:
        entry = _integer(number)
    else:
        assert isinstance(element, bytes)  # Any int is a number.
        entry = _string(element)
    return entry + back_length(len(entry))


def back_length(size: int) -> bytes:
    """How an element ends that has so many bytes before that."""
    if size < 1 << 7:
        return bytes((size,))
    groups = [size & 0x7F | 0x80]
    size >>= 7
    while size >= 1 << 7:
        groups.append(size & 0x7F | 0x80)
        size >>= 7
    groups.append(size)
    return bytes(reversed(groups))


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 1 << 6:
        return bytes((0x80 | size,)) + text
    if size < 1 << 12:
        return bytes((0xE0 | size >> 8, size & 0xFF)) + text
    return b"\xf0" + size.to_bytes(4, "little") + text


def _integer(number: int) -> bytes:
    if 0 <= number < 1 << 7:
        return bytes((number,))
    if -(1 << 12) <= number < 1 << 12:
        low = number & 0x1FFF
        return bytes((0xC0 | low >> 8, low & 0xFF))
    for kind, size in _INTEGERS.items():
        if -(1 << 8 * size - 1) <= number < 1 << 8 * size - 1:
            return bytes((kind,)) + number.to_bytes(size, "little", signed=True)
    raise ValueError("more than 64 bits")


# --- reading -----------------------------------------------------------------------------------


def elements(blob: bytes, reader: Reader) -> list[bytes]:
    """The elements of a listpack.

    Args:
        blob: The listpack.
        reader: Is told what they take in memory.

    Raises:
        RdbError: It is none.
    """
    end = len(blob) - 1
    if end < _HEADER_BYTES or int.from_bytes(blob[:4], "little") != len(blob) or blob[end] != _END:
        raise RdbError("no listpack")
    found: list[bytes] = []
    position = _HEADER_BYTES
    while position < end:
        element, content_end = _element(blob, position)
        size = content_end - position
        back = back_length(size)
        position = content_end + len(back)
        if position > end or blob[content_end:position] != back:
            raise RdbError("an element with a wrong end")
        found.append(element)
        reader.count(_ELEMENT_BYTES + size)
    count = int.from_bytes(blob[4:6], "little")
    if count not in (_UNCOUNTED, len(found)):
        raise RdbError("a wrong number of elements")
    return found


def _element(blob: bytes, position: int) -> tuple[bytes, int]:
    """The element at a position, and where its content ends, which may be behind the listpack."""
    first = blob[position]
    if first < 0x80:
        return b"%d" % first, position + 1
    if first < 0xC0:
        return _sized(blob, position + 1, first & 0x3F)
    second = blob[position + 1]  # The last byte of all is no first byte of an element.
    if first < 0xE0:
        low = (first & 0x1F) << 8 | second
        return b"%d" % (low - (low >> 12 << 13)), position + 2
    if first < 0xF0:
        return _sized(blob, position + 2, (first & 0x0F) << 8 | second)
    if first == _LONG_STRING:
        size = int.from_bytes(blob[position + 1 : position + 5], "little")
        return _sized(blob, position + 5, size)
    width = _INTEGERS.get(first)
    if width is None:
        raise RdbError("an element of no kind")
    end = position + 1 + width
    return b"%d" % int.from_bytes(blob[position + 1 : end], "little", signed=True), end


def _sized(blob: bytes, start: int, size: int) -> tuple[bytes, int]:
    return blob[start : start + size], start + size
