"""Ids of stream entries: 64 bits of milliseconds and 64 bits of a sequence number, as one integer.

As integers they are compared, counted on and looked for; as text they are ``ms-seq``.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine.arguments import UINT64_MAX, c_string
from pocketkv.engine.errors import CommandError

ID_MAX: Final = 2**128 - 1
INVALID_ID: Final = b"ERR Invalid stream ID specified as stream command argument"
_INVALID_START: Final = b"ERR invalid start ID for the interval"
_INVALID_END: Final = b"ERR invalid end ID for the interval"
# Redis copies an id into a buffer of 128 bytes.
_TEXT_BYTES_MAX: Final = 127
# Decimal digits of 64 bits.
_DIGITS_MAX: Final = 20
_BLANKS: Final = b" \t\n\v\f\r"

_SHIFT: Final = 64
_MASK: Final = UINT64_MAX


def format_id(entry_id: int) -> bytes:
    """An id as clients read it."""
    ms = entry_id >> _SHIFT
    seq = entry_id & _MASK
    return f"{ms}-{seq}".encode()


def make_id(ms: int, seq: int) -> int:
    """The id of these two numbers."""
    return ms << _SHIFT | seq


def parse_id(text: bytes, missing_seq: int = 0, *, strict: bool = True) -> int:
    """An id, of which the sequence number may be left out.

    Args:
        text: What the client sent.
        missing_seq: The sequence number of an id without one.
        strict: Whether ``-`` and ``+``, the smallest and the largest id, are refused.

    Raises:
        CommandError: It is none.
    """
    if len(text) > _TEXT_BYTES_MAX:
        raise CommandError(INVALID_ID)
    if not strict:
        if text == b"-":
            return 0
        if text == b"+":
            return ID_MAX
    ms, dash, seq = c_string(text).partition(b"-")
    return _unsigned(ms) << _SHIFT | (_unsigned(seq) if dash else missing_seq)


def parse_milliseconds(text: bytes) -> int | None:
    """The first half of ``ms-*``; ``None`` if it is not of this form.

    Raises:
        CommandError: It is, but not with a number.
    """
    if not text.endswith(b"-*") or len(text) > _TEXT_BYTES_MAX:
        return None
    ms, _, seq = c_string(text).partition(b"-")
    return _unsigned(ms) if seq == b"*" else None


def parse_start(text: bytes) -> int:
    """The first id of a range; ``(`` before it excludes it.

    Raises:
        CommandError: It is none, or there is none behind it.
    """
    if text[:1] != b"(" or len(text) == 1:
        return parse_id(text, strict=False)
    start = parse_id(text[1:])
    if start == ID_MAX:
        raise CommandError(_INVALID_START)
    return start + 1


def parse_end(text: bytes) -> int:
    """The last id of a range; ``(`` before it excludes it.

    Raises:
        CommandError: It is none, or there is none before it.
    """
    if text[:1] != b"(" or len(text) == 1:
        return parse_id(text, UINT64_MAX, strict=False)
    end = parse_id(text[1:], UINT64_MAX)
    if end == 0:
        raise CommandError(_INVALID_END)
    return end - 1


def _unsigned(text: bytes) -> int:
    """An unsigned number of 64 bits, as C's strtoull reads what is no plain integer.

    Raises:
        CommandError: It is none.
    """
    if text.isdigit() and len(text) < _DIGITS_MAX:
        return int(text)
    digits = text.lstrip(_BLANKS)
    sign = digits[:1]
    if sign in (b"-", b"+"):
        digits = digits[1:]
    # Python refuses, and it would take long, to read a number of very many digits.
    if not digits.isdigit() or len(digits := digits.lstrip(b"0") or b"0") > _DIGITS_MAX:
        raise CommandError(INVALID_ID)
    number = int(digits)
    # What Redis's own reader takes for a negative number is refused before C would wrap it.
    if number > UINT64_MAX or (sign == b"-" and text == b"-%d" % number and number <= 1 << 63):
        raise CommandError(INVALID_ID)
    return -number & UINT64_MAX if sign == b"-" else number
