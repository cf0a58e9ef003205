"""A fresh server for each test, checked when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.harness import Client, Engine
from tests.engine.stores import MemoryStore


@pytest.fixture(params=["memory", "file", "cold file"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A server that owns all slots; its values in memory, on a medium, or on a slow one."""
    store = None if request.param == "memory" else MemoryStore(is_slow=request.param != "file")
    engine = Engine(store=store)
    yield engine
    engine.validate()


@pytest.fixture
def client(engine: Engine) -> Client:
    """A RESP2 connection to it."""
    return engine.connect()


@pytest.fixture
def client3(engine: Engine) -> Client:
    """A RESP3 connection to it."""
    return engine.connect(protocol=3)
