"""Placement policy: from a job's hints and the cluster to slots and quotas per server. Pure.

A job's slots are spread evenly over its servers as far as each has room, since keys are spread
evenly over slots. Which servers: the first tier in the job's order of preference that can take
all of it, else several tiers together; there, as few servers as suffice, the least committed
first. A job that gives neither capacity nor throughput goes over all servers of its tier.

What a job says (capacity, throughput or lambdas) is what others may not be given as well; what
is only inferred from it binds nobody, as it is the same share of the same servers. A job that
cannot be met is placed all the same, in proportion to what is free, and the decision says what is
short. It does not ask for servers, nor move slots that a job holds: `held` slots stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pocketkv.amounts import format_bytes, format_rate
from pocketkv.catalog import Catalog
from pocketkv.jobs import Demand, Hints, Latency, infer
from pocketkv.placement import PlacementMap, Server, ServerState
from pocketkv.slots import SLOT_COUNT

# Shares are floats; what is smaller than this is their rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Commitment:
    """What jobs keep of one server: others are not given it as well."""

    capacity_bytes: int = 0
    throughput_bytes_s: int = 0

    def __add__(self, other: Commitment) -> Commitment:
        return Commitment(
            self.capacity_bytes + other.capacity_bytes,
            self.throughput_bytes_s + other.throughput_bytes_s,
        )

    def __sub__(self, other: Commitment) -> Commitment:
        return Commitment(
            self.capacity_bytes - other.capacity_bytes,
            self.throughput_bytes_s - other.throughput_bytes_s,
        )


@dataclass(frozen=True)
class Shortage:
    """A resource (``capacity``, ``throughput`` or ``servers``) of which a job gets too little."""

    resource: str
    wanted: int
    available: int
    tiers: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.tiers)
        if self.resource == "servers":
            return f"servers: none of {where} is up"
        amount = format_bytes if self.resource == "capacity" else format_rate
        return (
            f"{self.resource}: {amount(self.wanted)} wanted,"
            f" {amount(self.available)} free on {where}"
        )


@dataclass(frozen=True)
class Decision:
    """Where a job goes: slots and quota by server, and what it gets too little of.

    `slots` are weights for `assign_slots` that add up to all slots, or none without a server.
    """

    slots: Mapping[str, int]
    quotas: Mapping[str, int | None]
    shortages: tuple[Shortage, ...] = ()


def place(
    hints: Hints,
    catalog: Catalog,
    servers: Iterable[Server],
    committed: Mapping[str, Commitment],
    held: Mapping[str, int] | None = None,
) -> Decision:
    """Return where a job with these hints goes.

    Args:
        hints: What the job says of itself.
        catalog: What servers of each tier are like, for what the job does not say.
        servers: Those that live, in any order. One that is not up keeps what the job holds there
            and gets no more, unless none is up.
        committed: What other jobs keep, by server.
        held: Slots that the job has on some of `servers` and that stay there.

    Raises:
        CatalogError: the catalog has none of the tiers that the job allows.
    """
    demand = infer(hints, catalog)
    need = _Need.of(hints, demand)
    held = dict(held or {})
    living = list(servers)
    if not living:
        return Decision({}, {}, (Shortage("servers", 1, 0, demand.tiers),))
    some_up = any(s.state is ServerState.UP for s in living)
    room = {
        s.id: _Room.of(
            s,
            committed.get(s.id, Commitment()),
            need,
            is_open=s.state is ServerState.UP or not some_up,
        )
        for s in living
    }
    preferred = _preference(demand)
    groups, is_fallback = _groups(preferred, hints, room)
    slots = _slots(need, groups, room, held)
    quotas = {name: need.quota(n, room[name]) for name, n in slots.items()}
    shortages = need.shortages(slots, room)
    if is_fallback:
        shortages = (Shortage("servers", 1, 0, demand.tiers), *shortages)
    return Decision(slots, quotas, shortages)


def commitments(hints: Hints, catalog: Catalog, placement: PlacementMap) -> dict[str, Commitment]:
    """Return what a placed job keeps of each of its servers."""
    need = _Need.of(hints, infer(hints, catalog))
    slots: dict[str, int] = {}
    for r in placement.ranges:
        slots[r.server_id] = slots.get(r.server_id, 0) + len(r)
    return {
        name: Commitment(
            (placement.quotas[name] or 0) if need.capacity_bytes else 0,
            _share(need.throughput_bytes_s, n),
        )
        for name, n in slots.items()
    }


def _share(amount: int, slots: int) -> int:
    """Return the part of `amount` that belongs to so many slots, rounded up."""
    return -(-amount * slots // SLOT_COUNT)


@dataclass(frozen=True)
class _Need:
    """What must be free for a job; 0 where it did not say."""

    capacity_bytes: int
    throughput_bytes_s: int

    @classmethod
    def of(cls, hints: Hints, demand: Demand) -> _Need:
        says_throughput = bool(hints.throughput_bytes_s or hints.lambdas)
        return cls(hints.capacity_bytes or 0, demand.throughput_bytes_s if says_throughput else 0)

    def quota(self, slots: int, room: _Room) -> int | None:
        """Return the quota for so many slots: never what other jobs were promised."""
        if not self.capacity_bytes:
            return None
        return min(_share(self.capacity_bytes, slots), room.free_bytes)

    def shortages(
        self, slots: Mapping[str, int], room: Mapping[str, _Room]
    ) -> tuple[Shortage, ...]:
        """Return what the servers that the slots are on have too little of."""
        tiers = tuple(dict.fromkeys(room[name].server.tier for name in slots))
        found = []
        for resource, wanted, free in (
            ("capacity", self.capacity_bytes, {n: room[n].free_bytes for n in slots}),
            ("throughput", self.throughput_bytes_s, {n: room[n].free_bytes_s for n in slots}),
        ):
            # A slot cannot be halved, so one slot's worth more than is free is no shortage.
            if any(_share(wanted, n) > free[name] + _share(wanted, 1) for name, n in slots.items()):
                available = sum(min(_share(wanted, n), free[name]) for name, n in slots.items())
                found.append(Shortage(resource, wanted, min(available, wanted), tiers))
        return tuple(found)


@dataclass(frozen=True)
class _Room:
    """A server as one job sees it: what is free, and which share of the job fits.

    One that is not `is_open` takes nothing beyond what the job holds there.
    """

    server: Server
    is_open: bool
    load: float
    free_bytes: int
    free_bytes_s: int
    share: float

    @classmethod
    def of(cls, server: Server, committed: Commitment, need: _Need, *, is_open: bool) -> _Room:
        free_bytes = max(0, server.capacity_bytes - committed.capacity_bytes)
        free_bytes_s = max(0, server.bandwidth_bytes_s - committed.throughput_bytes_s)
        share = 1.0 if is_open else 0.0
        if need.capacity_bytes:
            share = min(share, free_bytes / need.capacity_bytes)
        if need.throughput_bytes_s:
            share = min(share, free_bytes_s / need.throughput_bytes_s)
        load = max(
            _part(committed.capacity_bytes, server.capacity_bytes),
            _part(committed.throughput_bytes_s, server.bandwidth_bytes_s),
        )
        return cls(server, is_open, load, free_bytes, free_bytes_s, share)

    @property
    def slots(self) -> int:
        """Slots that fit, rounded up: servers that together just fit must not lack one."""
        return min(SLOT_COUNT, math.ceil(self.share * SLOT_COUNT - _ROUNDING))

    @property
    def slots_max(self) -> int:
        """Slots that it may be given when nothing fits anywhere."""
        return SLOT_COUNT if self.is_open else 0


def _part(amount: int, whole: int) -> float:
    return amount / whole if whole else 1.0


def _preference(demand: Demand) -> tuple[str, ...]:
    """Return the tiers that the job allows, best first: a tolerant job spares dram."""
    if demand.latency is Latency.TOLERANT:
        return tuple(sorted(demand.tiers, key=lambda tier: tier == "dram"))
    return demand.tiers


def _groups(
    preferred: tuple[str, ...], hints: Hints, room: Mapping[str, _Room]
) -> tuple[list[list[str]], bool]:
    """Return sets of servers to try in turn, and whether none is of a tier that is allowed.

    Each tier by itself, then more and more of them together. A job that said that it is sensitive
    and not which tiers it takes stays on the first.
    """
    by_tier: dict[str, list[str]] = {}
    for name, r in sorted(room.items()):
        if r.is_open:
            by_tier.setdefault(r.server.tier, []).append(name)
    present = [tier for tier in preferred if tier in by_tier]
    if not present:
        # Anything is better than a job without a server.
        return [sorted(name for name, r in room.items() if r.is_open)], True
    groups = [by_tier[tier] for tier in present]
    if hints.tiers is None and hints.latency is Latency.SENSITIVE:
        return groups[:1], False
    together = [
        [name for group in groups[:count] for name in group] for count in range(2, len(groups) + 1)
    ]
    return groups + together, False


def _slots(
    need: _Need, groups: list[list[str]], room: Mapping[str, _Room], held: dict[str, int]
) -> dict[str, int]:
    """Return the slots of each server that has any."""
    if need.capacity_bytes or need.throughput_bytes_s:
        for group in groups:
            chosen = _select(group, room, held)
            if chosen is not None:
                limits = {name: max(room[name].slots, held.get(name, 0)) for name in chosen}
                return _levelled(limits, held)
        return _proportional(groups[-1], room, held)
    return _levelled(_limits_without_need({*groups[0], *held}, room, held), held)


def _limits_without_need(
    names: Iterable[str], room: Mapping[str, _Room], held: Mapping[str, int]
) -> dict[str, int]:
    return {name: max(room[name].slots_max, held.get(name, 0)) for name in names}


def _select(
    group: list[str], room: Mapping[str, _Room], held: Mapping[str, int]
) -> list[str] | None:
    """Return as few servers as suffice with those that hold slots; None if all do not."""
    chosen = sorted(held)
    missing = 1.0 - sum(max(room[name].share, held[name] / SLOT_COUNT) for name in chosen)
    rest = sorted(
        (name for name in group if name not in held),
        key=lambda name: (-room[name].share, room[name].load, name),
    )
    for i, name in enumerate(rest):
        if missing <= _ROUNDING:
            break
        if room[name].share < missing - _ROUNDING:
            chosen.append(name)
            missing -= room[name].share
            continue
        # One more is enough: of those that are, the least committed.
        enough = (n for n in rest[i:] if room[n].share >= missing - _ROUNDING)
        chosen.append(min(enough, key=lambda n: (room[n].load, n)))
        return chosen
    return chosen if missing <= _ROUNDING else None


def _levelled(limits: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """Return slots for each server, as even as `held` and `limits` permit."""
    names = sorted(limits)
    bounds = [(held.get(name, 0), limits[name]) for name in names]
    # The highest level up to which everything can be filled, by bisection.
    level, too_high = 0, SLOT_COUNT + 1
    while too_high - level > 1:
        middle = (level + too_high) // 2
        if sum(_filled(bounds, middle)) <= SLOT_COUNT:
            level = middle
        else:
            too_high = middle
    filled = _filled(bounds, level)
    left = SLOT_COUNT - sum(filled)
    slots = {}
    for name, n, (_, limit) in zip(names, filled, bounds, strict=True):
        if left and n == level < limit:
            n += 1
            left -= 1
        if n:
            slots[name] = n
    return slots


def _filled(bounds: list[tuple[int, int]], level: int) -> list[int]:
    """Return what servers have, of these least and most slots, when filled up to a level."""
    return [low if level < low else (high if level > high else level) for low, high in bounds]


def _proportional(
    group: list[str], room: Mapping[str, _Room], held: Mapping[str, int]
) -> dict[str, int]:
    """Return slots in proportion to what is free, so that all servers are full at one time.

    Where nothing is free, it makes no difference which server has no room.
    """
    shares = {name: room[name].share for name in sorted({*group, *held}) if room[name].share}
    if not shares:
        chosen = sorted(held) or [min(group, key=lambda name: (room[name].load, name))]
        open_ones = [name for name in chosen if room[name].is_open] or group[:1]
        limits = dict.fromkeys(open_ones, SLOT_COUNT)
        return _levelled({**held, **limits}, held)
    slots = dict(held)
    left = SLOT_COUNT - sum(slots.values())
    total = sum(shares.values())
    wanted = {name: left * share / total for name, share in shares.items()}
    for name, n in wanted.items():
        slots[name] = slots.get(name, 0) + int(n)
    left = SLOT_COUNT - sum(slots.values())
    for name in sorted(wanted, key=lambda n: (int(wanted[n]) - wanted[n], n))[:left]:
        slots[name] += 1
    return {name: n for name, n in sorted(slots.items()) if n}
