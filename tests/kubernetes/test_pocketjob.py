"""The definition of PocketJobs: it takes what a job can be registered with, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
import yaml

from pocketkv.catalog import TIER_NAMES
from tests.kubernetes import charts

DEFINITION = yaml.safe_load((charts.CHART / "crds" / "pocketjobs.yaml").read_text(encoding="utf-8"))
[VERSION] = DEFINITION["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def check(spec: dict[str, Any]) -> None:
    """Check as the API server does, which drops what the schema does not know."""
    strict = {**SCHEMA["properties"]["spec"], "additionalProperties": False}
    jsonschema.validate(spec, strict, cls=jsonschema.Draft202012Validator)


def test_it_is_what_the_backend_expects() -> None:
    names = DEFINITION["spec"]["names"]
    assert DEFINITION["metadata"]["name"] == "pocketjobs.pocketkv.io"
    assert (names["kind"], names["plural"]) == ("PocketJob", "pocketjobs")
    assert DEFINITION["spec"]["scope"] == "Namespaced"
    assert VERSION["name"] == "v1alpha1"
    assert VERSION["subresources"] == {"status": {}}
    columns = [c["name"] for c in VERSION["additionalPrinterColumns"] if not c.get("priority")]
    assert columns == ["Tier", "Usage", "Phase", "Age"]


def test_columns_are_fields_of_the_status() -> None:
    for column in VERSION["additionalPrinterColumns"]:
        where, _, field = column["jsonPath"].removeprefix(".").partition(".")
        if where == "status":
            assert field in SCHEMA["properties"]["status"]["properties"]


def test_it_knows_every_tier() -> None:
    tiers = SCHEMA["properties"]["spec"]["properties"]["tiers"]
    assert tiers["items"]["enum"] == list(TIER_NAMES)
    assert tiers["maxItems"] == len(TIER_NAMES)


def examples() -> list[dict[str, Any]]:
    """The PocketJobs that users are shown."""
    texts = [(charts.ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")]
    texts.append("\n".join(line[2:] for line in charts.notes({}).splitlines()))
    found = [
        yaml.safe_load(job)
        for text in texts
        for job in re.findall(r"<<END\n(.*?)\nEND", text, re.DOTALL)
    ]
    assert len(found) == len(texts)
    return found


@pytest.mark.parametrize("job", examples(), ids=["docs", "notes"])
def test_it_takes_what_users_are_shown(job: dict[str, Any]) -> None:
    assert job["apiVersion"] == "pocketkv.io/v1alpha1"
    assert job["kind"] == "PocketJob"
    check(job["spec"])


@pytest.mark.parametrize("spec", [{}, {"capacity": 1000}, {"tiers": ["hdd"]}])
def test_it_takes(spec: dict[str, Any]) -> None:
    check(spec)


@pytest.mark.parametrize(
    "spec",
    [
        {"lambdas": 0},
        {"lambdas": "ten"},
        {"latency": "fast"},
        {"tiers": ["tape"]},
        {"tiers": "dram"},
        {"leaseSeconds": 0},
        {"lease": 60},
    ],
    ids=str,
)
def test_it_refuses(spec: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(spec)
