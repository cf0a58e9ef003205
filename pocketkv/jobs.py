"""Jobs: what a tenant is called, what it hints at, and what is made of the hints.

A hint is optional everywhere. None means that it was not given, 0 that it is not known (as in
Pocket), so ``JOB.UPDATE id CAPACITY 0`` takes a hint back. `infer` fills in what is missing.
Time and random bytes are parameters; times are milliseconds of the Unix epoch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final

from pocketkv.amounts import AMOUNT_MAX, AmountError, parse_bytes, parse_rate
from pocketkv.catalog import TIER_NAMES, Catalog, Tier
from pocketkv.limits import JOB_NAME_CHARACTERS_MAX, LEASE_MAX_S

DEFAULT_JOB_ID: Final = "default"
"""The job of a connection that has not authenticated; it is never registered, nor ends."""

JOB_ID_RANDOM_BYTES: Final = 8
"""Random part of an id: a token is made from the id alone, so no id may come twice."""

LAMBDAS_MAX: Final = 1_000_000
"""Most lambdas a hint may say; far above any account's limit, and no product overflows."""

LAMBDA_THROUGHPUT_BYTES_S: Final = 75_000_000
"""What one lambda can send: 600 Mb/s, as Pocket measured on AWS."""

DEFAULT_ALLOTMENT_SERVERS: Final = 1
"""Servers' worth of capacity and throughput for a job without hints. Pocket gave 50, the size of
its authors' cluster; here the cluster follows the load, so a first guess only has to start."""

_NAME: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{JOB_NAME_CHARACTERS_MAX}}}", re.ASCII)


class JobError(ValueError):
    """A job's record is not one; the message is one line."""


class JobNameError(JobError):
    """A name that no job can have; the message can follow ``ERR`` in a reply."""


class HintError(JobError):
    """Options of ``JOB.REGISTER`` are wrong; the message can follow ``ERR`` in a reply."""


class Latency(StrEnum):
    """Whether a job waits for each access, or only for the last."""

    SENSITIVE = "sensitive"
    TOLERANT = "tolerant"


class Phase(StrEnum):
    """Where a job is in its life."""

    ACTIVE = "active"
    """It is served."""
    ENDING = "ending"
    """It was deregistered or its lease ran out; servers are being told."""
    RETAINED = "retained"
    """It has ended and its retained keys have not been purged."""


@dataclass(frozen=True)
class Hints:
    """What a job says of itself; all of it optional, see the module for None and 0."""

    lambdas: int | None = None
    capacity_bytes: int | None = None
    throughput_bytes_s: int | None = None
    latency: Latency | None = None
    tiers: tuple[str, ...] | None = None
    lease_s: int | None = None

    def __post_init__(self) -> None:
        _check_number(self.lambdas, "lambdas", LAMBDAS_MAX)
        _check_number(self.capacity_bytes, "capacity_bytes", AMOUNT_MAX)
        _check_number(self.throughput_bytes_s, "throughput_bytes_s", AMOUNT_MAX)
        _check_number(self.lease_s, "lease_s", LEASE_MAX_S)
        if self.tiers is not None:
            if not self.tiers:
                raise JobError("tiers names none")
            if any(t not in TIER_NAMES for t in self.tiers):
                raise JobError("tiers has one that is not known")
            if len(set(self.tiers)) < len(self.tiers):
                raise JobError("tiers has one twice")

    def merged(self, update: Hints) -> Hints:
        """Return these hints with every hint that `update` gives in their place."""
        given = {f.name: getattr(update, f.name) for f in fields(update)}
        return replace(self, **{name: hint for name, hint in given.items() if hint is not None})


