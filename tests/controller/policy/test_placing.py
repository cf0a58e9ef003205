from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.catalog import TIER_NAMES
from pocketkv.controller.policy import Commitment, Decision, commitments, place
from pocketkv.jobs import Hints, Latency
from pocketkv.placement import PlacementMap, Server, ServerState, assign_slots
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import CATALOG, GIB, MIB, server

HALF = SLOT_COUNT // 2
TWO = (server("a"), server("b"))
MIXED = (*TWO, server("n", "nvme"))


def decide(
    servers: tuple[Server, ...],
    committed: dict[str, Commitment] | None = None,
    held: dict[str, int] | None = None,
    **hints: Any,
) -> Decision:
    return place(Hints(**hints), CATALOG, servers, committed or {}, held)


def names(decision: Decision) -> set[str]:
    return set(decision.slots)


# --- tiers -------------------------------------------------------------------------------------


def test_a_job_without_hints_is_on_one_server_of_the_fastest_tier_without_quota() -> None:
    decision = decide(MIXED)
    assert decision.slots == {"a": SLOT_COUNT}
    assert decision.quotas == {"a": None}
    assert decision.shortages == ()
    busy = {"a": Commitment(0, 0, jobs=1)}
    assert decide(MIXED, busy).slots == {"b": SLOT_COUNT}


def test_a_job_without_hints_stays_on_as_many_servers_as_load_has_spread_it_over() -> None:
    assert decide(MIXED, held={"a": HALF, "b": HALF}).slots == {"a": HALF, "b": HALF}
    joined = (*MIXED, server("c"))
    assert decide(joined, held={"a": SLOT_COUNT}).slots == {"a": SLOT_COUNT}


def test_a_tolerant_job_spares_dram() -> None:
    assert names(decide(MIXED, latency=Latency.TOLERANT)) == {"n"}
    assert names(decide(TWO, latency=Latency.TOLERANT)) == {"a"}


def test_tiers_that_a_job_names_are_the_only_ones() -> None:
    assert names(decide(MIXED, tiers=("nvme",))) == {"n"}
    assert names(decide(MIXED, tiers=("nvme", "hdd"), capacity_bytes=5 * GIB)) == {"n"}


def test_without_a_server_of_an_allowed_tier_any_is_better_than_none() -> None:
    decision = decide(TWO, tiers=("hdd",))
    assert names(decision) == {"a"}
    assert [str(s) for s in decision.shortages] == ["servers: none of hdd is up"]


def test_a_job_that_dram_cannot_take_goes_to_the_next_tier_by_itself() -> None:
    servers = (*TWO, server("n", "nvme", capacity_bytes=10 * GIB))
    assert decide(servers, capacity_bytes=3 * GIB).slots == {"n": SLOT_COUNT}


def test_a_job_that_no_tier_can_take_alone_is_spread_over_several() -> None:
    servers = (*TWO, server("n", "nvme", capacity_bytes=2 * GIB))
    decision = decide(servers, capacity_bytes=4 * GIB)
    assert decision.shortages == ()
    assert decision.quotas == {"a": GIB, "b": GIB, "n": 2 * GIB}


def test_a_sensitive_job_does_not_spill_unless_it_says_so() -> None:
    need: dict[str, Any] = {"capacity_bytes": 3 * GIB, "latency": Latency.SENSITIVE}
    decision = decide(MIXED, **need)
    assert names(decision) == {"a", "b"}
    assert [s.resource for s in decision.shortages] == ["capacity"]
    assert names(decide(MIXED, **need, tiers=("dram", "nvme"))) == {"a", "b", "n"}


# --- which and how many ------------------------------------------------------------------------


def test_a_job_that_fits_one_server_is_on_one_with_its_capacity_as_quota() -> None:
    decision = decide(TWO, capacity_bytes=GIB)
    assert decision.slots == {"a": SLOT_COUNT}
    assert decision.quotas == {"a": GIB}


