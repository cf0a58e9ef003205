"""One redis-server for all comparisons."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.targets import SocketTarget
from tests.redis_server import redis_server


@pytest.fixture(scope="session")
def redis_target() -> Iterator[SocketTarget]:
    """A connection to a real redis-server."""
    with redis_server() as server, server.connect() as sock:
        yield SocketTarget(sock)
