"""Amounts of bytes and rates as people write them: ``64mb``, ``1.5gb``, ``600mbps``.

Two families of units, told apart by the ``b``: ``kb mb gb tb`` count in 1024, as Redis's
``maxmemory`` does, and ``k m g t`` count in 1000, as disk vendors and networks do. A rate may
also be in bits per second, ``kbps mbps gbps``, which are 1000-based as in Pocket's hints.

Only integers leave this module. Arithmetic is exact: no amount passes through a float, so
``1.1gb`` is the same number on every machine. It knows nothing of what an amount is for;
whoever asks checks that it is sensible there.
"""

from __future__ import annotations

import re

AMOUNT_MAX = 2**63 - 1
"""Largest amount: what a RESP integer, SQLite and a Go client can hold."""

AMOUNT_TEXT_CHARS_MAX = 40
"""Longest text that is looked at: 19 digits, a fraction and a unit fit with room to spare."""

_BINARY_UNITS = (("tb", 1024**4), ("gb", 1024**3), ("mb", 1024**2), ("kb", 1024))

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    **dict(_BINARY_UNITS),
}

_BIT_UNITS = {"kbps": 1000, "mbps": 1000**2, "gbps": 1000**3}

# `[0-9]` and ASCII: `\d` would admit digits of other scripts.
_AMOUNT = re.compile(r"([0-9]+)(?:\.([0-9]+))?([a-z/]*)", re.ASCII)


class AmountError(ValueError):
    """The text is not an amount; the message is one line that says why, and quotes the text."""


def parse_bytes(text: str | bytes) -> int:
    """Return the number of bytes that `text` says, rounded down to a whole byte.

    Raises:
        AmountError: not an amount, negative, a fraction of a byte, or over `AMOUNT_MAX`.
    """
    return _parse(text, _BYTE_UNITS, {}, "64mb or 1.5g")


def parse_rate(text: str | bytes) -> int:
    """Return the bytes per second that `text` says; bytes may be followed by ``/s``.

    ``600mbps`` is 600 million bits, so 75,000,000 bytes, per second.

    Raises:
        AmountError: as `parse_bytes`.
    """
    shown = _shown(text)
    folded = shown.lower()
    byte_text = folded.removesuffix("/s")
    return _parse(byte_text, _BYTE_UNITS, _BIT_UNITS, "75m or 600mbps", shown=shown)


def format_bytes(amount_bytes: int) -> str:
    """Return `amount_bytes` with the largest fitting 1024-based unit and at most two decimals.

    The decimals are cut, not rounded: `parse_bytes` gives back at most `amount_bytes`, at least
    99 % of it, and exactly it when it is under 1 kb or a whole number of its unit.
    """
    if amount_bytes < 0:
        raise AmountError(f"'{amount_bytes}' is negative")
    for name, unit in _BINARY_UNITS:
        if amount_bytes >= unit:
            whole, hundredths = divmod(amount_bytes * 100 // unit, 100)
            fraction = f".{hundredths:02d}".rstrip("0").rstrip(".")
            return f"{whole}{fraction}{name}"
    return f"{amount_bytes}b"


def format_rate(rate_bytes_s: int) -> str:
    """Return bytes per second as `format_bytes` does, followed by ``/s``."""
    return f"{format_bytes(rate_bytes_s)}/s"


def _shown(text: str | bytes) -> str:
    """Return `text` cut and printable: it goes into one-line messages, sent to clients too."""
    decoded = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    if len(decoded) > AMOUNT_TEXT_CHARS_MAX:
        raise AmountError(f"an amount has at most {AMOUNT_TEXT_CHARS_MAX} characters")
    return "".join(c if " " <= c <= "~" and c != "'" else "?" for c in decoded)


def _parse(
    text: str | bytes,
    byte_units: dict[str, int],
    bit_units: dict[str, int],
    example: str,
    *,
    shown: str | None = None,
) -> int:
    folded = _shown(text).lower()
    shown = folded if shown is None else shown
    if folded.startswith("-"):
        raise AmountError(f"'{shown}' is negative")
    matched = _AMOUNT.fullmatch(folded)
    if matched is None:
        raise AmountError(f"'{shown}' is not an amount such as {example}")
    digits, decimals, unit = matched.group(1), matched.group(2) or "", matched.group(3)
    multiplier = byte_units.get(unit, bit_units.get(unit))
    if multiplier is None:
        known = ", ".join([*byte_units, *bit_units]).lstrip(", ")
        raise AmountError(f"'{shown}' has a unit that is none of {known}")
    divisor = int("1" + "0" * len(decimals)) * (8 if unit in bit_units else 1)
    amount, rest = divmod(int(digits + decimals) * multiplier, divisor)
    if rest and multiplier == 1:
        raise AmountError(f"'{shown}' is not a whole number of bytes")
    if amount > AMOUNT_MAX:
        raise AmountError(f"'{shown}' is more than {AMOUNT_MAX}")
    return amount
