"""Members of the cluster as they present themselves: what they join with and what they report.

Members are our own processes and have proved it, yet what they send is checked: an older or newer
version may run somewhere, and one bad message must not confuse the cluster's state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pocketkv.catalog import TIER_NAMES
from pocketkv.placement import is_store

STORAGE: Final = "storage"
ROUTER: Final = "router"

_AMOUNT_MAX: Final = 2**63 - 1
_TEXT_CHARACTERS_MAX: Final = 255
_URL_CHARACTERS_MAX: Final = 1024


class MemberError(ValueError):
    """What a member sent is not understood; the message is one line."""


@dataclass(frozen=True)
class JobUsage:
    """What one job has and did on one server.

    `retained_keys` are to outlive it. `s3_bytes` are in S3, which is no part of `used_bytes`.
    """

    used_bytes: int = 0
    keys: int = 0
    commands: int = 0
    retained_keys: int = 0
    s3_bytes: int = 0


@dataclass(frozen=True)
class Report:
    """What a member says of itself once a second.

    Attributes:
        used_bytes: What it holds for jobs, on whatever medium.
        index_bytes, memory_bytes: What of it is in memory, and may be.
        cpu: The part of one core that it uses.
        steal: The part of the machine's time that the hypervisor gave to others.
        received_bytes, sent_bytes, disk_read_bytes, disk_written_bytes: Since it started.
        medium_error: Why its medium takes no writes, if so.
        moves: By job and move, how many bytes were sent and how many there are to send.
    """

    used_bytes: int = 0
    index_bytes: int = 0
    memory_bytes: int = 0
    rss_bytes: int = 0
    cpu: float = 0.0
    steal: float = 0.0
    received_bytes: int = 0
    sent_bytes: int = 0
    disk_read_bytes: int = 0
    disk_written_bytes: int = 0
    keys: int = 0
    connections: int = 0
    medium_error: str = ""
    jobs: Mapping[str, JobUsage] = field(default_factory=dict)
    moves: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: str | bytes) -> Report:
        """Return the report of a JSON text; figures that are not there are 0.

        Raises:
            MemberError: not such a document.
        """
        fields = _object(document)
        jobs = fields.get("jobs") or {}
        moves = fields.get("moves") or {}
        if not isinstance(jobs, dict) or not isinstance(moves, dict):
            raise MemberError("the jobs or moves of a report are not an object")
        return cls(
            **{name: _amount(fields, name) for name in _REPORTED},
            cpu=_fraction(fields, "cpu"),
            steal=min(1.0, _fraction(fields, "steal")),
            medium_error=_text(fields, "medium_error") if fields.get("medium_error") else "",
            jobs={name: _usage(usage) for name, usage in jobs.items()},
            moves={name: _progress(progress) for name, progress in moves.items()},
        )

    def after_move(
        self, job_id: str, *, keys: int, used_bytes: int, retained_keys: int = 0
    ) -> Report:
        """Return the report as it would be with so much more of a job; less if negative."""
        usage = self.jobs.get(job_id, JobUsage())
        changed = replace(
            usage,
            keys=max(0, usage.keys + keys),
            used_bytes=max(0, usage.used_bytes + used_bytes),
            retained_keys=max(0, usage.retained_keys + retained_keys),
        )
        return replace(
            self,
            jobs={**self.jobs, job_id: changed},
            keys=max(0, self.keys + keys),
            used_bytes=max(0, self.used_bytes + used_bytes),
        )


_REPORTED: Final = (
    "used_bytes",
    "index_bytes",
    "memory_bytes",
    "rss_bytes",
    "received_bytes",
    "sent_bytes",
    "disk_read_bytes",
    "disk_written_bytes",
    "keys",
    "connections",
)


@dataclass(frozen=True)
class Joining:
    """What a member joins with.

    `epoch` is the newest that it has heard of, `generation` tells one run of the process from the
    next: what an earlier run held is gone. A router has no tier, and no capacity. `machine_type`
    is what the catalog calls the machine, empty if the member does not know. `retain` is the URL
    of the store in which a server can keep what jobs retain, if it has one.
    """

    id: str
    role: str
    host: str
    port: int
    generation: str
    tier: str = ""
    metrics_port: int | None = None
    pid: int | None = None
    machine: str = ""
    capacity_bytes: int = 0
    bandwidth_bytes_s: int | None = None
    advertise_host: str | None = None
    machine_type: str = ""
    retain: str = ""
    epoch: int = 0

    @classmethod
    def from_json(cls, document: str | bytes) -> Joining:
        """Return what a JSON text says.

        Raises:
            MemberError: not such a document, or not a member that there can be.
        """
        fields = _object(document)
        role = _text(fields, "role")
        if role not in (STORAGE, ROUTER):
            raise MemberError(f"a member's role is {STORAGE} or {ROUTER}")
        tier = _text(fields, "tier") if role == STORAGE else ""
        if role == STORAGE and tier not in TIER_NAMES:
            raise MemberError(f"a server's tier is one of {', '.join(TIER_NAMES)}")
        port = _amount(fields, "port")
        if not 1 <= port <= 65535:
            raise MemberError("a member's port is not 1..65535")
        return cls(
            id=_text(fields, "id"),
            role=role,
            host=_text(fields, "host"),
            port=port,
            # A process that tells none is another one when its number is another.
            generation=str(
                fields.get("generation") or f"{fields.get('machine')}:{fields.get('pid')}"
            ),
            tier=tier,
            metrics_port=_optional_amount(fields, "metrics_port"),
            pid=_optional_amount(fields, "pid"),
            machine=str(fields.get("machine") or ""),
            capacity_bytes=_amount(fields, "capacity_bytes") if role == STORAGE else 0,
            bandwidth_bytes_s=_optional_amount(fields, "bandwidth_bytes_s"),
            advertise_host=_text(fields, "advertise_host")
            if fields.get("advertise_host")
            else None,
            machine_type=_text(fields, "machine_type") if fields.get("machine_type") else "",
            retain=_store(fields),
            epoch=_amount(fields, "epoch"),
        )


@dataclass(frozen=True)
class Router:
    """A router that is connected; `host` and `port` are where clients reach it."""

    id: str
    host: str
    port: int
    pid: int | None
    metrics_port: int | None
    heard_ms: int
    report: Report = field(default_factory=Report)

    @classmethod
    def joined(cls, joining: Joining, now_ms: int) -> Router:
        """Return the router that a joining member is."""
        host = joining.advertise_host or joining.host
        return cls(joining.id, host, joining.port, joining.pid, joining.metrics_port, now_ms)


def _object(document: str | bytes) -> dict[str, Any]:
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MemberError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise MemberError("not a JSON object")
    return fields


def _text(fields: Mapping[str, Any], name: str, characters_max: int = _TEXT_CHARACTERS_MAX) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= characters_max:
        raise MemberError(f"a member's {name} is not a text")
    return value


def _store(fields: Mapping[str, Any]) -> str:
    url = fields.get("retain") or ""
    if url and not (isinstance(url, str) and is_store(url) and len(url) <= _URL_CHARACTERS_MAX):
        raise MemberError("a member's retain is not the URL of a store")
    return url


def _amount(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name, 0)
    if type(value) is not int or not 0 <= value <= _AMOUNT_MAX:
        raise MemberError(f"a member's {name} is not 0 or more")
    return value


def _optional_amount(fields: Mapping[str, Any], name: str) -> int | None:
    return None if fields.get(name) is None else _amount(fields, name)


def _fraction(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name, 0.0)
    if type(value) not in {int, float} or not math.isfinite(value):
        raise MemberError(f"a member's {name} is not a number")
    return max(0.0, float(value))


def _usage(fields: object) -> JobUsage:
    if not isinstance(fields, dict):
        raise MemberError("a job's usage is not an object")
    return JobUsage(
        _amount(fields, "used_bytes"),
        _amount(fields, "keys"),
        _amount(fields, "commands"),
        _amount(fields, "retained_keys"),
        _amount(fields, "s3_bytes"),
    )


def _progress(fields: object) -> dict[str, tuple[int, int]]:
    if not isinstance(fields, dict):
        raise MemberError("the moves of a job are not an object")
    found = {}
    for move_id, amounts in fields.items():
        if not isinstance(amounts, list) or len(amounts) != 2:
            raise MemberError("the progress of a move is not a pair")
        done, whole = ({"bytes": amount} for amount in amounts)
        found[move_id] = (_amount(done, "bytes"), _amount(whole, "bytes"))
    return found


@dataclass(frozen=True)
class MoveOutcome:
    """What a server tells of a move that it takes part in.

    With a `reason` it was not carried out, and nothing has changed, unless the `code` is `LOST`:
    then the target is gone with what it had taken, `keys` of them.
    """

    job_id: str
    move_id: str
    keys: int = 0
    moved_bytes: int = 0
    reason: str = ""
    code: str = ""

    @classmethod
    def from_json(cls, document: str | bytes) -> MoveOutcome:
        """Return what a JSON text says.

        Raises:
            MemberError: not such a document.
        """
        fields = _object(document)
        return cls(
            _text(fields, "job"),
            _text(fields, "move"),
            _amount(fields, "keys"),
            _amount(fields, "bytes"),
            str(fields.get("reason") or "")[:_TEXT_CHARACTERS_MAX],
            str(fields.get("code") or "")[:_TEXT_CHARACTERS_MAX],
        )


@dataclass(frozen=True)
class Retirement:
    """What a server tells of the keys of an ended job that it was to hand over to `target`.

    That is a server or a store.

    With a `reason`, the target did not take them.
    """

    job_id: str
    target: str
    keys: int = 0
    lost_keys: int = 0
    reason: str = ""

    @classmethod
    def from_json(cls, document: str | bytes) -> Retirement:
        """Return what a JSON text says.

        Raises:
            MemberError: not such a document.
        """
        fields = _object(document)
        return cls(
            _text(fields, "job"),
            _text(fields, "target", _URL_CHARACTERS_MAX),
            _amount(fields, "keys"),
            _amount(fields, "lost_keys"),
            _text(fields, "reason") if fields.get("reason") else "",
        )