@dataclass(frozen=True)
class Demand:
    """What a job is taken to need, every field known; `tiers` are fastest first."""

    capacity_bytes: int
    throughput_bytes_s: int
    latency: Latency
    tiers: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A registered job; `lease_expires_ms` is None if it lives until it is deregistered."""

    id: str
    name: str
    hints: Hints
    created_ms: int
    lease_expires_ms: int | None = None
    phase: Phase = Phase.ACTIVE

    def __post_init__(self) -> None:
        check_job_name(self.name)
        if not is_job_id(self.id):
            raise JobError("the id of a job is not one")
        if type(self.created_ms) is not int:
            raise JobError("created_ms is not a whole number")
        _check_number(self.created_ms, "created_ms", AMOUNT_MAX)
        _check_number(self.lease_expires_ms, "lease_expires_ms", AMOUNT_MAX)

    @classmethod
    def registered(cls, name: str, hints: Hints, now_ms: int, random_bytes: bytes) -> Job:
        """Return a new job whose lease, if it asked for one, begins now.

        Raises:
            JobNameError: see `check_job_name`.
        """
        return cls(new_job_id(name, random_bytes), name, hints, now_ms).renewed(now_ms)

    def renewed(self, now_ms: int) -> Job:
        """Return the job with its whole lease before it again."""
        lease_s = self.hints.lease_s
        return replace(self, lease_expires_ms=now_ms + lease_s * 1000 if lease_s else None)

    def updated(self, hints: Hints, now_ms: int) -> Job:
        """Return the job with `hints` merged in; a lease among them begins now."""
        job = replace(self, hints=self.hints.merged(hints))
        return job if hints.lease_s is None else job.renewed(now_ms)

    def is_expired(self, now_ms: int) -> bool:
        """Return whether the lease has run out."""
        return self.lease_expires_ms is not None and now_ms >= self.lease_expires_ms

    def as_json(self) -> dict[str, Any]:
        """Return the record as what `json.dumps` takes, hints that were not given left out."""
        # Not by `asdict`, whose deep copies would be a sixth of the time that it takes to give
        # thousands of jobs other servers.
        hints = {name: hint for name, hint in vars(self.hints).items() if hint is not None}
        return {**vars(self), "hints": hints}

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str | bytes) -> Job:
        """Return the job of a JSON text, or of what `as_json` returned.

        Raises:
            JobError: not such a record.
        """
        try:
            record = json.loads(document) if isinstance(document, str | bytes) else document
            hints = dict(record["hints"])
            if "latency" in hints:
                hints["latency"] = Latency(hints["latency"])
            if "tiers" in hints:
                hints["tiers"] = tuple(hints["tiers"])
            phase = Phase(record.get("phase", Phase.ACTIVE))
            return cls(**{**record, "hints": Hints(**hints), "phase": phase})
        except JobError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise JobError(f"not a job's record: {error}") from error


def check_job_name(name: str) -> None:
    """Check that a job may be called `name`: it becomes part of ids, URLs and file names.

    Raises:
        JobNameError: not 1 to `JOB_NAME_CHARACTERS_MAX` of ``A-Z a-z 0-9 . _ -``, or reserved.
    """
    if not _NAME.fullmatch(name):
        raise JobNameError(
            f"a job's name is 1 to {JOB_NAME_CHARACTERS_MAX} of letters, digits and '.', '_', '-'"
        )
    if name == DEFAULT_JOB_ID:
        raise JobNameError(f"the name '{DEFAULT_JOB_ID}' is reserved")


def new_job_id(name: str, random_bytes: bytes) -> str:
    """Return an id for a job called `name`: the name, a hyphen, `random_bytes` in hexadecimal.

    Raises:
        JobNameError: see `check_job_name`.
        ValueError: other than `JOB_ID_RANDOM_BYTES` random bytes.
    """
    check_job_name(name)
    if len(random_bytes) != JOB_ID_RANDOM_BYTES:
        raise ValueError(f"an id takes {JOB_ID_RANDOM_BYTES} random bytes")
    return f"{name}-{random_bytes.hex()}"


_ID: Final = re.compile(_NAME.pattern + rf"-[0-9a-f]{{{2 * JOB_ID_RANDOM_BYTES}}}", re.ASCII)


def is_job_id(text: str) -> bool:
    """Return whether `text` has the form of a registered job's id; `DEFAULT_JOB_ID` has not."""
    return _ID.fullmatch(text) is not None


def parse_hints(args: list[bytes]) -> Hints:
    """Return the hints of the arguments that follow the name or id in a job command.

    ``[LAMBDAS n] [CAPACITY bytes] [THROUGHPUT bytes/s] [LATENCY SENSITIVE|TOLERANT]
    [TIERS tier ...] [LEASE seconds]`` in any order and case; TIERS takes every following word
    that names a tier.

    Raises:
        HintError: an option that is unknown, without a value, given twice, or of a bad value.
    """
    words = list(reversed(args))
    given: dict[str, Any] = {}
    while words:
        word = words.pop()
        option = _OPTIONS.get(word.upper())
        if option is None:
            raise HintError(f"unknown option '{_printable(word)}'")
        name, parse = option
        if name in given:
            raise HintError(f"{_printable(word.upper())} is given twice")
        if not words:
            raise HintError(f"{_printable(word.upper())} needs a value")
        given[name] = parse(words)
    return Hints(**given)


