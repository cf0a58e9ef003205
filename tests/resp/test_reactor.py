"""Many connections at once: fairness, limits, overload, ends, and what the reactor counts."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from pocketkv import limits
from pocketkv.resp import reactor as reactor_module
from pocketkv.resp.client_connection import ClientConnection
from pocketkv.resp.connection import Connection
from pocketkv.resp.reactor import Reactor, Traffic
from pocketkv.serving.shell import owes_replies
from tests.core import plain_only
from tests.resp.serving import PATIENCE_S, Server, connected, connecting, serve

PONG = b"+PONG\r\n"
MIB = limits.MIB


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


# --- many --------------------------------------------------------------------------------------


async def many_clients(server: Server, count: int) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(count)]
        for _ in range(2):
            for client in clients:
                await client.send(b"PING")
            for client in clients:
                await client.expect(PONG)
        assert len(server.reactor.connections) == count
    await server.until(lambda: server.closed == count)


def test_a_thousand_connections() -> None:
    async def main(server: Server) -> None:
        await many_clients(server, 1000)

    assert serve(main).reactor.accepted == 1000


@pytest.mark.slow
def test_as_many_connections_as_descriptors_allow() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    async def main(server: Server) -> None:
        # Both ends are in this process.
        count = min(server.reactor.connections_max, soft // 2 - limits.RESERVED_DESCRIPTORS)
        assert count > 400
        await many_clients(server, count)

    serve(main)


def test_a_storm_of_connections_is_accepted_over_several_rounds() -> None:
    async def main(server: Server) -> None:
        socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
        before = server.rounds
        await server.until(lambda: server.reactor.accepted == 200)
        assert server.rounds - before >= 200 // limits.ACCEPTS_PER_TURN
        for sock in socks:
            sock.close()
        await server.until(lambda: server.closed == 200)

    serve(main)


# --- overload ----------------------------------------------------------------------------------


def test_more_connections_than_are_allowed_are_refused() -> None:
    async def main(server: Server) -> None:
        server.reactor.connections_max = 2
        # Those that the server has opened itself do not count.
        near, far = socket.socketpair()
        near.setblocking(False)
        own = Connection(server.reactor, near)
        server.reactor.add(own)
        async with connected(server) as first, connected(server) as second:
            async with connecting(server.port) as third:
                assert await third.receive_all() == b"-ERR max number of clients reached\r\n"
            await first.ping()
            await second.ping()
            assert server.reactor.dropped == {"maxclients": 1}
            own.close()
            far.close()
        await server.until(lambda: server.closed == 2)
        async with connected(server) as again:
            await again.ping()

    serve(main)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """As if all descriptors of the process were in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.open("/dev/null", os.O_RDONLY)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_accepting_goes_on_when_descriptors_are_free_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(server: Server) -> None:
        async with connected(server) as served:
            with socket.socket() as sock:
                with no_descriptors_left():
                    sock.connect(("127.0.0.1", server.port))
                    await server.until(lambda: caplog.records)
                    await served.ping()
                    # It does not try again in every round.
                    await server.rest()
                    assert len(caplog.records) == 1
                server.reactor.sweep(server.reactor.now_s + 1.0)
                await server.until(lambda: server.reactor.accepted == 2)
                sock.sendall(b"PING\r\n")
                sock.settimeout(PATIENCE_S)
                received = await trio.to_thread.run_sync(sock.recv, 100)
                assert received == PONG

    with caplog.at_level(logging.WARNING):
        serve(main)
    assert os.strerror(errno.EMFILE) in str(vars(caplog.records[0])["error"])


def test_the_descriptor_limit_is_raised_and_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    infinite = resource.RLIM_INFINITY
    may_exceed = False

    def set_limit(_: int, pair: tuple[int, int]) -> None:
        if hard not in (infinite, pair[1]) and not may_exceed:
            raise ValueError("not allowed to raise maximum limit")
        asked.append(pair)

    hard = 0
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    for is_root, soft, hard, expected, raised in (
        (False, 1024, 4096, 4096 - limits.RESERVED_DESCRIPTORS, [(4096, 4096)]),
        (False, 1024, 1024, 1024 - limits.RESERVED_DESCRIPTORS, []),
        (True, 1024, 1024, limits.CONNECTIONS_MAX, [(40_064, 40_064)]),
        (True, 20_000, 30_000, limits.CONNECTIONS_MAX, [(40_064, 40_064)]),
        (False, 50, 50, 1, []),
        (False, 1024, infinite, limits.CONNECTIONS_MAX, [(40_064, infinite)]),
        (False, infinite, infinite, limits.CONNECTIONS_MAX, []),
        (False, 100_000, 100_000, limits.CONNECTIONS_MAX, []),
    ):
        asked.clear()
        may_exceed = is_root
        monkeypatch.setattr(resource, "getrlimit", lambda _, pair=(soft, hard): pair)
        reactor = Reactor(logging.getLogger("pocketkv.test"))
        reactor.close()
        assert (reactor.connections_max, asked) == (expected, raised)


