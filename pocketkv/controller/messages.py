"""What the cluster's state is told (events) and what it wants done (instructions).

Events happen: they are past tense or requests, and carry everything that the state needs, so that
it looks at nothing else. Instructions are imperative and are carried out in their order by
`pocketkv.controller.service`; what is to be remembered comes before anybody is told of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pocketkv.controller.members import Joining, Report
from pocketkv.jobs import Hints, Job
from pocketkv.placement import PlacementMap, Server
from pocketkv.terms import Terms

# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """A member has connected and proved itself."""

    member: Joining


@dataclass(frozen=True)
class Left:
    """A member's connection is gone; a storage server may yet be alive."""

    member_id: str


@dataclass(frozen=True)
class Reported:
    """A member said how it is."""

    member_id: str
    report: Report


@dataclass(frozen=True)
class JobRegistered:
    """A job begins."""

    job: Job


@dataclass(frozen=True)
class JobUpdated:
    """A job changed its hints; None among them leaves the old one."""

    job_id: str
    hints: Hints


@dataclass(frozen=True)
class JobRenewed:
    """A job asks for its whole lease again."""

    job_id: str


@dataclass(frozen=True)
class JobDeregistered:
    """A job is over."""

    job_id: str


@dataclass(frozen=True)
class UserSet:
    """A job makes or changes one of its users by `rules`, as ACL SETUSER has them.

    A user that is new may do what the rule `fresh` says before those.
    """

    job_id: str
    name: str
    rules: tuple[bytes, ...]
    fresh: bytes = b""


@dataclass(frozen=True)
class UsersRemoved:
    """A job removes users."""

    job_id: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class JobConfigured:
    """A job changes settings that are its own."""

    job_id: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class SlotsMoved:
    """A move was carried out, as its source or target says: `keys` with `moved_bytes`."""

    member_id: str
    job_id: str
    move_id: str
    keys: int = 0
    moved_bytes: int = 0


@dataclass(frozen=True)
class MoveFailed:
    """A move was not carried out, and nothing has changed.

    With the code `LOST` it was, but the target died with what it had taken: `keys` are lost.
    """

    member_id: str
    job_id: str
    move_id: str
    reason: str
    code: str = ""
    keys: int = 0


@dataclass(frozen=True)
class JobRetains:
    """Keys of a job are about to be marked, to outlive it."""

    job_id: str


@dataclass(frozen=True)
class JobRetired:
    """A server has handed all that it retained of a job over to `target`, a server or a store.

    `keys` were handed over, `lost_keys` could not be read.
    """

    job_id: str
    server_id: str
    target: str
    keys: int
    lost_keys: int


@dataclass(frozen=True)
class JobRetireRefused:
    """The server that is to keep what a job retained does not take it."""

    job_id: str
    target: str
    reason: str


@dataclass(frozen=True)
class JobPurged:
    """Nobody needs any more what a job retained."""

    job_id: str


@dataclass(frozen=True)
class StorePurged:
    """What a job had left in a store is deleted."""

    job_id: str


@dataclass(frozen=True)
class TierScaled:
    """An administrator wants so many servers in a tier."""

    tier: str
    count: int


@dataclass(frozen=True)
class ServerDrained:
    """A storage server is to give everything away, and then to go.

    One that `leaves` was told to end: it goes with what is left when its time is over.
    """

    server_id: str
    reason: str = "asked for"
    leaves: bool = False


@dataclass(frozen=True)
class Ended:
    """A storage server that was told to end does so now, with what its last report says.

    It serves nothing of that any more, and nobody will have it again.
    """

    member_id: str
    report: Report


@dataclass(frozen=True)
class DrainCancelled:
    """A storage server that is draining is to stay."""

    server_id: str


@dataclass(frozen=True)
class ProcessDied:
    """The backend saw a storage server's process end, or could not start it.

    If it is not `is_sure`, another process may have come under the same id since: then this counts
    only if the server is not connected.
    """

    server_id: str
    reason: str
    is_sure: bool = True


