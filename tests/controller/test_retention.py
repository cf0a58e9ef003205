"""Jobs that have ended and retain keys: what the state machine does about them, without I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from pocketkv.controller.errors import RefusedError
from pocketkv.controller.fleet import REVIVALS_MAX
from pocketkv.controller.members import JobUsage, MemberError, Report, Retirement
from pocketkv.controller.messages import (
    Instruction,
    JobDeregistered,
    JobPurged,
    JobRegistered,
    JobRenewed,
    JobRetains,
    JobRetired,
    JobRetireRefused,
    JobUpdated,
    Joined,
    ProcessDied,
    Reported,
    SendUpdate,
    StartServer,
    Tick,
)
from pocketkv.controller.tenants import Retention
from pocketkv.jobs import Hints, Phase
from pocketkv.placement import PlacementMap
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import GIB, MIB, job, joining
from tests.controller.cluster import Cluster, events, of, served
from tests.controller.test_state_random import Machine

JOB = job()


def three_tiers() -> Cluster:
    """Two dram servers with a job's keys, and a server each of nvme and hdd; all by hand."""
    cluster = Cluster()
    for name, tier in (("a", "dram"), ("b", "dram"), ("n", "nvme"), ("h", "hdd")):
        cluster(Joined(joining(name, tier)))
    cluster(JobRegistered(job(tiers=("dram",))))
    report(cluster, "a", "b")
    return cluster


