from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pocketkv.catalog import Catalog, Tier, load_catalog
from pocketkv.controller.policy import Ask, Offer, Rooms, Supply, growth, machine_of, supply_of
from pocketkv.controller.policy.costs import asked, cheapest_cover, preference, tier_costs
from pocketkv.controller.policy.needs import Need
from pocketkv.jobs import Hints, Latency, infer
from tests.controller.builders import CATALOG, GIB, MIB, server

TIERS = ("dram", "nvme", "ssd", "hdd")


def supply(budget: float = math.inf, left: int = 5, **prices: float) -> Supply:
    offers = tuple(
        Offer(t.name, t.reference.name, t.capacity_bytes, t.bandwidth_bytes_s, price)
        for t in CATALOG.tiers
        if (price := prices.get(t.name, t.server_price_per_hour)) >= 0
    )
    return Supply(offers, dict.fromkeys(TIERS, left), budget)


# --- tiers compared ----------------------------------------------------------------------------


def order(**hints: object) -> tuple[str, ...]:
    demand = infer(Hints(**hints), CATALOG)  # type: ignore[arg-type]
    return preference(demand, tier_costs(CATALOG, demand, Rooms()))


def test_a_sensitive_job_prefers_what_is_fast_and_a_tolerant_one_what_is_cheap_for_it() -> None:
    assert order(latency=Latency.SENSITIVE) == TIERS
    assert order(capacity_bytes=GIB) == TIERS
    tolerant = Latency.TOLERANT
    # Bound by capacity, hdd is cheapest by far; bound by throughput, it is dear and dram is not.
    bulky = order(latency=tolerant, capacity_bytes=100 * GIB, throughput_bytes_s=MIB)
    assert bulky == ("hdd", "ssd", "nvme", "dram")
    busy = order(latency=tolerant, capacity_bytes=MIB, throughput_bytes_s=1200 * MIB)
    assert busy == ("dram", "nvme", "hdd", "ssd")
    assert order(latency=tolerant, tiers=("ssd", "dram"), capacity_bytes=GIB) == ("ssd", "dram")


def test_costs_are_those_of_the_machine_types_that_run() -> None:
    catalog = load_catalog()
    demand = infer(Hints(capacity_bytes=100 * GIB, tiers=("dram",)), catalog)
    rooms = Rooms()
    reference = tier_costs(catalog, demand, rooms)["dram"]
    rooms.put(server("a", machine_type="x2gd.xlarge"))
    cheap = catalog.machine("dram", "x2gd.xlarge")
    cost = cheap.cost_per_hour(demand.capacity_bytes, demand.throughput_bytes_s)
    assert tier_costs(catalog, demand, rooms)["dram"] == cost != reference
    rooms.put(server("b", machine_type="nobody knows"))
    assert tier_costs(catalog, demand, rooms)["dram"] == min(cost, reference)


def test_a_server_is_its_machine_type_or_else_its_tiers_reference() -> None:
    catalog = load_catalog()
    assert machine_of(catalog, server("a", machine_type="r7g.large")).name == "r7g.large"
    assert machine_of(catalog, server("a", "nvme")).name == catalog.tier("nvme").reference.name


# --- what to buy -------------------------------------------------------------------------------

sizes = st.sampled_from([MIB, 100 * MIB, GIB, 3 * GIB, 10 * GIB])
rates = st.sampled_from([MIB, 50 * MIB, 100 * MIB, 400 * MIB])
offers = st.lists(
    st.builds(
        Offer,
        st.sampled_from(TIERS),
        st.sampled_from(["small", "large"]),
        sizes,
        rates,
        st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0]),
    ),
    max_size=3,
    unique_by=lambda o: (o.tier, o.machine_type),
)


@given(
    offers,
    st.dictionaries(st.sampled_from(TIERS), st.integers(0, 4)),
    st.sampled_from([0.0, 0.5, 1.0, 2.5, math.inf]),
    st.builds(Need, st.just(0) | sizes, st.just(0) | rates),
    st.sampled_from([1.0, 0.5, 0.01]),
)
def test_nothing_that_is_enough_costs_less(
    offered: list[Offer], left: dict[str, int], budget: float, need: Need, missing: float
) -> None:
    limits = Supply(tuple(offered), left, budget)
    able = limits.of_tiers(TIERS)
    found = cheapest_cover(need, missing, able, limits)
    candidates = []
    for counts in product(range(5), repeat=len(able)):
        by_tier: dict[str, int] = {}
        for offer, n in zip(able, counts, strict=True):
            by_tier[offer.tier] = by_tier.get(offer.tier, 0) + n
        cost = sum(n * o.price_per_hour for o, n in zip(able, counts, strict=True))
        share = sum(
            n * need.share(o.capacity_bytes, o.bandwidth_bytes_s)
            for o, n in zip(able, counts, strict=True)
        )
        within = all(n <= left.get(tier, 0) for tier, n in by_tier.items())
        if within and cost <= budget + 1e-9 and share >= missing - 1e-9:
            candidates.append((cost, sum(counts)))
    if found is None:
        assert not candidates
        return
    cost = sum(n * o.price_per_hour for o, n in zip(able, found, strict=True))
    best_cost = min(cost for cost, _ in candidates)
    assert cost == pytest.approx(best_cost)
    # At that cost, with the fewest servers.
    assert sum(found) == min(n for c, n in candidates if c == pytest.approx(best_cost))


