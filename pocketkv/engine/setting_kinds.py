"""Kinds of settings' values: what CONFIG SET takes for them, with Redis's refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from pocketkv.engine.arguments import UINT64_MAX, canonical_integer

_UNITS: Final = {
    b"": 1,
    b"b": 1,
    b"k": 1000,
    b"kb": 1024,
    b"m": 1000**2,
    b"mb": 1024**2,
    b"g": 1000**3,
    b"gb": 1024**3,
}


class SettingError(ValueError):
    """A value that a setting cannot have; the message is what follows the dash."""


class Kind(Protocol):
    """What a setting may be."""

    def shown(self, text: bytes) -> bytes:
        """How CONFIG GET shows what was set.

        Raises:
            SettingError: It cannot be that.
        """
        ...


@dataclass(frozen=True)
class Number:
    """A whole number within bounds; `is_amount` takes Redis's units of memory."""

    low: int
    high: int
    is_amount: bool = False

    def parse(self, text: bytes) -> int:
        """The number that `text` is.

        Raises:
            SettingError: It is none, or out of bounds.
        """
        number = parse_amount(text) if self.is_amount else canonical_integer(text)
        if number is None and self.is_amount:
            raise SettingError("argument must be a memory value")
        if number is None:
            raise SettingError("argument couldn't be parsed into an integer")
        if not self.low <= number <= self.high:
            raise SettingError(f"argument must be between {self.low} and {self.high} inclusive")
        return number

    def shown(self, text: bytes) -> bytes:
        """As `Kind.shown`."""
        return b"%d" % self.parse(text)


def parse_amount(text: bytes) -> int | None:
    """An amount of memory as Redis reads it: digits and ``k kb m mb g gb``."""
    digits = text.rstrip(b"BGKMbgkm")
    unit = _UNITS.get(text[len(digits) :].lower())
    # 20 digits are more than 64 bits have; int() takes long for very many.
    if unit is None or len(digits) > 20 or (digits and not digits.isdigit()):
        return None
    number = int(digits or b"0") * unit
    return number if number <= UINT64_MAX else None


def parse_flag(text: bytes) -> bool:
    """``yes`` or ``no``.

    Raises:
        SettingError: It is neither.
    """
    lowered = text.lower()
    if lowered not in (b"yes", b"no"):
        raise SettingError("argument must be 'yes' or 'no'")
    return lowered == b"yes"


class Flag:
    """``yes`` or ``no``."""

    def shown(self, text: bytes) -> bytes:
        """As `Kind.shown`."""
        return b"yes" if parse_flag(text) else b"no"


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    def shown(self, text: bytes) -> bytes:
        """As `Kind.shown`."""
        word = text.decode("latin-1").lower()
        if word not in self.words:
            choices = ", ".join(self.words)
            raise SettingError(f"argument(s) must be one of the following: {choices}")
        return word.encode()


class Text:
    """Anything."""

    def shown(self, text: bytes) -> bytes:
        """As `Kind.shown`."""
        return text


class AmountOrPercent:
    """An amount of memory, or a part of all of it."""

    def shown(self, text: bytes) -> bytes:
        """As `Kind.shown`."""
        is_percent = text.endswith(b"%") and text[:-1].isdigit() and len(text) < 5
        amount = parse_amount(text)
        if not is_percent and amount is None:
            raise SettingError("argument must be a memory or percent value")
        if is_percent and int(text[:-1]) > 100:
            raise SettingError("percentage argument must be less or equal to 100")
        return text if amount is None else b"%d" % amount


class SavePoints:
    """Pairs of seconds and changes, or nothing: ``save``."""

    def shown(self, text: bytes) -> bytes:
        """As `Kind.shown`."""
        numbers = [canonical_integer(word) for word in text.split()]
        if len(numbers) % 2 or any(
            number is None or number < 1 - index % 2 for index, number in enumerate(numbers)
        ):
            raise SettingError("Invalid save parameters")
        return b" ".join(text.split())


class Percentiles:
    """Numbers from 0 to 100."""

    def shown(self, text: bytes) -> bytes:
        """As `Kind.shown`."""
        shares = []
        for word in text.split():
            try:
                share = float(word)
            except ValueError:
                raise SettingError("Invalid latency-tracking-info-percentiles parameters") from None
            if not 0 <= share <= 100:
                raise SettingError(
                    "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]"
                )
            shares.append(b"%g" % share)
        return b" ".join(shares)
