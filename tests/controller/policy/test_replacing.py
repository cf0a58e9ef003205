"""Jobs that are placed again, and several jobs on the same servers."""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pocketkv.catalog import TIER_NAMES
from pocketkv.controller.policy import (
    NOTHING,
    Commitment,
    Condition,
    Decision,
    Rooms,
    commitments,
    decide,
    place,
    supply_of,
)
from pocketkv.controller.policy.costs import tier_costs
from pocketkv.controller.policy.needs import Need
from pocketkv.jobs import Hints, Latency, infer
from pocketkv.placement import PlacementMap, Server, ServerState, assign_slots
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import CATALOG, GIB, MIB, server

HALF = SLOT_COUNT // 2
UNLIMITED = dict.fromkeys(TIER_NAMES, 1000)


def rooms_of(*servers: Server, **conditions: Condition) -> Rooms:
    rooms = Rooms()
    for one in servers:
        rooms.put(one, NOTHING, conditions.get(one.id, Condition.OPEN))
    return rooms


def again(rooms: Rooms, held: dict[str, int], **hints: Any) -> Decision:
    return decide(Hints(**hints), CATALOG, rooms, held, may_move=True)


def moved(held: dict[str, int], slots: Any) -> int:
    return sum(max(0, n - slots.get(name, 0)) for name, n in held.items())


# --- what moves --------------------------------------------------------------------------------


def test_what_has_room_where_it_is_stays_there() -> None:
    rooms = rooms_of(server("a"), server("b"), server("c"))
    held = {"a": 10_000, "b": SLOT_COUNT - 10_000}
    assert again(rooms, held, capacity_bytes=GIB).slots == held
    assert again(rooms, held).slots == held


