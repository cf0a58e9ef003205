"""What every type of collection does alike."""

from __future__ import annotations

import pytest

from pocketkv.engine.transfer import pieces_of
from pocketkv.engine.values import Collection
from tests.engine.harness import Client

COUNT = 20_000
MAKING: dict[str, list[list[object]]] = {
    "set": [["SADD", "k", *(f"member:{n}" for n in range(COUNT))]],
    "list": [["RPUSH", "k", *(f"item:{n}" for n in range(COUNT))]],
    "hash": [["HSET", "k", *(part for n in range(COUNT) for part in (f"field:{n}", n))]],
    "zset": [["ZADD", "k", *(part for n in range(COUNT) for part in (n, f"member:{n}"))]],
    "stream": [["XADD", "k", f"{n + 1}-1", "field", n] for n in range(COUNT // 2)],
}


@pytest.fixture(params=MAKING)
def value(request: pytest.FixtureRequest, client: Client) -> Collection:
    for making in MAKING[request.param]:
        client(*making)
    value = client.db.lookup(b"k")
    assert isinstance(value, Collection)
    assert value.type_name == request.param
    return value


def test_what_is_being_freed_may_still_be_sent(client: Client, value: Collection) -> None:
    """Its key was removed while it was on its way to another server."""
    pieces = pieces_of(value)
    next(pieces)
    client("DEL", "k")
    while value.shed():
        next(pieces, None)
    assert len(list(pieces)) < 100


def test_what_is_removed_is_freed_in_the_background(client: Client, value: Collection) -> None:
    if client.db.shelf is not None:
        pytest.skip("a value may be elsewhere")
    assert client("UNLINK", "k") == 1
    shedding = client.engine.keyspace.shedding
    assert shedding == [value]
    steps = 0
    while client.engine.keyspace.free_some(1):
        steps += 1
    assert steps >= 1
