"""What a pod, and a StatefulSet, say of the server that is to run there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pocketkv.catalog import TIER_NAMES

NAME_LABEL: Final = "app.kubernetes.io/name"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
TIER_LABEL: Final = "pocketkv.io/tier"
LEADER_LABEL: Final = "pocketkv.io/leader"
MIN_ANNOTATION: Final = "pocketkv.io/min"
MAX_ANNOTATION: Final = "pocketkv.io/max"
MACHINE_TYPE_ANNOTATION: Final = "pocketkv.io/machine-type"
STORAGE: Final = "storage"
CONTROLLER: Final = "controller"

SERVERS_MAX: Final = 1_000
"""Servers of a StatefulSet that says no limit."""

_REASON_CHARACTERS_MAX: Final = 300


def selector(release: str, component: str) -> str:
    """Return the labels of one component of a release, as a query takes them."""
    return f"{INSTANCE_LABEL}={release},{COMPONENT_LABEL}={component}"


@dataclass(frozen=True)
class ServerSet:
    """A StatefulSet of storage servers: `least` to `most` of one tier on one type of machine."""

    name: str
    tier: str
    machine_type: str
    least: int
    most: int
    replicas: int
    is_limited: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> ServerSet | None:
        """Return what a StatefulSet is to us; None if it has no tier that we know."""
        metadata = document["metadata"]
        tier = str((metadata.get("labels") or {}).get(TIER_LABEL, ""))
        if tier not in TIER_NAMES:
            return None
        notes = metadata.get("annotations") or {}
        replicas = (document.get("spec") or {}).get("replicas")
        least = _number(notes.get(MIN_ANNOTATION), 0)
        most = _number(notes.get(MAX_ANNOTATION), SERVERS_MAX)
        return cls(
            name=str(metadata["name"]),
            tier=tier,
            machine_type=str(notes.get(MACHINE_TYPE_ANNOTATION, "")),
            least=min(least, most),
            most=most,
            # What the API fills in if it is not said.
            replicas=1 if replicas is None else int(replicas),
            is_limited=MAX_ANNOTATION in notes,
        )

    def server_id(self, ordinal: int) -> str:
        """Return the name of a pod."""
        return f"{self.name}-{ordinal}"

    def ordinal(self, server_id: str) -> int | None:
        """Return the number of one of this set's pods; None if it is not of this set."""
        head, _, digits = server_id.rpartition("-")
        return int(digits) if head == self.name and digits.isdecimal() else None


def _number(text: object, default: int) -> int:
    digits = str(text)
    return int(digits) if digits.isdecimal() and len(digits) < 10 else default


def uid_of(document: Mapping[str, Any]) -> str:
    """Return what tells an object from a later one of the same name."""
    return str(document["metadata"].get("uid", ""))


def is_ending(document: Mapping[str, Any]) -> bool:
    """Return whether an object was told to go."""
    return document["metadata"].get("deletionTimestamp") is not None


def end_of(pod: Mapping[str, Any]) -> str | None:
    """Return why a pod runs no more and will not run again; None if it does, or may."""
    status = pod.get("status") or {}
    if status.get("phase") not in {"Failed", "Succeeded"}:
        return None
    said = status.get("message") or status.get("reason") or _terminated(status)
    return _line(f"its pod has ended: {said or status['phase']}")


def waits_for(pod: Mapping[str, Any]) -> str | None:
    """Return what a pod that does not run yet waits for; None if it runs, or nothing is said."""
    status = pod.get("status") or {}
    if status.get("phase") not in {None, "Pending", "Running"}:
        return None
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return _line(f"{scheduled.get('reason') or 'Unscheduled'}: {scheduled.get('message', '')}")
    for one in _containers(status):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason and reason not in {"ContainerCreating", "PodInitializing"}:
            ended = ((one.get("lastState") or {}).get("terminated") or {}).get("reason")
            after = f" after {ended}" if ended else ""
            return _line(f"{reason}{after}: {waiting.get('message', '')}")
    return None


def _containers(status: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _terminated(status: Mapping[str, Any]) -> str:
    for one in _containers(status):
        ended = (one.get("state") or {}).get("terminated") or {}
        if ended:
            return f"{ended.get('reason', 'Error')}, exit status {ended.get('exitCode')}"
    return ""


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(":")[:_REASON_CHARACTERS_MAX]
