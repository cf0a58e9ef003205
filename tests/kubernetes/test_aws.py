"""deploy/aws: its files fit together, and with the chart, the catalog and the ports of processes.

They are checked for form alone: no account of AWS is at hand for tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pocketkv.catalog import load_catalog
from tests.kubernetes import charts

FOLDER = charts.ROOT / "deploy" / "aws"


class TemplateLoader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their long ones."""


def _long_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    assert isinstance(node, yaml.ScalarNode)
    text = loader.construct_scalar(node)
    return {tag if tag == "Ref" else f"Fn::{tag}": text}


TemplateLoader.add_multi_constructor("!", _long_form)


def loaded(name: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    return yaml.load((FOLDER / name).read_text(encoding="utf-8"), Loader=loader)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    found: dict[str, Any] = loaded("resources.yaml", TemplateLoader)
    return found


def values() -> dict[str, Any]:
    found: dict[str, Any] = loaded("values.yaml")
    return found


def groups() -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in loaded("cluster.yaml")["managedNodeGroups"]}


def test_the_chart_takes_the_values() -> None:
    for resource in charts.render(values()):
        charts.validate(resource, charts.VERSIONS[-1])


@pytest.mark.parametrize("entry", values()["tiers"], ids=lambda entry: entry["name"])
def test_each_tier_has_nodes_that_take_it(entry: dict[str, Any]) -> None:
    group = groups()[entry["name"]]
    assert group["instanceType"] == entry["machineType"]
    assert group["labels"] == entry["nodeSelector"]
    [taint] = group["taints"]
    [toleration] = entry["tolerations"]
    assert {k: toleration[k] for k in taint} == taint
    assert group["maxSize"] >= entry["max"]
    # The cluster's autoscaler must know what a node of an empty group would be like.
    assert group["propagateASGTags"] is True
    # Prices in what is shown come from here.
    machine = load_catalog().machine(entry["tier"], entry["machineType"])
    assert machine.price_per_hour > 0
    if entry["tier"] == "dram":
        assert charts.size_bytes(entry["memory"]) <= machine.capacity_bytes
    else:
        assert charts.size_bytes(entry["disk"]["size"]) <= machine.capacity_bytes * 1.05


def test_volumes_are_of_classes_that_are_made() -> None:
    classes = list(yaml.safe_load_all((FOLDER / "storage-classes.yaml").read_text()))
    for one in classes:
        charts.validate(one, charts.VERSIONS[-1])
    made = {one["metadata"]["name"] for one in classes}
    used = {tier["disk"].get("storageClass") for tier in values()["tiers"] if "disk" in tier}
    assert used - {None} == made


def test_an_instance_store_is_where_pods_have_their_emptydir() -> None:
    config = yaml.safe_load(groups()["nvme"]["overrideBootstrapCommand"])
    assert config["spec"]["instance"]["localStorage"] == {"strategy": "RAID0"}


def references(value: Any) -> Iterator[str]:
    """The names that a template refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Ref":
                yield inner
            elif key == "Fn::GetAtt":
                yield inner.split(".")[0]
            elif key == "Fn::Sub":
                yield from (name.split(".")[0] for name in re.findall(r"\$\{([^}]+)\}", inner))
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_what_the_template_refers_to_is_in_it(template: dict[str, Any]) -> None:
    named = set(references(template))
    known = {*template["Parameters"], *template["Resources"]}
    assert {name for name in named if not name.startswith("AWS::")} <= known
    assert set(template["Parameters"]) <= named


def test_what_is_spilled_expires(template: dict[str, Any]) -> None:
    bucket = template["Resources"]["SpillBucket"]["Properties"]
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert {rule["Status"] for rule in rules.values()} == {"Enabled"}
    for rule, output in (("spilled", "SpillUrl"), ("retained", "RetainUrl")):
        assert rules[rule]["ExpirationInDays"]["Ref"].endswith("ExpirationDays")
        # What the storage servers are told to use lies where the rule holds.
        url = template["Outputs"][output]["Value"]["Fn::Sub"]
        assert url + "/" == "s3://${SpillBucket}/" + rules[rule]["Prefix"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())


def test_functions_reach_routers_and_storage_servers(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    opened = {
        (rule["Properties"]["SourceSecurityGroupId"]["Ref"], rule["Properties"]["ToPort"])
        for rule in resources.values()
        if rule["Type"] == "AWS::EC2::SecurityGroupIngress"
    }
    specs = charts.pod_specs(charts.render(values()))
    router = charts.environment(specs["pocketkv-router"])
    storage = charts.environment(specs["pocketkv-storage-dram"])
    assert opened == {
        ("LoadBalancerSecurityGroup", int(router["POCKETKV_PORT"])),
        ("LoadBalancerSecurityGroup", int(router["POCKETKV_METRICS_PORT"])),
        ("FunctionSecurityGroup", int(storage["POCKETKV_PORT"])),
    }


def test_what_the_steps_name_is_there(template: dict[str, Any]) -> None:
    steps = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\(out (\w+)\)", steps)) == set(template["Outputs"])
    for parameter in template["Parameters"]:
        assert f"{parameter}=" in steps or "Default" in template["Parameters"][parameter]
    for name in re.findall(r"\]\((?!http|\.\.)([\w.-]+)\)", steps):
        assert (FOLDER / name).is_file()
