"""Our processes answer random commands as redis-server does: a storage server, and a router."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given

from tests.e2e.local import serving
from tests.oracle.examples import EXAMPLES, compare, compared, sequences
from tests.oracle.generate import Request
from tests.oracle.targets import SocketTarget
from tests.oracle.test_transactions import sequences as in_transactions

# A long example that fails must be shown as what it is.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

TIMEOUT_S = 20.0


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


@pytest.fixture(scope="module", params=["dram", "nvme"])
def storage_target(request: pytest.FixtureRequest) -> Iterator[SocketTarget]:
    """A connection to a storage server without a controller, on memory or on files."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "pocketkv", "storage", "--port", "0", "--memory", "256mb"]
    # Redis has no longer values either.
    command += ["--tier", request.param, "--value-max", "512mb"]
    process = subprocess.Popen(
        [*command, "--announce-fd", str(writing)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
    )
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as announced:
            assert select.select([announced], [], [], TIMEOUT_S)[0], "it is not ready"
            ready = json.loads(announced.readline())
        with connect(ready["port"]) as sock:
            yield SocketTarget(sock)
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


@pytest.fixture(scope="module")
def router_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketTarget]:
    """A connection to a router with one storage server, so that no keys are apart."""
    folder: Path = tmp_path_factory.mktemp("serve")
    with serving(folder, "--dram", "1", "--nvme", "0") as cluster, connect(cluster.port) as sock:
        yield SocketTarget(sock)


@pytest.mark.parametrize("protocol", [2, 3])
@compared(EXAMPLES // 4)
@given(requests=sequences)
def test_a_storage_server(
    redis_target: SocketTarget,
    storage_target: SocketTarget,
    protocol: int,
    requests: list[Request],
) -> None:
    compare(storage_target, redis_target, requests, protocol)


@pytest.mark.parametrize("protocol", [2, 3])
@compared(EXAMPLES // 4)
@given(requests=sequences)
def test_a_router(
    redis_target: SocketTarget, router_target: SocketTarget, protocol: int, requests: list[Request]
) -> None:
    compare(router_target, redis_target, requests, protocol)


@pytest.mark.parametrize("protocol", [2, 3])
@compared(EXAMPLES // 4)
@given(requests=in_transactions)
def test_transactions_through_a_router(
    redis_target: SocketTarget, router_target: SocketTarget, protocol: int, requests: list[Request]
) -> None:
    compare(router_target, redis_target, requests, protocol)
