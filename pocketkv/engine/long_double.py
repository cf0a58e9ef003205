"""The arithmetic of INCRBYFLOAT: C's ``long double`` on x86-64, to the last digit.

Redis parses, adds and prints with 80-bit floating point numbers: 64 bits of mantissa, 15 of
exponent. Clients store money and scores by it, so the digits must be Redis's. Here a number is an
exact pair of integers, mantissa * 2**exponent, and every operation rounds to 64 bits, ties to
even, as the processor does.
"""

from __future__ import annotations

import re
from typing import Final

from pocketkv.engine.arguments import FLOAT_CHARACTERS_MAX
from pocketkv.engine.errors import NAN_OR_INFINITY, NOT_FLOAT, CommandError

_MANTISSA_BITS: Final = 64
# Of the last bit of the smallest numbers, and of the first bit of the largest.
_EXPONENT_MIN: Final = -16445
_TOP_EXPONENT_MAX: Final = 16383
# Exponents beyond these mean infinity or zero, whatever the digits are (`FLOAT_CHARACTERS_MAX`).
_DECIMAL_EXPONENT_LIMIT: Final = 11_000
_BINARY_EXPONENT_LIMIT: Final = 40_000
_DECIMALS: Final = 17
# Python refuses to read or print an integer of more than 4300 digits at once.
_CHUNK_DIGITS: Final = 4000
_BIG: Final = 10**_CHUNK_DIGITS

_DECIMAL: Final = re.compile(rb"([+-]?)(?:(\d+)\.?(\d*)|\.(\d+))(?:[eE]([+-]?\d+))?")
_HEXADECIMAL: Final = re.compile(
    rb"([+-]?)0[xX](?:([\da-fA-F]+)\.?([\da-fA-F]*)|\.([\da-fA-F]+))(?:[pP]([+-]?\d+))?"
)
_INFINITY: Final = re.compile(rb"([+-]?)inf(?:inity)?", re.IGNORECASE)


class LongDouble:
    """A finite number, or infinity (`exponent` is then meaningless).

    Attributes:
        mantissa: With its sign; at most 64 bits.
        exponent: Of 2.
        infinite: The sign of infinity, or 0.
    """

    __slots__ = ("exponent", "infinite", "mantissa")

    def __init__(self, mantissa: int, exponent: int, infinite: int = 0) -> None:
        self.mantissa = mantissa
        self.exponent = exponent
        self.infinite = infinite


def parse_long_double(text: bytes | bytearray) -> LongDouble:
    """A number as C's strtold reads it: decimal, hexadecimal or infinity.

    Raises:
        CommandError: It is none, is NaN, or is too large or too small to be told from
            infinity or zero.
    """
    if not text or len(text) > FLOAT_CHARACTERS_MAX:
        raise CommandError(NOT_FLOAT)
    match = _DECIMAL.fullmatch(text)
    if match is not None:
        number = _scaled(match, base=10, limit=_DECIMAL_EXPONENT_LIMIT, fraction_power=1)
    elif (match := _HEXADECIMAL.fullmatch(text)) is not None:
        number = _scaled(match, base=16, limit=_BINARY_EXPONENT_LIMIT, fraction_power=4)
    elif (match := _INFINITY.fullmatch(text)) is not None:
        return LongDouble(0, 0, -1 if match[1] == b"-" else 1)
    else:
        raise CommandError(NOT_FLOAT)
    if number.infinite:
        raise CommandError(NOT_FLOAT)
    return number


def _scaled(match: re.Match[bytes], *, base: int, limit: int, fraction_power: int) -> LongDouble:
    """The number that a match means: digits, scaled by a power of ten or of two."""
    sign, whole, fraction, bare_fraction, exponent_text = match.groups()
    fraction = fraction or bare_fraction or b""
    digits = _parse_digits((whole or b"") + fraction, base)
    if digits == 0:
        return LongDouble(0, 0)
    exponent = _parse_exponent(exponent_text or b"0", limit) - fraction_power * len(fraction)
    if base == 10:
        scale = 10 ** abs(exponent)
        number = _round(digits * scale, 1, 0) if exponent >= 0 else _round(digits, scale, 0)
    else:
        number = _round(digits, 1, exponent)
    if number.mantissa == 0 and not number.infinite:
        raise CommandError(NOT_FLOAT)
    if sign == b"-":
        number.mantissa = -number.mantissa
        number.infinite = -number.infinite
    return number


