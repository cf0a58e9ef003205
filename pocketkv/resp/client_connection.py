"""A client's connection: requests in, replies out, in order.

Division of labour: `RequestParser` understands what comes in, `Outbox` holds what goes out, both
without I/O; the class here moves bytes between them and the socket and decides whose turn it is.
What a request means is the business of a `RequestHandler`.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from pocketkv import limits
from pocketkv.resp.connection import Connection
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.parser import NEED_DATA, SKIPPED, RequestParser
from pocketkv.resp.replies import NO_REPLY, PENDING, Deferred, Encoded, ErrorReply, Reply
from pocketkv.resp.syscalls import send_before_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketkv.resp.reactor import Reactor


class ClientConnection(Connection):
    """A client: its requests go to a handler one after the other, its replies leave in order."""

    side = "client"

    __slots__ = (
        "_answered",
        "_backlog_high_bytes",
        "_closing",
        "_commit",
        "_ended",
        "_exclusive",
        "_held_bytes",
        "_held_pushes",
        "_overrun",
        "_push_backlog_max_bytes",
        "_request_backlog_max_bytes",
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
        # Has what requests changed kept before they are answered; tells why it could not.
        self._commit = reactor.commit
        # Replies that were encoded in this turn.
        self._answered = 0
        self._requests_per_turn = limits.REQUESTS_PER_TURN
        self._backlog_high_bytes = limits.REPLY_BACKLOG_HIGH_BYTES
        self._request_backlog_max_bytes = limits.REQUEST_BACKLOG_MAX_BYTES
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
        # Encoded pushes that came while a reply was half sent, and their bytes.
        self._held_pushes: list[bytes] = []
        self._held_bytes = 0
        self._push_backlog_max_bytes = limits.PUSH_BACKLOG_MAX_BYTES
        # Set once more was pushed than a client may leave unread.
        self._overrun = False

    @property
    def input_bytes(self) -> int:
        """Bytes that were received and not executed yet."""
        return self.parser.buffered_bytes()

    def restrict_input(self) -> None:
        """Apply the limits for a client that has not authenticated although it must."""
        self.parser.restrict()

    def unrestrict_input(self, bulk_bytes_max: int, request_bytes_max: int) -> None:
        """Lift `restrict_input`; arguments and requests may be of such sizes."""
        self.parser.unrestrict(bulk_bytes_max, request_bytes_max)

    def limit_pushes(self, unread_bytes_max: int) -> None:
        """Drop it when it leaves so many bytes unread and is to be sent one more message."""
        self._push_backlog_max_bytes = unread_bytes_max

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
        unsent = self.outbox.pending_bytes + self._held_bytes
        for known in self._waiting:
            if isinstance(known.reply, Encoded):
                unsent += len(known.reply.raw)
            if known.pieces is not None:
                unsent += sum(map(len, known.pieces))
        return unsent

    def on_readable(self) -> None:
        """Receive, unless requests wait for their turn already; then serve."""
        if self._closing:
            # What is left unread when a socket is closed would take the last replies back.
            self.receive()
            return
        if self.scheduled or self.input_paused:
            # It has requests that wait for their turn; reading more would only pile them up.
            return
        if self._receive_large():
            # Whoever sends one large argument sends more of them.
            self.receive_bytes = limits.RECEIVE_HEAD_BYTES
            return
        received = self.receive()
        if received is None:
            return
        self.parser.feed(received)
        self.on_turn()
        if self.receive_bytes < limits.RECEIVE_BYTES and len(received) >= self.receive_bytes:
            self._after_head()

    def _after_head(self) -> None:
        """Go on after receiving no more than may stand before a large argument."""
        if self.closed or self._closing or self.scheduled or self.input_paused:
            return
        if not self._receive_large() and not self.parser.mid_large():
            # It sends small ones as well.
            self.receive_bytes = limits.RECEIVE_BYTES

    def _receive_large(self) -> bool:
        """Receive a large argument's next bytes, and serve; false if none is under way."""
        view = self.parser.writable()
        if view is None:
            return False
        if self.reactor.holds_large:
            self.reactor.hold_large(self)
            return True
        # What comes after a large argument comes with it, instead of by a call of its own.
        count, data = self.receive_into(view, self.parser.completes(len(view)))
        # The view is good until the sink is asked again.
        del view
        if count > 0:
            self.parser.wrote(count)
            if data:
                self.parser.feed(data)
            self.on_turn()
        return True

    def on_turn(self) -> None:
        """Serve the requests that are there, up to one turn's worth, and send the replies."""
        if self._overrun:
            self.reactor.drop(self, "it does not read its pushes")
            return
        more = self._serve_requests() if self._commit is None else self._serve_and_commit()
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

    def _serve_and_commit(self) -> bool:
        """`_serve_requests`, of which nothing is answered before it is kept."""
        before_bytes = self.outbox.pending_bytes
        waiting = len(self._waiting)
        self._answered = 0
        more = self._serve_requests()
        assert self._commit is not None  # The caller has looked.
        error = self._commit()
        if error is not None and not self.closed:
            self._answer_anew(error, before_bytes, waiting)
        return more

    def _answer_anew(self, error: ErrorReply, before_bytes: int, waiting: int) -> None:
        """Answer this turn's requests, none of which was acknowledged yet, with an error."""
        self.outbox.take_back(self.outbox.pending_bytes - before_bytes)
        for _ in range(self._answered):
            self.outbox.encode(error)
        for deferred in list(self._waiting)[waiting:]:
            if deferred.done:
                deferred.reply = error

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
            deferred = reply
            self._waiting.append(deferred)
            if deferred.reply is not PENDING:
                self.on_reply_known()
                return
            deferred.connection = self
            if deferred.exclusive:
                self._exclusive = deferred
        elif self._waiting:
            self._waiting.append(_known(reply))
        else:
            if reply is not NO_REPLY:
                self._answered += 1
            self.outbox.encode(reply)

    def push(self, reply: Reply) -> None:
        """Send an out-of-band message: between replies, never inside one.

        A client that leaves too many unread is dropped at its next turn, not from here: the
        caller may be telling all clients.
        """
        if self.closed:
            return
        if self.outbox.pending_bytes + self._held_bytes > self._push_backlog_max_bytes:
            self._overrun = True
        elif self._waiting and self._waiting[0].is_begun:
            raw = encode_reply(reply, self.outbox.protocol)
            self._held_pushes.append(raw)
            self._held_bytes += len(raw)
        else:
            self.outbox.encode(reply)
        self.reactor.schedule(self)

    def push_behind(self, reply: Reply) -> None:
        """Send an out-of-band message behind the replies that are still to come.

        A client that waits in a blocking command is told at once.
        """
        if self.closed:
            return
        if self._waiting and self._exclusive is None:
            self._waiting.append(_known(Encoded(encode_reply(reply, self.outbox.protocol))))
        else:
            self.push(reply)

    def is_next(self, reply: Deferred) -> bool:
        """Whether a piece of a reply can be sent now: it is its turn, and the client takes it."""
        return (
            not self.closed
            and not self.output_waits
            and len(self._waiting) > 0
            and self._waiting[0] is reply
        )

    def relay(self, reply: Deferred, piece: memoryview) -> int:
        """Send a piece of a reply from where it stands, if it is the reply's turn.

        What waits to be sent is sent before it, in one call.

        Returns:
            How many bytes of the piece were sent; the others have to be given to the reply.
        """
        if not self.is_next(reply):
            return 0
        outbox = self.outbox
        pieces = outbox.pieces()
        before_bytes = sum(map(len, pieces))
        if before_bytes < outbox.pending_bytes:
            return 0
        count = self._send_piece(partial(self.socket.sendmsg, [*pieces, piece]))
        if count == 0:
            return 0
        outbox.sent(min(count, before_bytes))
        if count < before_bytes + len(piece):
            self._wait_for_room()
        if count <= before_bytes:
            return 0
        reply.is_begun = True
        return count - before_bytes

    def relay_by(self, reply: Deferred, send_piece: Callable[[int], int]) -> int:
        """Have a piece of a reply sent from where it stands, if it is the reply's turn.

        Args:
            reply: Whose piece it is.
            send_piece: Sends it over a descriptor, and tells how many bytes that were.

        Returns:
            The same; the other bytes have to be given to the reply.
        """
        if not self.is_next(reply) or not self._send_before_piece():
            return 0
        count = self._send_piece(partial(send_piece, self.fd))
        if count > 0:
            reply.is_begun = True
        return count

    def _send_before_piece(self) -> bool:
        """Send what waits to be sent, more of which follows at once; whether that was all."""
        outbox = self.outbox
        if outbox.pending_bytes == 0:
            return True
        pieces = outbox.pieces()
        if sum(map(len, pieces)) == outbox.pending_bytes:
            outbox.sent(self._send_piece(partial(self._send_before, pieces)))
        return outbox.pending_bytes == 0 and not self.closed

    def _send_before(self, pieces: list[memoryview]) -> int:
        return send_before_file(self.socket, pieces)

    def _send_piece(self, step: Callable[[], int]) -> int:
        """Send something; how much that was, 0 if nothing or the connection was closed."""
        try:
            count = step()
        except (BlockingIOError, InterruptedError):
            self._wait_for_room()
            return 0
        except OSError as error:
            self.fail(error)
            return 0
        self.sent_bytes += count
        self.last_progress_s = self.reactor.now_s
        return count

    def on_reply_known(self) -> None:
        """Take what is known of the replies that are next."""
        # The caller may be in the middle of another connection's turn: requests that waited for
        # this are served later.
        if not self.closed:
            self._take_known_replies()
            self.reactor.schedule(self)

    def _take_known_replies(self) -> None:
        waiting = self._waiting
        while waiting:
            known = waiting[0]
            if known.pieces is not None:
                self._take_pieces(known)
            reply = known.reply
            if reply is PENDING:
                return
            waiting.popleft()
            if known is self._exclusive:
                self._exclusive = None
            if reply is not NO_REPLY:
                self._answered += 1
            if isinstance(reply, Encoded):
                encoded = reply
                self.outbox.write(encoded.raw)
            elif type(reply) is bytes:
                self.outbox.encode(reply)
            else:
                # A reply that cannot be encoded costs this connection, and not whoever knows it.
                self.reactor.guard(self, partial(self._encode, reply))
                if self.closed:
                    return
            if self._held_pushes:
                self._release_pushes()

    def _release_pushes(self) -> None:
        """Send the pushes that came in the middle of the reply before, in their order."""
        held, self._held_pushes = self._held_pushes, []
        self._held_bytes = 0
        for raw in held:
            self.outbox.write(raw)

    def _encode(self, reply: Reply) -> None:
        self.outbox.encode(reply)

    def _take_pieces(self, reply: Deferred) -> None:
        """Take what is known of the reply whose turn it is."""
        pieces, reply.pieces = reply.pieces, None
        assert pieces is not None
        reply.is_begun = True
        for piece in pieces:
            self.outbox.write(piece)

    def is_left(self) -> bool:
        """Whether the other side has gone, or will send nothing more, whatever it sent before."""
        if self.closed or self._ended:
            return True
        poll = select.poll()
        poll.register(self.fd, select.POLLRDHUP)
        # Errors are told unasked.
        return bool(poll.poll(0))

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
        backlog = self.parser.buffered_bytes()
        if not self.input_paused:
            if backlog >= self._request_backlog_max_bytes and not self._may_serve():
                self.pause_input()
        elif backlog < self._request_backlog_max_bytes // 2 or self._may_serve():
            self.resume_input()

    def on_drained(self) -> None:
        """Go on with requests that waited for their replies' turn to be sent."""
        self.on_turn()

    def on_sweep(self, now_s: float) -> None:
        """Drop a client that takes no replies, or does not finish its request."""
        if self.fetching:
            return
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
        self.parser.abort()
        waiting, self._waiting = self._waiting, deque()
        try:
            for deferred in waiting:
                deferred.abandon()
        finally:
            if self.handler is not None:
                self.handler.on_close()


def _known(reply: Reply) -> Deferred:
    """A reply that is known, with a place in the order."""
    known = Deferred(exclusive=False)
    known.complete(reply)
    return known
