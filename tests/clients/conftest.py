"""What clients of other makers are run against: one storage server, and a job of a cluster."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from tests.e2e.local import serving

START_TIMEOUT_S = 20.0


@contextmanager
def storage_server() -> Iterator[str]:
    """Run `pocketkv storage` on a free port; its URL."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "pocketkv", "storage", "--port", "0", "--memory", "256mb"]
    process = subprocess.Popen(
        [*command, "--announce-fd", str(writing)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
    )
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as announced:
            assert select.select([announced], [], [], START_TIMEOUT_S)[0], "it is not ready"
            ready = json.loads(announced.readline())
        yield f"redis://127.0.0.1:{ready['port']}"
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


@pytest.fixture(scope="session")
def storage_url() -> Iterator[str]:
    with storage_server() as url:
        yield url


@pytest.fixture(scope="session")
def router_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A router before two storage servers."""
    folder = tmp_path_factory.mktemp("serve")
    with serving(folder, "--dram", "2", "--nvme", "0") as cluster:
        yield f"redis://127.0.0.1:{cluster.port}"


@pytest.fixture(params=["storage", "job"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty server, or of a job that has just been registered and is on one."""
    if request.param == "storage":
        base = request.getfixturevalue("storage_url")
        with redis.Redis.from_url(base) as client:
            client.flushall()
        yield base
        return
    with registered(request.getfixturevalue("router_url"), "CAPACITY", "32mb") as job_url:
        yield job_url


@pytest.fixture(params=["storage", "spread job"])
def cluster_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same for clients of clusters: the job is on all servers."""
    if request.param == "storage":
        base = request.getfixturevalue("storage_url")
        with redis.Redis.from_url(base) as client:
            client.flushall()
        yield base
        return
    with registered(request.getfixturevalue("router_url"), "LAMBDAS", "40") as job_url:
        yield job_url


@contextmanager
def registered(router_url: str, *hints: str) -> Iterator[str]:
    """A job of its own; its URL."""
    with redis.Redis.from_url(router_url) as client:
        admin: Any = client
        job = admin.execute_command("JOB.REGISTER", "clients", *hints)
        yield job[b"url"].decode()
        admin.execute_command("JOB.DEREGISTER", job[b"id"])
