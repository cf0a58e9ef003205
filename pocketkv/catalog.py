"""The catalog: what one storage server can hold, send, and costs, by tier and machine type.

The figures are in `catalog.toml` beside this module, dated and with their sources; an operator's
own file replaces some of them, or adds machine types. Policy turns hints into servers with them,
the simulator and the demo turn servers into money. They are figures for planning: what a server
really has, it reports itself. ``docs/catalog.md`` has the fields.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pocketkv.amounts import parse_bytes, parse_rate

TIER_NAMES = ("dram", "nvme", "ssd", "hdd")
"""Every tier there is, fastest first; the order in which jobs are offered them."""

S3_NAME = "s3"
"""What the catalog, and lists of costs, call S3, which is no tier: nobody is offered it."""

HOURS_PER_MONTH = 730
"""Hours in a month as AWS's own calculator takes them, for prices by the month."""

BILLED_GB_BYTES = 1024**3
"""The GB in a price per GB-month: volumes are made, and billed, by the GiB."""

# Shares are floats; what is smaller than this is their rounding, and buys no server.
_ROUNDING: Final = 1e-9


class CatalogError(ValueError):
    """A catalog cannot be read or is not one; the message is one line naming what is wrong."""


@dataclass(frozen=True)
class Need:
    """What has to fit: bytes held, bytes per second in and out, small random reads per second.

    A machine type whose reads take longer than `read_latency_us_max` does not fit at all.
    """

    capacity_bytes: int = 0
    throughput_bytes_s: int = 0
    reads_s: int = 0
    read_latency_us_max: int | None = None


@dataclass(frozen=True)
class MachineType:
    """One storage server of a tier on one type of machine.

    Attributes:
        tier: One of `TIER_NAMES`.
        name: What the vendor or the operator calls it.
        capacity_bytes: Bytes for values.
        bandwidth_bytes_s: What it can be counted on to send or take in, for hours.
        iops: Random reads of 4 KiB per second that it can be counted on for, at depth.
        read_latency_us: What one such read takes, the network left out.
        price_per_hour: Of the machine, in US dollars.
        price_per_gb_month: Of a volume attached to it, in US dollars by `BILLED_GB_BYTES`.
        source: Where the figures come from.
        dated: The day that the prices hold for, ``2026-01-19``.
    """

    tier: str
    name: str
    capacity_bytes: int
    bandwidth_bytes_s: int
    iops: int
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

    @property
    def gb_price_per_hour(self) -> float:
        """What `BILLED_GB_BYTES` of a full server cost per hour."""
        return self.cost_per_hour(BILLED_GB_BYTES)

    def servers_for(
        self, capacity_bytes: float, throughput_bytes_s: float = 0, reads_s: float = 0
    ) -> float:
        """Return how many servers, as a fraction, hold and do so much: the scarcest decides."""
        return max(
            capacity_bytes / self.capacity_bytes,
            throughput_bytes_s / self.bandwidth_bytes_s,
            reads_s / self.iops,
        )

    def cost_per_hour(
        self, capacity_bytes: float, throughput_bytes_s: float = 0, reads_s: float = 0
    ) -> float:
        """Return the US dollars per hour of the share of a server that so much takes."""
        share = self.servers_for(capacity_bytes, throughput_bytes_s, reads_s)
        return share * self.server_price_per_hour

    def provision(self, need: Need) -> Provision | None:
        """Return the whole servers that meet `need`, None if they would be too slow."""
        slowest_us = need.read_latency_us_max
        if slowest_us is not None and self.read_latency_us > slowest_us:
            return None
        share = self.servers_for(need.capacity_bytes, need.throughput_bytes_s, need.reads_s)
        return Provision(self, max(1, math.ceil(share - _ROUNDING)))


@dataclass(frozen=True)
class Provision:
    """So many servers of a machine type."""

    machine: MachineType
    servers: int

    @property
    def cost_per_hour(self) -> float:
        """US dollars per hour."""
        return self.servers * self.machine.server_price_per_hour


