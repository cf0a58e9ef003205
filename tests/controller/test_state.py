"""The state machine, one event after the other."""

from __future__ import annotations

import dataclasses
import itertools
import logging

import pytest

from pocketkv.controller import fleet as fleets
from pocketkv.controller import state as states
from pocketkv.controller.errors import RefusedError, SnapshotError, UnknownJobError
from pocketkv.controller.members import JobUsage, Report
from pocketkv.controller.messages import (
    Instruction,
    JobConfigured,
    JobDeregistered,
    JobRegistered,
    JobRenewed,
    JobUpdated,
    Joined,
    Left,
    Log,
    Persist,
    ProcessDied,
    Reported,
    SendUpdate,
    Snapshot,
    StartServer,
    StopServer,
    Tick,
    TierScaled,
    UserSet,
    UsersRemoved,
    WatchServer,
)
from pocketkv.controller.state import ClusterState
from pocketkv.engine import handlers
from pocketkv.engine.users import user_of
from pocketkv.jobs import Hints, Job
from pocketkv.limits import TERMS_BYTES_MAX
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import CATALOG, GIB, MIB, counted_ids, job, joining, router
from tests.controller.cluster import Cluster, events, of, served, two_servers

__all__ = ["handlers"]  # Rules of users name commands.

# --- servers -----------------------------------------------------------------------------------


def test_the_plan_is_requested_at_once_and_only_once() -> None:
    cluster = Cluster({"dram": 2, "nvme": 1})
    starts = of(StartServer, cluster(Tick()))
    assert sorted(s.tier for s in starts) == ["dram", "dram", "nvme"]
    assert of(StartServer, cluster(Tick())) == []


