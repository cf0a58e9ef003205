"""Connections to the storage servers, in the router's own reactor.

An `Upstream` is one storage server as the router sees it. Clients share a few connections to it,
called lanes: a lane speaks for one job, in one database and one protocol version, so that replies
can be passed on as they are. Requests of many clients leave in one send; replies come back in
order. A command that needs a connection for its client alone (a blocking one, a transaction, a
subscription) will have a lane with a number of its own in its key, and the client's session will
close it.

A server that does not own the slots of a request (a map is late) refuses it, and everything behind
it on that lane, so that nothing overtakes it (`pocketkv.engine.fence`). The lane gathers what was
refused; the router sends it again in the same order.

What does not answer is noticed by the reactor's sweep, about once a second; there is no timer per
request.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv import limits
from pocketkv.engine.fence import REFUSALS, RESUME
from pocketkv.resp.connection import Connection
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.frames import FrameScanner
from pocketkv.resp.parser import NEED_DATA
from pocketkv.router.wire import bulk_body, error_text, is_error, write_request
from pocketkv.tokens import job_token, member_proof

if TYPE_CHECKING:
    from pocketkv.resp.reactor import Reactor
    from pocketkv.router.exchange import Forward
    from pocketkv.router.routing import Router

# Job, database, protocol version, number.
LaneKey: TypeAlias = tuple[str, int, int, int]
Address: TypeAlias = tuple[socket.AddressFamily, tuple[str, int]]

_MINUS: Final = 45
_PUSH: Final = 62
_TRYAGAIN: Final = b"-TRYAGAIN "


class Failure(enum.Enum):
    """Why a lane ended."""

    CLOSED = "closed"  # by this side, in an orderly way
    UNREACHABLE = "unreachable"  # before anything was sent on it
    REJECTED = "rejected"  # the server would not take it: it may not know the job yet
    BROKEN = "broken"  # it was cut off
    SILENT = "silent"  # nothing was answered for too long


class Binding:
    """Which lanes a client's requests take, for as long as its job and database are the same.

    Attributes:
        key: Of its lane on every server.
        lanes: By server; a closed one is replaced when it is needed.
    """

    __slots__ = ("key", "lanes")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.lanes: dict[Upstream, UpstreamConnection] = {}


class Upstream:
    """One storage server.

    Attributes:
        id, host, port: As in the list of servers.
        lanes: Open connections.
        in_flight_bytes: Of requests that were sent and not answered.
        held: Requests that wait until there is room, or until the host's name is resolved.
        is_open: Whether requests may be sent without asking `admits`.
        is_retired: Whether it has left the list of servers, so that idle lanes close.
    """

    __slots__ = (
        "_failure",
        "_suspended_until_s",
        "address",
        "held",
        "host",
        "id",
        "in_flight_bytes",
        "is_open",
        "is_retired",
        "lanes",
        "port",
        "router",
    )

    def __init__(self, router: Router, server_id: str, host: str, port: int) -> None:
        self.router = router
        self.id = server_id
        self.host = host
        self.port = port
        self.address = _literal_address(host, port)
        self.lanes: dict[LaneKey, UpstreamConnection] = {}
        self.in_flight_bytes = 0
        self.held: deque[Forward] = deque()
        self.is_open = self.address is not None
        self.is_retired = False
        # Why it cannot be reached, for as long as requests fail at once because of that.
        self._failure = ""
        self._suspended_until_s = 0.0

    @property
    def name(self) -> str:
        """What an error message calls it."""
        return f"{self.id[:12]} at {self.host}:{self.port}"

    # --- room ----------------------------------------------------------------------------------

    def admits(self, forward: Forward) -> bool:
        """Whether a request may be sent now; else it is held, or has failed already."""
        if self._failure:
            if time.monotonic() < self._suspended_until_s:
                forward.fail(self.unreachable(self._failure))
                return False
            self._failure = ""
        # Nobody overtakes those that are held already, or they might wait for ever.
        if self.held or self.address is None or self._is_full():
            self.held.append(forward)
            forward.client.hold()
            if self.address is None:
                self.router.resolve(self)
            return False
        self.is_open = True
        return True

    def relieve(self) -> None:
        """Send what was held back, once there is room again."""
        if self.address is None and not self._failure:
            return
        if self.held and self.in_flight_bytes > limits.UPSTREAM_BACKLOG_MAX_BYTES // 2:
            return
        for _ in range(len(self.held)):
            if self._is_full():
                break
            forward = self.held.popleft()
            forward.client.release()
            if self._failure or forward.client.closed:
                forward.fail(self.unreachable(self._failure))
            else:
                forward.dispatch(self)
        self.is_open = not (self.held or self._failure or self.address is None or self._is_full())

    def _is_full(self) -> bool:
        return self.in_flight_bytes > limits.UPSTREAM_BACKLOG_MAX_BYTES

    def suspend(self, reason: str) -> None:
        """It cannot be reached: let requests fail at once for a while."""
        if not self._failure:
            self.router.log.warning(
                "storage server does not answer", extra={"server": self.name, "reason": reason}
            )
        self._failure = reason
        if _literal_address(self.host, self.port) is None:
            # The name may mean another address by now.
            self.address = None
        self._suspended_until_s = time.monotonic() + limits.UPSTREAM_SUSPEND_S
        self.is_open = False

    def unreachable(self, reason: str) -> bytes:
        """The error of a request that was certainly not executed."""
        return f"CLUSTERDOWN Storage server {self.name} does not answer: {reason}".encode()

    # --- lanes ---------------------------------------------------------------------------------

    def connect(self, binding: Binding) -> UpstreamConnection:
        """The lane of a binding, opened if it is not.

        Raises:
            OSError: There can be no connection.
        """
        lane = self.lanes.get(binding.key)
        if lane is None:
            assert self.address is not None  # `admits` lets nothing pass before it is known
            sock = _begin_connect(*self.address)
            lane = UpstreamConnection(self.router.reactor, sock, self, binding.key)
            self.lanes[binding.key] = lane
            self.router.reactor.add(lane, writable=True)
            self.router.counters.lanes_opened += 1
            self.router.lanes_open += 1
        binding.lanes[self] = lane
        return lane

    def close_lanes(self, job_id: str | None = None) -> None:
        """Close all lanes, or those of one job; what they still owe fails."""
        for key, lane in list(self.lanes.items()):
            if job_id is None or key[0] == job_id:
                lane.give_up(Failure.CLOSED, "it is used no more")


class UpstreamConnection(Connection):
    """One lane.

    It greets (authenticates as the job, chooses protocol and database, proves to be a router)
    before the first request is sent; requests wait for that.

    Attributes:
        pending: Requests that are not answered, in order.
        is_ready: Whether the greeting is over.
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
        greeting.append([b"POCKETKV.PROXY"] if secret else [b"PING"])
        for request in greeting:
            self.outbox.write(encode_request(request))
            self._expected.append(request[0].decode())

    def _on_greeted(self, frame: bytes) -> None:
        step = self._expected.popleft()
        if is_error(frame):
            text = error_text(frame).decode("utf-8", "replace")
            self.give_up(Failure.REJECTED, f"it answered {step} with {text}")
        elif step == "POCKETKV.PROXY":
            self._prove(bulk_body(frame))
        elif not self._expected:
            self._begin()

    def _prove(self, nonce: bytes) -> None:
        """Answer the server's challenge, which begins with its id."""
        node = self.upstream.router.node
        if nonce.rsplit(b":", 2)[0] != self.upstream.id.encode():
            self.give_up(Failure.UNREACHABLE, "another server has its address")
            return
        proof = member_proof(node.secret, node.id, nonce)
        self.outbox.write(encode_request([b"POCKETKV.PROXY", node.id.encode(), proof.encode()]))
        self._expected.append("the proof")
        self.reactor.schedule(self)

    def _begin(self) -> None:
        self.is_ready = True
        for forward in self.pending:
            write_request(self.outbox, forward.request, forward.cost_bytes)
        self._busy_since_s = self.reactor.now_s
        self.reactor.schedule(self)

    # --- requests and replies ------------------------------------------------------------------

    def send(self, forward: Forward) -> None:
        """Send a request, at the latest in the next round."""
        upstream = self.upstream
        if not self.pending:
            self._busy_since_s = 0.0
        self.pending.append(forward)
        upstream.in_flight_bytes += forward.cost_bytes
        if upstream.in_flight_bytes > limits.UPSTREAM_BACKLOG_MAX_BYTES:
            upstream.is_open = False
        if self.is_ready:
            write_request(self.outbox, forward.request, forward.cost_bytes)
        self.reactor.schedule(self)

    def on_turn(self) -> None:
        """Send what has gathered since the last round."""
        if self._busy_since_s == 0.0:
            self._busy_since_s = self.reactor.now_s
        self.flush()

    def on_readable(self) -> None:
        """Receive replies and pass each one on."""
        data = self.receive()
        if data is None:
            return
        scanner = self._scanner
        scanner.feed(data)
        try:
            while not self.closed:
                frame = scanner.next_frame()
                if not isinstance(frame, bytes):
                    assert frame is NEED_DATA
                    break
                self._on_frame(frame)
        except ProtocolError as error:
            self.give_up(Failure.BROKEN, str(error))
        if not self.upstream.is_open:
            self.upstream.relieve()

    def _on_frame(self, frame: bytes) -> None:
        if frame[0] == _PUSH:
            return
        if not self.is_ready:
            self._on_greeted(frame)
            return
        if self._refused is not None:
            self._on_fenced(frame, self._refused)
            return
        if not self.pending:
            raise ProtocolError("a reply that nobody asked for")
        forward = self.pending.popleft()
        self.upstream.in_flight_bytes -= forward.cost_bytes
        if frame[0] == _MINUS and frame.startswith(REFUSALS, 1):
            self._begin_fence(forward, error_text(frame))
        else:
            forward.answer(frame)

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
            forward = self.pending.popleft()
            self.upstream.in_flight_bytes -= forward.cost_bytes
            refused.append(forward)
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
        super().on_writable()

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


def _literal_address(host: str, port: int) -> Address | None:
    """The address of a host that is written as a number; ``None`` for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family, (host, port)
    return None


def _begin_connect(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    """A socket that is connecting.

    Raises:
        OSError: It could not even begin.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    number = sock.connect_ex(address)
    if number not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(number, os.strerror(number))
    return sock
