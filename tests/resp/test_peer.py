"""The client for our own servers: calls, pushes, and every way in which the other side can fail."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from pocketkv import limits
from pocketkv.resp.encoder import encode_reply, encode_request
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import Peer, RemoteError, decode_reply, open_peer
from pocketkv.resp.replies import Push, Reply
from tests.resp.serving import PATIENCE_S, Server, serve
from tests.resp.support import parse

PING = encode_request([b"PING"])


class Far:
    """The server's end of a peer's connection, worked by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def receive(self) -> list[list[bytes]]:
        """The requests that have arrived."""
        requests, error = parse([bytes(await self.stream.receive_some())])
        assert error is None
        return requests

    async def answer(self, *replies: Reply) -> None:
        await self.send(b"".join(encode_reply(reply, 3) for reply in replies))

    async def send(self, raw: bytes) -> None:
        await self.stream.send_all(raw)


def with_peer(main: Callable[[Peer, Far, trio.Nursery], Awaitable[None]]) -> None:
    """Run `main` with a peer and the other end of its connection."""

    async def run() -> None:
        near, far = trio.testing.memory_stream_pair()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                peer = Peer(near)
                nursery.start_soon(peer.read_replies)
                await main(peer, Far(far), nursery)
                nursery.cancel_scope.cancel()

    trio.run(run)


# --- calls -------------------------------------------------------------------------------------


def test_a_call_gives_the_reply() -> None:
    async def main(server: Server) -> None:
        async with trio.open_nursery() as nursery:
            peer = await open_peer(nursery, "127.0.0.1", server.port)
            assert await peer.call("PING") == b"PONG"
            assert await peer.call(b"ECHO", "caf\xe9") == "caf\xe9".encode()
            assert await peer.call("ECHO", 12) == b"12"
            assert await peer.call("BIG", 3_000_000) == bytes(3_000_000)
            await peer.aclose()

    serve(main)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (None, None),
        (1, 1),
        (1.5, 1.5),
        (True, True),
        ([b"a", [None, 2]], [b"a", [None, 2]]),
        ({b"a": {b"b": 1}}, {b"a": {b"b": 1}}),
    ],
)
def test_a_reply_is_an_object(reply: Reply, value: object) -> None:
    assert decode_reply(encode_reply(reply, 3)) == value


def test_an_error_is_raised_with_its_code() -> None:
    async def main(server: Server) -> None:
        async with trio.open_nursery() as nursery:
            peer = await open_peer(nursery, "127.0.0.1", server.port)
            with pytest.raises(RemoteError, match="ERR unknown") as caught:
                await peer.call("WHAT")
            assert caught.value.code == "ERR"
            assert await peer.call("PING") == b"PONG"
            await peer.aclose()

    serve(main)


def test_calls_at_the_same_time_get_their_own_replies() -> None:
    async def main(peer: Peer, far: Far, nursery: trio.Nursery) -> None:
        got: dict[int, Any] = {}

        async def ask(number: int) -> None:
            got[number] = await peer.call("ECHO", number)

        for number in range(3):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        words = [request[1] for request in await far.receive()]
        assert words == [b"0", b"1", b"2"]
        await far.answer(*words)
        await trio.testing.wait_all_tasks_blocked()
        assert got == {0: b"0", 1: b"1", 2: b"2"}

    with_peer(main)


def test_a_reply_may_come_byte_by_byte() -> None:
    async def main(peer: Peer, far: Far, nursery: trio.Nursery) -> None:
        async def answer() -> None:
            for byte in encode_reply([b"a", {b"b": 1}], 3):
                await far.send(bytes([byte]))

        nursery.start_soon(answer_after_request, far, answer)
        assert await peer.call("X") == [b"a", {b"b": 1}]

    with_peer(main)


async def answer_after_request(far: Far, answer: Callable[[], Awaitable[None]]) -> None:
    await far.receive()
    await answer()


# --- time-outs and cancellation ----------------------------------------------------------------


def test_a_call_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            peer = Peer(near)
            nursery.start_soon(peer.read_replies)
            with pytest.raises(PeerError, match=r"no answer to 'SLOW' within 3\.0 s"):
                await peer.call("SLOW", timeout_s=3.0)
            assert trio.current_time() == pytest.approx(3.0)
            # The reply that comes too late is not taken for the next call's.
            await far.send_all(b"+late\r\n")
            nursery.start_soon(far.send_all, b"+right\r\n")
            assert await peer.call("NEXT", timeout_s=3.0) == b"right"
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump_clock)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    clock: trio.testing.MockClock = trio.testing.MockClock(autojump_threshold=0)
    return clock


def test_a_server_that_does_not_read_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        near, far = trio.testing.lockstep_stream_pair()
        async with far, trio.open_nursery() as nursery:
            peer = Peer(near)
            nursery.start_soon(peer.read_replies)
            with pytest.raises(PeerError):
                await peer.call("X", timeout_s=1.0)
            # Half a request may be on its way, so no other can follow it.
            with pytest.raises(PeerError, match="does not read"):
                await peer.call("X", timeout_s=1.0)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=autojump_clock)


def test_a_call_that_is_cancelled_leaves_the_order_intact() -> None:
    async def main(peer: Peer, far: Far, nursery: trio.Nursery) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(peer.call, "FIRST")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        nursery.start_soon(answer_after_request, far, lambda: far.answer(1, 2))
        assert await peer.call("SECOND") == 2

    with_peer(main)


# --- the other side fails ----------------------------------------------------------------------


