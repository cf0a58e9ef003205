"""Settings of what only Redis has: taken, refused and shown as a real redis-server does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pocketkv.engine.unused_settings import UNUSED, UNUSED_ALIASES
from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Engine
from tests.oracle.targets import SocketTarget
from tests.redis_server import redis_server

VALUES = (b"yes", b"NO", b"0", b"-1", b"100", b"2mb", b"x", b"always", b"debug", b"600000 1 2", b"")
# Redis knows these too, but its values are those of this machine, or change what it does.
LEFT_ALONE = {
    "appendonly",
    "dbfilename",
    "dir",
    "hz",
    "key-load-delay",
    "latency-tracking-info-percentiles",
    "oom-score-adj",
    "oom-score-adj-values",
    # Anything below 16 KiB is 16 KiB.
    "repl-backlog-size",
}
NAMES = sorted(set(UNUSED) - LEFT_ALONE)


@pytest.fixture(scope="module")
def redis_target() -> Iterator[SocketTarget]:
    """A server of its own: with some of these settings it refuses all writes."""
    with redis_server() as server, server.connect() as sock:
        yield SocketTarget(sock)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_as_redis_s(redis_target: SocketTarget, name: str) -> None:
    client = Engine().connect()
    text = name.encode()
    get = [b"CONFIG", b"GET", text]
    requests = [get]
    for value in VALUES:
        requests += [[b"CONFIG", b"SET", text, value], get]
    theirs = redis_target.run(requests)
    if name == "save":
        # Redis has save points unless it is told to have none.
        requests, theirs = requests[1:], theirs[1:]
    assert [client.send(encode_request(request)) for request in requests] == theirs


@pytest.mark.parametrize("alias", UNUSED_ALIASES)
def test_an_older_name_means_the_same(redis_target: SocketTarget, alias: str) -> None:
    client = Engine().connect()
    for name in (alias, UNUSED_ALIASES[alias]):
        request = [b"CONFIG", b"SET", name.encode(), b"no"]
        assert [client.send(encode_request(request))] == redis_target.run([request])
        assert (
            client("CONFIG", "GET", alias)[1] == client("CONFIG", "GET", UNUSED_ALIASES[alias])[1]
        )


WRITES: list[list[bytes]] = [
    [b"SET", b"x", b"1"],
    [b"DEL", b"x"],
    [b"FLUSHALL"],
    [b"GET", b"x"],
    [b"EVAL", b"return redis.call('GET', 'x')", b"0"],
    [b"EVAL", b"return redis.call('SET', 'x', '2')", b"0"],
    [b"EVAL", b"#!lua\nreturn redis.call('GET', 'x')", b"0"],
    [b"EVAL", b"#!lua flags=no-writes\nreturn redis.call('GET', 'x')", b"0"],
    [b"MULTI"],
    [b"SET", b"x", b"1"],
    [b"EXEC"],
    [b"MULTI"],
    [b"GET", b"x"],
    [b"EXEC"],
]


@pytest.mark.parametrize(("wanted", "lag"), [(b"1", b"10"), (b"1", b"0"), (b"0", b"10")])
def test_whoever_asks_for_replicas_writes_nothing_without_them(
    redis_target: SocketTarget, wanted: bytes, lag: bytes
) -> None:
    client = Engine().connect()
    requests = [
        [b"CONFIG", b"SET", b"min-replicas-to-write", b"0"],
        [b"SET", b"x", b"some value"],
        [b"CONFIG", b"SET", b"min-replicas-max-lag", lag],
        [b"CONFIG", b"SET", b"min-replicas-to-write", wanted],
        *WRITES,
        [b"CONFIG", b"SET", b"min-replicas-to-write", b"0"],
        [b"SET", b"x", b"1"],
    ]
    ours = [client.send(encode_request(request)) for request in requests]
    assert ours == redis_target.run(requests)
