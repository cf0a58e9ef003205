"""The state machine under random events, against what must always hold."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pocketkv.controller.errors import RefusedError
from pocketkv.controller.members import JobUsage, Report
from pocketkv.controller.messages import (
    DrainEnded,
    Event,
    JobDeregistered,
    JobRegistered,
    JobRenewed,
    JobSettled,
    JobUpdated,
    Joined,
    ProcessDied,
    Reported,
    SendUpdate,
    ServerDrained,
    StartServer,
    Tick,
    TierScaled,
)
from pocketkv.jobs import Hints
from pocketkv.placement import PlacementMap
from pocketkv.scaling_rules import ScalingRules, TierRange
from tests.controller.builders import GIB, MIB, job, joining, router
from tests.controller.cluster import Cluster


class Machine(RuleBasedStateMachine):
    """Random events; `Cluster` checks what must hold after each, and here what is told."""

    scaling: ScalingRules | None = None

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster({"dram": 2, "nvme": 1}, self.scaling)
        self.running: dict[str, str] = {}
        self.numbers = iter(range(10**9))
        self.epoch = 0
        self.map_epochs: dict[str, int] = {}
        self.tell(Tick(), 0)

    def tell(self, event: Event, after_ms: int) -> None:
        before = self._maps()
        try:
            done = self.cluster(event, after_ms)
        except RefusedError:
            assert self._maps() == before
            return
        for instruction in done:
            if isinstance(instruction, StartServer):
                assert instruction.server_id not in self.running
                self.running[instruction.server_id] = instruction.tier
            elif isinstance(instruction, SendUpdate):
                update = instruction.update
                assert update.epoch > self.epoch
                self.epoch = update.epoch
                for placement in update.placements:
                    assert placement.epoch == update.epoch
        changed = {n for n, p in self._maps().items() if before.get(n) != p}
        told = {p.job_id for i in done if isinstance(i, SendUpdate) for p in i.update.placements}
        assert changed == told

    def _maps(self) -> dict[str, PlacementMap]:
        return {p.job_id: p for p in self.cluster.state.placements.maps()}

    def _pick(self, data: st.DataObject, names: Iterable[str]) -> str:
        return data.draw(st.sampled_from(sorted(names)))

    @rule(
        capacity=st.none() | st.sampled_from([0, 1, MIB, GIB, 5 * GIB]),
        lambdas=st.none() | st.integers(0, 9),
        lease=st.none() | st.integers(1, 20),
        after_ms=st.integers(0, 400),
    )
    def register(
        self, capacity: int | None, lambdas: int | None, lease: int | None, after_ms: int
    ) -> None:
        new = job(
            now_ms=self.cluster.now_ms,
            number=next(self.numbers),
            capacity_bytes=capacity,
            lambdas=lambdas,
            lease_s=lease,
        )
        self.tell(JobRegistered(new), after_ms)

    @rule(data=st.data(), kind=st.integers(0, 3), after_ms=st.integers(0, 400))
    def change_job(self, data: st.DataObject, kind: int, after_ms: int) -> None:
        name = self._pick(data, self.cluster.state.tenants)
        if kind == 0:
            self.tell(JobDeregistered(name), after_ms)
        elif kind == 1:
            self.tell(JobRenewed(name), after_ms)
        elif kind == 2:
            update = Hints(capacity_bytes=data.draw(st.sampled_from([0, MIB, 3 * GIB])))
            self.tell(JobUpdated(name, update), after_ms)
        else:
            owners = sorted(self.cluster.slots(name))
            empty = data.draw(st.sets(st.sampled_from(owners))) if owners else set()
            self.tell(JobSettled(name, frozenset(empty)), after_ms)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), generation=st.sampled_from("11112"), after_ms=st.integers(0, 400))
    def join(self, data: st.DataObject, generation: str, after_ms: int) -> None:
        name = self._pick(data, self.running)
        retain = self.store_of(name)
        member = joining(name, self.running[name], generation=generation, epoch=0, retain=retain)
        self.tell(Joined(member), after_ms)

    @rule(name=st.sampled_from("xy"), epoch=st.integers(0, 50))
    def join_by_hand(self, name: str, epoch: int) -> None:
        self.tell(Joined(joining(name, "ssd", epoch=epoch, retain=self.store_of(name))), 0)

    def store_of(self, name: str) -> str:
        """What a server is started with; others have stores."""
        return ""

    @rule(epoch=st.integers(0, 100))
    def join_router(self, epoch: int) -> None:
        self.tell(Joined(router(epoch=epoch)), 0)

    @precondition(lambda self: self.cluster.state.fleet.members)
    @rule(
        data=st.data(),
        keys=st.integers(0, 9),
        cpu=st.sampled_from([0.0, 0.5, 0.95]),
        after_ms=st.integers(0, 400),
    )
    def report(self, data: st.DataObject, keys: int, cpu: float, after_ms: int) -> None:
        name = self._pick(data, self.cluster.state.fleet.members)
        jobs = {j: JobUsage(keys * 100, keys, keys) for j in self.cluster.state.tenants}
        self.tell(Reported(name, Report(jobs=jobs, cpu=cpu, keys=keys)), after_ms)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), after_ms=st.integers(0, 400))
    def die(self, data: st.DataObject, after_ms: int) -> None:
        name = self._pick(data, self.running)
        del self.running[name]
        self.tell(ProcessDied(name, "killed"), after_ms)

    @precondition(lambda self: self.cluster.state.fleet.members)
    @rule(data=st.data(), retire=st.booleans(), begin=st.booleans())
    def drain(self, data: st.DataObject, retire: bool, begin: bool) -> None:
        name = self._pick(data, self.cluster.state.fleet.members)
        self.tell(ServerDrained(name) if begin else DrainEnded(name, retire), 0)

    @rule(tier=st.sampled_from(["dram", "nvme", "ssd"]), count=st.integers(0, 4))
    def scale(self, tier: str, count: int) -> None:
        self.tell(TierScaled(tier, count), 0)

    @rule(after_ms=st.sampled_from([1, 250, 900, 900, 5_000]))
    def tick(self, after_ms: int) -> None:
        self.tell(Tick(), after_ms)

    @rule()
    def restart(self) -> None:
        self.cluster.restart()

    @invariant()
    def remembers_what_it_knows(self) -> None:
        state, memory = self.cluster.state, self.cluster.memory
        assert state.epoch >= memory.epoch == self.epoch or not self.epoch
        for name, placement in self._maps().items():
            if placement.ranges:
                assert memory.placements[name] == placement.as_json()
        assert memory.servers.keys() >= state.fleet.members.keys()


TestMachine = Machine.TestCase


class ScaledMachine(Machine):
    """The same, with tiers that follow their load, at little provocation."""

    scaling = ScalingRules(
        {"dram": TierRange(1, 3), "nvme": TierRange(0, 2), "ssd": TierRange(0, 1)},
        servers_max=5,
        up_after_s=0.0,
        down_after_s=1.0,
    )

    @rule(after_ms=st.sampled_from([250, 500]), seconds=st.integers(1, 8))
    def live(self, after_ms: int, seconds: int) -> None:
        """Let some time pass in which nothing dies, and idle servers say so."""
        for _ in range(seconds * 1000 // after_ms):
            for name in list(self.cluster.state.fleet.members):
                self.tell(Reported(name, Report()), 0)
            self.tell(Tick(), after_ms)

    @invariant()
    def keeps_its_limits(self) -> None:
        assert self.scaling is not None
        wanted, limits = self.cluster.state.fleet.wanted, self.scaling.tiers
        assert all(wanted.get(tier, 0) <= limits[tier].most for tier in limits)
        assert sum(wanted.values()) <= 5

    @invariant()
    def drains_what_is_there(self) -> None:
        fleet = self.cluster.state.fleet
        for name in self.cluster.state.drains:
            member = fleet.members.get(name)
            # One that died is forgotten with the next tick.
            assert member is None or member.managed


TestScaledMachine = ScaledMachine.TestCase
