"""Keyspace notifications as in Redis: which events each command makes, and in which order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine.command_table import lookup
from tests.engine.harness import Engine
from tests.oracle.conversations import Conversation, EngineConversation, RedisConversation, compare
from tests.oracle.examples import EXAMPLES, compared, sequences
from tests.oracle.generate import Request, resolve_times
from tests.oracle.targets import SocketTarget
from tests.redis_server import RedisServer, redis_server
from tests.replies import decode, split_replies

# A long example that fails must be shown as what it is.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

START = "A: CONFIG SET notify-keyspace-events KEAnm / B: PSUBSCRIBE __key* / "
CASES = [
    (
        "A: SET a b / A: SET a c / A: SET a b EX 10 / A: SET a c KEEPTTL / A: SET a b XX GET"
        " / A: SET a b NX / A: SETNX b 1 / A: SETNX b 1 / A: SETEX a 10 b"
        " / A: PSETEX c 1000000 b / A: GETSET a 5 / A: GETSET new 5 / A: MSET a 1 b 2"
        " / A: MSETNX a 1 z 2 / A: MSETNX x 1 y 2"
    ),
    (
        "A: SET a b / A: EXPIRE a -1 / A: SET a b / A: GETEX a PXAT 1 / A: SET a b"
        " / A: GETEX a EX 100 / A: GETEX a PERSIST / A: GETEX a PERSIST / A: GETEX a"
        " / A: EXPIRE a 100 / A: EXPIRE a 100 NX / A: PERSIST a / A: PERSIST a"
        " / A: PEXPIREAT a 1 / A: EXPIRE nosuch 1 / A: PERSIST nosuch / A: SET a 1"
        " / A: GETDEL a / A: GETDEL a"
    ),
    (
        "A: GET a / A: EXISTS a b / A: TYPE a / A: OBJECT ENCODING a / A: OBJECT IDLETIME a"
        " / A: OBJECT REFCOUNT a / A: OBJECT FREQ a / A: MEMORY USAGE a / A: TTL a"
        " / A: PTTL a / A: EXPIRETIME a / A: TOUCH a / A: STRLEN a / A: GETRANGE a 0 1"
        " / A: MGET a b / A: LCS a b / A: RANDOMKEY / A: SCARD a / A: SMEMBERS a"
        " / A: SISMEMBER a 1 / A: SRANDMEMBER a / A: SSCAN a 0 / A: SINTER a b"
        " / A: SUNION a b / A: SDIFF a b / A: SINTERCARD 1 a / A: SMISMEMBER a 1 / A: SPOP a"
        " / A: SREM a 1 / A: DEL a / A: UNLINK a / A: COPY a b / A: RENAME a b / A: GETEX a"
        " / A: GETDEL a / A: GETSET a 1"
    ),
    (
        "A: APPEND a x / A: APPEND a y / A: SETRANGE a 5 z / A: SETRANGE b 5 z"
        " / A: SETRANGE b 5 '' / A: INCR n / A: DECR n / A: INCRBY n 5 / A: DECRBY n 5"
        " / A: INCRBYFLOAT n 1.5 / A: INCRBYFLOAT m 1.5 / A: INCR a"
    ),
    (
        "A: SET a 1 / A: SET b 2 / A: DEL a b nosuch / A: MSET a 1 b 2 / A: UNLINK a b b"
        " / A: SET a 1 EX 100 / A: RENAME a b / A: SET a 1 / A: RENAME a b / A: RENAME b b"
        " / A: SET a 1 / A: RENAMENX a b / A: RENAMENX a c / A: COPY b d / A: COPY b d"
        " / A: COPY b d REPLACE / A: COPY b d DB 1 / A: COPY nosuch d"
    ),
    (
        "A: SADD s 1 2 / A: SADD s 2 / A: SADD s 2 3 / A: SREM s 9 / A: SREM s 1 9"
        " / A: SREM s 2 3 / A: SADD s a / A: SPOP s / A: SADD s a b c / A: SPOP s 3"
        " / A: SADD s 1 2 3 4 5 6 7 8 9 / A: SPOP s 0 / A: SPOP s 2 / A: SPOP s 6"
        " / A: SPOP s 9 / A: SPOP s"
    ),
    (
        "A: SADD s 1 2 3 / A: SADD t 3 4 / A: SMOVE s t 1 / A: SMOVE s t 3 / A: SMOVE s u 2"
        " / A: SMOVE u u 2 / A: SMOVE u t 9 / A: SINTERSTORE x t u / A: SINTERSTORE x t t"
        " / A: SINTERSTORE x t nosuch / A: SINTERSTORE x t nosuch / A: SUNIONSTORE x t nosuch"
        " / A: SUNIONSTORE x nosuch / A: SDIFFSTORE x t u / A: SDIFFSTORE x t t / A: SET x 1"
        " / A: SDIFFSTORE x t u / A: SDIFFSTORE t t u"
    ),
    (
        "A: HSET h f 1 / A: HSET h f 1 g 2 / A: HSETNX h f 1 / A: HSETNX h i 1 / A: HMSET h f 2"
        " / A: HINCRBY h f 1 / A: HINCRBY j f 1 / A: HINCRBYFLOAT h f 1.5 / A: HINCRBYFLOAT l f 1"
        " / A: HINCRBY h f x / A: HDEL h nosuch / A: HDEL h f / A: HDEL h g i / A: HDEL nosuch f"
        " / A: HGET h f / A: HMGET h f / A: HGETALL h / A: HKEYS h / A: HVALS h / A: HLEN h"
        " / A: HEXISTS h f / A: HSTRLEN h f / A: HRANDFIELD h / A: HRANDFIELD h 2 / A: HSCAN h 0"
    ),
    (
        "A: SETBIT a 9 1 / A: SETBIT a 9 1 / A: SETBIT a 9 0 / A: SETBIT a 90 0 / A: SETBIT b 1 0"
        " / A: BITFIELD a SET u8 0 1 INCRBY u8 0 1 / A: BITFIELD a SET u8 0 2"
        " / A: BITFIELD a GET u8 0"
        " / A: BITFIELD c GET u8 0 / A: BITFIELD c OVERFLOW FAIL INCRBY u2 9 9"
        " / A: BITFIELD_RO d GET u8 0"
        " / A: GETBIT d 1 / A: BITCOUNT d / A: BITPOS d 1 / A: BITOP AND d nosuch"
        " / A: BITOP NOT d a"
        " / A: BITOP OR d a b / A: BITOP XOR d nosuch other / A: BITOP AND d nosuch"
    ),
    (
        "A: PFADD h / A: PFADD h / A: PFADD h a b / A: PFADD h a / A: PFCOUNT h / A: PFCOUNT nosuch"
        " / A: PFCOUNT h nosuch / A: PFMERGE h nosuch / A: PFMERGE i h / A: PFMERGE i"
        " / A: PFMERGE j"
        " / A: PFDEBUG TODENSE h"
    ),
    ("A: SET a 1 / A: FLUSHDB / A: SET a 1 / A: FLUSHALL / A: SELECT 3 / A: SET a 1 / A: DEL a"),
    "A: SADD s 1 / A: GET s / A: APPEND s x / A: SADD s 1 / A: SET s x / A: SADD s 1",
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A redis-server that nobody else uses."""
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("protocol", [2, 3])
def test_events_are_as_in_redis(server: RedisServer, case: str, protocol: int) -> None:
    # What A is answered is compared elsewhere, and may be random.
    assert compare(START + case, protocol, server, heard_by="B") == []


