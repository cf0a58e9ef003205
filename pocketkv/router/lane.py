"""A connection to a storage server, in the router's own reactor, that clients share: a lane.

A lane speaks for one job, in one database and one protocol version, so that replies can be passed
on as they are. Requests of many clients leave in one send; replies come back in order. A command
that needs a connection for its client alone (a blocking one, a transaction) takes a lane with the
client's number in its key, which closes with the client (`pocketkv.router.private_lane`).

A server that does not own the slots of a request (a map is late) refuses it, and everything behind
it on that lane, so that nothing overtakes it (`pocketkv.engine.fence`). The lane gathers what was
refused; the router sends it again in the same order.

A long reply is passed on as it arrives. What its client cannot take at once is kept for it: a
client that reads slowly must not hold up the others on its lane.

What does not answer is noticed by the reactor's sweep, about once a second; there is no timer per
request.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.fence import REFUSALS, RESUME
from pocketkv.resp.connection import Connection
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.frames import FrameScanner
from pocketkv.resp.parser import NEED_DATA
from pocketkv.router.upstream import Failure
from pocketkv.router.wire import bulk_body, error_text, is_error, write_request
from pocketkv.tokens import job_token, member_proof

if TYPE_CHECKING:
    from pocketkv.resp.reactor import Reactor
    from pocketkv.router.exchange import Forward
    from pocketkv.router.relay import Relay
    from pocketkv.router.upstream import LaneKey, Upstream

_MINUS: Final = 45
_PUSH: Final = 62
_CRLF_BYTES: Final = 2
# From this size on what is missing of a bulk goes through the pipe: below, a copy costs less.
_SPLICED_BYTES: Final = 64 * limits.KIB
_STREAMED_BYTES: Final = limits.STREAMED_REPLY_BYTES
_TRYAGAIN: Final = b"-TRYAGAIN "


class Lane(Connection):
    """One shared connection.

    It greets (authenticates as the job, chooses protocol and database, proves to be a router)
    before the first request is sent; requests wait for that.

    Attributes:
        key: What it speaks for.
        pending: Requests that are not answered, in order.
        is_ready: Whether the greeting is over.
        failure, reason: Why it ended.
    """

    side = "storage"

    __slots__ = (
        "_behind",
        "_busy_since_s",
        "_expected",
        "_is_connected",
        "_opened_s",
        "_refusal",
        "_refused",
        "_scanner",
        "_streamed",
        "failure",
        "is_ready",
        "key",
        "pending",
        "reason",
        "upstream",
    )

    def __init__(
        self, reactor: Reactor, sock: socket.socket, upstream: Upstream, key: LaneKey
    ) -> None:
        super().__init__(reactor, sock)
        self.upstream = upstream
        self.key = key
        self.pending: deque[Forward] = deque()
        self.is_ready = False
        self.failure = Failure.CLOSED
        self.reason = "closed"
        self._scanner = FrameScanner()
        # Whose reply is passed on although it is not whole.
        self._streamed: Forward | None = None
        self._is_connected = False
        self._opened_s = time.monotonic()
        # When the oldest unanswered request was sent; 0: the round under way has to tell.
        self._busy_since_s = 0.0
        # While the server refuses everything: the first refusal, what was refused since, and how
        # many pending requests are going to be.
        self._refusal = b""
        self._refused: list[Forward] | None = None
        self._behind = 0
        # What the replies to the greeting are for.
        self._expected: deque[str] = deque()
        self._greet()

    # --- greeting ------------------------------------------------------------------------------

    def _greet(self) -> None:
        job_id, database, protocol, _ = self.key
        secret = self.upstream.router.node.secret
        greeting: list[list[bytes]] = []
        if secret:
            greeting.append([b"AUTH", job_id.encode(), job_token(secret, job_id).encode()])
        if protocol == 3:
            greeting.append([b"HELLO", b"3"])
        if database:
            greeting.append([b"SELECT", b"%d" % database])
        # Something must be answered, or a port that takes connections would pass for a server.
        greeting.append([b"POCKETKV.PROXY"] if secret else self.first_question())
        for request in greeting:
            self.outbox.write(encode_request(request))
            self._expected.append(request[0].decode())

    def first_question(self) -> list[bytes]:
        """What a server without a secret is asked before any request."""
        return [b"PING"]

    def on_greeting_answered(self, step: str, frame: bytes) -> None:
        """A part of the greeting was answered, and not with an error."""

    def on_challenged(self, nonce: bytes) -> None:
        """The server that was meant has sent its challenge."""

    def _on_greeted(self, frame: bytes) -> None:
        step = self._expected.popleft()
        if is_error(frame):
            text = error_text(frame).decode("utf-8", "replace")
            self.give_up(Failure.REJECTED, f"it answered {step} with {text}")
            return
        self.on_greeting_answered(step, frame)
        if step == "POCKETKV.PROXY":
            self._prove(bulk_body(frame))
        elif not self._expected:
            self._begin()

    def _prove(self, nonce: bytes) -> None:
        """Answer the server's challenge, which begins with its id."""
        node = self.upstream.router.node
        if nonce.rsplit(b":", 2)[0] != self.upstream.id.encode():
            self.give_up(Failure.UNREACHABLE, "another server has its address")
            return
        self.on_challenged(nonce)
        proof = member_proof(node.secret, node.id, nonce)
        self.outbox.write(encode_request([b"POCKETKV.PROXY", node.id.encode(), proof.encode()]))
        self._expected.append("the proof")
        self.reactor.schedule(self)

    def _begin(self) -> None:
        self.is_ready = True
        for forward in self.pending:
            self._write(forward)
        self._busy_since_s = self.reactor.now_s
        self.reactor.schedule(self)

    # --- requests ------------------------------------------------------------------------------

    def send(self, forward: Forward) -> None:
        """Send a request, with all others of the round."""
        upstream = self.upstream
        if not self.pending:
            self._busy_since_s = 0.0
        self.pending.append(forward)
        upstream.in_flight_bytes += forward.cost_bytes
        if upstream.in_flight_bytes > upstream.in_flight_max_bytes:
            upstream.is_open = False
        if self.is_ready:
            self._write(forward)
        if not self.scheduled:
            self.reactor.schedule(self)

    def _write(self, forward: Forward) -> None:
        frame = forward.frame
        if frame is not None:
            self.outbox.write(frame)
        else:
            write_request(self.outbox, forward.request, forward.cost_bytes)

    def on_turn(self) -> None:
        """Send what has gathered in the round."""
        if self._busy_since_s == 0.0:
            self._busy_since_s = self.reactor.now_s
        self.flush()

    # --- replies -------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Receive replies and pass them on."""
        if self._streamed is None or self._scanner.bulk_missing <= _CRLF_BYTES:
            data = self.receive()
            if data is not None:
                self._scan(data)
                if len(data) == self.receive_bytes < limits.RECEIVE_BYTES:
                    self._after_head()
        streamed = self._streamed
        if streamed is not None and self._scanner.bulk_missing > _CRLF_BYTES and not self.closed:
            # Its rest is on the way, or there already.
            self._receive_bulk(streamed)
        if not self.upstream.is_open:
            self.upstream.relieve()

    def _after_head(self) -> None:
        """Take as much as there is at a time again, unless this was the head of a large bulk."""
        if self._scanner.bulk_missing == 0:
            self.receive_bytes = limits.RECEIVE_BYTES

    def _receive_bulk(self, streamed: Forward) -> None:
        """Receive more of a large bulk, and pass it on without making an object of it."""
        relay = self.upstream.router.relay
        contents = self._scanner.bulk_missing - _CRLF_BYTES
        if relay.pipe_bytes and contents >= _SPLICED_BYTES and streamed.takes_pieces():
            self._splice_bulk(relay, streamed, contents)
        else:
            self._copy_bulk(relay, streamed)

    def _splice_bulk(self, relay: Relay, streamed: Forward, contents: int) -> None:
        """Move contents through the pipe; the CRLF is received and looked at for itself."""
        try:
            count = relay.fill(self.fd, min(contents, relay.pipe_bytes))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.fail(error)
            return
        if count == 0:
            self.on_end()
            return
        self.received_bytes += count
        self.last_receive_s = self.reactor.now_s
        self._scanner.skip(count)
        streamed.relay_spliced(relay, count, count == contents)

    def _copy_bulk(self, relay: Relay, streamed: Forward) -> None:
        """Receive into the buffer, pass that on, and see to what came after the bulk."""
        scanner = self._scanner
        missing = scanner.bulk_missing
        view = relay.buffer[: min(len(relay.buffer), missing)]
        count, after = self.receive_into(view, len(view) == missing)
        if count == missing - 1:
            # The CR alone: it waits for the LF.
            count -= 1
            after = b"\r"
        try:
            if count > 0:
                is_whole = scanner.skip_bulk(view[:count])
                streamed.relay(view[:count])
                if is_whole:
                    self._on_frame(b"")
        except ProtocolError as error:
            self.give_up(Failure.BROKEN, str(error))
        if after and not self.closed:
            self._scan(after)

    def _scan(self, data: bytes) -> None:
        """Pass on every reply that is whole now, and what has come of a long one."""
        scanner = self._scanner
        scanner.feed(data)
        try:
            while not self.closed:
                frame = scanner.next_frame()
                if frame is NEED_DATA:
                    if scanner.bulk_missing > 0 or scanner.begun_bytes >= _STREAMED_BYTES:
                        self._pass_on_begun()
                    return
                self._on_frame(frame)  # type: ignore[arg-type]
        except ProtocolError as error:
            self.give_up(Failure.BROKEN, str(error))

    def _pass_on_begun(self) -> None:
        """Pass on what is there of a long reply, if it is one that need not be whole."""
        scanner = self._scanner
        streamed = self._streamed
        if streamed is None:
            if not self.pending or not self.is_ready or self._refused is not None:
                return
            if scanner.kind == _MINUS or scanner.kind == _PUSH or not self.pending[0].streams:
                return
            streamed = self._streamed = self.pending[0]
            # The contents of the next one, too, are to go straight to where they are sent from.
            self.receive_bytes = limits.RECEIVE_HEAD_BYTES
        streamed.take(scanner.take_begun())

    def _on_frame(self, frame: bytes) -> None:
        if self._streamed is not None:
            streamed, self._streamed = self._streamed, None
            self._take_pending()
            streamed.end(frame)
            return
        kind = self._scanner.kind
        if kind == _PUSH:
            self.on_push(frame)
            return
        if not self.is_ready:
            self._on_greeted(frame)
            return
        if self._refused is not None:
            self._on_fenced(frame, self._refused)
            return
        if not self.pending:
            raise ProtocolError("a reply that nobody asked for")
        forward = self._take_pending()
        if kind != _MINUS:
            forward.answer(frame)
        elif frame.startswith(REFUSALS, 1):
            self._begin_fence(forward, error_text(frame))
        else:
            forward.answer_error(frame)

    def on_push(self, frame: bytes) -> None:
        """A message that is no reply; nothing that clients share asks for such."""

    def _take_pending(self) -> Forward:
        """The request whose reply has come."""
        forward = self.pending.popleft()
        self.upstream.in_flight_bytes -= forward.cost_bytes
        return forward

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for something that may be answered late."""
        return bool(self.pending) and (self.pending[0].may_block or self.pending[0].may_last)

    # --- refusals ------------------------------------------------------------------------------

    def _begin_fence(self, forward: Forward, refusal: bytes) -> None:
        """A request was refused: those that were sent behind it will be, until RESUME."""
        self._refusal = refusal
        self._refused = [forward]
        self._behind = len(self.pending)
        # What their clients send next must not overtake them.
        forward.client.is_unsettled = True
        for other in self.pending:
            other.client.is_unsettled = True
        self.outbox.write(encode_request([RESUME]))
        self.reactor.schedule(self)

    def _on_fenced(self, frame: bytes, refused: list[Forward]) -> None:
        if self._behind:
            if not frame.startswith(_TRYAGAIN):
                raise ProtocolError("expected a refusal")
            self._behind -= 1
            refused.append(self._take_pending())
            return
        if is_error(frame):
            raise ProtocolError("expected a map")
        router = self.upstream.router
        router.learn(self.key[0], frame)
        self._refused = None
        router.refused(refused, self._refusal)

    # --- failure -------------------------------------------------------------------------------

    def give_up(self, failure: Failure, reason: str) -> None:
        """Close for a reason; whoever waits for a reply is told."""
        if not self.closed:
            self.failure = failure
            self.reason = reason
            self.close()

    def on_writable(self) -> None:
        """There is room again, or the connection was made (or could not be)."""
        if not self._is_connected:
            number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self.give_up(Failure.UNREACHABLE, os.strerror(number))
                return
            self._is_connected = True
        Connection.on_writable(self)

    def on_end(self) -> None:
        """The server closed the connection."""
        self.give_up(self._cut_off(), "it closed the connection")

    def fail(self, error: OSError) -> None:
        """The connection broke."""
        self.give_up(self._cut_off(), error.strerror or str(error))

    def _cut_off(self) -> Failure:
        return Failure.BROKEN if self.is_ready else Failure.UNREACHABLE

    def on_sweep(self, now_s: float) -> None:
        """Give up a server that does not answer, and a connection that nobody uses."""
        if self.closed:
            return
        if not self.is_ready:
            if now_s - self._opened_s > limits.UPSTREAM_CONNECT_TIMEOUT_S:
                self.give_up(Failure.UNREACHABLE, "it does not accept the connection")
        elif self.pending and self.pending[0].may_last:
            # `Router.watch_servers` finds out whether the server lives.
            if self.upstream.is_retired:
                self.give_up(Failure.BROKEN, "the server has left")
        elif self.pending or self._refused is not None:
            # Whatever moved last: a large request that is still being sent is no silence.
            moved_s = max(self._busy_since_s or now_s, self.last_receive_s, self.last_progress_s)
            if now_s - moved_s > limits.UPSTREAM_REPLY_TIMEOUT_S:
                self.give_up(Failure.SILENT, "no reply")
        elif self.upstream.is_retired:
            self.give_up(Failure.CLOSED, "the server has left")
        elif now_s - self.last_receive_s > limits.UPSTREAM_IDLE_TIMEOUT_S:
            self.give_up(Failure.CLOSED, "idle")

    def on_closed(self) -> None:
        """Leave the server, and tell those who wait."""
        upstream = self.upstream
        upstream.router.lanes_open -= 1
        if upstream.lanes.get(self.key) is self:
            del upstream.lanes[self.key]
        pending, self.pending = list(self.pending), deque()
        self._streamed = None
        for forward in pending:
            upstream.in_flight_bytes -= forward.cost_bytes
        refused, self._refused = self._refused, None
        if not self.is_ready:
            upstream.router.lane_ended(self, pending, [])
        elif refused is None:
            upstream.router.lane_ended(self, [], pending)
        else:
            refused += pending[: self._behind]
            upstream.router.lane_ended(self, refused, pending[self._behind :])


def begin_connect(upstream: Upstream) -> socket.socket:
    """A socket that is connecting to a server.

    Raises:
        OSError: It could not even begin.
    """
    assert upstream.address is not None  # `admits` lets nothing pass before it is known
    family, address = upstream.address
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    number = sock.connect_ex(address)
    if number not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(number, os.strerror(number))
    return sock
