from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.controller.policy import NOTHING, Commitment, Condition, Room, Rooms
from pocketkv.controller.policy.needs import Need
from pocketkv.controller.policy.rooms import shares
from pocketkv.placement import ServerState
from tests.controller.builders import GIB, MIB, server

amounts = st.sampled_from([0, 1, MIB, GIB, 3 * GIB])
changes = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.none()
        | st.tuples(
            st.sampled_from(["dram", "nvme"]),
            st.sampled_from(["", "large"]),
            amounts,
            st.builds(Commitment, amounts, amounts, st.integers(0, 3)),
            st.sampled_from(Condition),
            st.sampled_from(ServerState),
        ),
    ),
    max_size=40,
)


@given(changes)
def test_whatever_happens_rooms_say_what_is_there(events: list[tuple[str, tuple | None]]) -> None:  # type: ignore[type-arg]
    rooms = Rooms()
    known: dict[str, Room] = {}
    for name, fields in events:
        if fields is None:
            rooms.remove(name)
            known.pop(name, None)
        else:
            tier, machine_type, capacity_bytes, taken, condition, state = fields
            one = server(
                name,
                tier,
                capacity_bytes=capacity_bytes,
                state=state,
                machine_type=machine_type,
            )
            rooms.put(one, taken, condition)
            known[name] = Room.of(one, taken, condition)
            assert rooms.taken(name) == taken
        rooms.validate()
    assert {name: rooms[name] for name in rooms} == known
    assert len(rooms) == len(known)
    assert rooms.all_closed == all(r.condition is Condition.CLOSED for r in known.values())
    for tier in ("dram", "nvme"):
        of_tier = [room for room in known.values() if room.server.tier == tier]
        assert rooms.count(tier) == len(of_tier)
        assert set(rooms.machine_types(tier)) == {room.server.machine_type for room in of_tier}
        assert rooms.has(tier, tuple(Condition)) == bool(of_tier)


@pytest.mark.parametrize("state", [ServerState.DRAINING, ServerState.DOWN])
def test_a_server_that_is_not_up_is_closed(state: ServerState) -> None:
    assert Room.of(server("a", state=state)).condition is Condition.CLOSED


def test_the_least_loaded_comes_first_by_what_is_scarcest_then_by_jobs() -> None:
    rooms = Rooms()
    rooms.put(server("a"), Commitment(GIB // 2, 0))
    rooms.put(server("b"), Commitment(GIB // 4, 75 * MIB))
    rooms.put(server("c"), Commitment(0, 0, jobs=2))
    rooms.put(server("d"), Commitment(0, 0, jobs=1))
    assert [r.name for r in rooms.ordered("dram", Condition.OPEN)] == ["d", "c", "a", "b"]


def test_a_server_that_has_nothing_to_give_is_full() -> None:
    assert Room.of(server("a", capacity_bytes=0)).load == 1
    assert Room.of(server("a", bandwidth_bytes_s=0)).load == 1
    over = Room.of(server("a"), Commitment(2 * GIB, 0))
    assert (over.free_bytes, over.load) == (0, 2)


@given(amounts, amounts, st.lists(st.tuples(amounts, amounts)))
def test_shares_of_many_rooms_are_those_of_each(
    capacity: int, throughput: int, free: list[tuple[int, int]]
) -> None:
    need = Need(capacity, throughput)
    found = [
        Room.of(server(str(i), capacity_bytes=c, bandwidth_bytes_s=b), NOTHING)
        for i, (c, b) in enumerate(free)
    ]
    assert shares(need, found) == [need.share(c, b) for c, b in free]
