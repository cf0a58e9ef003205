"""Scaling on the cluster's state: from reports and jobs to plans, requests, drains and events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pocketkv.controller.errors import RefusedError
from pocketkv.controller.members import JobUsage, Report
from pocketkv.controller.messages import (
    Instruction,
    JobRegistered,
    Joined,
    ProcessDied,
    Reported,
    ServerDrained,
    StartServer,
    StopServer,
    Tick,
    TierScaled,
)
from pocketkv.controller.rates import Rates
from pocketkv.controller.state import ClusterState
from pocketkv.jobs import Latency
from pocketkv.scaling_rules import ScalingRules, TierRange
from tests.controller.builders import CATALOG, GIB, MIB, counted_ids, job, joining
from tests.controller.cluster import Cluster, events, of, served

BUSY = Report(cpu=0.95, used_bytes=100, keys=1, jobs={"default": JobUsage(100, 1, 1)})
IDLE = Report()


def scaled(least: int = 1, most: int = 3, servers: int = 1, **fields: Any) -> Cluster:
    rules = ScalingRules({"dram": TierRange(least, most)}, **{"down_after_s": 5.0, **fields})
    return served({"dram": servers}, rules)


def live(cluster: Cluster, reports: dict[str, Report], seconds: int) -> list[Instruction]:
    """Let time pass in which servers report, and what starts joins."""
    done: list[Instruction] = []
    for _ in range(seconds):
        for name in list(cluster.state.fleet.members):
            done += cluster(Reported(name, reports.get(name, IDLE)))
        for _ in range(4):
            done += (ticked := cluster(Tick(), 250))
            for start in of(StartServer, ticked):
                done += cluster(Joined(joining(start.server_id, start.tier)))
            done += cluster.carry_out_moves()
    return done


def test_a_tier_grows_and_shrinks_with_its_load() -> None:
    cluster = scaled()
    (first,) = cluster.state.fleet.members
    done = live(cluster, {first: BUSY}, 4)
    assert [start.tier for start in of(StartServer, done)] == ["dram"]
    assert cluster.state.fleet.wanted == {"dram": 2}
    assert "tier grows" in events(done)
    done = live(cluster, {}, 12)
    assert events(done).count("tier shrinks") == 1
    assert "server drained" in events(done)
    (stopped,) = of(StopServer, done)
    assert not stopped.force
    assert cluster.state.fleet.wanted == {"dram": 1}
    assert len(cluster.state.fleet.members) == 1
    assert cluster.slots().keys() == cluster.state.fleet.members.keys()
    # The process ends, and nothing is started in its place.
    done = cluster(ProcessDied(stopped.server_id, "exit status 0"))
    assert events(done) == ["server stopped"]
    assert of(StartServer, live(cluster, {}, 30)) == []


def test_why_is_an_event_with_figures() -> None:
    cluster = scaled()
    (first,) = cluster.state.fleet.members
    live(cluster, {first: BUSY}, 4)
    (event,) = [e for e in cluster.state.events.since(None, 100) if e.kind == "tier grows"]
    assert event.level == "info"
    assert event.fields == {
        "tier": "dram",
        "wanted": 2,
        "reason": "cpu is used 95% on 1 server, above 80%; 2 servers would be at 48%",
    }


def test_a_server_that_holds_what_does_not_fit_elsewhere_is_not_taken_away() -> None:
    cluster = scaled(servers=2)
    # It would fit, but only if nothing were kept free for what the other was promised.
    cluster(JobRegistered(job(capacity_bytes=GIB + GIB // 2)))
    done = live(cluster, {}, 40)
    assert of(StopServer, done) == []


def test_a_drain_outlives_the_controller() -> None:
    cluster = scaled(servers=2)
    while not cluster.state.drains:
        for name in list(cluster.state.fleet.members):
            cluster(Reported(name, IDLE))
        cluster(Tick(), 250)
    (leaving,) = cluster.state.drains
    cluster.restart()
    assert cluster.state.drains.keys() == {leaving}
    done = live(cluster, {}, 1)
    assert [stop.server_id for stop in of(StopServer, done)] == [leaving]
    assert cluster.state.fleet.wanted == {"dram": 1}


def test_a_server_that_dies_while_it_is_drained_is_no_longer_drained() -> None:
    cluster = scaled(servers=2)
    while not cluster.state.drains:
        for name in list(cluster.state.fleet.members):
            cluster(Reported(name, IDLE))
        cluster(Tick(), 250)
    (leaving,) = cluster.state.drains
    cluster(ProcessDied(leaving, "killed by SIGKILL"))
    assert cluster.state.drains == {}


def test_a_job_that_gets_too_little_has_servers_added_at_once() -> None:
    cluster = scaled(most=8)
    cluster(JobRegistered(job(capacity_bytes=3 * GIB)))
    assert cluster.state.tenants[job().id].shortages
    done = live(cluster, {}, 2)
    assert len(of(StartServer, done)) == 2
    assert cluster.state.tenants[job().id].shortages == ()
    assert sorted(cluster.slots(job().id)) == sorted(cluster.state.fleet.members)
    # It needs them for as long as it is there.
    assert of(StopServer, live(cluster, {}, 30)) == []


def test_of_the_tiers_that_a_job_takes_the_one_grows_that_costs_least() -> None:
    rules = ScalingRules({"dram": TierRange(1, 8), "hdd": TierRange(1, 8)}, down_after_s=5.0)
    cluster = served({"dram": 1, "hdd": 1}, rules)
    cluster(JobRegistered(job(capacity_bytes=4 * GIB, latency=Latency.TOLERANT)))
    assert cluster.state.tenants[job().id].shortages
    started = [start.tier for start in of(StartServer, live(cluster, {}, 3))]
    cheapest = min(("dram", "hdd"), key=lambda t: CATALOG.tier(t).server_price_per_hour)
    assert set(started) == {cheapest}
    assert cluster.state.tenants[job().id].shortages == ()


def test_a_tier_without_a_server_gets_one_for_a_job_that_asks_for_it() -> None:
    rules = ScalingRules({"nvme": TierRange(0, 2)}, down_after_s=5.0)
    cluster = served({"dram": 1}, rules)
    assert of(StartServer, live(cluster, {}, 10)) == []
    cluster(JobRegistered(job(tiers=("nvme",))))
    done = live(cluster, {}, 2)
    assert [start.tier for start in of(StartServer, done)] == ["nvme"]
    (reason,) = [
        e.fields["reason"] for e in cluster.state.events.since(None, 100) if e.kind == "tier grows"
    ]
    assert reason == "jobs need 1 server, the plan has 0"


def test_a_hot_server_is_relieved_by_moves_and_not_by_servers() -> None:
    cluster = scaled(servers=3)
    hot, *cool = sorted(cluster.state.fleet.members)
    done = []
    for second in range(8):
        usage = JobUsage(100, 1, commands=1000 * second)
        busy = Report(cpu=0.95, used_bytes=100, keys=1, jobs={"default": usage})
        done += live(cluster, {hot: busy}, 1)
    assert events(done).count("server is hot") == 1
    assert cluster.state.relieving.keys() == {hot}
    assert of(StartServer, done) == []
    assert "slots moved" in events(done)
    slots = cluster.slots()
    assert slots[hot] < min(slots[name] for name in cool)
    live(cluster, {}, 2)
    assert (cluster.state.relieving, cluster.state.hot) == ({}, frozenset())
    # It is not undone when it has helped.
    assert cluster.slots() == slots


def test_what_is_on_its_way_is_not_asked_for_twice() -> None:
    cluster = scaled(servers=2, most=4)
    for number in range(8):
        cluster(JobRegistered(job(number=number, capacity_bytes=60 * MIB)))
    leaving, _ = sorted(cluster.state.fleet.members)
    cluster(ServerDrained(leaving))
    assert cluster.moves()
    dram = next(view for view in cluster.state.tier_views() if view.tier == "dram")
    assert dram.asked == 1
    assert (dram.wanted, dram.leaving) == (2, 1)


def test_what_a_controller_has_scaled_its_successor_goes_on_with() -> None:
    cluster = scaled()
    (first,) = cluster.state.fleet.members
    live(cluster, {first: BUSY}, 4)
    cluster.restart()
    assert cluster.state.fleet.wanted == {"dram": 2}
    # It does not take servers for idle of which it has not heard.
    for _ in range(8):
        assert of(StopServer, cluster(Tick(), 250)) == []


def test_the_last_events_outlive_the_controller() -> None:
    cluster = scaled()
    (first,) = cluster.state.fleet.members
    live(cluster, {first: BUSY}, 4)
    before = [(e.id, e.kind) for e in cluster.state.events.since(None, 100)]
    cluster(Tick(), 1000)
    cluster.restart()
    after = [(e.id, e.kind) for e in cluster.state.events.since(None, 100)]
    # What came after the last thing that was remembered may be missing.
    assert after == before[: len(after)]
    assert "tier grows" in [kind for _, kind in after]


# --- TIER.SCALE of a tier that is scaled -------------------------------------------------------


def test_an_administrator_may_say_where_scaling_goes_on_from() -> None:
    cluster = scaled(most=3)
    done = cluster(TierScaled("dram", 3))
    assert len(of(StartServer, done)) == 2
    for start in of(StartServer, done):
        cluster(Joined(joining(start.server_id, start.tier)))
    assert of(StopServer, live(cluster, {}, 4)) == []
    live(cluster, {}, 40)
    assert cluster.state.fleet.wanted == {"dram": 1}


@pytest.mark.parametrize("count", [0, 4])
def test_but_not_beyond_its_limits(count: int) -> None:
    cluster = scaled()
    with pytest.raises(RefusedError, match="dram is scaled between 1 and 3 servers"):
        cluster(TierScaled("dram", count))
    assert cluster.state.fleet.wanted == {"dram": 1}


def test_nor_beyond_the_clusters() -> None:
    cluster = scaled(most=8, servers_max=5, cost_per_hour_max_usd=1.7)
    with pytest.raises(RefusedError, match="would have 6 servers, and 5 at most"):
        cluster(TierScaled("dram", 6))
    # At 0.40 USD a server of dram, and 0.60 of nvme, which is not scaled by itself.
    cluster(TierScaled("nvme", 1))
    cluster(TierScaled("dram", 2))
    with pytest.raises(RefusedError, match=r"would cost 2\.00 USD per hour, and 1\.70 at most"):
        cluster(TierScaled("nvme", 2))
    # What is less is always possible.
    cluster(TierScaled("nvme", 0))


# --- what the backend can stop -----------------------------------------------------------------


def test_the_backend_says_who_may_go() -> None:
    asked: list[Sequence[str]] = []

    def last_only(tier: str, servers: Sequence[str]) -> Sequence[str]:
        asked.append((tier, *servers))
        return servers[-1:]

    rules = ScalingRules({"dram": TierRange(1, 3)})
    state = ClusterState(
        CATALOG, counted_ids(), now_ms=0, plan={"dram": 3}, rules=rules, may_leave=last_only
    )
    for start in of(StartServer, state.handle(Tick(), 0)):
        state.handle(Joined(joining(start.server_id)), 0)
    dram, *_ = state.tier_views()
    assert [s.id for s in dram.servers if s.may_go] == ["dram-3"]
    assert asked[-1] == ("dram", "dram-1", "dram-2", "dram-3")


# --- rates -------------------------------------------------------------------------------------


def test_rates_come_of_two_reports_and_the_time_between_them() -> None:
    cluster = served({"dram": 1})
    (name,) = cluster.state.fleet.members
    cluster(Reported(name, Report(received_bytes=5 * MIB, sent_bytes=100)))
    assert cluster.state.fleet.members[name].rates.network_bytes_s == 0
    later = Report(
        received_bytes=7 * MIB, sent_bytes=200, disk_read_bytes=30, disk_written_bytes=50
    )
    cluster(Reported(name, later), 2_000)
    rates = cluster.state.fleet.members[name].rates
    assert (rates.received_bytes_s, rates.sent_bytes_s) == (MIB, 50)
    assert (rates.network_bytes_s, rates.disk_bytes_s) == (MIB, 40)
    # Two that come at once, after a pause, are no flood.
    cluster(Reported(name, Report(received_bytes=99 * MIB)), 1)
    assert cluster.state.fleet.members[name].rates == rates
    cluster(Reported(name, Report(received_bytes=9 * MIB)), 999)
    assert cluster.state.fleet.members[name].rates.received_bytes_s == 2 * MIB


def test_a_process_that_begins_anew_sends_nothing_back() -> None:
    rates = Rates().after(Report(sent_bytes=1000), 0).after(Report(sent_bytes=5), 1000)
    assert rates.sent_bytes_s == 0


def test_what_a_server_joined_anew_with_keeps_its_rates() -> None:
    cluster = served({"dram": 1})
    (name,) = cluster.state.fleet.members
    for total in (0, MIB):
        cluster(Reported(name, Report(sent_bytes=total)), 1000)
    cluster(Joined(joining(name)))
    assert cluster.state.fleet.members[name].rates.sent_bytes_s == MIB


def test_the_load_of_a_file_tier_has_its_disk_and_its_index() -> None:
    cluster = served({"nvme": 1})
    (name,) = cluster.state.fleet.members
    cluster(Reported(name, Report(index_bytes=30, memory_bytes=40, cpu=0.2, steal=0.5)))
    cluster(Reported(name, Report(disk_written_bytes=300 * MIB, memory_bytes=40, steal=0.5)), 1000)
    uses = next(v for v in cluster.state.tier_views() if v.tier == "nvme").uses
    assert uses == {"cpu": 0, "network": 0, "capacity": 0, "disk": 0.5, "index": 0}
    cluster(Reported(name, Report(index_bytes=30, memory_bytes=40, cpu=0.2, steal=0.5)), 1000)
    uses = next(v for v in cluster.state.tier_views() if v.tier == "nvme").uses
    assert uses["index"] == 0.75
    assert uses["cpu"] == pytest.approx(0.4)
