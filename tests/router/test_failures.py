"""Servers that are gone, silent, somebody else, or broken: a clear error, on their keys only."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import trio_test

from pocketkv import limits
from pocketkv.resp.parser import RequestParser
from pocketkv.router.counters import figures
from tests.replies import Error
from tests.router.support import Client, Cluster, run_cluster
from tests.router.test_routing import key_of_server


@pytest.fixture(autouse=True)
def no_early_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is played here has only the connections that are asked for."""
    monkeypatch.setattr(limits, "EARLY_SPARE_LANE_MAX", 0)


# Of two servers, the first one stays well.
WELL, ILL = key_of_server(0, 2), key_of_server(1, 2)
ILL_ID = "1" * 40

Answer = Callable[[list[bytes]], bytes | None]


class FakeStorage:
    """A storage server that greets like one, and answers what a test wants.

    Attributes:
        answer: Makes the reply to a request; ``None`` closes the connection, empty is no reply.
        greet: The same for the greeting.
        requests: What was asked after the greeting.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.greet: Answer = greet
        self.requests: list[list[bytes]] = []
        self.connections = 0
        self.port = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        parser = RequestParser()
        greeted = False
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in stream:
                parser.feed(bytes(data))
                while isinstance(request := parser.next_request(), list):
                    if greeted:
                        self.requests.append(request)
                    reply = self.answer(request) if greeted else self.greet(request)
                    greeted = greeted or (request[0] == b"POCKETKV.PROXY" and len(request) == 3)
                    if reply is None:
                        await trio.aclose_forcefully(stream)
                        return
                    await stream.send_all(reply)


def greet(request: list[bytes]) -> bytes:
    if request == [b"POCKETKV.PROXY"]:
        nonce = f"{ILL_ID}:1:1".encode()
        return b"$%d\r\n%b\r\n" % (len(nonce), nonce)
    return b"+OK\r\n"


@contextlib.asynccontextmanager
async def run_with_fake(answer: Answer) -> AsyncIterator[tuple[Cluster, FakeStorage, Client]]:
    """Two servers, of which the second is a fake."""
    fake = FakeStorage(answer)
    async with run_cluster(2) as cluster, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, fake.serve, 0)
        fake.port = listeners[0].socket.getsockname()[1]
        cluster.storages[1].port = fake.port
        cluster.tell_router(cluster.plan({0: 1.0, 1: 1.0}))
        yield cluster, fake, await cluster.connect()
        nursery.cancel_scope.cancel()


def sweep(cluster: Cluster, ahead_s: float) -> None:
    """See to time-outs as if so much time had passed."""
    cluster.shell.reactor.sweep(time.monotonic() + ahead_s)


def hang_up(cluster: Cluster, index: int) -> None:
    """End a server's connections and listen no more, as when it is killed."""
    reactor = cluster.storages[index].shell.reactor
    reactor.stop_listening()
    for connection in list(reactor.connections.values()):
        connection.close()


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.lowlevel.checkpoint()


@trio_test
async def test_a_server_that_is_gone_costs_an_error_on_its_keys_only() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        assert await client.call("MSET", WELL, 1, ILL, 2) == "OK"
        hang_up(cluster, 1)
        for _ in range(3):
            reply = await client.call("SET", ILL, "v")
            assert reply.text.startswith(f"CLUSTERDOWN Storage server {ILL_ID[:12]} at 127.0.0.1:")
            assert reply.text.endswith("does not answer: Connection refused")
            assert await client.call("GET", WELL) == b"1"
        for request in (["MGET", WELL, ILL], ["DBSIZE"], ["KEYS", "*"], ["FLUSHALL"]):
            assert (await client.call(*request)).text.startswith("CLUSTERDOWN")
        text = (await client.call("INFO")).decode()
        assert "pocketkv_silent_servers:1" in text
        cluster.place({0: 1.0})
        assert await client.call("SET", ILL, "v") == "OK"


@trio_test
async def test_a_read_is_asked_again_when_its_connection_breaks() -> None:
    fakes: list[FakeStorage] = []

    def answer(request: list[bytes]) -> bytes | None:
        return None if fakes[0].connections == 1 else b"$5\r\nvalue\r\n"

    async with run_with_fake(answer) as (_, fake, client):
        fakes.append(fake)
        assert await client.call("GET", ILL) == b"value"
        assert fake.connections == 2