# Redis keeps a key whose time is past until it is looked at. SPOP removes any members, and what
# is random in Redis is so in other ways here.
_RANDOM = frozenset((b"SPOP",))
_LETTERS = b"Ag$lshzxeKEtmdn"


@compared(EXAMPLES // 5)
@given(requests=sequences)
def test_random_commands_make_the_events_that_they_make_in_redis(
    server: RedisServer, requests: list[Request]
) -> None:
    requests = resolve_times([r for r in requests if not _is_left_out(r)])
    ours, theirs = EngineConversation(2), RedisConversation(2, server)
    conversations: tuple[Conversation, ...] = (ours, theirs)
    for conversation in conversations:
        conversation.say("A", [b"FLUSHALL"])
        conversation.say("A", [b"CONFIG", b"SET", b"notify-keyspace-events", b"KEAn"])
        conversation.say("B", [b"PSUBSCRIBE", b"__keyevent*"])
    ours.engine.clock.set(time.time_ns() // 1_000_000)
    heard = [
        [events(c.say("A", request).get("B", b"")) for c in conversations] for request in requests
    ]
    theirs.close()
    for number, (mine, others) in enumerate(heard):
        assert mine == others, requests[: number + 1]


def _is_left_out(request: Request) -> bool:
    """Whether what a request does is random, or it may wait."""
    record = lookup(request[0])
    return request[0].upper() in _RANDOM or (record is not None and "blocking" in record.flags)


def events(data: bytes) -> list[Any]:
    """Events and keys that a subscriber was told of, without those that have expired."""
    told = [decode(raw)[2:] for raw in split_replies(data)]
    return [event for event in told if not event[0].endswith(b":expired")]


@given(letters=st.text(alphabet=_LETTERS.decode() + "q", max_size=12))
def test_letters_are_shown_as_in_redis(server: RedisServer, letters: str) -> None:
    requests = [
        [b"CONFIG", b"SET", b"notify-keyspace-events", letters.encode()],
        [b"CONFIG", b"GET", b"notify-keyspace-events"],
    ]
    client = Engine().connect()
    with server.connect() as sock:
        theirs = SocketTarget(sock).run([[*requests[0][:3], b""], *requests])
    assert [client.raw(*request) for request in requests] == theirs[1:]
