"""One socket in the reactor: what all connections share, and a client's connection.

Division of labour: `RequestParser` understands what comes in, `Outbox` holds what goes out, both
without I/O; the classes here move bytes between them and the socket and decide whose turn it is.
What a request means is the business of a `RequestHandler`.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Protocol

from pocketkv import limits
from pocketkv.resp.encoder import Outbox
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.parser import NEED_DATA, SKIPPED, RequestParser
from pocketkv.resp.replies import Deferred, Encoded, ErrorReply, Reply
from pocketkv.resp.syscalls import receive, send

if TYPE_CHECKING:
    from pocketkv.resp.reactor import Reactor

# Errors of a socket that mean no more than that the other side is gone.
_GONE = frozenset(
    {errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNABORTED, errno.EHOSTUNREACH}
)


class RequestHandler(Protocol):
    """What a server does with the requests of one connection."""

    def execute(self, request: list[bytes]) -> Reply:
        """Answer one request; never raises for what a client did wrong."""
        ...

    def on_close(self) -> None:
        """The connection is gone."""
        ...


class Connection:
    """A non-blocking socket in a reactor, with what waits to be sent on it.

    Attributes:
        side: Who is on the other end, ``server`` or ``client``; what the reactor counts by.
    """

    side: ClassVar[str] = "server"

    __slots__ = (
        "__weakref__",
        "closed",
        "fd",
        "input_paused",
        "last_progress_s",
        "last_receive_s",
        "outbox",
        "output_waits",
        "reactor",
        "received_bytes",
        "scheduled",
        "send_bytes_per_turn",
        "sent_bytes",
        "socket",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reactor = reactor
        self.socket = sock
        self.fd = sock.fileno()
        self.outbox = Outbox()
        self.closed = False
        # Whether the kernel's buffer is full, so that the reactor waits for room.
        self.output_waits = False
        # Whether received bytes are left in the kernel on purpose.
        self.input_paused = False
        # Whether a turn is due without the socket having to become readable.
        self.scheduled = False
        self.send_bytes_per_turn = limits.SEND_BYTES_PER_TURN
        self.received_bytes = 0
        self.sent_bytes = 0
        self.last_receive_s = reactor.now_s
        self.last_progress_s = reactor.now_s

    # --- for subclasses ------------------------------------------------------------------------

    def on_readable(self) -> None:
        """The socket has bytes, its end, or an error."""
        raise NotImplementedError  # An interface: the reactor only holds subclasses.

    def on_turn(self) -> None:
        """A turn that `Reactor.schedule` asked for."""
        raise NotImplementedError  # An interface: the reactor only holds subclasses.

    def on_end(self) -> None:
        """The other side will send nothing more."""
        self.close()

    def on_drained(self) -> None:
        """Everything that waited to be sent was sent."""

    def on_closed(self) -> None:
        """The connection was closed, by either side."""

    def on_sweep(self, now_s: float) -> None:
        """Called about once a second, for time-outs."""

    # --- I/O -----------------------------------------------------------------------------------

    def receive(self) -> bytes | None:
        """What the kernel has, at most `limits.RECEIVE_BYTES`; ``None`` if nothing or closed."""
        try:
            data = receive(self.fd)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.fail(error)
            return None
        if not data:
            self.on_end()
            return None
        self.received_bytes += len(data)
        self.last_receive_s = self.reactor.now_s
        return data

    def receive_into(self, view: memoryview) -> int:
        """Receive into a buffer; 0 if nothing came or the connection was closed."""
        try:
            count = self.socket.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.fail(error)
            return 0
        if count == 0:
            self.on_end()
        self.received_bytes += count
        self.last_receive_s = self.reactor.now_s
        return count

    def flush(self) -> None:
        """Send what the kernel takes; wait for room if it does not take all."""
        outbox = self.outbox
        budget_bytes = self.send_bytes_per_turn
        while outbox.pending_bytes and not self.output_waits and not self.closed:
            if budget_bytes <= 0:
                # It takes as fast as we send: the others' turn, before this one goes on.
                self._wait_for_room()
                return
            small = outbox.take_small()
            try:
                if small is not None:
                    count = send(self.fd, small)
                else:
                    count = self.socket.sendmsg(outbox.pieces())
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                self.fail(error)
                return
            self.sent_bytes += count
            self.last_progress_s = self.reactor.now_s
            budget_bytes -= count
            if small is None:
                outbox.sent(count)
                full = count == 0
            else:
                # A short send means a full buffer: asking again at once would only cost a call.
                full = count < len(small)
                if full:
                    outbox.give_back(small[count:])
            if full:
                self._wait_for_room()
                return

    def on_writable(self) -> None:
        """The kernel has room again."""
        self.output_waits = False
        self.flush()
        if not self.output_waits and not self.closed:
            self.reactor.update_interest(self)
            self.on_drained()

    def _wait_for_room(self) -> None:
        self.output_waits = True
        self.last_progress_s = self.reactor.now_s
        self.reactor.update_interest(self)

    def pause_input(self) -> None:
        """Leave further bytes in the kernel, so that the sender is held back by TCP."""
        if not self.input_paused and not self.closed:
            self.input_paused = True
            self.reactor.update_interest(self)

    def resume_input(self) -> None:
        """Undo `pause_input`."""
        if self.input_paused and not self.closed:
            self.input_paused = False
            self.reactor.update_interest(self)

    def fail(self, error: OSError) -> None:
        """Close after an error of the socket; one that is not the peer's doing is logged."""
        if error.errno not in _GONE:
            self.reactor.log.warning(
                "connection failed", extra={"fd": self.fd, "error": str(error)}
            )
        self.close()

    def close(self) -> None:
        """Close now; what was not sent is lost. Closing twice does nothing."""
        if self.closed:
            return
        self.closed = True
        self.reactor.remove(self)
        self.socket.close()
        try:
            self.on_closed()
        except Exception:
            # Whoever closes it may be serving another connection.
            self.reactor.log.exception("internal error after closing", extra={"fd": self.fd})


