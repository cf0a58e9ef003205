"""The pods of the chart, run as their manifests say: they become ready, serve, drain and end.

Nothing here knows options or ports: command lines, variables, probes and times are the chart's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kubernetes import charts
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.connecting import NAMESPACE
from tests.kubernetes.controllers import eventually
from tests.kubernetes.kubelet import Kubelet, Pod, taken_ports
from tests.kubernetes.objects import decoded

pytestmark = pytest.mark.timeout(180)

VALUES: dict[str, Any] = {
    "storage": {"drainSeconds": 30},
    "tiers": [
        {"name": "dram", "tier": "dram", "min": 2, "max": 2, "cpu": "1", "memory": "512Mi"},
        {
            "name": "nvme",
            "tier": "nvme",
            "min": 1,
            "max": 1,
            "cpu": "1",
            "memory": "512Mi",
            "disk": {"kind": "emptyDir", "size": "1Gi"},
        },
    ],
}


class Release:
    """The chart on a test's API, whose pods are made here and run by a played kubelet."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.objects = server.objects
        self.resources = charts.parse(charts.render_text(VALUES, namespace=NAMESPACE))
        kinds = {"Secret": "secrets", "StatefulSet": "statefulsets"}
        for one in self.resources:
            if one["kind"] in kinds:
                self.objects.create(NAMESPACE, kinds[one["kind"]], one)
        services = list(charts.of_kind(self.resources, "Service").values())
        config = server.kubeconfig(folder / "kubeconfig", NAMESPACE)
        self.kubelet = Kubelet(self.objects, NAMESPACE, services, folder, lambda account: config)

    def create(self, owner: str, name: str) -> None:
        """Make a pod of a Deployment or a StatefulSet, and place it."""
        kinds = {"Deployment", "StatefulSet"}
        [template] = [
            one["spec"]["template"]
            for one in self.resources
            if one["metadata"]["name"] == owner and one["kind"] in kinds
        ]
        metadata = {**template["metadata"], "name": name}
        spec = {**template["spec"], "nodeName": "machine"}
        self.objects.create(NAMESPACE, "pods", {"metadata": metadata, "spec": spec})

    def run_test_pod(self) -> None:
        [pod] = charts.of_kind(self.resources, "Pod").values()
        spec = {**pod["spec"], "nodeName": "machine"}
        self.objects.create(NAMESPACE, "pods", {"metadata": pod["metadata"], "spec": spec})

    def phase(self, name: str) -> str:
        status = self.objects.get(NAMESPACE, "pods", name).get("status") or {}
        return str(status.get("phase"))

    def is_ready(self, *names: str) -> bool:
        return all(name in self.kubelet.pods and self.kubelet.pods[name].is_ready for name in names)

    def client(self) -> redis.Redis:
        secret = decoded(self.objects.get(NAMESPACE, "secrets", "pocketkv"))
        return redis.Redis(
            host=self.kubelet.services["pocketkv"],
            port=6379,
            username="admin",
            password=secret["admin-password"],
            protocol=3,
            socket_timeout=30,
        )


@pytest.fixture
def release(server: ApiServer, tmp_path: Path) -> Iterator[Release]:
    taken = taken_ports(charts.render(VALUES))
    if taken:
        pytest.skip(f"somebody listens at the ports {taken} on all addresses of this machine")
    with contextlib.ExitStack() as stack:
        found = Release(server, tmp_path)
        stack.callback(found.kubelet.close)
        try:
            yield found
        except BaseException:
            for log in sorted(tmp_path.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")  # noqa: T201
            raise


def test_pods_become_ready_serve_drain_and_end(release: Release) -> None:
    storage = ["pocketkv-storage-dram-0", "pocketkv-storage-dram-1", "pocketkv-storage-nvme-0"]
    release.create("pocketkv-controller", "controller-a")
    release.create("pocketkv-router", "router-a")
    for name in storage:
        release.create(name.rpartition("-")[0], name)
    eventually(lambda: release.is_ready("controller-a", "router-a", *storage), "all are ready")

    client = release.client()
    call: Callable[..., Any] = client.execute_command
    job = call("JOB.REGISTER", "kept", "CAPACITY", "1mb", "TIERS", "dram")
    fields = {k.decode(): v for k, v in job.items()}
    address = release.kubelet.services["pocketkv"]
    assert fields["url"].decode().endswith(f"@{address}:6379")
    with redis.Redis.from_url(fields["url"].decode(), socket_timeout=30) as storing:
        storing.mset({f"key:{i}": i for i in range(200)})
    release.run_test_pod()
    eventually(lambda: release.phase("pocketkv-test") == "Succeeded", "helm test passes")

    # As a rolling upgrade does, and then all at once, as the end of a release does.
    gone = release.kubelet.pods[storage[1]]
    release.objects.delete(NAMESPACE, "pods", storage[1])
    eventually(lambda: gone in release.kubelet.past, "it has drained")
    info = call("JOB.INFO", fields["id"])
    assert (info[b"keys"], info[b"lost_keys"]) == (200, 0)
    with redis.Redis.from_url(fields["url"].decode(), socket_timeout=30) as storing:
        assert storing.mget("key:0", "key:199") == [b"0", b"199"]
    # Who holds something would wait for the next controller.
    call("JOB.DEREGISTER", fields["id"])
    client.close()
    for pod in list(release.kubelet.pods.values()):
        release.objects.delete(NAMESPACE, "pods", pod.name)
    eventually(lambda: not release.kubelet.pods, "all have ended")
    ended: list[Pod] = release.kubelet.past
    assert [(pod.name, pod.exits) for pod in ended if pod.was_killed or pod.exits != [0]] == []
