"""Arguments as Redis reads them: integers, doubles, expiry times and options, glob patterns.

Redis takes numbers more strictly than Python: no blanks, no plus, no leading zeros, no
underscores. What is not taken becomes the `CommandError` that Redis answers with.
"""

from __future__ import annotations

import re
from typing import Final

from pocketkv.engine.errors import (
    INVALID_CURSOR,
    NOT_FLOAT,
    NOT_INTEGER,
    SYNTAX,
    CommandError,
    invalid_expire,
)

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
UINT64_MAX: Final = 2**64 - 1
INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1
_NOT_INT32: Final = b"ERR value is out of range, value must between %d and %d" % (
    INT32_MIN,
    INT32_MAX,
)
# Characters of the longest 64-bit integer, the sign included.
_INT64_CHARACTERS: Final = 20
# So many digits are a number of 64 bits in any case.
_PLAIN_DIGITS_MAX: Final = 18
# So many digits (and a point) are a whole number that a double holds as it is.
_PLAIN_DECIMAL_MAX: Final = 15
_POWERS: Final = tuple(10.0**n for n in range(_PLAIN_DECIMAL_MAX))
_ZERO: Final = 48
_POINT: Final = 46
# Redis copies a number that it parses as a float into a buffer of 5 KiB.
FLOAT_CHARACTERS_MAX: Final = 5 * 1024 - 1
_PLAIN_FLOAT: Final = b"0123456789.+-eE"
_INFINITY: Final = float("inf")
_C_DOUBLE: Final = re.compile(
    rb"""[ \t\n\v\f\r]* ([+-]?) (?:
        (inf (?:inity)?)
        | (0x (?: [0-9a-f]+ \.? [0-9a-f]* | \.[0-9a-f]+ ) (?: p [+-]? \d+ )?)
        | ((?: \d+ \.? \d* | \.\d+ ) (?: e [+-]? \d+ )?)
    )""",
    re.IGNORECASE | re.VERBOSE,
)


# --- numbers -----------------------------------------------------------------------------------


def canonical_integer(text: bytes | bytearray) -> int | None:
    """The 64-bit integer that `text` is, written as Redis writes it; ``None`` if it is none."""
    if type(text) is bytes and 0 < len(text) <= _PLAIN_DIGITS_MAX:
        small = _plain_digits(text)
        if small >= 0:
            return small
    if len(text) > _INT64_CHARACTERS:
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    # One number has one spelling: this refuses all others that Python takes.
    if b"%d" % number != text or not INT64_MIN <= number <= INT64_MAX:
        return None
    return number


def _plain_digits(text: bytes) -> int:
    """The number that some digits are, if that is its one spelling; -1: see for yourself."""
    end = len(text)
    if text[0] == _ZERO and end > 1:
        return -1
    number = 0
    for i in range(end):
        digit = text[i] - _ZERO
        if digit < 0 or digit > 9:
            return -1
        number = number * 10 + digit
    return number


def _plain_decimal(text: bytes) -> float:
    """A number with few digits, and perhaps a point within them; -1: see for yourself.

    Digits without the point, and the power of ten, are whole numbers that a double holds as they
    are, so what comes out is what C rounds to.
    """
    end = len(text)
    number = 0
    places = -1
    for i in range(end):
        digit = text[i] - _ZERO
        if digit == _POINT - _ZERO and places < 0 < i < end - 1:
            places = end - 1 - i
        elif digit < 0 or digit > 9:
            return -1.0
        else:
            number = number * 10 + digit
    value = number * 1.0
    return value / _POWERS[places] if places > 0 else value


def parse_int(text: bytes | bytearray, error: bytes = NOT_INTEGER) -> int:
    """A 64-bit integer.

    Raises:
        CommandError: `error`, if it is none.
    """
    number = canonical_integer(text)
    if number is None:
        raise CommandError(error)
    return number


def parse_int_within(text: bytes, low: int, high: int, error: bytes) -> int:
    """An integer from `low` to `high`.

    Raises:
        CommandError: `NOT_INTEGER` if it is no 64-bit integer, `error` if it is not within.
    """
    number = parse_int(text)
    if not low <= number <= high:
        raise CommandError(error)
    return number


def parse_int32(text: bytes) -> int:
    """An integer that fits C's ``int``: the number of a database.

    Raises:
        CommandError: It is none.
    """
    return parse_int_within(text, INT32_MIN, INT32_MAX, _NOT_INT32)


def parse_double(text: bytes | bytearray, error: bytes = NOT_FLOAT) -> float:
    """A double as C's strtod reads it (``inf`` and hexadecimal included), but not NaN.

    Raises:
        CommandError: `error`, if it is none.
    """
    if type(text) is bytes and 0 < len(text) <= _PLAIN_DECIMAL_MAX:
        plain = _plain_decimal(text)
        if plain >= 0:
            return plain
    if len(text) > FLOAT_CHARACTERS_MAX:
        raise CommandError(error)
    if not text.translate(None, _PLAIN_FLOAT):
        # Digits, signs, a point, an exponent: Python and C agree, within what doubles can be.
        try:
            number = float(text)
        except ValueError:
            raise CommandError(error) from None
        if number != 0 and abs(number) != _INFINITY:
            return number
    return _rare_double(text, error)


