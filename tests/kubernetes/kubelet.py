"""A kubelet that a test plays: it runs what pods say, as processes on the loopback.

Each pod, and each Service, has an address of its own in 127.0.0.0/8, so that processes listen at
the ports that their manifests name. A container's command line, environment, probes, preStop hook
and time to end are those of its spec; its image is the tree that is tested. What is different from
a machine of a cluster: mounts are folders that paths in the environment are led to, names of
Services are replaced by addresses, and a Service is a thread that forwards.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.kubernetes.forwarding import Forwarder
from tests.kubernetes.objects import Document, Objects, RefusalError
from tests.kubernetes.remote import RemoteObjects

_LOOK_S: Final = 0.1
# Tests wait for these probes, so they are due more often than their specs say. Who is killed for
# not being alive has all of its time.
_HURRIES: Final = {"startupProbe": 10, "readinessProbe": 10, "livenessProbe": 1}
_RESTART_PAUSE_S: Final = 1.0


def taken_ports(resources: Sequence[Document]) -> list[int]:
    """Return those ports of pods on which somebody listens already, at all addresses."""
    ports = {
        port["containerPort"]
        for one in resources
        if one["kind"] in {"Deployment", "StatefulSet"}
        for port in one["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    return sorted(port for port in ports if not _is_free(port))


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.255.255.1", port)):
        return True
    return False


@dataclass
class _Probe:
    """A probe of a container, and how it went."""

    spec: Document
    hurry: int
    due_s: float = 0.0
    failures: int = 0

    def ask(self, address: str, ports: dict[str, int], now_s: float) -> bool | None:
        """Return whether it succeeds; None if it is not due."""
        if now_s < self.due_s:
            return None
        self.due_s = now_s + float(self.spec.get("periodSeconds", 10)) / self.hurry
        action = self.spec["httpGet"]
        timeout_s = float(self.spec.get("timeoutSeconds", 1))
        connection = http.client.HTTPConnection(address, ports[action["port"]], timeout=timeout_s)
        try:
            connection.request("GET", action["path"])
            is_well = 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            is_well = False
        finally:
            connection.close()
        self.failures = 0 if is_well else self.failures + 1
        return is_well

    @property
    def has_failed(self) -> bool:
        return self.failures >= int(self.spec.get("failureThreshold", 3))


@dataclass
class Pod:
    """A pod that runs here.

    Attributes:
        address: Its own.
        spec: Of the pod.
        seen: The pod as the API had it last; None once it has gone.
        is_ready: By its readiness probe.
        exits: Exit statuses of its processes, those that were told to end among them.
        was_killed: Its time to end was not enough.
    """

    name: str
    uid: str
    address: str
    spec: Document
    seen: Document | None
    is_started: bool = False
    is_ready: bool = False
    exits: list[int] = field(default_factory=list)
    was_killed: bool = False
    probes: dict[str, _Probe] = field(default_factory=dict)

    @property
    def container(self) -> Document:
        return dict(self.spec["containers"][0])

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}

    @property
    def is_ending(self) -> bool:
        return self.seen is None or "deletionTimestamp" in self.seen["metadata"]


class Kubelet:
    """Runs the pods of a namespace.

    Args:
        objects: Of the API.
        namespace: Whose pods it runs.
        services: That are to lead to them.
        folder: For logs and volumes.
        kubeconfig_of: Makes the file by which a ServiceAccount's pods find the API.
        beat: Called all the time, such as to say that the machine is there.
    """

    def __init__(
        self,
        objects: Objects | RemoteObjects,
        namespace: str,
        services: Sequence[Document],
        folder: Path,
        kubeconfig_of: Callable[[str], Path],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.objects = objects
        self.namespace = namespace
        self.pods: dict[str, Pod] = {}
        self.past: list[Pod] = []
        self._folder = folder
        self._kubeconfig_of = kubeconfig_of
        self._beat = beat
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        dice = random.SystemRandom()
        # Other tests run beside this one.
        network = f"127.{dice.randrange(16, 240)}.{dice.randrange(256)}"
        self._addresses = (f"{network}.{number}" for number in itertools.count(2))
        self.services: dict[str, str] = {}
        self._forwarders: list[Forwarder] = []
        for one in services:
            self._serve(one)
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End everything at once."""
        self._stop.set()
        self._thread.join(30)
        for thread in self._threads:
            thread.join(30)
        for forwarder in self._forwarders:
            forwarder.close()
        assert not self._errors, self._errors

    def all_pods(self) -> list[Pod]:
        """Those that run, and those that have run."""
        return [*self.past, *self.pods.values()]

    # --- Services ------------------------------------------------------------------------------

    def _serve(self, service: Document) -> None:
        spec = service["spec"]
        if spec.get("clusterIP") == "None":
            return
        name = service["metadata"]["name"]
        self.services[name] = address = next(self._addresses)
        for port in spec["ports"]:
            found = lambda port=port: self._endpoints(spec["selector"], port["targetPort"])  # noqa: E731
            self._forwarders.append(Forwarder((address, port["port"]), found))

    def _endpoints(self, selector: dict[str, str], port: str) -> list[tuple[str, int]]:
        return [
            (pod.address, pod.ports[port])
            for pod in list(self.pods.values())
            if pod.is_ready
            and not pod.is_ending
            and pod.seen is not None
            and selector.items() <= (pod.seen["metadata"].get("labels") or {}).items()
        ]

    # --- pods ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self._beat()
                self._look()
            except RefusalError:
                pass  # The API is away: what runs goes on.
            except BaseException as error:
                self._errors.append(error)
                raise

    def _look(self) -> None:
        there = {one["metadata"]["uid"]: one for one in self.objects.all(self.namespace, "pods")}
        for name, pod in list(self.pods.items()):
            pod.seen = there.pop(pod.uid, None)
            if pod.seen is None:
                self.past.append(self.pods.pop(name))
        for uid, one in there.items():
            name = one["metadata"]["name"]
            is_over = (one.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
            if is_over or name in self.pods or not one["spec"].get("nodeName"):
                continue
            pod = self.pods[name] = Pod(name, uid, next(self._addresses), one["spec"], one)
            thread = threading.Thread(target=self._live, args=(pod,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _live(self, pod: Pod) -> None:
        """Run a pod from its start to its end."""
        try:
            while not pod.is_ending and not self._stop.is_set():
                if pod.exits and self._stop.wait(_RESTART_PAUSE_S):
                    break
                self._run_once(pod)
                if pod.spec.get("restartPolicy") == "Never":
                    self._patch(pod, {"phase": "Failed" if pod.exits[-1] else "Succeeded"})
                    self._wait_for_end(pod)
            self._confirm_end(pod)
        except BaseException as error:
            self._errors.append(error)
            raise

    def _run_once(self, pod: Pod) -> None:
        try:
            process = self._start(pod)
        except RefusalError:
            # What a volume or a variable is made of is not there, or the API is away.
            self._stop.wait(_RESTART_PAUSE_S)
            return
        try:
            self._keep(pod, process)
        finally:
            process.kill()
            pod.exits.append(process.wait(30))

    def _wait_for_end(self, pod: Pod) -> None:
        while not pod.is_ending and not self._stop.wait(_LOOK_S):
            pass

    def _keep(self, pod: Pod, process: subprocess.Popen[bytes]) -> None:
        """Watch a process until it has ended, or is to be killed."""
        container = pod.container
        pod.probes = {
            name: _Probe(container[name], hurry)
            for name, hurry in _HURRIES.items()
            if name in container
        }
        pod.is_started = pod.is_ready = False
        self._tell(pod)
        while process.poll() is None and not self._stop.wait(_LOOK_S):
            if pod.seen is None:
                return
            if pod.is_ending:
                self._end(pod, process)
                return
            if not self._is_well(pod, container):
                return
        pod.is_ready = False

    def _is_well(self, pod: Pod, container: Document) -> bool:
        """Probe a container; returns whether it may go on."""
        now_s, ports = time.monotonic(), pod.ports
        startup = pod.probes.get("startupProbe")
        if not pod.is_started and startup is not None:
            pod.is_started = startup.ask(pod.address, ports, now_s) is True
            return not startup.has_failed
        readiness, liveness = pod.probes.get("readinessProbe"), pod.probes.get("livenessProbe")
        was_ready = pod.is_ready
        if readiness is None or readiness.ask(pod.address, ports, now_s):
            pod.is_ready = True
        elif readiness.has_failed:
            pod.is_ready = False
        if pod.is_ready != was_ready:
            self._tell(pod)
        if liveness is not None:
            liveness.ask(pod.address, ports, now_s)
        return liveness is None or not liveness.has_failed

    def _end(self, pod: Pod, process: subprocess.Popen[bytes]) -> None:
        """Have a process end as its pod says: the hook, SIGTERM, and SIGKILL when time is over."""
        spec, started_s = pod.spec, time.monotonic()
        grace_s = float(spec.get("terminationGracePeriodSeconds", 30))
        hook = pod.container.get("lifecycle", {}).get("preStop")
        if hook is not None:
            subprocess.run(hook["exec"]["command"], timeout=grace_s, check=True)
        process.terminate()
        while process.poll() is None and not self._stop.wait(_LOOK_S):
            if time.monotonic() - started_s > grace_s or pod.seen is None:
                pod.was_killed = True
                return

    # --- what is told --------------------------------------------------------------------------

    def _tell(self, pod: Pod) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = str(pod.is_ready)
        kinds = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": text}
        conditions = [
            {"type": name, "status": status, "lastTransitionTime": now}
            for name, status in {**kinds, "Ready": text}.items()
        ]
        container = {
            "name": pod.container["name"],
            "ready": pod.is_ready,
            "started": pod.is_started,
            "restartCount": len(pod.exits),
            "image": pod.container["image"],
            "imageID": "",
            "state": {"running": {"startedAt": now}},
        }
        status = {
            "phase": "Running",
            "podIP": pod.address,
            "podIPs": [{"ip": pod.address}],
            "startTime": now,
            "conditions": conditions,
            "containerStatuses": [container],
        }
        self._patch(pod, status)

    def _confirm_end(self, pod: Pod) -> None:
        if self._stop.is_set() or pod.seen is None:
            return
        options: Document = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        with contextlib.suppress(RefusalError):
            self.objects.delete(self.namespace, "pods", pod.name, options)

    def _patch(self, pod: Pod, status: Document) -> None:
        # It has gone, or the API is away: the next change is told.
        with contextlib.suppress(RefusalError):
            self.objects.patch(self.namespace, "pods", pod.name, {"status": status}, "status")

    # --- what is run ---------------------------------------------------------------------------

    def _start(self, pod: Pod) -> subprocess.Popen[bytes]:
        container, volumes = pod.container, self._volumes(pod)
        environment = self._environment(pod, volumes)
        command = [*container.get("command", [sys.executable, "-m", "pocketkv"])]
        if command[0] == "python":
            command[0] = sys.executable
        with (self._folder / f"{pod.name}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, *container.get("args", [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
            )

    def _volumes(self, pod: Pod) -> dict[str, Path]:
        """Make the folders of a pod's volumes; returns them by where they are mounted."""
        folders = {}
        for volume in pod.spec.get("volumes", []):
            folder = self._folder / f"{pod.name}-{pod.uid[:8]}" / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            folders[volume["name"]] = folder
            if "secret" in volume:
                source = volume["secret"]
                data = self.objects.get(self.namespace, "secrets", source["secretName"])["data"]
                for item in source.get("items", []):
                    (folder / item["path"]).write_bytes(base64.b64decode(data[item["key"]]))
            elif "configMap" in volume:
                name = volume["configMap"]["name"]
                data = self.objects.get(self.namespace, "configmaps", name)["data"]
                for key, text in data.items():
                    (folder / key).write_text(text, encoding="utf-8")
        mounts = pod.container.get("volumeMounts", [])
        return {mount["mountPath"]: folders[mount["name"]] for mount in mounts}

    def _environment(self, pod: Pod, volumes: dict[str, Path]) -> dict[str, str]:
        """What the container's variables say, on this machine."""
        made = {
            "metadata.name": pod.name,
            "metadata.namespace": self.namespace,
            "status.podIP": pod.address,
            "spec.nodeName": str(pod.spec["nodeName"]),
        }
        told: dict[str, str] = {}
        for entry in pod.container.get("env", []):
            told[entry["name"]] = re.sub(
                r"\$\((\w+)\)", lambda match: told[match[1]], self._value(entry, made)
            )
        told = {name: self._led_here(text, volumes) for name, text in told.items()}
        if "POCKETKV_HOST" in told:
            told["POCKETKV_HOST"] = pod.address
        environment = {n: v for n, v in os.environ.items() if not n.startswith("POCKETKV_")}
        environment |= told
        if "/tmp" in volumes:
            environment |= {"HOME": str(volumes["/tmp"]), "TMPDIR": str(volumes["/tmp"])}
        if pod.spec.get("automountServiceAccountToken", True):
            account = str(pod.spec["serviceAccountName"])
            environment["KUBECONFIG"] = str(self._kubeconfig_of(account))
        else:
            environment["KUBECONFIG"] = os.devnull
        return environment

    def _value(self, entry: Document, made: dict[str, str]) -> str:
        source: Any = entry.get("valueFrom", {})
        if "fieldRef" in source:
            return made[source["fieldRef"]["fieldPath"]]
        if "secretKeyRef" in source:
            key = source["secretKeyRef"]
            data = self.objects.get(self.namespace, "secrets", key["name"])["data"]
            return base64.b64decode(data[key["key"]]).decode()
        return str(entry.get("value", ""))

    def _led_here(self, text: str, volumes: dict[str, Path]) -> str:
        """Lead paths to folders, and names of Services to their addresses."""
        for path, folder in volumes.items():
            if text == path or text.startswith(f"{path}/"):
                return str(folder) + text.removeprefix(path)
        names = "|".join(sorted(map(re.escape, self.services), key=len, reverse=True))
        if not names:
            return text
        domain = re.escape(f".{self.namespace}.svc.cluster.local")
        host = rf"(?<![\w.-])({names})(?:{domain}(?![\w.-])|(?=:\d))"
        return re.sub(host, lambda match: self.services[match[1]], text)
