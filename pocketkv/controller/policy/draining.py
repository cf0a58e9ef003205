"""Where everything goes that is on servers which are to leave, or why it cannot. Pure.

Each job's slots there go to servers that stay, of the same tier or else of another that the job
allows, so that these are as evenly full as can be: a job that is on one server goes to one, the
one that is least full then; others go to servers that have slots of them already, else to those
with most room, in proportion to it. What has to fit is what the job keeps or uses, whichever is
more. If anything does not fit, nothing is to be moved, and the plan says what there is to move
and what is free, by tier.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pocketkv.amounts import format_bytes, format_rate
from pocketkv.catalog import Catalog
from pocketkv.controller.policy.filling import in_proportion
from pocketkv.controller.policy.needs import NOTHING, ROUNDING, Commitment, Need
from pocketkv.controller.policy.residents import Resident, check_all_slots, part_of
from pocketkv.controller.policy.rooms import Condition, Room, Rooms, shares

SPREAD_SERVERS: Final = 16
"""A job's slots from one drain go to no more servers, unless these have too little room."""


@dataclass(frozen=True)
class TierRoom:
    """What is to be moved away from a tier's leaving servers, and what is free on the others."""

    tier: str
    moving_bytes: int
    free_bytes: int
    moving_bytes_s: int
    free_bytes_s: int

    def __str__(self) -> str:
        return (
            f"{self.tier}: {format_bytes(self.moving_bytes)} to move,"
            f" {format_bytes(self.free_bytes)} free;"
            f" {format_rate(self.moving_bytes_s)} promised, {format_rate(self.free_bytes_s)} free"
        )