def infer(hints: Hints, catalog: Catalog) -> Demand:
    """Return what a job with these hints is taken to need, as Pocket inferred it.

    Throughput follows from the lambdas (600 Mb/s each), else from the capacity, capacity from the
    throughput: as many servers as the one takes have so much of the other. Servers are those of
    the fastest allowed tier for a sensitive job (also if it did not say), of the fastest but dram
    for a tolerant one. Unlike Pocket, a sensitive job is not taken to need flash beside it.

    Raises:
        CatalogError: the catalog has none of the allowed tiers.
    """
    latency = hints.latency or Latency.SENSITIVE
    tiers = tuple(name for name in TIER_NAMES if hints.tiers is None or name in hints.tiers)
    tier = _reference_tier(catalog, tiers, latency)
    from_lambdas = (hints.lambdas or 0) * LAMBDA_THROUGHPUT_BYTES_S
    capacity_bytes = hints.capacity_bytes or 0
    throughput_bytes_s = hints.throughput_bytes_s or from_lambdas
    if capacity_bytes:
        servers = capacity_bytes / tier.capacity_bytes
    elif throughput_bytes_s:
        servers = (from_lambdas or throughput_bytes_s) / tier.bandwidth_bytes_s
    else:
        servers = DEFAULT_ALLOTMENT_SERVERS
    return Demand(
        capacity_bytes=capacity_bytes or _amount_of(servers, tier.capacity_bytes),
        throughput_bytes_s=throughput_bytes_s or _amount_of(servers, tier.bandwidth_bytes_s),
        latency=latency,
        tiers=tiers,
    )


def _reference_tier(catalog: Catalog, allowed: tuple[str, ...], latency: Latency) -> Tier:
    offered = [tier for tier in catalog.tiers if tier.name in allowed]
    if latency is Latency.TOLERANT and len(offered) > 1 and offered[0].name == "dram":
        return offered[1]
    # With nothing on offer, the catalog's own error says which tier it has not.
    return offered[0] if offered else catalog.tier(allowed[0])


def _amount_of(servers: float, of_each: int) -> int:
    return min(AMOUNT_MAX, max(1, math.ceil(servers * of_each)))


def _check_number(value: object, name: str, largest: int) -> None:
    if value is not None and (type(value) is not int or not 0 <= value <= largest):
        raise JobError(f"{name} is not 0 to {largest}")


def _printable(word: bytes) -> str:
    """Return `word` as it may stand in an error reply: one line, not long."""
    return re.sub(r"[^ -~]|'", "?", word[:64].decode("latin-1"))


def _whole(option: str, largest: int) -> Callable[[list[bytes]], int]:
    def parse(words: list[bytes]) -> int:
        word = words.pop()
        # The length is looked at first: int() of a long text takes quadratic time.
        if len(word) > 20 or not re.fullmatch(rb"[0-9]+", word) or int(word) > largest:
            raise HintError(f"{option} must be a whole number from 0 to {largest}")
        return int(word)

    return parse


def _amount(option: str, parse_amount: Callable[[bytes], int]) -> Callable[[list[bytes]], int]:
    def parse(words: list[bytes]) -> int:
        try:
            return parse_amount(words.pop())
        except AmountError as error:
            raise HintError(f"{option}: {error}") from error

    return parse


def _latency(words: list[bytes]) -> Latency:
    word = words.pop()
    for latency in Latency:
        if word.lower() == latency.value.encode():
            return latency
    raise HintError("LATENCY must be SENSITIVE or TOLERANT")


def _tiers(words: list[bytes]) -> tuple[str, ...]:
    tiers: list[str] = []
    while words and (name := words[-1].lower().decode("latin-1")) in TIER_NAMES:
        words.pop()
        if name in tiers:
            raise HintError(f"TIERS names {name} twice")
        tiers.append(name)
    if not tiers:
        known = ", ".join(TIER_NAMES)
        raise HintError(f"TIERS: '{_printable(words[-1])}' is none of {known}")
    return tuple(tiers)


_OPTIONS: Final[dict[bytes, tuple[str, Callable[[list[bytes]], Any]]]] = {
    b"LAMBDAS": ("lambdas", _whole("LAMBDAS", LAMBDAS_MAX)),
    b"CAPACITY": ("capacity_bytes", _amount("CAPACITY", parse_bytes)),
    b"THROUGHPUT": ("throughput_bytes_s", _amount("THROUGHPUT", parse_rate)),
    b"LATENCY": ("latency", _latency),
    b"TIERS": ("tiers", _tiers),
    b"LEASE": ("lease_s", _whole("LEASE", LEASE_MAX_S)),
}
