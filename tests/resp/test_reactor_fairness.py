"""One connection among others: none starves them, whatever it sends, asks for, or leaves unread."""

from __future__ import annotations

import resource
import socket
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.replies import Push
from tests.resp.serving import PATIENCE_S, Server, connected, serve

PONG = b"+PONG\r\n"
MIB = limits.MIB


def rss_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


# --- fairness ----------------------------------------------------------------------------------


def test_a_huge_pipeline_does_not_starve_the_others() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as busy, connected(server) as other:
            # Both are in the kernel before the reactor looks.
            busy.send_now(b"PING\n" * 10_000)
            other.send_now(b"PING\n")
            await other.expect(PONG)
            position = next(i for i, (number, _) in enumerate(server.executed) if number == 1)
            assert position <= limits.REQUESTS_PER_TURN
            await busy.expect(PONG * 10_000)

    serve(main)


def test_a_flood_of_empty_requests_does_not_starve_the_others() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as busy, connected(server) as other:
            busy.send_now(b"\n" * 60_000)
            other.send_now(b"PING\n")
            before = server.rounds
            await other.expect(PONG)
            assert server.executed_in[0] == before + 1
            await busy.ping()
            assert server.executed_in[1] - before >= 60_000 // limits.REQUESTS_PER_TURN

    serve(main)


class Drain:
    """Reads as fast as it can, in a thread of its own."""

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.sendall(request)
        self.sock.settimeout(PATIENCE_S)
        self.received_bytes = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        buffer = bytearray(MIB)
        while count := self.sock.recv_into(buffer):
            self.received_bytes += count
        self.sock.close()

    async def wait(self) -> None:
        await trio.to_thread.run_sync(self.thread.join)


def test_a_huge_value_does_not_starve_the_others() -> None:
    size = 64 * MIB

    async def main(server: Server) -> None:
        async with connected(server) as other:
            drain = Drain(server.port, b"BIG %d\r\nQUIT\r\n" % size)
            await server.until(lambda: server.executions_of(1))
            await other.ping()
            await drain.wait()
            assert drain.received_bytes == len(b"$%d\r\n" % size) + size + 2 + len(b"+OK\r\n")

    server = serve(main)
    in_each = [after - before for before, after in pairwise(server.sent_in)]
    assert max(in_each) <= limits.SEND_BYTES_PER_TURN
    assert server.executed_in[1] - server.executed_in[0] < len(in_each) // 2


def test_other_tasks_run_while_traffic_is_hot() -> None:
    async def main(server: Server) -> None:
        async with connected(server) as client, trio.open_nursery() as nursery:
            count = 50_000
            nursery.start_soon(client.send_raw, b"PING\n" * count)
            turns = 0
            while server.executions_of(0) < count // 2:
                await trio.lowlevel.checkpoint()
                turns += 1
            assert turns > 10
            await client.expect(PONG * count)

    serve(main)


# --- clients that do not read ------------------------------------------------------------------


def test_a_client_that_does_not_read_is_throttled_and_then_dropped() -> None:
    # Without a limit the replies would take 2 GiB.
    request = b"BIG 1000000\r\n" * 2000

    async def main(server: Server) -> None:
        async with connected(server) as greedy, connected(server) as other:
            before_bytes = rss_bytes()
            await greedy.send_raw(request)
            await server.until(lambda: server.clients[0].output_waits)
            await server.rest()
            outbox = server.clients[0].outbox
            assert outbox.pending_bytes <= limits.REPLY_BACKLOG_HIGH_BYTES + 2 * MIB
            assert server.executions_of(0) < 40
            assert rss_bytes() - before_bytes < 100 * MIB
            await other.ping()

            server.reactor.sweep(server.reactor.now_s + limits.REPLY_STALL_TIMEOUT_S - 1)
            assert server.closed == 0
            server.reactor.sweep(server.reactor.now_s + limits.REPLY_STALL_TIMEOUT_S + 1)
            assert server.closed == 1
            assert server.reactor.dropped == {"it does not read its replies": 1}
            await other.ping()

    serve(main)


def test_a_client_that_reads_late_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLY_BACKLOG_HIGH_BYTES", 300_000)
    count = 400

    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"BIG 50000\r\n" * count)
            await server.until(lambda: server.clients[0].output_waits)
            await server.rest()
            assert server.executions_of(0) < count
            await client.expect((b"$50000\r\n" + bytes(50_000) + b"\r\n") * count)
            await client.ping()

    serve(main)


def test_replies_that_the_kernel_takes_at_once_do_not_stop_a_pipeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REPLY_BACKLOG_HIGH_BYTES", 1000)

    async def main(server: Server) -> None:
        async with connected(server) as client:
            await client.send_raw(b"BIG 600\r\n" * 500)
            await client.expect((b"$600\r\n" + bytes(600) + b"\r\n") * 500)

    serve(main)


def test_requests_behind_unread_replies_are_left_in_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REPLY_BACKLOG_HIGH_BYTES", 100_000)
    monkeypatch.setattr(limits, "REQUEST_BACKLOG_MAX_BYTES", 500_000)
    count = 200

    async def main(server: Server) -> None:
        async with connected(server) as client, trio.open_nursery() as nursery:
            request = encode_request([b"ECHO", b"x" * 60_000])
            nursery.start_soon(client.send_raw, request * count)
            await server.until(lambda: server.clients[0].input_paused)
            await server.rest()
            backlog_bytes = server.clients[0].parser.buffered_bytes()
            assert backlog_bytes <= 500_000 + limits.RECEIVE_BYTES
            await client.expect((b"$60000\r\n" + b"x" * 60_000 + b"\r\n") * count)
            assert not server.clients[0].input_paused

    serve(main)


def test_a_client_that_does_not_read_its_pushes_is_dropped() -> None:
    message = Push([bytes(MIB)])

    async def main(server: Server) -> None:
        async with connected(server), connected(server) as other:
            deaf = server.clients[0]
            for _ in range(2 * limits.PUSH_BACKLOG_MAX_BYTES // MIB):
                deaf.push(message)
                assert not deaf.closed
            assert deaf.outbox.pending_bytes < limits.PUSH_BACKLOG_MAX_BYTES + 2 * MIB
            await server.until(lambda: server.closed == 1)
            assert server.reactor.dropped == {"it does not read its pushes": 1}
            await other.ping()

    serve(main)