@dataclass(frozen=True)
class ServerWaits:
    """A server that was requested cannot start yet, for a reason; or can, if that is empty."""

    server_id: str
    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed; comes several times a second."""


Event: TypeAlias = (
    Joined
    | Left
    | Reported
    | JobRegistered
    | JobUpdated
    | JobRenewed
    | JobDeregistered
    | UserSet
    | UsersRemoved
    | JobConfigured
    | SlotsMoved
    | MoveFailed
    | JobRetains
    | JobRetired
    | JobRetireRefused
    | JobPurged
    | StorePurged
    | TierScaled
    | ServerDrained
    | Ended
    | DrainCancelled
    | ProcessDied
    | ServerWaits
    | Tick
)

# --- instructions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Update:
    """What members are to know; `servers` is all of them, or None if they did not change.

    A `full` update replaces everything: a job that is not in it has ended.
    """

    epoch: int
    full: bool = False
    servers: tuple[Server, ...] | None = None
    placements: tuple[PlacementMap, ...] = ()
    ended: tuple[str, ...] = ()
    terms: tuple[Terms, ...] = ()

    def followed_by(self, later: Update) -> Update:
        """Return one update that says what this one and then a later one do; neither is full."""
        ended = dict.fromkeys([*self.ended, *later.ended])
        placements = {p.job_id: p for p in (*self.placements, *later.placements)}
        terms = {one.job_id: one for one in (*self.terms, *later.terms)}
        return Update(
            later.epoch,
            servers=self.servers if later.servers is None else later.servers,
            placements=tuple(p for job_id, p in placements.items() if job_id not in ended),
            ended=tuple(ended),
            terms=tuple(one for job_id, one in terms.items() if job_id not in ended),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the update as what `json.dumps` takes; what is empty is left out."""
        document: dict[str, Any] = {"epoch": self.epoch, "full": self.full}
        if self.servers is not None:
            document["servers"] = [server.as_json() for server in self.servers]
        if self.placements:
            document["placements"] = [placement.as_json() for placement in self.placements]
        if self.terms:
            document["terms"] = [one.as_json() for one in self.terms]
        if self.ended:
            document["ended"] = list(self.ended)
        return document


@dataclass(frozen=True)
class Persist:
    """Write all of this, or nothing. Records are what `json.dumps` takes.

    Of `events`, whose ids sort as they happened, only the newest are kept.
    """

    epoch: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    placements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed_jobs: tuple[str, ...] = ()
    removed_servers: tuple[str, ...] = ()
    events: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def followed_by(self, later: Persist) -> Persist:
        """Return one batch that does what this one and then a later one do."""
        jobs = {**self.jobs, **later.jobs}
        servers = {**self.servers, **later.servers}
        placements = {**self.placements, **later.placements}
        ended = dict.fromkeys([*self.removed_jobs, *later.removed_jobs])
        gone = {**dict.fromkeys(self.removed_servers), **dict.fromkeys(later.removed_servers)}
        for job_id in ended:
            # The id of a job never comes again.
            jobs.pop(job_id, None)
            placements.pop(job_id, None)
        for server_id in later.removed_servers:
            servers.pop(server_id, None)
        return Persist(
            epoch=later.epoch,
            facts={**self.facts, **later.facts},
            jobs=jobs,
            placements=placements,
            servers=servers,
            removed_jobs=tuple(ended),
            removed_servers=tuple(name for name in gone if name not in servers),
            events={**self.events, **later.events},
        )


@dataclass(frozen=True)
class SendUpdate:
    """Tell every member that is connected."""

    update: Update


@dataclass(frozen=True)
class StartServer:
    """Have the backend start a storage server that will join under this id."""

    server_id: str
    tier: str


@dataclass(frozen=True)
class WatchServer:
    """Have the backend watch a server that it started in an earlier life."""

    server_id: str
    pid: int


@dataclass(frozen=True)
class StopServer:
    """Have the backend stop a storage server; with `force`, it gets no time to do anything.

    One that `returns` will be started again under its id as soon as it has ended.
    """

    server_id: str
    force: bool = False
    returns: bool = False


@dataclass(frozen=True)
class Log:
    """Write an event to the log."""

    level: int
    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


Instruction: TypeAlias = Persist | SendUpdate | StartServer | WatchServer | StopServer | Log


@dataclass(frozen=True)
class Snapshot:
    """What a controller remembered: the records of `Persist`, by their ids."""

    epoch: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    placements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