@dataclass(frozen=True)
class DrainPlan:
    """What a drain comes to.

    Attributes:
        slots: New slots by server, by job: of every job that is on a leaving server. Empty if
            the drain does not fit.
        moving_bytes: What goes over the network, as far as is known.
        unplaced: The jobs that no room was found for.
        tiers: Figures by tier: of the leaving servers' tiers, and of all that could take
            something.
    """

    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    moving_bytes: int = 0
    unplaced: tuple[str, ...] = ()
    tiers: tuple[TierRoom, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the servers may leave."""
        return not self.unplaced

    @property
    def reason(self) -> str:
        """Why the drain does not fit: one line with the figures."""
        return "; ".join(str(tier) for tier in self.tiers)


def plan_drain(
    leaving: Collection[str], residents: Iterable[Resident], rooms: Rooms, catalog: Catalog
) -> DrainPlan:
    """Return where what is on the `leaving` servers goes.

    Args:
        leaving: Ids of servers; they may be in any state.
        residents: The jobs; those that have no slots there are passed over.
        rooms: All servers.
        catalog: What the jobs' tiers are like.
    """
    gone = frozenset(leaving)
    movers = [_Mover.of(r, gone, rooms, catalog) for r in residents if not gone.isdisjoint(r.slots)]
    # Who has least choice comes first, then who is largest.
    movers.sort(key=lambda m: (len(m.tiers), -m.amount.capacity_bytes, m.resident.job_id))
    stage = _Stage(gone, rooms)
    figures = _figures(movers, gone, stage, rooms)
    found: dict[str, Mapping[str, int]] = {}
    unplaced = []
    for mover in movers:
        added = stage.place(mover)
        if added is None:
            unplaced.append(mover.resident.job_id)
            continue
        slots = {name: n for name, n in mover.resident.slots.items() if name not in gone}
        for name, count in added.items():
            slots[name] = slots.get(name, 0) + count
        check_all_slots(slots)
        found[mover.resident.job_id] = slots
    moving = sum(mover.amount.capacity_bytes for mover in movers)
    if unplaced:
        return DrainPlan(moving_bytes=moving, unplaced=tuple(sorted(unplaced)), tiers=figures)
    return DrainPlan(found, moving, (), figures)


@dataclass(frozen=True)
class _Mover:
    """What one job has on the leaving servers."""

    resident: Resident
    slots: int
    amount: Commitment
    tiers: tuple[str, ...]

    @classmethod
    def of(cls, resident: Resident, gone: frozenset[str], rooms: Rooms, catalog: Catalog) -> _Mover:
        sources = sorted(name for name in resident.slots if name in gone)
        amount = NOTHING
        for name in sources:
            amount += resident.own_on(name)
        tiers: dict[str, None] = {}
        for name in sources:
            tiers.update(dict.fromkeys(resident.tiers(rooms[name].server.tier, catalog, rooms)))
        count = sum(resident.slots[name] for name in sources)
        return cls(resident, count, amount, tuple(tiers))

    @property
    def need(self) -> Need:
        return Need(self.amount.capacity_bytes, self.amount.throughput_bytes_s)


class _Stage:
    """The servers that stay, as they fill up."""

    def __init__(self, gone: frozenset[str], rooms: Rooms) -> None:
        self._taken: dict[str, Commitment] = {}
        self._rooms: dict[str, Room] = {}
        self._tiers: dict[str, list[str]] = {}
        for name in sorted(rooms):
            room = rooms[name]
            if name not in gone and room.condition is not Condition.CLOSED:
                self._rooms[name] = room
                self._taken[name] = rooms.taken(name)
                self._tiers.setdefault(room.server.tier, []).append(name)

    def free(self, tier: str) -> tuple[int, int]:
        """Return the bytes, and bytes per second, that a tier has free."""
        rooms = [self._rooms[name] for name in self._tiers.get(tier, ())]
        return sum(r.free_bytes for r in rooms), sum(r.free_bytes_s for r in rooms)

    def place(self, mover: _Mover) -> dict[str, int] | None:
        """Return the slots that servers get of a job, and have them get it; None if none can."""
        if mover.resident.is_on_one or not (set(mover.resident.slots) & self._rooms.keys()):
            name = self._least_full_with_room(mover)
            if name is not None:
                self._take(name, mover.amount)
                return {name: mover.slots}
        shares = self._spread(mover)
        if shares is None:
            return None
        added = in_proportion(mover.slots, shares)
        for name, count in added.items():
            self._take(name, part_of(mover.amount, count, mover.slots))
        return added

    def _take(self, name: str, amount: Commitment) -> None:
        self._taken[name] += amount
        room = self._rooms[name]
        self._rooms[name] = Room.of(room.server, self._taken[name], room.condition)

    def _least_full_with_room(self, mover: _Mover) -> str | None:
        """Return the server that would be least full with all that leaves; open ones first."""
        amount = mover.amount
        for tier in mover.tiers:
            able = [
                (room.condition, Room.of(room.server, self._taken[name] + amount)[:3])
                for name in self._tiers.get(tier, ())
                if (room := self._rooms[name]).free_bytes >= amount.capacity_bytes
                and room.free_bytes_s >= amount.throughput_bytes_s
            ]
            if able:
                return min(able)[1][2]
        return None

    def _spread(self, mover: _Mover) -> dict[str, float] | None:
        """Return the servers to spread a job over, in proportion to these shares."""
        need = mover.need
        mine = [name for name in mover.resident.slots if name in self._rooms]
        for names in (mine, *self._choices(mover.tiers)):
            rooms = [self._rooms[name] for name in sorted(names)]
            parts = shares(need, rooms)
            chosen: dict[str, float] = {}
            for i in self._best_first(need, rooms, parts):
                if len(chosen) >= SPREAD_SERVERS and sum(chosen.values()) >= 1 - ROUNDING:
                    break
                if parts[i] > 0:
                    chosen[rooms[i].name] = parts[i]
            if sum(chosen.values()) >= 1 - ROUNDING:
                return chosen
        return None

    @staticmethod
    def _best_first(need: Need, rooms: Sequence[Room], parts: Sequence[float]) -> list[int]:
        """Return the places of rooms, which stand by name: the open ones with most room first."""
        if not need:
            return sorted(range(len(rooms)), key=lambda i: rooms[i][:3])
        # Sorting keeps the order of what is equal.
        order = sorted(range(len(rooms)), key=parts.__getitem__, reverse=True)
        order.sort(key=lambda i: rooms[i].condition)
        return order

    def _choices(self, tiers: tuple[str, ...]) -> Iterable[list[str]]:
        """Yield the servers of more and more tiers."""
        names: list[str] = []
        for tier in tiers:
            names = [*names, *self._tiers.get(tier, ())]
            yield names


def _figures(
    movers: Iterable[_Mover], gone: frozenset[str], stage: _Stage, rooms: Rooms
) -> tuple[TierRoom, ...]:
    moving: dict[str, Commitment] = {rooms[n].server.tier: NOTHING for n in gone if n in rooms}
    for mover in movers:
        for tier in mover.tiers:
            moving.setdefault(tier, NOTHING)
        for name in mover.resident.slots:
            if name in gone:
                moving[rooms[name].server.tier] += mover.resident.own_on(name)
    return tuple(
        TierRoom(
            tier,
            amount.capacity_bytes,
            stage.free(tier)[0],
            amount.throughput_bytes_s,
            stage.free(tier)[1],
        )
        for tier, amount in sorted(moving.items())
        if amount != NOTHING or stage.free(tier) != (0, 0)
    )
