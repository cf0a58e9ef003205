"""A connection to another of our servers that carries data: a line.

It is in the reactor, so that large values are sent from where they stand as replies are, a part at
a time between the turns of clients, and read from a device by whoever may wait. Replies come in
order; each is told to a function at once, in the reactor's own turn, or awaited.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import trio

from pocketkv import limits
from pocketkv.engine.sinks import COPY_TURN_BYTES
from pocketkv.placement import Server
from pocketkv.resp.connection import Connection
from pocketkv.resp.errors import PeerError, ProtocolError
from pocketkv.resp.frames import FrameScanner
from pocketkv.resp.parser import NEED_DATA
from pocketkv.resp.peer import RemoteError, decode_reply
from pocketkv.resp.reactor import Reactor
from pocketkv.resp.replies import FileBulk
from pocketkv.tokens import job_token, member_proof

# A reply, or why there is none.
OnReply: TypeAlias = "Callable[[Any], None]"
Argument: TypeAlias = "bytes | str | int | FileBulk"

# Whoever does not answer a line for so long is not there; a server that has to make room first may
# take a while.
REPLY_TIMEOUT_S: Final = 15.0


class Line(Connection):
    """A connection under way; `open_line` makes one.

    Attributes:
        outstanding_bytes: What was sent, or is to be, and was not answered.
        job_id: The job that it speaks for now.
    """

    side = "storage"

    __slots__ = (
        "_failure",
        "_made",
        "_scanner",
        "_waiting",
        "job_id",
        "outstanding_bytes",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__(reactor, sock)
        # Clients have their turn in between.
        self.send_bytes_per_turn = COPY_TURN_BYTES
        self.job_id = ""
        self.outstanding_bytes = 0
        self._scanner = FrameScanner()
        # What is told of each reply, and what its request had.
        self._waiting: deque[tuple[OnReply, int]] = deque()
        self._failure: PeerError | None = None
        # Set when the connection was made, or could not be.
        self._made = trio.Event()

    # --- requests ------------------------------------------------------------------------------

    def post(self, arguments: list[Argument], on_reply: OnReply) -> None:
        """Send a request; its reply is told later, a `PeerError` if there is none."""
        if self.closed:
            on_reply(self._failure or PeerError("closed"))
            return
        outbox = self.outbox
        before_bytes = outbox.pending_bytes
        outbox.write(b"*%d\r\n" % len(arguments))
        for argument in arguments:
            outbox.encode(argument if isinstance(argument, bytes | FileBulk) else _text(argument))
        size = outbox.pending_bytes - before_bytes
        if not self._waiting:
            self.last_progress_s = self.last_receive_s = self.reactor.now_s
        self._waiting.append((on_reply, size))
        self.outstanding_bytes += size
        self.reactor.schedule(self)

    async def call(self, *arguments: Argument) -> Any:
        """Send a request and wait for its reply.

        Raises:
            RemoteError: It is an error.
            PeerError: There is none.
        """
        waiter = Waiter()
        self.post(list(arguments), waiter)
        return await waiter.result()

    def speak_for(self, job_id: str, secret: bytes, on_reply: OnReply) -> None:
        """Send what follows in a job's name."""
        if self.job_id != job_id:
            self.job_id = job_id
            self.post([b"AUTH", job_id, job_token(secret, job_id)], on_reply)

    def send_now(self) -> None:
        """Send what was posted without waiting for the reactor's next turn."""
        if not self.closed and not self.output_waits:
            self.flush()

    # --- what the reactor calls ----------------------------------------------------------------

    def on_writable(self) -> None:
        """There is room, or the connection was made, or could not be."""
        if not self._made.is_set():
            number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self.fail(OSError(number, os.strerror(number)))
                return
            self._made.set()
        super().on_writable()

    def on_turn(self) -> None:
        """Send what was posted."""
        if self._made.is_set():
            self.flush()

    def on_readable(self) -> None:
        """Take replies."""
        data = self.receive()
        if data is None:
            return
        self._scanner.feed(data)
        try:
            while not self.closed:
                frame = self._scanner.next_frame()
                if frame is NEED_DATA:
                    return
                self._answer(decode_reply(bytes(frame)))  # type: ignore[arg-type]
        except (ProtocolError, PeerError) as error:
            self.give_up(PeerError(f"not a reply: {error}"))

    def _answer(self, reply: Any) -> None:
        if not self._waiting:
            raise PeerError("a reply that nobody asked for")
        on_reply, size = self._waiting.popleft()
        self.outstanding_bytes -= size
        on_reply(reply)
        # Whoever waited for it.
        self.reactor.let_tasks_run()

    def on_sweep(self, now_s: float) -> None:
        """Give up a server that neither takes nor answers anything."""
        progress_s = max(self.last_progress_s, self.last_receive_s)
        if self._waiting and not self.fetching and now_s - progress_s > REPLY_TIMEOUT_S:
            self.give_up(PeerError(f"no answer within {REPLY_TIMEOUT_S} s"))

    def give_up(self, error: PeerError) -> None:
        """Close for a reason, which whoever waits for a reply is told."""
        if self._failure is None:
            self._failure = error
        self.close()

    def fail(self, error: OSError) -> None:
        """The connection broke, or was never made."""
        self.give_up(PeerError(error.strerror or str(error)))

    def on_end(self) -> None:
        """The server closed the connection."""
        self.give_up(PeerError("the server closed the connection"))

    def on_closed(self) -> None:
        """Nobody will be answered any more."""
        failure = self._failure or PeerError("closed")
        self._made.set()
        waiting, self._waiting = self._waiting, deque()
        self.outstanding_bytes = 0
        for on_reply, _ in waiting:
            on_reply(failure)

    async def wait_made(self) -> None:
        """Wait until there is a connection.

        Raises:
            PeerError: There is none.
        """
        with trio.move_on_after(limits.UPSTREAM_CONNECT_TIMEOUT_S):
            await self._made.wait()
        if not self._made.is_set():
            self.give_up(PeerError("it does not take connections"))
        if self.closed:
            raise self._failure or PeerError("closed")


