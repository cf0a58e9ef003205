"""What tiers cost a job, and which servers would be started for it at least cost. Pure.

What runs is paid for anyway, so it comes first (`pocketkv.controller.policy.placing`). Here is
how tiers compare for one job, and what is to be bought when what runs is not enough: a covering
problem of a few kinds of servers, solved exactly as long as that takes few steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pocketkv.catalog import Catalog, MachineType
from pocketkv.controller.policy.needs import ROUNDING, Need
from pocketkv.controller.policy.rooms import Rooms
from pocketkv.jobs import Demand, Latency
from pocketkv.placement import Server

# A part of a server that is not worth another one.
_SPARE: Final = 1e-6
# More steps than that, and the best that was found is taken: a bulk of servers costs next to
# nothing more when the last one of them is not the best choice.
_STEPS_MAX: Final = 2_000


def machine_of(catalog: Catalog, server: Server) -> MachineType:
    """Return what the catalog says of a server: of its machine type, else of its tier.

    Raises:
        CatalogError: the catalog has not even the tier.
    """
    return catalog.tier(server.tier).machine_or_reference(server.machine_type)


def tier_costs(catalog: Catalog, demand: Demand, rooms: Rooms) -> dict[str, float]:
    """Return what the share of servers that a job takes would cost per hour, by allowed tier.

    On the cheapest machine type that the tier has running, or that it is taken to have. Tiers
    that the catalog has not are left out.
    """
    costs = {}
    for tier in catalog.tiers:
        if tier.name in demand.tiers:
            machines = [tier.machine_or_reference(n) for n in rooms.machine_types(tier.name)]
            costs[tier.name] = min(
                machine.cost_per_hour(demand.capacity_bytes, demand.throughput_bytes_s)
                for machine in machines or [tier.reference]
            )
    return costs


def preference(demand: Demand, costs: Mapping[str, float]) -> tuple[str, ...]:
    """Return the tiers that a job allows, best first.

    The fastest for one that is sensitive, the cheapest for one that is tolerant.
    """
    if demand.latency is Latency.SENSITIVE:
        return demand.tiers
    # Sorting keeps the order of what costs the same: the faster one.
    return tuple(sorted(demand.tiers, key=lambda tier: round(costs.get(tier, math.inf), 9)))


@dataclass(frozen=True)
class Offer:
    """A kind of server that could be started: what it will have, and its price per hour."""

    tier: str
    machine_type: str
    capacity_bytes: int
    bandwidth_bytes_s: int
    price_per_hour: float


@dataclass(frozen=True)
class Supply:
    """What could be started beyond the servers that have joined.

    Attributes:
        offers: The kinds.
        servers_left: How many more there may be, by tier; none of a tier that is not named.
        budget_per_hour: What they may cost together, in US dollars.
    """

    offers: tuple[Offer, ...] = ()
    servers_left: Mapping[str, int] = field(default_factory=dict)
    budget_per_hour: float = math.inf

    def of_tiers(self, tiers: Iterable[str]) -> list[Offer]:
        """Return the offers of these tiers that there can be one more of."""
        named = set(tiers)
        return [
            offer
            for offer in self.offers
            if offer.tier in named and self.servers_left.get(offer.tier, 0) > 0
        ]

    def most(self, offer: Offer, budget_per_hour: float) -> int:
        """Return how many of an offer there may be, on this budget."""
        left = self.servers_left.get(offer.tier, 0)
        if not offer.price_per_hour or math.isinf(budget_per_hour):
            return left
        return min(left, math.floor(budget_per_hour / offer.price_per_hour + ROUNDING))


NO_SUPPLY: Final = Supply()
"""Nothing can be started."""


def supply_of(
    catalog: Catalog,
    servers: Iterable[Server],
    servers_max: Mapping[str, int],
    cost_per_hour_max: float = math.inf,
) -> Supply:
    """Return what may be started within limits per tier and per cluster.

    A new server of a tier is taken to be like the least of those of its reference machine type
    that run (on one machine, servers are far smaller than what the catalog says), else as the
    catalog says.

    Args:
        catalog: Prices, and what servers have.
        servers: Those that have joined.
        servers_max: How many servers a tier may have, by tier; one that is not named never grows.
        cost_per_hour_max: What all servers together may cost, in US dollars.
    """
    joined = list(servers)
    spent = sum(machine_of(catalog, s).server_price_per_hour for s in joined)
    offers = []
    for tier in catalog.tiers:
        if tier.name in servers_max:
            machine = tier.reference
            alike = [
                s
                for s in joined
                if s.tier == tier.name and s.machine_type in {"", machine.name} and s.capacity_bytes
            ]
            offers.append(
                Offer(
                    tier.name,
                    machine.name,
                    min((s.capacity_bytes for s in alike), default=machine.capacity_bytes),
                    min((s.bandwidth_bytes_s for s in alike), default=machine.bandwidth_bytes_s),
                    machine.server_price_per_hour,
                )
            )
    left = {
        name: max(0, most - sum(s.tier == name for s in joined))
        for name, most in servers_max.items()
    }
    return Supply(tuple(offers), left, max(0.0, cost_per_hour_max - spent))


@dataclass(frozen=True)
class Ask:
    """Servers that a job would need beside those that run, and what it would put on them."""

    tier: str
    machine_type: str
    servers: int
    capacity_bytes: int
    throughput_bytes_s: int


def asked(
    need: Need, missing: float, tiers: Sequence[str], supply: Supply, *, cheapest: bool
) -> tuple[Ask, ...]:
    """Return the servers that would take the `missing` part of a job, at least cost per hour.

    With `cheapest`, from any of `tiers`; otherwise from as few of the first of them as can have
    enough. If all of them cannot, as much as can be had.
    """
    first = len(tiers) if cheapest else 1
    for count in range(first, len(tiers) + 1):
        offers = supply.of_tiers(tiers[:count])
        bought = cheapest_cover(need, missing, offers, supply)
        if bought is not None:
            return _asks(need, missing, offers, bought)
    offers = supply.of_tiers(tiers)
    return _asks(need, missing, offers, _as_much_as_can_be(need, offers, supply))


def _asks(
    need: Need, missing: float, offers: Sequence[Offer], bought: Sequence[int]
) -> tuple[Ask, ...]:
    asks = []
    for offer, count in zip(offers, bought, strict=True):
        if count:
            share = min(missing, count * _share(need, offer))
            missing -= share
            asks.append(
                Ask(
                    offer.tier,
                    offer.machine_type,
                    count,
                    math.ceil(need.capacity_bytes * share),
                    math.ceil(need.throughput_bytes_s * share),
                )
            )
    return tuple(asks)


def _share(need: Need, offer: Offer) -> float:
    return need.share(offer.capacity_bytes, offer.bandwidth_bytes_s)


def cheapest_cover(
    need: Need, missing: float, offers: Sequence[Offer], supply: Supply
) -> tuple[int, ...] | None:
    """Return how many of each offer take the `missing` part of a job at least cost.

    At one cost, fewer servers win. None if the limits of `supply` do not allow for enough.
    """
    cover = _Cover(need, offers, supply)
    cover.search(0, missing, supply.budget_per_hour, dict(supply.servers_left))
    if cover.best is None:
        return None
    found = dict(zip(cover.order, cover.best, strict=True))
    return tuple(found[i] for i in range(len(offers)))


class _Cover:
    """Branch and bound: of each kind as many as could be needed first, then fewer and fewer.

    Kinds stand in the order of what a part of the job costs on them, so what is missing can cost
    no less than on the next kind.
    """

    def __init__(self, need: Need, offers: Sequence[Offer], supply: Supply) -> None:
        self._supply = supply
        self._offers = offers
        self._shares = [_share(need, offer) for offer in offers]
        able = [i for i, share in enumerate(self._shares) if share > 0]
        self._rates = {i: offers[i].price_per_hour / self._shares[i] for i in able}
        idle = [i for i in range(len(offers)) if i not in self._rates]
        self._able = sorted(able, key=lambda i: (self._rates[i], -self._shares[i], i))
        self.order = [*self._able, *idle]
        self.best: tuple[int, ...] | None = None
        self._best_cost = (math.inf, 0)
        self._steps = 0
        self._counts: list[int] = []

    def search(self, depth: int, missing: float, budget: float, left: dict[str, int]) -> None:
        """Decide on the kinds from `depth` on; what is best is in `best`."""
        self._steps += 1
        if missing <= ROUNDING:
            spent = self._cost()
            if _less(spent, self._best_cost):
                self._best_cost = spent
                padding = [0] * (len(self.order) - len(self._counts))
                self.best = (*self._counts, *padding)
            return
        if depth == len(self._able):
            return
        index = self._able[depth]
        offer, share = self._offers[index], self._shares[index]
        most = min(
            self._supply.most(offer, budget),
            left[offer.tier],
            math.ceil(missing / share - ROUNDING),
        )
        for count in range(most, -1, -1):
            if self.best is not None and self._steps > _STEPS_MAX:
                return
            rest = max(0.0, missing - count * share)
            if self._is_hopeless(depth, count, rest):
                return  # So are all smaller counts: less of what is cheapest is dearer.
            self._counts.append(count)
            tier_left = {**left, offer.tier: left[offer.tier] - count}
            self.search(depth + 1, rest, budget - count * offer.price_per_hour, tier_left)
            self._counts.pop()

    def _cost(self) -> tuple[float, int]:
        counts = list(zip(self._able, self._counts, strict=False))
        cost = sum(self._offers[i].price_per_hour * count for i, count in counts)
        return cost, sum(count for _, count in counts)

    def _is_hopeless(self, depth: int, count: int, rest: float) -> bool:
        """Return whether so many of this kind cannot lead to less than the best cost."""
        if self.best is None or rest <= ROUNDING:
            return False
        if depth + 1 == len(self._able):
            return True
        cost = self._cost()[0] + count * self._offers[self._able[depth]].price_per_hour
        return cost + rest * self._rates[self._able[depth + 1]] > self._best_cost[0] + ROUNDING


def _less(one: tuple[float, int], other: tuple[float, int]) -> bool:
    """Return whether a cost is less, or equal with fewer servers."""
    if abs(one[0] - other[0]) <= ROUNDING:
        return one[1] < other[1]
    return one[0] < other[0]


def _as_much_as_can_be(need: Need, offers: Sequence[Offer], supply: Supply) -> list[int]:
    """Return how many of each offer there can be when all are not enough: best value first."""
    shares = [_share(need, offer) for offer in offers]
    bought = [0] * len(offers)
    left = dict(supply.servers_left)
    budget = supply.budget_per_hour
    able = [i for i, share in enumerate(shares) if share > 0]
    for i in sorted(able, key=lambda i: (offers[i].price_per_hour / shares[i], -shares[i], i)):
        bought[i] = min(left[offers[i].tier], supply.most(offers[i], budget))
        left[offers[i].tier] -= bought[i]
        budget -= bought[i] * offers[i].price_per_hour
    return bought


def growth(asks: Iterable[Ask], supply: Supply) -> dict[tuple[str, str], int]:
    """Return the servers that all jobs' asks come to, by tier and machine type, within `supply`.

    Jobs share servers: what they would put on a kind is added up before it is divided by what
    one server has. Never more than they asked for one by one.
    """
    offers = {(offer.tier, offer.machine_type): offer for offer in supply.offers}
    totals: dict[tuple[str, str], tuple[int, int, int]] = {}
    for ask in asks:
        key = (ask.tier, ask.machine_type)
        servers, capacity, throughput = totals.get(key, (0, 0, 0))
        totals[key] = (
            servers + ask.servers,
            capacity + ask.capacity_bytes,
            throughput + ask.throughput_bytes_s,
        )
    found = {}
    left, budget = dict(supply.servers_left), supply.budget_per_hour
    for key, offer in offers.items():
        if key not in totals:
            continue
        servers, capacity, throughput = totals[key]
        fill = max(
            _ratio(capacity, offer.capacity_bytes), _ratio(throughput, offer.bandwidth_bytes_s)
        )
        # What is asked for is rounded up to whole bytes, which must not buy another server.
        wanted = min(servers, max(1, math.ceil(fill - _SPARE)))
        count = min(wanted, left.get(offer.tier, 0), supply.most(offer, budget))
        if count > 0:
            found[key] = count
            left[offer.tier] -= count
            budget -= count * offer.price_per_hour
    return found


def _ratio(amount: int, whole: int) -> float:
    return amount / whole if whole else math.inf if amount else 0.0
