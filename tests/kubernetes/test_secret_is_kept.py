"""The Secret that the chart makes is kept by `helm upgrade`.

Rendering alone cannot show that, since `lookup` needs an API server. The one here is played: it has
just what Helm asks of it for a dry run: discovery, and reading a resource.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import helm_python as helm

from tests.kubernetes import charts

PLURALS = {"NetworkPolicy": "networkpolicies"}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"}


class PlayedServer:
    """An API server that knows kinds, and the resources that it is given."""

    def __init__(self) -> None:
        self.stored: dict[str, charts.Resource] = {}
        self.asked: list[str] = []
        self.kinds = {(r["apiVersion"], r["kind"]) for r in charts.render({})}
        self.kinds |= {("v1", "Namespace")}
        self.kinds |= {("apiextensions.k8s.io/v1", "CustomResourceDefinition")}

    def answer(self, path: str) -> dict[str, Any] | None:
        """What a GET of a path is answered; None is 404."""
        path = path.partition("?")[0]
        self.asked.append(path)
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()}
        versions = {version for version, _ in self.kinds}
        roots = {(f"apis/{v}" if "/" in v else f"api/{v}"): v for v in versions}
        if path == "/openapi/v3":
            return {"paths": {r: {"serverRelativeURL": f"/openapi/v3/{r}"} for r in roots}}
        for root, version in roots.items():
            if path == f"/{root}":
                return self._resources(version)
            if path == f"/openapi/v3/{root}":
                return self._validation(version)
        return self.stored.get(path)

    def _validation(self, version: str) -> dict[str, Any]:
        """Tells that the server checks fields itself, so that Helm need not."""
        group, _, short = version.rpartition("/")
        checked = {"name": "fieldValidation", "in": "query"}
        paths = {}
        for found, kind in sorted(self.kinds):
            if found == version:
                named = {"group": group, "version": short, "kind": kind}
                patch = {"x-kubernetes-group-version-kind": named, "parameters": [checked]}
                paths[f"/{kind}"] = {"patch": patch}
        return {"openapi": "3.0.0", "info": {"title": "played", "version": "1"}, "paths": paths}

    def _groups(self) -> list[dict[str, Any]]:
        groups = []
        for version in sorted({version for version, _ in self.kinds if "/" in version}):
            name, _, short = version.partition("/")
            served = {"groupVersion": version, "version": short}
            groups.append({"name": name, "versions": [served], "preferredVersion": served})
        return groups

    def _resources(self, version: str) -> dict[str, Any]:
        resources = [
            {
                "name": PLURALS.get(kind, kind.lower() + "s"),
                "singularName": kind.lower(),
                "namespaced": kind not in CLUSTER_WIDE,
                "kind": kind,
                "verbs": ["get", "list", "create", "update", "patch", "delete"],
            }
            for found, kind in sorted(self.kinds)
            if found == version
        ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": resources,
        }


@contextmanager
def serving(server: PlayedServer) -> Iterator[str]:
    """Serve on a free port; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = server.answer(self.path)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            body = json.dumps({**missing, "reason": "NotFound"} if found is None else found)
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def secret_of(address: str) -> charts.Resource:
    """The Secret that Helm would now apply, asking the server."""
    with (
        helm.Config(kubeconfig_content=kubeconfig(address), namespace="data") as config,
        helm.Chart.load(charts.CHART) as chart,
    ):
        release: dict[str, Any] = dict(
            config.install(chart, "pocketkv", {}, namespace="data", dry_run="server")
        )
    [secret] = charts.of_kind(charts.parse(release["manifest"]), "Secret").values()
    return secret


def kubeconfig(address: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "played",
            "clusters": [{"name": "played", "cluster": {"server": address}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "played", "context": {"cluster": "played", "user": "nobody"}}],
        }
    )


def test_a_secret_that_is_there_is_kept() -> None:
    server = PlayedServer()
    path = "/api/v1/namespaces/data/secrets/pocketkv"
    with serving(server) as address:
        first = secret_of(address)
        assert path in server.asked
        assert secret_of(address)["data"] != first["data"]
        # As Helm has applied it.
        owner = {"meta.helm.sh/release-name": "pocketkv", "meta.helm.sh/release-namespace": "data"}
        first["metadata"]["annotations"] |= owner
        server.stored[path] = first
        assert secret_of(address)["data"] == first["data"]
        # One of an older version, or made by hand, gets what it lacks.
        kept = first["data"].pop("secret")
        filled = secret_of(address)["data"]
        assert filled["admin-password"] == first["data"]["admin-password"]
        assert filled["secret"] != kept
