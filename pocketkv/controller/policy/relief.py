"""Which slots to move away from servers that are too busy, so that the least is moved. Pure.

A server is hot when its CPU, its network or its capacity is used above a mark. Of the jobs on it,
those are moved first that take most load along for each byte that goes over the network. A job
that is on one server goes to another as a whole, so that it stays on one, unless no server could
take it and no other job will do; of others, as many slots go as are too much. They go to the
coolest servers of the same tier, which stay well below the mark and keep their promises to
others. What cannot be relieved so is what servers have to be added for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pocketkv.controller.policy.needs import NOTHING, ROUNDING, Commitment
from pocketkv.controller.policy.residents import Resident, check_all_slots, part_of
from pocketkv.controller.policy.rooms import Condition, Room, Rooms
from pocketkv.placement import Server

HOT_MARK: Final = 0.8
"""A server of which more than this part of a resource is used is hot."""

MARGIN: Final = 0.1
"""So far below the mark it is brought, and so far below it others are filled: else it would be
hot again at once, or they."""

# Shifts away from one hot server in one go. The next second brings the next, and better figures.
_SHIFTS_MAX: Final = 64


@dataclass(frozen=True)
class JobLoad:
    """What one job does to one server: part of a core, bytes per second in and out, bytes held."""

    cpu: float = 0.0
    bytes_s: float = 0.0
    used_bytes: int = 0


@dataclass(frozen=True)
class ServerLoad:
    """What a server has to do, and which jobs it does it for."""

    cpu: float = 0.0
    bytes_s: float = 0.0
    used_bytes: int = 0
    jobs: Mapping[str, JobLoad] = field(default_factory=dict)

    @classmethod
    def shared(
        cls,
        cpu: float,
        bytes_s: float,
        used_bytes: int,
        commands: Mapping[str, int],
        used: Mapping[str, int],
    ) -> ServerLoad:
        """Return a load of which each job has the part that its commands are of all commands.

        Args:
            cpu: Part of a core.
            bytes_s: Sent and received, the larger of the two.
            used_bytes: What the server holds.
            commands: How many commands each job had executed since the report before.
            used: What each job holds there, in bytes.
        """
        total = sum(commands.values())
        jobs = {}
        for name in {*commands, *used}:
            part = commands.get(name, 0) / total if total else 0.0
            jobs[name] = JobLoad(cpu * part, bytes_s * part, used.get(name, 0))
        return cls(cpu, bytes_s, used_bytes, jobs)

    def parts(self, server: Server) -> tuple[float, float, float]:
        """Return which parts of a server's CPU, network and capacity are used."""
        return _parts(server, self.cpu, self.bytes_s, self.used_bytes)


@dataclass(frozen=True)
class Relief:
    """What to move.

    Attributes:
        slots: New slots by server, by job.
        moving_bytes: What goes over the network, as far as is known.
        unrelieved: Servers that stay hot, and the resource (``cpu``, ``network``, ``capacity``).
    """

    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    moving_bytes: int = 0
    unrelieved: Mapping[str, str] = field(default_factory=dict)


RESOURCES: Final = ("cpu", "network", "capacity")
_Parts = tuple[float, float, float]


def relieve(
    residents: Iterable[Resident],
    loads: Mapping[str, ServerLoad],
    rooms: Rooms,
    *,
    mark: float = HOT_MARK,
    margin: float = MARGIN,
) -> Relief:
    """Return what to move away from hot servers.

    Args:
        residents: The jobs that may be moved; loads of others stay where they are.
        loads: By server. One that is not named gets nothing, as nobody knows how it is.
        rooms: All servers; only those that are open get something, or are busy and cool.
        mark: What part of a resource makes a server hot.
        margin: See `MARGIN`.
    """
    stage = _Stage(residents, loads, rooms, mark - margin)
    hot = [name for name, parts in stage.parts.items() if max(parts) > mark]
    unrelieved = {}
    for name in sorted(hot, key=lambda n: (-max(stage.parts[n]), n)):
        for _ in range(_SHIFTS_MAX):
            if max(stage.parts[name]) <= mark - margin + ROUNDING or not stage.shift(name):
                break
        if max(stage.parts[name]) > mark:
            worst = max(range(3), key=lambda r: stage.parts[name][r])
            unrelieved[name] = RESOURCES[worst]
    return Relief(stage.moved(), stage.moving_bytes, unrelieved)


