"""Chaos on real processes, and harm done in secret, which must be found."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.clients import PlainClient
from tests.chaos.load import Job
from tests.chaos.running import Plan, Result, run
from tests.chaos.schedule import Kind
from tests.e2e.local import Cluster, eventually

# A busy machine may have a test wait for its turn; what a user may expect is `tests.chaos`'s own.
ANSWERED_WITHIN_S = 15.0


def a_seed() -> int:
    """A new schedule each time; in CI the same one, so that what it tells is about the change."""
    return 20 if os.environ.get("CI") else time.time_ns() % 2**32


def show(result: Result, seed: int) -> str:
    return f"python -m tests.chaos --seed {seed}\n{result.text()}"


@pytest.mark.timeout(600)
def test_two_minutes(tmp_path: Path) -> None:
    seed = a_seed()
    result = run(Plan(seed, 120, answered_within_s=ANSWERED_WITHIN_S), tmp_path)
    assert not result.findings.violations, show(result, seed)
    assert {fault.kind for fault in result.faults} == set(Kind)
    assert result.findings.operations > 10_000


@pytest.mark.timeout(240)
def test_harm_that_is_done_in_secret_is_found(tmp_path: Path) -> None:
    def harm(cluster: Cluster, jobs: Sequence[Job]) -> None:
        _, wide, files = jobs
        for url, request in [
            (files.url, ("FLUSHALL",)),
            (files.url, ("SET", "strange", "x")),
            *[(wide.url, ("SET", f"text-{number}", "f:not.1")) for number in range(6)],
        ]:
            client = PlainClient(url)
            eventually(partial(client.send, *request))
            client.close()
        victim = max(
            (s for s in cluster.servers() if s["tier"] == "dram"), key=lambda s: int(s["keys"])
        )
        os.kill(victim["pid"], signal.SIGKILL)

    plan = Plan(1, 4, frozenset((Kind.UPDATE,)), pause_s=0.01, calm_s=3, meanwhile=harm)
    found = run(plan, tmp_path).findings.violations
    for text in (
        "no order explains 'files-",
        "no order explains 'default ",
        "isolation: wide-",
        "has keys of somebody else: ['strange']",
        "a server that nobody touched is out",
        "got an error that nothing explains",
        "are lost, but no server died",
    ):
        assert [line for line in found if text in line], "\n".join((text, *found))
