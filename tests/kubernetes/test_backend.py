"""What the backend makes of StatefulSets, whatever the API answers: as many as are wanted, no more.

Pods are objects only; what real servers do when pods come and go, `test_cluster` shows.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from pocketkv.controller.backends.kubernetes.backend import KubernetesBackend, read_sets
from pocketkv.controller.backends.kubernetes.door import Door, WatchTimes
from pocketkv.controller.messages import ProcessDied, ServerWaits
from tests.controller.running import in_trio
from tests.kubernetes.apiserver import ApiServer, Fault
from tests.kubernetes.connecting import NAMESPACE, RELEASE, api_of
from tests.kubernetes.machines import stateful_set
from tests.kubernetes.objects import Document, RefusalError
from tests.kubernetes.sets import end_pods, follow_sets, storage_pods

LOG = logging.getLogger("pocketkv.tests")
SET = "pk-storage-memory"
SCALE = f"PUT .*{SET}/scale"
TIMEOUT_S = 60.0

pytestmark = pytest.mark.timeout(3 * TIMEOUT_S)


class Running:
    """A backend on a test's API, and what it told."""

    def __init__(self, server: ApiServer, backend: KubernetesBackend) -> None:
        self.objects = server.objects
        self.backend = backend
        self.told: list[ProcessDied | ServerWaits] = []

    def replicas(self) -> int:
        return int(self.objects.get(NAMESPACE, "statefulsets", SET)["spec"]["replicas"])

    def pod(self, name: str) -> Document:
        return self.objects.get(NAMESPACE, "pods", name)

    def uid(self, name: str) -> str:
        """Of a pod; empty if there is none."""
        one = self.objects.find(NAMESPACE, "pods", name)
        return "" if one is None else str(one["metadata"]["uid"])

    def pods(self) -> set[str]:
        return {one["metadata"]["name"] for one in storage_pods(self.objects)}

    def start(self, count: int) -> None:
        """Have as many more servers."""
        for _ in range(count):
            self.backend.start(self.backend.new_server_id("dram"), "dram")

    def stop(self, *ordinals: int) -> None:
        """Have servers go that hold nothing any more."""
        for ordinal in ordinals:
            self.backend.stop(f"{SET}-{ordinal}", force=False)

    async def has(self, count: int) -> None:
        """Wait until there are just so many."""
        names = {f"{SET}-{i}" for i in range(count)}
        await until(lambda: self.replicas() == count and self.pods() == names)

    async def follow(self) -> None:
        while True:
            try:
                follow_sets(self.objects)
                end_pods(self.objects)
            except RefusalError:
                pass  # Something has changed meanwhile: the next look.
            await trio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - the server is in other threads
            await trio.sleep(0.02)


async def met(fault: Fault, times: int = 1) -> None:
    await until(lambda: fault.met >= times)


@asynccontextmanager
async def running(
    server: ApiServer, replicas: int = 1, *, follows: bool = True, **times: float
) -> AsyncIterator[Running]:
    server.objects.create(NAMESPACE, "statefulsets", stateful_set("memory", "dram", replicas))
    follow_sets(server.objects)
    door = Door(api_of(server), WatchTimes(**{"lasts_s": 20, "silence_s": 30.0, **times}))  # type: ignore[arg-type]
    backend = KubernetesBackend(door, RELEASE, await read_sets(door, RELEASE), lambda *_: 1.0, LOG)
    found = Running(server, backend)
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run, ("", 0), found.told.append)
        if follows:
            nursery.start_soon(found.follow)
        await until(lambda: server.count("watch=true") >= 2)
        found.start(replicas)
        yield found
        nursery.cancel_scope.cancel()


async def grows_and_shrinks(server: ApiServer, matches: str, **options: Any) -> None:
    """Have two servers more, then one less: each time a fault is met, and it comes about anyway."""
    async with running(server) as cluster:
        with server.fault(matches, **options) as fault:
            cluster.start(2)
            await met(fault, fault.times)
            await cluster.has(3)
        with server.fault(matches, **options) as fault:
            cluster.stop(2)
            await met(fault, fault.times)
            await cluster.has(2)