class Waiter:
    """Takes one reply for a task."""

    __slots__ = ("_event", "_reply")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._reply: Any = None

    def __call__(self, reply: Any) -> None:
        """Take it."""
        self._reply = reply
        self._event.set()

    async def result(self) -> Any:
        """The reply.

        Raises:
            RemoteError: It is an error.
            PeerError: There is none.
        """
        await self._event.wait()
        if isinstance(self._reply, RemoteError):
            raise RemoteError(str(self._reply))
        if isinstance(self._reply, PeerError):
            raise PeerError(str(self._reply))
        return self._reply


def _text(argument: str | int) -> bytes:
    return str(argument).encode()


async def open_line(
    reactor: Reactor, server: Server, secret: bytes, own_id: str, job_id: str
) -> Line:
    """Connect to another server as one of its cluster, in a job.

    Raises:
        PeerError: It cannot be reached, is another one, or refuses.
    """
    line = await _connect(reactor, server)
    try:
        await _introduce(line, server, secret, own_id, job_id)
    except BaseException:
        line.close()
        raise
    return line


async def _introduce(line: Line, server: Server, secret: bytes, own_id: str, job_id: str) -> None:
    """Prove to be a server of the same cluster."""
    waiter = Waiter()
    line.speak_for(job_id, secret, waiter)
    await waiter.result()
    nonce = await line.call("POCKETKV.PROXY")
    if not isinstance(nonce, bytes) or nonce.rsplit(b":", 2)[0] != server.id.encode():
        raise PeerError("another server has its address")
    await line.call("POCKETKV.PROXY", own_id, member_proof(secret, own_id, nonce))


async def _connect(reactor: Reactor, server: Server) -> Line:
    try:
        found = await trio.socket.getaddrinfo(
            server.host, server.port, type=trio.socket.SOCK_STREAM
        )
    except OSError as error:
        raise PeerError(f"cannot resolve {server.host}: {error.strerror or error}") from error
    family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    number = sock.connect_ex(address)
    if number not in (0, errno.EINPROGRESS):
        sock.close()
        raise PeerError(f"cannot reach {server.host}:{server.port}: {os.strerror(number)}")
    line = Line(reactor, sock)
    reactor.add(line, writable=True)
    try:
        await line.wait_made()
    except BaseException as error:
        line.close()
        if isinstance(error, PeerError):
            raise PeerError(f"cannot reach {server.host}:{server.port}: {error}") from error
        raise
    return line