class ClientConnection(Connection):
    """A client: its requests go to a handler one after the other, its replies leave in order."""

    side = "client"

    __slots__ = (
        "_backlog_high_bytes",
        "_closing",
        "_ended",
        "_exclusive",
        "_overrun",
        "_requests_per_turn",
        "_waiting",
        "handler",
        "outstanding_max",
        "parser",
        "requests",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__(reactor, sock)
        self.parser = RequestParser()
        self.handler: RequestHandler | None = None
        self.requests = 0
        self._requests_per_turn = limits.REQUESTS_PER_TURN
        self._backlog_high_bytes = limits.REPLY_BACKLOG_HIGH_BYTES
        # Replies that are not known yet, with the ones that must wait behind them.
        self._waiting: deque[Deferred] = deque()
        # Replies that it may wait for at a time; a router lowers it to hold a client back. Raising
        # it takes effect at the connection's next turn.
        self.outstanding_max = limits.OUTSTANDING_REQUESTS_MAX
        # The reply that further requests must wait for, of a blocking command.
        self._exclusive: Deferred | None = None
        # Set once nothing more is to be served: the connection ends when all is sent.
        self._closing = False
        # Set once the client sends nothing more: what it sent is served, then the connection ends.
        self._ended = False
        # Set once more was pushed than a client may leave unread.
        self._overrun = False

    @property
    def input_bytes(self) -> int:
        """Bytes that were received and not executed yet."""
        return self.parser.buffered_bytes

    def restrict_input(self) -> None:
        """Apply the limits for a client that has not authenticated although it must."""
        self.parser.restrict()

    def unrestrict_input(self, bulk_bytes_max: int) -> None:
        """Lift `restrict_input`; arguments may be of `bulk_bytes_max`."""
        self.parser.unrestrict(bulk_bytes_max)

    def hand_over(self, handler: RequestHandler) -> None:
        """Have another handler execute the requests, from the next one on."""
        self.handler = handler

    @property
    def outstanding(self) -> int:
        """Replies that this client waits for and that are not known yet."""
        return len(self._waiting)

    @property
    def unsent_reply_bytes(self) -> int:
        """Encoded replies that are known and not sent, with those that wait for earlier ones."""
        return self.outbox.pending_bytes + sum(
            len(known.reply.raw) for known in self._waiting if isinstance(known.reply, Encoded)
        )

    def on_readable(self) -> None:
        """Receive, unless requests wait for their turn already; then serve."""
        if self._closing:
            # What is left unread when a socket is closed would take the last replies back.
            self.receive()
            return
        if self.scheduled or self.input_paused:
            # It has requests that wait for their turn; reading more would only pile them up.
            return
        view = self.parser.writable()
        if view is not None:
            count = self.receive_into(view)
            if count == 0:
                return
            self.parser.wrote(count)
        else:
            data = self.receive()
            if data is None:
                return
            self.parser.feed(data)
        self.on_turn()

    def on_turn(self) -> None:
        """Serve the requests that are there, up to one turn's worth, and send the replies."""
        if self._overrun:
            self.reactor.drop(self, "it does not read its pushes")
            return
        more = self._serve_requests()
        if self.closed:
            return
        self.flush()
        if self._ended and self._exclusive is not None:
            self.close()
            return
        self._limit_backlog()
        self._finish_closing()
        if more and self._may_serve():
            self.reactor.schedule(self)

    def _serve_requests(self) -> bool:
        """Serve up to one turn's worth of requests; whether there may be more."""
        turns = self._requests_per_turn
        while self._may_serve():
            if turns == 0:
                return True
            turns -= 1
            if not self._serve_one():
                return False
        return True

    def _may_serve(self) -> bool:
        return (
            self._exclusive is None
            and not self._closing
            and not self.closed
            and self.outbox.pending_bytes <= self._backlog_high_bytes
            and len(self._waiting) < self.outstanding_max
        )

    def _serve_one(self) -> bool:
        """Serve one request; false if there is none."""
        try:
            request = self.parser.next_request()
        except ProtocolError as error:
            self.reply(ErrorReply(b"ERR " + str(error).encode()))
            self.close_when_sent()
            return False
        if request is NEED_DATA:
            self._closing = self._ended
            return False
        if request is SKIPPED:
            self.reactor.schedule(self)
            return False
        assert self.handler is not None
        self.requests += 1
        self.reply(self.handler.execute(request))  # type: ignore[arg-type]
        return True

    # --- replies -------------------------------------------------------------------------------

    def reply(self, reply: Reply) -> None:
        """Answer the request being served, behind the replies that are still to come."""
        if isinstance(reply, Deferred):
            self._waiting.append(reply)
            if reply.exclusive and not reply.done:
                self._exclusive = reply
            reply.listen(self._on_reply_known)
        elif self._waiting:
            known = Deferred(exclusive=False)
            known.complete(reply)
            self._waiting.append(known)
        else:
            self.outbox.encode(reply)

    def push(self, reply: Reply) -> None:
        """Send an out-of-band message: between replies, never inside one.

        A client that leaves too many unread is dropped at its next turn, not from here: the
        caller may be telling all clients.
        """
        if self.closed:
            return
        if self.outbox.pending_bytes > limits.PUSH_BACKLOG_MAX_BYTES:
            self._overrun = True
        else:
            self.outbox.encode(reply)
        self.reactor.schedule(self)

    def _on_reply_known(self) -> None:
        # The caller may be in the middle of another connection's turn: a reply that cannot be
        # encoded is not its fault, and requests that waited are served later.
        if not self.closed:
            self.reactor.guard(self, self._take_known_replies)
            self.reactor.schedule(self)

    def _take_known_replies(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0].done:
            known = waiting.popleft()
            if known is self._exclusive:
                self._exclusive = None
            self.outbox.encode(known.reply)

    def close_when_sent(self) -> None:
        """Serve nothing more, and close when every reply that is due was sent."""
        self._closing = True
        # An idle connection has no other reason to get a turn.
        self.reactor.schedule(self)

    def on_end(self) -> None:
        """Nothing more will come: serve what came (``nc`` half-closes), but let nobody block.

        A client that waits in a blocking command has gone away, and must not take an element.
        """
        self._ended = True
        self.pause_input()
        self.on_turn()

    def _finish_closing(self) -> None:
        if self._closing and not self._waiting and not self.outbox.pending_bytes:
            self.close()

    # --- limits --------------------------------------------------------------------------------

    def _limit_backlog(self) -> None:
        """Stop receiving when too much waits; begin again when half of it is gone."""
        if self.closed or self._closing or self._ended:
            return
        backlog = self.parser.buffered_bytes
        if not self.input_paused:
            if backlog >= limits.REQUEST_BACKLOG_MAX_BYTES and not self._may_serve():
                self.pause_input()
        elif backlog < limits.REQUEST_BACKLOG_MAX_BYTES // 2 or self._may_serve():
            self.resume_input()

    def on_drained(self) -> None:
        """Go on with requests that waited for their replies' turn to be sent."""
        self.on_turn()

    def on_sweep(self, now_s: float) -> None:
        """Drop a client that takes no replies, or does not finish its request."""
        if self.output_waits and now_s - self.last_progress_s > limits.REPLY_STALL_TIMEOUT_S:
            self.reactor.drop(self, "it does not read its replies")
        elif self.parser.mid_request and self._exclusive is None and not self.output_waits:
            self._check_partial_request(now_s)

    def _check_partial_request(self, now_s: float) -> None:
        restricted = self.parser.arguments_max <= limits.UNAUTHENTICATED_ARGUMENTS_MAX
        timeout_s = (
            limits.UNAUTHENTICATED_TIMEOUT_S if restricted else limits.PARTIAL_REQUEST_TIMEOUT_S
        )
        if now_s - self.last_receive_s > timeout_s and not self._waiting:
            self.reply(ErrorReply(b"ERR Protocol error: the rest of the request did not come"))
            self.close_when_sent()
            self.on_turn()

    def on_closed(self) -> None:
        """Tell whoever works on a reply, and the handler, that the client is gone."""
        waiting, self._waiting = self._waiting, deque()
        try:
            for deferred in waiting:
                deferred.abandon()
        finally:
            if self.handler is not None:
                self.handler.on_close()
