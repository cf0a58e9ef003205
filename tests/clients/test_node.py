"""node-redis and ioredis, plain and for clusters; what they do stands in the scripts here."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.local import eventually, serving

HERE = Path(__file__).parent
TIMEOUT_S = 45
# A server starts meanwhile.
MOVED_TIMEOUT_S = 60

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


class Follower:
    """A client of a cluster that is asked what it knows."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, word: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self.line()

    def line(self) -> str:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], TIMEOUT_S)[0], "it says nothing"
        return self._process.stdout.readline().strip()

    def owners(self) -> list[int]:
        """The ports of the servers that it thinks have each slot."""
        return [int(port) for port in self.ask("owners").split(",")]


@contextmanager
def follower(url: str) -> Iterator[Follower]:
    with subprocess.Popen(
        ["node", "node_redis_moves.mjs", url],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "REDIS_EMIT_DIAGNOSTICS": "1"},
    ) as process:
        try:
            one = Follower(process)
            assert one.line() == "ready", process.stderr.read() if process.stderr else ""
            yield one
            process.communicate("end\n", timeout=TIMEOUT_S)
        finally:
            process.kill()


def test_node_redis_follows_slots_that_move_without_being_redirected(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "2", "--nvme", "0") as cluster:
        admin = cluster.client()
        job = admin.execute_command("JOB.REGISTER", "clients", "LAMBDAS", 100)
        with follower(job["url"]) as client:
            # It uses its keys while slots move to a server that joins; then it asks nobody.
            admin.execute_command("TIER.SCALE", "dram", 3)
            eventually(lambda: len(set(owners(admin, job["id"]))) == 3, MOVED_TIMEOUT_S)
            assert int(client.ask("still")) > 0
            eventually(lambda: client.owners() == owners(admin, job["id"]))
            # What it is told now is all that it hears.
            heard = client.ask("told").count("SMIGRATED")
            admin.execute_command("TIER.SCALE", "dram", 4)
            eventually(lambda: len(set(owners(admin, job["id"]))) == 4, MOVED_TIMEOUT_S)
            eventually(lambda: client.owners() == owners(admin, job["id"]))
            assert client.ask("told").count("SMIGRATED") > heard
            assert client.ask("look") == "found"


def owners(admin: Any, job_id: str) -> list[int]:
    """The ports of the servers that have each slot of a job, when nothing moves."""
    if admin.execute_command("MOVE.LIST"):
        return []
    placement = admin.execute_command("JOB.INFO", job_id)["placement"]
    return [
        port for first, last, _, port, _ in placement for port in [int(port)] * (last - first + 1)
    ]


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
