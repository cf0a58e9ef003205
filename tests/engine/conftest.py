"""A fresh server for each test, checked when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.harness import Client, Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A server that owns all slots."""
    engine = Engine()
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
