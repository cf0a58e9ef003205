"""The Helm chart: that what belongs together finds each other, and nobody else gets in."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.local import serving
from tests.kubernetes import charts
from tests.kubernetes.charts import VALUES, Resource

EVERYTHING = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())


def pod_labels(resources: list[Resource]) -> dict[str, dict[str, str]]:
    """The labels of the pods of each Deployment and StatefulSet."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in resources
        if one["kind"] in {"Deployment", "StatefulSet"}
    }


def selected(resources: list[Resource], selector: dict[str, str]) -> set[str]:
    """Whose pods a selector means."""
    return {
        name for name, labels in pod_labels(resources).items() if selector.items() <= labels.items()
    }


@EVERYTHING
def test_whoever_makes_pods_selects_just_its_own(values: dict[str, Any]) -> None:
    resources = charts.render(values)
    for one in resources:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            found = selected(resources, one["spec"]["selector"]["matchLabels"])
            assert found == {one["metadata"]["name"]}


@EVERYTHING
def test_services_lead_to_ports_that_their_pods_have(values: dict[str, Any]) -> None:
    resources = charts.render(values)
    specs = charts.pod_specs(resources)
    for name, service in charts.of_kind(resources, "Service").items():
        # The label of the leader is put on by the leader itself.
        selector = {k: v for k, v in service["spec"]["selector"].items() if "leader" not in k}
        pods = selected(resources, selector)
        assert pods, name
        for port in service["spec"]["ports"]:
            for pod in pods:
                names = [p["name"] for p in specs[pod]["containers"][0]["ports"]]
                assert port["targetPort"] in names


def test_the_controllers_service_leads_to_the_leader_alone() -> None:
    resources = charts.render({})
    service = charts.of_kind(resources, "Service")["pocketkv-controller"]
    assert service["spec"]["selector"]["pocketkv.io/leader"] == "true"
    for labels in pod_labels(resources).values():
        assert "pocketkv.io/leader" not in labels


@EVERYTHING
def test_budgets_and_policies_mean_pods_that_are_there(values: dict[str, Any]) -> None:
    resources = charts.render(values)
    budgets = charts.of_kind(resources, "PodDisruptionBudget")
    policies = charts.of_kind(resources, "NetworkPolicy")
    for one in budgets.values():
        assert selected(resources, one["spec"]["selector"]["matchLabels"])
        assert one["spec"]["maxUnavailable"] == 1
    for one in policies.values():
        assert selected(resources, one["spec"]["podSelector"]["matchLabels"])
    if values.get("networkPolicy", {}).get("enabled", True):
        assert set(policies) == {f"pocketkv-{c}" for c in ("controller", "router", "storage")}