@dataclass(frozen=True)
class Tier:
    """A tier: its machine types, of which the first is what its servers are taken to be.

    The tier's own figures are those of that first one, its `reference`.
    """

    name: str
    machines: tuple[MachineType, ...]

    def __post_init__(self) -> None:
        if not self.machines:
            raise CatalogError(f"[{self.name}] has no machine type")

    @property
    def reference(self) -> MachineType:
        """What a server of the tier is taken to be, unless it is known to be something else."""
        return self.machines[0]

    @property
    def capacity_bytes(self) -> int:
        """Bytes for values on one server."""
        return self.reference.capacity_bytes

    @property
    def bandwidth_bytes_s(self) -> int:
        """What one server can be counted on to send or take in."""
        return self.reference.bandwidth_bytes_s

    @property
    def iops(self) -> int:
        """Random reads of 4 KiB per second of one server."""
        return self.reference.iops

    @property
    def read_latency_us(self) -> int:
        """What one small read takes, the network left out."""
        return self.reference.read_latency_us

    @property
    def price_per_hour(self) -> float:
        """US dollars per hour of one machine, without its volume."""
        return self.reference.price_per_hour

    @property
    def price_per_gb_month(self) -> float:
        """US dollars per GB and month of a volume attached to it."""
        return self.reference.price_per_gb_month

    @property
    def server_price_per_hour(self) -> float:
        """US dollars per hour of one server, its machine and its volume."""
        return self.reference.server_price_per_hour

    @property
    def source(self) -> str:
        """Where the figures come from."""
        return self.reference.source

    @property
    def dated(self) -> str:
        """The day that the prices hold for."""
        return self.reference.dated

    def servers_for(
        self, capacity_bytes: float, throughput_bytes_s: float = 0, reads_s: float = 0
    ) -> float:
        """Return how many servers, as a fraction, hold and do so much: the scarcest decides."""
        return self.reference.servers_for(capacity_bytes, throughput_bytes_s, reads_s)

    def machine(self, name: str) -> MachineType:
        """Return the machine type called `name`.

        Raises:
            CatalogError: there is none.
        """
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise CatalogError(f"the catalog has no machine type {_shown(name)} of {self.name}")

    def machine_or_reference(self, name: str) -> MachineType:
        """Return the machine type called `name`, the reference if there is none."""
        return next((one for one in self.machines if one.name == name), self.reference)

    def cheapest(self, need: Need) -> Provision | None:
        """Return the servers that meet `need` at least cost, None if all would be too slow."""
        return next(iter(_by_cost(self.machines, need)), None)


@dataclass(frozen=True)
class ObjectStore:
    """S3, which is paid for by what is there, and not by the server.

    Attributes:
        price_per_gb_month: In US dollars by `BILLED_GB_BYTES`.
        source: Where the figure comes from.
        dated: The day that it holds for.
    """

    price_per_gb_month: float
    source: str
    dated: str

    def cost_per_hour(self, stored_bytes: float) -> float:
        """Return the US dollars per hour of so much."""
        return stored_bytes / BILLED_GB_BYTES * self.price_per_gb_month / HOURS_PER_MONTH


@dataclass(frozen=True)
class Catalog:
    """The tiers on offer, fastest first, and what S3 costs beside them; None if nobody says."""

    tiers: tuple[Tier, ...]
    s3: ObjectStore | None = None

    def tier(self, name: str) -> Tier:
        """Return the tier called `name`.

        Raises:
            CatalogError: there is none.
        """
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise CatalogError(f"the catalog has no tier '{name}'")

    def machine(self, tier_name: str, name: str) -> MachineType:
        """Return a machine type of a tier.

        Raises:
            CatalogError: there is none.
        """
        return self.tier(tier_name).machine(name)

    def offers(self, need: Need, tier_names: Iterable[str] | None = None) -> list[Provision]:
        """Return what would meet `need`, by machine type, cheapest first.

        At one price, fewer servers come first, then the faster tier. Only tiers of `tier_names`
        are looked at, if it is given.
        """
        names = None if tier_names is None else set(tier_names)
        tiers = (tier for tier in self.tiers if names is None or tier.name in names)
        return _by_cost((machine for tier in tiers for machine in tier.machines), need)


