"""A job as those see it who move it: where its slots are, and what it keeps or uses there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pocketkv.catalog import Catalog, CatalogError
from pocketkv.controller.policy.costs import preference, tier_costs
from pocketkv.controller.policy.needs import NOTHING, Commitment
from pocketkv.controller.policy.rooms import Rooms
from pocketkv.jobs import Hints, Latency, infer
from pocketkv.slots import SLOT_COUNT


@dataclass(frozen=True)
class Resident:
    """A job that is placed.

    Attributes:
        job_id: Its id.
        hints: What it says of itself.
        slots: How many slots it has, by server; all of them.
        own: What it keeps or uses, whichever is more, by server: what has to have room elsewhere.
    """

    job_id: str
    hints: Hints
    slots: Mapping[str, int]
    own: Mapping[str, Commitment]

    @property
    def is_on_one(self) -> bool:
        """Whether one server has all of it: commands on several of its keys rely on that."""
        return len(self.slots) == 1

    def own_on(self, server_id: str) -> Commitment:
        """Return what it keeps or uses of a server."""
        return self.own.get(server_id, NOTHING)

    def tiers(self, tier: str, catalog: Catalog, rooms: Rooms) -> tuple[str, ...]:
        """Return the tiers that what it has on `tier` may go to, best first: `tier`, if it may.

        One that said that it is sensitive, and not which tiers it takes, goes to no slower one.
        """
        try:
            demand = infer(self.hints, catalog)
        except CatalogError:
            return (tier,)
        wanted = preference(demand, tier_costs(catalog, demand, rooms))
        if self.hints.tiers is None and self.hints.latency is Latency.SENSITIVE:
            wanted = wanted[: wanted.index(tier) + 1]
        if tier in wanted:
            return (tier, *(name for name in wanted if name != tier))
        return wanted


def part_of(amount: Commitment, slots: int, of_slots: int) -> Commitment:
    """Return what so many slots of `of_slots` have of an amount, rounded up."""
    return Commitment(
        -(-amount.capacity_bytes * slots // of_slots),
        -(-amount.throughput_bytes_s * slots // of_slots),
        amount.jobs,
    )


def check_all_slots(slots: Mapping[str, int]) -> None:
    """Assert that nothing was lost or made up while slots were shifted about."""
    assert sum(slots.values()) == SLOT_COUNT, "slots are neither lost nor made up"
    assert all(count > 0 for count in slots.values()), "who has no slots is not named"