def test_only_members_reach_the_controller() -> None:
    policy = charts.of_kind(charts.render({}), "NetworkPolicy")["pocketkv-controller"]
    [control, _] = policy["spec"]["ingress"]
    [peer] = control["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "pocketkv"
    assert "namespaceSelector" not in peer


def test_clients_are_who_may_talk_to_routers_and_servers() -> None:
    policies = charts.of_kind(charts.render(VALUES["on AWS"]), "NetworkPolicy")
    for name in ("pocketkv-router", "pocketkv-storage"):
        [served, watched] = policies[name]["spec"]["ingress"]
        assert {"ipBlock": {"cidr": "10.0.0.0/8"}} in served["from"]
        assert served["from"][0]["podSelector"]
        assert watched["from"] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    open_policies = charts.of_kind(charts.render({}), "NetworkPolicy")
    assert "from" not in open_policies["pocketkv-router"]["spec"]["ingress"][0]


@EVERYTHING
def test_accounts_and_secrets_that_are_named_exist(values: dict[str, Any]) -> None:
    resources = charts.render(values)
    accounts = {*charts.of_kind(resources, "ServiceAccount"), "shared"}
    secrets = {*charts.of_kind(resources, "Secret"), "mine"}
    configs = set(charts.of_kind(resources, "ConfigMap"))
    for name, spec in charts.pod_specs(resources).items():
        if not name.endswith("-test"):
            assert spec["serviceAccountName"] in accounts
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs


def test_storage_servers_do_not_get_the_administrators_password() -> None:
    spec = charts.pod_specs(charts.render({}))["pocketkv-storage-dram"]
    [secret] = [v["secret"] for v in spec["volumes"] if "secret" in v]
    assert [item["key"] for item in secret["items"]] == ["secret"]


def test_secrets_are_made_once() -> None:
    [secret] = charts.of_kind(charts.render({}), "Secret").values()
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    text = base64.b64decode(secret["data"]["secret"]).decode()
    assert len(bytes.fromhex(text)) == 32
    assert len(base64.b64decode(secret["data"]["admin-password"])) == 32
    [other] = charts.of_kind(charts.parse(charts.render_text({})), "Secret").values()
    assert other["data"]["secret"] != secret["data"]["secret"]
    assert charts.of_kind(charts.render(VALUES["small"]), "Secret") == {}


def test_the_controllers_rights_are_the_least() -> None:
    resources = charts.render({})
    [role] = charts.of_kind(resources, "Role").values()
    may = {
        (group, resource, verb): rule.get("resourceNames")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert not [right for right in may if "*" in right]
    assert may["apps", "statefulsets/scale", "patch"] == ["pocketkv-storage-dram"]
    for right in (
        ("", "pods", "create"),
        ("", "pods/eviction", "create"),
        ("", "secrets", "list"),
        ("", "secrets", "watch"),
        ("apps", "statefulsets", "patch"),
        ("apps", "statefulsets", "delete"),
    ):
        assert right not in may
    assert not charts.of_kind(resources, "ClusterRole")
    seeing = charts.render({"rbac": {"watchNodes": True}})
    [nodes] = charts.of_kind(seeing, "ClusterRole").values()
    assert nodes["rules"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}
    ]


def test_functions_in_the_vpc_reach_the_routers() -> None:
    resources = charts.render(VALUES["on AWS"])
    service = charts.of_kind(resources, "Service")["pocketkv"]
    prefix = "service.beta.kubernetes.io/aws-load-balancer-"
    notes = service["metadata"]["annotations"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["loadBalancerClass"] == "service.k8s.aws/nlb"
    assert notes[prefix + "scheme"] == "internal"
    assert notes[prefix + "nlb-target-type"] == "ip"
    assert notes[prefix + "healthcheck-path"] == "/readyz"
    assert notes[prefix + "subnets"] == "a,b"
    assert notes[prefix + "listener-attributes.TCP-6379"] == "tcp.idle_timeout.seconds=3600"
    environment = charts.environment(charts.pod_specs(resources)["pocketkv-router"])
    assert environment["POCKETKV_ADVERTISE_HOST"] == "nlb.example.org"
    [account] = [
        a for n, a in charts.of_kind(resources, "ServiceAccount").items() if n.endswith("storage")
    ]
    assert account["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a"
    }


def test_the_notes_tell_the_url() -> None:
    assert "redis://pocketkv.data.svc.cluster.local:6379" in charts.notes({})
    assert "ingress[0].hostname" in charts.notes(VALUES["on AWS"])
    assert "nodePort" in charts.notes(VALUES["watched"])
    assert "nvme: 0 to 4 nvme servers of 8Gi, emptyDir 400Gi" in charts.notes(VALUES["all tiers"])


def test_the_charts_own_test_passes_on_a_real_cluster(tmp_path: Path) -> None:
    """The script of `helm test`, run as its pod runs it, but on local processes."""
    spec = charts.pod_specs(charts.render({}))["pocketkv-test"]
    [container] = spec["containers"]
    [_, flag] = container["command"]
    [script] = container["args"]
    secret = {"POCKETKV_ADMIN_PASSWORD": "a password"}
    with serving(tmp_path, "--nvme", "0", "--require-auth", environment=secret) as cluster:
        run = subprocess.run(
            [sys.executable, flag, script],
            env={**os.environ, **secret, "POCKETKV_URL": f"redis://127.0.0.1:{cluster.port}"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert "200 values stored and read, on ['dram']" in run.stdout
        admin = cluster.client(username="admin", password="a password")
        jobs = [job["id"] for job in admin.execute_command("JOB.LIST")]
        assert jobs == ["default"]
