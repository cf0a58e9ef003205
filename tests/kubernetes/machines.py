"""What runs pods in a test: a controller of StatefulSets, a kubelet, and a Service.

Pods of storage servers are real `pocketkv storage` processes on the loopback, so that to scale up
is a real join and to scale down a real drain. As Kubernetes does, a StatefulSet makes pods up to
its replicas, in parallel, takes away the highest, and makes a pod anew that has gone; a kubelet
sends SIGTERM to the process of a pod that is to go, and SIGKILL when its time is over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.connecting import NAMESPACE, RELEASE
from tests.kubernetes.forwarding import Forwarder
from tests.kubernetes.nodes import Node
from tests.kubernetes.objects import Document, RefusalError
from tests.kubernetes.remote import RealServer
from tests.kubernetes.sets import follow_sets, storage_pods

SECRET = "07" * 32
MEMORY = "64mb"
PAUSE = os.environ.get("POCKETKV_TEST_PAUSE_IMAGE", "registry.k8s.io/pause:3.9")

Server: TypeAlias = ApiServer | RealServer


def stateful_set(
    entry: str,
    tier: str,
    replicas: int,
    least: int = 0,
    most: int = 8,
    machine_type: str = "",
    cpu: str = "1",
) -> Document:
    labels = {
        "app.kubernetes.io/name": "pocketkv",
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/component": "storage",
        "pocketkv.io/tier": tier,
    }
    notes = {"pocketkv.io/min": str(least), "pocketkv.io/max": str(most)}
    if machine_type:
        notes["pocketkv.io/machine-type"] = machine_type
    return {
        "metadata": {
            "name": f"{RELEASE}-storage-{entry}",
            "labels": labels,
            "annotations": notes,
        },
        "spec": {
            "replicas": replicas,
            "serviceName": f"{RELEASE}-storage",
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": waiting_pod({"labels": labels}, cpu),
        },
    }


def waiting_pod(metadata: Document, cpu: str = "0") -> Document:
    """A pod that only waits, where there is a kubelet at all."""
    container = {
        "name": "main",
        "image": PAUSE,
        "resources": {"requests": {"cpu": cpu, "memory": "4Mi"}},
    }
    spec = {"terminationGracePeriodSeconds": 30, "containers": [container]}
    return {"metadata": metadata, "spec": spec}


class Cluster:
    """Machines that run the pods of an API server.

    Args:
        server: The API.
        folder: For logs and values.
        pods_max: More storage pods than this stay Pending.
        grace_s: What a pod that is to go gets.
    """

    def __init__(
        self, server: Server, folder: Path, *, pods_max: int = 100, grace_s: float = 30.0
    ) -> None:
        self.server = server
        self.folder = folder
        self.pods_max = pods_max
        self.grace_s = grace_s
        self.processes: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        self._ends: dict[str, float] = {}
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._node = Node(server) if isinstance(server, RealServer) else None
        self.service = Service(server)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self.service.close()
        if self._node is not None:
            self._node.close()
        for _, process in self.processes.values():
            process.kill()
            process.wait(10)
        assert not self._errors, self._errors

    # --- what a test does ----------------------------------------------------------------------

    def kill(self, pod: str) -> None:
        """The process of a pod dies, and the machine with it: nobody says so."""
        os.kill(self.processes[pod][1].pid, signal.SIGKILL)

    def evict(self, pod: str) -> None:
        """Somebody deletes a pod; it is told to go."""
        self.server.objects.delete(NAMESPACE, "pods", pod)

    def reclaim(self, pod: str) -> None:
        """A spot machine is taken away: process and pod are gone at once."""
        self.kill(pod)
        self.server.objects.delete(NAMESPACE, "pods", pod, {"gracePeriodSeconds": 0})

    def pods(self) -> list[str]:
        """Storage pods that there are."""
        return [one["metadata"]["name"] for one in storage_pods(self.server.objects)]

    # --- the loop ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                if self._node is not None:
                    self._node.beat(self.pods_max)
                if isinstance(self.server, ApiServer):
                    follow_sets(self.server.objects)
                self._follow_pods()
            except RefusalError:
                pass  # Something has changed meanwhile: the next look.
            except BaseException as error:
                self._errors.append(error)
                raise

    def _follow_pods(self) -> None:
        objects = self.server.objects
        known = {one["metadata"]["name"]: one for one in storage_pods(objects)}
        for name, (uid, process) in list(self.processes.items()):
            pod = known.get(name)
            is_same = pod is not None and pod["metadata"]["uid"] == uid
            if process.poll() is not None:
                del self.processes[name]
                self._ends.pop(name, None)
                if is_same and pod is not None and pod["metadata"].get("deletionTimestamp"):
                    objects.delete(NAMESPACE, "pods", name, {"gracePeriodSeconds": 0})
            elif not is_same:
                process.kill()
            elif pod is not None and pod["metadata"].get("deletionTimestamp"):
                if name not in self._ends:
                    self._ends[name] = time.monotonic() + self.grace_s
                    process.terminate()
                elif time.monotonic() > self._ends[name]:
                    process.kill()
        for name, pod in known.items():
            if name not in self.processes:
                self._begin(name, pod)

    def _begin(self, name: str, pod: Document) -> None:
        objects = self.server.objects
        if pod["metadata"].get("deletionTimestamp"):
            objects.delete(NAMESPACE, "pods", name, {"gracePeriodSeconds": 0})
            return
        if self._node is not None and not pod["spec"].get("nodeName"):
            return  # The scheduler says why.
        if len(self.processes) >= self.pods_max:
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient memory.",
            }
            status: Document = {"phase": "Pending", "conditions": [condition]}
        else:
            tier = pod["metadata"]["labels"]["pocketkv.io/tier"]
            self.processes[name] = (pod["metadata"]["uid"], self._start(name, tier))
            conditions = [{"type": name, "status": "True"} for name in ("PodScheduled", "Ready")]
            status = {"phase": "Running", "conditions": conditions, "podIP": "127.0.0.1"}
        objects.patch(NAMESPACE, "pods", name, {"status": status}, "status")

    def _start(self, name: str, tier: str) -> subprocess.Popen[bytes]:
        arguments = ["--tier", tier, "--port", "0", "--metrics-port", "off", "--memory", MEMORY]
        arguments += ["--controller", f"127.0.0.1:{self.service.port}", "--server-id", name]
        arguments += ["--drain-timeout", str(int(self.grace_s))]
        if tier != "dram":
            arguments += ["--dir", str(self.folder / f"{name}-{time.monotonic_ns()}")]
            arguments += ["--capacity", "256mb"]
        return start("storage", arguments, self.folder / f"{name}.log")


def start(
    command: str, arguments: list[str], log: Path, extra: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process of ours."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("POCKETKV_")}
    environment |= {"POCKETKV_SECRET": SECRET, **(extra or {})}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pocketkv", command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )


class Service:
    """The Service of the controllers: connections go to the pod that is labelled as the leader."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._forwarder = Forwarder(("127.0.0.1", 0), self._endpoints)
        self.port = self._forwarder.port

    def close(self) -> None:
        self._forwarder.close()

    def leaders(self) -> list[Document]:
        """Pods that are labelled as leaders."""
        return self._server.objects.all(
            NAMESPACE,
            "pods",
            lambda one: (one["metadata"].get("labels") or {}).get("pocketkv.io/leader") == "true",
        )

    def _endpoints(self) -> list[tuple[str, int]]:
        try:
            leaders = self.leaders()
        except RefusalError:
            return []  # The API is away.
        ports = [int(one["metadata"]["annotations"]["test/port"]) for one in leaders]
        return [("127.0.0.1", port) for port in ports]
