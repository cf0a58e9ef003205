"""What a job needs of servers, what it keeps of them, and what it gets too little of. Pure.

What a job says (capacity, throughput or lambdas) is what others may not be given as well; what
is only inferred from it binds nobody: it serves to compare tiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pocketkv.amounts import format_bytes, format_rate
from pocketkv.catalog import Catalog
from pocketkv.jobs import Demand, Hints, infer
from pocketkv.placement import PlacementMap
from pocketkv.slots import SLOT_COUNT

ROUNDING: Final = 1e-9
"""Shares of a job are floats; what is smaller than this is their rounding."""


@dataclass(frozen=True)
class Commitment:
    """What so many jobs keep of one server: others are not given it as well."""

    capacity_bytes: int = 0
    throughput_bytes_s: int = 0
    jobs: int = 0

    def __add__(self, other: Commitment) -> Commitment:
        return Commitment(
            self.capacity_bytes + other.capacity_bytes,
            self.throughput_bytes_s + other.throughput_bytes_s,
            self.jobs + other.jobs,
        )

    def __sub__(self, other: Commitment) -> Commitment:
        return Commitment(
            self.capacity_bytes - other.capacity_bytes,
            self.throughput_bytes_s - other.throughput_bytes_s,
            self.jobs - other.jobs,
        )


NOTHING: Final = Commitment()


@dataclass(frozen=True)
class Shortage:
    """A resource of which a job gets too little, or of which there is too little for a drain.

    `resource` is ``capacity`` (bytes), ``throughput`` (bytes per second), ``servers`` (none of
    the tiers is up) or ``cpu``: `wanted` servers had room and were too busy to be given more.
    """

    resource: str
    wanted: int
    available: int
    tiers: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.tiers)
        if self.resource == "servers":
            return f"servers: none of {where} is up"
        if self.resource == "cpu":
            return f"cpu: {self.wanted} servers of {where} that had room were busy already"
        amount = format_bytes if self.resource == "capacity" else format_rate
        return (
            f"{self.resource}: {amount(self.wanted)} wanted,"
            f" {amount(self.available)} free on {where}"
        )


@dataclass(frozen=True)
class Need:
    """What must be free for a job; 0 where it did not say."""

    capacity_bytes: int = 0
    throughput_bytes_s: int = 0

    @classmethod
    def of(cls, hints: Hints, demand: Demand) -> Need:
        """Return what of its demand a job has said itself."""
        says_throughput = bool(hints.throughput_bytes_s or hints.lambdas)
        return cls(hints.capacity_bytes or 0, demand.throughput_bytes_s if says_throughput else 0)

    def __bool__(self) -> bool:
        return bool(self.capacity_bytes or self.throughput_bytes_s)

    def share(self, free_bytes: int, free_bytes_s: int) -> float:
        """Return the part of the job, at most 1, that fits into so much."""
        share = 1.0
        if self.capacity_bytes > free_bytes:
            share = free_bytes / self.capacity_bytes
        if self.throughput_bytes_s > free_bytes_s:
            share = min(share, free_bytes_s / self.throughput_bytes_s)
        return share

    def quota(self, slots: int, free_bytes: int) -> int | None:
        """Return the quota for so many slots: never what other jobs were promised."""
        if not self.capacity_bytes:
            return None
        return min(share_of(self.capacity_bytes, slots), free_bytes)

    def shortages(
        self, slots: Mapping[str, int], free: Mapping[str, tuple[int, int]], tiers: Iterable[str]
    ) -> tuple[Shortage, ...]:
        """Return what the servers that the slots are on have too little of.

        `free` are bytes and bytes per second by server, `tiers` what the servers belong to.
        """
        where = tuple(dict.fromkeys(tiers))
        found = []
        for resource, wanted, column in (
            ("capacity", self.capacity_bytes, 0),
            ("throughput", self.throughput_bytes_s, 1),
        ):
            # A slot cannot be halved, so one slot's worth more than is free is no shortage.
            one = share_of(wanted, 1)
            if any(share_of(wanted, n) > free[name][column] + one for name, n in slots.items()):
                available = sum(min(share_of(wanted, n), free[m][column]) for m, n in slots.items())
                found.append(Shortage(resource, wanted, min(available, wanted), where))
        return tuple(found)


def share_of(amount: int, slots: int) -> int:
    """Return the part of `amount` that belongs to so many slots, rounded up."""
    return -(-amount * slots // SLOT_COUNT)


def commitments(hints: Hints, catalog: Catalog, placement: PlacementMap) -> dict[str, Commitment]:
    """Return what a placed job keeps of each of its servers."""
    need = Need.of(hints, infer(hints, catalog))
    slots: dict[str, int] = {}
    for r in placement.ranges:
        slots[r.server_id] = slots.get(r.server_id, 0) + len(r)
    return {
        name: Commitment(
            (placement.quotas[name] or 0) if need.capacity_bytes else 0,
            share_of(need.throughput_bytes_s, n),
            1,
        )
        for name, n in slots.items()
    }
