"""A reactor with a small server on it, for tests: real sockets, one thread, no sleeps."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from pocketkv.resp.client_connection import ClientConnection
from pocketkv.resp.connection import Connection
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.reactor import Reactor
from pocketkv.resp.replies import NO_REPLY, OK, PONG, Deferred, ErrorReply, Push, Reply

PATIENCE_S = 30.0
LINGER_ZERO = b"\1\0\0\0\0\0\0\0"


class Server:
    """Counts what it is asked.

    Attributes:
        executed: The requests of all clients, in the order of their execution.
        deferred: Replies that were asked for with DEFER or BLOCK, by name.
        abandoned: Names of those whose client went away.
        closed: How many connections are gone.
        rounds: How many rounds of service there were.
        executed_in: The rounds in which the requests in `executed` were.
        sent_in: What was sent to the last connection until the beginning of each round.
    """

    def __init__(self) -> None:
        self.reactor = Reactor(logging.getLogger("pocketkv.test"), self._on_round)
        self.rounds = 0
        self.executed_in: list[int] = []
        self.sent_in: list[int] = []
        self.executed: list[tuple[int, list[bytes]]] = []
        self.deferred: dict[bytes, Deferred] = {}
        self.abandoned: list[bytes] = []
        self.clients: list[ClientConnection] = []
        self.closed = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self.listener.getsockname()[1]
        self.reactor.listen(self.listener, self.accept)

    def _on_round(self) -> None:
        self.rounds += 1
        self.sent_in.append(self.clients[-1].sent_bytes if self.clients else 0)

    def accept(self, reactor: Reactor, sock: socket.socket) -> Connection | None:
        connection = ClientConnection(reactor, sock)
        connection.handler = Handler(self, connection, len(self.clients))
        self.clients.append(connection)
        return connection

    def executions_of(self, client: int) -> int:
        return sum(number == client for number, _ in self.executed)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let everything go on until something is so."""
        while not condition():
            await trio.lowlevel.checkpoint()

    async def rest(self) -> None:
        """Let everything go on until nothing happens any more."""
        quiet = 0
        while quiet < 20:
            before = self.rounds
            await trio.lowlevel.checkpoint()
            quiet = quiet + 1 if self.rounds == before else 0


class Handler(RequestHandler):
    """The commands of the test's server."""

    def __init__(self, server: Server, connection: ClientConnection, number: int) -> None:
        self.server = server
        self.connection = connection
        self.number = number

    def execute(self, request: list[bytes]) -> Reply:
        self.server.executed.append((self.number, request))
        self.server.executed_in.append(self.server.rounds)
        name = request[0]
        if name == b"PING":
            return PONG
        if name == b"ECHO":
            return request[1]
        if name == b"BIG":
            return bytes(int(request[1]))
        if name in (b"DEFER", b"BLOCK"):
            return self._defer(request[1], exclusive=name == b"BLOCK")
        return self._rare(request)

    def _rare(self, request: list[bytes]) -> Reply:
        name = request[0]
        if name == b"KNOWN":
            known = Deferred()
            known.complete(request[1])
            return known
        if name == b"PUSH":
            self.connection.push(Push([request[1]]))
            return OK
        if name == b"QUIT":
            self.connection.close_when_sent()
            return OK
        if name == b"SILENT":
            return NO_REPLY
        if name == b"RAISE":
            raise RuntimeError("a defect of the handler")
        if name == b"NONSENSE":
            return [1, object()]  # type: ignore[list-item]  # a defect of the handler
        return ErrorReply(b"ERR unknown")

    def _defer(self, name: bytes, *, exclusive: bool) -> Deferred:
        deferred = Deferred(
            exclusive=exclusive, on_abandon=lambda: self.server.abandoned.append(name)
        )
        self.server.deferred[name] = deferred
        return deferred

    def on_close(self) -> None:
        self.server.closed += 1


class Client:
    """A client that is as blunt as a test needs."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    def send_now(self, data: bytes) -> None:
        """Give bytes to the kernel before anybody else runs."""
        assert os.write(self.stream.socket.fileno(), data) == len(data)

    async def send(self, *arguments: bytes) -> None:
        await self.stream.send_all(encode_request(list(arguments)))

    async def send_raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self, count: int) -> bytes:
        """Just so many bytes, or fewer if the server closes before."""
        received = bytearray()
        while len(received) < count:
            data = await self.stream.receive_some(count - len(received))
            if not data:
                break
            received += data
        return bytes(received)

    async def expect(self, expected: bytes) -> None:
        """Receive just this."""
        received = await self.receive(len(expected))
        assert received == expected, (received[:200], expected[:200])

    async def receive_all(self) -> bytes:
        """Everything until the server closes; a reset is an end too."""
        received = bytearray()
        try:
            async for data in self.stream:
                received += data
        except trio.BrokenResourceError:
            pass
        return bytes(received)

    async def end(self) -> None:
        """Send nothing more."""
        await self.stream.send_eof()

    async def reset(self) -> None:
        """Go away without a word."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        await self.stream.aclose()

    async def ping(self) -> None:
        await self.send(b"PING")
        await self.expect(b"+PONG\r\n")


@asynccontextmanager
async def connecting(port: int) -> AsyncIterator[Client]:
    """A client that may not be accepted."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Client(stream)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """A client of a server, accepted."""
    accepted = server.reactor.accepted
    async with connecting(server.port) as client:
        await server.until(lambda: server.reactor.accepted > accepted)
        yield client


def serve(main: Callable[[Server], Awaitable[None]]) -> Server:
    """Run `main` beside a server's reactor; the server, which has stopped."""

    async def run() -> Server:
        server = Server()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.reactor.run)
                await main(server)
                nursery.cancel_scope.cancel()
        return server

    return trio.run(run)
