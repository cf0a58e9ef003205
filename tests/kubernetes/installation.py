"""The chart in a real cluster, as `helm install`, `helm upgrade` and `helm uninstall` have it."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocketkv.controller.backends.kubernetes.api import (
    MERGE_PATCH,
    Api,
    ApiError,
    NotFoundError,
    path_of,
)
from tests.kubernetes import charts
from tests.kubernetes.controllers import eventually, plain
from tests.kubernetes.objects import Document, decoded
from tests.kubernetes.remote import Applier, RemoteObjects

RELEASE: Final = "pk"
SERVERS: Final = f"{RELEASE}-storage-dram"
SECRET: Final = {"secret": "5a" * 32, "admin-password": "of a test"}
# What clusters before 1.25 do not have; what the chart is for does.
LACKING_BEFORE_1_25: Final = {"PodDisruptionBudget", "HorizontalPodAutoscaler"}
_KINDS: Final = {
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "statefulsets": "apis/apps/v1",
    "pods": "api/v1",
    "services": "api/v1",
    "configmaps": "api/v1",
    "secrets": "api/v1",
    "persistentvolumeclaims": "api/v1",
    "serviceaccounts": "api/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "networkpolicies": "apis/networking.k8s.io/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "apis/rbac.authorization.k8s.io/v1",
    "pocketjobs": "apis/pocketkv.io/v1alpha1",
}
TIMEOUT_S: Final = 300.0


def small(image: str, **storage: Any) -> dict[str, Any]:
    """The values for one small machine, but with one more of each."""
    repository, _, tag = image.rpartition(":")
    told = copy.deepcopy(charts.VALUES["on one machine"])
    told["image"] = {"repository": repository, "tag": tag}
    told["auth"] = {"existingSecret": "pk-own"}
    # Nothing is to be scaled but by the tests.
    told["controller"] |= {"replicas": 2, "scaleDownAfterSeconds": 3600}
    told["router"]["replicas"] = 2
    told["storage"] |= storage
    return told


class Installation:
    """A release in a namespace.

    Args:
        api: Of the namespace.
        kubeconfig: By which kubectl finds the cluster.

    Attributes:
        address: Where the routers are to be had; by a port-forward if this is None.
    """

    def __init__(self, api: Api, kubeconfig: str) -> None:
        self.api = api
        self.objects = RemoteObjects(lambda namespace: api)
        self._applier = Applier(api)
        self.address: tuple[str, int] | None = None
        self._environment = {**os.environ, "KUBECONFIG": kubeconfig}
        self._applied: list[Document] = []

    # --- the release ---------------------------------------------------------------------------

    def rendered(self, values: dict[str, Any]) -> list[Document]:
        """What Helm sends: the chart's resources without its hooks."""
        text = charts.render_text(values, RELEASE, self.api.namespace)
        return [
            one
            for one in charts.parse(text)
            if "helm.sh/hook" not in (one["metadata"].get("annotations") or {})
        ]

    def apply(self, values: dict[str, Any]) -> None:
        """Install, or upgrade."""
        if not self._applied:
            own = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pk-own"}}
            self._applier.apply({**own, "stringData": SECRET})
        resources = self.rendered(values)
        unknown = {one["kind"] for one in resources if not self._applier.knows(one)}
        assert unknown <= LACKING_BEFORE_1_25, unknown
        self._applied = [one for one in resources if one["kind"] not in unknown]
        for one in self._applied:
            self._applier.apply(one)

    def remove(self) -> None:
        """Uninstall, and wait until all pods have gone."""
        for one in reversed(self._applied):
            with contextlib.suppress(NotFoundError):
                options = {"propagationPolicy": "Background"}
                body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
                self.api.request("DELETE", self._applier.path(one), body)
        self._applied = []
        eventually(lambda: not self.names("pods"), "all pods have gone", TIMEOUT_S)

    def release_pocketjobs(self) -> None:
        """Let PocketJobs go that nobody takes care of any more."""
        for name in self.names("pocketjobs"):
            path = path_of(_KINDS["pocketjobs"], self.api.namespace, "pocketjobs", name)
            nothing: Document = {"metadata": {"finalizers": None}}
            with contextlib.suppress(ApiError):
                self.api.request("PATCH", path, nothing, content_type=MERGE_PATCH)
                self.api.request("DELETE", path)

    def names(self, kind: str) -> set[str]:
        """What there is of a kind."""
        found, _ = self.api.list(path_of(_KINDS[kind], self.api.namespace, kind))
        return {one["metadata"]["name"] for one in found}

    def everything(self) -> dict[str, set[str]]:
        """All that there is in the namespace, but for what a namespace is born with."""
        born = re.compile("default|kube-root-ca.crt|default-token-.*|pk-own")
        return {
            kind: left
            for kind in _KINDS
            if (left := {name for name in self.names(kind) if not born.fullmatch(name)})
        }

    def status(self, kind: str, name: str) -> Document:
        """What is said of an object as it is now; nothing if that is of an earlier one."""
        one = self.api.request("GET", path_of(_KINDS[kind], self.api.namespace, kind, name))
        status = dict(one.get("status") or {})
        is_new = status.get("observedGeneration") == one["metadata"]["generation"]
        return status if is_new else {}

    def is_rolled_out(self, servers: int) -> bool:
        """Whether all pods are of the newest revision, and ready."""
        sets = self.status("statefulsets", SERVERS)
        if not sets or sets.get("currentRevision") != sets.get("updateRevision"):
            return False
        ready = [self._ready_of(f"{RELEASE}-{name}") for name in ("controller", "router")]
        return [sets.get("readyReplicas"), sets.get("replicas"), *ready] == [servers, servers, 2, 2]

    def _ready_of(self, deployment: str) -> int:
        """How many pods of a Deployment are ready; 0 while there are some of an older revision."""
        status = self.status("deployments", deployment)
        replicas = status.get("replicas")
        return status.get("readyReplicas", 0) if status.get("updatedReplicas") == replicas else 0

    def wait_rolled_out(self, servers: int) -> None:
        eventually(lambda: self.is_rolled_out(servers), f"{servers} servers are ready", TIMEOUT_S)

    def leader(self) -> str:
        """The pod that the Service of the controllers leads to."""
        pods, _ = self.api.list(
            path_of(_KINDS["pods"], self.api.namespace, "pods"), "pocketkv.io/leader=true"
        )
        names = [
            one["metadata"]["name"] for one in pods if "deletionTimestamp" not in one["metadata"]
        ]
        return names[0] if len(names) == 1 else ""

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl as a user does; returns what it says."""
        run = subprocess.run(
            [*self._kubectl, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    @property
    def _kubectl(self) -> list[str]:
        return [str(Path(sys.executable).parent / "kubectl"), "-n", self.api.namespace]

    # --- through the routers -------------------------------------------------------------------

    @contextlib.contextmanager
    def reached(self) -> Iterator[tuple[str, int]]:
        """Have an address at which the routers are."""
        if self.address is not None:
            yield self.address
            return
        process = subprocess.Popen(
            [*self._kubectl, "port-forward", f"service/{RELEASE}", ":6379"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            told = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert told is not None, f"no port-forward: {line!r}"
            yield "127.0.0.1", int(told[1])
        finally:
            process.terminate()
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()

    def call(self, *arguments: Any) -> Any:
        """Run a command as the administrator, of whoever leads, or will."""
        return eventually(lambda: [self._call(*arguments)], "a controller answers", TIMEOUT_S)[0]

    def _call(self, *arguments: Any) -> Any:
        with self.reached() as (host, port):
            client = redis.Redis(
                host=host,
                port=port,
                username="admin",
                password=SECRET["admin-password"],
                protocol=3,
                socket_timeout=30,
            )
            with contextlib.closing(client):
                execute: Callable[..., Any] = client.execute_command
                return plain(execute(*arguments))


class JobInUse:
    """A PocketJob with keys, and a client that reads and writes them all the time.

    Args:
        installation: Where it is.
        name: Of the PocketJob.
        value_bytes: Of each of its keys.

    Attributes:
        errors: What the client met that no client may meet.
        cuts: How often its connection ended, as it does when a router goes.
    """

    COUNT: Final = 300

    def __init__(self, installation: Installation, name: str, value_bytes: int = 100) -> None:
        self._value_bytes = value_bytes
        self._installation = installation
        self._namespace = installation.api.namespace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.name = name
        self.secret: dict[str, str] = {}
        self.errors: list[str] = []
        self.cuts = 0
        self.count = 0

    def __enter__(self) -> JobInUse:
        capacity_bytes = 4 * 1024**2 + 2 * self.COUNT * self._value_bytes
        spec = {"capacity": capacity_bytes, "tiers": ["dram"]}
        objects = self._installation.objects
        objects.create(
            self._namespace, "pocketjobs", {"metadata": {"name": self.name}, "spec": spec}
        )
        eventually(lambda: "secretName" in self.status(), "it has a Secret", TIMEOUT_S)
        name = self.status()["secretName"]
        self.secret = decoded(objects.get(self._namespace, "secrets", name))
        with self._connected() as client:
            client.mset({f"key:{i}": self._value(i) for i in range(self.COUNT)})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._installation.objects.delete(self._namespace, "pocketjobs", self.name)
        if exception[0] is None:
            gone = lambda: self.name not in self._installation.names("pocketjobs")  # noqa: E731
            eventually(gone, "its finalizer lets it go", TIMEOUT_S)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[redis.Redis]:
        with self._installation.reached() as (host, port):
            # What is tried again is counted here.
            once = Retry(NoBackoff(), 0)
            client = redis.Redis(
                host=host,
                port=port,
                username=self.secret["id"],
                password=self.secret["token"],
                socket_timeout=30,
                retry=once,
            )
            with contextlib.closing(client):
                yield client

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._connected() as client:
                    self._use(client)
            except redis.ConnectionError as error:
                if isinstance(error, redis.AuthenticationError):
                    self.errors.append(repr(error))
                self.cuts += 1
                self._stop.wait(0.2)

    def _use(self, client: redis.Redis) -> None:
        while not self._stop.wait(0.01):
            number = self.count % self.COUNT
            try:
                if client.get(f"key:{number}") != self._value(number):
                    self.errors.append(f"key:{number} is gone")
                client.set(f"key:{number}", self._value(number))
            except redis.ConnectionError:
                raise
            except redis.RedisError as error:
                self.errors.append(repr(error))
            self.count += 1

    def status(self) -> Document:
        one = self._installation.objects.get(self._namespace, "pocketjobs", self.name)
        return dict(one.get("status") or {})

    def check(self, *, cuts: bool = False) -> None:
        """Each key is there, none was ever lost, and the client met no error.

        With `cuts`, its connection may have ended: it was made anew, elsewhere.
        """
        count = self.count
        eventually(lambda: self.count > count + 2 * self.COUNT, "the client goes on", TIMEOUT_S)
        assert not self.errors, (len(self.errors), self.errors[:10])
        assert cuts or not self.cuts, self.cuts
        info = self._installation.call("JOB.INFO", self.secret["id"])
        assert (info["keys"], info["lost_keys"]) == (self.COUNT, 0), info

    def _value(self, number: int) -> bytes:
        return b"x" * self._value_bytes + b"%d" % number
