"""What the state machine tells policy of servers, and what it keeps of what policy says."""

from __future__ import annotations

import pytest

from pocketkv.controller import fleet
from pocketkv.controller.members import JobUsage, MemberError, Report
from pocketkv.controller.messages import (
    JobDeregistered,
    JobRegistered,
    JobUpdated,
    Joined,
    ProcessDied,
    Reported,
    Tick,
)
from pocketkv.controller.policy import Commitment, Condition, Resident, supply_of
from pocketkv.jobs import Hints
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import CATALOG, GIB, MIB, job, joining
from tests.controller.cluster import Cluster, two_servers


def condition(cluster: Cluster, name: str) -> Condition:
    cluster(Tick())
    return cluster.state.rooms[name].condition


def test_a_server_whose_medium_fails_gets_nothing_new() -> None:
    cluster = two_servers()
    before = cluster.slots()
    cluster(Reported("a", Report(medium_error="No space left on device")))
    assert condition(cluster, "a") is Condition.CLOSED
    one = job(capacity_bytes=MIB)
    cluster(JobRegistered(one))
    assert cluster.slots(one.id) == {"b": SLOT_COUNT}
    assert cluster.slots() == before
    cluster(Reported("a", Report()))
    assert condition(cluster, "a") is Condition.OPEN


def test_a_server_that_is_busy_for_some_reports_in_a_row_is_given_slots_last() -> None:
    cluster = two_servers()
    for _ in range(fleet.BUSY_REPORTS - 1):
        cluster(Reported("a", Report(cpu=0.9)))
    assert condition(cluster, "a") is Condition.OPEN
    cluster(Reported("a", Report(cpu=0.9)))
    assert condition(cluster, "a") is Condition.BUSY
    one = job(capacity_bytes=MIB)
    cluster(JobRegistered(one))
    assert cluster.slots(one.id) == {"b": SLOT_COUNT}
    cluster(Reported("a", Report(cpu=0.1)))
    assert condition(cluster, "a") is Condition.OPEN


def test_what_a_job_uses_beyond_what_it_keeps_is_not_free_for_others_but_for_itself() -> None:
    cluster = two_servers()
    greedy = job("greedy")
    cluster(JobRegistered(greedy))
    used = {greedy.id: JobUsage(GIB * 3 // 4)}
    for name in "ab":
        cluster(Reported(name, Report(used_bytes=GIB * 3 // 4, jobs=used)))
    other = job("other", number=1, capacity_bytes=GIB // 2)
    cluster(JobRegistered(other))
    assert cluster.slots(other.id).keys() == {"a", "b"}
    assert cluster.state.tenants[other.id].shortages == ()
    cluster(JobUpdated(greedy.id, Hints(capacity_bytes=GIB * 3 // 2)))
    assert cluster.state.tenants[greedy.id].shortages == ()
    third = job("third", number=2, capacity_bytes=MIB)
    cluster(JobRegistered(third))
    assert [s.resource for s in cluster.state.tenants[third.id].shortages] == ["capacity"]
    cluster(JobDeregistered(greedy.id))
    cluster(JobUpdated(third.id, Hints(capacity_bytes=2 * MIB)))
    assert cluster.state.tenants[third.id].shortages == ()


def test_servers_that_die_or_join_are_known_at_once() -> None:
    cluster = two_servers()
    cluster(Joined(joining("c", "nvme", machine_type="i4i.large")))
    cluster(Tick())
    assert set(cluster.state.rooms) == {"a", "b", "c"}
    assert cluster.state.rooms["c"].server.machine_type == "i4i.large"
    cluster(ProcessDied("a", "killed"))
    cluster(Tick())
    assert set(cluster.state.rooms) == {"b", "c"}
    cluster.restart()
    cluster(Tick())
    assert set(cluster.state.rooms) == {"b", "c"}


def test_a_job_that_lacks_something_asks_for_servers_and_is_looked_at_when_they_join() -> None:
    cluster = two_servers()
    state = cluster.state
    state.supply = supply_of(CATALOG, state.fleet.servers(), {"dram": 5})
    large = job(capacity_bytes=3 * GIB)
    cluster(JobRegistered(large))
    assert [(a.tier, a.servers) for a in state.tenants[large.id].asks] == [("dram", 1)]
    cluster(Joined(joining("c")))
    assert "c" in state.placements[large.id].weights


def test_a_job_is_shown_to_drains_as_it_is() -> None:
    cluster = two_servers()
    one = job(capacity_bytes=GIB)
    cluster(JobRegistered(one))
    (name,) = cluster.slots(one.id)
    expected = Resident(one.id, one.hints, {name: SLOT_COUNT}, {name: Commitment(GIB, 0, 1)})
    assert cluster.state.resident(one.id) == expected
    cluster(Reported(name, Report(jobs={one.id: JobUsage(2 * GIB)})))
    assert cluster.state.resident(one.id).own == {name: Commitment(2 * GIB, 0, 1)}


def test_a_machine_type_is_a_text_and_may_be_left_out() -> None:
    assert joining("a").machine_type == ""
    assert joining("a", machine_type=None).machine_type == ""
    for wrong in (7, ["r6i.large"], "x" * 300):
        with pytest.raises(MemberError, match="machine_type"):
            joining("a", machine_type=wrong)
