"""Controllers of a test's cluster, each a process that thinks it is in a pod."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from pocketkv.jobs import DEFAULT_JOB_ID
from tests.kubernetes.connecting import NAMESPACE, RELEASE
from tests.kubernetes.machines import Cluster, Server, start, waiting_pod
from tests.kubernetes.objects import Document

TIMEOUT_S = 90.0


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Wait until something is so; returns what it was."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            found = condition()
            if found:
                return found
        assert time.monotonic() < deadline_s, f"not so after {timeout_s} s: {what}"
        select.select([], [], [], 0.1)


class Controllers:
    """The Deployment of the controllers, and a router.

    Args:
        server: The API.
        cluster: What runs the storage servers.
        folder: For logs.
    """

    def __init__(self, server: Server, cluster: Cluster, folder: Path) -> None:
        self._server = server
        self._cluster = cluster
        self._folder = folder
        self._config = server.kubeconfig(folder / "kubeconfig", NAMESPACE)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.router_port = 0
        self._router: subprocess.Popen[bytes] | None = None

    def start(self, name: str, *options: str) -> None:
        """Start a controller in a pod of this name."""
        port = _free_port()
        labels = {
            "app.kubernetes.io/name": "pocketkv",
            "app.kubernetes.io/instance": RELEASE,
            "app.kubernetes.io/component": "controller",
        }
        metadata = {"name": name, "labels": labels, "annotations": {"test/port": str(port)}}
        self._server.objects.create(NAMESPACE, "pods", waiting_pod(metadata))
        arguments = ["--backend", "kubernetes", "--namespace", NAMESPACE, "--release", RELEASE]
        arguments += ["--port", str(port), "--metrics-port", "off"]
        # A test says itself how many servers there are to be; what is idle would be taken away.
        arguments += ["--autoscale", "dram=0..8", "--scale-up-after", "3600"]
        # The job `default` is over all of them, so that keys move whenever one comes or goes.
        arguments += ["--scale-down-after", "3600", "--unhinted-servers", "64", *options]
        environment = {"POD_NAME": name, "KUBECONFIG": str(self._config)}
        self.processes[name] = start(
            "controller", arguments, self._folder / f"{name}.log", environment
        )

    def start_router(self) -> None:
        self.router_port = _free_port()
        arguments = ["--controller", f"127.0.0.1:{self._cluster.service.port}"]
        arguments += ["--port", str(self.router_port), "--metrics-port", "off"]
        self._router = start("router", arguments, self._folder / "router.log")

    def kill(self, name: str) -> None:
        """SIGKILL, and its pod is gone."""
        self.processes[name].kill()
        self.processes.pop(name).wait(10)
        self._server.objects.delete(NAMESPACE, "pods", name, {"gracePeriodSeconds": 0})

    def leader(self) -> str:
        """The pod that leads by its label; empty if none or several do."""
        found = self._cluster.service.leaders()
        return str(found[0]["metadata"]["name"]) if len(found) == 1 else ""

    def holder(self) -> str:
        lease = self._server.objects.find(NAMESPACE, "leases", f"{RELEASE}-controller")
        return "" if lease is None else str(lease["spec"].get("holderIdentity") or "")

    def close(self) -> None:
        processes = [*self.processes.values(), *([self._router] if self._router else [])]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    # --- through the router --------------------------------------------------------------------

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.router_port, protocol=3, socket_timeout=20)

    def call(self, *arguments: Any) -> Any:
        with contextlib.closing(self.client()) as client:
            execute: Callable[..., Any] = client.execute_command
            return plain(execute(*arguments))

    def servers(self) -> dict[str, Document]:
        return {one["id"]: one for one in self.call("SERVER.LIST")}

    def tier(self, name: str) -> Document:
        return next(one for one in self.call("TIER.LIST") if one["tier"] == name)

    def wait_servers(self, *names: str) -> None:
        """Wait until just these servers are in, and hold all of the job default."""

        def are_there() -> bool:
            ended = [name for name, one in self.processes.items() if one.poll() is not None]
            assert not ended, f"{ended} ended by themselves"
            servers = self.servers()
            job = self.call("JOB.INFO", DEFAULT_JOB_ID)
            # The router may hear of the map after the controller tells it; until then, it refuses.
            self.call("EXISTS", "a key")
            return set(servers) == set(names) and bool(job["placement"])

        eventually(are_there, f"the servers are {names}")


def plain(value: Any) -> Any:
    """Return a reply with texts instead of bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {plain(key): plain(one) for key, one in value.items()}
    return value


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(
    server: Server, folder: Path, sets: list[Document], *names: str, pods_max: int = 100
) -> Iterator[tuple[Cluster, Controllers]]:
    """Run a cluster: StatefulSets, controllers and a router; logs are shown if a test fails."""
    for one in sets:
        server.objects.create(NAMESPACE, "statefulsets", one)
    cluster = Cluster(server, folder, pods_max=pods_max)
    controllers = Controllers(server, cluster, folder)
    try:
        for name in names:
            controllers.start(name)
        controllers.start_router()
        yield cluster, controllers
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            text = log.read_text(encoding="utf-8", errors="replace")[-6000:]
            sys.stderr.write(f"--- {log.name}\n{text}\n")
        raise
    finally:
        controllers.close()
        cluster.close()
