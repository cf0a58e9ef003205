from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.catalog import TIER_NAMES
from pocketkv.controller.policy import (
    NOTHING,
    Commitment,
    Condition,
    DrainPlan,
    Resident,
    Rooms,
    plan_drain,
)
from pocketkv.jobs import Hints, Latency
from pocketkv.placement import Server, ServerState
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import CATALOG, GIB, MIB, server

HALF = SLOT_COUNT // 2
ALL = SLOT_COUNT


def resident(name: str, slots: dict[str, int], own: dict[str, int], **hints: Any) -> Resident:
    kept = {server_id: Commitment(amount, 0, 1) for server_id, amount in own.items()}
    return Resident(name, Hints(**hints), slots, kept)


def drain(
    leaving: str, servers: list[Server], *residents: Resident, **conditions: Condition
) -> DrainPlan:
    rooms = Rooms()
    for one in servers:
        taken = sum((r.own_on(one.id) for r in residents), NOTHING)
        rooms.put(one, taken, conditions.get(one.id, Condition.OPEN))
    return plan_drain(leaving.split(), residents, rooms, CATALOG)


def test_a_job_that_is_on_one_server_goes_to_one_that_is_least_full_then() -> None:
    servers = [server("a"), server("b"), server("c")]
    plan = drain(
        "a",
        servers,
        resident("j", {"a": ALL}, {"a": GIB // 2}),
        resident("other", {"b": ALL}, {"b": MIB}),
    )
    assert plan.fits
    assert plan.slots == {"j": {"c": ALL}}
    assert plan.moving_bytes == GIB // 2


def test_many_small_jobs_are_spread_evenly() -> None:
    servers = [server(name) for name in "abcde"]
    jobs = [resident(f"j{i}", {"a": ALL}, {"a": 10 * MIB}) for i in range(40)]
    plan = drain("a", servers, *jobs)
    counts = [sum(name in slots for slots in plan.slots.values()) for name in "bcde"]
    assert counts == [10, 10, 10, 10]


def test_a_job_on_several_servers_goes_to_those_that_it_is_on_already() -> None:
    servers = [server(name) for name in "abcd"]
    third = ALL // 3
    slots = {"a": ALL - 2 * third, "b": third, "c": third}
    plan = drain("a", servers, resident("j", slots, dict.fromkeys("abc", 100 * MIB)))
    assert set(plan.slots["j"]) == {"b", "c"}
    assert plan.slots["j"]["b"] == pytest.approx(HALF, abs=1)
    # Unless they have no room.
    full = resident("full", {"b": ALL}, {"b": GIB - 100 * MIB})
    more = resident("more", {"c": ALL}, {"c": GIB - 100 * MIB})
    plan = drain("a", servers, resident("j", slots, dict.fromkeys("abc", 100 * MIB)), full, more)
    assert plan.slots["j"]["d"] == slots["a"]


def test_what_fits_no_server_is_split_by_what_is_free() -> None:
    servers = [server("a"), server("b"), server("c")]
    filler = resident("filler", {"b": ALL}, {"b": GIB * 3 // 4})
    plan = drain("a", servers, resident("j", {"a": ALL}, {"a": GIB * 5 // 4}), filler)
    assert plan.slots["j"] == {"b": ALL // 5 + 1, "c": ALL - ALL // 5 - 1}


def test_a_single_slot_is_not_split() -> None:
    servers = [server(name) for name in "abcd"]
    slots = {"a": 1, "b": ALL - 1}
    full = resident("full", {"b": ALL}, {"b": GIB})
    plan = drain("a", servers, resident("j", slots, {"a": MIB}), full)
    assert plan.slots == {"j": {"b": ALL - 1, "c": 1}}


def test_a_drain_that_cannot_fit_says_what_there_is_and_what_is_free() -> None:
    servers = [server("a"), server("b")]
    filler = resident("filler", {"b": ALL}, {"b": GIB // 2})
    plan = drain("a", servers, resident("j", {"a": ALL}, {"a": GIB}, tiers=("dram",)), filler)
    assert not plan.fits
    assert plan.slots == {}
    assert plan.unplaced == ("j",)
    assert plan.reason == "dram: 1gb to move, 512mb free; 0b/s promised, 100mb/s free"


def test_promised_throughput_has_to_fit_too() -> None:
    own = {"a": Commitment(MIB, 90 * MIB, 1)}
    job = Resident("j", Hints(), {"a": ALL}, own)
    busy = Resident("k", Hints(), {"b": ALL}, {"b": Commitment(MIB, 50 * MIB, 1)})
    assert not drain("a", [server("a"), server("b")], job, busy).fits
    assert drain("a", [server("a"), server("b"), server("c")], job, busy).fits


def test_another_tier_is_taken_only_if_the_job_allows_it() -> None:
    servers = [server("a"), server("n", "nvme")]
    assert drain("a", servers, resident("j", {"a": ALL}, {"a": MIB})).slots == {"j": {"n": ALL}}
    for hints in ({"tiers": ("dram",)}, {"latency": Latency.SENSITIVE}):
        plan = drain("a", servers, resident("j", {"a": ALL}, {"a": MIB}, **hints))
        assert plan.unplaced == ("j",)
    back = drain("n", servers, resident("j", {"n": ALL}, {"n": MIB}, latency=Latency.SENSITIVE))
    assert back.slots == {"j": {"a": ALL}}


def test_servers_that_drain_or_take_no_writes_get_nothing() -> None:
    job = resident("j", {"a": ALL}, {"a": MIB})
    draining = server("b", state=ServerState.DRAINING)
    assert not drain("a", [server("a"), draining], job).fits
    assert not drain("a", [server("a"), server("b")], job, b=Condition.CLOSED).fits
    busy = drain("a", [server("a"), server("b"), server("c")], job, b=Condition.BUSY)
    assert busy.slots == {"j": {"c": ALL}}


def test_several_servers_leave_at_once() -> None:
    servers = [server(name) for name in "abc"]
    jobs = [
        resident("j", {"a": HALF, "b": HALF}, {"a": MIB, "b": MIB}),
        resident("k", {"c": ALL}, {"c": MIB}),
    ]
    assert drain("a b", servers, *jobs).slots == {"j": {"c": ALL}}
    assert not drain("a b c", servers, *jobs).fits
    assert drain("a b c", servers).fits


amounts = st.sampled_from([0, MIB, 100 * MIB, GIB // 2, GIB])


@st.composite
def clusters(draw: st.DrawFn, tiers: tuple[str, ...]) -> tuple[list[Server], list[Resident]]:
    """Servers, and jobs on them whose amounts are within what the servers have."""
    size = draw(st.integers(1, 7))
    servers = [
        server(f"s{i}", draw(st.sampled_from(tiers)), capacity_bytes=draw(amounts))
        for i in range(size)
    ]
    free = {s.id: s.capacity_bytes for s in servers}
    residents = []
    for number in range(draw(st.integers(0, 8))):
        owners = draw(st.lists(st.sampled_from(sorted(free)), min_size=1, max_size=3, unique=True))
        cuts = sorted(
            draw(
                st.sets(st.integers(1, ALL - 1), min_size=len(owners) - 1, max_size=len(owners) - 1)
            )
        )
        counts = [b - a for a, b in zip([0, *cuts], [*cuts, ALL], strict=True)]
        own = {}
        for name in owners:
            own[name] = min(free[name], draw(amounts))
            free[name] -= own[name]
        latency = draw(st.none() | st.sampled_from(Latency))
        slots = dict(zip(owners, counts, strict=True))
        residents.append(resident(f"j{number}", slots, own, latency=latency))
    return servers, residents


@given(clusters(TIER_NAMES), st.data())
def test_a_drain_leaves_nothing_behind_and_breaks_no_promise(
    cluster: tuple[list[Server], list[Resident]], data: st.DataObject
) -> None:
    servers, residents = cluster
    leaving = data.draw(st.lists(st.sampled_from([s.id for s in servers]), unique=True))
    plan = drain(" ".join(leaving), servers, *residents)
    affected = {r.job_id: r for r in residents if set(r.slots) & set(leaving)}
    if not plan.fits:
        assert set(plan.unplaced) <= affected.keys()
        assert plan.reason
        return
    assert plan.slots.keys() == affected.keys()
    taken = {s.id: sum((r.own_on(s.id) for r in residents), NOTHING) for s in servers}
    slack = dict.fromkeys(taken, 0)
    for job_id, slots in plan.slots.items():
        before = affected[job_id]
        assert sum(slots.values()) == SLOT_COUNT
        assert not set(slots) & set(leaving)
        # What is on servers that stay does not move.
        assert all(slots[n] >= count for n, count in before.slots.items() if n not in leaving)
        moving = sum((before.own_on(n) for n in before.slots if n in leaving), NOTHING)
        count = sum(n for name, n in before.slots.items() if name in leaving)
        for name, n in slots.items():
            more = n - before.slots.get(name, 0)
            taken[name] += Commitment(-(-moving.capacity_bytes * more // count))
            slack[name] += 2 * -(-moving.capacity_bytes // count)
    for one in servers:
        if one.id not in leaving:
            assert taken[one.id].capacity_bytes <= one.capacity_bytes + slack[one.id]
    assert drain(" ".join(reversed(leaving)), servers[::-1], *residents[::-1]) == plan


@given(clusters(("dram",)), st.data())
def test_what_fits_is_not_refused(
    cluster: tuple[list[Server], list[Resident]], data: st.DataObject
) -> None:
    """On one tier, what is to be moved fits exactly if there is as much free."""
    servers, residents = cluster
    names = [s.id for s in servers]
    leaving = data.draw(st.lists(st.sampled_from(names), max_size=len(names) - 1, unique=True))
    plan = drain(" ".join(leaving), servers, *residents)
    used = {s.id: sum(r.own_on(s.id).capacity_bytes for r in residents) for s in servers}
    moving = sum(used[name] for name in leaving)
    free = sum(s.capacity_bytes - used[s.id] for s in servers if s.id not in leaving)
    # A slot cannot be halved, so what fits to the byte may lack a few slots' worth.
    if moving + (SLOT_COUNT // 1000) * MIB <= free:
        assert plan.fits
    if moving > free:
        assert not plan.fits