async def outcome(peer: Peer) -> str:
    try:
        await peer.call("X")
    except PeerError as error:
        return str(error)
    return "answered"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(b"", "closed the connection", id="end"),
        pytest.param(b"$5\r\nab", "closed the connection", id="end within a reply"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", "", id="another protocol"),
        pytest.param(b"*3000000000\r\n", "", id="absurd length"),
        pytest.param(b"*4294967295\r\n", "", id="more absurd length"),
        pytest.param(b"%1\r\n*1\r\n:1\r\n:2\r\n", "", id="a map by arrays"),
        pytest.param(b"!5\r\nERR x\r\n", "", id="a kind that hiredis does not know"),
        pytest.param(b":x\r\n", "", id="no number"),
        pytest.param(b"#x\r\n", "", id="no boolean"),
        pytest.param(b",x\r\n", "", id="no double"),
    ],
)
def test_nonsense_is_an_error_of_this_peer_only(raw: bytes, words: str) -> None:
    async def main(peer: Peer, far: Far, nursery: trio.Nursery) -> None:
        outcomes: list[str] = []

        async def ask() -> None:
            outcomes.append(await outcome(peer))

        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await far.send(raw)
        await far.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert len(outcomes) == 2
        assert all(words in text and text != "answered" for text in outcomes)
        assert await outcome(peer) == outcomes[1]
        assert [push async for push in peer.pushes] == []

    with_peer(main)


def test_absurd_lengths_reserve_nothing() -> None:
    async def main(peer: Peer, far: Far, nursery: trio.Nursery) -> None:
        await far.send(b"*500000000\r\n")
        await trio.testing.wait_all_tasks_blocked()

    resident_bytes = trace(lambda: with_peer(main))
    assert resident_bytes < 4 * limits.MIB


def trace(action: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_reply_that_nobody_asked_for_is_an_error() -> None:
    async def main(peer: Peer, far: Far, _: trio.Nursery) -> None:
        await far.answer(1)
        await trio.testing.wait_all_tasks_blocked()
        assert await outcome(peer) == "a reply that nobody asked for"

    with_peer(main)


def test_closing_ends_the_calls_under_way() -> None:
    async def main(peer: Peer, _: Far, nursery: trio.Nursery) -> None:
        outcomes: list[str] = []

        async def ask() -> None:
            outcomes.append(await outcome(peer))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await peer.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == ["closed"]
        assert await outcome(peer) == "closed"
        await peer.aclose()

    with_peer(main)


def test_when_nobody_reads_replies_any_more_calls_end() -> None:
    async def main() -> None:
        near, far = trio.testing.memory_stream_pair()
        outcomes: list[str] = []
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as callers, trio.open_nursery() as readers:
                peer = Peer(near)
                readers.start_soon(peer.read_replies)

                async def ask() -> None:
                    outcomes.append(await outcome(peer))

                callers.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                readers.cancel_scope.cancel()
        assert outcomes == ["closed"]
        await far.aclose()

    trio.run(main)


def test_a_failure_is_a_new_exception_each_time() -> None:
    async def main(peer: Peer, far: Far, nursery: trio.Nursery) -> None:
        await peer.aclose()
        caught = []
        for _ in range(2):
            with pytest.raises(PeerError) as info:
                await peer.call("X")
            caught.append(info.value)
        assert caught[0] is not caught[1]

    with_peer(main)


# --- pushes ------------------------------------------------------------------------------------


def test_pushes_are_delivered_beside_replies() -> None:
    async def main(peer: Peer, far: Far, nursery: trio.Nursery) -> None:
        async def answer() -> None:
            await far.answer(Push([b"update", b"1"]), 7, Push([b"update", b"2"]))

        nursery.start_soon(answer_after_request, far, answer)
        assert await peer.call("X") == 7
        assert await peer.pushes.receive() == [b"update", b"1"]
        assert await peer.pushes.receive() == [b"update", b"2"]

    with_peer(main)


def test_pushes_that_nobody_takes_end_the_connection() -> None:
    async def main(peer: Peer, far: Far, _: trio.Nursery) -> None:
        await far.answer(*[Push([b"x"])] * 2000)
        await trio.testing.wait_all_tasks_blocked()
        assert await outcome(peer) == "pushes are not taken"
        assert len([push async for push in peer.pushes]) == 1024

    with_peer(main)


# --- connecting --------------------------------------------------------------------------------


def test_a_server_that_is_not_there_cannot_be_reached() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        async with trio.open_nursery() as nursery:
            with pytest.raises(PeerError, match=rf"cannot reach 127\.0\.0\.1:{port}: "):
                await open_peer(nursery, "127.0.0.1", port)

    trio.run(main)


def test_a_server_that_does_not_accept_is_given_up() -> None:
    async def main() -> None:
        # Its queue is full, so the kernel does not answer.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
            fillers = []
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
                fillers.append(filler)
            async with trio.open_nursery() as nursery:
                with pytest.raises(PeerError, match="cannot reach"):
                    await open_peer(nursery, *sock.getsockname(), timeout_s=0.05)
            for filler in fillers:
                filler.close()

    trio.run(main)


# --- one reply ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [b"", b"$5\r\nab", b"*2\r\n:1\r\n", b":1\r\n:2\r\n", b":1\r\n+", b"?\r\n", b"*9999999999\r\n"],
)
def test_what_is_not_one_whole_reply_is_refused(raw: bytes) -> None:
    with pytest.raises(PeerError):
        decode_reply(raw)


def test_an_error_reply_is_given_not_raised() -> None:
    error = decode_reply(b"-MOVED 1 h:2\r\n")
    assert isinstance(error, RemoteError)
    assert (error.code, str(error)) == ("MOVED", "MOVED 1 h:2")
    assert [type(item) for item in decode_reply(b"*1\r\n-ERR x\r\n")] == [RemoteError]
