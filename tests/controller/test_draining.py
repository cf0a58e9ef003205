"""Servers that are to go, and tiers that shrink."""

from __future__ import annotations

import pytest

from pocketkv.controller.errors import RefusedError
from pocketkv.controller.members import JobUsage, Report
from pocketkv.controller.messages import (
    DrainCancelled,
    Ended,
    JobDeregistered,
    JobRegistered,
    JobRetains,
    JobRetired,
    Joined,
    Left,
    Log,
    ProcessDied,
    Reported,
    SendUpdate,
    ServerDrained,
    SlotsMoved,
    StartServer,
    StopServer,
    Tick,
    TierScaled,
)
from pocketkv.controller.traffic import SERVER_MOVES_MAX
from pocketkv.placement import ServerState
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import GIB, MIB, job, joining
from tests.controller.cluster import Cluster, events, of, served, two_servers


def states(cluster: Cluster) -> dict[str, str]:
    return {s.id: s.state.value for s in cluster.state.fleet.servers()}


def holding(used_bytes: int, *job_ids: str) -> Report:
    jobs = {job_id: JobUsage(used_bytes, 10, 10) for job_id in job_ids}
    return Report(jobs=jobs, used_bytes=used_bytes * len(job_ids))


def test_a_managed_server_gives_everything_away_and_is_stopped_for_good() -> None:
    cluster = served({"dram": 3})
    leaving, *staying = sorted(cluster.slots())
    done = cluster(ServerDrained(leaving))
    assert "server draining" in events(done)
    assert states(cluster)[leaving] == "draining"
    assert {(m.source, m.target) for _, m in cluster.moves()} == {(leaving, s) for s in staying}
    assert of(StopServer, done) == []
    done = cluster.carry_out_moves()
    assert of(StopServer, done) == [StopServer(leaving)]
    assert "server drained" in events(done)
    assert cluster.slots() == dict.fromkeys(staying, SLOT_COUNT // 2)
    assert cluster.state.fleet.wanted == {"dram": 2}
    done = cluster(ProcessDied(leaving, "exit status 0"))
    assert of(StartServer, done) == []
    assert cluster.state.tenants["default"].lost_keys == 0


def test_a_server_that_holds_nothing_is_stopped_at_once() -> None:
    cluster = served({"dram": 1, "nvme": 1})
    assert of(StopServer, cluster(ServerDrained("nvme-2"))) == [StopServer("nvme-2")]


def test_one_that_we_did_not_start_stays_and_is_empty() -> None:
    cluster = two_servers()
    cluster(ServerDrained("a"))
    done = cluster.carry_out_moves()
    assert events(done).count("server drained") == 1
    assert (cluster.slots(), states(cluster)) == ({"b": SLOT_COUNT}, {"a": "draining", "b": "up"})
    assert "server drained" not in events(cluster(Tick(), 250))
    cluster.restart()
    assert "server drained" not in events(cluster(Tick(), 250))
    cluster(JobRegistered(job()))
    assert cluster.state.placements.jobs_naming("a") == []


def test_a_drain_goes_on_in_the_next_life_of_the_controller() -> None:
    cluster = two_servers()
    cluster(Reported("a", holding(GIB // 2, "default")))
    cluster(ServerDrained("a"))
    cluster.restart()
    cluster(Tick())
    cluster.carry_out_moves()
    assert cluster.slots() == {"b": SLOT_COUNT}
    drain = cluster.state.fleet.members["a"].drain
    assert drain is not None
    assert (drain.reason, drain.is_done) == ("asked for", True)


def test_the_last_server_is_not_drained() -> None:
    cluster = two_servers()
    cluster(ServerDrained("a"))
    with pytest.raises(RefusedError, match="no other server"):
        cluster(ServerDrained("b"))
    with pytest.raises(RefusedError, match="no such server"):
        cluster(ServerDrained("nobody"))


def test_what_was_promised_must_fit_on_those_that_stay() -> None:
    cluster = two_servers()
    sort = job(capacity_bytes=GIB + GIB // 2)
    cluster(JobRegistered(sort))
    with pytest.raises(RefusedError, match=r"too little room .* dram: 768mb to move, 256mb free"):
        cluster(ServerDrained("a"))
    assert states(cluster) == {"a": "up", "b": "up"}
    cluster(JobDeregistered(sort.id))
    cluster(ServerDrained("a"))


def test_what_is_used_must_fit_on_those_that_stay() -> None:
    cluster = two_servers()
    for name in "ab":
        cluster(Reported(name, holding(600 * MIB, "default")))
    with pytest.raises(RefusedError, match=r"too little room .* dram: 600mb to move, 424mb free"):
        cluster(ServerDrained("a"))
    # One that is told to end saves what it can.
    cluster(ServerDrained("a", leaves=True))
    assert cluster.moves()


def test_it_is_spread_evenly_over_those_that_stay() -> None:
    cluster = served({"dram": 4})
    leaving, *staying = sorted(cluster.slots())
    for number in range(30):
        cluster(JobRegistered(job(number=number, capacity_bytes=20 * MIB)))
    cluster(ServerDrained(leaving))
    cluster.carry_out_moves()
    committed = cluster.state.placements.committed
    kept = [committed[name].capacity_bytes for name in staying]
    assert leaving not in committed
    assert sum(kept) == pytest.approx(30 * 20 * MIB, rel=0.01)
    assert max(kept) - min(kept) <= 21 * MIB


def test_a_drain_that_is_given_up_leaves_what_is_on_its_way_and_fills_up_again() -> None:
    cluster = served({"dram": 2})
    leaving, staying = sorted(cluster.slots())
    cluster(ServerDrained(leaving))
    assert cluster.state.fleet.wanted == {"dram": 1}
    cluster(DrainCancelled(leaving))
    assert cluster.state.fleet.wanted == {"dram": 2}
    assert set(states(cluster).values()) == {"up"}
    cluster.carry_out_moves()
    assert cluster.slots() == {leaving: SLOT_COUNT // 2, staying: SLOT_COUNT // 2}
    with pytest.raises(RefusedError, match="is not draining"):
        cluster(DrainCancelled(leaving))


# --- servers that end by themselves ------------------------------------------------------------


def test_a_server_that_is_told_to_end_is_replaced_before_it_has_gone() -> None:
    cluster = served({"dram": 2})
    leaving, staying = sorted(cluster.slots())
    done = cluster(ServerDrained(leaving, "it was told to end", leaves=True))
    (start,) = of(StartServer, done)
    assert cluster.state.fleet.wanted == {"dram": 2}
    with pytest.raises(RefusedError, match="told to end"):
        cluster(DrainCancelled(leaving))
    cluster(Joined(joining(start.server_id)))
    done = cluster.carry_out_moves()
    assert StopServer(leaving) in done
    cluster(ProcessDied(leaving, "exit status 0"))
    assert cluster.slots() == {staying: SLOT_COUNT // 2, start.server_id: SLOT_COUNT // 2}
    assert cluster.state.tenants["default"].lost_keys == 0


def test_one_that_was_not_ours_is_forgotten_when_it_has_gone() -> None:
    cluster = two_servers()
    cluster(ServerDrained("a", leaves=True))
    cluster.carry_out_moves()
    assert "server left" in events(cluster(Left("a")))
    assert states(cluster) == {"b": "up"}
    assert "a" not in cluster.memory.servers


def test_one_that_ends_before_it_is_empty_has_lost_the_rest() -> None:
    cluster = two_servers()
    cluster(Reported("a", holding(GIB // 2, "default")))
    cluster(ServerDrained("a", leaves=True))
    cluster(Left("a"))
    cluster.tick_until(2_000)
    cluster(Reported("b", Report()))
    cluster.tick_until(1_500)
    assert cluster.slots() == {"b": SLOT_COUNT}
    assert cluster.state.tenants["default"].lost_keys == 10


def test_one_whose_time_is_over_tells_what_it_has_and_is_out_at_once() -> None:
    cluster = two_servers()
    cluster(Reported("a", holding(GIB // 2, "default")))
    # Who was not told to end cannot say so.
    assert not of(Log, cluster(Ended("a", Report())))
    cluster(ServerDrained("a", leaves=True))
    usage = JobUsage(used_bytes=1000, keys=3)
    done = cluster(Ended("a", Report(jobs={"default": usage})))
    (left,) = [log for log in of(Log, done) if log.event == "not everything was moved away in time"]
    assert left.fields == {"job": "default", "server": "a", "keys": 3, "bytes": 1000}
    assert cluster.slots() == {"b": SLOT_COUNT}
    assert cluster.state.tenants["default"].lost_keys == 3
    # Its process ends a little later, and nothing more comes of that.
    assert not of(SendUpdate, cluster(Left("a")))
    assert not of(SendUpdate, cluster(ProcessDied("a", "exit status 0")))
    assert not of(SendUpdate, cluster(Ended("a", Report())))
    assert cluster.state.tenants["default"].lost_keys == 3


def test_what_ends_soon_goes_before_what_only_moves() -> None:
    cluster = Cluster()
    for name in "abcd":
        cluster(Joined(joining(name)))
    for number in range(100):
        cluster(JobRegistered(job(number=number)))
    cluster.carry_out_moves()
    cluster(Joined(joining("e")))
    cluster(ServerDrained("a", leaves=True))
    rounds = 0
    while cluster.state.placements.jobs_on("a"):
        for job_id, move in cluster.moves():
            cluster(SlotsMoved(move.source, job_id, move.id))
        leaving = [move for _, move in cluster.moves() if move.source == "a"]
        left = len(cluster.state.placements.jobs_on("a"))
        assert len(leaving) >= min(SERVER_MOVES_MAX, left)
        rounds += 1
    assert rounds < 100


def test_one_that_had_nowhere_to_go_goes_on_when_there_is_somewhere() -> None:
    cluster = served({"dram": 2})
    sort = job(capacity_bytes=MIB)
    cluster(JobRegistered(sort))
    (owner,) = cluster.slots(sort.id)
    (other,) = cluster.slots().keys() - {owner}
    done = cluster(ServerDrained(owner, leaves=True))
    cluster(ProcessDied(other, "killed"))
    assert (cluster.slots(sort.id), cluster.moves()) == ({owner: SLOT_COUNT}, [])
    (start,) = of(StartServer, done)
    cluster(Joined(joining(start.server_id)))
    done = cluster.carry_out_moves()
    assert cluster.slots(sort.id) == {start.server_id: SLOT_COUNT}
    assert StopServer(owner) in done


def test_a_draining_server_that_was_started_anew_is_used_again() -> None:
    cluster = two_servers()
    cluster(ServerDrained("a"))
    cluster.carry_out_moves()
    cluster(Joined(joining("a", generation="2")))
    assert states(cluster)["a"] == "up"
    cluster.carry_out_moves()
    assert cluster.slots().keys() == {"a", "b"}


def test_a_draining_server_that_connects_anew_drains_on() -> None:
    cluster = two_servers()
    cluster(ServerDrained("a"))
    cluster(Left("a"))
    cluster(Joined(joining("a", epoch=cluster.state.epoch)))
    assert states(cluster)["a"] == ServerState.DRAINING.value


# --- tiers -------------------------------------------------------------------------------------


def test_a_tier_shrinks_by_the_server_that_holds_least() -> None:
    cluster = served({"dram": 3})
    names = sorted(cluster.slots())
    for name, used in zip(names, (300, 100, 200), strict=True):
        cluster(Reported(name, holding(used * MIB, "default")))
    cluster(TierScaled("dram", 2))
    assert [n for n, state in states(cluster).items() if state == "draining"] == [names[1]]
    done = cluster.carry_out_moves()
    assert of(StopServer, done) == [StopServer(names[1])]
    assert of(StartServer, done) == []


def test_a_tier_shrinks_at_once_by_servers_that_hold_nothing() -> None:
    cluster = served({"dram": 1})
    (start,) = of(StartServer, cluster(TierScaled("dram", 2)))
    done = cluster(TierScaled("dram", 1))
    assert of(StopServer, done) == [StopServer(start.server_id)]
    assert of(StartServer, cluster(ProcessDied(start.server_id, "status 0"))) == []


def test_a_tier_does_not_shrink_below_what_jobs_need() -> None:
    cluster = served({"dram": 2})
    with pytest.raises(RefusedError, match="dram cannot shrink to 0 servers: there is no other"):
        cluster(TierScaled("dram", 0))
    cluster(JobRegistered(job(capacity_bytes=GIB + MIB)))
    with pytest.raises(
        RefusedError, match=r"dram cannot shrink to 1 servers: .* 512.5mb to move, 511.5mb free"
    ):
        cluster(TierScaled("dram", 1))
    assert cluster.state.fleet.wanted == {"dram": 2}


def test_a_tier_that_grows_again_keeps_what_is_draining() -> None:
    cluster = served({"dram": 3})
    cluster(TierScaled("dram", 1))
    assert sorted(states(cluster).values()) == ["draining", "draining", "up"]
    assert of(StartServer, cluster(TierScaled("dram", 2))) == []
    assert sorted(states(cluster).values()) == ["draining", "up", "up"]
    cluster.carry_out_moves()
    assert len(cluster.slots()) == 2


# --- keys that jobs left -----------------------------------------------------------------------


def test_a_server_that_keeps_what_a_job_left_hands_it_to_another() -> None:
    cluster = Cluster()
    for name, tier in (("a", "dram"), ("b", "dram"), ("h", "hdd"), ("i", "ssd")):
        cluster(Joined(joining(name, tier)))
    sort = job(tiers=("dram",))
    cluster(JobRegistered(sort))
    cluster(JobRetains(sort.id))
    cluster(JobDeregistered(sort.id))
    for name in cluster.slots(sort.id):
        cluster(JobRetired(sort.id, name, "h", 5, 0))
    assert cluster.slots(sort.id) == {"h": SLOT_COUNT}
    cluster(ServerDrained("h"))
    placement = cluster.state.placements[sort.id]
    assert (placement.owners(), placement.retire_to) == (("h",), "i")
    assert "retained" in cluster.state.obstacle("h")
    done = cluster(JobRetired(sort.id, "h", "i", 10, 0))
    assert "server drained" in events(done)
    assert cluster.slots(sort.id) == {"i": SLOT_COUNT}
    assert cluster.state.tenants[sort.id].lost_keys == 0
    with pytest.raises(RefusedError, match="no other server with files"):
        cluster(ServerDrained("i"))


def test_a_server_that_reads_what_is_in_a_store_is_replaced_by_another_that_can() -> None:
    cluster = Cluster()
    store = "s3://bucket/kept"
    for name in "abc":
        cluster(Joined(joining(name, retain=store)))
    cluster.carry_out_moves()
    sort = job(capacity_bytes=MIB)
    cluster(JobRegistered(sort))
    cluster(JobRetains(sort.id))
    cluster(JobDeregistered(sort.id))
    for name in cluster.slots(sort.id):
        cluster(JobRetired(sort.id, name, store, 5, 0))
    (reader,) = cluster.slots(sort.id)
    cluster(ServerDrained(reader))
    (other,) = cluster.slots(sort.id)
    assert other != reader
    cluster.carry_out_moves()
    assert cluster.state.fleet.members[reader].drain is not None
    assert cluster.state.placements.jobs_naming(reader) == []
    cluster(ServerDrained(other))
    (last,) = cluster.slots(sort.id)
    assert last not in {reader, other}
    assert cluster.state.tenants[sort.id].lost_keys == 0
