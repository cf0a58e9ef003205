"""A real control plane on the loopback: etcd, API server, scheduler, and what makes pods of sets.

`POCKETKV_TEST_CONTROL_PLANE` names a folder that has `kube-apiserver`, `kube-controller-manager`
and `kube-scheduler`, of any version that PocketKV is for; `etcd` is there too, or in PATH. There
are no nodes: pods stay Pending unless a test plays the kubelet.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kubernetes.client import Configuration
from kubernetes.config import ConfigException, load_kube_config

from pocketkv.controller.backends.kubernetes.api import Api, ApiError
from tests.kubernetes.objects import Document

VARIABLE: Final = "POCKETKV_TEST_CONTROL_PLANE"
_NAMES: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_USERS: Final = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
}
_START_TIMEOUT_S: Final = 240.0


def folder_of_binaries() -> Path | None:
    """Where the programs are; None if nobody says so."""
    told = os.environ.get(VARIABLE)
    return Path(told) if told else None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class ControlPlane:
    """Processes that end with the test.

    Args:
        binaries: Where the programs are.
        folder: For their state and logs.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens = {name: secrets.token_hex(16) for name in _USERS}
        self._etcd = f"http://127.0.0.1:{free_port()}"
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)

    # --- running -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, and wait until it works."""
        for name in _NAMES:
            if not (self._binaries / name).is_file():
                raise FileNotFoundError(f"{VARIABLE}: {self._binaries} has no {name}")
        self._make_key()
        self._start_etcd()
        self.start_api()
        for name in ("kube-controller-manager", "kube-scheduler"):
            config = self.kubeconfig(f"system:{name}")
            options = [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"]
            if name == "kube-controller-manager":
                options.append(f"--service-account-private-key-file={self._folder / 'sa.key'}")
                options.append(f"--root-ca-file={self.certificate}")
                # Its parts may what the roles of their own accounts say.
                options.append("--use-service-account-credentials")
            if "--port int" in self._help(name):
                # Older ones also listen without TLS, on all addresses, unless told not to.
                options.append("--port=0")
            self._start(name, [str(self._binaries / name), *options])

    def start_api(self) -> None:
        """Start the API server, also again."""
        key = self._folder / "sa.key"
        self._start(
            "kube-apiserver",
            [
                str(self._binaries / "kube-apiserver"),
                f"--etcd-servers={self._etcd}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={self.port}",
                f"--cert-dir={self._folder / 'certificates'}",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--authorization-mode=Node,RBAC",
                f"--token-auth-file={self._write_tokens()}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={key}",
                f"--service-account-key-file={key}",
                "--endpoint-reconciler-type=none",
            ],
        )
        self._wait_ready()

    def stop_api(self) -> None:
        """Have the API server gone at once, as when its machine dies."""
        self._end("kube-apiserver", kill=True)

    def stop(self) -> None:
        """End everything, the API server before what it stores to."""
        for name in reversed(list(self._processes)):
            self._end(name)

    def _start(self, name: str, command: list[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )

    def _end(self, name: str, *, kill: bool = False) -> None:
        process = self._processes.pop(name)
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)

    def _start_etcd(self) -> None:
        own = self._binaries / "etcd"
        found = str(own) if own.is_file() else shutil.which("etcd")
        if found is None:
            raise FileNotFoundError("etcd is neither there nor in PATH")
        peers = f"http://127.0.0.1:{free_port()}"
        self._start(
            "etcd",
            [
                found,
                f"--data-dir={self._folder / 'etcd'}",
                f"--listen-client-urls={self._etcd}",
                f"--advertise-client-urls={self._etcd}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                # What a test stores need not outlive it.
                "--unsafe-no-fsync",
            ],
        )

    def _help(self, name: str) -> str:
        command = [str(self._binaries / name), "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def _wait_ready(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            with contextlib.suppress(ApiError, ConfigException):
                self.api("default").request("GET", "/api/v1/namespaces/default")
                return
            alive = {name: process.poll() is None for name, process in self._processes.items()}
            if time.monotonic() > deadline_s or not all(alive.values()):
                raise TimeoutError(f"no API server: {alive}\n{self._end_of_log()}")
            time.sleep(0.2)

    def _end_of_log(self) -> str:
        log = self._folder / "kube-apiserver.log"
        return log.read_text(encoding="utf-8", errors="replace")[-3000:]

    # --- who may -------------------------------------------------------------------------------

    @property
    def certificate(self) -> Path:
        """Of the API server, which it has signed itself."""
        return self._folder / "certificates" / "apiserver.crt"

    def _make_key(self) -> None:
        command = ["openssl", "genrsa", "-out", str(self._folder / "sa.key"), "2048"]
        subprocess.run(command, check=True, capture_output=True)

    def _write_tokens(self) -> Path:
        path = self._folder / "tokens.csv"
        lines = [
            ",".join([token, name, name, *([_USERS[name]] if _USERS[name] else [])])
            for name, token in self._tokens.items()
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def kubeconfig(self, user: str = "admin", namespace: str = "default", token: str = "") -> Path:
        """Write a file that leads here, as one of our users or by any token."""
        text: Document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority": str(self.certificate),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": token or self._tokens[user]}}],
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "test", "user": user, "namespace": namespace},
                }
            ],
        }
        path = self._folder / f"{user.replace(':', '-')}-{namespace}.kubeconfig"
        path.write_text(json.dumps(text), encoding="utf-8")
        return path

    def api(self, namespace: str, user: str = "admin", token: str = "") -> Api:
        """The API, as one of our users sees it."""
        configuration = Configuration()
        path = self.kubeconfig(user, namespace, token)
        load_kube_config(str(path), client_configuration=configuration)
        return Api(configuration, namespace)

    # --- faults --------------------------------------------------------------------------------

    def compact(self) -> None:
        """Have the store forget what has happened until now."""
        found = self._ask_etcd("range", {"key": "AA=="})
        revision = found["header"]["revision"]
        self._ask_etcd("compaction", {"revision": revision, "physical": True})

    def _ask_etcd(self, what: str, body: Document) -> Any:
        request = urllib.request.Request(f"{self._etcd}/v3/kv/{what}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Run a control plane; its programs are where the environment says."""
    binaries = folder_of_binaries()
    assert binaries is not None, f"needs {VARIABLE}"
    plane = ControlPlane(binaries, folder)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
