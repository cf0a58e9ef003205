"""Replies that wait until what they acknowledge is kept, and what happens if it cannot be."""

from __future__ import annotations

from pocketkv.resp.replies import Encoded, ErrorReply
from tests.resp.serving import Server, connected, serve

REFUSED = b"-IOERR the medium\r\n"
PONG = b"+PONG\r\n"


class Medium:
    """Counts what is committed, and refuses it when it is told to."""

    def __init__(self) -> None:
        self.commits = 0
        self.refuses = False

    def commit(self) -> ErrorReply | None:
        self.commits += 1
        return ErrorReply(b"IOERR the medium") if self.refuses else None


def test_a_turn_is_committed_once() -> None:
    medium = Medium()

    async def main(server: Server) -> None:
        server.reactor.commit = medium.commit
        async with connected(server) as client:
            await client.send_raw(b"PING\r\n" * 50)
            await client.expect(PONG * 50)
            assert 1 <= medium.commits <= 3

    serve(main)


def test_what_cannot_be_kept_is_not_acknowledged() -> None:
    medium = Medium()
    value = b"$100000\r\n" + bytes(100_000) + b"\r\n"

    async def main(server: Server) -> None:
        server.reactor.commit = medium.commit
        async with connected(server) as client:
            await client.send_raw(b"PING\r\n")
            await client.expect(PONG)
            medium.refuses = True
            # Small replies, large ones, and none at all.
            await client.send_raw(b"PING\r\nBIG 100000\r\nSILENT\r\nPING\r\nKNOWN x\r\n")
            await client.expect(REFUSED * 4)
            medium.refuses = False
            await client.send_raw(b"BIG 100000\r\n")
            await client.expect(value)

    serve(main)


def test_what_was_answered_before_stays_answered() -> None:
    medium = Medium()

    async def main(server: Server) -> None:
        server.reactor.commit = medium.commit
        async with connected(server) as client:
            await client.send_raw(b"DEFER a\r\nECHO before\r\n")
            await server.until(lambda: len(server.executed) == 2)
            medium.refuses = True
            await client.send_raw(b"ECHO after\r\n")
            await server.until(lambda: len(server.executed) == 3)
            await server.rest()
            server.deferred[b"a"].complete(Encoded(b":1\r\n"))
            await client.expect(b":1\r\n$6\r\nbefore\r\n" + REFUSED)

    serve(main)


def test_who_waits_on_something_is_looked_at_again_and_again() -> None:
    looks = [3]

    def poll() -> bool:
        looks[0] -= 1
        return looks[0] > 0

    async def main(server: Server) -> None:
        server.reactor.poll = poll
        async with connected(server) as client:
            await client.send_raw(b"PING\r\n")
            await client.expect(PONG)
            await server.until(lambda: looks[0] <= 0)

    serve(main)