def _rare_double(text: bytes | bytearray, error: bytes) -> float:
    """`parse_double` of what is spelt unusually, or at the limits of doubles."""
    try:
        spelling = text.decode("ascii")
        number = float.fromhex(spelling) if "x" in spelling.lower() else float(spelling)
    except (ValueError, OverflowError):
        raise CommandError(error) from None
    # strtod knows no underscores, Redis no blanks.
    if "_" in spelling or spelling != spelling.strip() or number != number:
        raise CommandError(error)
    # strtod reports a number that is too large or too small for it.
    if abs(number) == float("inf") and "n" not in spelling.lower():
        raise CommandError(error)
    if number == 0 and any(c in "123456789" for c in spelling.lower().split("e")[0]):
        raise CommandError(error)
    return number


def c_double(text: bytes) -> float | None:
    """The double that a C string is as a whole for strtod; ``None``: it is none, or NaN.

    As strtod gives them, what is too large is infinite, too small is zero, and nothing is zero.
    """
    text = c_string(text)
    if not text:
        return 0.0
    found = _C_DOUBLE.fullmatch(text)
    if found is None:
        return None
    sign, infinite, hexadecimal, decimal = found.groups()
    if infinite:
        number = _INFINITY
    elif hexadecimal:
        try:
            number = float.fromhex(hexadecimal.decode())
        except OverflowError:
            number = _INFINITY
    else:
        number = float(decimal)
    return -number if sign == b"-" else number


def parse_cursor(text: bytes) -> int:
    """A cursor, as C's strtoul reads it: unsigned 64 bits, where a minus sign wraps around.

    Raises:
        CommandError: It is none.
    """
    text = c_string(text)
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    if not digits.isdigit():
        if text:
            raise CommandError(INVALID_CURSOR)
        return 0
    # Python refuses, and it would take long, to read a number of very many digits.
    digits = digits.lstrip(b"0") or b"0"
    number = int(digits) if len(digits) <= _INT64_CHARACTERS else UINT64_MAX + 1
    if number > UINT64_MAX:
        raise CommandError(INVALID_CURSOR)
    return -number & UINT64_MAX if text[:1] == b"-" else number


def c_string(text: bytes) -> bytes:
    """`text` as C shows it with ``%s``: up to its first NUL."""
    return text.split(b"\0", 1)[0]


# --- expiry ------------------------------------------------------------------------------------


class Expiry:
    """The expiry of SET, SETEX, PSETEX or GETEX, as it was asked for.

    Args:
        text: The time.
        seconds: Whether it is in seconds, not milliseconds.
        absolute: Whether it is of the Unix epoch, not from now on.
    """

    __slots__ = ("absolute", "seconds", "text")

    def __init__(self, text: bytes, *, seconds: bool, absolute: bool) -> None:
        self.text = text
        self.seconds = seconds
        self.absolute = absolute

    def due_ms(self, now_ms: int, command: str) -> int:
        """When it is due, in milliseconds of the Unix epoch.

        Raises:
            CommandError: No integer, zero, negative, or more than 64 bits; the text names
                `command`.
        """
        time = parse_int(self.text)
        if time <= 0:
            raise invalid_expire(command)
        if self.seconds:
            time *= 1000
        if not self.absolute:
            time += now_ms
        if time > INT64_MAX:
            raise invalid_expire(command)
        return time


# Name of the option: whether its time is in seconds, and whether it is absolute.
_EXPIRY_OPTIONS: Final[dict[bytes, tuple[bool, bool]]] = {
    b"EX": (True, False),
    b"PX": (False, False),
    b"EXAT": (True, True),
    b"PXAT": (False, True),
}


class StringOptions:
    """The options of SET and GETEX.

    Attributes:
        only_new, only_existing: NX, XX.
        get: GET.
        keep_expiry: KEEPTTL.
        persist: PERSIST.
        expiry: EX, PX, EXAT or PXAT, the last one of them.
    """

    __slots__ = (
        "_expiry_option",
        "expiry",
        "get",
        "keep_expiry",
        "only_existing",
        "only_new",
        "persist",
    )

    def __init__(self) -> None:
        self.only_new = False
        self.only_existing = False
        self.get = False
        self.keep_expiry = False
        self.persist = False
        self.expiry: Expiry | None = None
        self._expiry_option = b""

    def parse_set(self, request: list[bytes]) -> None:
        """Read SET's options.

        Raises:
            CommandError: Unknown, or not together with those before it.
        """
        i = 3
        while i < len(request):
            option = request[i].upper()
            if option == b"NX" and not self.only_existing:
                self.only_new = True
            elif option == b"XX" and not self.only_new:
                self.only_existing = True
            elif option == b"GET":
                self.get = True
            elif option == b"KEEPTTL" and self.expiry is None:
                self.keep_expiry = True
            elif not self.keep_expiry and self._parse_expiry(option, request, i):
                i += 1
            else:
                raise CommandError(SYNTAX)
            i += 1

    def parse_getex(self, request: list[bytes]) -> None:
        """Read GETEX's options.

        Raises:
            CommandError: Unknown, or not together with those before it.
        """
        i = 2
        while i < len(request):
            option = request[i].upper()
            if option == b"PERSIST" and self.expiry is None:
                self.persist = True
            elif not self.persist and self._parse_expiry(option, request, i):
                i += 1
            else:
                raise CommandError(SYNTAX)
            i += 1

    def _parse_expiry(self, option: bytes, request: list[bytes], i: int) -> bool:
        meaning = _EXPIRY_OPTIONS.get(option)
        # The same option may be repeated, and the last time counts; two of them may not be mixed.
        if meaning is None or i + 1 == len(request) or self._expiry_option not in (b"", option):
            return False
        self._expiry_option = option
        self.expiry = Expiry(request[i + 1], seconds=meaning[0], absolute=meaning[1])
        return True


