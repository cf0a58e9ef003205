"""Pub/sub as in Redis: who is told what, and in which order replies and messages come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.conversations import compare
from tests.redis_server import RedisServer, redis_server

CASES = [
    (
        "A: SUBSCRIBE a b a / A: PING / A: PING x / A: PING x y / A: GET k / A: SUBSCRIBE"
        " / A: UNSUBSCRIBE c / A: UNSUBSCRIBE b / A: UNSUBSCRIBE / A: PING / A: UNSUBSCRIBE"
        " / A: PUNSUBSCRIBE / A: SUNSUBSCRIBE / A: PSUBSCRIBE / A: SSUBSCRIBE"
    ),
    (
        "A: PSUBSCRIBE a* b / B: PUBLISH ab m / A: SUBSCRIBE ab / B: PUBLISH ab m"
        " / A: SSUBSCRIBE ab / B: SPUBLISH ab s / A: UNSUBSCRIBE x / A: SUNSUBSCRIBE"
        " / A: UNSUBSCRIBE / A: PUNSUBSCRIBE b"
    ),
    (
        "A: PSUBSCRIBE a[bc] a?c / B: PUBLISH ab 1 / B: PUBLISH abc 2 / B: PUBLISH aac 3"
        " / A: PSUBSCRIBE * / B: PUBLISH '' 4 / B: PUBLISH x ''"
    ),
    (
        "A: SUBSCRIBE a / B: SUBSCRIBE a / C: PSUBSCRIBE a / D: PUBLISH a x / B: RESET"
        " / D: PUBLISH a y / D: PUBSUB NUMSUB a b / D: PUBSUB NUMPAT / D: PUBSUB CHANNELS"
    ),
    (
        "A: SUBSCRIBE a / B: PSUBSCRIBE a / C: PUBSUB CHANNELS b* / C: PUBSUB CHANNELS [a]"
        " / C: PUBSUB CHANNELS a b / C: PUBSUB NUMSUB / C: PUBSUB SHARDCHANNELS"
        " / C: PUBSUB SHARDNUMSUB a / C: PUBSUB NUMPAT x / C: PUBSUB nosuch / C: PUBSUB"
        " / B: SSUBSCRIBE s t / C: PUBSUB SHARDNUMSUB s u / C: PUBSUB SHARDCHANNELS s"
        " / C: PUBSUB SHARDCHANNELS x y / C: PUBSUB CHANNELS"
    ),
    "A: CLIENT REPLY OFF / A: SUBSCRIBE a / B: PUBLISH a b / A: UNSUBSCRIBE",
    "A: CLIENT REPLY SKIP / A: SUBSCRIBE a b / A: PING x",
    "A: SUBSCRIBE a / A: SET a b / A: nosuch / A: GET / A: AUTH a b / A: QUIT x",
    (
        "A: SUBSCRIBE a / A: RESET / A: PING / A: SUBSCRIBE a / B: PUBLISH a x / A: QUIT"
        " / B: PUBLISH a y"
    ),
    (
        "A: PUBLISH a / A: PUBLISH a b c / A: SPUBLISH a / A: SPUBLISH a b"
        " / A: SSUBSCRIBE a a b / B: SPUBLISH a x / B: PUBLISH a x / A: SUNSUBSCRIBE c a"
        " / B: SPUBLISH a y"
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A redis-server that nobody else uses."""
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("protocol", [2, 3])
def test_it_is_as_in_redis(server: RedisServer, case: str, protocol: int) -> None:
    assert compare(case, protocol, server) == []
