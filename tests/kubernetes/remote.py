"""A real API server as tests of a whole cluster see it: in place of `apiserver` and `objects`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from pocketkv.controller.backends.kubernetes.api import (
    MERGE_PATCH,
    Api,
    ApiError,
    NotFoundError,
    path_of,
)
from tests.kubernetes import charts
from tests.kubernetes.connecting import NAMESPACE, RELEASE
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.objects import KINDS, Document, RefusalError

ACCOUNT: Final = f"{RELEASE}-controller"
# Who plays the kubelet applies nothing else of the chart: these are what a controller stands on.
_RIGHTS: Final = {"ServiceAccount", "Role", "RoleBinding"}
# In the order in which nothing that is removed comes back.
_REMOVED: Final = ("statefulsets", "pods", "pocketjobs", "secrets", "configmaps", "leases")
_APPLY: Final = "application/apply-patch+yaml"
_TIMEOUT_S: Final = 60.0
_TOKEN_S: Final = 3600


class Applier:
    """What `kubectl apply --server-side --validate=strict` does.

    Args:
        api: As whom.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._kinds: dict[str, dict[str, Document]] = {}

    def knows(self, one: Document) -> bool:
        """Whether the server has this kind, in this version."""
        return one["kind"] in self._kinds_of(one["apiVersion"])

    def apply(self, one: Document, **query: str) -> Document:
        """Make, or change, an object; what its kind does not know is refused.

        Raises:
            ApiError: It was refused.
        """
        strict = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict"}
        return self._api.request(
            "PATCH", self.path(one), one, query={**strict, **query}, content_type=_APPLY
        )

    def path(self, one: Document) -> str:
        version = one["apiVersion"]
        kind = self._kinds_of(version)[one["kind"]]
        name = one["metadata"]["name"]
        root = _root(version)
        if kind["namespaced"]:
            namespace = one["metadata"].get("namespace", self._api.namespace)
            return path_of(root, namespace, kind["name"], name)
        return f"/{root}/{kind['name']}/{name}"

    def _kinds_of(self, version: str) -> dict[str, Document]:
        if not self._kinds.get(version):
            try:
                found = self._api.request("GET", f"/{_root(version)}")["resources"]
            except NotFoundError:
                found = []
            self._kinds[version] = {one["kind"]: one for one in found if "/" not in one["name"]}
        return self._kinds[version]


