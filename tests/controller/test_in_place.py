"""Backends whose servers come back under their ids, as pods of a StatefulSet do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from pocketkv.controller.fleet import BackendTraits
from pocketkv.controller.messages import (
    Joined,
    Left,
    ProcessDied,
    ServerDrained,
    ServerWaits,
    StartServer,
    StopServer,
    Tick,
    TierScaled,
)
from pocketkv.controller.state import ClusterState
from tests.controller.builders import CATALOG, UNHINTED_SERVERS, joining
from tests.controller.cluster import Cluster, events, of

TRAITS = BackendTraits(
    restarts_in_place=True,
    start_timeout_ms=900_000,
    is_ours=lambda server_id: server_id.startswith("s-"),
)


def highest(tier: str, server_ids: Sequence[str]) -> Sequence[str]:
    return sorted(server_ids)[-1:]


class Pods(Cluster):
    """A cluster whose servers are s-0, s-1, ...: only the highest one can be done without."""

    def _new_state(self) -> ClusterState:
        numbers = count(sum(name.startswith("s-") for name in self.memory.servers))
        return ClusterState(
            CATALOG,
            lambda tier: f"s-{next(numbers)}",
            now_ms=self.now_ms,
            plan=self.plan,
            may_leave=highest,
            traits=TRAITS,
            snapshot=self.memory,
            unhinted_servers=UNHINTED_SERVERS,
        )


def pods(servers: int) -> Pods:
    cluster = Pods({"dram": servers})
    for start in of(StartServer, cluster(Tick())):
        cluster(Joined(joining(start.server_id, start.tier)))
    cluster.carry_out_moves()
    assert set(cluster.state.fleet.members) == {f"s-{i}" for i in range(servers)}
    return cluster


def test_one_that_dies_is_started_again_under_its_id() -> None:
    cluster = pods(2)
    cluster(Left("s-0"))
    done = cluster(ProcessDied("s-0", "its pod was deleted", is_sure=False))
    assert "server died" in events(done)
    assert of(StartServer, done) == [StartServer("s-0", "dram")]
    cluster(Joined(joining("s-0", generation="another")))
    assert cluster.state.fleet.members["s-0"].managed


def test_a_hint_of_a_death_does_not_count_against_a_server_that_is_connected() -> None:
    cluster = pods(2)
    assert of(StartServer, cluster(ProcessDied("s-0", "?", is_sure=False))) == []
    assert set(cluster.state.fleet.members) == {"s-0", "s-1"}


def test_one_that_is_silent_is_started_again_only_when_it_has_gone() -> None:
    cluster = pods(2)
    done = []
    for _ in range(20):
        cluster.state.fleet.hear("s-1", cluster.now_ms + 250)
        done += cluster(Tick(), 250)
    assert of(StopServer, done) == [StopServer("s-0", force=True, returns=True)]
    assert of(StartServer, done) == []
    done = cluster(ProcessDied("s-0", "its pod has gone"))
    assert of(StartServer, done) == [StartServer("s-0", "dram")]


@pytest.mark.parametrize("server_id", ["s-1", "s-2"])
def test_one_that_was_told_to_end_drains_and_nothing_takes_its_place(server_id: str) -> None:
    cluster = pods(3)
    done = cluster(ServerDrained(server_id, "it was told to end", leaves=True))
    done += cluster.carry_out_moves() + cluster(Tick(), 250)
    assert of(StopServer, done) == [StopServer(server_id, returns=True)]
    assert of(StartServer, done) == []
    assert cluster.state.fleet.wanted == {"dram": 3}
    done = cluster(ProcessDied(server_id, "its pod has gone"))
    assert of(StartServer, done) == [StartServer(server_id, "dram")]


def test_one_that_was_to_return_does_not_when_the_plan_shrinks_meanwhile() -> None:
    cluster = pods(3)
    cluster(ServerDrained("s-2", "it was told to end", leaves=True))
    cluster.carry_out_moves()
    cluster(Tick(), 250)
    assert of(StopServer, cluster(TierScaled("dram", 2))) == [StopServer("s-2")]
    assert of(StopServer, cluster(Tick(), 250)) == []
    assert of(StartServer, cluster(ProcessDied("s-2", "its pod has gone"))) == []


def test_one_that_was_to_leave_for_good_and_falls_silent_does_not_return() -> None:
    cluster = pods(2)
    cluster(TierScaled("dram", 1))
    done = []
    for _ in range(20):
        cluster.state.fleet.hear("s-0", cluster.now_ms + 250)
        done += cluster(Tick(), 250)
    assert StopServer("s-1", force=True) in of(StopServer, done)
    assert of(StartServer, cluster(ProcessDied("s-1", "its pod has gone"))) == []


def test_one_in_the_middle_that_is_drained_is_replaced() -> None:
    cluster = pods(3)
    done = cluster(ServerDrained("s-0")) + cluster.carry_out_moves() + cluster(Tick(), 250)
    assert of(StopServer, done) == [StopServer("s-0", returns=True)]
    assert cluster.state.fleet.wanted == {"dram": 3}
    done = cluster(ProcessDied("s-0", "its pod has gone"))
    assert of(StartServer, done) == [StartServer("s-0", "dram")]


def test_the_highest_one_that_is_drained_leaves_the_plan() -> None:
    cluster = pods(3)
    done = cluster(ServerDrained("s-2")) + cluster.carry_out_moves() + cluster(Tick(), 250)
    assert cluster.state.fleet.wanted == {"dram": 2}
    assert of(StopServer, done) == [StopServer("s-2")]
    assert of(StartServer, cluster(ProcessDied("s-2", "its pod has gone"))) == []


def test_a_tier_shrinks_from_above() -> None:
    cluster = pods(4)
    done = cluster(TierScaled("dram", 2)) + cluster.carry_out_moves() + cluster(Tick(), 250)
    assert {stop.server_id for stop in of(StopServer, done)} == {"s-2", "s-3"}
    assert set(cluster.state.fleet.members) == {"s-0", "s-1"}


def test_one_that_joins_unasked_comes_into_the_plan_if_it_is_ours() -> None:
    cluster = pods(1)
    cluster(Joined(joining("s-7")))
    assert cluster.state.fleet.wanted == {"dram": 2}
    assert cluster.state.fleet.members["s-7"].managed
    cluster(Joined(joining("stranger")))
    assert cluster.state.fleet.wanted == {"dram": 2}
    assert not cluster.state.fleet.members["stranger"].managed


def test_what_one_waits_for_is_told_until_it_joins() -> None:
    cluster = pods(1)
    (start,) = of(StartServer, cluster(TierScaled("dram", 2)))
    assert events(cluster(ServerWaits(start.server_id, "Unschedulable"))) == ["server waits"]
    assert cluster.state.fleet.waits == {start.server_id: "Unschedulable"}
    assert cluster(ServerWaits("s-0", "it runs already")) == []
    cluster(Joined(joining(start.server_id)))
    assert cluster.state.fleet.waits == {}


def test_one_that_waits_for_minutes_is_not_given_up() -> None:
    cluster = pods(1)
    cluster(TierScaled("dram", 2))
    done = []
    for _ in range(200):
        cluster.state.fleet.hear("s-0", cluster.now_ms + 500)
        done += cluster(Tick(), 500)
    assert "server did not join" not in events(done)
