"""What a real API server makes of the chart: the definition, its schema, and who may do what.

As in `test_real_cluster`, this runs on whatever `KUBECONFIG` points to, or on a control plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pocketkv.controller.backends.kubernetes.api import MERGE_PATCH, Api, ApiError, path_of
from tests.kubernetes import charts
from tests.kubernetes.installation import LACKING_BEFORE_1_25, RELEASE
from tests.kubernetes.objects import Document
from tests.kubernetes.real import DEFINITION, NEEDS_A_CLUSTER, RealCluster
from tests.kubernetes.remote import Applier, eventually_done, token_of

pytestmark = NEEDS_A_CLUSTER


@pytest.fixture(scope="module")
def api(real_cluster: RealCluster) -> Iterator[Api]:
    """The API in a namespace of its own, where PocketJobs are defined."""
    with real_cluster.namespace() as found, real_cluster.pocketjobs(found):
        yield found


def jobs(api: Api, name: str = "", part: str = "") -> str:
    return path_of("apis/pocketkv.io/v1alpha1", api.namespace, "pocketjobs", name, part)


def pocketjob(name: str, **spec: Any) -> Document:
    return {
        "apiVersion": "pocketkv.io/v1alpha1",
        "kind": "PocketJob",
        "metadata": {"name": name},
        "spec": spec,
    }


# --- the definition ------------------------------------------------------------------------------


def test_the_definition_is_established_and_its_schema_is_sound(api: Api) -> None:
    conditions = {
        one["type"]: one["status"] for one in api.request("GET", DEFINITION)["status"]["conditions"]
    }
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"capacity": 1024, "throughput": "8gbps"},
        {"lambdas": 100, "capacity": "20gb", "latency": "tolerant", "tiers": ["dram", "nvme"]},
        {"leaseSeconds": 3600, "latency": "sensitive"},
    ],
    ids=str,
)
def test_good_specs_are_taken(api: Api, spec: Document) -> None:
    made = api.request("POST", jobs(api), pocketjob("good", **spec), query={"dryRun": "All"})
    assert made["spec"] == spec


@pytest.mark.parametrize(
    "spec",
    [
        {"lambdas": 0},
        {"lambdas": "many"},
        {"lambdas": 1_000_001},
        {"capacity": [1]},
        {"capacity": True},
        {"throughput": 1.5},
        {"latency": "maybe"},
        {"tiers": ["tape"]},
        {"tiers": ["dram", "dram"]},
        {"tiers": "dram"},
        {"leaseSeconds": 0},
    ],
    ids=str,
)
def test_bad_specs_are_refused(api: Api, spec: Document) -> None:
    with pytest.raises(ApiError) as refused:
        api.request("POST", jobs(api), pocketjob("bad", **spec))
    assert refused.value.status == 422
    assert next(iter(spec)) in str(refused.value)


def test_one_without_a_spec_is_refused(api: Api) -> None:
    bare = pocketjob("bare")
    del bare["spec"]
    with pytest.raises(ApiError, match="spec"):
        api.request("POST", jobs(api), bare)


def test_what_is_not_known_is_not_kept_and_the_status_is_written_by_itself(api: Api) -> None:
    one = {**pocketjob("pruned", capacity="1gb", capacty="2gb"), "status": {"phase": "Active"}}
    made = api.request("POST", jobs(api), one)
    assert made["spec"] == {"capacity": "1gb"}
    assert "status" not in made
    body = {"spec": {"capacity": "9gb"}, "status": {"phase": "Active", "tiers": ["dram"]}}
    path = jobs(api, "pruned", "status")
    told = api.request("PATCH", path, body, content_type=MERGE_PATCH)
    assert told["spec"] == {"capacity": "1gb"}
    assert told["status"] == {"phase": "Active", "tiers": ["dram"]}
    assert told["metadata"]["generation"] == 1
    api.request("DELETE", jobs(api, "pruned"))


# --- the chart -----------------------------------------------------------------------------------


# Fields that the chart relies on, and that an API server older than those it is for may not know.
LACKING_BEFORE_1_28 = ("persistentVolumeClaimRetentionPolicy", "loadBalancerClass")


def _version(api: Api) -> str:
    """Of the server, such as 1.28."""
    found = api.request("GET", "/version")
    return f"{found['major']}.{found['minor'].rstrip('+')}"


@pytest.mark.parametrize("values", charts.VALUES.values(), ids=charts.VALUES.keys())
def test_every_resource_is_taken(api: Api, values: dict[str, Any]) -> None:
    """What `kubectl apply --server-side --dry-run=server --validate=strict` does."""
    applier = Applier(api)
    unknown = set()
    is_older = _version(api) < charts.VERSIONS[0]
    for one in charts.parse(charts.render_text(values, RELEASE, api.namespace)):
        if is_older:
            for name in LACKING_BEFORE_1_28:
                one.get("spec", {}).pop(name, None)
        if applier.knows(one):
            applier.apply(one, dryRun="All")
        else:
            unknown.add(one["kind"])
    assert unknown <= LACKING_BEFORE_1_25 | charts.FOREIGN


# --- rights --------------------------------------------------------------------------------------

CONTROLLER_MAY = {
    ("coordination.k8s.io", "leases", "create", ""),
    ("coordination.k8s.io", "leases", "update", "pk-controller"),
    ("apps", "statefulsets", "watch", ""),
    ("apps", "statefulsets/scale", "update", "pk-storage-dram"),
    ("", "pods", "watch", ""),
    ("", "pods", "patch", "any"),
    ("", "pods", "delete", "any"),
    ("", "events", "list", ""),
    ("", "secrets", "create", ""),
    ("", "secrets", "get", "any"),
    ("", "configmaps", "update", "any"),
    ("pocketkv.io", "pocketjobs", "watch", ""),
    ("pocketkv.io", "pocketjobs/status", "patch", "any"),
}
CONTROLLER_MAY_NOT = {
    ("coordination.k8s.io", "leases", "update", "others"),
    ("apps", "statefulsets", "update", "pk-storage-dram"),
    ("apps", "statefulsets", "delete", "pk-storage-dram"),
    ("apps", "statefulsets/scale", "update", "others"),
    ("apps", "deployments", "get", "pk-router"),
    ("", "pods", "create", ""),
    ("", "pods/exec", "create", "any"),
    ("", "secrets", "list", ""),
    ("", "secrets", "watch", ""),
    ("", "nodes", "list", ""),
    ("", "serviceaccounts/token", "create", "default"),
    ("rbac.authorization.k8s.io", "roles", "update", "pk-controller"),
    ("pocketkv.io", "pocketjobs", "deletecollection", ""),
}


@pytest.fixture(scope="module")
def accounts(api: Api) -> Api:
    """The chart's accounts and their rights."""
    applier = Applier(api)
    for one in charts.parse(charts.render_text({}, RELEASE, api.namespace)):
        if one["kind"] in {"ServiceAccount", "Role", "RoleBinding"}:
            applier.apply(one)
    return api


