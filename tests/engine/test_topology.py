from __future__ import annotations

from dataclasses import replace

from pocketkv.engine.topology import Topology
from pocketkv.placement import PlacementMap, SlotMove, SlotRange
from pocketkv.slots import SLOT_COUNT

JOB = "job-1"
FIRST = SlotMove("5-0", 0, 99, "a", "b")
SECOND = SlotMove("5-200", 200, 299, "a", "b")


def ordered(epoch: int, *moves: SlotMove) -> PlacementMap:
    return PlacementMap(
        JOB,
        epoch,
        (SlotRange(0, SLOT_COUNT - 1, "a"),),
        quotas={"a": None, "b": None},
        weights={"b": 1.0},
        moves=moves,
    )


def test_flips_of_one_epoch_add_up_whoever_tells_them() -> None:
    topology = Topology()
    both = ordered(5, FIRST, SECOND)
    assert topology.set_placement(both.with_flips([FIRST.id]))
    topology.set_placement(both.with_flips([SECOND.id]))
    known = topology.placements[JOB]
    assert (known.owner(0), known.owner(200), known.owner(150)) == ("b", "b", "a")
    assert topology.set_placement(both)
    assert topology.placements[JOB] == known


def test_a_newer_map_that_still_orders_a_move_does_not_undo_its_flip() -> None:
    topology = Topology()
    topology.set_placement(ordered(5, FIRST))
    assert topology.flip(JOB, [FIRST.id])
    topology.set_placement(ordered(6, FIRST, SECOND))
    assert topology.placements[JOB].owner(0) == "b"
    assert topology.placements[JOB].moves == (SECOND,)
    # The controller decides: it does not order it any more, and says who has the slots.
    topology.set_placement(ordered(7, SECOND))
    assert topology.placements[JOB].owner(0) == "a"
    assert not topology.placements[JOB].flips


def test_a_flip_is_learned_from_who_has_an_older_map() -> None:
    topology = Topology()
    topology.set_placement(ordered(6, FIRST))
    old = ordered(5, FIRST)
    assert not topology.set_placement(old)
    assert topology.set_placement(replace(old.with_flips([FIRST.id]), epoch=5))
    assert topology.placements[JOB].epoch == 6
    assert topology.placements[JOB].owner(0) == "b"


def test_a_flip_of_a_job_or_a_move_that_is_not_known_changes_nothing() -> None:
    topology = Topology()
    assert not topology.flip(JOB, [FIRST.id])
    topology.set_placement(ordered(5, FIRST))
    assert not topology.flip(JOB, [SECOND.id])
