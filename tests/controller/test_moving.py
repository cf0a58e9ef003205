"""Moves of slots: what is ordered when, and what comes of it."""

from __future__ import annotations

import logging

import pytest

from pocketkv.controller import moving, traffic
from pocketkv.controller.members import JobUsage, Report
from pocketkv.controller.messages import (
    JobDeregistered,
    JobRegistered,
    JobRetains,
    JobUpdated,
    Joined,
    Log,
    MoveFailed,
    ProcessDied,
    Reported,
    SendUpdate,
    ServerDrained,
    SlotsMoved,
    StartServer,
    Tick,
)
from pocketkv.controller.state import SILENCE_MS
from pocketkv.jobs import Hints
from pocketkv.placement import SlotMove
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import GIB, MIB, job, joining, router
from tests.controller.cluster import Cluster, events, of, served, two_servers


def one_and_one() -> Cluster:
    """Server a has all slots of the job `default`; b has just joined, and is to get half."""
    cluster = Cluster()
    cluster(Joined(joining("a")))
    cluster(Joined(joining("b")))
    return cluster


def only_move(cluster: Cluster) -> tuple[str, SlotMove]:
    (found,) = cluster.moves()
    return found


def lost_keys(cluster: Cluster, job_id: str = "default") -> int:
    return cluster.state.tenants[job_id].lost_keys


# --- orders ------------------------------------------------------------------------------------


