"""The Helm chart: what it renders is what Kubernetes takes and what our processes understand."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from pocketkv import __version__, config
from pocketkv.options import ConfigError, Option
from tests.kubernetes import charts
from tests.kubernetes.charts import VALUES, Resource

GIB = 1024**3
EVERYTHING = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())


def tiers(**changes: Any) -> dict[str, Any]:
    entry = {"name": "a", "tier": "dram", "min": 1, "max": 2, "cpu": 1, "memory": "4Gi"}
    return {"tiers": [{**entry, **changes}]}


def test_is_clean_by_helms_own_rules() -> None:
    for values in VALUES.values():
        report = helm.lint(charts.CHART, values, strict=True)
        assert report["errors"] == []
        warnings = [m for m in report["messages"] if m["severity"] > 1]
        assert warnings == []


def test_is_of_this_version() -> None:
    meta = yaml.safe_load((charts.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert meta["version"] == meta["appVersion"] == __version__


@EVERYTHING
@pytest.mark.parametrize("version", charts.VERSIONS)
def test_kubernetes_takes_every_resource(values: dict[str, Any], version: str) -> None:
    resources = charts.render(values)
    assert len(resources) >= 6
    for resource in resources:
        if resource["kind"] not in charts.FOREIGN:
            charts.validate(resource, version)


@pytest.mark.parametrize("version", charts.VERSIONS)
def test_kubernetes_takes_the_resource_definition(version: str) -> None:
    text = (charts.CHART / "crds" / "pocketjobs.yaml").read_text(encoding="utf-8")
    charts.validate(yaml.safe_load(text), version)


def test_the_schemas_refuse_what_is_wrong() -> None:
    """The test above would say nothing if the schemas took everything."""
    [budget] = [r for r in charts.render({}) if r["metadata"]["name"] == "pocketkv-router"][:1]
    budget["spec"]["unheardOf"] = 1
    with pytest.raises(Exception, match="unheardOf"):
        charts.validate(budget, "1.30")


@EVERYTHING
def test_names_are_unique(values: dict[str, Any]) -> None:
    names = [(r["kind"], r["metadata"]["name"]) for r in charts.render(values)]
    assert len(names) == len(set(names))


# --- pods ----------------------------------------------------------------------------------------


@EVERYTHING
def test_pods_have_no_rights_that_they_do_not_need(values: dict[str, Any]) -> None:
    for name, spec in charts.pod_specs(charts.render(values)).items():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not [v for v in spec["volumes"] if "hostPath" in v]
        # A Service named pocketkv would set POCKETKV_PORT to what is no port.
        assert spec["enableServiceLinks"] is False
        assert spec["automountServiceAccountToken"] is name.endswith("-controller")
        [container] = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@EVERYTHING
def test_memory_is_requested_up_to_its_limit(values: dict[str, Any]) -> None:
    """What may be used must be there: the killer takes a pod that uses more than it requested."""
    for spec in charts.pod_specs(charts.render(values)).values():
        resources = spec["containers"][0]["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert resources["requests"]["cpu"]
        assert "cpu" not in resources["limits"]


@EVERYTHING
def test_probes_ask_whether_it_lives_and_whether_it_can_work(values: dict[str, Any]) -> None:
    resources = charts.render(values)
    for name, spec in charts.pod_specs(resources).items():
        [container] = spec["containers"]
        if name.endswith("-test"):
            continue
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
        assert ports["metrics"] == int(charts.environment(spec)["POCKETKV_METRICS_PORT"])
        served = set(ports) - {"metrics"}
        assert [ports[p] for p in served] == [int(charts.environment(spec)["POCKETKV_PORT"])]


def read_secret(path: Path) -> bytes:
    return b"ab" * 32 if path.name == "secret" else b"password"


CONFIGURE: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[..., Any]]] = {
    "controller": (config.add_controller_arguments, config.controller_config),
    "router": (config.add_router_arguments, config.router_config),
    "storage": (
        config.add_storage_arguments,
        lambda *given, **more: config.storage_config(*given, machine_memory_bytes=64 * GIB, **more),
    ),
}


def configured(spec: Resource) -> Any:
    """The configuration that a pod's process comes to, by the code that it has."""
    [command] = spec["containers"][0]["args"]
    add_arguments, configure = CONFIGURE[command]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return configure(parser.parse_args([]), charts.environment(spec), read_file=read_secret)


@EVERYTHING
def test_processes_understand_their_environment(values: dict[str, Any]) -> None:
    resources = charts.render(values)
    for name, spec in charts.pod_specs(resources).items():
        if name.endswith("-test"):
            continue
        settings = configured(spec)
        assert settings.host == "0.0.0.0"
        assert settings.secret == bytes.fromhex("ab" * 32)
        if spec["containers"][0]["args"] != ["controller"]:
            assert settings.controller == ("pocketkv-controller", 7379)