# --- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["end", "reset"])
def test_a_client_that_goes_in_the_middle_of_a_pipeline(then: str) -> None:
    async def main(server: Server) -> None:
        async with connected(server) as other:
            for _ in range(10):
                async with connected(server) as client:
                    await client.send_raw(b"BIG 1000000\r\n" * 20)
                    await client.receive(1000)
                    await (client.reset() if then == "reset" else client.stream.aclose())
            await server.until(lambda: server.closed == 10)
            await other.ping()

    assert serve(main).reactor.dropped == {}


@pytest.mark.parametrize("paused_by", ["half-close", "backlog"])
def test_a_reset_of_a_connection_that_is_not_read_does_not_spin(
    paused_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUEST_BACKLOG_MAX_BYTES", 1000)

    async def main(server: Server) -> None:
        async with connected(server) as client:
            if paused_by == "half-close":
                await client.send_raw(b"DEFER a\r\n")
                await client.end()
            else:
                await client.send_raw(b"BLOCK a\r\n" + b"PING\r\n" * 1000)
            await server.until(lambda: server.clients[0].input_paused)
            await client.reset()
            await server.rest()
            assert server.closed == 1
            assert server.abandoned == [b"a"]

    serve(main)


def test_a_socket_that_was_reset_before_it_was_accepted_costs_nothing() -> None:
    async def main(server: Server) -> None:
        for _ in range(20):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(b"PING\r\n")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        async with connected(server) as client:
            await client.ping()
            await server.until(lambda: len(server.reactor.connections) == 1)

    serve(main)


def test_a_connection_that_cannot_be_made_costs_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(reactor: Reactor, sock: socket.socket) -> Connection | None:
        raise OSError(errno.ENOTCONN, "not connected")

    async def main(server: Server) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server.reactor.listen(listener, fail)
        async with connected(server) as client:
            async with connecting(listener.getsockname()[1]) as refused:
                assert await refused.receive_all() == b""
            await client.ping()

    with caplog.at_level(logging.ERROR):
        serve(main)
    assert len(caplog.records) == 1


def test_a_factory_may_refuse() -> None:
    def refuse(reactor: Reactor, sock: socket.socket) -> Connection | None:
        sock.close()
        return None

    async def main(server: Server) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server.reactor.listen(listener, refuse)
        async with connecting(listener.getsockname()[1]) as refused:
            assert await refused.receive_all() == b""
        assert server.reactor.connections == {}

    serve(main)


def test_when_the_reactor_ends_everything_is_closed() -> None:
    async def main(server: Server) -> None:
        socks.extend(socket.create_connection(("127.0.0.1", server.port)) for _ in range(5))
        socks[0].sendall(b"BLOCK a\r\n")
        await server.until(lambda: server.executed and server.reactor.accepted == 5)

    socks: list[socket.socket] = []
    server = serve(main)
    for sock in socks:
        sock.settimeout(PATIENCE_S)
        assert sock.recv(1) == b""
        sock.close()
    assert server.closed == 5
    assert server.abandoned == [b"a"]
    assert server.reactor.connections == {}
    assert server.listener.fileno() == -1
    server.reactor.close()


def test_no_descriptor_is_left_behind() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.ping()

    serve(main)
    before = descriptors()
    serve(main)
    assert descriptors() == before


def test_listening_ends_before_the_connections_do() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            server.reactor.stop_listening()
            with pytest.raises(OSError, match=r"refused|connect"):
                await trio.open_tcp_stream("127.0.0.1", server.port)
            await client.ping()

    serve(main)


# --- turns -------------------------------------------------------------------------------------


def test_a_turn_that_another_task_asks_for_wakes_the_reactor() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\n")
            await server.until(lambda: server.executed)
            await server.rest()
            # Nothing is on its way to the server now.
            before = server.rounds
            server.deferred[b"a"].complete(1)
            await client.expect(b":1\r\n")
            assert server.rounds - before <= 2

    serve(main)


def test_one_client_may_complete_another_client_s_reply() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as waiter, connected(server) as giver:
            await waiter.send_raw(b"BLOCK a\r\nPING\r\n")
            await server.until(lambda: server.executed)
            handler = server.clients[1].handler
            assert handler is not None
            execute = handler.execute

            def give(request: list[bytes]) -> object:
                server.deferred[b"a"].complete(7)
                return execute(request)

            handler.execute = give  # type: ignore[method-assign, assignment]
            await giver.ping()
            await waiter.expect(b":7\r\n" + PONG)

    serve(main)


def test_an_idle_reactor_does_nothing() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.ping()
            await server.rest()
            before = server.rounds
            for _ in range(1000):
                await trio.lowlevel.checkpoint()
            assert server.rounds == before

    serve(main)


@plain_only
def test_sweeps_happen_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactor_module, "_SWEEP_INTERVAL_S", 0.001)
    swept = trio.Event()
    monkeypatch.setattr(ClientConnection, "on_sweep", lambda _, now_s: swept.set())

    async def main(server: Server) -> None:
        async with connected(server):
            await swept.wait()

    serve(main)


