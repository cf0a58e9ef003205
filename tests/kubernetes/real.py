"""A real cluster for tests: whatever KUBECONFIG points to, or a control plane on the loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Final

import pytest
import yaml
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config

from pocketkv.controller.backends.kubernetes.api import (
    Api,
    NoClusterError,
    NotFoundError,
    path_of,
)
from tests.kubernetes import charts
from tests.kubernetes.control_plane import VARIABLE, ControlPlane, folder_of_binaries
from tests.kubernetes.remote import Applier, eventually_done

NEEDS_A_CLUSTER = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG") and folder_of_binaries() is None,
        reason=f"needs KUBECONFIG, or {VARIABLE}",
    ),
]

DEFINITION: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/pocketjobs.pocketkv.io"


class RealCluster:
    """A cluster, in which each user of it has a namespace of its own.

    Args:
        plane: The control plane that it is; else it is KUBECONFIG's.
    """

    def __init__(self, plane: ControlPlane | None) -> None:
        self.plane = plane

    def api(self, namespace: str) -> Api:
        """The API as whoever runs the tests."""
        if self.plane is not None:
            return self.plane.api(namespace)
        try:
            return Api.connected(namespace)
        except NoClusterError as error:
            pytest.fail(str(error))

    def kubeconfig(self) -> str:
        """Where the file is by which kubectl finds it."""
        return str(self.plane.kubeconfig()) if self.plane is not None else os.environ["KUBECONFIG"]

    def api_by(self, token: str, namespace: str) -> Api:
        """The API as whoever has a token."""
        if self.plane is not None:
            return self.plane.api(namespace, "token", token)
        configuration = Configuration()
        load_kube_config(client_configuration=configuration)
        configuration.cert_file = configuration.key_file = None
        configuration.username = configuration.password = ""
        configuration.refresh_api_key_hook = None
        configuration.api_key = {"authorization": f"Bearer {token}"}
        return Api(configuration, namespace)

    @contextlib.contextmanager
    def namespace(self, labels: dict[str, str] | None = None) -> Iterator[Api]:
        """Have the API in a namespace of its own, which goes with all that is in it."""
        name = f"pocketkv-test-{secrets.token_hex(4)}"
        api = self.api(name)
        metadata = {"name": name, "labels": labels or {}}
        api.request(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
        )
        account = path_of("api/v1", name, "serviceaccounts", "default")
        eventually_done(lambda: api.request("GET", account), "the namespace has its account")
        try:
            yield api
        finally:
            api.request("DELETE", f"/api/v1/namespaces/{name}")
            api.close()

    @contextlib.contextmanager
    def pocketjobs(self, api: Api) -> Iterator[None]:
        """Have the definition of PocketJobs; one that was there already is left alone."""
        crd = yaml.safe_load((charts.CHART / "crds" / "pocketjobs.yaml").read_text("utf-8"))
        try:
            api.request("GET", DEFINITION)
            is_ours = False
        except NotFoundError:
            Applier(api).apply(crd)
            is_ours = True
        path = path_of("apis/pocketkv.io/v1alpha1", api.namespace, "pocketjobs")
        eventually_done(lambda: api.list(path), "PocketJobs are served")
        try:
            yield
        finally:
            # The control plane's other tests share it.
            if is_ours and self.plane is None:
                api.request("DELETE", DEFINITION)