@in_trio
async def test_a_set_grows_at_once_and_shrinks_by_what_was_stopped(server: ApiServer) -> None:
    async with running(server) as cluster:
        cluster.start(2)
        await cluster.has(3)
        assert server.count(SCALE) == 1
        cluster.stop(1)  # Not the highest: it stays until that one goes as well.
        cluster.stop(2)
        await cluster.has(1)
        await until(lambda: len(cluster.told) == 2)
        assert set(cluster.told) == {ProcessDied(f"{SET}-{i}", "its pod has gone") for i in (1, 2)}


@pytest.mark.parametrize("ordinal", [0, 2])
@in_trio
async def test_a_pod_that_is_to_return_is_made_anew_and_its_set_stays_as_large(
    server: ApiServer, ordinal: int
) -> None:
    """A set that rolls an upgrade out would go on to the next pod before this one is back."""
    async with running(server, replicas=3) as cluster:
        name = f"{SET}-{ordinal}"
        before = cluster.uid(name)
        cluster.backend.stop(name, force=False, returns=True)
        await until(lambda: cluster.uid(name) not in {"", before})
        await until(lambda: cluster.told == [ProcessDied(name, "its pod has gone")])
        assert server.count(SCALE) == 0
        cluster.backend.start(name, "dram")
        await cluster.has(3)
        assert server.count(SCALE) == 0


@in_trio
async def test_a_pod_that_is_not_to_return_after_all_goes_for_good(server: ApiServer) -> None:
    async with running(server, replicas=2, follows=False) as cluster:
        name = f"{SET}-1"
        cluster.backend.stop(name, force=False, returns=True)
        await until(lambda: server.count(f"DELETE .*{name}") == 1)
        cluster.backend.stop(name, force=False)
        await until(lambda: cluster.replicas() == 1)
        end_pods(server.objects)
        await until(lambda: cluster.told == [ProcessDied(name, "its pod has gone")])


@pytest.mark.parametrize("status", [0, 404, 409, 410, 429, 500, 503])
@pytest.mark.parametrize("method", ["GET", "PUT"])
@in_trio
async def test_scaling_that_fails_is_tried_again(
    server: ApiServer, method: str, status: int
) -> None:
    headers = {"Retry-After": "0"} if status == 429 else {}
    fault = {"status": status, "headers": headers, "times": 2}
    await grows_and_shrinks(server, f"{method} .*/scale", **fault)


@in_trio
async def test_an_api_that_is_busy_is_not_asked_before_it_says(server: ApiServer) -> None:
    async with running(server) as cluster:
        with server.fault(SCALE, status=429, headers={"Retry-After": "2"}, times=1) as fault:
            cluster.start(1)
            await met(fault)
            started_s = trio.current_time()
            await cluster.has(2)
            assert trio.current_time() - started_s > 1.5
        assert server.count(SCALE) == 2


@in_trio
async def test_scaling_whose_answer_is_lost_is_done_once(server: ApiServer) -> None:
    await grows_and_shrinks(server, SCALE, after=True, times=1)
    assert server.count(SCALE) == 2


@in_trio
async def test_who_scales_in_between_is_not_overruled(server: ApiServer) -> None:
    """Somebody writes after it was read: with that version nothing is written."""
    async with running(server) as cluster:
        with server.fault(SCALE, stall=True, times=1) as fault:
            cluster.start(1)
            await met(fault)
            more = {"spec": {"replicas": 4}}
            server.objects.patch(NAMESPACE, "statefulsets", SET, more)
        # What others ask for beyond what is wanted stays: nobody has said that it holds nothing.
        await until(lambda: len(cluster.pods()) == 4)
        cluster.start(3)
        await cluster.has(5)


