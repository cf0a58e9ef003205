"""node-redis and ioredis, plain and for clusters; what they do stands in the scripts beside this."""

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


@pytest.mark.parametrize("kind", ["plain", "cluster"])
@pytest.mark.parametrize("script", ["node_redis.mjs", "ioredis.mjs"])
def test_a_client_finds_everything_as_it_should_be(url: str, script: str, kind: str) -> None:
    run = subprocess.run(
        ["node", script, kind, url],
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "done\n"
    assert run.stderr == ""