# --- glob patterns -----------------------------------------------------------------------------

_STAR: Final = 42
_QUESTION: Final = 63
_BRACKET: Final = 91
_BACKSLASH: Final = 92
_CLOSING: Final = 93
_CARET: Final = 94
_DASH: Final = 45


class Glob:
    """A pattern that many keys are compared with: the common shapes need no loop.

    Attributes:
        matches_all: Whether the pattern is ``*``, which matches the empty key too.
    """

    __slots__ = ("_literal", "_prefix", "matches_all", "pattern")

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern
        self.matches_all = pattern == b"*"
        special = 0
        while special < len(pattern) and pattern[special] not in b"*?[\\":
            special += 1
        self._literal = special == len(pattern)
        # What stands before a star at the end, if nothing else is special.
        self._prefix = pattern[:special] if pattern[special:] == b"*" and special else None

    def matches(self, text: bytes) -> bool:
        """Whether `text` as a whole fits the pattern."""
        if self.matches_all:
            return True
        if self._literal:
            return text == self.pattern
        if self._prefix is not None:
            return text.startswith(self._prefix)
        return glob_matches(self.pattern, text)


def glob_matches(pattern: bytes, text: bytes) -> bool:
    """Whether `text` as a whole fits a pattern, as Redis's ``stringmatchlen`` decides.

    ``*`` is any string, ``?`` any byte, ``[ab]``, ``[a-z]``, ``[^a]`` a byte of a class, and a
    backslash takes the next byte as it is. Nothing is malformed: a class without its end ends
    with the pattern. The empty text fits the empty pattern only.
    """
    if not text:
        return not pattern
    pattern_end = len(pattern)
    text_end = len(text)
    p = 0
    t = 0
    # Where to go on when what follows the last star does not fit: one byte later than before.
    # Earlier stars need not be tried again, since the last one can take whatever they could.
    retry_p = -1
    retry_t = 0
    while t < text_end:
        if p < pattern_end and pattern[p] == _STAR:
            p += 1
            if p == pattern_end:
                return True
            retry_p = p
            retry_t = t
            continue
        following = _match_byte(pattern, p, text[t]) if p < pattern_end else -1
        if following >= 0:
            p = following
            t += 1
        elif retry_p >= 0:
            retry_t += 1
            p = retry_p
            t = retry_t
        else:
            return False
    while p < pattern_end and pattern[p] == _STAR:
        p += 1
    return p == pattern_end


def _match_byte(pattern: bytes, p: int, c: int) -> int:
    """Where the pattern goes on if what stands at `p`, which is no star, fits `c`; else -1."""
    mark = pattern[p]
    if mark == _QUESTION:
        return p + 1
    if mark == _BRACKET:
        return _match_class(pattern, p + 1, c)
    if mark == _BACKSLASH and p + 1 < len(pattern):
        p += 1
        mark = pattern[p]
    return p + 1 if mark == c else -1


def _match_class(pattern: bytes, p: int, c: int) -> int:
    """`_match_byte` for a class, whose first byte stands at `p`."""
    end = len(pattern)
    negated = p < end and pattern[p] == _CARET
    if negated:
        p += 1
    found = False
    while p < end and pattern[p] != _CLOSING:
        if pattern[p] == _BACKSLASH and p + 1 < end:
            p += 1
            found = found or pattern[p] == c
        elif p + 2 < end and pattern[p + 1] == _DASH:
            found = found or _within(pattern[p], pattern[p + 2], c)
            p += 2
        else:
            found = found or pattern[p] == c
        p += 1
    # The closing bracket, if there is one.
    p = min(p + 1, end)
    return p if found != negated else -1


def _within(first: int, last: int, c: int) -> bool:
    """Whether `c` is in a range, in any direction; bytes are signed in Redis's comparison."""
    first = first - 256 if first > 127 else first
    last = last - 256 if last > 127 else last
    c = c - 256 if c > 127 else c
    return first <= c <= last or last <= c <= first
