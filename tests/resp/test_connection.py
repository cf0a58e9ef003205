"""A client's connection: the order of replies, blocking, pushes, ends and errors."""

from __future__ import annotations

import logging

import pytest
import trio

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.replies import Encoded, Push
from tests.resp.serving import Handler, Server, connected, serve

PONG = b"+PONG\r\n"


# --- requests and replies ----------------------------------------------------------------------


def test_replies_come_in_order() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            words = [b"%d" % number for number in range(1000)]
            await client.send_raw(b"".join(encode_request([b"ECHO", word]) for word in words))
            await client.expect(b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))

    serve(main)


def test_a_request_may_come_byte_by_byte() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            for byte in encode_request([b"ECHO", b"hello"]) + b"PING\r\n":
                await client.send_raw(bytes([byte]))
                await trio.lowlevel.checkpoint()
            await client.expect(b"$5\r\nhello\r\n" + PONG)

    serve(main)


@pytest.mark.parametrize("size", [16_383, 16_384, 1_000_000, 20_000_000])
def test_large_values_go_in_and_out(size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)

    async def main(server: Server) -> None:
        async with connected(server) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send_raw, encode_request([b"ECHO", value[:size]]) * 3)
            await client.expect((b"$%d\r\n" % size + value[:size] + b"\r\n") * 3)

    serve(main)


def test_no_reply_takes_no_place() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"SILENT\r\nDEFER a\r\nSILENT\r\nPING\r\n")
            await server.until(lambda: len(server.executed) == 4)
            server.deferred[b"a"].complete(1)
            await client.expect(b":1\r\n" + PONG)

    serve(main)


def test_more_requests_than_one_turn_has_are_all_served() -> None:
    count = 5 * limits.REQUESTS_PER_TURN + 3

    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"PING\n" * count)
            await client.expect(PONG * count)

    serve(main)


def test_a_flood_of_empty_requests_ends() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"\r\n" * 20_000 + b"*0\r\n" * 20_000 + b"PING\r\n")
            await client.expect(PONG)
            assert server.executions_of(0) == 1

    serve(main)


# --- replies that come later -------------------------------------------------------------------


def test_later_requests_overtake_but_their_replies_do_not() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\nDEFER b\r\nPING\r\n")
            await server.until(lambda: len(server.executed) == 3)
            assert server.clients[0].outstanding == 3
            server.deferred[b"b"].complete(2)
            await server.rest()
            assert server.clients[0].sent_bytes == 0
            server.deferred[b"a"].complete(1)
            await client.expect(b":1\r\n:2\r\n" + PONG)
            assert server.clients[0].outstanding == 0

    serve(main)


def test_a_blocking_request_holds_up_the_later_ones() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"PING\r\nBLOCK a\r\nPING\r\nBLOCK b\r\nPING\r\n")
            await client.expect(PONG)
            await server.rest()
            assert len(server.executed) == 2
            server.deferred[b"a"].complete(1)
            await client.expect(b":1\r\n" + PONG)
            assert len(server.executed) == 4
            server.deferred[b"b"].complete(None)
            await client.expect(b"$-1\r\n" + PONG)

    serve(main)


def test_a_blocking_request_behind_replies_that_are_due() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\nBLOCK b\r\nPING\r\n")
            await server.until(lambda: len(server.executed) == 2)
            server.deferred[b"b"].complete(2)
            await server.rest()
            assert len(server.executed) == 2
            server.deferred[b"a"].complete(1)
            await client.expect(b":1\r\n:2\r\n" + PONG)

    serve(main)


def test_a_reply_that_is_known_at_once_holds_up_nothing() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"KNOWN a\r\nDEFER x\r\nKNOWN b\r\nPING\r\n")
            await client.expect(b"$1\r\na\r\n")
            await server.until(lambda: len(server.executed) == 4)
            server.deferred[b"x"].complete(0)
            await client.expect(b":0\r\n$1\r\nb\r\n" + PONG)

    serve(main)


def test_replies_that_are_owed_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTSTANDING_REQUESTS_MAX", 10)
    names = [b"%d" % number for number in range(95)]

    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"".join(b"DEFER %b\r\n" % name for name in names))
            for position, name in enumerate(names):
                await server.rest()
                assert position < len(server.executed) <= position + 10
                server.deferred[name].complete(name)
                await client.expect(b"$%d\r\n%b\r\n" % (len(name), name))

    serve(main)


@pytest.mark.parametrize("command", [b"DEFER", b"BLOCK"])
def test_who_works_on_a_reply_is_told_that_nobody_waits(command: bytes) -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send(command, b"a")
            await server.until(lambda: server.executed)
            await client.reset()
            await server.until(lambda: server.closed == 1)
            assert server.abandoned == [b"a"]
            server.deferred[b"a"].complete(1)
        async with connected(server) as other:
            await other.ping()

    serve(main)


