"""A state machine with a memory, as the controller's shell has one, for its tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pocketkv.controller.messages import (
    Event,
    Instruction,
    Joined,
    Log,
    Persist,
    SendUpdate,
    SlotsMoved,
    Snapshot,
    StartServer,
    Tick,
)
from pocketkv.controller.state import ClusterState
from pocketkv.placement import SlotMove
from pocketkv.scaling_rules import ScalingRules
from tests.controller.builders import CATALOG, UNHINTED_SERVERS, counted_ids, joining

I = TypeVar("I")  # noqa: E741 - an instruction's type


class Cluster:
    """A state machine, its time, and a memory that does what `Persist` says."""

    def __init__(
        self, plan: dict[str, int] | None = None, rules: ScalingRules | None = None
    ) -> None:
        self.plan = plan
        self.rules = rules
        self.now_ms = 1_000_000
        self.ids = counted_ids()
        self.memory = Snapshot()
        self.state = self._new_state()

    def _new_state(self) -> ClusterState:
        return ClusterState(
            CATALOG,
            self.ids,
            now_ms=self.now_ms,
            plan=self.plan,
            rules=self.rules,
            snapshot=self.memory,
            unhinted_servers=UNHINTED_SERVERS,
        )

    def __call__(self, event: Event, after_ms: int = 0) -> list[Instruction]:
        self.now_ms += after_ms
        instructions = self.state.handle(event, self.now_ms)
        self.state.validate()
        remembered = False
        for instruction in instructions:
            if isinstance(instruction, Persist):
                self._remember(instruction)
                remembered = True
            elif isinstance(instruction, SendUpdate):
                assert remembered, "nobody is told what is not remembered"
        return instructions

    def _remember(self, persist: Persist) -> None:
        batch = json.loads(json.dumps(dataclasses.asdict(persist)))
        old = self.memory
        self.memory = Snapshot(
            epoch=batch["epoch"],
            facts={**old.facts, **batch["facts"]},
            jobs=_without({**old.jobs, **batch["jobs"]}, batch["removed_jobs"]),
            placements=_without({**old.placements, **batch["placements"]}, batch["removed_jobs"]),
            servers=_without({**old.servers, **batch["servers"]}, batch["removed_servers"]),
            events={**old.events, **batch["events"]},
        )

    def restart(self) -> None:
        """The controller dies, and another one remembers."""
        self.state = self._new_state()
        self.state.validate()

    def slots(self, job_id: str = "default") -> dict[str, int]:
        counts: dict[str, int] = {}
        for r in self.state.placements[job_id].ranges:
            counts[r.server_id] = counts.get(r.server_id, 0) + len(r)
        return counts

    def moves(self) -> list[tuple[str, SlotMove]]:
        return list(self.state.moves())

    def carry_out_moves(self) -> list[Instruction]:
        """Sources carry out all that is ordered, and what is ordered then."""
        done = []
        while ordered := self.moves():
            for job_id, move in ordered:
                done += self(SlotsMoved(move.source, job_id, move.id))
        return done

    def tick_until(self, after_ms: int) -> list[Instruction]:
        """Let time pass in steps that a controller's ticks have."""
        done = []
        for _ in range(0, after_ms, 250):
            done += self(Tick(), 250)
        return done


def _without(records: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: record for name, record in records.items() if name not in names}


def of(kind: type[I], instructions: list[Instruction]) -> list[I]:
    return [i for i in instructions if isinstance(i, kind)]


def events(instructions: list[Instruction]) -> list[str]:
    return [log.event for log in of(Log, instructions)]


def two_servers() -> Cluster:
    """A cluster without a backend: a and b have joined, and the job `default` is on both."""
    cluster = Cluster()
    cluster(Joined(joining("a")))
    cluster(Joined(joining("b")))
    cluster.carry_out_moves()
    return cluster


def served(plan: dict[str, int], rules: ScalingRules | None = None) -> Cluster:
    """A cluster with a backend whose servers have all joined."""
    cluster = Cluster(plan, rules)
    for start in of(StartServer, cluster(Tick())):
        cluster(Joined(joining(start.server_id, start.tier)))
    return cluster