@EVERYTHING
def test_every_variable_is_an_option(values: dict[str, Any]) -> None:
    """A variable that is misspelt would be ignored."""
    for spec in charts.pod_specs(charts.render(values)).values():
        [command] = spec["containers"][0].get("args")[:1]
        if command not in CONFIGURE:
            continue
        parser = argparse.ArgumentParser()
        CONFIGURE[command][0](parser)
        known = {Option(a.dest.replace("_", "-"), str, "").variable for a in parser._actions}
        named = {n for n in charts.environment(spec) if n.startswith("POCKETKV_")}
        assert named - known == set()


# --- tiers ---------------------------------------------------------------------------------------


def test_a_tier_is_what_its_entry_says() -> None:
    sets = charts.of_kind(charts.render(VALUES["all tiers"]), "StatefulSet")
    assert set(sets) == {
        f"pocketkv-storage-{entry['name']}" for entry in VALUES["all tiers"]["tiers"]
    }
    for entry in VALUES["all tiers"]["tiers"]:
        one = sets[f"pocketkv-storage-{entry['name']}"]
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert labels["pocketkv.io/tier"] == one["metadata"]["labels"]["pocketkv.io/tier"]
        assert labels["app.kubernetes.io/component"] == "storage"
        assert one["metadata"]["annotations"]["pocketkv.io/min"] == str(entry["min"])
        assert one["metadata"]["annotations"]["pocketkv.io/max"] == str(entry["max"])
        machine = one["metadata"]["annotations"].get("pocketkv.io/machine-type")
        assert machine == entry.get("machineType")
        assert one["spec"]["podManagementPolicy"] == "Parallel"
        settings = configured(one["spec"]["template"]["spec"])
        assert settings.tier == entry["tier"]
        assert settings.server_id == "pod-0"
        assert settings.advertise_host == "10.0.0.7"
        assert settings.machine == "node-1"
        assert settings.machine_type == machine
        assert settings.retain == "s3://bucket/retained"


def test_how_many_servers_there_are_is_not_the_charts_affair() -> None:
    resources = charts.render({})
    for one in charts.of_kind(resources, "StatefulSet").values():
        assert "replicas" not in one["spec"]
    assert "replicas" not in charts.of_kind(resources, "Deployment")["pocketkv-router"]["spec"]
    fixed = charts.of_kind(charts.render(VALUES["small"]), "Deployment")["pocketkv-router"]
    assert fixed["spec"]["replicas"] == 1


def test_values_get_the_containers_memory_less_what_the_process_needs() -> None:
    for entry in VALUES["all tiers"]["tiers"]:
        one = charts.of_kind(charts.render({"tiers": [entry]}), "StatefulSet")
        spec = one[f"pocketkv-storage-{entry['name']}"]["spec"]["template"]["spec"]
        limit_bytes = charts.size_bytes(spec["containers"][0]["resources"]["limits"]["memory"])
        free_bytes = limit_bytes - 256 * 1024**2 - limit_bytes // 10
        share = 1 if entry["tier"] == "dram" else 2
        assert configured(spec).memory_bytes == free_bytes // share