def may(api: Api, right: tuple[str, str, str, str], namespace: str) -> bool:
    """Ask a real API server whether whoever has this connection may do something."""
    group, resource, verb, name = right
    kind, _, part = resource.partition("/")
    asked = {"group": group, "resource": kind, "subresource": part, "verb": verb, "name": name}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {**asked, "namespace": namespace}},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return bool(api.request("POST", path, body)["status"]["allowed"])


def allowed(
    cluster: RealCluster, api: Api, account: str, rights: set[tuple[str, str, str, str]]
) -> set[tuple[str, str, str, str]]:
    token = eventually_done(lambda: token_of(api, account), "there is an account")
    own = cluster.api_by(token, api.namespace)
    try:
        return {right for right in rights if may(own, right, api.namespace)}
    finally:
        own.close()


def test_controllers_may_what_they_need_and_no_more(
    real_cluster: RealCluster, accounts: Api
) -> None:
    asked = CONTROLLER_MAY | CONTROLLER_MAY_NOT
    assert allowed(real_cluster, accounts, "pk-controller", asked) == CONTROLLER_MAY


def test_controllers_may_nothing_elsewhere(real_cluster: RealCluster, accounts: Api) -> None:
    own = real_cluster.api_by(token_of(accounts, "pk-controller"), accounts.namespace)
    assert not [right for right in CONTROLLER_MAY if may(own, right, "default")]
    own.close()


@pytest.mark.parametrize("account", ["pk-router", "pk-storage"])
def test_others_may_nothing(real_cluster: RealCluster, accounts: Api, account: str) -> None:
    assert allowed(real_cluster, accounts, account, CONTROLLER_MAY) == set()
