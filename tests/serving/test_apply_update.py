"""What a member makes of the controller's updates, in any order and however broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine.topology import Topology
from pocketkv.placement import PlacementMap, Server, SlotRange
from pocketkv.resp.errors import PeerError
from pocketkv.serving.membership import apply_update
from pocketkv.slots import SLOT_COUNT
from pocketkv.terms import Terms


def server(server_id: str) -> Server:
    return Server(
        id=server_id,
        tier="dram",
        host="127.0.0.1",
        port=7000,
        machine="m",
        capacity_bytes=1,
        bandwidth_bytes_s=1,
    )


def placement(job_id: str, epoch: int, server_id: str = "a") -> PlacementMap:
    return PlacementMap(
        job_id=job_id,
        epoch=epoch,
        ranges=(SlotRange(0, SLOT_COUNT - 1, server_id),),
        quotas={server_id: None},
        weights={server_id: 1.0},
    )


def update(epoch: int, *placements: PlacementMap, **fields: Any) -> str:
    return json.dumps({"epoch": epoch, "placements": [p.as_json() for p in placements], **fields})


def test_a_full_update_ends_the_jobs_that_it_does_not_list() -> None:
    topology = Topology()
    apply_update(topology, update(3, placement("x", 2), placement("y", 3), full=True))

    changed, ended = apply_update(topology, update(4, placement("y", 3), full=True))

    assert (changed, ended) == (["y"], ["x"])
    assert list(topology.placements) == ["y"]


def test_an_older_full_update_ends_nothing() -> None:
    topology = Topology()
    apply_update(topology, update(5, placement("x", 5)))

    assert apply_update(topology, update(4, full=True)) == ([], [])
    assert list(topology.placements) == ["x"]


def test_an_older_map_does_not_bring_an_ended_job_back() -> None:
    topology = Topology()
    apply_update(topology, update(5, placement("x", 5)))
    apply_update(topology, update(7, ended=["x"]))

    assert apply_update(topology, update(7, placement("x", 6))) == ([], [])
    assert not topology.placements


def test_servers_are_replaced_as_a_whole() -> None:
    topology = Topology()
    apply_update(topology, update(1, servers=[server("a").as_json(), server("b").as_json()]))
    apply_update(topology, update(2, servers=[server("b").as_json()]))

    assert list(topology.servers) == ["b"]


@given(st.permutations(list(range(1, 7))))
def test_the_newest_map_wins_in_any_order(order: list[int]) -> None:
    topology = Topology()
    for epoch in order:
        apply_update(topology, update(epoch, placement("x", epoch, f"s{epoch}")))

    assert topology.placements["x"].owner(0) == "s6"
    assert topology.epoch == 6


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"epoch": "1"}',
        b'{"epoch": 1, "placements": 5}',
        b'{"epoch": 1, "placements": [{}]}',
        b'{"epoch": 1, "servers": [1]}',
        None,
        7,
    ],
)
def test_garbage_is_refused_and_changes_nothing(text: Any) -> None:
    topology = Topology()
    apply_update(topology, update(1, placement("x", 1)))

    with pytest.raises(PeerError):
        apply_update(topology, text)

    assert topology.epoch == 1
    assert list(topology.placements) == ["x"]


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(text: bytes) -> None:
    try:
        apply_update(Topology(), text)
    except PeerError:
        pass


def test_what_changes_terms_alone_is_heard() -> None:
    topology = Topology()
    apply_update(topology, update(2, placement("x", 2), full=True))
    # Whoever changed them waits until all members have said that they know of this epoch.
    apply_update(topology, update(3, terms=[Terms("x", 3, {"bob": "on"}).as_json()]))
    assert topology.epoch == 3


def test_terms_follow_their_epochs() -> None:
    topology = Topology()
    first = Terms("x", 2, {"alice": "on"}).as_json()
    apply_update(topology, update(2, placement("x", 1), terms=[first], full=True))
    assert topology.terms["x"].users == {"alice": "on"}
    assert topology.changed_terms == {"x"}
    apply_update(topology, update(3, terms=[Terms("x", 1, {"bob": "on"}).as_json()]))
    assert topology.terms["x"].users == {"alice": "on"}
    # A full update that does not name them says that there are none.
    apply_update(topology, update(4, placement("x", 1), full=True))
    assert topology.terms["x"].users == {}
    apply_update(topology, update(5, terms=[Terms("x", 5, {"bob": "on"}).as_json()]))
    apply_update(topology, update(6, ended=["x"]))
    assert topology.terms == {}
    assert topology.changed_terms == set()
    with pytest.raises(PeerError):
        apply_update(topology, update(7, terms=[{"job_id": "x"}]))
