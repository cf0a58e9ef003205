"""What one event has changed, and the instructions that follow from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketkv.controller.events import Events
from pocketkv.controller.fleet import Fleet
from pocketkv.controller.messages import Instruction, Log, Persist, SendUpdate, Update
from pocketkv.controller.placements import Placements
from pocketkv.controller.tenants import Tenant


@dataclass
class Changes:
    """Notes taken while one event is handled.

    Attributes:
        stamped: Whether it has an epoch of its own, so that members are told.
        servers, facts: Whether the list of servers changed, or the plan, or what is to be deleted.
        terms: Ids of jobs whose terms members are to be told.
        jobs, placements, records: Ids of jobs, maps and servers to be remembered anew.
        ended: Ids of jobs that are over.
        logs, actions: What else is to be done.
    """

    stamped: bool = False
    servers: bool = False
    facts: bool = False
    terms: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    placements: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    records: set[str] = field(default_factory=set)
    logs: list[Log] = field(default_factory=list)
    actions: list[Instruction] = field(default_factory=list)

    def log(self, level: int, event: str, **fields: Any) -> None:
        """Note an event for the log."""
        self.logs.append(Log(level, event, fields))

    def instructions(
        self,
        epoch: int,
        fleet: Fleet,
        tenants: Mapping[str, Tenant],
        placements: Placements,
        events: Events,
        purges: Mapping[str, str],
    ) -> list[Instruction]:
        """Return what is to be done: remember, then tell, then act."""
        found: list[Instruction] = []
        if self.stamped or self.facts or self.jobs or self.records:
            facts = {
                "wanted": dict(fleet.wanted),
                "plan_id": fleet.plan_id,
                "lost": dict(fleet.lost),
                "purges": dict(purges),
            }
            found.append(self._persist(epoch, facts, fleet, tenants, placements, events))
        found += self.logs
        if self.stamped:
            maps = tuple(placements[job_id] for job_id in sorted(self.placements))
            servers = fleet.servers() if self.servers else None
            told = [tenants[job_id].terms for job_id in sorted(self.terms)]
            terms = tuple(one for one in told if one is not None)
            ended = tuple(self.ended)
            found.append(SendUpdate(Update(epoch, False, servers, maps, ended, terms)))
        return found + self.actions

    def _persist(
        self,
        epoch: int,
        facts: Mapping[str, Any],
        fleet: Fleet,
        tenants: Mapping[str, Tenant],
        placements: Placements,
        events: Events,
    ) -> Persist:
        records = {name: fleet.record(name) for name in sorted(self.records)}
        return Persist(
            epoch=epoch,
            facts=facts,
            jobs={name: tenants[name].as_json() for name in sorted(self.jobs)},
            placements={name: placements[name].as_json() for name in sorted(self.placements)},
            servers={name: record for name, record in records.items() if record is not None},
            removed_jobs=tuple(self.ended),
            removed_servers=tuple(name for name, record in records.items() if record is None),
            events=events.take_records(),
        )
