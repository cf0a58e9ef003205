"""What a job has cost: a rate per hour, and what it came to until the rate last changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pocketkv.catalog import S3_NAME, Catalog, MachineType
from pocketkv.controller.policy import commitments, machine_of
from pocketkv.jobs import Hints
from pocketkv.placement import PlacementMap, Server

_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class Account:
    """US dollars; `since_ms` is when `rate_per_hour` began, `accrued` what was due by then."""

    since_ms: int
    accrued: float = 0.0
    rate_per_hour: float = 0.0

    def total(self, now_ms: int) -> float:
        """Return what the job has cost by now."""
        return self.accrued + self.rate_per_hour * max(0, now_ms - self.since_ms) / _HOUR_MS

    def at_rate(self, rate_per_hour: float, now_ms: int) -> Account:
        """Return the account with another rate from now on."""
        return Account(max(now_ms, self.since_ms), self.total(now_ms), rate_per_hour)

    def as_json(self) -> dict[str, Any]:
        """Return the account as what `json.dumps` takes."""
        return {
            "since_ms": self.since_ms,
            "accrued": self.accrued,
            "rate_per_hour": self.rate_per_hour,
        }


def rates_per_hour(
    hints: Hints,
    catalog: Catalog,
    placement: PlacementMap,
    servers: Mapping[str, Server],
    used_bytes: Mapping[str, int],
    s3_bytes: int = 0,
) -> dict[str, float]:
    """Return what a job costs per hour on each tier that it is on, and in S3, by the catalog.

    It pays for what is kept for it on its servers or for what it uses there (`used_bytes` by
    server), whichever is more, and for the throughput that it asked for: the share of a server
    of each machine type that this takes; and for what it has in S3 (`s3_bytes`), under that name.
    `servers` has all of its servers, by id.

    Raises:
        CatalogError: the catalog lacks the tier of one of the servers.
    """
    amounts: dict[MachineType, tuple[int, int]] = {}
    for name, commitment in commitments(hints, catalog, placement).items():
        machine = machine_of(catalog, servers[name])
        capacity_bytes, throughput_bytes_s = amounts.get(machine, (0, 0))
        amounts[machine] = (
            capacity_bytes + max(commitment.capacity_bytes, used_bytes.get(name, 0)),
            throughput_bytes_s + commitment.throughput_bytes_s,
        )
    rates: dict[str, float] = {}
    for machine, (capacity_bytes, throughput_bytes_s) in sorted(
        amounts.items(), key=lambda item: (item[0].tier, item[0].name)
    ):
        rate = machine.cost_per_hour(capacity_bytes, throughput_bytes_s)
        rates[machine.tier] = rates.get(machine.tier, 0.0) + rate
    if s3_bytes and catalog.s3 is not None:
        rates[S3_NAME] = catalog.s3.cost_per_hour(s3_bytes)
    return rates


def rate_per_hour(
    hints: Hints,
    catalog: Catalog,
    placement: PlacementMap,
    servers: Mapping[str, Server],
    used_bytes: Mapping[str, int],
    s3_bytes: int = 0,
) -> float:
    """Return what `rates_per_hour` comes to on all tiers and in S3 together."""
    rates = rates_per_hour(hints, catalog, placement, servers, used_bytes, s3_bytes)
    return sum(rates.values())
