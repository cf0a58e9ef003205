"""PocketJobs and jobs are kept alike, whatever the API answers: one job each, and nothing left."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from pocketkv.controller.backends.kubernetes import pocketjobs
from pocketkv.controller.backends.kubernetes.door import Door, WatchTimes
from pocketkv.controller.backends.kubernetes.pocketjobs import PocketJobs
from pocketkv.jobs import DEFAULT_JOB_ID
from tests.controller.running import LOG, SECRET, Running, in_trio
from tests.controller.running import running as controlling
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.connecting import NAMESPACE, RELEASE, api_of
from tests.kubernetes.objects import Document, decoded

WRITES = "(POST|PUT|PATCH|DELETE) .*(pocketjobs|secrets)"
FAULTS = [
    {"status": 0},
    {"status": 0, "after": True},
    {"status": 409},
    {"status": 410},
    {"status": 429, "headers": {"Retry-After": "0"}},
    {"status": 500},
]
SPEC = {"capacity": "1mb", "tiers": ["dram"]}
TIMEOUT_S = 60.0

pytestmark = pytest.mark.timeout(3 * TIMEOUT_S)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tests wait less."""
    monkeypatch.setattr(pocketjobs, "_LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(pocketjobs, "USAGE_INTERVAL_S", 0.5)


class Jobs:
    """A controller whose jobs are objects of a test's API."""

    def __init__(self, server: ApiServer, controller: Running) -> None:
        self.objects = server.objects
        self.controller = controller

    def apply(self, name: str, spec: Document) -> None:
        if self.objects.find(NAMESPACE, "pocketjobs", name) is None:
            one = {"metadata": {"name": name}, "spec": spec}
            self.objects.create(NAMESPACE, "pocketjobs", one)
        else:
            self.objects.patch(NAMESPACE, "pocketjobs", name, {"spec": spec})

    def delete(self, name: str) -> None:
        self.objects.delete(NAMESPACE, "pocketjobs", name)

    def status(self, name: str) -> Document:
        one = self.objects.find(NAMESPACE, "pocketjobs", name) or {}
        return one.get("status") or {}

    def ids(self) -> set[str]:
        """Jobs that there are."""
        return set(self.controller.core.state.tenants) - {DEFAULT_JOB_ID}

    def names(self, kind: str) -> set[str]:
        return {one["metadata"]["name"] for one in self.objects.all(NAMESPACE, kind)}

    def capacity(self, job_id: str) -> Any:
        job = self.controller.core.state.tenants[job_id].job
        return None if job is None else job.hints.capacity_bytes

    async def is_whole(self, name: str) -> str:
        """Wait until an object has its one job, Secret and status; returns the job's id."""
        await until(lambda: self.status(name).get("phase") == "Active")
        await until(lambda: self.status(name).get("secretName") == f"{name}-pocketkv")
        job_id = str(self.status(name)["id"])
        assert self.ids() == {job_id}
        secret = decoded(self.objects.get(NAMESPACE, "secrets", f"{name}-pocketkv"))
        assert secret["id"] == job_id
        assert f"{job_id}:{secret['token']}@" in secret["url"]
        one = self.objects.get(NAMESPACE, "pocketjobs", name)
        assert one["metadata"]["finalizers"] == ["pocketkv.io/deregister"]
        return job_id

    async def are_gone(self) -> None:
        """Wait until nothing is left."""
        await until(lambda: not self.names("pocketjobs"))
        assert self.ids() == set()
        assert self.names("secrets") == set()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - the server is in other threads
            await trio.sleep(0.02)


@asynccontextmanager
async def running(server: ApiServer, **times: float) -> AsyncIterator[Jobs]:
    door = Door(api_of(server), WatchTimes(**{"lasts_s": 20, "silence_s": 30.0, **times}))  # type: ignore[arg-type]
    async with controlling(timeout_s=2 * TIMEOUT_S) as controller:
        await controller.joined("s1", port=7001)
        await controller.joined("r1", "router", port=6379)
        jobs = PocketJobs(door, RELEASE, controller.core, SECRET, LOG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.run)
            yield Jobs(server, controller)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("options", FAULTS, ids=json.dumps)
@in_trio
async def test_writes_that_fail_leave_one_job_and_in_the_end_nothing(
    server: ApiServer, options: dict[str, Any]
) -> None:
    async with running(server) as jobs:
        # Each kind of write fails the first time.
        with server.fault(WRITES, times=4, **options) as fault:
            jobs.apply("shuffle", SPEC)
            job_id = await jobs.is_whole("shuffle")
            await until(lambda: fault.met >= 3)
        jobs.apply("shuffle", {"capacity": "2mb"})
        await until(lambda: jobs.capacity(job_id) == 2 * 1024**2)
        with server.fault(WRITES, times=2, **options) as fault:
            jobs.delete("shuffle")
            await jobs.are_gone()
            assert fault.met == 2


@pytest.mark.parametrize("options", FAULTS, ids=json.dumps)
@in_trio
async def test_a_job_of_a_client_has_its_object_in_the_end(
    server: ApiServer, options: dict[str, Any]
) -> None:
    async with running(server) as jobs:
        peer = await jobs.controller.connect()
        with server.fault(WRITES, times=2, **options) as fault:
            reply = await peer.call("JOB.REGISTER", "by-hand", "CAPACITY", "1mb")
            job_id = reply[b"id"].decode()
            await until(lambda: len(jobs.names("pocketjobs")) == 1)
            [name] = jobs.names("pocketjobs")
            await until(lambda: jobs.status(name).get("id") == job_id)
            assert fault.met == 2
        with server.fault(WRITES, times=1, **options):
            await peer.call("JOB.DEREGISTER", job_id)
            await jobs.are_gone()


@in_trio
async def test_an_api_that_is_busy_is_not_asked_before_it_says(server: ApiServer) -> None:
    async with running(server) as jobs:
        peer = await jobs.controller.connect()
        busy = {"status": 429, "headers": {"Retry-After": "4"}, "times": 1}
        with server.fault("POST .*pocketjobs", **busy) as fault:
            await peer.call("JOB.REGISTER", "by-hand")
            await until(lambda: fault.met == 1)
            started_s = trio.current_time()
            await until(lambda: len(jobs.names("pocketjobs")) == 1)
            assert trio.current_time() - started_s > 3.5
        assert server.count("POST .*pocketjobs") == 2


@in_trio
async def test_a_watch_that_stalls_delays_only(server: ApiServer) -> None:
    async with running(server, silence_s=1.0) as jobs:
        server.stalled_watches.set()
        jobs.apply("shuffle", SPEC)
        await until(lambda: server.count("pocketjobs.*watch=true") >= 2)
        assert jobs.ids() == set()
        server.stalled_watches.clear()
        await jobs.is_whole("shuffle")


@in_trio
async def test_what_was_applied_and_deleted_in_an_outage_is_made_up_for(
    server: ApiServer,
) -> None:
    async with running(server) as jobs:
        jobs.apply("old", SPEC)
        job_id = await jobs.is_whole("old")
        with server.fault("WATCHING"), server.outage() as outage:
            await until(lambda: outage.met >= 2)
            jobs.delete("old")
            jobs.apply("new", SPEC)
            await trio.sleep(1)
            assert jobs.ids() == {job_id}
        await until(lambda: jobs.names("pocketjobs") == {"new"})
        assert await jobs.is_whole("new") != job_id
        assert jobs.names("secrets") == {"new-pocketkv"}


@in_trio
async def test_watches_that_expire_all_the_time_cost_nothing(server: ApiServer) -> None:
    async with running(server) as jobs:
        jobs.apply("shuffle", SPEC)
        for _ in range(20):
            server.objects.compact()
            await trio.sleep(0.05)
        await jobs.is_whole("shuffle")
        jobs.delete("shuffle")
        for _ in range(20):
            server.objects.compact()
            await trio.sleep(0.05)
        await jobs.are_gone()


@in_trio
async def test_a_kind_that_is_missing_is_told_of_and_waited_for(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, LOG.name)
    with server.fault("GET .*pocketjobs", status=404) as fault:
        async with running(server) as jobs:
            await until(lambda: fault.met >= 3)
            told = [r for r in caplog.records if "404" in str(vars(r).get("error"))]
            assert len(told) == 1
            server.faults.remove(fault)
            try:
                jobs.apply("shuffle", SPEC)
                await jobs.is_whole("shuffle")
            finally:
                server.faults.append(fault)
