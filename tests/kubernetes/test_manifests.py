"""deploy/kubectl is the chart, rendered: not stale, and taken by kustomize."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.kubernetes import charts, manifests

KUBECTL = Path(sys.executable).parent / "kubectl"


def kustomized(tmp_path: Path) -> list[charts.Resource]:
    """What `kubectl apply -k` would send."""
    run = subprocess.run(
        [KUBECTL, "kustomize", manifests.FOLDER],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return charts.parse(run.stdout)


def test_the_files_are_what_the_chart_makes() -> None:
    for name, text in manifests.made().items():
        found = (manifests.FOLDER / name).read_text(encoding="utf-8")
        assert found == text, f"deploy/kubectl/{name} is stale: run `make manifests`"


def test_nothing_of_the_chart_is_left_out(tmp_path: Path) -> None:
    values = yaml.safe_load((manifests.FOLDER / "values.yaml").read_text(encoding="utf-8"))
    text = charts.render_text(values, namespace=manifests.NAMESPACE)
    rendered = {(r["kind"], r["metadata"]["name"]) for r in charts.parse(text)}
    applied = {(r["kind"], r["metadata"]["name"]) for r in kustomized(tmp_path)}
    assert rendered - applied == {("Pod", "pocketkv-test")}


def test_kustomize_takes_them_and_kubernetes_too(tmp_path: Path) -> None:
    resources = kustomized(tmp_path)
    kinds = {one["kind"] for one in resources}
    assert {"Namespace", "CustomResourceDefinition", "StatefulSet", "Deployment"} <= kinds
    for version in (charts.VERSIONS[0], charts.VERSIONS[-1]):
        for one in resources:
            charts.validate(one, version)


def test_no_secret_lies_in_the_repository(tmp_path: Path) -> None:
    resources = kustomized(tmp_path)
    assert not charts.of_kind(resources, "Secret")
    for spec in charts.pod_specs(resources).values():
        assert [v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v] == ["pocketkv"]


def test_everything_is_in_the_namespace(tmp_path: Path) -> None:
    everywhere = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    for one in kustomized(tmp_path):
        if one["kind"] not in everywhere:
            assert one["metadata"]["namespace"] == manifests.NAMESPACE
