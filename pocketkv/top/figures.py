"""What a cluster answers as rows of figures, and rates between two answers. Pure.

A cluster may be of another version: a figure that it does not tell is 0, or empty, here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Reply: TypeAlias = "Mapping[str, Any]"

# Loads are parts of a whole; from here on a bar says that it is much, or too much.
BUSY = 0.6
FULL = 0.8


@dataclass(frozen=True)
class TierRow:
    """A tier. Loads are parts of what its servers have, 1.0 being all of it."""

    name: str
    servers: int
    wanted: int | None
    servers_min: int | None
    servers_max: int | None
    used_bytes: int
    capacity_bytes: int
    promised: float
    cost_usd_per_hour: float

    @property
    def used(self) -> float:
        """What part of the tier's room is used."""
        return part(self.used_bytes, self.capacity_bytes)


@dataclass(frozen=True)
class ServerRow:
    """A storage server. `network_bytes_s` is what it receives and sends."""

    id: str
    tier: str
    state: str
    address: str
    cpu: float
    network_bytes_s: float
    network: float
    used_bytes: int
    capacity_bytes: int
    keys: int
    jobs: int
    connections: int
    heard_ms_ago: int
    problem: str

    @property
    def used(self) -> float:
        """What part of its room is used."""
        return part(self.used_bytes, self.capacity_bytes)


@dataclass(frozen=True)
class JobRow:
    """A job."""

    id: str
    phase: str
    tiers: tuple[str, ...]
    servers: int
    used_bytes: int
    quota_bytes: int | None
    keys: int
    commands_s: float
    lost_keys: int
    lease_left_s: float | None
    cost_usd: float
    short: tuple[str, ...]


@dataclass(frozen=True)
class MoveRow:
    """Slots of a job on their way from one server to another."""

    job: str
    slots: str
    source: str
    target: str
    done_bytes: int
    total_bytes: int

    @property
    def done(self) -> float:
        """What part has been copied."""
        return part(self.done_bytes, self.total_bytes)


@dataclass(frozen=True)
class EventRow:
    """Something that happened; `text` has its fields."""

    id: int
    time_ms: int
    kind: str
    text: str


@dataclass(frozen=True)
class Answers:
    """What the cluster answered at a time, in seconds of some clock."""

    taken_s: float
    tiers: Sequence[Reply] = ()
    servers: Sequence[Reply] = ()
    jobs: Sequence[Reply] = ()
    moves: Sequence[Reply] = ()
    events: Sequence[Reply] = ()


@dataclass(frozen=True)
class View:
    """All that is shown at a time."""

    tiers: tuple[TierRow, ...] = ()
    servers: tuple[ServerRow, ...] = ()
    jobs: tuple[JobRow, ...] = ()
    moves: tuple[MoveRow, ...] = ()
    events: tuple[EventRow, ...] = field(default=())

    @property
    def cost_usd_per_hour(self) -> float:
        """What all servers cost."""
        return sum(tier.cost_usd_per_hour for tier in self.tiers)

    @property
    def used_bytes(self) -> int:
        """What all servers hold."""
        return sum(server.used_bytes for server in self.servers)

    @property
    def capacity_bytes(self) -> int:
        """What all servers could hold."""
        return sum(server.capacity_bytes for server in self.servers)


def part(amount: float, whole: float) -> float:
    """Return an amount as a part of a whole; 0 of nothing."""
    return amount / whole if whole > 0 else 0.0


def view(now: Answers, before: Answers | None) -> View:
    """Return what is shown of the newest answers; rates are reckoned from those `before`."""
    return View(
        tiers=tuple(_tier(reply) for reply in now.tiers if _shows(reply)),
        servers=tuple(_servers(now, before)),
        jobs=tuple(_jobs(now, before)),
        moves=tuple(_move(reply) for reply in now.moves),
        events=tuple(_event(reply) for reply in now.events),
    )


def _shows(tier: Reply) -> bool:
    """Whether a tier has, or should have, any servers."""
    return bool(_whole(tier, "servers") or tier.get("wanted") or tier.get("servers_max"))


