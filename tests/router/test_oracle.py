"""Random pipelines: three servers behind a router answer as one redis-server does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketkv.resp.encoder import encode_request
from tests.redis_server import RedisServer, redis_server
from tests.replies import decode, split_replies
from tests.router.support import run_cluster, to_bytes

Request = tuple[object, ...]

SKIP = ("CLIENT", "REPLY", "SKIP")
# Tagged keys share a slot, for commands whose keys must have one owner.
KEYS = st.sampled_from([f"k{n}" for n in range(12)])
TAGGED = st.sampled_from(["{t}a", "{t}b", "{t}c"])
ANY_KEY = KEYS | TAGGED
VALUES = st.sampled_from(["1", "22", "text", ""])
MANY = st.lists(ANY_KEY, min_size=1, max_size=8)


def flat_pairs(pairs: list[tuple[str, str]]) -> Request:
    return ("MSET", *[word for pair in pairs for word in pair])


REQUESTS = st.one_of(
    st.tuples(st.just("SET"), ANY_KEY, VALUES),
    st.tuples(st.sampled_from(["GET", "STRLEN", "TYPE", "INCR", "TTL", "SMEMBERS"]), ANY_KEY),
    st.tuples(st.sampled_from(["APPEND", "SADD", "GETSET", "SREM"]), ANY_KEY, VALUES),
    st.tuples(st.sampled_from(["MGET", "DEL", "UNLINK", "EXISTS", "TOUCH"]), MANY).map(
        lambda drawn: (drawn[0], *drawn[1])
    ),
    st.lists(st.tuples(ANY_KEY, VALUES), min_size=1, max_size=8).map(flat_pairs),
    st.tuples(st.sampled_from(["RENAME", "RENAMENX", "COPY", "LCS"]), TAGGED, TAGGED),
    st.tuples(st.just("MSETNX"), TAGGED, VALUES, TAGGED, VALUES),
    st.tuples(st.just("EXPIRE"), ANY_KEY, st.just(1000)),
    st.tuples(st.just("KEYS"), st.sampled_from(["*", "k1*", "nothing"])),
    st.sampled_from([("DBSIZE",), ("FLUSHDB",), ("FLUSHALL",), ("MSET", "a"), ("PING",)]),
    st.tuples(st.sampled_from(["LPUSH", "RPUSH", "PFADD"]), ANY_KEY, VALUES),
    st.tuples(st.sampled_from(["LPOP", "HGETALL", "ZCARD", "LLEN", "XLEN", "DUMP"]), ANY_KEY),
    st.tuples(st.just("HSET"), ANY_KEY, VALUES, VALUES),
    st.tuples(st.just("ZADD"), ANY_KEY, st.integers(0, 3), VALUES),
    st.tuples(st.sampled_from(["BLPOP", "BZPOPMIN"]), TAGGED, TAGGED, st.just("0.01")),
    st.tuples(st.just("BLMOVE"), TAGGED, TAGGED, *map(st.just, ["LEFT", "RIGHT", "0.01"])),
    st.tuples(st.just("EVAL"), st.just("return redis.call('TYPE', KEYS[1])"), st.just(1), ANY_KEY),
    st.tuples(st.just("WATCH"), TAGGED, TAGGED),
    st.sampled_from([("UNWATCH",), ("PUBLISH", "nobody", "x"), ("PUBSUB", "CHANNELS")]),
    st.tuples(st.just("SELECT"), st.integers(0, 2)),
    st.just(SKIP),
)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


# The answer to the last request: a client that sends nothing more must not block.
END = b"the end"


def ask_redis(redis: RedisServer, data: bytes) -> list[Any]:
    with redis.connect() as sock:
        sock.sendall(encode_request([b"FLUSHALL"]) + data + encode_request([b"ECHO", END]))
        received = b""
        while not received.endswith(END + b"\r\n"):
            received += sock.recv(1 << 16)
    return [decode(raw) for raw in split_replies(received)[1:-1]]


async def ask_router(data: bytes, servers: int) -> list[Any]:
    async with run_cluster(servers) as cluster:
        client = await cluster.connect()
        await client.stream.send_all(data + encode_request([b"ECHO", END]))
        replies = []
        while (reply := decode(await client.receive_raw())) != END:
            replies.append(reply)
        return replies


def answered(requests: list[Request]) -> list[Request]:
    """The requests that get a reply: CLIENT REPLY SKIP gets none, nor does what follows it."""
    return [
        request
        for before, request in pairwise([(), *requests])
        if request != SKIP and before != SKIP
    ]


def comparable(requests: list[Request], replies: list[Any]) -> list[Any]:
    """The replies, with those sorted that are in no order."""
    assert len(replies) == len(requests)
    return [
        sorted(reply) if request[0] in {"KEYS", "SMEMBERS"} and isinstance(reply, list) else reply
        for request, reply in zip(requests, replies, strict=True)
    ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=60),
    protocol=st.sampled_from([2, 3]),
    servers=st.sampled_from([2, 3, 5]),
)
def test_a_router_answers_as_one_server(
    redis: RedisServer, requests: list[Request], protocol: int, servers: int
) -> None:
    if requests[-1] == SKIP:
        requests = requests[:-1]
    data = b"".join(encode_request([to_bytes(a) for a in request]) for request in requests)
    if protocol == 3:
        # What HELLO answers tells who answers, so nobody is asked for it.
        data = b"CLIENT REPLY SKIP\r\nHELLO 3\r\n" + data
    expected = comparable(answered(requests), ask_redis(redis, data))
    assert comparable(answered(requests), trio.run(ask_router, data, servers)) == expected