def _root(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def eventually_done(try_it: Callable[[], Any], what: str) -> Any:
    """Do something that the server may not know yet; returns what came of it."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return try_it()
        except (ApiError, KeyError):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not done after {_TIMEOUT_S} s: {what}") from None
            time.sleep(0.2)


def token_of(api: Api, account: str) -> str:
    """Return a token of a ServiceAccount, as its pods would have it."""
    path = path_of("api/v1", api.namespace, "serviceaccounts", account, "token")
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _TOKEN_S},
    }
    return str(api.request("POST", path, body)["status"]["token"])


class RemoteObjects:
    """The objects of a real API server, by its administrator."""

    def __init__(self, api_of: Callable[[str], Api]) -> None:
        self._api_of = api_of
        self._apis: dict[str, Api] = {}
        self._lock = threading.Lock()

    def get(self, namespace: str, kind: str, name: str) -> Document:
        return self._ask("GET", namespace, kind, name)

    def find(self, namespace: str, kind: str, name: str) -> Document | None:
        try:
            return self.get(namespace, kind, name)
        except RefusalError as refusal:
            if refusal.status != 404:
                raise
            return None

    def all(
        self, namespace: str, kind: str, matches: Callable[[Document], bool] = lambda one: True
    ) -> list[Document]:
        found = self._ask("GET", namespace, kind).get("items") or []
        return [one for one in found if matches(one)]

    def create(self, namespace: str, kind: str, one: Document) -> Document:
        version, name = KINDS[kind]
        return self._ask("POST", namespace, kind, body={"apiVersion": version, "kind": name, **one})

    def patch(
        self, namespace: str, kind: str, name: str, patch: Document, part: str = ""
    ) -> Document:
        return self._ask("PATCH", namespace, kind, name, part, patch)

    def delete(
        self, namespace: str, kind: str, name: str, options: Document | None = None
    ) -> Document:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **(options or {})}
        return self._ask("DELETE", namespace, kind, name, body=body)

    def _ask(
        self,
        method: str,
        namespace: str,
        kind: str,
        name: str = "",
        part: str = "",
        body: Document | None = None,
    ) -> Document:
        version, _ = KINDS[kind]
        path = path_of(_root(version), namespace, kind, name, part)
        kind_of_body = MERGE_PATCH if method == "PATCH" else "application/json"
        with self._lock:
            if namespace not in self._apis:
                self._apis[namespace] = self._api_of(namespace)
        try:
            return self._apis[namespace].request(method, path, body, content_type=kind_of_body)
        except ApiError as error:
            raise RefusalError(error.status, "", str(error)) from error


class RealServer:
    """A control plane with what PocketKV needs in it, and a namespace that is emptied.

    Args:
        plane: That runs.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.objects = RemoteObjects(plane.api)

    def prepare(self) -> None:
        """Install the definition of PocketJobs, and what controllers may do."""
        api = self.plane.api(NAMESPACE)
        applier = Applier(api)
        applier.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        crd = charts.CHART / "crds" / "pocketjobs.yaml"
        applier.apply(yaml.safe_load(crd.read_text(encoding="utf-8")))
        entry = {"name": "memory", "tier": "dram", "min": 0, "max": 8, "cpu": 1, "memory": "1Gi"}
        text = charts.render_text({"tiers": [entry]}, RELEASE, NAMESPACE)
        for one in charts.parse(text):
            if one["kind"] in _RIGHTS:
                applier.apply(one)
        jobs = path_of("apis/pocketkv.io/v1alpha1", NAMESPACE, "pocketjobs")
        eventually_done(lambda: api.list(jobs), "PocketJobs are served")
        pods = path_of("api/v1", NAMESPACE, "pods")
        spec = {"containers": [{"name": "main", "image": "none"}]}
        one = {"metadata": {"name": "tried"}, "spec": spec}
        # Not before there is an account for them and, on older ones, its token.
        dry = {"dryRun": "All"}
        eventually_done(lambda: api.request("POST", pods, one, query=dry), "pods may be made")

    def kubeconfig(self, path: Path, namespace: str = NAMESPACE) -> Path:
        """Write a file by which a controller may what the chart lets it, and no more."""
        token = token_of(self.plane.api(NAMESPACE), ACCOUNT)
        path.write_bytes(self.plane.kubeconfig(ACCOUNT, namespace, token).read_bytes())
        return path

    def empty(self) -> None:
        """Remove what a test has left."""
        now = {"gracePeriodSeconds": 0}
        for kind in _REMOVED:
            deadline_s = time.monotonic() + _TIMEOUT_S
            while found := self.objects.all(NAMESPACE, kind, _is_of_test):
                for one in found:
                    name = one["metadata"]["name"]
                    with contextlib.suppress(RefusalError):  # It has gone meanwhile.
                        if one["metadata"].get("finalizers"):
                            nothing: Document = {"metadata": {"finalizers": None}}
                            self.objects.patch(NAMESPACE, kind, name, nothing)
                        self.objects.delete(NAMESPACE, kind, name, now)
                assert time.monotonic() < deadline_s, f"{kind} are left: {found}"
                time.sleep(0.1)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Have the API server away; the one that comes knows no earlier versions."""
        self.plane.stop_api()
        try:
            yield
        finally:
            self.plane.compact()
            self.plane.start_api()


def _is_of_test(one: Document) -> bool:
    """Whether it is not what a namespace is born with."""
    kind_of_secret = str(one.get("type", ""))
    return (
        one["metadata"]["name"] != "kube-root-ca.crt"
        and "service-account-token" not in kind_of_secret
    )