@trio_test
async def test_a_read_is_asked_again_only_once() -> None:
    async with run_with_fake(lambda request: None) as (_, fake, client):
        reply = await client.call("GET", ILL)
        assert reply.text.startswith("ERR The connection to storage server")
        assert "may have been executed" not in reply.text
        assert len(fake.requests) == 2


@trio_test
async def test_a_write_is_not_asked_again_and_the_error_says_what_is_not_known() -> None:
    async with run_with_fake(lambda request: None) as (_, fake, client):
        reply = await client.call("INCR", ILL)
        assert reply.text.startswith("ERR The connection to storage server")
        assert reply.text.endswith("; the command may have been executed")
        assert len(fake.requests) == 1
        assert await client.call("SET", WELL, "v") == "OK"


@trio_test
async def test_a_read_is_not_asked_again_after_a_write_behind_it() -> None:
    def answer(request: list[bytes]) -> bytes | None:
        return b"" if request[0] != b"SET" else None

    async with run_with_fake(answer) as (_, fake, client):
        replies = await client.call_all([["GET", ILL], ["SET", ILL, "v"]])
        assert all(isinstance(reply, Error) for reply in replies)
        assert fake.connections == 1


@trio_test
async def test_a_server_that_does_not_answer_is_given_up() -> None:
    async with run_with_fake(lambda request: b"") as (cluster, fake, client):
        await client.send("SET", ILL, "v")
        await client.send("GET", ILL)
        await client.send("GET", WELL)
        await until(lambda: len(fake.requests) == 2)
        sweep(cluster, limits.UPSTREAM_REPLY_TIMEOUT_S - 1)
        assert cluster.router.counters.upstream_errors == 0
        sweep(cluster, limits.UPSTREAM_REPLY_TIMEOUT_S + 1)
        written, read, well = [await client.receive() for _ in range(3)]
        assert written.text.startswith("TIMEOUT Storage server")
        assert written.text.endswith(
            "did not answer within 5 s; the command may have been executed"
        )
        assert read.text.endswith("did not answer within 5 s")
        assert well is None
        # While it is suspended nothing waits.
        reply = await client.call("GET", ILL)
        assert reply.text.endswith("does not answer: no reply")
        assert fake.connections == 1
        assert await client.call("SET", WELL, "v") == "OK"


@trio_test
async def test_a_server_that_does_not_greet_is_given_up_sooner() -> None:
    async with run_with_fake(lambda request: b"") as (cluster, fake, client):
        fake.greet = lambda request: b""
        await client.send("SET", ILL, "v")
        await until(lambda: fake.connections)
        sweep(cluster, limits.UPSTREAM_CONNECT_TIMEOUT_S + 1)
        reply = await client.receive()
        assert reply.text.startswith("CLUSTERDOWN Storage server")
        assert fake.requests == []


@trio_test
async def test_it_is_tried_again_after_a_while() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "UPSTREAM_SUSPEND_S", 0.0)
        async with run_with_fake(lambda request: b"+OK\r\n") as (_, fake, client):
            fake.greet = lambda request: None
            assert isinstance(await client.call("SET", ILL, "v"), Error)
            fake.greet = greet
            assert await client.call("SET", ILL, "v") == "OK"


@trio_test
async def test_another_server_at_the_address_is_told_nothing() -> None:
    async with run_with_fake(lambda request: b"+OK\r\n") as (_, fake, client):
        fake.greet = lambda request: b"+OK\r\n" if len(request) > 1 else b"$3\r\nx:1\r\n"
        reply = await client.call("SET", ILL, "v")
        assert reply.text.endswith("another server has its address")
        assert fake.requests == []


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400\r\n\r\n", b"*1\r\n*x\r\n", b":1\r\n:2\r\n"])
def test_what_is_no_reply_ends_the_connection(garbage: bytes) -> None:
    async def main() -> None:
        async with run_with_fake(lambda request: garbage) as (_, _fake, client):
            await client.send("SET", ILL, "v")
            await client.send("GET", WELL)
            first = await client.receive()
            assert first == 1 or first.text.startswith("ERR The connection to storage server")
            assert await client.receive() is None

    trio.run(main)


@trio_test
async def test_a_server_that_refuses_the_job_is_waited_for_no_longer_than_a_while() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REDIRECT_TIMEOUT_S", 0.1)
        async with run_with_fake(lambda request: b"+OK\r\n") as (_, fake, client):
            fake.greet = lambda request: b"-WRONGPASS no\r\n"
            reply = await client.call("SET", ILL, "v")
            assert reply.text.endswith("does not answer: it answered AUTH with WRONGPASS no")
            assert fake.connections > 1


