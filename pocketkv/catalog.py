"""The catalog: what one storage server of each tier can hold, send, and costs.

The figures are in `catalog.toml` beside this module, dated and with their sources; an operator's
own file replaces them tier by tier. Policy turns hints into servers with them, the simulator and
the demo turn servers into money. They are figures for planning: what a server really has, it
reports itself.
"""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pocketkv.amounts import parse_bytes, parse_rate

TIER_NAMES = ("dram", "nvme", "ssd", "hdd")
"""Every tier there is, fastest first; the order in which jobs are offered them."""

HOURS_PER_MONTH = 730
"""Hours in a month as AWS's own calculator takes them, for prices by the month."""

BILLED_GB_BYTES = 1024**3
"""The GB in a price per GB-month: volumes are made, and billed, by the GiB."""


class CatalogError(ValueError):
    """A catalog cannot be read or is not one; the message is one line naming what is wrong."""


@dataclass(frozen=True)
class Tier:
    """One storage server of a tier; prices in US dollars, `dated` the day they hold for."""

    name: str
    capacity_bytes: int
    bandwidth_bytes_s: int
    read_latency_us: int
    price_per_hour: float
    price_per_gb_month: float
    source: str
    dated: str

    @property
    def server_price_per_hour(self) -> float:
        """What a server costs per hour, its machine and its volume."""
        volume_gb = self.capacity_bytes / BILLED_GB_BYTES
        return self.price_per_hour + self.price_per_gb_month * volume_gb / HOURS_PER_MONTH

    def servers_for(self, capacity_bytes: float, throughput_bytes_s: float) -> float:
        """Return how many servers, as a fraction, hold and send so much: the scarcer decides."""
        return max(
            capacity_bytes / self.capacity_bytes, throughput_bytes_s / self.bandwidth_bytes_s
        )


@dataclass(frozen=True)
class Catalog:
    """The tiers on offer, fastest first."""

    tiers: tuple[Tier, ...]

    def tier(self, name: str) -> Tier:
        """Return the tier called `name`.

        Raises:
            CatalogError: there is none.
        """
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise CatalogError(f"the catalog has no tier '{name}'")


def load_catalog(override_path_text: str | None = None) -> Catalog:
    """Return the packaged catalog, with the tiers of the file at `override_path_text` instead.

    Raises:
        CatalogError: the file cannot be read, is not TOML, or a tier in it is incomplete.
    """
    packaged = resources.files("pocketkv").joinpath("catalog.toml").read_bytes()
    tiers = parse_tiers(packaged, "catalog.toml")
    if override_path_text is not None:
        try:
            override = Path(override_path_text).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CatalogError(f"{override_path_text}: {reason}") from error
        tiers |= parse_tiers(override, override_path_text)
    return Catalog(tuple(tiers[name] for name in TIER_NAMES if name in tiers))


def parse_tiers(document: bytes, origin: str) -> dict[str, Tier]:
    """Return the tiers in a TOML `document`; `origin` is what messages call it.

    Raises:
        CatalogError: not TOML, an unknown tier or figure, or one that is missing or absurd.
    """
    try:
        tables = tomllib.loads(document.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{origin}: not TOML: {error}") from error
    tiers = {}
    for name, table in tables.items():
        if name not in TIER_NAMES:
            known = ", ".join(TIER_NAMES)
            raise CatalogError(f"{origin}: no tier is called {name!r}, only {known}")
        if not isinstance(table, dict):
            raise CatalogError(f"{origin}: [{name}] is not a table")
        tiers[name] = _tier(name, table, f"{origin}: [{name}]")
    return tiers


def cost_per_hour(
    catalog: Catalog,
    capacity_bytes: Mapping[str, int],
    throughput_bytes_s: Mapping[str, int] | None = None,
) -> float:
    """Return the US dollars per hour of what a job holds, and sends, on each tier (by name).

    A job pays for the share of a server that it keeps from others: of its capacity or of its
    bandwidth, whichever is more. Shares are not rounded up, since servers are shared by jobs.

    Raises:
        CatalogError: a tier that the catalog has not.
    """
    rates = throughput_bytes_s or {}
    total = 0.0
    for name in sorted({*capacity_bytes, *rates}):
        tier = catalog.tier(name)
        share = tier.servers_for(capacity_bytes.get(name, 0), rates.get(name, 0))
        total += share * tier.server_price_per_hour
    return total


def _tier(name: str, table: dict[str, object], where: str) -> Tier:
    unknown = sorted(table.keys() - _FIGURES)
    if unknown:
        raise CatalogError(f"{where} has an unknown figure {unknown[0]!r}")
    missing = sorted(_FIGURES - table.keys())
    if missing:
        raise CatalogError(f"{where} has no {missing[0]}")
    return Tier(
        name=name,
        capacity_bytes=_amount(table, "capacity", parse_bytes, where),
        bandwidth_bytes_s=_amount(table, "bandwidth", parse_rate, where),
        read_latency_us=_amount(table, "read_latency_us", parse_bytes, where),
        price_per_hour=_price(table, "price_per_hour", where),
        price_per_gb_month=_price(table, "price_per_gb_month", where),
        source=_text(table, "source", where),
        dated=_date(table, "dated", where),
    )


_FIGURES = frozenset(
    {
        "capacity",
        "bandwidth",
        "read_latency_us",
        "price_per_hour",
        "price_per_gb_month",
        "source",
        "dated",
    }
)


def _amount(table: dict[str, object], key: str, parse: Callable[[str], int], where: str) -> int:
    value = table[key]
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise CatalogError(f"{where} {key} is not an amount")
    try:
        # Too long an integer for str() is a ValueError of its own.
        amount = parse(str(value))
    except ValueError as error:
        raise CatalogError(f"{where} {key}: {error}") from error
    # Servers are divided by what they hold and send, so nothing may be zero.
    if amount <= 0:
        raise CatalogError(f"{where} {key} must be more than 0")
    return amount


def _price(table: dict[str, object], key: str, where: str) -> float:
    value = table[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CatalogError(f"{where} {key} is not a number")
    if not 0 <= value <= _PRICE_MAX or math.isnan(value):
        raise CatalogError(f"{where} {key} must be 0 to {_PRICE_MAX} dollars")
    return float(value)


_PRICE_MAX = 1_000_000
"""Dollars; far above any machine, so that a slip in units is found where it is made."""


def _text(table: dict[str, object], key: str, where: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise CatalogError(f"{where} {key} is not a text")
    return value


def _date(table: dict[str, object], key: str, where: str) -> str:
    value = table[key]
    if type(value) is not datetime.date:
        raise CatalogError(f"{where} {key} is not a date such as 2026-01-19")
    return value.isoformat()