def _by_cost(machines: Iterable[MachineType], need: Need) -> list[Provision]:
    # Sorting keeps the order of what costs the same: that of the catalog.
    found = [provision for m in machines if (provision := m.provision(need)) is not None]
    return sorted(found, key=lambda one: (one.cost_per_hour, one.servers))


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
    return sum(costs_per_hour(catalog, capacity_bytes, throughput_bytes_s).values())


def costs_per_hour(
    catalog: Catalog,
    capacity_bytes: Mapping[str, int],
    throughput_bytes_s: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Return what `cost_per_hour` adds up, by tier.

    Raises:
        CatalogError: a tier that the catalog has not.
    """
    rates = throughput_bytes_s or {}
    return {
        name: catalog.tier(name).reference.cost_per_hour(
            capacity_bytes.get(name, 0), rates.get(name, 0)
        )
        for name in sorted({*capacity_bytes, *rates})
    }


# --- reading -----------------------------------------------------------------------------------


def load_catalog(override_path_text: str | None = None) -> Catalog:
    """Return the packaged catalog, changed by the file at `override_path_text`.

    Raises:
        CatalogError: the file cannot be read, is not TOML, or something in it is wrong.
    """
    packaged = resources.files("pocketkv").joinpath("catalog.toml").read_bytes()
    catalog = parse_catalog(packaged, "catalog.toml")
    if override_path_text is None:
        return catalog
    try:
        override = Path(override_path_text).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CatalogError(f"{override_path_text}: {reason}") from error
    return parse_catalog(override, override_path_text, catalog)


def parse_catalog(document: bytes, origin: str, base: Catalog | None = None) -> Catalog:
    """Return the catalog of a TOML `document`; `origin` is what messages call it.

    What `base` has and the document does not change stays. A machine type that `base` has may
    be given in part. The tier's reference is its ``default``, else the first machine type that
    the document names; with ``only = true``, the tier has no others.

    Raises:
        CatalogError: not TOML, an unknown tier or figure, or one that is missing or absurd.
    """
    try:
        tables = tomllib.loads(document.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{origin}: not TOML: {error}") from error
    tiers = {tier.name: tier for tier in (() if base is None else base.tiers)}
    s3 = None if base is None else base.s3
    for name, table in tables.items():
        if name not in (*TIER_NAMES, S3_NAME):
            known = ", ".join(TIER_NAMES)
            raise CatalogError(f"{origin}: no tier is called {_shown(name)}, only {known}")
        if not isinstance(table, dict):
            raise CatalogError(f"{origin}: [{name}] is not a table")
        if name == S3_NAME:
            s3 = _object_store(table, origin, s3)
        else:
            tiers[name] = _tier(name, table, origin, tiers.get(name))
    return Catalog(tuple(tiers[name] for name in TIER_NAMES if name in tiers), s3)


def _object_store(table: dict[str, Any], origin: str, base: ObjectStore | None) -> ObjectStore:
    where = f"{origin}: [{S3_NAME}]"
    values = _figures(table, where, _S3_FIGURES)
    if base is not None:
        return replace(base, **_with_source(values, base.source, origin))
    missing = [key for key in _S3_FIGURES if key not in table]
    if missing:
        raise CatalogError(f"{where} has no {missing[0]}")
    return ObjectStore(**values)


def _figures(
    table: dict[str, Any], where: str, known: Mapping[str, tuple[str, Callable[[Any, str], Any]]]
) -> dict[str, Any]:
    """What a table says, checked, by the attributes that it becomes."""
    unknown = sorted(table.keys() - known.keys())
    if unknown:
        raise CatalogError(f"{where} has an unknown figure {_shown(unknown[0])}")
    values = {}
    for key, value in table.items():
        attribute, parse = known[key]
        values[attribute] = parse(value, f"{where} {key}")
    return values


def _with_source(values: dict[str, Any], source: str, origin: str) -> dict[str, Any]:
    """The same with where those come from that change some others."""
    if values and "source" not in values:
        return {**values, "source": f"{source}; some figures from {origin}"}
    return values


def _tier(name: str, table: dict[str, Any], origin: str, base: Tier | None) -> Tier:
    where = f"{origin}: [{name}]"
    known = {} if base is None else {machine.name: machine for machine in base.machines}
    given = {}
    for key, value in table.items():
        if isinstance(value, dict) and key not in _SETTINGS:
            if not _MACHINE_NAME.fullmatch(key):
                raise CatalogError(f"{where} has a machine type with the odd name {_shown(key)}")
            at = f"{origin}: [{name}.{_shown(key)}]"
            given[key] = _machine(name, key, value, at, origin, known.get(key))
        elif key in _FIGURES:
            raise CatalogError(
                f'{where} {key} belongs under a machine type, such as [{name}."m5.xlarge"]'
            )
        elif key not in _SETTINGS:
            raise CatalogError(f"{where} has an unknown setting {_shown(key)}")
    only = table.get("only", False)
    if not isinstance(only, bool):
        raise CatalogError(f"{where} only is not true or false")
    if only and not given:
        raise CatalogError(f"{where} only: no machine type is given")
    machines = given if only else {**known, **given}
    first = next(iter(given or machines), None)
    reference = table.get("default", first)
    if not isinstance(reference, str) or reference not in machines:
        raise CatalogError(f"{where} default is none of its machine types")
    rest = (machine for key, machine in machines.items() if key != reference)
    return Tier(name, (machines[reference], *rest))


_SETTINGS: Final = frozenset({"default", "only"})
_MACHINE_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _machine(
    tier_name: str,
    name: str,
    table: dict[str, Any],
    where: str,
    origin: str,
    base: MachineType | None,
) -> MachineType:
    values = _figures(table, where, _FIGURES)
    if base is not None:
        return replace(base, **_with_source(values, base.source, origin))
    missing = [key for key in _FIGURES if key not in table]
    if missing:
        raise CatalogError(f"{where} has no {missing[0]}")
    return MachineType(tier=tier_name, name=name, **values)


def _amount(parse: Callable[[str], int]) -> Callable[[object, str], int]:
    def checked(value: object, where: str) -> int:
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise CatalogError(f"{where} is not an amount")
        try:
            # Too long an integer for str() is a ValueError of its own.
            amount = parse(str(value))
        except ValueError as error:
            raise CatalogError(f"{where}: {error}") from error
        # Servers are divided by what they hold and send, so nothing may be zero.
        if amount <= 0:
            raise CatalogError(f"{where} must be more than 0")
        return amount

    return checked


def _price(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CatalogError(f"{where} is not a number")
    if math.isnan(value) or not 0 <= value <= _PRICE_MAX:
        raise CatalogError(f"{where} must be 0 to {_PRICE_MAX} dollars")
    return float(value)


_PRICE_MAX: Final = 1_000_000
"""Dollars; far above any machine, so that a slip in units is found where it is made."""


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise CatalogError(f"{where} is not a text of one line")
    return value


def _date(value: object, where: str) -> str:
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise CatalogError(f"{where} is not a date such as 2026-01-19")
    return value.isoformat()


def _shown(text: str) -> str:
    """Return `text` in quotes, on one line, and not long."""
    return ascii(text if len(text) <= 64 else f"{text[:64]}...")


# What may stand under a machine type: the attribute that it becomes, and what checks it.
_FIGURES: Final[Mapping[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "capacity": ("capacity_bytes", _amount(parse_bytes)),
    "bandwidth": ("bandwidth_bytes_s", _amount(parse_rate)),
    "iops": ("iops", _amount(parse_bytes)),
    "read_latency_us": ("read_latency_us", _amount(parse_bytes)),
    "price_per_hour": ("price_per_hour", _price),
    "price_per_gb_month": ("price_per_gb_month", _price),
    "source": ("source", _text),
    "dated": ("dated", _date),
}
assert {attribute for attribute, _ in _FIGURES.values()} | {"tier", "name"} == {
    field.name for field in fields(MachineType)
}

# The same under [s3].
_S3_FIGURES: Final = {
    name: _FIGURES[name] for name in (field.name for field in fields(ObjectStore))
}
