"""Several clients that wait, and one that does things: each is answered when and what by Redis."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Client, Engine
from tests.oracle.examples import EXAMPLES
from tests.oracle.generate import Request
from tests.redis_server import RedisServer, redis_server
from tests.replies import decode, reply_end

CLIENTS = 4
KEYS = "abc"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Theirs:
    """A connection to redis-server."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.open()

    def open(self) -> None:
        self.socket = self._server.connect()
        self._received = bytearray()
        self.id: int = self.ask(b"CLIENT", b"ID")

    def ask(self, *request: bytes) -> Any:
        self.socket.sendall(encode_request(list(request)))
        while (end := reply_end(self._received)) < 0:
            self._received += self.socket.recv(1 << 16)
        reply = decode(bytes(self._received[:end]))
        del self._received[:end]
        return reply

    def take(self) -> bytes:
        """What has come."""
        while select.select([self.socket], [], [], 0)[0]:
            self._received += self.socket.recv(1 << 16)
        taken = bytes(self._received)
        self._received.clear()
        return taken


class Both:
    """The same clients at redis-server and at our engine.

    Attributes:
        blocked: Those that wait at redis-server.
    """

    def __init__(self, server: RedisServer) -> None:
        self.engine = Engine()
        self.control = Theirs(server)
        self.control.ask(b"FLUSHALL")
        self.theirs = [Theirs(server) for _ in range(CLIENTS)]
        self.ours = [self.engine.connect() for _ in range(CLIENTS)]
        self.actor = Theirs(server)
        self.our_actor = self.engine.connect()
        self.blocked: set[int] = set()

    def close(self) -> None:
        for theirs in (*self.theirs, self.control, self.actor):
            theirs.socket.close()

    def wait(self, number: int, request: Request) -> None:
        """Have a client ask for something that may not be there."""
        if number in self.blocked:
            return
        theirs = self.theirs[number]
        theirs.socket.sendall(encode_request(request))
        self.ours[number].receive(encode_request(request))
        # It waits, or is answered.
        while True:
            line = self.control.ask(b"CLIENT", b"LIST", b"ID", b"%d" % theirs.id)
            fields = dict(part.split(b"=", 1) for part in line.split())
            if b"b" in fields[b"flags"]:
                self.blocked.add(number)
                break
            if fields[b"cmd"] == request[0].lower() and fields[b"qbuf"] == b"0":
                break
        self.compare(request)

    def act(self, requests: list[Request]) -> None:
        """Have the one that never waits do something."""
        for request in requests:
            self.actor.ask(*request)
            self.our_actor.receive(encode_request(request))
        self.our_actor.transport.take()
        self.compare(*requests)

    def unblock(self, number: int, how: bytes) -> None:
        """CLIENT UNBLOCK."""
        if number in self.blocked:
            self.control.ask(b"CLIENT", b"UNBLOCK", b"%d" % self.theirs[number].id, how)
            self.our_actor("CLIENT", "UNBLOCK", self.ours[number].session.id, how)
            self.compare([b"CLIENT", b"UNBLOCK", how])

    def leave(self, number: int) -> None:
        """A client goes away, and another one comes."""
        theirs = self.theirs[number]
        theirs.socket.close()
        while self.control.ask(b"CLIENT", b"LIST", b"ID", b"%d" % theirs.id) != b"":
            pass
        theirs.open()
        self.ours[number].disconnect()
        self.ours[number] = self.engine.connect()
        self.blocked.discard(number)

    def compare(self, *requests: Request) -> None:
        """Each client has been told the same."""
        # What was to be sent was sent before this is answered.
        self.control.ask(b"PING")
        for number in range(CLIENTS):
            told = self.theirs[number].take()
            assert _told(self.ours[number]) == told, (number, requests)
            if told:
                self.blocked.discard(number)
        self.engine.validate()


def _told(client: Client) -> bytes:
    return client.transport.take()


key = st.sampled_from(KEYS).map(str.encode)
keys = st.lists(key, min_size=1, max_size=3)
item = st.sampled_from([b"x", b"y", b"z"])
end = st.sampled_from([b"LEFT", b"RIGHT"])
score = st.sampled_from([b"1", b"2", b"3"])
waits = st.one_of(
    st.tuples(st.sampled_from([b"BLPOP", b"BRPOP"]), keys).map(lambda t: [t[0], *t[1], b"0"]),
    st.tuples(key, key, end, end).map(lambda t: [b"BLMOVE", *t, b"0"]),
    st.tuples(key, key).map(lambda t: [b"BRPOPLPUSH", *t, b"0"]),
    st.tuples(keys, end, st.sampled_from([b"1", b"2"])).map(
        lambda t: [b"BLMPOP", b"0", b"%d" % len(t[0]), *t[0], t[1], b"COUNT", t[2]]
    ),
    st.tuples(st.sampled_from([b"BZPOPMIN", b"BZPOPMAX"]), keys).map(lambda t: [t[0], *t[1], b"0"]),
    st.tuples(key, st.sampled_from([b"$", b"0-0", b"20-0"])).map(
        lambda t: [b"XREAD", b"BLOCK", b"0", b"STREAMS", *t]
    ),
)
actions = st.one_of(
    st.tuples(st.sampled_from([b"RPUSH", b"LPUSH"]), key, st.lists(item, min_size=1)).map(
        lambda t: [t[0], t[1], *t[2]]
    ),
    st.tuples(st.sampled_from([b"RPUSH", b"LPUSH"]), key, item).map(list),
    st.tuples(st.just(b"ZADD"), key, score, item).map(list),
    st.tuples(key, st.integers(1, 40), item).map(
        lambda t: [b"XADD", t[0], b"%d-1" % t[1], b"field", t[2]]
    ),
    st.tuples(st.sampled_from([b"LPOP", b"DEL", b"ZPOPMIN", b"PERSIST"]), key).map(list),
    st.tuples(st.sampled_from([b"RENAME", b"RPOPLPUSH"]), key, key).map(list),
    st.tuples(st.just(b"COPY"), key, key, st.just(b"REPLACE")).map(list),
    st.tuples(st.just(b"LMOVE"), key, key, end, end).map(list),
    st.tuples(st.just(b"SET"), key, item).map(list),
    st.tuples(st.just(b"LINSERT"), key, st.just(b"BEFORE"), item, item).map(list),
)
transactions = st.lists(actions, min_size=1, max_size=4).map(
    lambda requests: [[b"MULTI"], *requests, [b"EXEC"]]
)
number = st.integers(0, CLIENTS - 1)
steps = st.one_of(
    st.tuples(st.just("wait"), number, waits),
    st.tuples(st.just("wait"), number, waits),
    st.tuples(st.just("act"), actions.map(lambda request: [request])),
    st.tuples(st.just("act"), transactions),
    st.tuples(st.just("unblock"), number, st.sampled_from([b"TIMEOUT", b"ERROR"])),
    st.tuples(st.just("leave"), number),
)


@settings(
    max_examples=max(1, EXAMPLES // 3), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(steps=st.lists(steps, max_size=30))
def test_everybody_is_served_as_by_redis(redis: RedisServer, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    both = Both(redis)
    try:
        for name, *arguments in steps:
            getattr(both, name)(*arguments)
    finally:
        both.close()