def _tier(reply: Reply) -> TierRow:
    promised = max(
        part(_whole(reply, "committed_bytes"), _whole(reply, "capacity_bytes")),
        part(_whole(reply, "committed_bytes_s"), _whole(reply, "bandwidth_bytes_s")),
    )
    return TierRow(
        name=_text(reply, "tier"),
        servers=_whole(reply, "servers"),
        wanted=_optional(reply, "wanted"),
        servers_min=_optional(reply, "servers_min"),
        servers_max=_optional(reply, "servers_max"),
        used_bytes=_whole(reply, "used_bytes"),
        capacity_bytes=_whole(reply, "capacity_bytes"),
        promised=promised,
        cost_usd_per_hour=_number(reply, "cost_usd_per_hour"),
    )


def _servers(now: Answers, before: Answers | None) -> list[ServerRow]:
    earlier = {} if before is None else {_text(reply, "id"): reply for reply in before.servers}
    rows = []
    for reply in now.servers:
        old = earlier.get(_text(reply, "id"))
        moved = _rate(reply, old, "received_bytes", now, before)
        moved += _rate(reply, old, "sent_bytes", now, before)
        rows.append(
            ServerRow(
                id=_text(reply, "id"),
                tier=_text(reply, "tier"),
                state=_text(reply, "state"),
                address=f"{_text(reply, 'host')}:{_whole(reply, 'port')}",
                cpu=_number(reply, "cpu"),
                network_bytes_s=moved,
                network=part(moved, _number(reply, "bandwidth_bytes_s")),
                used_bytes=_whole(reply, "used_bytes"),
                capacity_bytes=_whole(reply, "capacity_bytes"),
                keys=_whole(reply, "keys"),
                jobs=_whole(reply, "jobs"),
                connections=_whole(reply, "connections"),
                heard_ms_ago=_whole(reply, "heard_ms_ago"),
                problem=_text(reply, "medium_error"),
            )
        )
    return rows


def _jobs(now: Answers, before: Answers | None) -> list[JobRow]:
    earlier = {} if before is None else {_text(reply, "id"): reply for reply in before.jobs}
    return [
        JobRow(
            id=_text(reply, "id"),
            phase=_text(reply, "phase"),
            tiers=_texts(reply, "tiers"),
            servers=_whole(reply, "server_count"),
            used_bytes=_whole(reply, "used_bytes"),
            quota_bytes=_optional(reply, "quota_bytes"),
            keys=_whole(reply, "keys"),
            commands_s=_rate(reply, earlier.get(_text(reply, "id")), "commands", now, before),
            lost_keys=_whole(reply, "lost_keys"),
            lease_left_s=None
            if reply.get("lease_left_s") is None
            else _number(reply, "lease_left_s"),
            cost_usd=_number(reply, "cost_usd"),
            short=_texts(reply, "short"),
        )
        for reply in now.jobs
    ]


def _move(reply: Reply) -> MoveRow:
    return MoveRow(
        job=_text(reply, "job"),
        slots=f"{_whole(reply, 'start')}-{_whole(reply, 'end')}",
        source=_text(reply, "source"),
        target=_text(reply, "target"),
        done_bytes=_whole(reply, "done_bytes"),
        total_bytes=_whole(reply, "total_bytes"),
    )


def _event(reply: Reply) -> EventRow:
    fields = reply.get("fields")
    told = fields if isinstance(fields, Mapping) else {}
    return EventRow(
        id=_whole(reply, "id"),
        time_ms=_whole(reply, "time_ms"),
        kind=_text(reply, "kind"),
        text=" ".join(f"{name}={value}" for name, value in told.items()),
    )


def _rate(
    reply: Reply, old: Reply | None, name: str, now: Answers, before: Answers | None
) -> float:
    """How much a counter grew in a second; 0 if it is not known, or began anew."""
    if old is None or before is None or now.taken_s <= before.taken_s:
        return 0.0
    grown = _whole(reply, name) - _whole(old, name)
    return max(0.0, grown / (now.taken_s - before.taken_s))


def _text(reply: Reply, name: str) -> str:
    value = reply.get(name)
    return "" if value is None else str(value)


def _texts(reply: Reply, name: str) -> tuple[str, ...]:
    value = reply.get(name)
    return tuple(map(str, value)) if isinstance(value, list | tuple | set) else ()


def _number(reply: Reply, name: str) -> float:
    value = reply.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _whole(reply: Reply, name: str) -> int:
    return int(_number(reply, name))


def _optional(reply: Reply, name: str) -> int | None:
    return None if reply.get(name) is None else _whole(reply, name)
