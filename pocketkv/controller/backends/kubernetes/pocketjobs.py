"""PocketJobs: jobs as objects of the API, that `kubectl` applies, lists, edits and deletes.

An object that somebody applies registers a job, whose id follows from the object's, so that a
leader that died half way is followed by one that registers the same job. Its token and URL are in
a Secret. Deleting the object ends the job, which a finalizer holds it up for. A job that a client
registered gets an object as well, which goes when the job does.

The cluster's state is the truth, and objects follow it, some at a time: nobody who registers a job
waits for its object. What is written is bounded; usage is written when nothing else is to be.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import trio

from pocketkv.catalog import CatalogError
from pocketkv.controller import listings
from pocketkv.controller.backends.kubernetes import records
from pocketkv.controller.backends.kubernetes.api import (
    MERGE_PATCH,
    ApiError,
    ConflictError,
    Document,
    NotFoundError,
    path_of,
)
from pocketkv.controller.backends.kubernetes.door import Door, Mirror
from pocketkv.controller.backends.kubernetes.pods import INSTANCE_LABEL
from pocketkv.controller.backends.kubernetes.retrying import Backoff
from pocketkv.controller.core import Core
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.messages import JobDeregistered, JobRegistered, JobUpdated
from pocketkv.jobs import DEFAULT_JOB_ID, Job, JobError
from pocketkv.tokens import job_token

_API: Final = f"apis/{records.GROUP}/{records.VERSION}"
# Objects are compared with the state so often, and so many are looked at each time.
_LOOK_INTERVAL_S: Final = 1.0
OBJECTS_PER_LOOK: Final = 20
# What a job uses is written no more often.
USAGE_INTERVAL_S: Final = 5.0


@dataclass
class _Known:
    """What was done about an object: of its spec, and of what its job uses."""

    retry_s: float = 0.0
    written_s: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)


class PocketJobs:
    """Keeps objects and jobs alike.

    Args:
        door: To the API.
        release: Whose jobs they are.
        core: The controller's core.
        secret: The cluster's secret, for tokens.
        log: The process's log.
    """

    def __init__(
        self, door: Door, release: str, core: Core, secret: bytes, log: logging.Logger
    ) -> None:
        self._door = door
        self._release = release
        self._core = core
        self._secret = secret
        self._log = log
        self._known: dict[str, _Known] = {}
        self._dirty: dict[str, None] = {}
        # What was done about jobs that have no object yet.
        self._missing = _Known()
        self._wake = trio.Event()
        self._mirror = Mirror(door, self._path(), "", self._on_change, log)

    def _on_change(self, name: str, one: Document | None) -> None:
        if one is None:
            self._known.pop(name, None)
            self._dirty.pop(name, None)
        else:
            self._dirty[name] = None
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            # Without the kind in the API, this waits, and tries again now and then.
            await nursery.start(self._mirror.run)
            while True:
                self._wake = trio.Event()
                await self._look()
                with trio.move_on_after(_LOOK_INTERVAL_S):
                    await self._wake.wait()
                # Changes that come one after another are looked at together.
                await trio.sleep(_LOOK_INTERVAL_S / 10)

    async def _look(self) -> None:
        """Look at some objects: first those that changed, then those whose jobs have."""
        now_s = trio.current_time()
        names = [*self._dirty]
        names += [n for n in self._mirror.objects if n not in self._dirty and self._is_old(n)]
        due = [name for name in names if self._of(name).retry_s <= now_s]
        for name in due[:OBJECTS_PER_LOOK]:
            one = self._mirror.objects.get(name)
            self._dirty.pop(name, None)
            if one is None or not self._is_ours(one):
                continue
            known = self._of(name)
            try:
                await self._reconcile(name, one)
                known.backoff.reset()
            except (ConflictError, NotFoundError):
                pass  # It has changed, or has gone, which the watch tells.
            except ApiError as error:
                self._log.warning(
                    "a PocketJob is behind", extra={"pocketjob": name, "error": str(error)}
                )
                self._dirty[name] = None
                known.retry_s = now_s + known.backoff.next_s(error.retry_after_s)
        await self._make_missing()

    async def _make_missing(self) -> None:
        """Make objects of jobs that clients registered."""
        now_s = trio.current_time()
        if not self._mirror.is_fresh or self._missing.retry_s > now_s:
            return
        there = {self._job_id(one) for one in self._mirror.objects.values()}
        missing = [i for i in self._core.state.tenants if i not in there and i != DEFAULT_JOB_ID]
        for job_id in missing[:OBJECTS_PER_LOOK]:
            tenant = self._core.state.tenants.get(job_id)
            if tenant is None or tenant.job is None or tenant.retention is not None:
                continue
            one = records.client_object(job_id, tenant.job.hints, self._release)
            try:
                await self._door.request("POST", self._path(), one)
            except ConflictError:
                pass  # The last leader has made it, and the watch has not told yet.
            except ApiError as error:
                self._log.warning("no PocketJob for a job", extra={"error": str(error)})
                pause_s = self._missing.backoff.next_s(error.retry_after_s)
                self._missing.retry_s = now_s + pause_s
                return
        self._missing.backoff.reset()

    # --- one object ----------------------------------------------------------------------------

    async def _reconcile(self, name: str, one: Document) -> None:
        metadata = one["metadata"]
        finalizers = metadata.get("finalizers") or []
        if metadata.get("deletionTimestamp") is not None:
            if records.FINALIZER in finalizers:
                await self._finish(name, one)
            return
        try:
            job_id = records.job_id_of(one)
            hints = records.hints_of(one.get("spec") or {})
        except JobError as error:
            await self._write_invalid(name, one, "BadSpec", str(error))
            return
        status = one.get("status") or {}
        is_known = job_id in self._core.state.tenants
        was_there = status.get("id") == job_id and status.get("phase") != records.INVALID
        if not is_known and (was_there or self._is_client(one)):
            await self._ended(name, one)
            return
        if records.FINALIZER not in finalizers:
            # Before the job is there, so that no deletion can miss it.
            await self._patch(
                name, one, {"metadata": {"finalizers": [*finalizers, records.FINALIZER]}}
            )
            return
        try:
            if not is_known:
                await self._register(
                    one,
                    Job.registered(
                        str(metadata["name"]), hints, self._core.now_ms(), records.random_of(one)
                    ),
                )
            elif was_there and status.get("observedGeneration") != metadata.get("generation"):
                await self._core.tell(JobUpdated(job_id, records.update_of(one["spec"])))
        except (RefusedError, CatalogError, JobError) as error:
            await self._write_invalid(name, one, "Refused", str(error))
            return
        if not self._is_client(one) and not status.get("secretName") and self._core.state.routers:
            await self._write_secret(one, job_id)
        await self._write_status(name, one, job_id)

    async def _register(self, one: Document, job: Job) -> None:
        epoch = await self._core.tell(JobRegistered(job))
        await self._core.wait_acknowledged(epoch)

    async def _finish(self, name: str, one: Document) -> None:
        """End the job of an object that was deleted, and let the object go."""
        try:
            job_id = records.job_id_of(one)
            tenant = self._core.state.tenants.get(job_id)
            if tenant is not None and tenant.retention is None:
                epoch = await self._core.tell(JobDeregistered(job_id))
                await self._core.wait_acknowledged(epoch)
        except (JobError, RefusedError):
            pass  # It never became a job, or is none any more.
        if not self._is_client(one):
            try:
                await self._door.request("DELETE", self._secret_path(name))
            except NotFoundError:
                pass  # There was none, or it went with somebody else.
        left = [f for f in one["metadata"]["finalizers"] if f != records.FINALIZER]
        await self._patch(name, one, {"metadata": {"finalizers": left}})

    async def _ended(self, name: str, one: Document) -> None:
        """Tell that a job is over; the object of a client's job goes with it."""
        if self._is_client(one):
            await self._door.request("DELETE", self._path(name))
            return
        status = one.get("status") or {}
        if status.get("phase") == records.ENDED:
            return
        found = records.registered(is_so=False, reason="Ended", message="the job has ended")
        await self._put_status(
            name, one, {**status, "phase": records.ENDED, "usedBytes": 0, "keys": 0}, found
        )

    async def _write_secret(self, one: Document, job_id: str) -> None:
        token = job_token(self._secret, job_id)
        url = listings.url(self._core.state, None, job_id, token) or b""
        secret = records.secret_object(one, job_id, token, url.decode())
        try:
            await self._door.request("POST", self._path_of_secrets(), secret)
        except ConflictError:
            path = self._secret_path(str(one["metadata"]["name"]))
            there = await self._door.request("GET", path)
            owners = there["metadata"].get("ownerReferences") or []
            if all(owner.get("uid") != one["metadata"]["uid"] for owner in owners):
                raise ApiError(
                    f"the Secret {there['metadata']['name']} is somebody else's"
                ) from None
            secret["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            await self._door.request("PUT", path, secret)

    async def _write_status(self, name: str, one: Document, job_id: str) -> None:
        state = self._core.state
        tenant = state.tenants.get(job_id)
        if tenant is None or tenant.job is None:
            return
        shown = listings.job(state, job_id, self._core.now_ms())
        status: Document = {
            "phase": tenant.job.phase.value.capitalize(),
            "id": job_id,
            "tiers": [tier.decode() for tier in _list(shown[b"tiers"])],
            "usedBytes": shown[b"used_bytes"],
            "keys": shown[b"keys"],
            "costPerHour": round(float(tenant.account.rate_per_hour), 6),
            "observedGeneration": one["metadata"].get("generation", 1),
        }
        if not self._is_client(one) and state.routers:
            # Without a router there is no URL yet; it is written when there is one.
            status["secretName"] = records.secret_name(name)
        short = [line.decode("utf-8", "replace") for line in _list(shown[b"short"])]
        found = records.registered(is_so=True, reason="Registered", message="it is registered")
        found |= records.satisfied(short)
        await self._put_status(name, one, status, found)

    async def _write_invalid(self, name: str, one: Document, reason: str, message: str) -> None:
        status = one.get("status") or {}
        phase = status.get("phase") if status.get("id") else records.INVALID
        generation = one["metadata"].get("generation", 1)
        found = records.registered(is_so=bool(status.get("id")), reason=reason, message=message)
        await self._put_status(
            name, one, {**status, "phase": phase, "observedGeneration": generation}, found
        )

    async def _put_status(
        self, name: str, one: Document, status: Document, found: dict[str, tuple[bool, str, str]]
    ) -> None:
        before = one.get("status") or {}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        generation = int(one["metadata"].get("generation", 1))
        status["conditions"] = records.conditions(
            before.get("conditions") or (), found, generation, now
        )
        self._of(name).written_s = trio.current_time()
        if status != before:
            await self._patch(name, one, {"status": status}, "status")

    async def _patch(self, name: str, one: Document, body: Document, part: str = "") -> None:
        # With the version that was looked at: what is decided on is what is there.
        version = {"resourceVersion": one["metadata"]["resourceVersion"]}
        body = {**body, "metadata": {**body.get("metadata", {}), **version}}
        await self._door.request("PATCH", self._path(name, part), body, content_type=MERGE_PATCH)

    # --- small ---------------------------------------------------------------------------------

    def _is_ours(self, one: Document) -> bool:
        """Whether an object is of this release: one that names none is."""
        labels = one["metadata"].get("labels") or {}
        return bool(labels.get(INSTANCE_LABEL, self._release) == self._release)

    def _is_client(self, one: Document) -> bool:
        labels = one["metadata"].get("labels") or {}
        return bool(labels.get(records.ORIGIN_LABEL) == records.CLIENT)

    def _job_id(self, one: Document) -> str:
        try:
            return records.job_id_of(one)
        except JobError:
            return ""

    def _is_old(self, name: str) -> bool:
        return trio.current_time() - self._of(name).written_s > USAGE_INTERVAL_S

    def _of(self, name: str) -> _Known:
        return self._known.setdefault(name, _Known())

    def _path(self, name: str = "", part: str = "") -> str:
        return path_of(_API, self._door.namespace, "pocketjobs", name, part)

    def _path_of_secrets(self) -> str:
        return path_of("api/v1", self._door.namespace, "secrets")

    def _secret_path(self, name: str) -> str:
        return path_of("api/v1", self._door.namespace, "secrets", records.secret_name(name))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