def test_a_server_that_joins_is_sent_slots_at_once_and_owns_them_when_it_has_them() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    done = cluster(Joined(joining("b")))
    (update,) = of(SendUpdate, done)
    (placement,) = update.update.placements
    (move,) = placement.moves
    assert (move.source, move.target, len(move)) == ("a", "b", SLOT_COUNT // 2)
    assert move.id == f"{update.update.epoch}-{move.start}"
    assert cluster.slots() == {"a": SLOT_COUNT}
    epoch = cluster.state.epoch
    done = cluster(SlotsMoved("a", "default", move.id, keys=5, moved_bytes=100))
    assert cluster.slots() == {"a": SLOT_COUNT // 2, "b": SLOT_COUNT // 2}
    assert (cluster.state.epoch, cluster.moves()) == (epoch + 1, [])
    (told,) = [log for log in of(Log, done) if log.event == "slots moved"]
    assert (told.fields["keys"], told.fields["bytes"], told.level) == (5, 100, logging.INFO)


def test_what_is_told_twice_late_or_by_others_changes_nothing() -> None:
    cluster = one_and_one()
    job_id, move = only_move(cluster)
    cluster(Joined(joining("c")))
    for event in (
        SlotsMoved("c", job_id, move.id),
        SlotsMoved("nobody", job_id, move.id),
        SlotsMoved("a", job_id, "9-9"),
        SlotsMoved("a", "no job", move.id),
        MoveFailed("c", job_id, move.id, "envy"),
        MoveFailed("a", job_id, "9-9", "confused"),
    ):
        before = cluster.state.placements[job_id]
        assert of(SendUpdate, cluster(event)) == []
        assert cluster.state.placements[job_id] == before
    cluster(SlotsMoved("b", job_id, move.id))
    before = cluster.state.placements[job_id]
    for teller in "ab":
        cluster(SlotsMoved(teller, job_id, move.id))
        cluster(MoveFailed(teller, job_id, move.id, "too late"))
    assert cluster.state.placements[job_id].ranges == before.ranges
    cluster.carry_out_moves()
    assert sorted(cluster.slots().values()) == [5461, 5461, 5462]


def test_large_slots_move_in_pieces_a_few_at_a_time() -> None:
    cluster = one_and_one()
    cluster.carry_out_moves()
    usage = {"default": JobUsage(used_bytes=2 * GIB, keys=100)}
    for name in "ab":
        cluster(Reported(name, Report(jobs=usage)))
    cluster(Joined(joining("c")))
    moves = [move for _, move in cluster.moves()]
    assert len(moves) == 2
    assert all(
        cluster.state.job_bytes("default", move.source, len(move)) <= traffic.MOVE_BYTES_MAX
        for move in moves
    )
    ordered = 0
    while moves := [move for _, move in cluster.moves()]:
        assert len(moves) * traffic.MOVE_BYTES_MAX <= traffic.SERVER_BYTES_MAX
        cluster(SlotsMoved("c", "default", moves[0].id))
        ordered += 1
    assert ordered >= 2 * (2 * GIB // 3) // traffic.MOVE_BYTES_MAX
    assert sorted(cluster.slots().values()) == [5461, 5461, 5462]
    # It was cut from ends that touch, so that it is still few ranges.
    assert len(cluster.state.placements["default"].ranges) <= 4


def test_many_small_jobs_move_many_at_a_time_but_not_all() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    for number in range(50):
        cluster(JobRegistered(job(number=number)))
    done = cluster(Joined(joining("b")))
    assert len(cluster.moves()) == traffic.SERVER_MOVES_MAX
    (update,) = of(SendUpdate, done)
    assert len(update.update.placements) >= traffic.SERVER_MOVES_MAX
    cluster.carry_out_moves()
    assert all(len(p.owners()) == 2 for p in cluster.state.placements.maps())


def test_a_job_that_grows_beyond_its_server_moves_only_what_does_not_fit() -> None:
    cluster = two_servers()
    sort = job(capacity_bytes=MIB)
    cluster(JobRegistered(sort))
    (owner,) = cluster.slots(sort.id)
    cluster(JobUpdated(sort.id, Hints(capacity_bytes=GIB + GIB // 2)))
    job_id, move = only_move(cluster)
    assert (job_id, move.source, len(move)) == (sort.id, owner, SLOT_COUNT // 3 + 1)
    quotas = cluster.state.placements[sort.id].quotas
    assert quotas[owner] == pytest.approx(GIB, rel=1e-3)
    assert quotas[move.target] == pytest.approx(GIB / 2, rel=1e-3)
    # What is on its way is kept at both ends.
    kept = cluster.state.placements.committed
    assert kept[move.target].capacity_bytes == quotas[move.target]
    cluster.carry_out_moves()
    assert cluster.slots(sort.id)[owner] == SLOT_COUNT - len(move)


def test_a_job_that_is_short_spreads_to_a_server_that_joins() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    sort = job(capacity_bytes=2 * GIB)
    assert "job gets too little" in events(cluster(JobRegistered(sort)))
    cluster(Joined(joining("b")))
    assert cluster.state.tenants[sort.id].shortages == ()
    assert sort.id in {job_id for job_id, _ in cluster.moves()}
    cluster.carry_out_moves()
    assert cluster.slots(sort.id) == {"a": SLOT_COUNT // 2, "b": SLOT_COUNT // 2}
    assert cluster.state.placements[sort.id].quotas == {"a": GIB, "b": GIB}


def test_a_job_that_fits_where_it_is_stays_when_a_server_joins() -> None:
    cluster = two_servers()
    sort = job(capacity_bytes=MIB)
    cluster(JobRegistered(sort))
    cluster(Joined(joining("c")))
    assert {job_id for job_id, _ in cluster.moves()} == {"default"}


def test_a_job_that_ends_takes_its_moves_with_it() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    sort = job()
    cluster(JobRegistered(sort))
    cluster(Joined(joining("b")))
    moves = [move for job_id, move in cluster.moves() if job_id == sort.id]
    assert moves
    cluster(JobDeregistered(sort.id))
    assert sort.id not in {job_id for job_id, _ in cluster.moves()}
    assert of(SendUpdate, cluster(SlotsMoved("b", sort.id, moves[0].id))) == []


# --- failures ----------------------------------------------------------------------------------


def test_a_move_that_failed_is_ordered_again_under_another_id_after_a_pause() -> None:
    cluster = one_and_one()
    job_id, move = only_move(cluster)
    done = cluster(MoveFailed("a", job_id, move.id, "no room", code="NOROOM"))
    (failed,) = [log for log in of(Log, done) if log.event == "move failed"]
    assert (failed.fields["reason"], failed.fields["code"]) == ("no room", "NOROOM")
    assert (cluster.moves(), cluster.slots()) == ([], {"a": SLOT_COUNT})
    cluster(Tick(), moving.RETRY_MIN_MS - 1)
    assert cluster.moves() == []
    cluster(Tick(), 1)
    _, again = only_move(cluster)
    assert again.id != move.id
    assert (again.source, again.target, len(again)) == ("a", "b", len(move))


def test_pauses_grow_and_end_with_the_first_success() -> None:
    cluster = one_and_one()
    pauses = []
    for _ in range(3):
        job_id, move = only_move(cluster)
        cluster(MoveFailed("a", job_id, move.id, "no room"))
        began_ms = cluster.now_ms
        while not cluster.moves():
            for name in "ab":
                cluster(Reported(name, Report()))
            cluster(Tick(), 100)
        pauses.append(cluster.now_ms - began_ms)
    assert pauses == [500, 1000, 2000]
    cluster.carry_out_moves()
    assert cluster.state.setbacks == {}


def test_a_target_that_keeps_refusing_is_replaced_by_another() -> None:
    cluster = one_and_one()
    cluster(Joined(joining("c")))
    while cluster.slots().get("c", 0) < SLOT_COUNT // 2:
        cluster(Tick(), 500)
        for name in "abc":
            cluster(Reported(name, Report()))
        for job_id, move in cluster.moves():
            if move.target == "b":
                cluster(MoveFailed(move.source, job_id, move.id, "no room"))
            else:
                cluster(SlotsMoved(move.target, job_id, move.id))
    assert cluster.slots() == {"a": SLOT_COUNT // 2, "c": SLOT_COUNT // 2}


def test_a_target_without_room_is_sent_half_as_much_and_more_again_when_it_has() -> None:
    cluster = two_servers()
    whole_bytes = 32 * MIB
    usage = {"default": JobUsage(whole_bytes, 10, 10)}
    cluster(Reported("a", Report(jobs=usage, used_bytes=whole_bytes)))
    cluster(ServerDrained("a", leaves=True))

    def only_size() -> int:
        """What moves, in MiB, and nothing beside it."""
        ((job_id, move),) = cluster.moves()
        return round(cluster.state.orders[job_id, move.id].moved_bytes / MIB)

    def fail() -> None:
        ((job_id, move),) = cluster.moves()
        cluster(MoveFailed("a", job_id, move.id, "no room", code=moving.NO_ROOM))
        # Only what is as large is not tried at once.
        assert not cluster.moves()
        cluster(Tick(), moving.RETRY_MIN_MS)

    def succeed() -> None:
        ((job_id, move),) = cluster.moves()
        moved_bytes = cluster.state.orders[job_id, move.id].moved_bytes
        cluster(SlotsMoved("a", job_id, move.id, 1, moved_bytes))

    assert only_size() == 32
    fail()
    assert only_size() == 16
    fail()
    assert only_size() == 8
    succeed()
    assert only_size() == 16
    succeed()
    assert only_size() == 8
    succeed()
    assert cluster.slots() == {"b": SLOT_COUNT}


# --- deaths ------------------------------------------------------------------------------------


def silence(cluster: Cluster, *silent: str) -> None:
    """Let servers be silent until they are out."""
    for _ in range(SILENCE_MS // 500 + 1):
        for name in cluster.state.fleet.members.keys() - set(silent):
            cluster(Reported(name, cluster.state.fleet.members[name].report))
        cluster(Tick(), 500)


def test_the_target_of_a_move_gets_the_slots_of_a_source_that_died() -> None:
    cluster = two_servers()
    cluster(Reported("a", Report(jobs={"default": JobUsage(1000, 10, 10)})))
    cluster(Joined(joining("c")))
    ordered = [move for _, move in cluster.moves() if move.source == "a"]
    (move,) = ordered
    silence(cluster, "a")
    placement = cluster.state.placements["default"]
    assert {placement.owner(slot) for slot in range(move.start, move.end + 1)} == {"c"}
    assert cluster.slots().keys() == {"b", "c"}
    assert lost_keys(cluster) == 10
    # It turns out that the target had them.
    done = cluster(SlotsMoved("c", "default", move.id, keys=4))
    assert "keys had been moved before their server died" in events(done)
    assert lost_keys(cluster) == 6
    cluster(SlotsMoved("c", "default", move.id, keys=4))
    assert lost_keys(cluster) == 6


def test_keys_that_were_handed_over_are_not_lost_with_their_old_server() -> None:
    cluster = one_and_one()
    cluster(Reported("a", Report(jobs={"default": JobUsage(1000, 10, 10)})))
    job_id, move = only_move(cluster)
    cluster(SlotsMoved("a", job_id, move.id, keys=4, moved_bytes=400))
    assert cluster.state.used_bytes("default") == {"a": 600, "b": 400}
    silence(cluster, "a")
    assert lost_keys(cluster) == 6
    cluster(Joined(joining("c")))
    cluster.carry_out_moves()
    silence(cluster, "b")
    assert lost_keys(cluster) == 10


def test_moves_to_a_server_that_died_are_dropped_and_go_elsewhere() -> None:
    cluster = two_servers()
    cluster(Joined(joining("c")))
    before = cluster.slots()
    assert {move.target for _, move in cluster.moves()} == {"c"}
    silence(cluster, "c")
    assert (cluster.moves(), cluster.slots()) == ([], before)
    assert lost_keys(cluster) == 0


def test_keys_that_were_lost_on_the_way_are_counted_once() -> None:
    cluster = one_and_one()
    job_id, move = only_move(cluster)
    silence(cluster, "b")
    told = MoveFailed("a", job_id, move.id, "3 keys", code="LOST", keys=3)
    assert "data lost" in events(cluster(told))
    assert "data lost" not in events(cluster(told))
    assert lost_keys(cluster) == 3


def test_when_all_servers_die_jobs_wait_without_moves() -> None:
    cluster = served({"dram": 2})
    first, second = sorted(cluster.slots())
    (start,) = of(StartServer, cluster(ProcessDied(first, "killed")))
    cluster(Joined(joining(start.server_id)))
    assert cluster.moves()
    cluster(ProcessDied(second, "killed"))
    cluster(ProcessDied(start.server_id, "killed"))
    assert (cluster.slots(), cluster.moves()) == ({}, [])


def test_a_server_that_was_out_gets_slots_only_when_it_has_heard_the_maps() -> None:
    cluster = Cluster()
    cluster(Joined(joining("a", "nvme")))
    cluster(Joined(joining("b", "nvme")))
    cluster.carry_out_moves()
    silence(cluster, "a")
    cluster(Joined(joining("a", "nvme", epoch=cluster.state.epoch)))
    # Were it given slots now, it would serve from its files what is long out of date.
    assert (cluster.moves(), cluster.slots()) == ([], {"b": SLOT_COUNT})
    cluster(Tick(), 250)
    assert cluster.moves() == []
    cluster(Reported("a", Report()))
    cluster(Tick(), 250)
    cluster.carry_out_moves()
    assert sorted(cluster.slots()) == ["a", "b"]


def test_a_lone_server_that_was_out_is_given_nothing_before_it_has_dropped_what_it_had() -> None:
    cluster = served({"nvme": 1})
    cluster(Tick())
    cluster(ProcessDied("nvme-1", "killed"))
    cluster(Tick(), 1000)
    done = cluster(Joined(joining("nvme-1", "nvme")))
    assert cluster.slots() == {}
    (update,) = of(SendUpdate, done)
    assert update.update.placements == ()
    cluster(Reported("nvme-1", Report()))
    cluster(Tick(), 250)
    assert cluster.slots() == {"nvme-1": SLOT_COUNT}


# --- the controller ----------------------------------------------------------------------------


def test_a_restarted_controller_goes_on_with_moves_that_are_under_way() -> None:
    cluster = one_and_one()
    job_id, move = only_move(cluster)
    cluster.restart()
    assert only_move(cluster) == (job_id, move)
    assert of(SendUpdate, cluster(Tick())) == []
    for name in "ab":
        assert of(SendUpdate, cluster(Joined(joining(name, epoch=cluster.state.epoch)))) == []
    cluster(SlotsMoved("b", job_id, move.id))
    assert cluster.slots() == {"a": SLOT_COUNT // 2, "b": SLOT_COUNT // 2}


def test_a_restarted_controller_orders_what_was_still_to_be_moved() -> None:
    cluster = two_servers()
    for name in "ab":
        cluster(Reported(name, Report(jobs={"default": JobUsage(used_bytes=2 * GIB)})))
    cluster(Joined(joining("c")))
    cluster.restart()
    cluster(Tick())
    cluster.carry_out_moves()
    assert sorted(cluster.slots().values()) == [5461, 5461, 5462]


def test_a_member_with_a_newer_epoch_leaves_moves_as_they_are() -> None:
    cluster = one_and_one()
    before = only_move(cluster)
    cluster(Joined(router(epoch=500)))
    assert only_move(cluster) == before
    assert cluster.state.placements["default"].epoch == 501


# --- jobs that leave keys behind ---------------------------------------------------------------


@pytest.mark.parametrize("is_late", [False, True])
def test_slots_that_changed_hands_while_their_job_ended_are_retired_from_where_they_are(
    is_late: bool,
) -> None:
    cluster = Cluster()
    cluster(Joined(joining("a")))
    cluster(Joined(joining("h", "hdd")))
    sort = job(tiers=("dram",))
    cluster(JobRegistered(sort))
    cluster(JobRetains(sort.id))
    cluster(Joined(joining("b")))
    (move,) = [move for job_id, move in cluster.moves() if job_id == sort.id]
    if not is_late:
        cluster(SlotsMoved("b", sort.id, move.id, keys=3))
    cluster(JobDeregistered(sort.id))
    placement = cluster.state.placements[sort.id]
    assert (placement.moves, placement.retire_to) == ((), "h")
    if is_late:
        assert cluster.slots(sort.id) == {"a": SLOT_COUNT}
        cluster(SlotsMoved("b", sort.id, move.id, keys=3))
    assert cluster.slots(sort.id).keys() == {"a", "b"}
    retention = cluster.state.tenants[sort.id].retention
    assert retention is not None
    assert retention.pending == cluster.state.placements[sort.id].owners()
