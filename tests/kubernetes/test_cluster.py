"""A whole cluster on a test's API: real servers that join, drain and die as pods do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.connecting import NAMESPACE
from tests.kubernetes.controllers import eventually, running
from tests.kubernetes.machines import stateful_set

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DRAM = "pk-storage-memory"
KEYS = {f"key:{i}": f"value {i}" for i in range(300)}


def test_scaling_up_is_a_join_and_scaling_down_a_drain(server: ApiServer, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 2)]
    with running(server, tmp_path, sets, "c-a") as (cluster, controllers):
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        client = controllers.client()
        client.mset(KEYS)
        controllers.call("TIER.SCALE", "dram", 3)
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1", f"{DRAM}-2")
        eventually(lambda: controllers.servers()[f"{DRAM}-2"]["keys"] > 0, "keys move to it")
        controllers.call("TIER.SCALE", "dram", 1)
        controllers.wait_servers(f"{DRAM}-0")
        eventually(lambda: cluster.pods() == [f"{DRAM}-0"], "the others have gone")
        assert dict(zip(KEYS, client.mget(KEYS), strict=True)) == {
            key: value.encode() for key, value in KEYS.items()
        }
        assert controllers.call("JOB.INFO", "default")["lost_keys"] == 0
        scales = server.count("PUT .*/scale")
        assert scales == 3, "up once, and down once for each server that was empty"