@dataclass(frozen=True)
class _Shift:
    """Slots of a job that could go to a server, and what this is worth.

    `relief` is the part of the source's scarcest resource that it frees; `splits` says that the
    job would no more be on one server.
    """

    job_id: str
    target: str
    slots: int
    moving_bytes: int
    relief: float
    splits: bool

    @property
    def precedence(self) -> tuple[bool, float, float, str]:
        """The least is the best. What a byte is worth counts to a millionth, as bytes are whole."""
        bytes_per_relief = float(f"{self.moving_bytes / self.relief:.6g}")
        return self.splits, bytes_per_relief, -self.relief, self.job_id


class _Burden(NamedTuple):
    """What slots of a job do to the server that they are on, and what they keep of it."""

    slots: int
    cpu: float
    bytes_s: float
    used_bytes: float
    capacity_bytes: float
    throughput_bytes_s: float


class _Stage:
    """Servers and jobs as they are after what was decided so far."""

    def __init__(
        self,
        residents: Iterable[Resident],
        loads: Mapping[str, ServerLoad],
        rooms: Rooms,
        cool_mark: float,
    ) -> None:
        self._cool_mark = cool_mark
        self._loads = loads
        self._residents = {resident.job_id: resident for resident in residents}
        self._slots = {name: dict(r.slots) for name, r in self._residents.items()}
        known = sorted(name for name in loads if name in rooms)
        self._rooms = {name: rooms[name] for name in known}
        self._taken = {name: rooms.taken(name) for name in known}
        self.parts = {name: loads[name].parts(rooms[name].server) for name in known}
        self.moving_bytes = 0
        self._moved: set[str] = set()
        self._cool: dict[str, list[str]] = {}
        for name in known:
            if rooms[name].condition is not Condition.CLOSED and max(self.parts[name]) < cool_mark:
                self._cool.setdefault(rooms[name].server.tier, []).append(name)

    def moved(self) -> dict[str, Mapping[str, int]]:
        """Return the new slots of jobs that are to move."""
        for job_id in self._moved:
            check_all_slots(self._slots[job_id])
        return {job_id: self._slots[job_id] for job_id in sorted(self._moved)}

    def shift(self, source: str) -> bool:
        """Move what is worth most away from a hot server; returns whether there was anything."""
        resource = max(range(3), key=lambda r: self.parts[source][r])
        excess = self.parts[source][resource] - self._cool_mark
        found = [
            shift
            for job_id in self._loads[source].jobs
            if (shift := self._best_shift(job_id, source, resource, excess)) is not None
        ]
        if not found:
            return False
        self._apply(min(found, key=lambda shift: shift.precedence), source)
        return True

    def _best_shift(self, job_id: str, source: str, resource: int, excess: float) -> _Shift | None:
        """Return the best that can be done with one job, None if it is nothing."""
        count = self._slots.get(job_id, {}).get(source, 0)
        if not count:
            return None
        gain = self._job_parts(job_id, source, source)[resource] * self._left(job_id, source)
        if gain <= ROUNDING:
            return None
        is_whole = len(self._slots[job_id]) == 1
        wanted = count if is_whole else min(count, math.ceil(count * excess / gain - ROUNDING))
        return self._to_the_coolest(job_id, source, wanted, gain, excess, whole=is_whole)

    def _left(self, job_id: str, source: str) -> float:
        """Return which part of what the job had on a server is there still."""
        return self._slots[job_id][source] / self._residents[job_id].slots[source]

    def _to_the_coolest(
        self, job_id: str, source: str, wanted: int, gain: float, excess: float, *, whole: bool
    ) -> _Shift | None:
        count = self._slots[job_id][source]
        tier = self._rooms[source].server.tier
        most, target = 0, ""
        coolest = sorted(
            self._cool.get(tier, ()),
            key=lambda n: (self._rooms[n].condition, max(self.parts[n]), n),
        )
        burden = self._burden(job_id, source)
        for name in coolest:
            fits = 0 if name == source else self._slots_that_fit(burden, name)
            if fits >= wanted:
                most, target = wanted, name
                break
            if fits > most:
                most, target = fits, name
        if not most:
            return None
        splits = whole and most < wanted
        if splits:
            # It is too much for any server, so it has to be on several.
            most = min(most, math.ceil(count * excess / gain - ROUNDING))
        relief = gain * most / count
        if whole:
            relief = min(excess, relief)  # It goes as a whole, needed or not.
        used_bytes = self._loads[source].jobs[job_id].used_bytes
        moving = -(-used_bytes * most // self._residents[job_id].slots[source])
        return _Shift(job_id, target, most, moving, relief, splits)

    def _burden(self, job_id: str, source: str) -> _Burden:
        left = self._left(job_id, source)
        load = self._loads[source].jobs[job_id]
        own = self._residents[job_id].own_on(source)
        return _Burden(
            self._slots[job_id][source],
            load.cpu * left,
            load.bytes_s * left,
            load.used_bytes * left,
            own.capacity_bytes * left,
            own.throughput_bytes_s * left,
        )

    def _slots_that_fit(self, burden: _Burden, target: str) -> int:
        """Return how many of a job's slots on a server another could take, and stay cool."""
        room, mark = self._rooms[target], self._cool_mark
        share = 1.0
        more = _parts(room.server, burden.cpu, burden.bytes_s, burden.used_bytes)
        for used, part in zip(self.parts[target], more, strict=True):
            if part > 0 and share * part > mark - used:
                share = (mark - used) / part
        if burden.capacity_bytes > room.free_bytes:
            share = min(share, room.free_bytes / burden.capacity_bytes)
        if burden.throughput_bytes_s > room.free_bytes_s:
            share = min(share, room.free_bytes_s / burden.throughput_bytes_s)
        return max(0, int(burden.slots * share + ROUNDING))

    def _job_parts(self, job_id: str, source: str, on: str) -> _Parts:
        """Return which parts of a server the job's load on `source` would be."""
        load = self._loads[source].jobs[job_id]
        return _parts(self._rooms[on].server, load.cpu, load.bytes_s, load.used_bytes)

    def _apply(self, shift: _Shift, source: str) -> None:
        slots = self._slots[shift.job_id]
        resident = self._residents[shift.job_id]
        part = shift.slots / resident.slots[source]
        for name, sign in ((source, -1), (shift.target, 1)):
            more = self._job_parts(shift.job_id, source, name)
            old = self.parts[name]
            self.parts[name] = (
                old[0] + sign * part * more[0],
                old[1] + sign * part * more[1],
                old[2] + sign * part * more[2],
            )
        own = part_of(resident.own_on(source), shift.slots, resident.slots[source])
        self._take(source, NOTHING - own)
        self._take(shift.target, own)
        slots[source] -= shift.slots
        if not slots[source]:
            del slots[source]
        slots[shift.target] = slots.get(shift.target, 0) + shift.slots
        self.moving_bytes += shift.moving_bytes
        self._moved.add(shift.job_id)

    def _take(self, name: str, amount: Commitment) -> None:
        self._taken[name] += amount
        room = self._rooms[name]
        self._rooms[name] = Room.of(room.server, self._taken[name], room.condition)


def _parts(server: Server, cpu: float, bytes_s: float, used_bytes: float) -> _Parts:
    """Return which parts of a server's CPU, network and capacity so much is.

    What a server has none of, or does not say, cannot be used up.
    """
    return (
        cpu,
        bytes_s / server.bandwidth_bytes_s if server.bandwidth_bytes_s else 0.0,
        used_bytes / server.capacity_bytes if server.capacity_bytes else 0.0,
    )
