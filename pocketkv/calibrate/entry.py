"""The catalog's entry for what was measured, alone or merged into an operator's file. Pure.

Merging changes only the lines of the figures that are given, so that comments, prices and other
entries stay as the operator wrote them; what it makes is read again, and must say what it should.
"""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pocketkv.calibrate.measure import Measurements
from pocketkv.calibrate.medium import Medium
from pocketkv.catalog import CatalogError, MachineType

# Part of what is free that is left to the file system.
_LEFT_SHARE: Final = 0.05

_MEASURED: Final = "; measured by pocketkv calibrate"

_KEY: Final = re.compile(r"\s*([A-Za-z_]+)\s*=")

# Amounts are written with the largest unit that leaves them three digits.
_UNITS: Final = ((10**9, "g"), (10**6, "m"), (10**3, "k"))

Figure = int | float | str | datetime.date


@dataclass(frozen=True)
class Prices:
    """What the operator says that a machine costs; None stays as it is in the catalog."""

    price_per_hour: float | None = None
    price_per_gb_month: float | None = None


@dataclass(frozen=True)
class Entry:
    """Figures of a machine type, as they stand in a catalog's file."""

    tier: str
    machine_type: str
    figures: Mapping[str, Figure]

    @property
    def header(self) -> str:
        """The header of the entry's table."""
        return f'[{self.tier}."{self.machine_type}"]'

    def lines(self) -> list[str]:
        """Return a line for each figure."""
        return [f"{key} = {_toml(value)}" for key, value in self.figures.items()]

    def text(self) -> str:
        """Return the entry, to be pasted into a catalog's file."""
        return "\n".join([self.header, *self.lines(), ""])


def entry_of(
    measured: Measurements,
    medium: Medium,
    tier: str,
    machine_type: str,
    *,
    known: MachineType | None,
    prices: Prices,
    network_bytes_s: int | None,
    today: datetime.date,
) -> Entry:
    """Return the entry for a medium.

    Args:
        measured: What was measured of it.
        medium: What is known of it.
        tier: The tier that servers on it are of.
        machine_type: What such a machine is called.
        known: What the catalog says of this machine type; without it, `prices` must be whole.
        prices: Those that the operator gives.
        network_bytes_s: What the machine's network carries, if the operator says so.
        today: The day of the measurement.
    """
    # A server takes in as much as it sends, sooner or later.
    bandwidth_bytes_s = min(measured.read.bytes_s, measured.write.bytes_s)
    if network_bytes_s is not None:
        bandwidth_bytes_s = min(bandwidth_bytes_s, network_bytes_s)
    figures: dict[str, Figure] = {
        "capacity": _amount((1 - _LEFT_SHARE) * medium.available_bytes),
        "bandwidth": _amount(bandwidth_bytes_s),
        "iops": max(1, int(max(measured.random.per_s, measured.random_deep.per_s))),
        "read_latency_us": max(1, round(measured.random.latency_us(0.5))),
    }
    if prices.price_per_hour is not None:
        figures["price_per_hour"] = prices.price_per_hour
    if prices.price_per_gb_month is not None:
        figures["price_per_gb_month"] = prices.price_per_gb_month
    before = "prices by the operator" if known is None else known.source.split(_MEASURED)[0]
    figures["source"] = f"{before}{_MEASURED} on {today.isoformat()}, {medium}"
    # The date is that of the prices: it changes only with them.
    if figures.keys() & {"price_per_hour", "price_per_gb_month"}:
        figures["dated"] = today
    return Entry(tier, machine_type, figures)


def merged(document: str, entry: Entry) -> str:
    """Return the catalog's file `document` with `entry` in it.

    Raises:
        CatalogError: the file is written in a way that this cannot edit line by line.
    """
    lines = document.split("\n")
    start, end = _section(lines, entry)
    if start is None:
        body = document.rstrip("\n")
        result = f"{body}\n\n{entry.text()}" if body else entry.text()
    else:
        result = "\n".join([*lines[:start], *_changed(lines[start:end], entry), *lines[end:]])
    if not result.endswith("\n"):
        result += "\n"
    _check(document, entry, result)
    return result


def _section(lines: list[str], entry: Entry) -> tuple[int | None, int]:
    """Return where the lines after the entry's header start and end; None if it is not there."""
    start = None
    for number, line in enumerate(lines):
        path = _header_path(line)
        if path is None:
            continue
        if start is not None:
            return start, number
        if path == [entry.tier, entry.machine_type]:
            start = number + 1
    return start, len(lines)


def _header_path(line: str) -> list[str] | None:
    """Return the names in a table's header, None if `line` is none."""
    if not line.lstrip().startswith("["):
        return None
    try:
        table: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    path = []
    while isinstance(table, dict) and table:
        ((name, table),) = table.items()
        path.append(name)
    return path


def _changed(section: list[str], entry: Entry) -> list[str]:
    """Return the lines of a section with the entry's figures in place of those that it has."""
    left = dict(zip(entry.figures, entry.lines(), strict=True))
    result = []
    for line in section:
        found = _KEY.match(line)
        result.append(left.pop(found[1], line) if found else line)
    # New figures go before the empty lines and comments that lead to the next section.
    end = len(result)
    while end and (not result[end - 1].strip() or result[end - 1].lstrip().startswith("#")):
        end -= 1
    return [*result[:end], *left.values(), *result[end:]]


def _check(document: str, entry: Entry, result: str) -> None:
    wanted = tomllib.loads(document)
    figures = tomllib.loads(entry.text())[entry.tier][entry.machine_type]
    tier = wanted.setdefault(entry.tier, {})
    try:
        tier.setdefault(entry.machine_type, {}).update(figures)
        is_right = tomllib.loads(result) == wanted
    except (AttributeError, tomllib.TOMLDecodeError):
        is_right = False
    if not is_right:
        raise CatalogError(f"{entry.header} cannot be put into this file: it is not line by line")


def _amount(value: float) -> int | str:
    """Return an amount as a catalog's file has it, rounded down to three digits or more."""
    whole = max(1, int(value))
    for unit, name in _UNITS:
        if whole >= 100 * unit:
            return f"{whole // unit}{name}"
    return whole


def _toml(value: Figure) -> str:
    if isinstance(value, datetime.date):
        return value.isoformat()
    # JSON's texts are TOML's, as are its numbers.
    return json.dumps(value)