def test_thousands_of_servers_of_kinds_that_cost_nearly_the_same_are_soon_found() -> None:
    catalog = load_catalog()
    kinds = tuple(
        Offer(m.tier, m.name, m.capacity_bytes, m.bandwidth_bytes_s, m.server_price_per_hour)
        for tier in catalog.tiers
        for m in tier.machines
    )
    limits = Supply(kinds, dict.fromkeys(TIERS, 100_000))
    need = Need(10**15, 10**12)
    found = cheapest_cover(need, 1.0, kinds, limits)
    assert found is not None
    cost = sum(n * o.price_per_hour for o, n in zip(kinds, found, strict=True))
    floor = min(o.price_per_hour / need.share(o.capacity_bytes, o.bandwidth_bytes_s) for o in kinds)
    assert cost == pytest.approx(floor, rel=1e-3)


def test_a_tolerant_job_asks_for_what_is_cheapest_and_a_sensitive_one_for_what_is_fast() -> None:
    need = Need(50 * GIB, 0)
    assert asked(need, 1.0, TIERS, supply(left=20), cheapest=True) == (
        Ask("hdd", "hdd-machine", 1, 50 * GIB, 0),
    )
    assert asked(need, 1.0, TIERS, supply(left=20), cheapest=False) == (
        Ask("dram", "dram-machine", 13, 50 * GIB, 0),
    )


def test_a_sensitive_job_asks_for_slower_servers_only_as_far_as_there_can_be_no_faster() -> None:
    need = Need(50 * GIB, 0)
    # Five of dram have 20 GiB, so one of nvme is needed; then it alone is cheaper.
    (ask,) = asked(need, 1.0, TIERS, supply(left=5), cheapest=False)
    assert (ask.tier, ask.servers) == ("nvme", 1)


def test_what_cannot_be_had_in_full_is_asked_for_in_part() -> None:
    need = Need(50 * GIB, 0)
    (ask,) = asked(need, 1.0, ("dram",), supply(left=5), cheapest=True)
    assert (ask.servers, ask.capacity_bytes) == (5, 20 * GIB)
    (ask,) = asked(need, 1.0, ("dram",), supply(budget=0.9), cheapest=True)
    assert ask.servers == 2
    assert asked(need, 1.0, ("dram",), supply(left=0), cheapest=True) == ()
    assert asked(need, 1.0, ("dram",), Supply(), cheapest=True) == ()


def test_the_asks_of_many_jobs_share_servers() -> None:
    small = [Ask("dram", "dram-machine", 1, GIB, 10 * MIB)] * 6
    assert growth(small, supply()) == {("dram", "dram-machine"): 2}
    fast = [Ask("dram", "dram-machine", 1, 0, 390 * MIB)] * 2
    assert growth(fast, supply()) == {("dram", "dram-machine"): 2}
    assert growth([], supply()) == {}


def test_growth_keeps_within_limits() -> None:
    many = [Ask("dram", "dram-machine", 9, 36 * GIB, 0), Ask("nvme", "nvme-machine", 1, GIB, 0)]
    assert growth(many, supply(left=3)) == {
        ("dram", "dram-machine"): 3,
        ("nvme", "nvme-machine"): 1,
    }
    assert growth(many, supply(budget=1.7)) == {("dram", "dram-machine"): 4}
    assert growth(many, Supply()) == {}


@given(st.lists(st.tuples(st.integers(1, 16384), sizes), min_size=1, max_size=20))
def test_growth_never_exceeds_what_jobs_ask_for_and_holds_it(
    parts: list[tuple[int, int]],
) -> None:
    limits = supply(left=10**6)
    asks = [
        ask
        for slots, size in parts
        for ask in asked(Need(size, 0), slots / 16384, ("dram",), limits, cheapest=True)
    ]
    assume(asks)
    (count,) = growth(asks, limits).values()
    assert count <= sum(ask.servers for ask in asks)
    needed = sum(slots / 16384 * size for slots, size in parts)
    assert count * 4 * GIB * (1 + 2 / 16384) >= needed


# --- limits ------------------------------------------------------------------------------------


def test_supply_is_what_limits_leave() -> None:
    servers = [server("a"), server("b", capacity_bytes=2 * GIB), server("n", "nvme")]
    found = supply_of(CATALOG, servers, {"dram": 4, "nvme": 1, "hdd": 2}, 3.0)
    assert found.servers_left == {"dram": 2, "nvme": 0, "hdd": 2}
    assert found.budget_per_hour == pytest.approx(3.0 - 0.4 * 2 - 0.6)
    by_tier = {offer.tier: offer for offer in found.offers}
    # New servers are taken to be like those that run, or as the catalog says.
    assert by_tier["dram"].capacity_bytes == GIB
    assert by_tier["dram"].bandwidth_bytes_s == 100 * MIB
    assert by_tier["hdd"].capacity_bytes == 400 * GIB
    assert "ssd" not in by_tier
    assert [offer.tier for offer in found.of_tiers(TIERS)] == ["dram", "hdd"]
    assert supply_of(CATALOG, servers, {"dram": 1}, 0.5).budget_per_hour == 0


def test_servers_of_another_machine_type_say_nothing_of_new_ones() -> None:
    reference = CATALOG.tier("dram").reference
    catalog = Catalog((Tier("dram", (reference,)),))
    found = supply_of(catalog, [server("a", machine_type="other")], {"dram": 2})
    assert found.offers[0].capacity_bytes == reference.capacity_bytes
    assert found.budget_per_hour == math.inf
