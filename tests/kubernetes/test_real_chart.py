"""The chart installed in a real cluster: ready, used, scaled, upgraded without loss, and gone.

Where `KUBECONFIG` points to a cluster, `POCKETKV_TEST_IMAGE` names an image that its nodes can
pull, or have, such as `registry.example.org/pocketkv:0.1.0`; without it these are skipped. On a
control plane without kubelets, a test plays one: what pods say is run as local processes, and
everything else is Kubernetes' own. A namespace is made for it, and removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import charts
from tests.kubernetes.controllers import eventually
from tests.kubernetes.installation import (
    RELEASE,
    SERVERS,
    TIMEOUT_S,
    Installation,
    JobInUse,
    small,
)
from tests.kubernetes.kubelet import Kubelet, taken_ports
from tests.kubernetes.nodes import Node
from tests.kubernetes.real import NEEDS_A_CLUSTER, RealCluster
from tests.kubernetes.remote import RealServer, token_of

pytestmark = NEEDS_A_CLUSTER

IMAGE = "POCKETKV_TEST_IMAGE"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def image_of(cluster: RealCluster) -> str:
    named = os.environ.get(IMAGE)
    if named is None and cluster.plane is None:
        pytest.skip(f"needs {IMAGE}: an image that the cluster's nodes can pull")
    return named or "none:0"


@contextlib.contextmanager
def played_kubelet(cluster: RealCluster, installation: Installation, folder: Path) -> Iterator[Any]:
    """Run the pods of an installation, where nobody else does."""
    plane, api = cluster.plane, installation.api
    assert plane is not None

    def kubeconfig_of(account: str) -> Path:
        return plane.kubeconfig(account, api.namespace, token_of(api, account))

    resources = installation.rendered(small("none:0"))
    if taken := taken_ports(resources):
        pytest.skip(f"somebody listens at the ports {taken} on all addresses of this machine")
    services = charts.of_kind(resources, "Service").values()
    node = Node(RealServer(plane))
    kubelet = Kubelet(
        installation.objects,
        api.namespace,
        list(services),
        folder,
        kubeconfig_of,
        beat=lambda: node.beat(100),
    )
    try:
        yield kubelet
    finally:
        kubelet.close()
        node.close()


@pytest.fixture(scope="module")
def installed(
    real_cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A release that is ready."""
    image = image_of(real_cluster)
    folder = tmp_path_factory.mktemp("pods")
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(real_cluster.namespace(RESTRICTED))
        stack.enter_context(real_cluster.pocketjobs(api))
        found = Installation(api, real_cluster.kubeconfig())
        if real_cluster.plane is not None:
            kubelet = stack.enter_context(played_kubelet(real_cluster, found, folder))
            found.address = (kubelet.services[RELEASE], 6379)
        stack.callback(found.release_pocketjobs)
        found.apply(small(image))
        try:
            found.wait_rolled_out(2)
            yield found
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")  # noqa: T201
            raise
        finally:
            found.remove()


def test_a_pocketjob_from_its_start_to_its_end(installed: Installation) -> None:
    with JobInUse(installed, "shuffle") as job:
        eventually(lambda: job.status().get("usedBytes", 0) > 30_000, "its usage is told")
        job.check()
        head, line = installed.kubectl("get", "pocketjobs", "shuffle").splitlines()
        assert head.split() == ["NAME", "TIER", "USAGE", "PHASE", "AGE"]
        name, tier, usage, phase, _ = line.split()
        assert (name, tier, int(usage) > 30_000, phase) == ("shuffle", '["dram"]', True, "Active")
        status = job.status()
        assert (status["phase"], status["tiers"]) == ("Active", ["dram"])
        assert job.secret["url"].startswith(f"redis://{job.secret['id']}:{job.secret['token']}@")
    assert "shuffle-pocketkv" not in installed.names("secrets")


def test_servers_are_added_and_taken_away_without_loss(installed: Installation) -> None:
    with JobInUse(installed, "scaled") as job:
        installed.call("TIER.SCALE", "dram", 3)
        installed.wait_rolled_out(3)
        job.check()
        installed.call("TIER.SCALE", "dram", 2)
        installed.wait_rolled_out(2)
        job.check()


def test_an_upgrade_rolls_pod_by_pod_without_loss(
    installed: Installation, real_cluster: RealCluster
) -> None:
    before = installed.status("statefulsets", SERVERS)["currentRevision"]
    with JobInUse(installed, "upgraded") as job:
        installed.apply(small(image_of(real_cluster), podAnnotations={"roll": "1"}))

        installed.wait_rolled_out(2)
        assert installed.status("statefulsets", SERVERS)["currentRevision"] != before
        job.check()


def test_an_upgrade_of_everything_at_once_loses_nothing(
    installed: Installation, real_cluster: RealCluster
) -> None:
    """As a new image is: servers drain while controllers and routers are replaced."""
    values = small(image_of(real_cluster))
    values["log"] = {"level": "debug"}
    pods = installed.names("pods")
    # Enough that leaders change while it is on its way.
    with JobInUse(installed, "renewed", 200_000) as job:
        installed.apply(values)

        def is_through() -> bool:
            now = installed.names("pods")
            return installed.is_rolled_out(2) and all("storage" in name for name in pods & now)

        eventually(is_through, "all pods are new ones", TIMEOUT_S)
        job.check(cuts=True)


def test_another_one_leads_when_the_leader_goes(installed: Installation) -> None:
    with JobInUse(installed, "led") as job:
        first = eventually(installed.leader, "one leads")
        now = {"gracePeriodSeconds": 0}
        installed.objects.delete(installed.api.namespace, "pods", first, now)
        eventually(lambda: installed.leader() not in {"", first}, "another one leads")
        installed.wait_rolled_out(2)
        job.check()


def test_nothing_changes_when_nothing_is_to(
    installed: Installation, real_cluster: RealCluster
) -> None:
    installed.apply(small(image_of(real_cluster)))
    installed.wait_rolled_out(2)
    before = installed.names("pods")
    installed.apply(small(image_of(real_cluster)))
    installed.wait_rolled_out(2)
    assert installed.names("pods") == before


def test_its_end_leaves_nothing(installed: Installation) -> None:
    installed.remove()
    eventually(lambda: not installed.everything(), "nothing is left")