def test_jobs_wait_for_the_plan_and_then_go_over_all_of_it() -> None:
    cluster = Cluster({"dram": 2})
    first, second = of(StartServer, cluster(Tick()))
    cluster(Joined(joining(first.server_id)))
    assert cluster.slots() == {}
    cluster(Joined(joining(second.server_id)))
    assert sorted(cluster.slots().values()) == [SLOT_COUNT // 2] * 2


def test_a_plan_that_does_not_come_true_is_not_waited_for_for_ever() -> None:
    cluster = Cluster({"dram": 2})
    first, _ = of(StartServer, cluster(Tick()))
    cluster(Joined(joining(first.server_id)))
    for _ in range(1 + states.START_GRACE_MS // 500):
        cluster(Reported(first.server_id, Report()))
        cluster(Tick(), 500)
    assert cluster.slots() == {first.server_id: SLOT_COUNT}


def test_a_report_does_not_swallow_what_is_due_meanwhile() -> None:
    # Reports are taken without instructions being carried out: nothing but logs may come of them.
    cluster = served({"dram": 1, "nvme": 1})
    dram, nvme = sorted(cluster.state.fleet.members)
    for _ in range(2):
        done = cluster(ProcessDied(dram, "exit status 1"))
        for start in of(StartServer, done):
            dram = start.server_id
            cluster(Joined(joining(dram)))
    assert cluster(Reported(nvme, Report()), fleets.PAUSE_MIN_MS) == []
    assert len(of(StartServer, cluster(Tick()))) == 1


def test_a_server_that_died_is_replaced_and_its_slots_go_to_the_others() -> None:
    cluster = served({"dram": 2})
    dead, survivor = sorted(cluster.slots())
    cluster(Reported(dead, Report(jobs={"default": JobUsage(100, 7, 9)})))
    epoch = cluster.state.epoch
    done = cluster(ProcessDied(dead, "killed by SIGKILL"))
    assert cluster.slots() == {survivor: SLOT_COUNT}
    assert cluster.state.epoch == epoch + 1
    (lost,) = [log for log in of(Log, done) if log.event == "data lost"]
    assert (lost.fields["keys"], lost.level) == (7, logging.ERROR)
    assert cluster.state.tenants["default"].lost_keys == 7
    (start,) = of(StartServer, done)
    assert start.tier == "dram"
    assert start.server_id not in {dead, survivor}


def test_what_died_together_with_the_controller_is_counted() -> None:
    cluster = served({"dram": 2})
    dead, survivor = sorted(cluster.slots())
    for server in (dead, survivor):
        cluster(Reported(server, Report(jobs={"default": JobUsage(100, 100, 9)})))
    cluster(Tick(), 250)
    cluster.restart()
    cluster(Joined(joining(survivor)))
    (lost,) = [
        log
        for log in of(Log, cluster(ProcessDied(dead, "it has ended")))
        if log.event == "data lost"
    ]
    assert (lost.fields["keys"], lost.level) == (100, logging.ERROR)
    assert cluster.state.tenants["default"].lost_keys == 100


def test_counts_are_remembered_when_they_have_become_others() -> None:
    cluster = served({"dram": 1})
    (server,) = cluster.slots()

    def written(keys: int, retained: int = 0) -> bool:
        usage = JobUsage(100, keys, 9, retained)
        cluster(Reported(server, Report(jobs={"default": usage})))
        return server in of_servers(cluster(Tick(), 250))

    def of_servers(done: list[Instruction]) -> set[str]:
        return {name for persist in of(Persist, done) for name in persist.servers}

    counts = [1, 1, 2, 1000, 1001, 1100, 1112, 1000, 0, 0]
    changed = [True, False, True, True, False, False, True, True, True, False]
    assert [written(keys) for keys in counts] == changed
    assert written(0, 1)
    assert not written(0, 1)
    # Nothing is written where nobody reports.
    assert not of(Persist, cluster(Tick(), 250))


def test_counts_are_remembered_as_often_as_the_backend_bears() -> None:
    state = ClusterState(
        CATALOG,
        counted_ids(),
        now_ms=0,
        plan={},
        traits=fleets.BackendTraits(count_interval_ms=1_000),
    )
    state.handle(Joined(joining("a")), 0)
    written = []
    for now_ms in range(0, 4_000, 250):
        usage = JobUsage(100, 2 ** now_ms.bit_length(), 9)
        state.handle(Reported("a", Report(jobs={"default": usage})), now_ms)
        if of(Persist, state.handle(Tick(), now_ms)):
            written.append(now_ms)
    assert written == [1_000, 2_000, 3_000]


def test_what_nobody_has_counted_is_said_to_be_unknown() -> None:
    cluster = served({"dram": 2})
    dead, _ = sorted(cluster.slots())
    cluster.restart()
    (lost,) = [
        log
        for log in of(Log, cluster(ProcessDied(dead, "it has ended")))
        if log.event == "data lost"
    ]
    assert (lost.fields["keys"], lost.level) == ("unknown", logging.ERROR)
    assert cluster.state.tenants["default"].lost_keys == 0


def test_the_next_to_die_gives_its_slots_to_the_replacement() -> None:
    cluster = served({"dram": 2})
    first, second = sorted(cluster.slots())
    (start,) = of(StartServer, cluster(ProcessDied(first, "killed")))
    cluster(Joined(joining(start.server_id)))
    cluster(ProcessDied(second, "killed"))
    assert cluster.slots() == {start.server_id: SLOT_COUNT}


def test_when_the_last_server_dies_jobs_wait_for_another() -> None:
    cluster = served({"dram": 1})
    (only,) = cluster.slots()
    (start,) = of(StartServer, cluster(ProcessDied(only, "killed")))
    assert cluster.slots() == {}
    cluster(Joined(joining(start.server_id)))
    assert cluster.slots() == {start.server_id: SLOT_COUNT}


def test_servers_that_keep_dying_young_are_started_with_longer_and_longer_pauses() -> None:
    cluster = served({"dram": 1})
    starts = [cluster.now_ms]
    pending = of(StartServer, cluster(ProcessDied("dram-1", "status 2")))
    while len(starts) < 6:
        for start in pending:
            starts.append(cluster.now_ms)
            cluster(ProcessDied(start.server_id, "status 2"))
        pending = of(StartServer, cluster(Tick(), 100))
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses == [0, 500, 1000, 2000, 4000]


def test_a_server_that_does_not_join_is_given_up() -> None:
    cluster = Cluster({"dram": 1})
    (start,) = of(StartServer, cluster(Tick()))
    done = cluster.tick_until(fleets.START_TIMEOUT_MS + 500)
    assert StopServer(start.server_id, force=True) in done
    assert len(of(StartServer, done)) == 1
    with pytest.raises(RefusedError):
        cluster(Joined(joining(start.server_id)))


def test_a_silent_server_is_out_and_its_process_is_killed() -> None:
    cluster = served({"dram": 2})
    silent, other = sorted(cluster.slots())
    done: list[Instruction] = []
    for _ in range(states.SILENCE_MS // 500 + 1):
        cluster(Reported(other, Report()))
        done += cluster(Tick(), 500)
    assert cluster.slots() == {other: SLOT_COUNT}
    assert StopServer(silent, force=True) in done
    with pytest.raises(RefusedError):
        cluster(Joined(joining(silent)))
    cluster(ProcessDied(silent, "killed by SIGKILL"))


def test_a_lone_server_that_we_did_not_start_keeps_its_slots_while_it_is_silent() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    cluster.tick_until(3 * states.SILENCE_MS)
    assert cluster.slots() == {"a": SLOT_COUNT}


def test_a_controller_that_stood_still_blames_nobody() -> None:
    cluster = two_servers()
    done = cluster(Tick(), 60_000)
    assert cluster.slots().keys() == {"a", "b"}
    assert "the controller stood still" in events(done)


def test_a_server_that_comes_back_is_what_it_was() -> None:
    cluster = two_servers()
    before, epoch = cluster.slots(), cluster.state.epoch
    cluster(Left("a"))
    done = cluster(Joined(joining("a", epoch=epoch)))
    assert (cluster.slots(), cluster.state.epoch) == (before, epoch)
    assert of(SendUpdate, done) == []


def test_a_server_that_was_started_anew_has_lost_its_data_and_keeps_its_slots() -> None:
    cluster = two_servers()
    cluster(Reported("a", Report(jobs={"default": JobUsage(100, 5, 5)})))
    done = cluster(Joined(joining("a", generation="2", port=7001)))
    assert "data lost" in events(done)
    assert cluster.slots().keys() == {"a", "b"}
    (update,) = of(SendUpdate, done)
    assert {s.port for s in update.update.servers or ()} == {7000, 7001}


def test_a_member_that_knows_a_newer_epoch_makes_all_maps_newer() -> None:
    cluster = two_servers()
    done = cluster(Joined(router(epoch=500)))
    assert cluster.state.epoch == 501
    (update,) = of(SendUpdate, done)
    assert [p.epoch for p in update.update.placements] == [501]


# --- jobs --------------------------------------------------------------------------------------


def test_a_job_is_remembered_told_and_placed() -> None:
    cluster = two_servers()
    sort = job(capacity_bytes=MIB)
    done = cluster(JobRegistered(sort))
    assert [type(i) for i in done if not isinstance(i, Log)] == [Persist, SendUpdate]
    (update,) = of(SendUpdate, done)
    assert [p.job_id for p in update.update.placements] == [sort.id]
    assert update.update.servers is None
    assert sum(cluster.slots(sort.id).values()) == SLOT_COUNT
    with pytest.raises(RefusedError, match="is taken"):
        cluster(JobRegistered(sort))


def test_the_users_of_a_job_are_remembered_and_told_and_end_with_it() -> None:
    cluster = two_servers()
    sort = job()
    cluster(JobRegistered(sort))
    rules = (b"on", b">secret", b"~a*", b"+get")
    done = cluster(UserSet(sort.id, "alice", rules, b"resetchannels"))
    assert [type(i) for i in done if not isinstance(i, Log)] == [Persist, SendUpdate]
    (update,) = of(SendUpdate, done)
    (terms,) = update.update.terms
    assert update.update.placements == ()
    assert (terms.job_id, terms.epoch) == (sort.id, cluster.state.epoch)
    assert "secret" not in terms.users["alice"]
    assert user_of("alice", terms.users["alice"]).accepts(b"secret")
    # What comes later adds to it, also in another life of the controller.
    cluster.restart()
    assert cluster.state.full_update().terms == (terms,)
    cluster(UserSet(sort.id, "alice", (b"~b*",), b"allchannels"))
    (changed,) = cluster.state.full_update().terms
    assert user_of("alice", changed.users["alice"]).selectors[0].keys_text() == b"~a* ~b*"
    assert user_of("alice", changed.users["alice"]).selectors[0].channels_text() == b""
    assert cluster(UsersRemoved(sort.id, ("nobody",))) == []
    cluster(UsersRemoved(sort.id, ("alice",)))
    assert cluster.state.full_update().terms[0].users == {}
    cluster(JobConfigured(sort.id, {"notify-keyspace-events": "KEA"}))
    assert cluster.state.full_update().terms[0].settings == {"notify-keyspace-events": "KEA"}
    cluster(JobDeregistered(sort.id))
    assert cluster.state.full_update().terms == ()
    with pytest.raises(UnknownJobError):
        cluster(UserSet(sort.id, "alice", ()))


def test_a_user_that_cannot_be_changes_nothing() -> None:
    cluster = two_servers()
    before = cluster.state.epoch
    for rules in ((b"nonsense",), (b"~" + b"x" * TERMS_BYTES_MAX,)):
        with pytest.raises(RefusedError, match="the user cannot be so"):
            cluster(UserSet("default", "alice", rules))
    assert cluster.state.epoch == before


def test_a_member_that_knows_newer_terms_is_told_what_is_true() -> None:
    cluster = two_servers()
    cluster(UserSet("default", "alice", (b"on",)))
    cluster(Joined(joining("c", epoch=1000)))
    (terms,) = cluster.state.full_update().terms
    assert terms.epoch == cluster.state.epoch > 1000


def test_jobs_share_what_there_is_and_get_it_back() -> None:
    cluster = two_servers()
    first, second = (job(number=n, capacity_bytes=GIB) for n in (1, 2))
    third = job(number=3, capacity_bytes=GIB)
    cluster(JobRegistered(first))
    cluster(JobRegistered(second))
    assert cluster.slots(first.id).keys() != cluster.slots(second.id).keys()
    assert "job gets too little" in events(cluster(JobRegistered(third)))
    cluster(JobDeregistered(first.id))
    fourth = job(number=4, capacity_bytes=GIB)
    cluster(JobDeregistered(third.id))
    assert "job gets too little" not in events(cluster(JobRegistered(fourth)))
    assert "job gets too little" in events(cluster(JobRegistered(third)))


def test_a_deregistered_job_is_gone() -> None:
    cluster = two_servers()
    sort = job()
    cluster(JobRegistered(sort))
    (update,) = of(SendUpdate, cluster(JobDeregistered(sort.id)))
    assert update.update.ended == (sort.id,)
    assert sort.id not in cluster.memory.jobs
    assert sort.id not in cluster.memory.placements
    for event in (JobDeregistered(sort.id), JobRenewed(sort.id), JobUpdated(sort.id, Hints())):
        with pytest.raises(UnknownJobError):
            cluster(event)


def test_the_job_default_neither_ends_nor_changes() -> None:
    cluster = two_servers()
    with pytest.raises(RefusedError):
        cluster(JobDeregistered("default"))
    with pytest.raises(RefusedError):
        cluster(JobUpdated("default", Hints(lambdas=1)))


def test_a_lease_that_is_not_renewed_ends_the_job() -> None:
    cluster = two_servers()
    sort = job(now_ms=cluster.now_ms, lease_s=10)
    cluster(JobRegistered(sort))
    cluster(Tick(), 9_000)
    cluster(JobRenewed(sort.id))
    cluster(Tick(), 9_000)
    assert sort.id in cluster.state.tenants
    done = cluster(Tick(), 1_000)
    assert sort.id not in cluster.state.tenants
    assert "job ended" in events(done)


def test_an_update_that_fits_changes_quotas_and_moves_nothing() -> None:
    cluster = two_servers()
    sort = job(capacity_bytes=MIB)
    cluster(JobRegistered(sort))
    before = cluster.slots(sort.id)
    (owner,) = before
    cluster(JobUpdated(sort.id, Hints(capacity_bytes=GIB)))
    assert (cluster.slots(sort.id), cluster.moves()) == (before, [])
    assert cluster.state.placements[sort.id].quotas == {owner: GIB}


def test_a_job_costs_what_it_keeps_or_what_it_uses() -> None:
    cluster = two_servers()
    keeps, uses = job("keeps", number=1, capacity_bytes=GIB), job("uses", number=2)
    cluster(JobRegistered(keeps))
    cluster(JobRegistered(uses))
    hour_ms = 3_600_000

    def cost(one: Job) -> float:
        return cluster.state.tenants[one.id].account.total(cluster.now_ms)

    assert (cost(keeps), cost(uses)) == (0, 0)
    cluster(Reported("a", Report(jobs={uses.id: JobUsage(used_bytes=2 * GIB)})))
    cluster(Tick(), hour_ms)
    # A dram server of the test's catalog has 4 GiB and costs 0.4 an hour.
    assert cost(keeps) == pytest.approx(0.1)
    assert cost(uses) == pytest.approx(0.2)
    cluster(Reported("a", Report(jobs={uses.id: JobUsage(used_bytes=0)})))
    cluster.restart()
    cluster(Tick(), hour_ms)
    assert cost(keeps) == pytest.approx(0.2)


# --- administration ----------------------------------------------------------------------------


def test_scaling_needs_a_backend() -> None:
    with pytest.raises(RefusedError, match="starts no servers"):
        two_servers()(TierScaled("dram", 3))


def test_a_tier_that_shrinks_before_it_has_grown_stops_what_is_on_its_way() -> None:
    cluster = served({"dram": 1})
    starts = of(StartServer, cluster(TierScaled("dram", 3)))
    stops = of(StopServer, cluster(TierScaled("dram", 2)))
    assert len(stops) == 1
    assert stops[0].server_id in {s.server_id for s in starts}


# --- memory ------------------------------------------------------------------------------------


def test_a_restarted_controller_knows_everything_and_starts_nothing() -> None:
    cluster = served({"dram": 2})
    sort = job(capacity_bytes=MIB, now_ms=cluster.now_ms, lease_s=1)
    cluster(JobRegistered(sort))
    before = (cluster.slots(), cluster.slots(sort.id), cluster.state.epoch)
    cluster.now_ms += 60_000
    cluster.restart()
    assert of(StartServer, cluster(Tick())) == []
    assert (cluster.slots(), cluster.slots(sort.id), cluster.state.epoch) == before
    # Nobody could renew the lease meanwhile.
    assert sort.id in cluster.state.tenants
    for name in sorted(cluster.slots()):
        done = cluster(Joined(joining(name, epoch=before[2])))
        assert of(WatchServer, done) == [WatchServer(name, 4711)]
        assert of(SendUpdate, done) == []


def test_a_restarted_controller_has_managed_servers_watched_at_once() -> None:
    cluster = served({"dram": 1})
    cluster.restart()
    assert cluster.state.watched() == [WatchServer("dram-1", 4711)]


def test_a_server_that_was_requested_before_a_restart_is_expected_after_it() -> None:
    cluster = Cluster({"dram": 1})
    (start,) = of(StartServer, cluster(Tick()))
    cluster.restart()
    assert of(StartServer, cluster(Tick())) == []
    cluster(Joined(joining(start.server_id)))
    assert cluster.slots() == {start.server_id: SLOT_COUNT}


def test_a_restarted_controller_does_not_wait_long_for_servers_that_are_gone() -> None:
    cluster = served({"dram": 2})
    _, back = sorted(cluster.slots())
    cluster.restart()
    cluster(Joined(joining(back)))
    for _ in range((states.SILENCE_MS + fleets.RESTART_GRACE_MS) // 500 + 1):
        cluster(Reported(back, Report()))
        cluster(Tick(), 500)
    assert cluster.slots() == {back: SLOT_COUNT}


def test_a_scaled_tier_stays_scaled() -> None:
    cluster = served({"dram": 1})
    cluster(TierScaled("dram", 2))
    cluster.restart()
    assert cluster.state.fleet.wanted == {"dram": 2}


@pytest.mark.parametrize(
    "memory",
    [
        Snapshot(jobs={"default": {}}),
        Snapshot(servers={"a": {"server": {}}}),
        Snapshot(placements={"default": {"job_id": "default"}}),
        Snapshot(facts={"plan_id": "", "wanted": 3}),
    ],
)
def test_a_memory_of_something_else_is_refused(memory: Snapshot) -> None:
    with pytest.raises(SnapshotError):
        ClusterState(CATALOG, counted_ids(), now_ms=0, plan={}, snapshot=memory)


def test_a_map_of_servers_that_are_not_remembered_is_refused() -> None:
    cluster = two_servers()
    memory = dataclasses.replace(cluster.memory, servers={})
    with pytest.raises(SnapshotError):
        ClusterState(CATALOG, counted_ids(), now_ms=0, snapshot=memory)
