"""node-redis and ioredis, plain and for clusters; what they do stands in the scripts here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT_S = 45

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (HERE / "node_modules").is_dir(),
    reason="the Node clients are not installed: `make setup`, where there is npm",
)


SCRIPTS = ["node_redis.mjs", "ioredis.mjs"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_plain_client_finds_everything_as_it_should_be(url: str, script: str) -> None:
    run(script, "plain", url)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_cluster_client_finds_everything_as_it_should_be(cluster_url: str, script: str) -> None:
    run(script, "cluster", cluster_url)


def run(script: str, kind: str, url: str) -> None:
    done = subprocess.run(
        ["node", script, kind, url],
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert done.stderr == ""