@trio_test
async def test_servers_that_are_refused_by_a_broken_fence_are_given_up() -> None:
    replies = iter([b"-MOVED 1 127.0.0.1:1\r\n", b"$2\r\n{}\r\n"])

    async with run_with_fake(lambda request: next(replies, b"+OK\r\n")) as (_, fake, client):
        # Its map is none: the connection ends, and what it refused is sent over a new one.
        assert await client.call("SET", ILL, "v") == "OK"
        assert fake.connections == 2


# --- names -------------------------------------------------------------------------------------


class Resolver(trio.abc.HostnameResolver):
    """Knows one name."""

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if host != b"good.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError  # Part of the interface; nobody here asks for names.


@trio_test
async def test_servers_may_have_names() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        for host, is_good in (("good.test", True), ("bad.test", False), ("good.test", True)):
            cluster.storages[1].host = host
            cluster.tell_router(cluster.plan({0: 1.0, 1: 1.0}))
            requests: list[list[object]] = [["SET", ILL, n] for n in range(10)]
            replies = await client.call_all([*requests, ["SET", WELL, "v"]])
            assert replies[-1] == "OK"
            if is_good:
                assert replies[:-1] == ["OK"] * 10
            else:
                assert replies[0].text.endswith("does not answer: Name or service not known")


# --- lanes that are not needed -----------------------------------------------------------------


@trio_test
async def test_idle_lanes_are_closed_and_opened_again() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        await client.call("MSET", WELL, 1, ILL, 2)
        assert [len(u.lanes) for u in cluster.router.upstreams.values()] == [1, 1]
        sweep(cluster, limits.UPSTREAM_IDLE_TIMEOUT_S - 1)
        assert [len(u.lanes) for u in cluster.router.upstreams.values()] == [1, 1]
        sweep(cluster, limits.UPSTREAM_IDLE_TIMEOUT_S + 1)
        assert [len(u.lanes) for u in cluster.router.upstreams.values()] == [0, 0]
        assert await client.call("MGET", WELL, ILL) == [b"1", b"2"]
        assert cluster.router.counters.lanes_opened == 4


@trio_test
async def test_the_lanes_of_a_server_that_left_are_closed() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        await client.call("MSET", WELL, 1, ILL, 2)
        gone = cluster.router.upstreams[ILL_ID]
        cluster.place({0: 1.0})
        topology = cluster.router.node.topology
        topology.set_servers([cluster.storages[0].server], topology.epoch)
        cluster.router.topology_changed()
        sweep(cluster, 1.0)
        assert gone.lanes == {}
        assert list(cluster.router.upstreams) == ["0" * 40]
        assert await client.call("MGET", WELL, ILL) == [b"1", b"2"]


@trio_test
async def test_a_client_that_leaves_takes_nothing_with_it() -> None:
    async with run_with_fake(lambda request: b"") as (cluster, fake, client):
        await client.send("SET", ILL, "v")
        await client.send("SELECT", 1)
        await client.send("SET", ILL, "v")
        await until(lambda: fake.requests)
        # A plain end may be that of somebody who still reads.
        linger = struct.pack("ii", 1, 0)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await client.aclose()
        await until(lambda: not cluster.router.node.sessions)
        sweep(cluster, limits.UPSTREAM_REPLY_TIMEOUT_S + 1)
        assert len(fake.requests) == 1
        other = await cluster.connect()
        assert await other.call("GET", WELL) is None
        assert all(u.in_flight_bytes == 0 for u in cluster.router.upstreams.values())


@trio_test
async def test_metrics_tell_what_the_router_does() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        await client.call("MSET", WELL, 1, ILL, 2)
        await client.call("GET", WELL)
        told = {f.name.name: dict(f.values) for f in figures(cluster.router)}
        assert told["proxied_requests_total"] == {(): 2}
        assert told["upstream_connections"] == {("0" * 40,): 1, (ILL_ID,): 1}
        assert told["upstream_in_flight_bytes"] == {("0" * 40,): 0, (ILL_ID,): 0}
        assert told["controller_joined"] == {(): 0}
        body, _ = cluster.shell.metrics.render()
        assert b"pocketkv_proxied_requests_total 2.0" in body