def test_the_least_committed_of_the_servers_that_suffice_is_taken() -> None:
    committed = {"a": Commitment(MIB, 0), "b": Commitment(0, MIB // 100)}
    assert names(decide(TWO, committed, capacity_bytes=MIB)) == {"b"}
    full = {"b": Commitment(GIB, 0)}
    assert names(decide(TWO, full, capacity_bytes=MIB)) == {"a"}


@pytest.mark.parametrize("parts", [2, 3, 5, 7, 16])
def test_servers_that_just_fit_are_enough(parts: int) -> None:
    servers = tuple(server(f"s{i:02}") for i in range(parts + 1))
    decision = decide(servers, capacity_bytes=parts * GIB)
    assert len(decision.slots) == parts
    assert decision.shortages == ()
    assert all((quota or 0) <= GIB for quota in decision.quotas.values())


def test_throughput_takes_as_many_servers_as_have_it() -> None:
    decision = decide(TWO, throughput_bytes_s=150 * MIB)
    assert decision.slots == {"a": HALF, "b": HALF}
    assert decision.quotas == {"a": None, "b": None}
    assert names(decide(TWO, throughput_bytes_s=100 * MIB)) == {"a"}
    assert names(decide(TWO, lambdas=1)) == {"a"}
    assert names(decide(TWO, lambdas=2)) == {"a", "b"}


def test_slots_are_even_as_far_as_each_has_room() -> None:
    servers = (server("a", capacity_bytes=GIB), server("b", capacity_bytes=3 * GIB))
    decision = decide(servers, capacity_bytes=4 * GIB)
    assert decision.slots == {"a": SLOT_COUNT // 4, "b": 3 * SLOT_COUNT // 4}


# --- too little --------------------------------------------------------------------------------


def test_what_is_short_is_told_and_others_keep_what_they_were_promised() -> None:
    decision = decide(TWO, {"a": Commitment(GIB // 2, 0)}, capacity_bytes=3 * GIB)
    assert decision.quotas == {"a": GIB // 2, "b": GIB}
    assert [str(s) for s in decision.shortages] == ["capacity: 3gb wanted, 1.5gb free on dram"]


def test_with_nothing_free_a_job_is_placed_all_the_same() -> None:
    decision = decide(TWO, dict.fromkeys("ab", Commitment(GIB, 0)), capacity_bytes=MIB)
    assert decision.slots == {"a": SLOT_COUNT}
    assert decision.quotas == {"a": 0}


def test_throughput_that_is_not_there_is_told() -> None:
    decision = decide(TWO, throughput_bytes_s=400 * MIB)
    assert [s.resource for s in decision.shortages] == ["throughput"]
    assert decision.slots == {"a": HALF, "b": HALF}


def test_without_servers_there_is_no_placement() -> None:
    decision = decide(())
    assert decision.slots == {}
    assert [s.resource for s in decision.shortages] == ["servers"]


# --- slots that are held -----------------------------------------------------------------------


def test_held_slots_stay_and_the_rest_comes_to_them() -> None:
    servers = (server("b"), server("c"))
    assert decide(servers, held={"b": HALF}).slots == {"b": SLOT_COUNT}
    assert decide(servers, held={"b": SLOT_COUNT}).slots == {"b": SLOT_COUNT}


def test_a_job_that_loses_a_server_stays_on_the_others_if_they_can_take_it() -> None:
    servers = (server("b"), server("c"))
    decision = decide(servers, held={"b": HALF}, capacity_bytes=GIB)
    assert decision.slots == {"b": SLOT_COUNT}
    decision = decide(servers, held={"b": HALF}, capacity_bytes=2 * GIB)
    assert decision.slots == {"b": HALF, "c": HALF}


def test_a_draining_server_keeps_what_it_holds_and_gets_no_more() -> None:
    servers = (server("a"), server("b", state=ServerState.DRAINING))
    assert decide(servers).slots == {"a": SLOT_COUNT}
    assert decide(servers, held={"b": 100}).slots == {"a": SLOT_COUNT - 100, "b": 100}
    held = decide(servers, held={"b": 100}, capacity_bytes=GIB)
    assert held.slots == {"a": SLOT_COUNT - 100, "b": 100}
    too_much = decide(servers, held={"b": 100}, capacity_bytes=9 * GIB)
    assert too_much.slots == {"a": SLOT_COUNT - 100, "b": 100}


def test_when_all_drain_they_serve_on() -> None:
    servers = (server("a", state=ServerState.DRAINING),)
    assert decide(servers).slots == {"a": SLOT_COUNT}


# --- always ------------------------------------------------------------------------------------

amounts = st.sampled_from([0, 1, MIB, 100 * MIB, GIB, 3 * GIB + 1, 50 * GIB])
servers_lists = st.lists(
    st.builds(
        server,
        st.uuids().map(str),
        st.sampled_from(TIER_NAMES),
        capacity_bytes=amounts,
        bandwidth_bytes_s=amounts,
        state=st.sampled_from([ServerState.UP, ServerState.UP, ServerState.DRAINING]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda s: s.id,
)
hints = st.builds(
    Hints,
    lambdas=st.none() | st.integers(0, 50),
    capacity_bytes=st.none() | amounts,
    throughput_bytes_s=st.none() | amounts,
    latency=st.none() | st.sampled_from(Latency),
    tiers=st.none() | st.lists(st.sampled_from(TIER_NAMES), min_size=1, unique=True).map(tuple),
)


@given(hints, servers_lists, st.data())
def test_every_decision_covers_all_slots_and_breaks_no_promise(
    said: Hints, servers: list[Server], data: st.DataObject
) -> None:
    committed = {
        s.id: Commitment(data.draw(amounts), data.draw(amounts))
        for s in servers
        if data.draw(st.booleans())
    }
    owners = data.draw(st.lists(st.sampled_from(servers), unique_by=lambda s: s.id))
    held = {s.id: data.draw(st.integers(1, SLOT_COUNT // len(owners))) for s in owners}
    decision = place(said, CATALOG, servers, committed, held)

    assert sum(decision.slots.values()) == SLOT_COUNT
    assert all(decision.slots[name] >= n for name, n in held.items())
    assert decision.quotas.keys() == decision.slots.keys()
    by_id = {s.id: s for s in servers}
    for name, quota in decision.quotas.items():
        if quota is None:
            assert not said.capacity_bytes
        else:
            free = by_id[name].capacity_bytes - committed.get(name, Commitment()).capacity_bytes
            assert 0 <= quota <= max(0, free)
    if said.capacity_bytes and not any(s.resource == "capacity" for s in decision.shortages):
        slack = -(-said.capacity_bytes // SLOT_COUNT) * len(servers)
        assert sum(q or 0 for q in decision.quotas.values()) >= said.capacity_bytes - slack
    if any(s.state is ServerState.UP for s in servers):
        gained = {name for name, n in decision.slots.items() if n > held.get(name, 0)}
        assert all(by_id[name].state is ServerState.UP for name in gained)
    # The order of what is given makes no difference.
    assert place(said, CATALOG, servers[::-1], committed, held) == decision
    # What comes of it is what the commitments say.
    placement = PlacementMap(
        "j", 1, assign_slots(decision.slots, None), decision.quotas, decision.slots
    )
    kept = commitments(said, CATALOG, placement)
    assert {n: k.capacity_bytes for n, k in kept.items()} == {
        n: q or 0 for n, q in decision.quotas.items()
    }


@given(hints, servers_lists)
def test_what_a_job_holds_is_what_it_would_be_given_again(
    said: Hints, servers: list[Server]
) -> None:
    decision = place(said, CATALOG, servers, {})
    again = place(said, CATALOG, servers, {}, decision.slots)
    assert (again.slots, again.quotas) == (decision.slots, decision.quotas)
