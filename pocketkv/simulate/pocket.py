"""The policy of Pocket's released controller on a simulated cluster. Pure.

As in ``controller/controller.py`` of stanford-mast/pocket: what counts is the part of each server's
network that is allocated to jobs. A job is given the smallest gaps first; for what they lack, new
servers are started, of dram if it is sensitive and fits, else of flash, and it waits until all of
them are there. Its data stays where it is until it ends. Once a second, a dram server is added if
more than 1.0 of the mean server is allocated (which placing never lets happen), and the server with
least allocated gets no more jobs if less than 0.5 is; it goes when its jobs have ended.

What the release leaves open is filled in to its advantage: a job that needs more servers for its
capacity than for its throughput is placed by its capacity (there, that is not supported), an
allocation adds to those of other jobs (there, it overwrites them), and a server that is not used
any more is stopped, and not only forgotten.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pocketkv.catalog import MachineType
from pocketkv.jobs import Latency, infer
from pocketkv.simulate.clock import Clock
from pocketkv.simulate.meter import Meter
from pocketkv.simulate.policies import TICK_MS, Base, World
from pocketkv.simulate.progress import Progress
from pocketkv.simulate.trace import TracedJob

ALLOCATED_MAX: Final = 1.0
ALLOCATED_MIN: Final = 0.5
SERVERS_MIN: Final = 2
UNIT: Final = 10**9
"""Allocations are counted in billionths of a server, so that sums are exact."""


@dataclass
class _Node:
    """A server; `allocated` of `UNIT`."""

    id: str
    machine: MachineType
    allocated: int = 0
    jobs: int = 0
    is_leaving: bool = False


@dataclass
class _Tenant:
    traced: TracedJob
    parts: dict[str, int] = field(default_factory=dict)
    waits_for: int = 0
    rate_bytes_s: int = 0
    held_bytes: int = 0
    progress: Progress | None = None


class Pocket(Base):
    """Pocket's policy."""

    def __init__(self, world: World, clock: Clock, meter: Meter) -> None:
        super().__init__(world, clock, meter)
        self._nodes: dict[str, _Node] = {}
        self._order: list[tuple[int, str]] = []
        self._allocated = 0
        self._numbers = 0
        self._coming = 0
        self._is_looking = False
        tiers = [t for t in world.catalog.tiers if t.name in world.rules.tiers]
        self._dram = next((t.reference for t in tiers if t.name == "dram"), tiers[0].reference)
        self._flash = next((t.reference for t in tiers if t.name == "nvme"), self._dram)

    # --- servers -------------------------------------------------------------------------------

    def begin(self) -> None:
        """See `Policy.begin`."""
        for _ in range(SERVERS_MIN):
            self._add(self._start(self._dram))

    def _start(self, machine: MachineType) -> _Node:
        self._numbers += 1
        node = _Node(f"{machine.tier}-{self._numbers:07}", machine)
        self.meter.start(node.id, machine, self.now_ms)
        return node

    def _add(self, node: _Node) -> None:
        self._nodes[node.id] = node
        self._allocated += node.allocated
        insort(self._order, (node.allocated, node.id))

    def _allocate(self, node: _Node, more: int) -> None:
        if not node.is_leaving:
            del self._order[bisect_left(self._order, (node.allocated, node.id))]
            insort(self._order, (node.allocated + more, node.id))
        node.allocated += more
        node.jobs += 1 if more > 0 else -1
        self._allocated += more

    # --- jobs ----------------------------------------------------------------------------------

    def start(self, traced: TracedJob) -> None:
        """See `Policy.start`."""
        demand = infer(traced.hints, self.world.catalog)
        is_sensitive = demand.latency is Latency.SENSITIVE
        reference = self._dram if is_sensitive else self._flash
        by_throughput = demand.throughput_bytes_s / reference.bandwidth_bytes_s
        by_capacity = demand.capacity_bytes / reference.capacity_bytes
        missing = max(1, round(max(by_throughput, by_capacity) * UNIT))
        tenant = _Tenant(traced)
        # The fullest that still has a gap comes first.
        for allocated, name in reversed(self._order[: bisect_left(self._order, (UNIT, ""))]):
            if not missing:
                break
            part = min(missing, UNIT - allocated)
            tenant.parts[name] = part
            missing -= part
        for name, part in tenant.parts.items():
            self._allocate(self._nodes[name], part)
        self._look_on()
        tenant.progress = Progress(
            traced,
            self.clock,
            self.meter,
            lambda rate, held: self._use(tenant, rate, held),
            lambda: self._end(tenant),
        )
        if not missing:
            tenant.progress.lack(0)
            return
        self.meter.missing_jobs += 1
        machine = self._dram if is_sensitive else self._flash
        while missing:
            part = min(missing, UNIT)
            missing -= part
            node = self._start(machine)
            node.allocated, node.jobs = part, 1
            tenant.waits_for += 1
            tenant.parts[node.id] = part
            self._coming += 1
            self.clock.after(self.world.start_delay_ms, partial(self._join, node, tenant))

    def _join(self, node: _Node, tenant: _Tenant) -> None:
        self._coming -= 1
        self._add(node)
        tenant.waits_for -= 1
        if not tenant.waits_for and tenant.progress is not None:
            tenant.progress.lack(0)

    def _use(self, tenant: _Tenant, rate_bytes_s: int, held_bytes: int) -> None:
        self.meter.use(
            rate_bytes_s - tenant.rate_bytes_s, held_bytes - tenant.held_bytes, self.now_ms
        )
        tenant.rate_bytes_s, tenant.held_bytes = rate_bytes_s, held_bytes

    def _end(self, tenant: _Tenant) -> None:
        for name, part in tenant.parts.items():
            node = self._nodes[name]
            self._allocate(node, -part)
            self._stop_if_empty(node)
        self._look_on()

    def _stop_if_empty(self, node: _Node) -> None:
        if node.is_leaving and not node.jobs:
            del self._nodes[node.id]
            self.meter.stop(node.id, self.now_ms)

    # --- scaling -------------------------------------------------------------------------------

    def _look_on(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self.clock.at((self.now_ms // TICK_MS + 1) * TICK_MS, self._look)

    def _look(self) -> None:
        """Do what the controller does once a second; go on as long as something comes of it."""
        self._is_looking = False
        active = len(self._order)
        count = len(self._nodes)
        mean = self._allocated / (count * UNIT) if count else 0.0
        assert mean <= ALLOCATED_MAX, "no server is ever given more than it has"
        if mean < ALLOCATED_MIN and active > SERVERS_MIN:
            _, name = self._order.pop(0)
            node = self._nodes[name]
            node.is_leaving = True
            self._stop_if_empty(node)
            self._look_on()
        elif self._coming:
            self._look_on()

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        staying = [n for n in self._nodes.values() if not n.is_leaving]
        assert self._order == sorted((n.allocated, n.id) for n in staying)
        assert self._allocated == sum(n.allocated for n in self._nodes.values())
        assert all(0 <= n.allocated <= UNIT for n in self._nodes.values())
