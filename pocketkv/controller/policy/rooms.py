"""What is free on every server, kept up to date, so that placing need not look at all. Pure.

Servers of a tier stand in the order of their load: what is taken of the scarcer of capacity and
bandwidth, then the number of jobs, then the id. The first in that order with room for the whole
of a job is where it goes, and mostly it is the very first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from pocketkv.controller.policy.needs import NOTHING, Commitment, Need
from pocketkv.placement import Server, ServerState


class Condition(IntEnum):
    """What a server may be given."""

    OPEN = 0
    """Slots, as far as it has room."""
    BUSY = 1
    """Slots if no server that is open has room: its CPU has as much to do as it should."""
    CLOSED = 2
    """None beyond what it has: it drains, is down, or its medium fails."""


class Room(NamedTuple):
    """A server and what is free there; ordered by load."""

    load: float
    jobs: int
    name: str
    free_bytes: int
    free_bytes_s: int
    server: Server
    condition: Condition

    @classmethod
    def of(
        cls, server: Server, taken: Commitment = NOTHING, condition: Condition = Condition.OPEN
    ) -> Room:
        """Return the room that is left of a server, `taken` being what jobs keep or use."""
        if server.state is not ServerState.UP:
            condition = Condition.CLOSED
        capacity, bandwidth = server.capacity_bytes, server.bandwidth_bytes_s
        return cls(
            max(
                taken.capacity_bytes / capacity if capacity else 1.0,
                taken.throughput_bytes_s / bandwidth if bandwidth else 1.0,
            ),
            taken.jobs,
            server.id,
            max(0, capacity - taken.capacity_bytes),
            max(0, bandwidth - taken.throughput_bytes_s),
            server,
            condition,
        )


def shares(need: Need, rooms: Sequence[Room]) -> list[float]:
    """Return which part of a job, at most 1, fits into each of the rooms.

    Like `Need.share`, for thousands of servers at once: here placing a large job spends its time.
    """
    capacity, throughput = need.capacity_bytes, need.throughput_bytes_s
    if capacity and throughput:
        # Without a tuple for each, which would have the garbage collector look at everything.
        parts = [
            one if (one := room[3] / capacity) < (other := room[4] / throughput) else other
            for room in rooms
        ]
    elif capacity:
        parts = [room[3] / capacity for room in rooms]
    elif throughput:
        parts = [room[4] / throughput for room in rooms]
    else:
        return [1.0] * len(rooms)
    return [1.0 if part > 1.0 else part for part in parts]


class Rooms:
    """The rooms of all servers, by id and by tier.

    Args:
        unhinted_servers: Over how many of them a job goes at first that says nothing.
    """

    def __init__(self, unhinted_servers: int = 1) -> None:
        self.unhinted_servers = unhinted_servers
        self._rooms: dict[str, Room] = {}
        self._taken: dict[str, Commitment] = {}
        self._ordered: dict[tuple[str, Condition], list[Room]] = {}
        self._machine_types: dict[str, Counter[str]] = {}
        self._conditions: Counter[Condition] = Counter()
        self._free: dict[tuple[str, Condition], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rooms)

    def __contains__(self, server_id: str) -> bool:
        return server_id in self._rooms

    def __getitem__(self, server_id: str) -> Room:
        return self._rooms[server_id]

    def taken(self, server_id: str) -> Commitment:
        """Return what jobs keep or use of a server."""
        return self._taken[server_id]

    def ordered(self, tier: str, condition: Condition) -> Sequence[Room]:
        """Return a tier's servers in a condition, the least loaded first; not to be changed."""
        return self._ordered.get((tier, condition), ())

    def has(self, tier: str, conditions: Collection[Condition]) -> bool:
        """Return whether a tier has a server in one of these conditions."""
        return any((tier, condition) in self._ordered for condition in conditions)

    def machine_types(self, tier: str) -> Collection[str]:
        """Return the machine types of a tier's servers; of an unknown one, it is empty."""
        return self._machine_types.get(tier, {}).keys()

    def free(self, tier: str, condition: Condition) -> tuple[int, int]:
        """Return what servers of a tier in a condition have free: bytes, and bytes per second."""
        return self._free.get((tier, condition), (0, 0))

    def _add_free(self, room: Room, sign: int) -> None:
        key = (room.server.tier, room.condition)
        free_bytes, free_bytes_s = self._free.get(key, (0, 0))
        self._free[key] = (
            free_bytes + sign * room.free_bytes,
            free_bytes_s + sign * room.free_bytes_s,
        )

    def count(self, tier: str) -> int:
        """Return how many servers a tier has, in whatever condition."""
        counter = self._machine_types.get(tier)
        return 0 if counter is None else counter.total()

    @property
    def all_closed(self) -> bool:
        """Whether no server may be given anything."""
        return self._conditions[Condition.CLOSED] == len(self._rooms)

    def put(
        self, server: Server, taken: Commitment = NOTHING, condition: Condition = Condition.OPEN
    ) -> None:
        """Have a server, or the newest of one; `taken` is what all jobs keep or use there."""
        room = Room.of(server, taken, condition)
        if self._rooms.get(server.id) == room:
            self._taken[server.id] = taken
            return
        self.remove(server.id)
        self._rooms[server.id] = room
        self._taken[server.id] = taken
        insort(self._ordered.setdefault((server.tier, room.condition), []), room)
        self._machine_types.setdefault(server.tier, Counter())[server.machine_type] += 1
        self._conditions[room.condition] += 1
        self._add_free(room, 1)

    def remove(self, server_id: str) -> None:
        """Forget a server, if there is such."""
        room = self._rooms.pop(server_id, None)
        if room is None:
            return
        del self._taken[server_id]
        key = (room.server.tier, room.condition)
        ordered = self._ordered[key]
        del ordered[bisect_left(ordered, room)]
        if not ordered:
            del self._ordered[key]
        counter = self._machine_types[room.server.tier]
        counter[room.server.machine_type] -= 1
        if not counter[room.server.machine_type]:
            del counter[room.server.machine_type]
        self._conditions[room.condition] -= 1
        self._add_free(room, -1)

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        listed = [room for rooms in self._ordered.values() for room in rooms]
        assert sorted(r.name for r in listed) == sorted(self._rooms)
        for (tier, condition), rooms in self._ordered.items():
            assert [r[:3] for r in rooms] == sorted(r[:3] for r in rooms)
            assert all((r.server.tier, r.condition) == (tier, condition) for r in rooms)
            assert all(self._rooms[r.name] is r for r in rooms)
            free = sum(r.free_bytes for r in rooms), sum(r.free_bytes_s for r in rooms)
            assert self.free(tier, condition) == free
        assert sum(map(self.count, self._machine_types)) == len(self._rooms)
        assert self._conditions.total() == len(self._rooms)
