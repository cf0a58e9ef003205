"""Strings as rows of bits: bit 0 is the most significant one of byte 0.

Large strings are gone through in windows, where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.arguments import canonical_integer, parse_int
from pocketkv.engine.bits import (
    and_into,
    count_bits,
    first_other,
    invert,
    or_into,
    xor_into,
)
from pocketkv.engine.commands import ONE_KEY, KeySpec, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.strings_ranges import length_max, overwrite
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.notifications import GENERIC, STRING
from pocketkv.engine.values import String
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

BAD_OFFSET: Final = b"ERR bit offset is not an integer or out of range"
_BAD_BIT: Final = b"ERR bit is not an integer or out of range"
_BIT_NEITHER: Final = b"ERR The bit argument must be 1 or 0."
_NOT_OF_ONE: Final = b"ERR BITOP NOT must be called with a single source key."
# How much of a large string is looked at, or made, at a time.
_WINDOW_BYTES: Final = limits.MIB


def parse_offset(session: Session, text: bytes, scale: int = 1) -> int:
    """The offset of a bit, given in units of `scale` bits.

    Raises:
        CommandError: It is none, or no string may be so long.
    """
    offset = canonical_integer(text)
    if offset is None or offset < 0 or offset * scale >> 3 >= length_max(session):
        raise CommandError(BAD_OFFSET)
    return offset * scale


def read_part(value: String | None, start: int, stop: int) -> bytes:
    """The bytes from `start` up to `stop`, as far as there are any.

    Raises:
        NotResident: They cannot be had without waiting.
    """
    if value is None:
        return b""
    stop = min(stop, len(value))
    if start >= stop:
        return b""
    if isinstance(value, LargeString):
        value.require(start, stop)
    return bytes(value[start:stop])


def _windows(value: String, start: int, stop: int) -> Iterator[memoryview]:
    """The same bytes, at least one, where they stand, in order."""
    if not isinstance(value, LargeString):
        yield memoryview(value)[start:stop]
        return
    value.require(start, stop)
    for first in range(start, stop, _WINDOW_BYTES):
        yield from value.views(first, min(stop, first + _WINDOW_BYTES))


# --- one bit -----------------------------------------------------------------------------------


@command(
    "SETBIT",
    arity=4,
    flags="write denyoom",
    group="bitmap",
    since="2.2.0",
    complexity="O(1)",
    summary="Sets or clears a bit of a string; zero bytes fill a gap.",
    usage="key offset value",
    keys=ONE_KEY,
    key_flags="RW access update",
)
def setbit(session: Session, request: list[bytes]) -> Reply:
    """The bit as it was."""
    offset = parse_offset(session, request[2])
    bit = parse_int(request[3], _BAD_BIT)
    if bit not in (0, 1):
        raise CommandError(_BAD_BIT)
    db = session.db
    key = request[1]
    value = db.lookup_string(key)
    place = offset >> 3
    shift = 7 - (offset & 7)
    found = read_part(value, place, place + 1)
    byte = found[0] if found else 0
    before = byte >> shift & 1
    if before != bit or not found:
        byte = byte & ~(1 << shift) | bit << shift
        overwrite(session, key, value, place, bytes((byte,)))
        db.notify(STRING, b"setbit", key)
    return before


@command(
    "GETBIT",
    arity=3,
    flags="readonly fast",
    group="bitmap",
    since="2.2.0",
    complexity="O(1)",
    summary="Returns a bit of a string.",
    usage="key offset",
    keys=ONE_KEY,
    key_flags="RO access",
)
def getbit(session: Session, request: list[bytes]) -> Reply:
    """0 or 1; behind the end, 0."""
    offset = parse_offset(session, request[2])
    found = read_part(session.db.read_string(request[1]), offset >> 3, (offset >> 3) + 1)
    return found[0] >> 7 - (offset & 7) & 1 if found else 0


# --- counting and finding ----------------------------------------------------------------------


def _parse_unit(text: bytes) -> bool:
    """Whether a range is in bits, not bytes."""
    unit = text.upper()
    if unit not in (b"BIT", b"BYTE"):
        raise CommandError(SYNTAX)
    return unit == b"BIT"


def _clipped(start: int, end: int, size: int) -> tuple[int, int]:
    """A range, both ends included, within so many; negative ones count from the end."""
    if start < 0:
        start = max(0, size + start)
    if end < 0:
        end = max(0, size + end)
    return start, min(end, size - 1)


@command(
    "BITCOUNT",
    arity=-2,
    flags="readonly",
    group="bitmap",
    since="2.6.0",
    complexity="O(N) where N is the number of bytes looked at",
    summary="Counts the bits of a string that are 1.",
    usage="key [start end [BYTE | BIT]]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def bitcount(session: Session, request: list[bytes]) -> Reply:
    """Their number."""
    value = session.db.read_string(request[1])
    if value is None:
        # Redis does not look at the range then.
        return 0
    size = len(value)
    if len(request) == 2:
        return _count(value, 0, 8 * size - 1) if size else 0
    if len(request) not in (4, 5):
        raise CommandError(SYNTAX)
    start = parse_int(request[2])
    end = parse_int(request[3])
    if start < 0 and end < 0 and start > end:
        return 0
    in_bits = len(request) == 5 and _parse_unit(request[4])
    scale = 1 if in_bits else 8
    start, end = _clipped(start, end, size * 8 // scale)
    return 0 if start > end else _count(value, start * scale, (end + 1) * scale - 1)


def _count(value: String, first: int, last: int) -> int:
    """The bits that are 1 from one to another, both included."""
    start, stop = first >> 3, (last >> 3) + 1
    total = 0
    for window in _windows(value, start, stop):
        total += count_bits(window)
    before = read_part(value, start, start + 1)[0] & ~(0xFF >> (first & 7))
    behind = read_part(value, stop - 1, stop)[0] & 0x7F >> (last & 7)
    return total - (before & 0xFF).bit_count() - behind.bit_count()


@command(
    "BITPOS",
    arity=-3,
    flags="readonly",
    group="bitmap",
    since="2.8.7",
    complexity="O(N) where N is the number of bytes looked at",
    summary="Finds the first bit of a string that is 0, or 1.",
    usage="key bit [start [end [BYTE | BIT]]]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def bitpos(session: Session, request: list[bytes]) -> Reply:
    """Its offset, or -1; behind a string whose end was not named, all bits are 0."""
    bit = parse_int(request[2])
    if bit not in (0, 1):
        raise CommandError(_BIT_NEITHER)
    value = session.db.read_string(request[1])
    if value is None:
        # Redis does not look at the range then.
        return -1 if bit else 0
    if len(request) > 6:
        raise CommandError(SYNTAX)
    size = len(value)
    start = parse_int(request[3]) if len(request) > 3 else 0
    in_bits = len(request) == 6 and _parse_unit(request[5])
    scale = 1 if in_bits else 8
    has_end = len(request) > 4
    end = parse_int(request[4]) if has_end else size - 1
    start, end = _clipped(start, end, size * 8 // scale)
    if start > end:
        return -1
    found = _find(value, bit, start * scale, (end + 1) * scale - 1)
    if found < 0 and not bit and not has_end:
        return 8 * size
    return found


def _find(value: String, bit: int, first: int, last: int) -> int:
    """The first of the bits from one to another, both included, that is as asked; or -1."""
    start, stop = first >> 3, (last >> 3) + 1
    other = 0 if bit else 0xFF
    # Bits before the first one are no bits of the kind that is looked for.
    head = read_part(value, start, start + 1)[0] ^ other
    head &= 0xFF >> (first & 7)
    place = start
    if head == 0:
        place = _find_byte(value, other, start + 1, stop)
        if place < 0:
            return -1
        head = read_part(value, place, place + 1)[0] ^ other
    found = 8 * place + 8 - head.bit_length()
    return found if found <= last else -1


def _find_byte(value: String, other: int, start: int, stop: int) -> int:
    """Where the first byte is that is not as `other`; -1 if there is none."""
    if start >= stop:
        return -1
    for window in _windows(value, start, stop):
        found = first_other(window, other)
        if found >= 0:
            return start + found
        start += len(window)
    return -1


# --- several strings ---------------------------------------------------------------------------

_OPERATIONS: Final[dict[bytes, Callable[[bytearray, bytes], None]]] = {
    b"AND": and_into,
    b"OR": or_into,
    b"XOR": xor_into,
}


@command(
    "BITOP",
    arity=-4,
    flags="write denyoom",
    group="bitmap",
    since="2.6.0",
    complexity="O(N) where N is the number of bytes of the strings",
    summary="Stores what a bitwise operation makes of strings; shorter ones are as if zero-padded.",
    usage="<AND | OR | XOR | NOT> destkey key [key ...]",
    keys=KeySpec(2, -1, 1),
    key_flags="OW update @2; RO access @3 -1 1",
)
def bitop(session: Session, request: list[bytes]) -> Reply:
    """The length of the result; an empty one does not exist."""
    operation = request[1].upper()
    if operation != b"NOT" and operation not in _OPERATIONS:
        raise CommandError(SYNTAX)
    if operation == b"NOT" and len(request) != 4:
        raise CommandError(_NOT_OF_ONE)
    db = session.db
    target = request[2]
    sources = [db.read_string(key) or b"" for key in request[3:]]
    size = max(len(source) for source in sources)
    if size == 0:
        if db.remove(target):
            db.notify(GENERIC, b"del", target)
        return 0
    for source in sources:
        if isinstance(source, LargeString):
            source.require(0, len(source))
    db.put(target, _result(session, operation, sources, size))
    db.notify(STRING, b"set", target)
    return size


def _result(session: Session, operation: bytes, sources: list[String], size: int) -> String:
    """What an operation makes of strings, of which the longest has so many bytes."""
    require_memory(session, size)
    keyspace = session.node.keyspace
    if size < limits.EXTENT_BYTES_MIN or not keyspace.keeps_large:
        return bytes(_combined(operation, sources, 0, size))
    result = keyspace.new_string(session.job_id)
    assert result is not None  # It was looked for just now.
    for start in range(0, size, _WINDOW_BYTES):
        stop = min(size, start + _WINDOW_BYTES)
        result.write(start, _combined(operation, sources, start, stop))
    return result


def _combined(operation: bytes, sources: list[String], start: int, stop: int) -> bytearray:
    """A window of the result."""
    size = stop - start
    combined = bytearray(read_part(sources[0], start, stop))
    combined += bytes(size - len(combined))
    if operation == b"NOT":
        invert(combined)
        return combined
    combine = _OPERATIONS[operation]
    for source in sources[1:]:
        part = read_part(source, start, stop)
        combine(combined, part if len(part) == size else part + bytes(size - len(part)))
    return combined
