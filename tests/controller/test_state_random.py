"""The state machine under random events, against what must always hold."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pocketkv.controller.errors import RefusedError
from pocketkv.controller.members import JobUsage, Report
from pocketkv.controller.messages import (
    DrainCancelled,
    Event,
    JobDeregistered,
    JobRegistered,
    JobRenewed,
    JobUpdated,
    Joined,
    Left,
    MoveFailed,
    ProcessDied,
    Reported,
    SendUpdate,
    ServerDrained,
    SlotsMoved,
    StartServer,
    Tick,
    TierScaled,
)
from pocketkv.jobs import Hints
from pocketkv.placement import PlacementMap, SlotMove
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
        self.known_moves: dict[str, tuple[str, SlotMove]] = {}
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
                    self._check_moves(placement, before.get(placement.job_id))
        changed = {n for n, p in self._maps().items() if before.get(n) != p}
        told = {p.job_id for i in done if isinstance(i, SendUpdate) for p in i.update.placements}
        assert changed == told

    def _check_moves(self, placement: PlacementMap, before: PlacementMap | None) -> None:
        """New moves go to servers that may be given slots, and have ids that there never were."""
        known = set() if before is None else {move.id for move in before.moves}
        targets = {server.id for server in self.cluster.state.fleet.up()}
        for move in placement.moves:
            if move.id not in known:
                assert f"{placement.job_id} {move.id}" not in self.known_moves
                assert move.target in targets
                self.known_moves[f"{placement.job_id} {move.id}"] = (placement.job_id, move)

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

    @rule(data=st.data(), kind=st.integers(0, 2), after_ms=st.integers(0, 400))
    def change_job(self, data: st.DataObject, kind: int, after_ms: int) -> None:
        name = self._pick(data, self.cluster.state.tenants)
        if kind == 0:
            self.tell(JobDeregistered(name), after_ms)
        elif kind == 1:
            self.tell(JobRenewed(name), after_ms)
        else:
            update = Hints(capacity_bytes=data.draw(st.sampled_from([0, MIB, GIB, 3 * GIB])))
            self.tell(JobUpdated(name, update), after_ms)

    @precondition(lambda self: self.known_moves)
    @rule(data=st.data(), is_target=st.booleans(), keys=st.integers(0, 9))
    def carry_out(self, data: st.DataObject, is_target: bool, keys: int) -> None:
        """A move is over, as one of the two says: maybe once more, maybe much too late."""
        job_id, move = self.known_moves[self._pick(data, self.known_moves)]
        teller = move.target if is_target else move.source
        self.tell(SlotsMoved(teller, job_id, move.id, keys, keys * 100), 0)

    @precondition(lambda self: self.known_moves)
    @rule(data=st.data(), code=st.sampled_from(["", "LOST"]), after_ms=st.integers(0, 400))
    def fail(self, data: st.DataObject, code: str, after_ms: int) -> None:
        job_id, move = self.known_moves[self._pick(data, self.known_moves)]
        self.tell(MoveFailed(move.source, job_id, move.id, "broken", code, 3), after_ms)

    @precondition(lambda self: self.cluster.state.in_transit)
    @rule(data=st.data())
    def interfere(self, data: st.DataObject) -> None:
        """Somebody tells of a move that is none of its business, or of one that never was."""
        before = self._maps()
        for job_id, move in self.cluster.moves()[:1]:
            others = self.cluster.state.fleet.members.keys() - {move.source, move.target}
            for name in [*others, "nobody"]:
                self.tell(SlotsMoved(name, job_id, move.id), 0)
        job_id = self._pick(data, self.cluster.state.in_transit)
        self.tell(SlotsMoved("x", job_id, "0-0"), 0)
        after = self._maps()
        assert all(after[j].ranges == before[j].ranges for j in before)

    @rule()
    def come_to_rest(self) -> None:
        """When everything is carried out, everything is where it is to be."""
        cluster = self.cluster
        for _ in range(100):
            for job_id, move in cluster.moves():
                self.tell(SlotsMoved(move.target, job_id, move.id), 0)
            for name in cluster.state.fleet.members:
                self.tell(Reported(name, Report()), 0)
            self.tell(Tick(), 900)
            if not cluster.state.in_transit and not cluster.state.unsettled:
                break
        state = cluster.state
        assert not state.in_transit
        if state.fleet.up():
            assert not state.placeless or not state.is_started
            for member in state.fleet.draining():
                left = state.placements.jobs_naming(member.server.id)
                active = [job_id for job_id in left if state.tenants[job_id].retention is None]
                # One that does not have to go stays, and says why.
                is_stuck = not member.ends_soon and state.obstacle(member.server.id)
                assert not active or is_stuck, (member, state.placements[active[0]])

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
    @rule(data=st.data(), leaves=st.booleans(), begin=st.booleans())
    def drain(self, data: st.DataObject, leaves: bool, begin: bool) -> None:
        name = self._pick(data, self.cluster.state.fleet.members)
        self.tell(ServerDrained(name, leaves=leaves) if begin else DrainCancelled(name), 0)

    @precondition(lambda self: self.cluster.state.fleet.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.tell(Left(self._pick(data, self.cluster.state.fleet.members)), 0)

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


TestScaledMachine = ScaledMachine.TestCase
