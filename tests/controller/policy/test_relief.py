from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.controller.policy import (
    NOTHING,
    Commitment,
    Condition,
    JobLoad,
    Relief,
    Resident,
    Rooms,
    ServerLoad,
    relieve,
)
from pocketkv.controller.policy.relief import HOT_MARK, MARGIN
from pocketkv.jobs import Hints
from pocketkv.placement import Server
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import GIB, MIB, server

HALF = SLOT_COUNT // 2
ALL = SLOT_COUNT
IDLE = ServerLoad()


def on(*slots: str, job: str = "j", own: dict[str, int] | None = None) -> Resident:
    part = ALL // len(slots)
    counts = dict.fromkeys(slots, part)
    counts[slots[0]] += ALL - part * len(slots)
    kept = {name: Commitment(amount) for name, amount in (own or {}).items()}
    return Resident(job, Hints(), counts, kept)


def load(**jobs: JobLoad) -> ServerLoad:
    found = jobs.values()
    return ServerLoad(
        sum(j.cpu for j in found),
        sum(j.bytes_s for j in found),
        sum(j.used_bytes for j in found),
        jobs,
    )


def relief(
    residents: list[Resident],
    loads: dict[str, ServerLoad],
    servers: list[Server] | None = None,
    **conditions: Condition,
) -> Relief:
    rooms = Rooms()
    for one in servers or [server(name) for name in loads]:
        taken = sum((r.own_on(one.id) for r in residents), NOTHING)
        rooms.put(one, taken, conditions.get(one.id, Condition.OPEN))
    return relieve(residents, loads, rooms)


def test_nothing_is_moved_while_nothing_is_hot() -> None:
    jobs = [on("a", "b")]
    assert relief(jobs, {"a": load(j=JobLoad(0.8)), "b": load(j=JobLoad(0.1))}) == Relief()


def test_a_job_on_several_servers_gives_as_many_slots_as_are_too_much() -> None:
    loads = {"a": load(j=JobLoad(0.9, 0, 100 * MIB)), "b": load(j=JobLoad(0.1, 0, MIB))}
    found = relief([on("a", "b")], loads)
    # From 0.9 to 0.7 is 2/9 of what a has of it.
    assert found.slots["j"]["a"] == pytest.approx(HALF * 7 / 9, abs=2)
    assert sum(found.slots["j"].values()) == ALL
    assert found.moving_bytes == pytest.approx(100 * MIB * 2 / 9, rel=0.01)
    assert found.unrelieved == {}


def test_what_takes_most_load_along_for_each_byte_goes_first() -> None:
    jobs = [on("a", job="heavy"), on("a", job="light"), on("a", job="idle")]
    loads = {
        "a": load(
            heavy=JobLoad(0.5, 0, 500 * MIB),
            light=JobLoad(0.4, 0, MIB),
            idle=JobLoad(0.0, 0, 10),
        ),
        "b": IDLE,
    }
    found = relief(jobs, loads)
    assert found.slots == {"light": {"b": ALL}}
    assert found.moving_bytes == MIB


