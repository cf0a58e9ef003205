"""Who leads: one `Lease` of coordination.k8s.io, that its holder renews.

Clocks of machines differ, so no time that another replica wrote is ever compared with ours. A
replica takes over when it has itself seen no change of the lease for as long as the lease says it
is held, by its own steady clock. The holder gives up when it has not managed to renew for a
shorter time than that: so it has stopped before anybody can take over. (Were it to stand still
just then, the state's version fences it: see `store`.)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import trio

from pocketkv.controller.backends.kubernetes.api import (
    ApiError,
    ConflictError,
    Document,
    NotFoundError,
    path_of,
)
from pocketkv.controller.backends.kubernetes.door import Door

_API: Final = "apis/coordination.k8s.io/v1"


@dataclass(frozen=True)
class LeaseTimes:
    """How long, in seconds.

    Attributes:
        duration_s: A lease that was not renewed for so long may be taken.
        deadline_s: A holder that could not renew for so long leads no more.
        retry_s: Between two tries.
    """

    duration_s: int = 6
    deadline_s: float = 4.0
    retry_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.deadline_s < self.duration_s:
            raise ValueError("times of a lease: retry < deadline < duration")


class Observer:
    """What one replica has seen of the lease, by its own clock. Pure."""

    def __init__(self, identity: str, times: LeaseTimes) -> None:
        self._identity = identity
        self._times = times
        self._seen: tuple[str, str, str] | None = None
        self._seen_s = 0.0
        self._held_s = float(times.duration_s)

    def look(self, lease: Document | None, now_s: float) -> bool:
        """Take a look; returns whether it may be taken now."""
        spec = {} if lease is None else lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        seen = (holder, str(spec.get("renewTime")), str(spec.get("leaseTransitions")))
        if seen != self._seen:
            self._seen, self._seen_s = seen, now_s
            held = spec.get("leaseDurationSeconds")
            if not isinstance(held, int) or held <= 0:
                held = self._times.duration_s
            self._held_s = float(held)
        if not holder or holder == self._identity:
            return True
        return now_s - self._seen_s > self._held_s


class Candidate:
    """A replica that leads when it can.

    Args:
        door: To the API.
        name: Of the lease.
        identity: Of this replica; no other one has it.
        times: How long.
        labels: Of the lease, if it is made.
        log: The process's log.
        now_s: The steady clock.

    Attributes:
        leader: Who holds the lease, as far as is known.
        owners: Of the lease, which goes when they do; may be set when they are known.
    """

    def __init__(
        self,
        door: Door,
        name: str,
        identity: str,
        times: LeaseTimes,
        labels: dict[str, str],
        log: logging.Logger,
        now_s: Callable[[], float] = trio.current_time,
    ) -> None:
        self._door = door
        self._name = name
        self._identity = identity
        self._times = times
        self._labels = labels
        self._log = log
        self._now_s = now_s
        self._observer = Observer(identity, times)
        self._lease: Document | None = None
        self._renewed_s = 0.0
        self.leader = ""
        self.owners: list[Document] = []

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, work while it is held, and give it back.

        Returns when the work has ended, or was cancelled because the lease was lost.
        """
        await self._acquire()
        self._log.info("leading", extra={"identity": self._identity})
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep, nursery.cancel_scope)
                await work()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(self._times.retry_s, shield=True):
                await self._release()

    async def _acquire(self) -> None:
        told = ""
        while True:
            try:
                if await self._try():
                    return
                told = ""
            except ApiError as error:
                if str(error) != told:
                    self._log.warning("the lease cannot be had", extra={"error": str(error)})
                    told = str(error)
            await trio.sleep(self._times.retry_s)

    async def _keep(self, scope: trio.CancelScope) -> None:
        """Renew the lease until that fails for too long, and cancel the work then."""
        while True:
            deadline_s = self._renewed_s + self._times.deadline_s
            with trio.move_on_after(max(0.0, deadline_s - self._now_s())) as waiting:
                await trio.sleep(self._times.retry_s)
                # Nothing tells when the API is back.
                while not await self._renew():  # noqa: ASYNC110
                    await trio.sleep(self._times.retry_s)
            if waiting.cancelled_caught or self.leader != self._identity:
                self._log.error("leading no more", extra={"leader": self.leader or "unknown"})
                scope.cancel()
                return

    async def _renew(self) -> bool:
        try:
            # Not held any more: there is nothing to be tried again.
            return await self._try() or self.leader != self._identity
        except ApiError as error:
            self._log.warning("the lease is not renewed", extra={"error": str(error)})
            return False

    async def _try(self) -> bool:
        """Take or renew the lease if that may be; returns whether it is held.

        Raises:
            ApiError: It could not be found out.
        """
        started_s = self._now_s()
        try:
            if self._lease is None or self.leader != self._identity:
                self._lease = await self._read()
            may = self._observer.look(self._lease, self._now_s())
            self.leader = _holder(self._lease)
            if not may:
                return False
            self._lease = await self._write(self._desired(self._identity))
        except (ConflictError, NotFoundError):
            # Somebody was faster, or has removed it: what there is now, the next look tells.
            self._lease = None
            if self.leader == self._identity:
                self._lease = await self._read()
                self.leader = _holder(self._lease)
            return False
        self._observer.look(self._lease, self._now_s())
        self.leader = self._identity
        # From when it was asked for: others count from when they see it, which is later.
        self._renewed_s = started_s
        return True

    async def _release(self) -> None:
        if self.leader != self._identity or self._lease is None:
            return
        try:
            await self._write(self._desired(""))
        except ApiError:
            pass  # Then it runs out.
        self._lease, self.leader = None, ""

    def _desired(self, holder: str) -> Document:
        lease = self._lease or {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "labels": self._labels},
        }
        spec = dict(lease.get("spec") or {})
        # For people to read; nobody compares it with a clock.
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if holder and spec.get("holderIdentity") != holder:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec |= {
            "holderIdentity": holder,
            "renewTime": now,
            "leaseDurationSeconds": self._times.duration_s,
        }
        metadata = {**lease["metadata"], "ownerReferences": self.owners}
        return {**lease, "metadata": metadata, "spec": spec}

    async def _read(self) -> Document | None:
        try:
            return await self._door.request("GET", self._path(self._name), **self._limit())
        except NotFoundError:
            return None

    async def _write(self, lease: Document) -> Document:
        if lease["metadata"].get("resourceVersion"):
            return await self._door.request("PUT", self._path(self._name), lease, **self._limit())
        return await self._door.request("POST", self._path(), lease, **self._limit())

    def _limit(self) -> dict[str, Any]:
        return {"timeout_s": self._times.deadline_s / 2}

    def _path(self, name: str = "") -> str:
        return path_of(_API, self._door.namespace, "leases", name)


def _holder(lease: Document | None) -> str:
    return "" if lease is None else str((lease.get("spec") or {}).get("holderIdentity") or "")
