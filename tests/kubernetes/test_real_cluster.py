"""What the backend relies on, against a real API: whatever KUBECONFIG points to.

Without KUBECONFIG these are skipped. Each test run makes a namespace of its own, and removes it.
The pods of the StatefulSets only wait: no image of PocketKV needs to be in a registry, and what
real servers do when pods come and go, `test_cluster` shows. `POCKETKV_TEST_PAUSE_IMAGE` names
another image for them, if nodes cannot pull the usual one.

    KUBECONFIG=~/.kube/config python -m pytest tests/kubernetes/test_real_cluster.py
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from pocketkv.controller.backends.kubernetes import store as stores
from pocketkv.controller.backends.kubernetes.api import (
    Api,
    ApiError,
    ConflictError,
    Document,
    ExpiredError,
    NotFoundError,
    path_of,
)
from pocketkv.controller.backends.kubernetes.backend import KubernetesBackend, read_sets
from pocketkv.controller.backends.kubernetes.door import Door, Mirror
from pocketkv.controller.backends.kubernetes.lease import Candidate, LeaseTimes
from pocketkv.controller.backends.kubernetes.store import KubernetesStore, ReplacedError
from pocketkv.controller.messages import Persist, ProcessDied, ServerWaits
from tests.controller.running import in_trio
from tests.kubernetes.connecting import RELEASE
from tests.kubernetes.machines import stateful_set
from tests.kubernetes.real import NEEDS_A_CLUSTER, RealCluster

pytestmark = NEEDS_A_CLUSTER

LOG = logging.getLogger("pocketkv.tests")
TIMEOUT_S = 180.0
SET = "pk-storage-memory"


@pytest.fixture(scope="module")
def api(real_cluster: RealCluster) -> Iterator[Api]:
    """The API, in a namespace that is removed afterwards."""
    with real_cluster.namespace() as found:
        yield found


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - the cluster tells nobody
            await trio.sleep(0.2)


def batch(epoch: int, job: str, size: int = 10) -> Persist:
    return Persist(epoch=epoch, jobs={job: {"text": secrets.token_hex(size)}})


def test_state_is_kept_and_fenced(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "HEAD_BYTES_MAX", 4_000)
    old = KubernetesStore(api, RELEASE, {"app.kubernetes.io/instance": RELEASE})
    epoch = old.read().epoch
    for i in range(12):
        old.write(batch(epoch + i, f"j{i}", 500))
    new = KubernetesStore(api, RELEASE, {"app.kubernetes.io/instance": RELEASE})
    snapshot = new.read()
    assert set(snapshot.jobs) == {f"j{i}" for i in range(12)}
    with pytest.raises(ReplacedError):
        old.write(batch(epoch + 99, "late"))
    new.write(batch(snapshot.epoch + 1, "j12"))


def test_a_write_of_the_state_takes_no_more_than_its_size_allows(api: Api) -> None:
    """A job that is registered waits for one write: what that takes is printed."""
    store = KubernetesStore(api, "pk-latency", {})
    epoch = store.read().epoch
    times = []
    for i in range(50):
        started_s = time.perf_counter()
        store.write(batch(epoch + i, f"j{i}", 1_000))
        times.append(time.perf_counter() - started_s)
    times.sort()
    print(f"\na batch: median {times[25] * 1000:.1f} ms, longest {times[-1] * 1000:.1f} ms")  # noqa: T201
    assert set(KubernetesStore(api, "pk-latency", {}).read().jobs) == {f"j{i}" for i in range(50)}


@in_trio
async def test_one_of_two_leads(api: Api) -> None:
    leading: list[str] = []
    times = LeaseTimes(duration_s=4, deadline_s=3.0, retry_s=0.5)

    async def replica(name: str, scope: trio.CancelScope) -> None:
        async def work() -> None:
            leading.append(name)
            await trio.sleep_forever()

        with scope:
            await Candidate(Door(api), "pk-controller", name, times, {}, LOG).lead(work)

    async with trio.open_nursery() as nursery:
        scopes = {name: trio.CancelScope() for name in ("a", "b")}
        for name, scope in scopes.items():
            nursery.start_soon(replica, name, scope)
        await until(lambda: leading)
        await trio.sleep(5)
        assert len(leading) == 1
        scopes[leading[0]].cancel()
        await until(lambda: len(leading) == 2)
        assert set(leading) == {"a", "b"}
        nursery.cancel_scope.cancel()


@in_trio
async def test_watches(api: Api) -> None:
    path = path_of("api/v1", api.namespace, "configmaps")
    seen: list[tuple[str, bool]] = []
    mirror = Mirror(
        Door(api), path, "app=x", lambda name, one: seen.append((name, one is not None)), LOG
    )
    one = {"metadata": {"name": "watched", "labels": {"app": "x"}}, "data": {"a": "1"}}
    async with trio.open_nursery() as nursery:
        await nursery.start(mirror.run)
        api.request("POST", path, one)
        await until(lambda: "watched" in mirror.objects)
        api.request("DELETE", f"{path}/watched")
        await until(lambda: "watched" not in mirror.objects)
        nursery.cancel_scope.cancel()
    assert seen[-1] == ("watched", False)


def test_a_version_that_never_was_is_too_old(api: Api) -> None:
    path = path_of("api/v1", api.namespace, "configmaps")
    try:
        for _ in api.watch(path, "1", lasts_s=5, silence_s=20):
            pass
    except ExpiredError:
        return
    except ApiError as error:
        pytest.fail(f"another error than expected: {error}")
    # A cluster that is this young still has everything.


def waiting_set(replicas: int, cpu: str = "1m") -> Document:
    one = stateful_set("memory", "dram", replicas, cpu=cpu)
    one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 5
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", **one}


@in_trio
async def test_servers_are_started_stopped_and_replaced(api: Api) -> None:
    sets = path_of("apis/apps/v1", api.namespace, "statefulsets")
    api.request("POST", sets, waiting_set(1))
    told: list[ProcessDied | ServerWaits] = []
    door = Door(api)
    backend = KubernetesBackend(door, RELEASE, await read_sets(door, RELEASE), lambda *_: 1.0, LOG)
    assert backend.plan == {"dram": 1}

    def pods() -> dict[str, str]:
        path = path_of("api/v1", api.namespace, "pods")
        found, _ = api.list(path, f"app.kubernetes.io/instance={RELEASE}")
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}

    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run, ("", 0), told.append)
        first, second = backend.new_server_id("dram"), backend.new_server_id("dram")
        assert (first, second) == (f"{SET}-0", f"{SET}-1")
        backend.start(first, "dram")
        backend.start(second, "dram")
        await until(lambda: set(pods()) == {first, second})
        uid = pods()[first]
        backend.stop(first, force=True)
        backend.start(first, "dram")
        await until(lambda: pods().get(first, uid) != uid)
        await until(lambda: ProcessDied(first, "its pod has gone") in told)
        backend.stop(second, force=False)
        await until(lambda: set(pods()) == {first})
        await until(lambda: ProcessDied(second, "its pod has gone") in told)
        api.request("DELETE", path_of("api/v1", api.namespace, "pods", first))
        hint = ProcessDied(first, "its pod was deleted", is_sure=False)
        await until(lambda: hint in told)
        nursery.cancel_scope.cancel()
    api.request("DELETE", f"{sets}/{SET}")
    await until(lambda: not pods())


@in_trio
async def test_a_pod_that_no_machine_has_room_for_is_told_of(api: Api) -> None:
    sets = path_of("apis/apps/v1", api.namespace, "statefulsets")
    api.request("POST", sets, waiting_set(0, cpu="1000"))
    told: list[ProcessDied | ServerWaits] = []
    door = Door(api)
    backend = KubernetesBackend(door, RELEASE, await read_sets(door, RELEASE), lambda *_: 1.0, LOG)
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run, ("", 0), told.append)
        server_id = backend.new_server_id("dram")
        backend.start(server_id, "dram")
        await until(lambda: any(isinstance(event, ServerWaits) for event in told))
        nursery.cancel_scope.cancel()
    waits = next(event for event in told if isinstance(event, ServerWaits))
    assert waits.server_id == server_id
    assert "Unschedulable" in waits.reason
    api.request("DELETE", f"{sets}/{SET}")


def test_conflicts_and_preconditions(api: Api) -> None:
    path = path_of("api/v1", api.namespace, "configmaps")
    one = api.request("POST", path, {"metadata": {"name": "fought-over"}, "data": {"a": "1"}})
    with pytest.raises(ConflictError):
        api.request("POST", path, {"metadata": {"name": "fought-over"}})
    api.request("PUT", f"{path}/fought-over", {**one, "data": {"a": "2"}})
    with pytest.raises(ConflictError):
        api.request("PUT", f"{path}/fought-over", {**one, "data": {"a": "3"}})
    version = {"resourceVersion": one["metadata"]["resourceVersion"]}
    with pytest.raises(ConflictError):
        api.request(
            "PATCH",
            f"{path}/fought-over",
            {"metadata": version, "data": {"a": "4"}},
            content_type="application/merge-patch+json",
        )
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "another"}}
    with pytest.raises(ConflictError):
        api.request("DELETE", f"{path}/fought-over", options)
    api.request("DELETE", f"{path}/fought-over")
    with pytest.raises(NotFoundError):
        api.request("GET", f"{path}/fought-over")