def test_disks() -> None:
    sets = charts.of_kind(charts.render(VALUES["all tiers"]), "StatefulSet")
    pods = {n.removeprefix("pocketkv-storage-"): s["spec"] for n, s in sets.items()}

    def volume(name: str) -> Any:
        volumes = pods[name]["template"]["spec"]["volumes"]
        return next((v for v in volumes if v["name"] == "values"), None)

    assert volume("dram") is None
    assert configured(pods["dram"]["template"]["spec"]).spill == "s3://bucket/prefix"
    assert volume("nvme")["emptyDir"] == {"sizeLimit": "400Gi"}
    requests = pods["nvme"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert requests["ephemeral-storage"] == "400Gi"
    settings = configured(pods["nvme"]["template"]["spec"])
    assert settings.dir == Path("/var/lib/pocketkv/values")
    # A pod whose emptyDir grows beyond its limit is evicted.
    assert settings.capacity_bytes == 360 * GIB
    claim = volume("hdd")["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "st1"
    assert claim["resources"] == {"requests": {"storage": "4Ti"}}
    [persistent] = pods["ssd"]["volumeClaimTemplates"]
    assert persistent["spec"]["storageClassName"] == "gp3"
    assert pods["ssd"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Delete"
    assert configured(pods["dram-spill"]["template"]["spec"]).spill == Path(
        "/var/lib/pocketkv/spill"
    )


@EVERYTHING
def test_a_pod_is_killed_only_after_its_drain(values: dict[str, Any]) -> None:
    for one in charts.of_kind(charts.render(values), "StatefulSet").values():
        spec = one["spec"]["template"]["spec"]
        drain_s = int(charts.environment(spec)["POCKETKV_DRAIN_TIMEOUT"])
        assert spec["terminationGracePeriodSeconds"] >= drain_s + 15
        assert one["spec"]["updateStrategy"]["type"] == "RollingUpdate"


def test_machines_are_selected_by_their_type() -> None:
    sets = charts.of_kind(charts.render(VALUES["all tiers"]), "StatefulSet")
    spec = sets["pocketkv-storage-dram"]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"node.kubernetes.io/instance-type": "r6i.2xlarge"}
    spec = sets["pocketkv-storage-dram-arm"]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "arm64"}
    keys = [
        t["key"] for t in sets["pocketkv-storage-ssd"]["spec"]["template"]["spec"]["tolerations"]
    ]
    assert keys == ["spot", "pocketkv.io/tier"]


def test_limits_of_tiers_are_told_with_those_of_the_cluster() -> None:
    """Without the latter, the controller reads the former off the StatefulSets."""

    def scaling(values: dict[str, Any]) -> Any:
        return configured(charts.pod_specs(charts.render(values))["pocketkv-controller"]).scaling

    assert scaling(VALUES["all tiers"]) is None
    limited = scaling({**VALUES["all tiers"], "controller": {"serversMax": 40}})
    assert limited.servers_max == 40
    assert {tier: str(limits) for tier, limits in limited.tiers.items()} == {
        "dram": "1..12",
        "nvme": "0..4",
        "ssd": "0..4",
        "hdd": "0..4",
    }
    limited = scaling(VALUES["on AWS"])
    assert limited.cost_per_hour_max_usd == 20.5
    assert (limited.up_after_s, limited.down_after_s) == (3, 60)


def test_an_own_catalog_is_mounted() -> None:
    resources = charts.render(VALUES["on AWS"])
    spec = charts.pod_specs(resources)["pocketkv-controller"]
    [mount] = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "catalog"]
    [(name, text)] = charts.of_kind(resources, "ConfigMap")["pocketkv-catalog"]["data"].items()
    assert configured(spec).catalog == Path(mount["mountPath"]) / name
    assert text == VALUES["on AWS"]["controller"]["catalog"]


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"router": {"replicaCount": 3}},
        {"router": {"service": {"type": "ExternalName"}}},
        {"controller": {"replicas": 0}},
        {"image": {"digest": "latest"}},
        {"tiers": []},
        tiers(tier="tape"),
        tiers(memory="4G"),
        tiers(memory="1.5Gi"),
        tiers(name="Upper"),
        tiers(disk={"kind": "hostPath", "size": "1Gi"}),
        tiers(disk={"kind": "emptyDir"}),
        tiers(spill="/tmp"),
        tiers(replicas=2),
        {"storage": {"drainSeconds": 0}},
        {"storage": {"extraEnv": [{"name": "POCKETKV_PORT", "value": "1"}]}},
        {"metrics": {"port": 80}},
    ],
    ids=str,
)
def test_the_schema_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmValuesError):
        charts.render(values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (tiers(min=3), "min 3 is more than max 2"),
        (tiers(tier="nvme"), "need a disk"),
        (tiers(memory="256Mi"), "less than 64Mi for values"),
        (tiers(disk={"kind": "emptyDir", "size": "1Gi"}), "evicted"),
        (
            tiers(spill="s3://b/p", disk={"kind": "ephemeral", "size": "1Gi"}),
            "spill is for dram without a disk",
        ),
        ({"tiers": [*tiers()["tiers"], *tiers()["tiers"]]}, "two are named a"),
    ],
    ids=str,
)
def test_the_chart_refuses(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(helm.HelmRenderError, match=reason):
        charts.render(values)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(helm.HelmRenderError, match="30 characters"):
        charts.render({}, "a" * 31)
    named = charts.render(tiers(name="a" * 12), "r" * 30)
    # The name and a hash of ten characters become a label, which has 63.
    assert max(len(n) for n in charts.of_kind(named, "StatefulSet")) <= 52


def test_what_a_process_refuses_is_found_here() -> None:
    """The tests above would say nothing if the configuration took everything."""
    spec = charts.pod_specs(charts.render({}))["pocketkv-storage-dram"]
    for entry in spec["containers"][0]["env"]:
        if entry["name"] == "POCKETKV_MEMORY":
            entry["value"] = "none"
    with pytest.raises(ConfigError, match="POCKETKV_MEMORY"):
        configured(spec)


def test_the_schema_knows_every_value() -> None:
    """Each default is named by the schema, whose objects take nothing else."""
    schema = json.loads((charts.CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((charts.CHART / "values.yaml").read_text(encoding="utf-8"))

    def check(value: Any, described: dict[str, Any], path: str) -> None:
        if not isinstance(value, dict) or "properties" not in described:
            return
        assert described["additionalProperties"] is False, path
        assert set(value) == set(described["properties"]) - {"global"}, path
        for name, inner in value.items():
            check(inner, described["properties"][name], f"{path}.{name}")

    # Any resource may be requested.
    for name in ("controller", "router"):
        defaults[name].pop("resources")
        schema["properties"][name]["properties"].pop("resources")
    check(defaults, schema, "")


def test_the_guide_names_values_that_there_are() -> None:
    guide = (charts.ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    defaults = yaml.safe_load((charts.CHART / "values.yaml").read_text(encoding="utf-8"))
    roots = "|".join(name for name in defaults if name not in {"tiers", "global"})
    named = set(re.findall(rf"`((?:{roots})\.[A-Za-z.]+)`", guide))
    assert len(named) > 12
    for path in named:
        value: Any = defaults
        for part in path.split("."):
            assert part in value, path
            value = value[part]
