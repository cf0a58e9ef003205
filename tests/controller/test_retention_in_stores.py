"""Jobs that have ended and retain keys in a store: what the state machine does, without I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from pocketkv.controller.errors import RefusedError
from pocketkv.controller.listings import job as listed
from pocketkv.controller.members import JobUsage, MemberError, Report
from pocketkv.controller.messages import (
    JobDeregistered,
    JobPurged,
    JobRegistered,
    JobRetains,
    JobRetired,
    JobRetireRefused,
    Joined,
    Left,
    ProcessDied,
    Reported,
    SendUpdate,
    StorePurged,
)
from pocketkv.controller.tenants import Retention
from pocketkv.placement import PlacementError, PlacementMap, SlotRange
from tests.controller.builders import MIB, job, joining
from tests.controller.cluster import Cluster, of
from tests.controller.test_retention import RetainingMachine

JOB = job()
STORE = "s3://bucket/prefix"
OTHER = "s3://bucket/other"


def cluster_of(*servers: str, **stores: str) -> Cluster:
    """Servers, each of the tier that its first letter tells, and a job on the dram servers."""
    cluster = Cluster()
    for name in servers:
        tier = {"d": "dram", "n": "nvme"}[name[0]]
        cluster(Joined(joining(name, tier, retain=stores.get(name, STORE))))
    cluster(JobRegistered(job(tiers=("dram",))))
    for name in servers:
        usage = {JOB.id: JobUsage(MIB, 10, 0, 5)} if name[0] == "d" else {}
        cluster(Reported(name, Report(used_bytes=MIB, jobs=usage)))
    return cluster


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


def retired(cluster: Cluster, *names: str, keys: int = 5) -> None:
    for name in names:
        cluster(JobRetired(JOB.id, name, STORE, keys, 0))


def test_keys_go_to_the_store_that_all_servers_of_the_job_have() -> None:
    cluster = ended(cluster_of("d1", "d2", "n1"))
    moving = map_of(cluster)
    assert (moving.read_only, moving.retire_to, moving.kept_in) == (True, STORE, None)
    assert set(moving.owners()) == {"d1", "d2"}
    retired(cluster, "d1")
    assert map_of(cluster).owners() == moving.owners()
    retired(cluster, "d2")
    kept = map_of(cluster)
    assert (kept.retire_to, kept.kept_in, len(kept.owners())) == (None, STORE, 1)
    assert (retention_of(cluster).keys, cluster.state.retiring) == (10, set())


@pytest.mark.parametrize("store", ["", OTHER])
def test_otherwise_to_files(store: str) -> None:
    cluster = ended(cluster_of("d1", "d2", "n1", d2=store))
    assert retention_of(cluster).target == "n1"
    without = cluster_of("d1", "d2", d2=store)
    with pytest.raises(RefusedError, match=r"not all servers of the job have a store \(--retain\)"):
        without(JobRetains(JOB.id))


def test_no_files_are_needed() -> None:
    assert retention_of(ended(cluster_of("d1", "d2"))).target == STORE


def test_another_server_reads_when_the_first_one_dies() -> None:
    cluster = ended(cluster_of("d1", "d2", "n1"))
    retired(cluster, "d1", "d2")
    for _ in range(2):
        (reader,) = map_of(cluster).owners()
        cluster(ProcessDied(reader, "killed"))
        assert len(map_of(cluster).owners()) == 1
        assert map_of(cluster).owners() != (reader,)
    (reader,) = map_of(cluster).owners()
    cluster(ProcessDied(reader, "killed"))
    assert map_of(cluster).owners() == ()
    assert map_of(cluster).kept_in == STORE
    # One with another store is of no use.
    cluster(Joined(joining("d4", retain=OTHER)))
    assert map_of(cluster).owners() == ()
    cluster(Joined(joining("d3", retain=STORE)))
    assert map_of(cluster).owners() == ("d3",)
    assert (cluster.state.tenants[JOB.id].lost_keys, retention_of(cluster).keys) == (0, 10)


def test_a_reader_that_was_started_anew_goes_on() -> None:
    cluster = ended(cluster_of("d1", "d2"))
    retired(cluster, "d1", "d2")
    (reader,) = map_of(cluster).owners()
    cluster(Joined(joining(reader, generation="2", retain=STORE)))
    assert map_of(cluster).owners() == (reader,)
    assert cluster.state.tenants[JOB.id].lost_keys == 0


def test_what_was_handed_over_is_not_lost_with_its_server() -> None:
    cluster = ended(cluster_of("d1", "d2"))
    retired(cluster, "d1")
    cluster(ProcessDied("d1", "killed"))
    assert (retention_of(cluster).keys, retention_of(cluster).pending) == (5, ("d2",))
    cluster(ProcessDied("d2", "killed"))
    tenant = cluster.state.tenants[JOB.id]
    # The second one had not handed over anything.
    assert (tenant.lost_keys, retention_of(cluster).keys) == (5, 5)
    cluster(Joined(joining("d3", retain=STORE)))
    assert map_of(cluster).owners() == ("d3",)


def test_a_store_is_waited_for() -> None:
    cluster = ended(cluster_of("d1", "d2", "n1"))
    cluster(JobRetireRefused(JOB.id, STORE, "IOERR it is away"))
    assert retention_of(cluster).target == STORE
    assert retention_of(cluster).pending == ("d1", "d2")


def test_what_is_purged_is_deleted_by_one_server_and_not_forgotten() -> None:
    cluster = ended(cluster_of("d1", "d2", "n1", n1=OTHER))
    retired(cluster, "d1", "d2")
    (told,) = of(SendUpdate, cluster(JobPurged(JOB.id)))
    assert told.update.ended == (JOB.id,)
    for _ in range(2):
        assert cluster.state.purges == {JOB.id: STORE}
        cluster.restart()
    for name in ("d1", "d2"):
        cluster(Joined(joining(name, retain=STORE)))
    assert cluster.state.purges_of("d1") == [JOB.id]
    assert cluster.state.purges_of("d2") == cluster.state.purges_of("n1") == []
    assert cluster.state.purges_of("nobody") == []
    cluster(Left("d1"))
    assert cluster.state.purges_of("d2") == [JOB.id]
    cluster(StorePurged(JOB.id))
    cluster(StorePurged(JOB.id))
    cluster.restart()
    assert cluster.state.purges == {}


def test_what_was_begun_is_deleted_if_nothing_is_left() -> None:
    cluster = ended(cluster_of("d1", "d2"))
    retired(cluster, "d1", "d2", keys=0)
    assert JOB.id not in cluster.state.tenants
    assert cluster.state.purges == {JOB.id: STORE}


def test_it_is_remembered() -> None:
    cluster = ended(cluster_of("d1", "d2"))
    retired(cluster, "d1")
    cluster.restart()
    assert retention_of(cluster).pending == ("d2",)
    retired(cluster, "d2")
    cluster.restart()
    assert map_of(cluster).kept_in == STORE
    assert cluster.state.fleet.members["d1"].retain == STORE


def test_what_is_shown() -> None:
    cluster = ended(cluster_of("d1", "d2"))
    shown: Any = listed(cluster.state, JOB.id, cluster.now_ms)
    assert shown[b"retention"] == {
        b"server": None,
        b"store": STORE.encode(),
        b"is_there": True,
        b"keys": 0,
        b"moving_from": [b"d1", b"d2"],
    }
    retired(cluster, "d1", "d2")
    shown = listed(cluster.state, JOB.id, cluster.now_ms)
    (reader,) = map_of(cluster).owners()
    assert shown[b"retention"][b"server"] == reader.encode()
    assert (shown[b"retention"][b"keys"], shown[b"retained_keys"]) == (10, 10)


@pytest.mark.parametrize("url", [5, "http://bucket", "s3://" + "x" * 2000])
def test_what_is_no_store(url: object) -> None:
    with pytest.raises(MemberError):
        joining("d1", retain=url)


def test_maps_tell_where_keys_are_kept() -> None:
    ranges = (SlotRange(0, 16383, "d1"),)
    kept = PlacementMap("job", 3, ranges, {"d1": None}, {}, read_only=True, kept_in=STORE)
    assert PlacementMap.from_json(kept.as_json()) == kept
    with pytest.raises(PlacementError):
        PlacementMap("job", 3, ranges, {"d1": None}, {}, read_only=True, kept_in="d2")


class StoreMachine(RetainingMachine):
    """Random events in a cluster where most servers have the same store."""

    def store_of(self, name: str) -> str:
        return "" if name == "x" else STORE

    @precondition(lambda self: self.cluster.state.purges)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.tell(StorePurged(self._pick(data, self.cluster.state.purges)), 0)

    @invariant()
    def nobody_is_named_twice(self) -> None:
        state = self.cluster.state
        named = [job_id for name in state.fleet.members for job_id in state.purges_of(name)]
        assert len(named) == len(set(named))


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestStoreMachine = StoreMachine.TestCase
