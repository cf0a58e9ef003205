"""Where a job goes: from its hints and what is free to slots and quotas per server. Pure.

A job's slots are spread over its servers as its keys are, evenly; a server has room for as much
of the job as it has of the scarcer of capacity and throughput. Which servers:

- tiers in the job's order of preference: fastest first for one that is sensitive (also if it did
  not say), cheapest first for one that is tolerant, by its share of servers there;
- there, one server if one has room, the least loaded; else as few as suffice;
- what a tier cannot take goes to the next one, if the job allows it: one that said that it is
  sensitive, and not which tiers it takes, stays on the first. One that did not say what it is
  goes to a slower tier as a whole rather than to two tiers, if that can take all of it;
- a tolerant job that fits one server of any tier that it allows is on one.

What runs comes first, since it is paid for anyway. For what it cannot take, the decision asks for
servers (`Ask`): the job starts at once on what is there, in proportion to what is free, is told
what is short, and is placed anew when servers have joined. A job that says neither capacity nor
throughput asks for nothing: it begins on the least loaded server of its first tier, where no
command meets keys of another one, and stays until that has too much to do (`relief`).

What a job `held` stays where it is, unless it may move and has to: a move is data on the wire.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pocketkv.catalog import Catalog
from pocketkv.controller.policy.costs import (
    NO_SUPPLY,
    Ask,
    Supply,
    asked,
    preference,
    tier_costs,
)
from pocketkv.controller.policy.filling import in_proportion, levelled, whole_slots
from pocketkv.controller.policy.needs import NOTHING, ROUNDING, Commitment, Need, Shortage
from pocketkv.controller.policy.rooms import Condition, Room, Rooms, shares
from pocketkv.jobs import Demand, Hints, Latency, infer
from pocketkv.placement import Server, ServerState
from pocketkv.slots import SLOT_COUNT

SHORT_SERVERS_MAX: Final = 64
"""New servers for a job that there is too little room for: it does not take every last crumb."""

COST_WORTH_MOVING: Final = 2.0
"""A tolerant job moves to a tier on which it costs so many times less, if all of it fits there."""

_OPEN_OR_BUSY: Final = (Condition.OPEN, Condition.BUSY)


@dataclass(frozen=True)
class Decision:
    """Where a job goes: slots and quota by server, and what it gets too little of.

    `slots` are weights for `assign_slots` that add up to all slots, or none without a server.
    `asks` are the servers that would let the job be met.
    """

    slots: Mapping[str, int]
    quotas: Mapping[str, int | None]
    shortages: tuple[Shortage, ...] = ()
    asks: tuple[Ask, ...] = ()


def place(
    hints: Hints,
    catalog: Catalog,
    servers: Iterable[Server],
    committed: Mapping[str, Commitment],
    held: Mapping[str, int] | None = None,
    *,
    may_move: bool = False,
    supply: Supply = NO_SUPPLY,
) -> Decision:
    """Return where a job goes, as `decide` does, from servers and what others keep of them.

    Args:
        hints: See `decide`.
        catalog: See `decide`.
        servers: Those that live, in any order.
        committed: What other jobs keep, by server.
        held: See `decide`.
        may_move: See `decide`.
        supply: See `decide`.

    Raises:
        CatalogError: the catalog has none of the tiers that the job allows.
    """
    rooms = Rooms()
    for server in servers:
        rooms.put(server, committed.get(server.id, NOTHING))
    return decide(hints, catalog, rooms, held, may_move=may_move, supply=supply)


def decide(
    hints: Hints,
    catalog: Catalog,
    rooms: Rooms,
    held: Mapping[str, int] | None = None,
    *,
    own: Mapping[str, Commitment] | None = None,
    may_move: bool = False,
    supply: Supply = NO_SUPPLY,
) -> Decision:
    """Return where a job with these hints goes.

    Args:
        hints: What the job says of itself.
        catalog: What servers of each tier are like, for what the job does not say.
        rooms: The servers that live. One that is closed keeps what the job holds there and gets
            no more, unless all are closed.
        held: Slots that the job has, by server.
        own: What of `rooms` the job itself keeps or uses, by server: it is free for it.
        may_move: Whether held slots may go elsewhere: away from a server that drains or whose
            tier the job does not allow, has no room for them, or costs much more than another.
            Otherwise all of them stay.
        supply: Servers that could be started.

    Raises:
        CatalogError: the catalog has none of the tiers that the job allows.
    """
    wish = _Wish.of(hints, catalog, rooms, supply)
    if not len(rooms):
        shortage = Shortage("servers", 1, 0, wish.demand.tiers)
        return Decision({}, {}, (shortage,), wish.asks(1.0, supply))
    view = _View(rooms, held or {}, own or {}, wish.need)
    present = [tier for tier in wish.tiers if rooms.has(tier, view.conditions)]
    # Anything is better than a job without a server.
    is_fallback = not present
    tiers = present or [t.name for t in catalog.tiers if rooms.has(t.name, view.conditions)]
    if wish.stays_on_first:
        tiers = tiers[:1]
    plan = _planned(wish, view, tiers, may_move=may_move, is_fallback=is_fallback)
    slots = plan.slots
    quotas = {name: wish.need.quota(n, view.room(name).free_bytes) for name, n in slots.items()}
    shortages = plan.shortages
    if is_fallback:
        shortages = (Shortage("servers", 1, 0, wish.demand.tiers), *shortages)
    missing = 1.0 if is_fallback else plan.missing
    if wish.stays_on_first and tiers[0] != wish.growing[0] and wish.need:
        missing = 1.0  # It is served by a slower tier, for want of a server of its own.
    asks = wish.asks(missing, supply) if missing > ROUNDING else ()
    return Decision(slots, quotas, shortages, asks)


@dataclass(frozen=True)
class _Wish:
    """What a job wants: how much, and of which tiers, best first; `growing` may be started."""

    demand: Demand
    need: Need
    tiers: tuple[str, ...]
    growing: tuple[str, ...]
    costs: Mapping[str, float]
    stays_on_first: bool
    said_latency: bool

    @classmethod
    def of(cls, hints: Hints, catalog: Catalog, rooms: Rooms, supply: Supply) -> _Wish:
        demand = infer(hints, catalog)
        costs = tier_costs(catalog, demand, rooms)
        tiers = preference(demand, costs)
        stays = hints.tiers is None and hints.latency is Latency.SENSITIVE
        growing = tiers
        if stays:
            offered = {offer.tier for offer in supply.of_tiers(tiers)}
            at_hand = [t for t in tiers if t in offered or rooms.has(t, _OPEN_OR_BUSY)]
            growing = tuple(at_hand[:1]) or tiers[:1]
        need = Need.of(hints, demand)
        return cls(demand, need, tiers, growing, costs, stays, hints.latency is not None)

    def asks(self, missing: float, supply: Supply) -> tuple[Ask, ...]:
        """Return the servers that the missing part takes; for a job that says nothing, one."""
        need = self.need or Need(1)
        cheapest = self.demand.latency is Latency.TOLERANT
        return asked(need, missing, self.growing, supply, cheapest=cheapest)


class _View:
    """Rooms as one job sees them: what it has itself is free for it."""

    def __init__(
        self, rooms: Rooms, held: Mapping[str, int], own: Mapping[str, Commitment], need: Need
    ) -> None:
        self._rooms = rooms
        self.need = need
        self.unhinted_servers = rooms.unhinted_servers
        self.held = {name: n for name, n in held.items() if name in rooms}
        self._mine = {
            name: Room.of(
                rooms[name].server,
                rooms.taken(name) - own.get(name, NOTHING),
                rooms[name].condition,
            )
            for name in {*self.held, *own}
            if name in rooms
        }
        # When all are closed, those that drain serve on.
        self.all_closed = rooms.all_closed
        self.conditions: tuple[Condition, ...] = (
            (Condition.CLOSED,) if self.all_closed else _OPEN_OR_BUSY
        )
        # A job is planned in several ways, each of which looks through thousands of servers.
        self._roomy: dict[tuple[str, Condition], Sequence[Room]] = {}
        self._parts: dict[tuple[str, Condition], list[float]] = {}

    def room(self, name: str) -> Room:
        """Return the room that a server has for this job."""
        return self._mine.get(name) or self._rooms[name]

    def share(self, room: Room) -> float:
        """Return the part of the job that a server has room for."""
        return self.need.share(room.free_bytes, room.free_bytes_s)

    def is_open(self, name: str, conditions: Collection[Condition]) -> bool:
        """Return whether a server may be given more."""
        return self._rooms[name].condition in conditions

    def may_take(self, tier: str, missing: float, conditions: Sequence[Condition]) -> bool:
        """Return whether a tier, all in all, has enough free for the missing part of the job."""
        free = [self._rooms.free(tier, condition) for condition in conditions]
        own = [room for room in self._mine.values() if room.server.tier == tier]
        free_bytes = sum(b for b, _ in free) + sum(room.free_bytes for room in own)
        free_bytes_s = sum(s for _, s in free) + sum(room.free_bytes_s for room in own)
        return free_bytes >= self.need.capacity_bytes * (
            missing - ROUNDING
        ) and free_bytes_s >= self.need.throughput_bytes_s * (missing - ROUNDING)

    def has_busy(self, tiers: Iterable[str]) -> bool:
        """Return whether one of these tiers has servers that are to be given slots last."""
        return any(self._rooms.has(tier, self.conditions[1:]) for tier in tiers)

    def candidates(self, tier: str, condition: Condition) -> Sequence[Room]:
        """Return the servers of a tier that the job holds nothing on, the least loaded first."""
        return self._but_mine(tier, condition, self._rooms.ordered(tier, condition))

    def roomy(self, tier: str, condition: Condition) -> Sequence[Room]:
        """Return those of the `candidates` that may have room for some of the job.

        Mostly they are few: of the others one of the two is used up that the job wants.
        """
        found = self._roomy.get((tier, condition))
        if found is None:
            rooms = self._rooms.ordered(tier, condition)
            if self.need.capacity_bytes and self.need.throughput_bytes_s:
                rooms = rooms[: bisect_left(rooms, 1.0, key=_load_of)]
            found = self._roomy[tier, condition] = self._but_mine(tier, condition, rooms)
        return found

    def parts(self, tier: str, condition: Condition) -> list[float]:
        """Return which part of the job fits on each that is `roomy`."""
        found = self._parts.get((tier, condition))
        if found is None:
            found = shares(self.need, self.roomy(tier, condition))
            self._parts[tier, condition] = found
        return found

    def least_loaded(self, tiers: Iterable[str]) -> list[str]:
        """Return the least loaded of the `candidates` of the first tier that has any; or none."""
        for tier in tiers:
            for condition in self.conditions:
                if rooms := self.candidates(tier, condition):
                    return [rooms[0].name]
        return []

    def _but_mine(self, tier: str, condition: Condition, rooms: Sequence[Room]) -> Sequence[Room]:
        """Return these without those that the job holds, and those it keeps as it sees them."""
        if not self._mine:
            return rooms
        found = [room for room in rooms if room.name not in self._mine]
        for name, room in self._mine.items():
            if name not in self.held and (room.server.tier, room.condition) == (tier, condition):
                insort(found, room)
        return found


def _load_of(room: Room) -> float:
    return room.load


@dataclass(frozen=True)
class _Plan:
    """Slots by server; `missing` is the part of the job that no open server has room for."""

    slots: Mapping[str, int]
    shortages: tuple[Shortage, ...] = ()
    missing: float = 0.0


def _planned(
    wish: _Wish, view: _View, tiers: Sequence[str], *, may_move: bool, is_fallback: bool
) -> _Plan:
    """Return the plan that moves least: with nothing but what must leave, or pays to leave."""
    if not may_move or not view.held:
        return _plan(wish, view, tiers, _Stays(view, frozenset(), everything=True))
    leaving = {
        name
        for name in view.held
        if (view.room(name).server.state is ServerState.DRAINING and not view.all_closed)
        or (view.room(name).server.tier not in wish.tiers and not is_fallback)
    }
    better_tiers = tiers if is_fallback else _better(wish, tiers)
    unwelcome = {n for n in view.held if view.room(n).server.tier not in better_tiers} - leaving
    if unwelcome:
        better = _plan(wish, view, better_tiers, _Stays(view, frozenset(leaving | unwelcome)))
        is_split = len(view.held) == 1 < len(better.slots)
        if not (better.shortages or better.missing > ROUNDING or is_split):
            return better
    return _plan(wish, view, tiers, _Stays(view, frozenset(leaving)))


def _better(wish: _Wish, tiers: Sequence[str]) -> Sequence[str]:
    """Return the tiers that the job would rather be on than on the others, if it is on those."""
    if not wish.need or not wish.said_latency:
        return tiers
    if wish.demand.latency is Latency.SENSITIVE:
        return tiers[:1]
    dear = COST_WORTH_MOVING * wish.costs[tiers[0]]
    return [tier for tier in tiers if wish.costs[tier] < dear or tier == tiers[0]]


class _Stays:
    """Which of the slots that a job holds stay: the least and the most of each server.

    `limits` are the parts of the job that its servers may have, `lows` the slots that they keep.
    """

    def __init__(self, view: _View, leaving: frozenset[str], *, everything: bool = False) -> None:
        self.everything = everything
        self.limits: dict[str, float] = {}
        self.lows: dict[str, int] = {}
        for name, held in view.held.items():
            part = held / SLOT_COUNT
            share = view.share(view.room(name))
            if everything:
                is_open = view.is_open(name, view.conditions)
                self.limits[name] = max(part, share) if is_open else part
            elif name in leaving:
                continue
            elif view.is_open(name, view.conditions[:1]):
                # What was rounded up when it was placed is no reason to move it.
                self.limits[name] = part if part > share > part - 1 / SLOT_COUNT else share
            else:
                self.limits[name] = min(part, share)
            self.lows[name] = held
        self.highs = whole_slots(self.limits)
        if not everything:
            self.lows = {name: min(low, self.highs[name]) for name, low in self.lows.items()}
            self.lows = {name: low for name, low in self.lows.items() if low}


def _plan(wish: _Wish, view: _View, tiers: Sequence[str], stays: _Stays) -> _Plan:
    if not wish.need:
        return _Plan(_on_the_least_loaded(view, tiers, stays))
    found = _chosen(wish, view, tiers, stays, view.conditions[:1])
    if found.missing <= ROUNDING:
        slots = _filled(found, stays)
        return _Plan(slots, _short(view, slots))
    missing = found.missing
    if view.has_busy(tiers):
        with_busy = _chosen(wish, view, tiers, stays, view.conditions)
        if with_busy.missing <= ROUNDING:
            slots = _filled(with_busy, stays)
            return _Plan(slots, (*_short(view, slots), *_busy(view, slots)), missing)
    slots = _as_far_as_it_goes(view, tiers, stays)
    shortages = _short(view, slots)
    return _Plan(slots, shortages, missing if shortages else 0.0)


def _short(view: _View, slots: Mapping[str, int]) -> tuple[Shortage, ...]:
    """Return the resources of which servers have less than their slots would take."""
    rooms = [view.room(name) for name in slots]
    free = {room.name: (room.free_bytes, room.free_bytes_s) for room in rooms}
    return view.need.shortages(slots, free, [room.server.tier for room in rooms])


def _busy(view: _View, slots: Mapping[str, int]) -> tuple[Shortage, ...]:
    """Return what is short when servers had to be given slots that have enough to do."""
    busy = [
        view.room(name).server.tier
        for name, count in slots.items()
        if view.room(name).condition is Condition.BUSY and count > view.held.get(name, 0)
    ]
    return (Shortage("cpu", len(busy), 0, tuple(dict.fromkeys(busy))),) if busy else ()


@dataclass
class _Chosen:
    """Servers beside those that the job holds slots on, and the part of it that they lack.

    Those in `full` are of tiers before the last that is needed: they take all that they can.
    """

    limits: dict[str, float] = field(default_factory=dict)
    full: set[str] = field(default_factory=set)
    missing: float = 0.0


def _chosen(
    wish: _Wish,
    view: _View,
    tiers: Sequence[str],
    stays: _Stays,
    conditions: Sequence[Condition],
) -> _Chosen:
    """Return the servers that the job takes, if there are enough of them."""
    missing = 1.0 - sum(stays.limits.values())
    if missing <= ROUNDING:
        return _Chosen()
    is_tolerant = wish.demand.latency is Latency.TOLERANT
    if is_tolerant and not stays.limits:
        for tier in tiers:
            name = _least_loaded(view, tier, missing, conditions)
            if name is not None:
                return _Chosen({name: 1.0})
    if not wish.said_latency:
        for tier in tiers:
            if view.may_take(tier, missing, conditions):
                chosen = _filled_up(view, (tier,), missing, conditions, stays)
                if chosen.missing <= ROUNDING:
                    return chosen
    return _filled_up(view, tiers, missing, conditions, stays)


def _filled_up(
    view: _View,
    tiers: Sequence[str],
    missing: float,
    conditions: Sequence[Condition],
    stays: _Stays,
) -> _Chosen:
    """Return what the first of `tiers` that are enough together take."""
    chosen = _Chosen(missing=missing)
    for tier in tiers:
        chosen.full = {
            *chosen.limits,
            *(n for n in stays.limits if view.room(n).server.tier in tiers[: tiers.index(tier)]),
        }
        name = _least_loaded(view, tier, chosen.missing, conditions)
        if name is not None:
            chosen.limits[name] = view.share(view.room(name))
            chosen.missing = 0.0
            return chosen
        _take_the_roomiest(view, tier, chosen, conditions)
        if chosen.missing <= ROUNDING:
            return chosen
    return chosen


def _least_loaded(
    view: _View, tier: str, missing: float, conditions: Sequence[Condition]
) -> str | None:
    """Return the least loaded server of a tier that has room for the missing part of the job."""
    if not view.may_take(tier, missing, conditions):
        return None  # Nor has any of them.
    part = missing - ROUNDING
    need_bytes = view.need.capacity_bytes * part
    need_bytes_s = view.need.throughput_bytes_s * part
    for condition in conditions:
        for room in view.roomy(tier, condition):
            if room.free_bytes >= need_bytes and room.free_bytes_s >= need_bytes_s:
                return room.name
    return None


def _take_the_roomiest(
    view: _View, tier: str, chosen: _Chosen, conditions: Sequence[Condition]
) -> None:
    """Add servers of a tier, those with most room first, and the least loaded that ends it."""
    for condition in conditions:
        rooms, parts = view.roomy(tier, condition), view.parts(tier, condition)
        # Sorting keeps the order of what is equal: the least loaded comes first.
        order = sorted(range(len(parts)), key=parts.__getitem__, reverse=True)
        for at, i in enumerate(order):
            if not parts[i] or chosen.missing <= ROUNDING:
                break
            if parts[i] >= chosen.missing - ROUNDING:
                # One more is enough: of those that are, the least loaded.
                i = min(j for j in order[at:] if parts[j] >= chosen.missing - ROUNDING)
                chosen.limits[rooms[i].name] = parts[i]
                chosen.missing = 0.0
                return
            chosen.limits[rooms[i].name] = parts[i]
            chosen.missing -= parts[i]


def _filled(chosen: _Chosen, stays: _Stays) -> dict[str, int]:
    """Return the slots of servers that are enough together."""
    most = whole_slots({**stays.limits, **chosen.limits})
    bounds = {}
    for name, high in most.items():
        high = max(high, stays.lows.get(name, 0))
        low = high if name in chosen.full else stays.lows.get(name, 0)
        bounds[name] = (low, high)
    return levelled(bounds)


def _as_far_as_it_goes(view: _View, tiers: Sequence[str], stays: _Stays) -> dict[str, int]:
    """Return slots for a job that there is too little room for.

    All room is taken, of the roomiest servers. What has none stays where it is, if it may, and
    goes else where most room was, so that all servers are full at one time. Where nothing is
    free, it makes no difference which server has no room.
    """
    rooms = [r for tier in tiers for c in view.conditions for r in view.roomy(tier, c)]
    parts = [part for tier in tiers for c in view.conditions for part in view.parts(tier, c)]
    order = sorted(range(len(parts)), key=parts.__getitem__, reverse=True)[:SHORT_SERVERS_MAX]
    limits = {**stays.limits, **{rooms[i].name: parts[i] for i in order}}
    slots = dict(stays.lows)
    left = SLOT_COUNT - sum(slots.values())
    for name, most in whole_slots(limits).items():
        more = min(left, most - slots.get(name, 0))
        if more > 0:
            slots[name] = slots.get(name, 0) + more
            left -= more
    for name, held in sorted(view.held.items()):
        back = min(left, held - slots.get(name, 0))
        if back > 0:
            slots[name] = slots.get(name, 0) + back
            left -= back
    if left:
        able = {n: part for n, part in limits.items() if view.is_open(n, view.conditions)}
        if not any(able.values()):
            names = [n for n in able if n in view.held] or view.least_loaded(tiers)
            able = dict.fromkeys(names or slots, 1.0)
        for name, more in in_proportion(left, able).items():
            slots[name] = slots.get(name, 0) + more
    return {name: count for name, count in sorted(slots.items()) if count}


def _on_the_least_loaded(view: _View, tiers: Sequence[str], stays: _Stays) -> dict[str, int]:
    """Return slots for a job that does not say what it needs: on one server, if it is on none.

    What was moved to others because one was too little stays there; it is even, as far as slots
    can move.
    """
    bounds = {
        name: (low, SLOT_COUNT if view.is_open(name, view.conditions[:1]) else low)
        for name, low in stays.lows.items()
    }
    if sum(low for low, _ in bounds.values()) < SLOT_COUNT:
        found = [room for c in view.conditions for room in view.candidates(tiers[0], c)]
        has_open = any(most > low for low, most in bounds.values())
        wanted = max(0 if has_open else 1, view.unhinted_servers - len(bounds))
        bounds.update((room.name, (0, SLOT_COUNT)) for room in found[:wanted])
        if not any(most > low for low, most in bounds.values()):
            # All that it has are busy, and there are no others.
            bounds = {n: (low, SLOT_COUNT) for n, (low, _) in bounds.items()}
    return levelled(bounds)