@in_trio
async def test_scaling_that_stalls_is_tried_again(server: ApiServer) -> None:
    async with running(server) as cluster:
        with server.fault(SCALE, stall=True, times=1) as fault:
            cluster.start(1)
            await met(fault)
            await trio.sleep(0.5)
            assert cluster.replicas() == 1
        await cluster.has(2)


@in_trio
async def test_a_watch_that_stalls_stops_scaling_until_it_is_made_anew(server: ApiServer) -> None:
    async with running(server, silence_s=1.5) as cluster:
        server.stalled_watches.set()
        await until(lambda: server.count("pods.*watch=true") >= 2)
        before = server.count("/scale")
        cluster.start(1)
        await trio.sleep(0.5)
        assert server.count("/scale") == before
        server.stalled_watches.clear()
        await cluster.has(2)


@in_trio
async def test_watches_that_expire_while_it_scales_cost_nothing(server: ApiServer) -> None:
    async with running(server) as cluster:
        cluster.start(3)
        for _ in range(20):
            server.objects.compact()
            await trio.sleep(0.03)
        await cluster.has(4)
        cluster.stop(3, 2)
        for _ in range(20):
            server.objects.compact()
            await trio.sleep(0.03)
        await cluster.has(2)
        await until(lambda: len(cluster.told) == 2)


@in_trio
async def test_an_outage_stops_scaling_and_what_it_missed_is_told(server: ApiServer) -> None:
    async with running(server, replicas=3) as cluster:
        with server.fault("WATCHING"), server.outage() as outage:
            await met(outage, 4)
            cluster.stop(2)
            server.objects.delete(NAMESPACE, "pods", f"{SET}-1")
            await trio.sleep(0.5)
            assert cluster.replicas() == 3
        await cluster.has(2)
        gone = ProcessDied(f"{SET}-2", "its pod has gone")
        await until(lambda: gone in cluster.told)
        # Of the one that was made anew meanwhile, its server tells by joining.
        cluster.start(1)
        await cluster.has(3)


@pytest.mark.parametrize("status", [0, 409, 429, 500])
@in_trio
async def test_a_pod_that_is_not_deleted_at_first_goes_in_the_end(
    server: ApiServer, status: int
) -> None:
    async with running(server, replicas=2) as cluster:
        uid = cluster.uid(f"{SET}-0")
        with server.fault(f"DELETE .*pods/{SET}-0", status=status, times=1) as fault:
            cluster.backend.stop(f"{SET}-0", force=True)
            await met(fault)
        await until(lambda: cluster.uid(f"{SET}-0") not in {"", uid})
        await until(lambda: ProcessDied(f"{SET}-0", "its pod has gone") in cluster.told)


@in_trio
async def test_a_pod_that_does_not_go_by_itself_is_removed(server: ApiServer) -> None:
    """It was asked to go, and the machine that it is on has died meanwhile."""
    async with running(server, replicas=2, follows=False) as cluster:
        name = f"{SET}-0"
        cluster.backend.stop(name, force=False, returns=True)
        await until(lambda: "deletionTimestamp" in cluster.pod(name)["metadata"])
        cluster.backend.stop(name, force=True)
        await until(lambda: name not in cluster.pods())
        await until(lambda: ProcessDied(name, "its pod has gone") in cluster.told)


@in_trio
async def test_a_pod_that_is_to_go_at_once_while_it_is_asked_to_go_is_removed(
    server: ApiServer,
) -> None:
    async with running(server, replicas=2, follows=False) as cluster:
        name = f"{SET}-0"
        with server.fault(f"DELETE .*{name}", delay_s=0.5, times=1) as fault:
            cluster.backend.stop(name, force=False, returns=True)
            await met(fault)
            # There is no answer to the first request yet.
            cluster.backend.stop(name, force=True)
        await until(lambda: name not in cluster.pods())
        await until(lambda: ProcessDied(name, "its pod has gone") in cluster.told)