def report(cluster: Cluster, *names: str, used_bytes: int = MIB, keys: int = 10) -> None:
    for name in names:
        usage = {JOB.id: JobUsage(used_bytes, keys, 0, keys // 2)}
        cluster(Reported(name, Report(used_bytes=used_bytes, jobs=usage)))


def ended(cluster: Cluster) -> Cluster:
    cluster(JobRetains(JOB.id))
    cluster(JobDeregistered(JOB.id))
    return cluster


def retention_of(cluster: Cluster) -> Retention:
    retention = cluster.state.tenants[JOB.id].retention
    assert retention is not None
    return retention


def map_of(cluster: Cluster) -> PlacementMap:
    return cluster.state.placements[JOB.id]


def hand_over(cluster: Cluster, *names: str, target: str = "h", keys: int = 5) -> list[Instruction]:
    done: list[Instruction] = []
    for name in names:
        done += cluster(JobRetired(JOB.id, name, target, keys, 0))
    return done


def test_a_job_that_retains_nothing_is_forgotten_at_its_end() -> None:
    cluster = three_tiers()
    done = cluster(JobDeregistered(JOB.id))
    assert of(SendUpdate, done)[0].update.ended == (JOB.id,)
    assert JOB.id not in cluster.state.tenants


def test_keys_go_to_the_slowest_tier_that_has_room() -> None:
    cluster = ended(three_tiers())
    assert retention_of(cluster).target == "h"
    full = three_tiers()
    full(Reported("h", Report(used_bytes=GIB)))
    assert retention_of(ended(full)).target == "n"


def test_where_none_has_room_for_all_the_roomiest_is_tried() -> None:
    cluster = three_tiers()
    report(cluster, "a", "b", used_bytes=2 * GIB)
    cluster(Reported("h", Report(used_bytes=GIB)))
    assert retention_of(ended(cluster)).target == "n"


def test_a_server_whose_medium_fails_is_not_chosen() -> None:
    cluster = three_tiers()
    cluster(Reported("h", Report(medium_error="EIO")))
    assert retention_of(ended(cluster)).target == "n"


def test_keys_stay_readable_while_they_are_moved_and_then_where_they_are() -> None:
    cluster = three_tiers()
    cluster(JobRetains(JOB.id))
    before = map_of(cluster)
    (told,) = of(SendUpdate, cluster(JobDeregistered(JOB.id)))
    (moving,) = told.update.placements
    assert (moving.ranges, moving.read_only, moving.retire_to) == (before.ranges, True, "h")
    assert told.update.ended == ()
    assert cluster.state.tenants[JOB.id].job.phase is Phase.RETAINED  # type: ignore[union-attr]

    assert not of(SendUpdate, hand_over(cluster, "a"))
    (told,) = of(SendUpdate, hand_over(cluster, "b"))
    (kept,) = told.update.placements
    assert cluster.slots(JOB.id) == {"h": SLOT_COUNT}
    assert (kept.read_only, kept.retire_to) == (True, None)
    assert retention_of(cluster).keys == 10
    # It costs what it uses, and keeps nothing of anybody.
    assert not cluster.state.placements.committed["h"].capacity_bytes


def test_a_lease_that_runs_out_retains_as_well() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    cluster(Joined(joining("h", "hdd")))
    cluster(JobRegistered(job(now_ms=cluster.now_ms, lease_s=1)))
    cluster(JobRetains(JOB.id))
    cluster(Tick(), 500)
    done = cluster(Tick(), 900)
    assert "job retires" in events(done)
    assert "job ended" not in events(cluster.tick_until(1500))


def test_if_nothing_is_left_of_what_was_marked_the_job_ends() -> None:
    cluster = ended(three_tiers())
    done = hand_over(cluster, "a", "b", keys=0)
    assert of(SendUpdate, done)[-1].update.ended == (JOB.id,)
    assert JOB.id not in cluster.memory.jobs


def test_what_is_told_twice_or_too_late_counts_once() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a", "a")
    hand_over(cluster, "b", target="n")
    assert retention_of(cluster).keys == 5
    assert retention_of(cluster).pending == ("b",)
    hand_over(cluster, "b")
    hand_over(cluster, "b", "h")
    assert retention_of(cluster).keys == 10
    cluster(JobRetired("nobody-0123456789abcdef", "a", "h", 1, 0))


def test_keys_that_cannot_be_read_are_counted() -> None:
    cluster = ended(three_tiers())
    cluster(JobRetired(JOB.id, "a", "h", 4, 1))
    hand_over(cluster, "b")
    assert cluster.state.tenants[JOB.id].lost_keys == 1


def test_a_source_that_dies_takes_its_keys_with_it_and_they_are_counted() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a")
    cluster.state.fleet.forgive(-10_000)
    for name in ("a", "n", "h"):
        cluster.state.fleet.hear(name, cluster.now_ms)
    done = cluster(Tick())
    assert "data lost" in events(done)
    assert cluster.slots(JOB.id) == {"h": SLOT_COUNT}
    assert cluster.state.tenants[JOB.id].lost_keys == 5


def test_a_source_that_dies_when_it_is_done_takes_nothing_with_it() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a")
    silence(cluster, "a")
    assert cluster.state.tenants[JOB.id].lost_keys == 0
    hand_over(cluster, "b")
    assert retention_of(cluster).keys == 10


def silence(cluster: Cluster, *lost: str) -> list[Instruction]:
    """Have servers not been heard of for too long."""
    cluster.state.fleet.forgive(-10_000)
    for name in cluster.state.fleet.members.keys() - set(lost):
        cluster.state.fleet.hear(name, cluster.now_ms)
    return cluster(Tick())


def test_another_server_is_found_if_the_one_that_should_keep_them_is_lost() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a")
    silence(cluster, "h")
    retention = retention_of(cluster)
    # The sources still have everything, and send it again.
    assert (retention.target, retention.pending, retention.keys) == ("n", ("a", "b"), 0)
    assert map_of(cluster).retire_to == "n"
    hand_over(cluster, "a", "b", target="n")
    assert cluster.slots(JOB.id) == {"n": SLOT_COUNT}


def test_without_another_server_it_is_waited_for() -> None:
    cluster = Cluster()
    for name, tier in (("a", "dram"), ("b", "dram"), ("h", "hdd")):
        cluster(Joined(joining(name, tier)))
    cluster(JobRegistered(job(tiers=("dram",))))
    ended(cluster)
    silence(cluster, "h")
    assert retention_of(cluster).target == "h"
    cluster(Tick(), 250)
    assert retention_of(cluster).pending == ("a", "b")
    cluster(Joined(joining("h2", "hdd")))
    cluster(Tick(), 250)
    assert retention_of(cluster).target == "h2"


def test_a_server_without_room_is_passed_over() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a")
    cluster(JobRetireRefused(JOB.id, "h", "OOM"))
    retention = retention_of(cluster)
    assert (retention.target, retention.pending, retention.keys) == ("n", ("a", "b"), 0)
    # All have refused: then it goes on with the last one, and any may be asked again.
    done = cluster(JobRetireRefused(JOB.id, "n", "OOM"))
    assert events(done) == ["retained keys refused"]
    assert (retention_of(cluster).target, retention_of(cluster).refused) == ("n", ())
    assert not events(cluster(JobRetireRefused(JOB.id, "h", "OOM")))


def test_a_server_that_comes_back_with_its_files_is_read_again() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a", "b")
    done = silence(cluster, "h")
    assert "retained keys are away" in events(done)
    assert map_of(cluster).ranges == ()
    cluster.restart()
    done = cluster(Joined(joining("h", "hdd", port=7777)))
    assert "retained keys are back" in events(done)
    assert cluster.slots(JOB.id) == {"h": SLOT_COUNT}
    assert cluster.state.tenants[JOB.id].lost_keys == 0


@pytest.mark.parametrize("is_away", [False, True])
def test_a_server_that_comes_back_without_its_files_has_lost_the_keys(is_away: bool) -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a", "b")
    if is_away:
        silence(cluster, "h")
    cluster(Joined(joining("h", "hdd", generation="2")))
    assert cluster.state.tenants[JOB.id].lost_keys == 10
    assert cluster.slots(JOB.id) == {"h": SLOT_COUNT}


def test_a_server_that_lost_its_files_while_it_was_sent_keys_is_sent_them_again() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a")
    (told,) = of(SendUpdate, cluster(Joined(joining("h", "hdd", generation="2"))))
    assert [p.retire_to for p in told.update.placements] == ["h"]
    assert retention_of(cluster).pending == ("a", "b")
    assert cluster.state.tenants[JOB.id].lost_keys == 0


def test_a_job_that_has_ended_is_not_changed_and_not_moved() -> None:
    cluster = ended(three_tiers())
    for event in (JobDeregistered(JOB.id), JobRenewed(JOB.id), JobRetains(JOB.id)):
        with pytest.raises(RefusedError, match="no such job"):
            cluster(event)
    with pytest.raises(RefusedError, match="no such job"):
        cluster(JobUpdated(JOB.id, Hints(lambdas=1)))
    before = map_of(cluster)
    cluster(Joined(joining("c", "nvme")))
    cluster.carry_out_moves()
    assert map_of(cluster) == before


def test_everything_is_remembered() -> None:
    cluster = ended(three_tiers())
    hand_over(cluster, "a")
    cluster.restart()
    assert retention_of(cluster).pending == ("b",)
    assert cluster.state.retiring == {JOB.id}
    hand_over(cluster, "b")
    cluster.restart()
    assert cluster.slots(JOB.id) == {"h": SLOT_COUNT}
    assert retention_of(cluster).keys == 10
    (told,) = of(SendUpdate, cluster(JobPurged(JOB.id)))
    assert told.update.ended == (JOB.id,)
    assert JOB.id not in cluster.memory.jobs


def test_purging_is_for_jobs_that_have_ended() -> None:
    cluster = three_tiers()
    with pytest.raises(RefusedError, match="has not ended"):
        cluster(JobPurged(JOB.id))
    with pytest.raises(RefusedError, match="no such job"):
        cluster(JobPurged("nobody"))
    ended(cluster)
    cluster(JobPurged(JOB.id))
    assert not cluster.state.retiring
    assert JOB.id not in cluster.state.tenants


def test_without_a_server_of_a_file_tier_nothing_can_be_retained() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    cluster(JobRegistered(JOB))
    with pytest.raises(RefusedError, match="no storage server with files"):
        cluster(JobRetains(JOB.id))
    with pytest.raises(RefusedError, match="never ends"):
        cluster(JobRetains("default"))


def test_a_server_that_keeps_files_is_started_again_and_given_up_at_last() -> None:
    cluster = served({"dram": 1, "nvme": 1})
    (nvme,) = [name for name in cluster.state.fleet.members if name.startswith("nvme")]
    cluster(JobRegistered(job(tiers=("dram",))))
    ended(cluster)
    (dram,) = map_of(cluster).owners()
    hand_over(cluster, dram, target=nvme)
    cluster.state.fleet.forgive(20_000)
    done = cluster(ProcessDied(nvme, "killed"), 20_000)
    for _ in range(REVIVALS_MAX):
        assert cluster.state.tenants[JOB.id].lost_keys == 0
        assert [start.server_id for start in of(StartServer, done)] == [nvme]
        done = cluster(ProcessDied(nvme, "it cannot be started"))
        while not of(StartServer, done):
            # Each time it pauses longer, and the other server has to be heard of.
            cluster.state.fleet.hear(dram, cluster.now_ms)
            done = cluster(Tick(), 250)
    assert [start.server_id for start in of(StartServer, done)] != [nvme]
    assert cluster.state.tenants[JOB.id].lost_keys == 5
    assert retention_of(cluster).keys == 0


def test_what_a_server_tells_is_checked() -> None:
    told = Retirement.from_json('{"job": "j", "target": "h", "keys": 2, "lost_keys": 1}')
    assert told == Retirement("j", "h", 2, 1)
    for broken in ("", "[]", '{"job": "j"}', '{"job": "j", "target": "h", "keys": -1}'):
        with pytest.raises(MemberError):
            Retirement.from_json(broken)


class RetainingMachine(Machine):
    """Random events, with jobs that retain keys among them."""

    @rule(data=st.data(), after_ms=st.integers(0, 400))
    def retain(self, data: st.DataObject, after_ms: int) -> None:
        self.tell(JobRetains(self._pick(data, self.cluster.state.tenants)), after_ms)

    def _retired(self) -> dict[str, Any]:
        tenants = self.cluster.state.tenants
        return {name: t.retention for name, t in tenants.items() if t.retention is not None}

    @precondition(lambda self: self._retired())
    @rule(data=st.data(), keys=st.integers(0, 3), lost_keys=st.integers(0, 1))
    def hand_over(self, data: st.DataObject, keys: int, lost_keys: int) -> None:
        name = self._pick(data, self._retired())
        retention = self._retired()[name]
        if retention.pending:
            source = self._pick(data, retention.pending)
            target = retention.target or "x"
            self.tell(JobRetired(name, source, target, keys, lost_keys), 0)

    @precondition(lambda self: self._retired())
    @rule(data=st.data(), is_purge=st.booleans())
    def refuse_or_purge(self, data: st.DataObject, is_purge: bool) -> None:
        name = self._pick(data, self._retired())
        if is_purge:
            self.tell(JobPurged(name), 0)
        else:
            target = self._retired()[name].target or "x"
            self.tell(JobRetireRefused(name, target, "OOM"), 0)


RetainingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestRetainingMachine = RetainingMachine.TestCase
