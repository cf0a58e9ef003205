"""What a PocketJob says of a job, and what of a job is written to it. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pocketkv.controller.backends.kubernetes.pods import INSTANCE_LABEL, NAME_LABEL
from pocketkv.jobs import JOB_ID_RANDOM_BYTES, HintError, Hints, new_job_id, parse_hints

GROUP: Final = "pocketkv.io"
VERSION: Final = "v1alpha1"
FINALIZER: Final = "pocketkv.io/deregister"
ORIGIN_LABEL: Final = "pocketkv.io/origin"
JOB_ANNOTATION: Final = "pocketkv.io/job-id"
CLIENT: Final = "client"

ACTIVE: Final = "Active"
ENDED: Final = "Ended"
INVALID: Final = "Invalid"

_REGISTERED: Final = "Registered"
_SATISFIED: Final = "Satisfied"
_MESSAGE_CHARACTERS_MAX: Final = 1_000
# By the fields of a spec: the options of JOB.REGISTER.
_OPTIONS: Final = {
    "lambdas": b"LAMBDAS",
    "capacity": b"CAPACITY",
    "throughput": b"THROUGHPUT",
    "latency": b"LATENCY",
    "leaseSeconds": b"LEASE",
}


def hints_of(spec: Mapping[str, Any]) -> Hints:
    """Return the hints of a spec; one that is absent is not known.

    Raises:
        HintError: There can be no such hints.
    """
    words: list[bytes] = []
    for name, option in _OPTIONS.items():
        value = spec.get(name)
        if value is not None:
            words += [option, str(value).encode("utf-8", "replace")]
    tiers = spec.get("tiers") or []
    if not isinstance(tiers, list):
        raise HintError("tiers is not a list")
    if tiers:
        words += [b"TIERS", *(str(tier).encode("utf-8", "replace") for tier in tiers)]
    return parse_hints(words)


def update_of(spec: Mapping[str, Any]) -> Hints:
    """Return the hints by which a job becomes what a spec says: what is absent is taken back.

    Raises:
        HintError: There can be no such hints.
    """
    hints = hints_of(spec)
    return Hints(
        lambdas=hints.lambdas or 0,
        capacity_bytes=hints.capacity_bytes or 0,
        throughput_bytes_s=hints.throughput_bytes_s or 0,
        latency=hints.latency,
        tiers=hints.tiers,
        lease_s=hints.lease_s or 0,
    )


def spec_of(hints: Hints) -> dict[str, Any]:
    """Return the spec of a job that a client registered."""
    spec = {
        "lambdas": hints.lambdas,
        "capacity": hints.capacity_bytes,
        "throughput": hints.throughput_bytes_s,
        "latency": None if hints.latency is None else hints.latency.value,
        "tiers": None if hints.tiers is None else list(hints.tiers),
        "leaseSeconds": hints.lease_s,
    }
    return {name: value for name, value in spec.items() if value}


def job_id_of(one: Mapping[str, Any]) -> str:
    """Return the id of the job that an object stands for; always the same for one object.

    Raises:
        JobNameError: Its name can be no job's.
    """
    metadata = one["metadata"]
    told = (metadata.get("annotations") or {}).get(JOB_ANNOTATION)
    if told and (metadata.get("labels") or {}).get(ORIGIN_LABEL) == CLIENT:
        return str(told)
    return new_job_id(str(metadata["name"]), random_of(one))


def random_of(one: Mapping[str, Any]) -> bytes:
    """Return the random part of an object's job: no other object has it, ever."""
    uid = str(one["metadata"]["uid"])
    return hashlib.sha256(uid.encode()).digest()[:JOB_ID_RANDOM_BYTES]


def object_name(job_id: str) -> str:
    """Return the name of the object of a job that a client registered."""
    name, _, digits = job_id.rpartition("-")
    plain = re.sub(r"[^a-z0-9.-]+", "-", name.lower())
    # A name of the API begins and ends with a letter or a digit, also around its dots.
    plain = ".".join(part.strip("-") for part in plain.split(".") if part.strip("-"))
    if plain != name:
        # So that two jobs whose names differ in what was replaced have two objects.
        digits += "-" + hashlib.sha256(job_id.encode()).hexdigest()[:6]
    return f"{plain}-{digits}" if plain else f"job-{digits}"


def client_object(job_id: str, hints: Hints, release: str) -> dict[str, Any]:
    """Return the object of a job that a client registered."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PocketJob",
        "metadata": {
            "name": object_name(job_id),
            "labels": {
                NAME_LABEL: "pocketkv",
                INSTANCE_LABEL: release,
                ORIGIN_LABEL: CLIENT,
            },
            "annotations": {JOB_ANNOTATION: job_id},
            "finalizers": [FINALIZER],
        },
        "spec": spec_of(hints),
    }


def secret_object(one: Mapping[str, Any], job_id: str, token: str, url: str) -> dict[str, Any]:
    """Return the Secret with what a client of the job needs; it goes with the object."""
    metadata = one["metadata"]
    owner = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PocketJob",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": secret_name(str(metadata["name"])),
            "labels": {NAME_LABEL: "pocketkv"},
            "ownerReferences": [owner],
        },
        "stringData": {"id": job_id, "token": token, "url": url},
    }


def secret_name(name: str) -> str:
    """Return the name of an object's Secret."""
    return f"{name}-pocketkv"


def conditions(
    before: Sequence[Mapping[str, Any]],
    found: Mapping[str, tuple[bool, str, str]],
    generation: int,
    now: str,
) -> list[dict[str, Any]]:
    """Return conditions: by type, whether it is so, the reason as one word, and a message.

    The time of a condition is when it last became so, or not.
    """
    known = {str(one.get("type")): one for one in before}
    made = []
    for kind, (is_so, reason, message) in found.items():
        status = "True" if is_so else "False"
        old = known.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        made.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message[:_MESSAGE_CHARACTERS_MAX],
                "observedGeneration": generation,
                "lastTransitionTime": since or now,
            }
        )
    return made


def registered(*, is_so: bool, reason: str, message: str) -> dict[str, tuple[bool, str, str]]:
    """Return the condition that tells whether there is a job."""
    return {_REGISTERED: (is_so, reason, message)}


def satisfied(short: Sequence[str]) -> dict[str, tuple[bool, str, str]]:
    """Return the condition that tells whether a job has what it was promised."""
    if not short:
        # Some API servers take an empty text for none, and refuse the whole status.
        return {_SATISFIED: (True, "AsPromised", "it has what it was promised")}
    return {_SATISFIED: (False, "Short", "; ".join(short))}
