"""The servers of a simulated cluster, with sums by tier that are kept as they change. Pure.

Ten thousand servers cannot be looked at once per second of a day. What scaling asks of a tier is
kept up to date instead: `SummedView` answers what `TierView` would, of the same servers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from pocketkv.controller.loads import ServerLoad, TierView
from pocketkv.controller.policy import Commitment, Rooms
from pocketkv.placement import ServerState
from pocketkv.simulate.running import Running, Station

NETWORK = "network"
CAPACITY = "capacity"


@dataclass
class TierSums:
    """What all servers of a tier come to.

    Attributes:
        loads: Each as scaling sees it; `staying` those that do not leave.
        used, can: By resource; `can` is that of staying servers.
        kept_bytes, kept_bytes_s: What jobs keep.
        placed: How many jobs there are, one counted on each server that has it.
    """

    loads: dict[str, ServerLoad] = field(default_factory=dict)
    staying: dict[str, ServerLoad] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=lambda: {NETWORK: 0, CAPACITY: 0})
    can: dict[str, int] = field(default_factory=lambda: {NETWORK: 0, CAPACITY: 0})
    kept_bytes: int = 0
    kept_bytes_s: int = 0
    placed: int = 0
    changed: dict[str, None] = field(default_factory=dict)
    hot: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class SummedView(TierView):
    """A `TierView` that is told the sums over its servers instead of adding them up."""

    sums: TierSums = field(default_factory=TierSums)

    @cached_property
    def staying(self) -> list[ServerLoad]:
        """As `TierView.staying`."""
        return list(self.sums.staying.values())

    @cached_property
    def uses(self) -> dict[str, float]:
        """As `TierView.uses`."""
        sums = self.sums
        if not sums.loads:
            return {}
        return {name: sums.used[name] / can for name, can in sums.can.items() if can > 0}

    def above(self, mark: float) -> list[ServerLoad]:
        """As `TierView.above`, for a mark that is not below `HOT_FROM`."""
        assert mark >= HOT_FROM
        found = [self.sums.staying[name] for name in self.sums.hot if name in self.sums.staying]
        return sorted((s for s in found if s.busiest[1] > mark), key=lambda s: s.id)


HOT_FROM = 0.7
"""Servers that are used more than this are known by name."""


class Stations:
    """All servers, as scaling and placing want to see them.

    Attributes:
        by_id: The servers.
        rooms: What placing knows of them.
        version: Another one whenever there are other servers.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Station] = {}
        self.rooms = Rooms()
        self.version = 0
        self._tiers: dict[str, TierSums] = {}

    def sums(self, tier: str) -> TierSums:
        """Return what a tier's servers come to, as of now."""
        sums = self._tiers.setdefault(tier, TierSums())
        for name in sums.changed:
            station = self.by_id.get(name)
            if station is not None:
                self._look_at(name, station, sums)
        sums.changed.clear()
        return sums

    @staticmethod
    def _look_at(name: str, station: Station, sums: TierSums) -> None:
        server = station.server
        is_leaving = server.state is ServerState.DRAINING
        load = ServerLoad(
            name,
            {NETWORK: station.traffic_bytes_s, CAPACITY: station.held_bytes},
            {NETWORK: server.bandwidth_bytes_s, CAPACITY: server.capacity_bytes},
            held_bytes=station.held_bytes,
            may_go=not is_leaving,
            is_leaving=is_leaving,
        )
        sums.loads[name] = load
        if not is_leaving:
            sums.staying[name] = load
        if load.use(NETWORK) > HOT_FROM or load.use(CAPACITY) > HOT_FROM:
            sums.hot[name] = None
        else:
            sums.hot.pop(name, None)

    # --- servers come and go -------------------------------------------------------------------

    def add(self, station: Station) -> None:
        """Have a server that has joined."""
        server = station.server
        self.by_id[server.id] = station
        self._can(server.tier, server.bandwidth_bytes_s, server.capacity_bytes)
        self.rooms.put(server)
        self._tiers[server.tier].changed[server.id] = None
        self.version += 1

    def drain(self, server_id: str) -> None:
        """Have a server get nothing more."""
        station = self.by_id[server_id]
        server = station.server = replace(station.server, state=ServerState.DRAINING)
        sums = self.sums(server.tier)
        self._can(server.tier, -server.bandwidth_bytes_s, -server.capacity_bytes)
        del sums.staying[server_id]
        sums.changed[server_id] = None
        self.rooms.put(server, station.kept)

    def remove(self, server_id: str) -> None:
        """Forget a server that has nothing, and was drained."""
        station = self.by_id.pop(server_id)
        assert not station.jobs
        assert station.server.state is ServerState.DRAINING
        sums = self._tiers[station.server.tier]
        sums.loads.pop(server_id, None)
        sums.hot.pop(server_id, None)
        sums.changed.pop(server_id, None)
        self.rooms.remove(server_id)
        self.version += 1

    def _can(self, tier: str, bandwidth_bytes_s: int, capacity_bytes: int) -> None:
        can = self._tiers.setdefault(tier, TierSums()).can
        can[NETWORK] += bandwidth_bytes_s
        can[CAPACITY] += capacity_bytes

    # --- jobs come, change and go --------------------------------------------------------------

    def put(self, job: Running, server_id: str, own: Commitment | None) -> tuple[int, int]:
        """Have a job keep `own` of a server, and do there what it does now; None: nothing.

        Returns what more is moved per second, and held, than before.
        """
        station = self.by_id[server_id]
        sums = self._tiers[station.server.tier]
        before = job.own.pop(server_id, None)
        old_rate, old_held = job.loads.pop(server_id, (0, 0))
        rate = held = 0
        if own is not None:
            rate, held = job.load_of(job.slots[server_id])
            job.own[server_id], job.loads[server_id] = own, (rate, held)
            station.jobs[job.id] = None
        else:
            station.jobs.pop(job.id, None)
        if own != before:
            old_bytes, old_bytes_s = station.kept_in_bounds
            if before is not None:
                station.kept -= before
                sums.placed -= 1
            if own is not None:
                station.kept += own
                sums.placed += 1
            new_bytes, new_bytes_s = station.kept_in_bounds
            sums.kept_bytes += new_bytes - old_bytes
            sums.kept_bytes_s += new_bytes_s - old_bytes_s
            self.rooms.put(station.server, station.kept)
        station.traffic_bytes_s += rate - old_rate
        station.held_bytes += held - old_held
        sums.used[NETWORK] += rate - old_rate
        sums.used[CAPACITY] += held - old_held
        sums.changed[server_id] = None
        return rate - old_rate, held - old_held

    def validate(self) -> None:
        """Check that sums are what they would be if added up anew; tests call it."""
        self.rooms.validate()
        for tier in self._tiers:
            sums = self.sums(tier)
            mine = [s for s in self.by_id.values() if s.server.tier == tier]
            assert sums.loads.keys() == {s.server.id for s in mine}
            plain = TierView(tier, tuple(sums.loads.values()))
            summed = SummedView(tier, tuple(sums.loads.values()), sums=sums)
            by_name = {server.id: server for server in plain.staying}
            assert {server.id: server for server in summed.staying} == by_name
            assert summed.uses == plain.uses
            assert summed.above(HOT_FROM) == plain.above(HOT_FROM)
            assert sums.kept_bytes == sum(s.kept_in_bounds[0] for s in mine)
            assert sums.kept_bytes_s == sum(s.kept_in_bounds[1] for s in mine)
            assert sums.placed == sum(len(s.jobs) for s in mine)
            for station in mine:
                assert min(station.kept.capacity_bytes, station.held_bytes) >= 0
                assert station.kept.capacity_bytes <= station.server.capacity_bytes
                assert station.kept.jobs == len(station.jobs)