# --- pushes ------------------------------------------------------------------------------------


def test_a_push_stands_between_replies() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            server.clients[0].outbox.protocol = 3
            await client.send_raw(b"PING\r\nPUSH now\r\nPING\r\n")
            await client.expect(PONG + b">1\r\n$3\r\nnow\r\n+OK\r\n" + PONG)

    serve(main)


def test_a_push_does_not_wait_for_replies_or_requests() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            server.clients[0].outbox.protocol = 3
            await client.send_raw(b"BLOCK a\r\n")
            await server.until(lambda: server.executed)
            await server.rest()
            server.clients[0].push(Push([b"x"]))
            await client.expect(b">1\r\n$1\r\nx\r\n")
            server.deferred[b"a"].complete(1)
            await client.expect(b":1\r\n")

    serve(main)


def test_pushes_wait_for_the_end_of_a_reply_that_is_half_sent() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            server.clients[0].outbox.protocol = 3
            await client.send_raw(b"DEFER a\r\nPING\r\n")
            await server.until(lambda: len(server.executed) == 2)
            server.deferred[b"a"].give(b"$4\r\nlo")
            await client.expect(b"$4\r\nlo")
            for name in (b"x", b"y", b"z"):
                server.clients[0].push(Push([name]))
            held = server.clients[0].unsent_reply_bytes
            assert held >= 3 * len(b">1\r\n$1\r\nx\r\n")
            server.deferred[b"a"].give(b"n")
            server.deferred[b"a"].complete(Encoded(b"g\r\n"))
            pushes = b"".join(b">1\r\n$1\r\n%b\r\n" % name for name in (b"x", b"y", b"z"))
            await client.expect(b"ng\r\n" + pushes + PONG)
            assert server.clients[0].unsent_reply_bytes == 0

    serve(main)


def test_pushes_that_are_held_count_against_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUSH_BACKLOG_MAX_BYTES", 10_000)

    async def main(server: Server) -> None:
        async with connected(server) as client:
            server.clients[0].outbox.protocol = 3
            await client.send_raw(b"DEFER a\r\n")
            await server.until(lambda: server.executed)
            server.deferred[b"a"].give(b"$4\r\nlo")
            await client.expect(b"$4\r\nlo")
            for _ in range(12):
                server.clients[0].push(Push([bytes(1000)]))
            assert await client.receive_all() == b""

    serve(main)


def test_a_push_to_a_closed_connection_is_nothing() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.reset()
            await server.until(lambda: server.closed)
            server.clients[0].push(Push([b"x"]))
            assert server.clients[0].outbox.pending_bytes == 0

    serve(main)


# --- ends --------------------------------------------------------------------------------------


def test_a_client_that_half_closes_gets_its_replies() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"PING\r\n" * 10_000)
            await client.end()
            assert await client.receive_all() == PONG * 10_000
            assert server.closed == 1

    serve(main)


def test_a_client_that_half_closes_gets_large_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLY_BACKLOG_HIGH_BYTES", 100_000)

    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"BIG 90000\r\n" * 300 + b"PING\r\n")
            await client.end()
            await server.until(lambda: server.clients[0].outbox.pending_bytes > 100_000)
            await server.rest()
            reply = b"$90000\r\n" + bytes(90_000) + b"\r\n"
            assert await client.receive_all() == reply * 300 + PONG

    serve(main)


def test_a_client_that_half_closes_gets_replies_that_come_later() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\nPING\r\nhalf a requ")
            await client.end()
            await server.until(lambda: len(server.executed) == 2)
            await server.rest()
            assert server.closed == 0
            server.deferred[b"a"].complete(1)
            assert await client.receive_all() == b":1\r\n" + PONG
            assert server.closed == 1

    serve(main)


def test_a_client_that_half_closes_does_not_block() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"PING\r\nBLOCK a\r\nPING\r\n")
            await client.expect(PONG)
            await client.end()
            assert await client.receive_all() == b""
            assert server.abandoned == [b"a"]
            assert len(server.executed) == 2

    serve(main)


def test_a_client_that_half_closed_does_not_begin_to_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "OUTSTANDING_REQUESTS_MAX", 1)

    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\nBLOCK b\r\nPING\r\n")
            await client.end()
            await server.until(lambda: server.executed)
            await server.rest()
            server.deferred[b"a"].complete(1)
            assert await client.receive_all() == b":1\r\n"
            assert server.abandoned == [b"b"]

    serve(main)