def _parse_digits(digits: bytes, base: int) -> int:
    if base == 16 or len(digits) <= _CHUNK_DIGITS:
        return int(digits, base)
    low = digits[-_CHUNK_DIGITS:]
    return int(digits[:-_CHUNK_DIGITS]) * _BIG + int(low)


def _parse_exponent(text: bytes, limit: int) -> int:
    """An exponent, cut to -limit .. limit."""
    digits = text.lstrip(b"+-").lstrip(b"0") or b"0"
    magnitude = limit if len(digits) > len(str(limit)) else min(limit, int(digits))
    return -magnitude if text[:1] == b"-" else magnitude


def _round(numerator: int, denominator: int, exponent: int) -> LongDouble:
    """The nearest number to numerator / denominator * 2**exponent, which is positive."""
    # As many bits of quotient as make 64 or 65 of mantissa, but no bit below the smallest.
    shift = numerator.bit_length() - denominator.bit_length() - _MANTISSA_BITS
    shift = max(shift, _EXPONENT_MIN - exponent)
    mantissa, rest = _divide(numerator, denominator, shift)
    if mantissa.bit_length() > _MANTISSA_BITS:
        shift += 1
        mantissa, rest = _divide(numerator, denominator, shift)
    divisor = denominator << max(shift, 0)
    if 2 * rest > divisor or (2 * rest == divisor and mantissa & 1):
        mantissa += 1
    exponent += shift
    if mantissa and mantissa.bit_length() + exponent - 1 > _TOP_EXPONENT_MAX:
        return LongDouble(0, 0, 1)
    return LongDouble(mantissa, exponent)


def _divide(numerator: int, denominator: int, shift: int) -> tuple[int, int]:
    """Quotient and remainder of numerator / (denominator * 2**shift)."""
    if shift >= 0:
        return divmod(numerator, denominator << shift)
    return divmod(numerator << -shift, denominator)


def add_long_doubles(a: LongDouble, b: LongDouble) -> LongDouble:
    """The rounded sum.

    Raises:
        CommandError: It is infinite or not a number.
    """
    if a.infinite or b.infinite:
        raise CommandError(NAN_OR_INFINITY)
    exponent = min(a.exponent, b.exponent)
    total = (a.mantissa << a.exponent - exponent) + (b.mantissa << b.exponent - exponent)
    if total == 0:
        return LongDouble(0, 0)
    number = _round(abs(total), 1, exponent)
    if number.infinite:
        raise CommandError(NAN_OR_INFINITY)
    if total < 0:
        number.mantissa = -number.mantissa
    return number


def format_long_double(number: LongDouble) -> bytes:
    """A finite number as Redis prints it for people: 17 decimals, without zeros at the end."""
    magnitude = abs(number.mantissa) * 10**_DECIMALS
    if number.exponent >= 0:
        scaled = magnitude << number.exponent
    else:
        scaled, rest = divmod(magnitude, 1 << -number.exponent)
        # printf rounds ties to even, as the processor does.
        half = 1 << -number.exponent - 1
        if rest > half or (rest == half and scaled & 1):
            scaled += 1
    digits = b"%0*d" % (_DECIMALS + 1, scaled) if scaled < _BIG else _decimal_digits(scaled)
    whole, fraction = digits[:-_DECIMALS], digits[-_DECIMALS:].rstrip(b"0")
    text = whole + b"." + fraction if fraction else whole
    return b"-" + text if number.mantissa < 0 and text != b"0" else text


def _decimal_digits(number: int) -> bytes:
    high, low = divmod(number, _BIG)
    return b"%d" % high + b"%0*d" % (_CHUNK_DIGITS, low)