def test_a_job_on_one_server_stays_on_one_unless_none_could_take_it() -> None:
    loads = {"a": load(j=JobLoad(0.6, 0, MIB), k=JobLoad(0.3, 0, GIB // 2)), "b": IDLE}
    assert relief([on("a"), on("a", job="k")], loads).slots == {"j": {"b": ALL}}
    alone = {"a": load(j=JobLoad(0.95, 0, MIB)), "b": IDLE, "c": IDLE}
    found = relief([on("a")], alone)
    assert set(found.slots["j"]) == {"a", "b"}
    assert found.unrelieved == {}


def test_network_and_capacity_make_a_server_hot_too() -> None:
    busy = {"a": load(j=JobLoad(0, 90 * MIB, MIB), k=JobLoad(0, 1, GIB // 2)), "b": IDLE}
    jobs = [on("a", "b"), on("a", "b", job="k")]
    assert set(relief(jobs, busy).slots) == {"j"}
    full = {"a": load(j=JobLoad(0.5, 0, MIB), k=JobLoad(0, 0, GIB * 9 // 10)), "b": IDLE}
    found = relief(jobs, full)
    assert set(found.slots) == {"k"}
    assert found.moving_bytes == pytest.approx(GIB * 0.2, rel=0.01)


def test_the_coolest_server_of_the_same_tier_takes_it() -> None:
    servers = [server(name) for name in "abcd"] + [server("n", "nvme")]
    hot = load(j=JobLoad(0.5, 0, MIB), k=JobLoad(0.4, 0, GIB // 2))
    loads = {"a": hot, "b": ServerLoad(0.3), "c": ServerLoad(0.1), "n": IDLE}
    jobs = [on("a"), on("a", job="k")]
    assert relief(jobs, loads, servers).slots == {"j": {"c": ALL}}
    # d has said nothing of itself, b is closed, c has not the room that j was promised.
    loads["c"] = ServerLoad(0.1)
    promised = [on("a", own={"a": 2 * GIB}), on("a", job="k", own={"c": GIB // 2, "a": GIB // 2})]
    found = relief(promised, loads, servers, b=Condition.CLOSED)
    assert found.slots.get("k") == {"c": ALL}
    nowhere = relief(jobs, {"a": hot, "n": IDLE}, servers)
    assert (nowhere.slots, nowhere.unrelieved) == ({}, {"a": "cpu"})


def test_what_stays_hot_is_named_with_what_it_lacks() -> None:
    loads = {"a": load(j=JobLoad(0.1, 99 * MIB, MIB)), "b": ServerLoad(0.69, 69 * MIB)}
    found = relief([on("a", "b")], loads)
    assert found.unrelieved == {"a": "network"}


def test_loads_are_shared_by_commands() -> None:
    found = ServerLoad.shared(0.8, 1000.0, 500, {"j": 30, "k": 10}, {"j": 200, "l": 300})
    assert found.jobs == {
        "j": JobLoad(0.8 * 0.75, 750.0, 200),
        "k": JobLoad(0.8 * 0.25, 250.0, 0),
        "l": JobLoad(0.0, 0.0, 300),
    }
    assert ServerLoad.shared(0.1, 0, 0, {"j": 0}, {}).jobs == {"j": JobLoad()}


parts = st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.9])
job_loads = st.builds(
    JobLoad, parts, parts.map(lambda p: p * 100 * MIB), parts.map(lambda p: int(p * GIB))
)


@given(st.integers(1, 6), st.integers(0, 8), st.data())
def test_relief_cools_what_is_hot_and_heats_nothing(
    size: int, count: int, data: st.DataObject
) -> None:
    names = [f"s{i}" for i in range(size)]
    residents = []
    loads: dict[str, dict[str, JobLoad]] = {name: {} for name in names}
    for number in range(count):
        owners = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        resident = on(*owners, job=f"j{number}")
        for name in owners:
            loads[name][resident.job_id] = data.draw(job_loads)
        own = {n: Commitment(loads[n][resident.job_id].used_bytes) for n in owners}
        residents.append(Resident(resident.job_id, Hints(), resident.slots, own))
    given_loads = {name: load(**jobs) for name, jobs in loads.items()}
    found = relief(residents, given_loads)

    before = {name: given_loads[name].parts(server(name)) for name in names}
    after = {name: list(before[name]) for name in names}
    by_id = {r.job_id: r for r in residents}
    for job_id, slots in found.slots.items():
        old = by_id[job_id].slots
        assert sum(slots.values()) == SLOT_COUNT
        given_away = {n: c - slots.get(n, 0) for n, c in old.items() if c > slots.get(n, 0)}
        # Only hot servers give.
        assert all(max(before[name]) > HOT_MARK for name in given_away)
    hot = {name for name in names if max(before[name]) > HOT_MARK}
    got = {
        name
        for job_id, slots in found.slots.items()
        for name, n in slots.items()
        if n > by_id[job_id].slots.get(name, 0)
    }
    assert not got & hot
    for job_id, slots in found.slots.items():
        _shifted(by_id[job_id], slots, loads, after)
    for name in got:
        assert max(after[name]) <= HOT_MARK - MARGIN + 0.01
    for name in hot - found.unrelieved.keys():
        assert max(after[name]) <= HOT_MARK + 0.01
    assert found.unrelieved.keys() <= hot
    # The order of what is given makes no difference.
    shuffled = dict(reversed(given_loads.items()))
    assert relief(residents[::-1], shuffled) == found


def _shifted(
    resident: Resident,
    slots: Mapping[str, int],
    loads: dict[str, dict[str, JobLoad]],
    after: dict[str, list[float]],
) -> None:
    """Have what a job's servers gave, load and all, arrive where its slots went."""
    givers = {n: c - slots.get(n, 0) for n, c in resident.slots.items() if c > slots.get(n, 0)}
    takers = {n: c - resident.slots.get(n, 0) for n, c in slots.items()}
    takers = {n: c for n, c in takers.items() if c > 0}
    total = sum(givers.values())
    for giver, given_away in givers.items():
        one = loads[giver][resident.job_id]
        part = given_away / resident.slots[giver]
        more = (one.cpu, one.bytes_s / (100 * MIB), one.used_bytes / GIB)
        for i in range(3):
            after[giver][i] -= more[i] * part
            if len(givers) == 1:
                for taker, taken in takers.items():
                    after[taker][i] += more[i] * part * taken / total