def test_quit_is_answered_and_what_follows_is_not() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\nPING\r\nQUIT\r\nPING\r\n")
            await server.until(lambda: len(server.executed) == 3)
            await server.rest()
            server.deferred[b"a"].complete(1)
            assert await client.receive_all() == b":1\r\n" + PONG + b"+OK\r\n"
            assert len(server.executed) == 3

    serve(main)


def test_a_broken_request_is_answered_and_ends_the_connection() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client, connected(server) as other:
            await client.send_raw(b"PING\r\n*1\r\nPING\r\nPING\r\n")
            error = b"-ERR Protocol error: expected '$', got 'P'\r\n"
            assert await client.receive_all() == PONG + error
            await other.ping()

    serve(main)


def test_a_broken_request_waits_for_the_replies_before_it() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\n*x\r\n")
            await server.until(lambda: server.executed)
            await server.rest()
            server.deferred[b"a"].complete(1)
            error = b"-ERR Protocol error: invalid multibulk length\r\n"
            assert await client.receive_all() == b":1\r\n" + error

    serve(main)


def test_what_comes_after_the_end_is_not_kept() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\nQUIT\r\n")
            await server.until(lambda: len(server.executed) == 2)
            for _ in range(50):
                await client.send_raw(b"PING\r\n" * 10_000)
                await server.rest()
                assert server.clients[0].parser.buffered_bytes() <= 2 * limits.RECEIVE_BYTES
            server.deferred[b"a"].complete(1)
            assert await client.receive_all() == b":1\r\n+OK\r\n"

    serve(main)


# --- defects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [b"RAISE", b"NONSENSE"])
def test_a_handler_that_fails_costs_its_own_connection(
    command: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client, connected(server) as other:
            await client.send_raw(b"DEFER a\r\n" + command + b"\r\nPING\r\n")
            if command == b"NONSENSE":
                await server.until(lambda: len(server.executed) == 3)
                server.deferred[b"a"].complete(1)
            await client.receive_all()
            await server.until(lambda: server.closed == 1)
            await other.ping()

    with caplog.at_level(logging.ERROR):
        serve(main)
    assert [r.getMessage() for r in caplog.records] == ["internal error, connection closed"]


def test_a_defect_met_when_a_client_goes_costs_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a defect")

    async def main(server: Server) -> None:
        async with connected(server) as other:
            for ending in (b"QUIT\r\n", b"RAISE\r\n", b"BLOCK a\r\n"):
                async with connected(server) as client:
                    with monkeypatch.context() as patch:
                        patch.setattr(Handler, "on_close", fail)
                        await client.send_raw(ending)
                        if ending.startswith(b"BLOCK"):
                            await server.until(lambda: b"a" in server.deferred)
                            server.deferred[b"a"].on_abandon = lambda: fail(None)
                            await client.end()
                        await client.receive_all()
                        await server.until(lambda: len(server.reactor.connections) == 1)
            await other.ping()

    with caplog.at_level(logging.ERROR):
        serve(main)
    assert len(caplog.records) >= 3


# --- time-outs ---------------------------------------------------------------------------------


def sweep(server: Server, after_s: float) -> None:
    server.reactor.sweep(server.reactor.now_s + after_s)


def test_half_a_request_is_not_waited_for_for_ever() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client, connected(server) as idle:
            await client.send_raw(b"*2\r\n$4\r\nECHO\r\n$5\r\nab")
            await server.until(lambda: server.clients[0].received_bytes)
            sweep(server, limits.PARTIAL_REQUEST_TIMEOUT_S - 1)
            assert server.closed == 0
            sweep(server, limits.PARTIAL_REQUEST_TIMEOUT_S + 1)
            error = b"-ERR Protocol error: the rest of the request did not come\r\n"
            assert await client.receive_all() == error
            await idle.ping()

    serve(main)


def test_half_a_request_is_waited_for_less_before_authentication() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            server.clients[0].restrict_input()
            await client.send_raw(b"AUTH a")
            await server.until(lambda: server.clients[0].received_bytes)
            sweep(server, limits.UNAUTHENTICATED_TIMEOUT_S - 1)
            assert server.closed == 0
            sweep(server, limits.UNAUTHENTICATED_TIMEOUT_S + 1)
            assert (await client.receive_all()).startswith(b"-ERR Protocol error: the rest")

    serve(main)


@pytest.mark.parametrize("request_", [b"BLOCK a\r\nhalf", b"DEFER a\r\nhalf", b"PING\r\n"])
def test_who_waits_for_us_is_not_timed_out(request_: bytes) -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(request_)
            await server.until(lambda: server.executed)
            await server.rest()
            sweep(server, 10 * limits.PARTIAL_REQUEST_TIMEOUT_S)
            assert server.closed == 0

    serve(main)