@plain_only
def test_a_defect_in_a_sweep_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client, connected(server) as other:

            def fail(connection: ClientConnection, now_s: float) -> None:
                if connection is server.clients[0]:
                    raise RuntimeError("a defect")

            monkeypatch.setattr(ClientConnection, "on_sweep", fail)
            server.reactor.sweep(0.0)
            assert await client.receive_all() == b""
            await other.ping()

    with caplog.at_level(logging.ERROR):
        serve(main)
    assert len(caplog.records) == 1


# --- counts ------------------------------------------------------------------------------------


def test_traffic_is_counted_also_of_closed_connections() -> None:
    async def main(server: Server) -> None:
        reactor = server.reactor
        assert reactor.traffic() == {"client": Traffic()}
        async with connected(server) as first, connected(server) as second:
            await first.ping()
            await second.ping()
            request_bytes, reply_bytes = len(b"*1\r\n$4\r\nPING\r\n"), len(PONG)
            expected = Traffic(2, 2 * request_bytes, 2 * reply_bytes, 0)
            assert reactor.traffic() == {"client": expected}
        await server.until(lambda: server.closed == 2)
        assert reactor.traffic() == {
            "client": Traffic(0, expected.received_bytes, expected.sent_bytes)
        }
        assert reactor.received_bytes == expected.received_bytes
        assert reactor.sent_bytes == expected.sent_bytes

    serve(main)


def test_unsent_replies_are_counted() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            assert not owes_replies(server.reactor)
            await client.send_raw(b"BIG 30000000\r\n")
            await server.until(lambda: server.clients[0].output_waits)
            await server.rest()
            assert owes_replies(server.reactor)
            assert server.reactor.traffic()["client"].unsent_bytes > MIB

    serve(main)


def test_connections_to_servers_are_counted_apart() -> None:
    class Outgoing(Connection):
        def on_readable(self) -> None:
            self.receive()

        def on_turn(self) -> None:
            self.flush()

    async def main(server: Server) -> None:
        near, far = socket.socketpair()
        with far:
            outgoing = Outgoing(server.reactor, near)
            server.reactor.add(outgoing)
            far.send(b"abc")
            await server.until(lambda: outgoing.received_bytes == 3)
            assert server.reactor.traffic()["server"] == Traffic(1, 3, 0, 0)
        await server.until(lambda: outgoing.closed)
        assert server.reactor.traffic() == {"client": Traffic(), "server": Traffic(0, 3, 0, 0)}

    serve(main)


# --- a process that stood still ----------------------------------------------------------------


def stand_still(sock: socket.socket, request: bytes) -> None:
    """As a process that is stopped: nothing runs, and a request comes."""
    time.sleep(0.4)
    sock.sendall(request)


def test_what_came_while_the_process_stood_still_waits_until_it_knows_what_is_true() -> None:
    async def main(server: Server) -> None:
        may_go_on, asked = trio.Event(), 0

        async def confirm() -> None:
            nonlocal asked
            asked += 1
            await may_go_on.wait()

        server.reactor.on_stall = confirm
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            await server.until(lambda: server.clients)
            server.reactor.stall_s = 0.2
            stand_still(sock, b"PING\r\n")
            await server.until(lambda: asked)
            server.reactor.stall_s = limits.STALL_S
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert not server.executed
            may_go_on.set()
            await server.until(lambda: server.executed)
            sock.sendall(b"PING\r\n")
            await server.until(lambda: len(server.executed) == 2)
        assert asked == 1

    serve(main)


def test_a_process_that_stood_still_goes_on_where_nobody_cares() -> None:
    async def main(server: Server) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            await server.until(lambda: server.clients)
            server.reactor.stall_s = 0.2
            stand_still(sock, b"PING\r\n")
            await server.until(lambda: server.executed)

    serve(main)
