"""What the controller keeps of a job beside its map, and when leases run out. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pocketkv.controller.accounts import Account
from pocketkv.controller.policy import Ask, Shortage
from pocketkv.jobs import Hints, Job
from pocketkv.terms import Terms


@dataclass(frozen=True)
class Retention:
    """What is known of the keys that a job left behind.

    Attributes:
        target: The server that keeps them, or the store (`pocketkv.placement.is_store`), or what
            they are on their way to; None while there is none that could.
        pending: The servers that have not handed over yet what they have.
        refused: Servers that had no room.
        keys: How many keys the target was given.
        generation: Of the target, which tells whether it still has what it was given.
    """

    target: str | None
    pending: tuple[str, ...]
    refused: tuple[str, ...] = ()
    keys: int = 0
    generation: str = ""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Retention:
        """Return what was remembered."""
        lists = {name: tuple(record[name]) for name in ("pending", "refused")}
        return cls(**{**record, **lists})


@dataclass(frozen=True)
class Tenant:
    """A job and what the controller keeps of it; `job` is None for the job `default`.

    `lost_keys` are those that were on servers that died; `shortages` is what its placement lacks,
    `asks` the servers that would let it be met.
    `terms` are what it has told of its users and settings, if anything.
    It `retains` keys if some were marked; `retention` is what became of them since its end.
    """

    job: Job | None
    account: Account
    lost_keys: int = 0
    shortages: tuple[Shortage, ...] = ()
    asks: tuple[Ask, ...] = ()
    retains: bool = False
    retention: Retention | None = None
    terms: Terms | None = None

    @property
    def hints(self) -> Hints:
        """What the job says of itself; one that has ended demands nothing any more."""
        return Hints() if self.job is None or self.retention is not None else self.job.hints

    def as_json(self) -> dict[str, Any]:
        """Return what is to be remembered, as what `json.dumps` takes."""
        return {
            "job": None if self.job is None else self.job.as_json(),
            "account": self.account.as_json(),
            "lost_keys": self.lost_keys,
            "retains": self.retains,
            "retention": None if self.retention is None else asdict(self.retention),
            "terms": None if self.terms is None else self.terms.as_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Tenant:
        """Return the tenant of a remembered record.

        Raises:
            JobError, TermsError, KeyError, TypeError: not such a record.
        """
        job = None if record["job"] is None else Job.from_json(record["job"])
        retention = record.get("retention")
        terms = record.get("terms")
        return cls(
            job,
            Account(**record["account"]),
            int(record["lost_keys"]),
            retains=record.get("retains", False),
            retention=None if retention is None else Retention.from_json(retention),
            terms=None if terms is None else Terms.from_json(terms),
        )


class Leases:
    """When to look at which job: a heap with at most a few entries for each.

    A lease that is prolonged leaves its entry where it is: it is put off when its time comes.
    """

    def __init__(self) -> None:
        self._order: list[tuple[int, str]] = []
        self._earliest_ms: dict[str, int] = {}

    def put(self, job_id: str, expires_ms: int) -> None:
        """Have `due` name a job at `expires_ms`, or earlier."""
        known_ms = self._earliest_ms.get(job_id)
        if known_ms is None or expires_ms < known_ms:
            self._earliest_ms[job_id] = expires_ms
            heapq.heappush(self._order, (expires_ms, job_id))

    def due(self, now_ms: int) -> Iterator[str]:
        """Yield jobs whose time has come, and forget them; put those again that live on."""
        while self._order and self._order[0][0] <= now_ms:
            expires_ms, job_id = heapq.heappop(self._order)
            if self._earliest_ms.get(job_id) == expires_ms:
                del self._earliest_ms[job_id]
                yield job_id