def test_only_what_is_too_much_for_a_server_moves() -> None:
    rooms = rooms_of(server("a"), server("b"))
    held = {"a": SLOT_COUNT}
    assert again(rooms, held, capacity_bytes=2 * GIB).slots == {"a": HALF, "b": HALF}
    decision = again(rooms, held, capacity_bytes=GIB * 5 // 4)
    assert decision.slots == {"a": int(SLOT_COUNT * 0.8), "b": SLOT_COUNT - int(SLOT_COUNT * 0.8)}


def test_a_draining_server_is_left_if_others_have_room() -> None:
    leaving = server("a", state=ServerState.DRAINING)
    for hints in ({}, {"capacity_bytes": GIB}):
        rooms = rooms_of(leaving, server("b"), server("c"))
        decision = again(rooms, {"a": HALF, "b": HALF}, **hints)
        assert "a" not in decision.slots
        assert decision.slots["b"] >= HALF
    assert again(rooms_of(leaving), {"a": SLOT_COUNT}).slots == {"a": SLOT_COUNT}
    # A quarter of what it holds has room elsewhere: the rest is better there than nowhere.
    held = {"a": HALF, "b": HALF}
    decision = again(rooms_of(leaving, server("b")), held, capacity_bytes=GIB * 4 // 3)
    assert decision.slots == {"a": SLOT_COUNT // 4, "b": SLOT_COUNT * 3 // 4}


def test_a_server_that_takes_no_writes_keeps_what_it_has_and_gets_nothing() -> None:
    rooms = rooms_of(server("a"), server("b"), a=Condition.CLOSED)
    assert again(rooms, {}, capacity_bytes=MIB).slots == {"b": SLOT_COUNT}
    assert again(rooms, {"a": HALF, "b": HALF}, capacity_bytes=MIB).slots == {"a": HALF, "b": HALF}
    assert again(rooms, {"a": HALF}, capacity_bytes=MIB).slots == {"a": HALF, "b": HALF}


def test_a_tier_that_the_job_does_not_allow_is_left_when_one_that_it_allows_is_there() -> None:
    decision = again(rooms_of(server("a"), server("h", "hdd")), {"a": SLOT_COUNT}, tiers=("hdd",))
    assert decision.slots == {"h": SLOT_COUNT}
    alone = again(rooms_of(server("a")), {"a": SLOT_COUNT}, tiers=("hdd",))
    assert alone.slots == {"a": SLOT_COUNT}
    assert [s.resource for s in alone.shortages] == ["servers"]


def test_a_tolerant_job_moves_to_a_tier_that_costs_much_less_as_a_whole_or_not_at_all() -> None:
    hints: dict[str, Any] = {"latency": Latency.TOLERANT, "capacity_bytes": GIB}
    held = {"a": SLOT_COUNT}
    assert again(rooms_of(server("a"), server("n", "nvme")), held, **hints).slots == {
        "n": SLOT_COUNT
    }
    small = server("n", "nvme", capacity_bytes=GIB // 2)
    assert again(rooms_of(server("a"), small), held, **hints).slots == held
    # hdd costs less than ssd, and not so much less that it pays to move.
    ssd = {"s": SLOT_COUNT}
    rooms = rooms_of(server("s", "ssd"), server("n", "nvme"))
    assert again(rooms, ssd, **hints, throughput_bytes_s=MIB).slots == ssd


def test_a_sensitive_job_moves_up_when_the_fast_tier_has_room() -> None:
    held = {"n": SLOT_COUNT}
    rooms = rooms_of(server("a"), server("n", "nvme"))
    sensitive = {"latency": Latency.SENSITIVE, "capacity_bytes": GIB}
    assert again(rooms, held, **sensitive).slots == {"a": SLOT_COUNT}
    assert again(rooms, held, capacity_bytes=GIB).slots == held


def test_what_the_job_keeps_itself_is_free_for_it() -> None:
    rooms = Rooms()
    kept = Commitment(GIB, 0, 1)
    rooms.put(server("a"), kept)
    rooms.put(server("b"), Commitment(GIB // 2))
    held = {"a": SLOT_COUNT}
    hints = Hints(capacity_bytes=GIB)
    decision = decide(hints, CATALOG, rooms, held, own={"a": kept}, may_move=True)
    assert decision.slots == held
    assert decision.quotas == {"a": GIB}
    # Also where it holds nothing any more.
    assert decide(hints, CATALOG, rooms, own={"a": kept}).slots == held


# --- servers that are busy, servers that could be started --------------------------------------


def test_busy_servers_get_slots_only_if_no_other_has_room() -> None:
    rooms = rooms_of(server("a"), server("b"), server("c"), a=Condition.BUSY)
    assert set(again(rooms, {}, capacity_bytes=GIB).slots) == {"b"}
    assert set(again(rooms, {}, capacity_bytes=2 * GIB).slots) == {"b", "c"}
    decision = again(rooms, {}, capacity_bytes=3 * GIB)
    assert set(decision.slots) == {"a", "b", "c"}
    assert [str(s) for s in decision.shortages] == [
        "cpu: 1 servers of dram that had room were busy already"
    ]
    assert set(again(rooms_of(server("a"), a=Condition.BUSY), {}).slots) == {"a"}


def test_a_job_starts_on_what_is_there_asks_for_what_it_lacks_and_spreads_when_it_comes() -> None:
    first = [server("a"), server("b")]
    hints = Hints(capacity_bytes=5 * GIB, tiers=("dram",))
    supply = supply_of(CATALOG, first, {"dram": 8})
    now = place(hints, CATALOG, first, {}, supply=supply)
    assert all(abs(n - HALF) <= 1 for n in now.slots.values())
    assert now.quotas == {"a": GIB, "b": GIB}
    (ask,) = now.asks
    assert (ask.tier, ask.machine_type, ask.servers) == ("dram", "dram-machine", 3)
    assert ask.capacity_bytes == pytest.approx(3 * GIB, rel=1e-6)
    joined = [*first, *(server(name) for name in "cde")]
    then = place(hints, CATALOG, joined, {}, now.slots, may_move=True, supply=supply)
    assert (then.shortages, then.asks) == ((), ())
    assert sorted(then.slots.values()) == [3276, 3277, 3277, 3277, 3277]


def test_a_job_that_is_met_asks_for_nothing() -> None:
    servers = [server("a"), server("n", "nvme", capacity_bytes=10 * GIB)]
    supply = supply_of(CATALOG, servers, UNLIMITED)
    for hints in (Hints(), Hints(capacity_bytes=5 * GIB), Hints(lambdas=1)):
        assert place(hints, CATALOG, servers, {}, supply=supply).asks == ()


def test_the_first_servers_of_all_are_asked_for_too() -> None:
    supply = supply_of(CATALOG, [], UNLIMITED)
    decision = place(Hints(), CATALOG, [], {}, supply=supply)
    assert [(ask.tier, ask.servers) for ask in decision.asks] == [("dram", 1)]
    tolerant = Hints(latency=Latency.TOLERANT, capacity_bytes=500 * GIB, throughput_bytes_s=MIB)
    decision = place(tolerant, CATALOG, [], {}, supply=supply)
    assert [(ask.tier, ask.servers) for ask in decision.asks] == [("hdd", 2)]
    only_hdd = place(Hints(tiers=("hdd",)), CATALOG, [server("a")], {}, supply=supply)
    assert [(ask.tier, ask.servers) for ask in only_hdd.asks] == [("hdd", 1)]


def test_a_sensitive_job_on_a_slower_tier_asks_for_the_fast_one() -> None:
    servers = [server("n", "nvme", capacity_bytes=10 * GIB)]
    hints = Hints(latency=Latency.SENSITIVE, capacity_bytes=GIB)
    decision = place(hints, CATALOG, servers, {}, supply=supply_of(CATALOG, servers, UNLIMITED))
    assert decision.slots == {"n": SLOT_COUNT}
    assert [(ask.tier, ask.servers) for ask in decision.asks] == [("dram", 1)]
    assert place(hints, CATALOG, servers, {}).asks == ()


# --- always ------------------------------------------------------------------------------------

amounts = st.sampled_from([0, MIB, 100 * MIB, GIB, 3 * GIB + 1, 20 * GIB])
rates = st.sampled_from([0, MIB, 30 * MIB, 100 * MIB, 700 * MIB])


def some_servers(size: int, tiers: st.SearchStrategy[str]) -> st.SearchStrategy[list[Server]]:
    return st.lists(
        st.builds(
            server,
            st.integers(0, 999).map("s{:03}".format),
            tiers,
            capacity_bytes=amounts,
            bandwidth_bytes_s=rates,
        ),
        min_size=1,
        max_size=size,
        unique_by=lambda s: s.id,
    )


hints = st.builds(
    Hints,
    capacity_bytes=st.none() | amounts,
    throughput_bytes_s=st.none() | rates,
    latency=st.none() | st.sampled_from(Latency),
    tiers=st.none() | st.lists(st.sampled_from(TIER_NAMES), min_size=1, unique=True).map(tuple),
)


@given(some_servers(8, st.sampled_from(TIER_NAMES)), st.lists(hints, max_size=12))
def test_no_server_is_promised_more_than_it_has(servers: list[Server], jobs: list[Hints]) -> None:
    taken = {s.id: NOTHING for s in servers}
    spare = dict.fromkeys(taken, 0)
    for number, said in enumerate(jobs):
        decision = place(said, CATALOG, servers, taken)
        if any(s.resource != "servers" for s in decision.shortages):
            continue  # It is told so; see the quotas' test for what others keep even then.
        ranges = assign_slots(decision.slots, None)
        placement = PlacementMap(f"j{number}", 1, ranges, decision.quotas, decision.slots)
        for name, kept in commitments(said, CATALOG, placement).items():
            taken[name] += kept
            # A slot cannot be halved, so the last job on a server may have one too much.
            spare[name] = max(spare[name], -(-(said.throughput_bytes_s or 0) // SLOT_COUNT))
        for one in servers:
            assert taken[one.id].capacity_bytes <= one.capacity_bytes
            assert taken[one.id].throughput_bytes_s <= one.bandwidth_bytes_s + 2 * spare[one.id]


def fits(need: Need, one: Server) -> float:
    return need.share(one.capacity_bytes, one.bandwidth_bytes_s)


@given(some_servers(7, st.just("dram")), amounts, rates)
def test_no_fewer_servers_would_do(servers: list[Server], capacity: int, rate: int) -> None:
    assume(capacity or rate)
    need = Need(capacity, rate)
    decision = place(Hints(capacity_bytes=capacity, throughput_bytes_s=rate), CATALOG, servers, {})
    enough = (
        count
        for count in range(1, len(servers) + 1)
        if any(
            sum(fits(need, s) for s in chosen) >= 1 - 1e-9
            for chosen in combinations(servers, count)
        )
    )
    least = next(enough, None)
    if least is None:
        assert decision.shortages
    else:
        assert decision.shortages == ()
        assert len(decision.slots) == least


@given(some_servers(7, st.sampled_from(TIER_NAMES)), amounts, rates)
def test_no_split_over_tiers_costs_a_tolerant_job_less(
    servers: list[Server], capacity: int, rate: int
) -> None:
    assume(capacity or rate)
    said = Hints(capacity_bytes=capacity, throughput_bytes_s=rate, latency=Latency.TOLERANT)
    need = Need(capacity, rate)
    decision = place(said, CATALOG, servers, {})
    if decision.shortages:
        return
    costs = tier_costs(CATALOG, infer(said, CATALOG), Rooms())
    by_id = {s.id: s for s in servers}
    cost = sum(n / SLOT_COUNT * costs[by_id[name].tier] for name, n in decision.slots.items())
    whole = [costs[s.tier] for s in servers if fits(need, s) >= 1]
    if whole:
        # A job that fits one server is on one, of those that cost least.
        assert len(decision.slots) == 1
        assert cost == pytest.approx(min(whole))
        return
    room = {tier: sum(fits(need, s) for s in servers if s.tier == tier) for tier in TIER_NAMES}
    best = min(_filled_in(order, room, costs) for order in permutations(TIER_NAMES))
    assert cost <= best + max(costs.values()) * len(servers) / SLOT_COUNT


def _filled_in(order: tuple[str, ...], room: dict[str, float], costs: dict[str, float]) -> float:
    missing, cost = 1.0, 0.0
    for tier in order:
        part = min(missing, room[tier])
        cost += part * costs[tier]
        missing -= part
    return cost


@given(some_servers(8, st.sampled_from(TIER_NAMES)), hints, st.booleans())
def test_a_placement_is_what_it_would_be_again(
    servers: list[Server], said: Hints, may_move: bool
) -> None:
    decision = place(said, CATALOG, servers, {})
    once_more = place(said, CATALOG, servers, {}, decision.slots, may_move=may_move)
    assert (once_more.slots, once_more.quotas) == (decision.slots, decision.quotas)


@given(some_servers(8, st.just("dram")), amounts, rates, st.data())
def test_no_more_moves_than_has_no_room_where_it_is(
    servers: list[Server], capacity: int, rate: int, data: st.DataObject
) -> None:
    need = Need(capacity, rate)
    owners = data.draw(st.lists(st.sampled_from(servers), min_size=1, unique_by=lambda s: s.id))
    cuts = sorted(data.draw(st.lists(st.integers(1, SLOT_COUNT - 1), max_size=len(owners) - 1)))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, SLOT_COUNT], strict=True)]
    held = {s.id: n for s, n in zip(owners, counts, strict=False) if n}
    said = Hints(capacity_bytes=capacity, throughput_bytes_s=rate)
    decision = place(said, CATALOG, servers, {}, held, may_move=True)
    assert sum(decision.slots.values()) == SLOT_COUNT
    by_id = {s.id: s for s in servers}
    excess = sum(max(0.0, n - fits(need, by_id[name]) * SLOT_COUNT) for name, n in held.items())
    assert moved(held, decision.slots) <= excess + len(held)
    # The map moves exactly what the weights demand.
    before = PlacementMap(
        "j",
        1,
        assign_slots(held, None),
        dict.fromkeys(held),
        {n: float(c) for n, c in held.items()},
    )
    after = assign_slots(decision.slots, before)
    owner = [r.server_id for r in after for _ in range(len(r))]
    kept = sum(owner[i] == before.owner(i) for i in range(SLOT_COUNT))
    assert SLOT_COUNT - kept == moved(held, decision.slots)


@given(some_servers(6, st.sampled_from(TIER_NAMES)), hints, st.data())
def test_asks_would_let_the_job_be_met(
    servers: list[Server], said: Hints, data: st.DataObject
) -> None:
    assume(said.capacity_bytes or said.throughput_bytes_s)
    supply = supply_of(CATALOG, servers, UNLIMITED)
    decision = place(said, CATALOG, servers, {}, supply=supply)
    offers = {offer.tier: offer for offer in supply.offers}
    assume(all(o.bandwidth_bytes_s and o.capacity_bytes for o in offers.values()))
    if any(s.resource in {"capacity", "throughput"} for s in decision.shortages):
        assert decision.asks
    bought = [
        server(
            f"new-{ask.tier}-{i}",
            ask.tier,
            capacity_bytes=offers[ask.tier].capacity_bytes,
            bandwidth_bytes_s=offers[ask.tier].bandwidth_bytes_s,
        )
        for ask in decision.asks
        for i in range(ask.servers)
    ]
    assume(len(bought) < 200)
    then = place(said, CATALOG, [*servers, *bought], {}, decision.slots, may_move=True)
    assert then.shortages == ()
