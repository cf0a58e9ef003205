"""The Helm chart as tests see it: rendered by Helm itself, checked by Kubernetes' own schemas."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, Final

import helm_python as helm
import yaml
from kubernetes_validate import utils as schemas

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "pocketkv"

VERSIONS: Final = tuple(f"1.{minor}" for minor in range(28, 37))
"""Of Kubernetes, that the chart is for."""

FOREIGN: Final = frozenset({"PodMonitor", "ServiceMonitor", "PrometheusRule"})
"""Kinds that belong to the Prometheus operator, of which Kubernetes has no schemas."""

Resource = dict[str, Any]

# Reading the definitions of a version takes longer than checking a resource by them.
schemas.schema_contents = functools.cache(schemas.schema_contents)


def _tier(name: str, tier: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "tier": tier, "min": 0, "max": 4, "cpu": 1, "memory": "8Gi", **more}


VALUES: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "small": {
        "controller": {"replicas": 1},
        "router": {"replicas": 1, "autoscaling": {"enabled": False}},
        "auth": {"requireAuth": False, "existingSecret": "mine"},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudgets": {"enabled": False},
        "topologySpread": {"enabled": False},
        "rbac": {"create": False},
        "storage": {"headlessService": False},
        "serviceAccounts": {
            name: {"create": False, "name": "shared"}
            for name in ("controller", "router", "storage")
        },
    },
    "all tiers": {
        "storage": {
            "retain": "s3://bucket/retained",
            "extraEnv": [{"name": "AWS_REGION", "value": "us-east-1"}],
            "tolerations": [{"key": "spot", "operator": "Exists"}],
        },
        "tiers": [
            _tier("dram", "dram", machineType="r6i.2xlarge", spill="s3://bucket/prefix"),
            _tier("dram-arm", "dram", nodeSelector={"kubernetes.io/arch": "arm64"}, min=1),
            _tier("dram-spill", "dram", disk={"kind": "ephemeral", "size": "40Gi"}),
            _tier("nvme", "nvme", disk={"kind": "emptyDir", "size": "400Gi"}, drainSeconds=1800),
            _tier(
                "ssd",
                "ssd",
                disk={"kind": "persistent", "size": "1000Gi", "storageClass": "gp3"},
                tolerations=[{"key": "pocketkv.io/tier", "value": "ssd", "effect": "NoSchedule"}],
            ),
            _tier(
                "hdd",
                "hdd",
                disk={"kind": "ephemeral", "size": "4Ti", "storageClass": "st1"},
                affinity={
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "topologyKey": "kubernetes.io/hostname",
                                "labelSelector": {"matchLabels": {"pocketkv.io/tier": "hdd"}},
                            }
                        ]
                    }
                },
                podAnnotations={"example.org/note": "slow"},
            ),
        ],
    },
    "on AWS": {
        "image": {"repository": "registry.example.org/pocketkv", "digest": "sha256:" + "0a" * 32},
        "imagePullSecrets": [{"name": "pull"}],
        "router": {
            "advertiseHost": "nlb.example.org",
            "service": {
                "internalNLB": {"enabled": True, "subnets": ["a", "b"], "securityGroups": ["sg-1"]},
                "loadBalancerSourceRanges": ["10.0.0.0/8"],
            },
        },
        "serviceAccounts": {
            "storage": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a"}}
        },
        "networkPolicy": {
            "clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "scrapers": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        },
        "controller": {
            "serversMax": 40,
            "costPerHourMax": 20.5,
            "scaleUpAfterSeconds": 3,
            "scaleDownAfterSeconds": 60,
            "catalog": '[dram."r6i.2xlarge"]\nprice_per_hour = 0.3\n'
            'source = "r6i.2xlarge, our plan"\ndated = 2026-02-01\n',
        },
    },
    "watched": {
        "rbac": {"watchNodes": True},
        "router": {"service": {"type": "NodePort", "nodePort": 30379}},
        "metrics": {
            "scrapeAnnotations": True,
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "serviceMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Storage"}},
        },
    },
}
"""Values that between them reach every line of the chart."""

VALUES["on one machine"] = yaml.safe_load((CHART / "values-small.yaml").read_text("utf-8"))


def render_text(values: dict[str, Any], name: str = "pocketkv", namespace: str = "data") -> str:
    """The manifests as Helm installs them, the test's among them."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace=namespace)
    parts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return "\n---\n".join(parts)


@functools.cache
def _rendered(values: str, name: str) -> str:
    return render_text(json.loads(values), name)


def render(values: dict[str, Any], name: str = "pocketkv") -> list[Resource]:
    """The resources that the chart makes."""
    return parse(_rendered(json.dumps(values), name))


def parse(text: str) -> list[Resource]:
    """The resources of a text."""
    return [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]


def notes(values: dict[str, Any]) -> str:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="pocketkv", namespace="data")
    return next(text for path, text in files.items() if path.endswith("NOTES.txt"))


def of_kind(resources: list[Resource], kind: str) -> dict[str, Resource]:
    """The resources of a kind, by name."""
    return {one["metadata"]["name"]: one for one in resources if one["kind"] == kind}


def pod_specs(resources: list[Resource]) -> dict[str, Resource]:
    """The specifications of pods, by the name of what makes them."""
    found = {}
    for one in resources:
        if one["kind"] == "Pod":
            found[one["metadata"]["name"]] = one["spec"]
        elif one["kind"] in {"Deployment", "StatefulSet"}:
            found[one["metadata"]["name"]] = one["spec"]["template"]["spec"]
    return found


def validate(resource: Resource, version: str) -> None:
    """Check a resource by the strict schema of a version of Kubernetes."""
    schemas.validate(resource, version, strict=True)


def environment(spec: Resource) -> dict[str, str]:
    """The environment of a pod's only container, as the kubelet would make it."""
    made = {"metadata.name": "pod-0", "status.podIP": "10.0.0.7", "spec.nodeName": "node-1"}
    made["metadata.namespace"] = "data"
    variables: dict[str, str] = {}
    for entry in spec["containers"][0].get("env", []):
        source = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        text = entry["value"] if source is None else made[source]
        variables[entry["name"]] = re.sub(
            r"\$\((\w+)\)", lambda match: variables[match[1]], str(text)
        )
    return variables


def size_bytes(quantity: str) -> int:
    """The bytes of a quantity such as 2Gi."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", quantity).groups()  # type: ignore[union-attr]
    exponent = ("Ki", "Mi", "Gi", "Ti").index(unit) + 1
    return int(number) * int(1024**exponent)
