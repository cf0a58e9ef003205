"""The fleet: which storage servers should run, which were asked for, which are there. Pure.

Three things are kept apart: the plan (`wanted` servers per tier), what was `requested` of the
backend and has not joined yet, and what is observed (`members`). Only their difference leads to
a request, so nothing is started twice. A tier whose servers keep dying young is given ever longer
pauses. A server that keeps files is started again under its id, so that it finds them; one that
then keeps failing to join is replaced. Whether a server may go is not known here: that depends on
the slots that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Final, TypeAlias

from pocketkv.controller.errors import UnknownServerError
from pocketkv.controller.members import JobUsage, Joining, Report
from pocketkv.controller.policy import Condition
from pocketkv.controller.rates import Rates
from pocketkv.placement import Server, ServerState

# A server that dies younger than this has not worked: starting it again at once may not help.
YOUNG_MS: Final = 10_000
# Pauses before such a server is replaced: none, then from the first to the second figure.
PAUSE_MIN_MS: Final = 500
PAUSE_MAX_MS: Final = 30_000
# So often a server that keeps files is started again before they are given up.
REVIVALS_MAX: Final = 5
# A server whose CPU is above this part of a core in so many reports in a row is given slots last.
BUSY_CPU: Final = 0.8
BUSY_REPORTS: Final = 3
# A requested server that has not joined by then never will.
START_TIMEOUT_MS: Final = 20_000
# After a restart, members have this much longer to find the controller again.
RESTART_GRACE_MS: Final = 1_500
# Servers that were given up and are remembered, in case they come back.
LOST_SERVERS_MAX: Final = 1_000
# How many keys a server has of a job is remembered anew when it is more or less by this part.
MISCOUNT_MAX: Final = 0.1


@dataclass(frozen=True)
class BackendTraits:
    """What is peculiar to a backend.

    Attributes:
        restarts_in_place: A server that died, or was stopped while it is wanted, is started again
            under its id.
        start_timeout_ms: A requested server that has not joined by then is given up.
        restart_grace_ms: So long members need to find a controller that has just begun.
        is_ours: Whether a server that joins unasked is the backend's, so that it belongs to the
            plan.
        count_interval_ms: So often, at most, what is remembered of servers' keys is brought up to
            date for its own sake.
    """

    restarts_in_place: bool = False
    start_timeout_ms: int = START_TIMEOUT_MS
    restart_grace_ms: int = RESTART_GRACE_MS
    is_ours: Callable[[str], bool] = lambda server_id: False
    count_interval_ms: int = 0


@dataclass(frozen=True)
class Drain:
    """Why and since when a server gives everything away.

    One that `leaves` was told to end by somebody else. `is_done` when it has nothing any more. One
    that `returns` is started again under its id, so that nothing else takes its place.
    """

    reason: str
    since_ms: int
    leaves: bool = False
    is_done: bool = False
    returns: bool = False


Counts: TypeAlias = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Member:
    """A storage server that has joined.

    `managed` ones were started by the backend, so that it may stop and replace them. It is
    draining if and only if it has a `drain`. One that was out and `is_stale` may still have what
    it had then: it gets no slots until it has reported, which it does when it has heard the maps.
    In its last `busy_reports` its CPU was busy; `job_commands` is what it executed for each job
    between the last two. `retain` is the store in which it can keep what jobs retain, if any.
    It `is_counted` if it has reported since it joined, or had to an earlier life of the controller.
    """

    server: Server
    generation: str
    managed: bool
    joined_ms: int
    heard_ms: int
    pid: int | None = None
    metrics_port: int | None = None
    retain: str = ""
    connected: bool = True
    report: Report = field(default_factory=Report)
    drain: Drain | None = None
    is_stale: bool = False
    rates: Rates = field(default_factory=Rates)
    busy_reports: int = 0
    job_commands: Mapping[str, int] = field(default_factory=dict)
    is_counted: bool = False

    @property
    def condition(self) -> Condition:
        """What it may be given: nothing while its medium takes no writes."""
        if self.report.medium_error or self.server.state is not ServerState.UP:
            return Condition.CLOSED
        return Condition.BUSY if self.busy_reports >= BUSY_REPORTS else Condition.OPEN

    @classmethod
    def joined(
        cls, joining: Joining, bandwidth_bytes_s: int, *, managed: bool, now_ms: int
    ) -> Member:
        """Return the member that a joining server becomes.

        Raises:
            PlacementError: there can be no such server.
        """
        given = joining.bandwidth_bytes_s
        server = Server(
            id=joining.id,
            tier=joining.tier,
            host=joining.host,
            port=joining.port,
            machine=joining.machine,
            capacity_bytes=joining.capacity_bytes,
            bandwidth_bytes_s=bandwidth_bytes_s if given is None else given,
            advertise_host=joining.advertise_host,
            machine_type=joining.machine_type,
        )
        return cls(
            server=server,
            generation=joining.generation,
            managed=managed,
            joined_ms=now_ms,
            heard_ms=now_ms,
            pid=joining.pid,
            metrics_port=joining.metrics_port,
            retain=joining.retain,
        )

    def counts(self) -> Counts:
        """Return how many keys it has of each job, and how many of them are retained."""
        jobs = self.report.jobs.items()
        return {name: (u.keys, u.retained_keys) for name, u in jobs if u.keys or u.retained_keys}

    def as_json(self) -> dict[str, Any]:
        """Return what is to be remembered, as what `json.dumps` takes."""
        return {
            "counts": self.counts() if self.is_counted else None,
            "server": self.server.as_json(),
            "generation": self.generation,
            "managed": self.managed,
            "pid": self.pid,
            "metrics_port": self.metrics_port,
            "drain": None if self.drain is None else asdict(self.drain),
            "is_stale": self.is_stale,
            "retain": self.retain,
        }

    def draining(self, drain: Drain | None) -> Member:
        """Return the member when it drains, or does not any more."""
        state = ServerState.UP if drain is None else ServerState.DRAINING
        return replace(self, server=replace(self.server, state=state), drain=drain)

    @property
    def ends_soon(self) -> bool:
        """Whether it will end, with whatever it then has."""
        return self.drain is not None and self.drain.leaves

    @classmethod
    def remembered(cls, record: Mapping[str, Any], now_ms: int) -> Member:
        """Return the member of a remembered record; it has not been heard of in this life."""
        drain = record.get("drain")
        counts = record.get("counts")
        jobs = {
            name: JobUsage(keys=keys, retained_keys=retained)
            for name, (keys, retained) in ({} if counts is None else counts).items()
        }
        member = cls(
            server=Server.from_json(record["server"]),
            generation=record["generation"],
            managed=record["managed"],
            joined_ms=now_ms,
            heard_ms=now_ms,
            pid=record["pid"],
            metrics_port=record["metrics_port"],
            retain=record.get("retain", ""),
            connected=False,
            is_stale=record.get("is_stale", False),
            report=Report(jobs=jobs),
            is_counted=counts is not None,
        )
        return member.draining(None if drain is None else Drain(**drain))


@dataclass(frozen=True)
class _Request:
    """A server that the backend was asked to start."""

    tier: str
    since_ms: int


@dataclass
class _Deaths:
    """Servers of one tier that died young, in a row."""

    count: int = 0
    pause_until_ms: int = 0


class Fleet:
    """Plan, requests and members.

    Args:
        new_server_id: Gives the id of a server of a tier that is about to be requested.

    Attributes:
        wanted: Servers that the backend is to run, by tier; those that drain do not count.
        plan_id: Where that comes from.
        members: By id.
        changed: Ids of members that came, went or said something new since this was last emptied.
        stopping: Ids of servers whose processes were told to end, and have not yet.
        lost: Generations of servers that were given up, by id: what they had is others' by now.
        traits: What is peculiar to the backend.
        waits: What servers that were requested wait for, by id, as the backend told.
    """

    def __init__(
        self, new_server_id: Callable[[str], str], traits: BackendTraits | None = None
    ) -> None:
        self._new_server_id = new_server_id
        self.traits = traits or BackendTraits()
        self.waits: dict[str, str] = {}
        self.wanted: dict[str, int] = {}
        self.plan_id = ""
        self.members: dict[str, Member] = {}
        self.changed: set[str] = set()
        self.stopping: set[str] = set()
        self.lost: dict[str, str] = {}
        # Of `stopping`, those that are to be started again.
        self._returning: set[str] = set()
        self._requests: dict[str, _Request] = {}
        self._deaths: dict[str, _Deaths] = {}
        # Servers that died and left files behind, with their tiers.
        self._revivable: dict[str, str] = {}
        # How often one was started again since it last joined.
        self._revivals: dict[str, int] = {}
        # What is remembered of how many keys members have, and who has reported since that was
        # looked at.
        self._remembered: dict[str, Counts] = {}
        self._reported: dict[str, None] = {}

    def up(self) -> list[Server]:
        """Return the servers that may be given slots, by id."""
        return [server for server in self.candidates() if server.state is ServerState.UP]

    def candidates(self) -> tuple[Server, ...]:
        """Return the servers that may have slots, by id."""
        return tuple(m.server for _, m in sorted(self.members.items()) if not m.is_stale)

    def servers(self) -> tuple[Server, ...]:
        """Return all servers, by id."""
        return tuple(member.server for _, member in sorted(self.members.items()))

    def member(self, server_id: str) -> Member:
        """Return a member.

        Raises:
            UnknownServerError: There is none of this id.
        """
        member = self.members.get(server_id)
        if member is None:
            raise UnknownServerError(server_id)
        return member

    def managed(self, tier: str) -> list[Member]:
        """Return the members of a tier that the backend started, the latest first."""
        found = [m for m in self.members.values() if m.managed and m.server.tier == tier]
        return sorted(found, key=lambda m: (-m.joined_ms, m.server.id))

    def staying(self, tier: str) -> list[Member]:
        """Return the members of a tier that the backend started and that do not drain."""
        return [member for member in self.managed(tier) if member.drain is None]

    def draining(self) -> list[Member]:
        """Return the members that are draining, by id."""
        return [m for _, m in sorted(self.members.items()) if m.drain is not None]

    def requested(self, tier: str) -> list[str]:
        """Return the ids of servers of a tier that were asked for and have not joined."""
        return sorted(name for name, r in self._requests.items() if r.tier == tier)

    @property
    def is_complete(self) -> bool:
        """Whether every server of the plan has joined."""
        return not self._requests and all(
            len(self.staying(tier)) >= count for tier, count in self.wanted.items()
        )

    # --- changes -------------------------------------------------------------------------------

    def expects(self, server_id: str) -> bool:
        """Return whether a server was requested and has not joined."""
        return server_id in self._requests

    def expected(self) -> list[str]:
        """Return the ids of all servers that were requested and have not joined."""
        return sorted(self._requests)

    def may_return(self, server_id: str) -> bool:
        """Return whether a server that is gone is to be started again, with its files."""
        return server_id in self._revivable

    def add(self, member: Member) -> None:
        """Take a server that joined, for the first time or again."""
        self._requests.pop(member.server.id, None)
        self.waits.pop(member.server.id, None)
        self._revivable.pop(member.server.id, None)
        self._revivals.pop(member.server.id, None)
        self.members[member.server.id] = member
        self.changed.add(member.server.id)

    def hear(self, server_id: str, now_ms: int, report: Report | None = None) -> None:
        """Note that a server lives, and what it reported."""
        member = self.members.get(server_id)
        if member is None:
            return
        member = replace(member, heard_ms=now_ms)
        if report is not None:
            rates = member.rates.after(report, now_ms)
            busy = member.busy_reports + 1 if report.cpu > BUSY_CPU else 0
            commands = _commands_since(member.report, report)
            member = replace(member, report=report, rates=rates, busy_reports=busy)
            member = replace(member, job_commands=commands, is_stale=False, is_counted=True)
            self.changed.add(server_id)
            self._reported[server_id] = None
        self.members[server_id] = member

    def disconnect(self, server_id: str) -> None:
        """Note that a server's connection is gone."""
        member = self.members.get(server_id)
        if member is not None:
            self.members[server_id] = replace(member, connected=False)

    def forgive(self, pause_ms: int) -> None:
        """Do not blame servers for a time in which the controller itself stood still."""
        for name, member in self.members.items():
            self.members[name] = replace(member, heard_ms=member.heard_ms + pause_ms)
        for name, request in self._requests.items():
            self._requests[name] = replace(request, since_ms=request.since_ms + pause_ms)

    def silent(self, now_ms: int, silence_ms: int) -> list[Member]:
        """Return the members that have not been heard of for longer than `silence_ms`."""
        found = [m for m in self.members.values() if now_ms - m.heard_ms > silence_ms]
        return sorted(found, key=lambda m: m.server.id)

    def remove(self, server_id: str, now_ms: int, *, has_died: bool) -> Member | None:
        """Take a server out; one that `has_died` young makes its tier pause.

        Returns:
            The member that it was; None if it had not joined.
        """
        request = self._requests.pop(server_id, None)
        member = self.members.pop(server_id, None)
        self._remembered.pop(server_id, None)
        self._reported.pop(server_id, None)
        self.waits.pop(server_id, None)
        self.changed.add(server_id)
        if member is not None and self._comes_back(member, has_died=has_died):
            self._revivable[server_id] = member.server.tier
        if has_died and request is not None:
            self._count_death(request.tier, now_ms, is_young=True)
            if self.traits.restarts_in_place or (
                0 < self._revivals.get(server_id, 0) < REVIVALS_MAX
            ):
                self._revivable[server_id] = request.tier
            else:
                self._revivals.pop(server_id, None)
        if has_died and member is not None:
            self.lost[server_id] = member.generation
            while len(self.lost) > LOST_SERVERS_MAX:
                del self.lost[next(iter(self.lost))]
        if has_died and member is not None and member.managed:
            # One that is only remembered from an earlier life is not young.
            is_young = 0 <= now_ms - member.joined_ms < YOUNG_MS
            self._count_death(member.server.tier, now_ms, is_young=is_young)
            if member.server.tier != "dram":
                self._revivable[server_id] = member.server.tier
        return member

    def _comes_back(self, member: Member, *, has_died: bool) -> bool:
        """Return whether a server that is out is to be started again under its id."""
        if not member.managed or not self.traits.restarts_in_place:
            return False
        return has_died or (member.drain is not None and member.drain.returns)

    def _count_death(self, tier: str, now_ms: int, *, is_young: bool) -> None:
        deaths = self._deaths.setdefault(tier, _Deaths())
        if not is_young:
            deaths.count = 0
            return
        deaths.count += 1
        # The first one is replaced at once: something outside may have ended it.
        if deaths.count > 1:
            pause_ms = min(PAUSE_MIN_MS << min(deaths.count - 2, 16), PAUSE_MAX_MS)
            deaths.pause_until_ms = now_ms + pause_ms

    def overdue(self, now_ms: int) -> list[tuple[str, str]]:
        """Return id and tier of requested servers that should have joined long ago."""
        return sorted(
            (name, r.tier)
            for name, r in self._requests.items()
            if now_ms - r.since_ms > self.traits.start_timeout_ms
        )

    def request_missing(self, now_ms: int) -> Iterator[tuple[str, str]]:
        """Request what the plan lacks; yields id and tier of each server to start now."""
        for tier in sorted(self.wanted):
            deaths = self._deaths.get(tier)
            if deaths is not None and now_ms < deaths.pause_until_ms:
                continue
            revivable = self._revivable_of(tier)
            for place in range(self._missing(tier)):
                if place < len(revivable):
                    server_id = revivable[place]
                    if server_id in self.stopping:
                        continue  # Its process has not ended yet, and has its files.
                    del self._revivable[server_id]
                    self._revivals[server_id] = self._revivals.get(server_id, 0) + 1
                else:
                    server_id = self._new_server_id(tier)
                self._requests[server_id] = _Request(tier, now_ms)
                yield server_id, tier

    def _missing(self, tier: str) -> int:
        """Return how many servers the plan of a tier lacks, of which none was asked for."""
        returning = sum(m.drain is not None and m.drain.returns for m in self.managed(tier))
        there = len(self.staying(tier)) + len(self.requested(tier)) + returning
        return self.wanted.get(tier, 0) - there

    def _revivable_of(self, tier: str) -> list[str]:
        return sorted(name for name, found in self._revivable.items() if found == tier)

    # --- stopping ------------------------------------------------------------------------------

    def stop(self, server_id: str) -> bool:
        """Note that a server that is out is told to end.

        Returns:
            Whether it is to be started again in place as soon as it has ended.
        """
        self.stopping.add(server_id)
        if self._is_to_return(server_id):
            self._returning.add(server_id)
        return server_id in self._returning

    def stopped(self, server_id: str) -> None:
        """Note that it has ended."""
        self.stopping.discard(server_id)
        self._returning.discard(server_id)

    def given_up(self) -> list[str]:
        """Return those that were to be started again, and are not any more: the plan shrank."""
        found = sorted(name for name in self._returning if not self._is_to_return(name))
        self._returning.difference_update(found)
        return found

    def _is_to_return(self, server_id: str) -> bool:
        tier = self._revivable.get(server_id)
        if tier is None or not self.traits.restarts_in_place:
            return False
        return self._revivable_of(tier).index(server_id) < self._missing(tier)

    # --- memory --------------------------------------------------------------------------------

    def miscounted(self, most: int) -> list[str]:
        """Return members that have other keys by now than what is remembered says.

        So many are looked at that have reported, the others the next time.
        """
        looked_at = list(islice(self._reported, most))
        for server_id in looked_at:
            del self._reported[server_id]
        return [name for name in looked_at if self._is_miscounted(name)]

    def _is_miscounted(self, server_id: str) -> bool:
        known = self._remembered.get(server_id)
        counts = self.members[server_id].counts()
        return known is None or any(
            abs(now - before) > MISCOUNT_MAX * max(now, before)
            for name in known.keys() | counts.keys()
            for now, before in zip(counts.get(name, (0, 0)), known.get(name, (0, 0)), strict=True)
        )

    def record(self, server_id: str) -> dict[str, Any] | None:
        """Return what is to be remembered of a server; None if there is no such."""
        member = self.members.get(server_id)
        if member is not None:
            if member.is_counted:
                self._remembered[server_id] = member.counts()
            return member.as_json()
        request = self._requests.get(server_id)
        return None if request is None else {"requested": request.tier}

    def remember(self, server_id: str, record: Mapping[str, Any], now_ms: int) -> None:
        """Take back what `record` returned in an earlier life.

        Raises:
            KeyError, TypeError, PlacementError: not such a record.
        """
        if "requested" in record:
            self._requests[server_id] = _Request(str(record["requested"]), now_ms)
        else:
            member = self.members[server_id] = Member.remembered(record, now_ms)
            self.changed.add(server_id)
            if member.is_counted:
                self._remembered[server_id] = member.counts()

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        assert not self._requests.keys() & self.members.keys()
        assert not self.stopping & self.members.keys()
        assert self._returning <= self.stopping
        assert all(count >= 0 for count in self.wanted.values())
        assert all(name == m.server.id for name, m in self.members.items())
        for member in self.members.values():
            is_draining = member.server.state is ServerState.DRAINING
            assert is_draining == (member.drain is not None)


def _commands_since(before: Report, after: Report) -> dict[str, int]:
    """Return the commands of each job between two reports; a process counts from 0."""
    found = {}
    for job_id, usage in after.jobs.items():
        known = before.jobs.get(job_id)
        earlier = 0 if known is None or known.commands > usage.commands else known.commands
        found[job_id] = usage.commands - earlier
    return found
