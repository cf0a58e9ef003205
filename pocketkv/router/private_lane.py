"""A lane for one client alone: what it asks there may block, and what is there is its own.

The server's session behind it has the client's state (what it watches, what is tracked for it),
follows its database and protocol, and ends with it. Its replies are as the client's: in order; what
the server pushes on it is the client's too.

Nobody can tell from a blocking command that is not answered whether its server is alive, so such a
lane is not given up for its silence: the router asks on another one (`Router.watch_servers`).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.commands import find_command
from pocketkv.resp.replies import ErrorReply, Reply
from pocketkv.router.exchange import Asker, Forward
from pocketkv.router.lane import Lane
from pocketkv.router.upstream import Binding, Failure
from pocketkv.router.wire import error_text, request_cost

if TYPE_CHECKING:
    from pocketkv.resp.reactor import Reactor
    from pocketkv.router.transactions import Watched
    from pocketkv.router.upstream import LaneKey, Upstream

# With so many lanes of single clients, one that has nothing to do is not kept open.
_KEPT_OPEN_MAX: Final = 1024
_COLON: Final = 58


class PrivateBinding(Binding):
    """The lanes of one client alone.

    Attributes:
        client: Whose they are.
        watched: What the client watches for its next transaction, if it does.
        tracking: What has the servers tell which keys have changed (CLIENT TRACKING), if anything.
        tracking_changes: How often that has changed.
    """

    __slots__ = ("client", "tracking", "tracking_changes", "watched")

    def __init__(self, client: Asker, key: LaneKey) -> None:
        super().__init__(key)
        self.client = client
        self.watched: Watched | None = None
        self.tracking: list[bytes] | None = None
        self.tracking_changes = 0

    @property
    def keeps(self) -> bool:
        """Whether the servers know something of the client, so that idle lanes stay open."""
        is_told = self.tracking is not None or self.client.session.monitoring
        return self.watched is not None or is_told

    def own(self) -> list[PrivateLane]:
        """The lanes that are open."""
        lanes = self.lanes.values()
        return [lane for lane in lanes if isinstance(lane, PrivateLane) and not lane.closed]

    def close(self) -> None:
        """Close all of them; what they still owe fails."""
        for lane in list(self.lanes.values()):
            lane.give_up(Failure.CLOSED, "it is used no more")
        self.lanes.clear()


class SpareBinding(PrivateBinding):
    """The lane that a server has for whichever client needs one next: it need not be opened then.

    So a command that blocks does not come to the server after others that were sent later.
    """

    __slots__ = ()

    @property
    def keeps(self) -> bool:
        """Nobody's lane may close."""
        return False


class SetUp(Forward):
    """Has a private lane follow its client: SELECT, HELLO. The client has not asked for it."""

    __slots__ = ("lane",)

    def __init__(self, lane: PrivateLane, client: Asker, *request: bytes) -> None:
        super().__init__(client, find_command(list(request)), list(request))
        self.lane = lane
        self.cost_bytes = request_cost(self.request, None)
        self.upstream = lane.upstream

    def answer_error(self, frame: bytes) -> None:
        """The lane is not what the client takes it for."""
        self.complete(ErrorReply(error_text(frame)))
        self.lane.give_up(Failure.REJECTED, "it does not take the client's state")

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """It is done, or the lane is gone."""
        self.complete(reply)

    def reroute(self) -> None:
        """Another lane begins with what its client is by then."""


class PrivateLane(Lane):
    """One client's connection to a storage server.

    Attributes:
        client: Whose it is.
        database, protocol: What was asked for last.
        is_monitoring: Whether the server shows what scripts call.
        is_tracking: Whether the server tells which keys have changed.
        user: Which of the job's users the server takes the client for; empty: one who may all.
        session_id: The client's number at the server; 0: not known yet.
    """

    __slots__ = (
        "_binding",
        "_tracking_changes",
        "client",
        "database",
        "is_monitoring",
        "is_tracking",
        "protocol",
        "session_id",
        "user",
    )

    def __init__(
        self, reactor: Reactor, sock: socket.socket, upstream: Upstream, binding: PrivateBinding
    ) -> None:
        self._binding = binding
        self.client = binding.client
        # What the client is by now, it becomes with the first request.
        _, self.database, self.protocol, _ = binding.key
        self.session_id = 0
        self.user = ""
        self.is_monitoring = False
        self.is_tracking = False
        self._tracking_changes = 0
        super().__init__(reactor, sock, upstream, binding.key)

    def become(self, binding: PrivateBinding) -> None:
        """Be a client's, from being nobody's."""
        del self.upstream.lanes[self.key]
        self._binding = binding
        self.client = binding.client
        self.key = binding.key
        self.upstream.lanes[self.key] = self

    # --- greeting ------------------------------------------------------------------------------

    def first_question(self) -> list[bytes]:
        """What tells the client's number, where there is no challenge, which has it in it."""
        return [b"CLIENT", b"ID"]

    def on_greeting_answered(self, step: str, frame: bytes) -> None:
        """Take the client's number from a server without a secret."""
        if step == "CLIENT" and frame[0] == _COLON:
            self.session_id = int(frame[1:-2])

    def on_challenged(self, nonce: bytes) -> None:
        """Take the client's number from the challenge."""
        digits = nonce.rsplit(b":", 2)[-2]
        self.session_id = int(digits) if digits.isdigit() else 0

    # --- requests ------------------------------------------------------------------------------

    def send(self, forward: Forward) -> None:
        """Send a request, after what has the server's session be as its client is by now."""
        self.follow()
        super().send(forward)

    def follow(self) -> None:
        """Have the server's session be as its client is by now."""
        session = self.client.session
        if session.protocol != self.protocol:
            self.protocol = session.protocol
            self.set_up(b"HELLO", b"%d" % self.protocol)
        if session.db.index != self.database:
            self.database = session.db.index
            self.set_up(b"SELECT", b"%d" % self.database)
        user = "" if session.user is None else session.user.name
        if user != self.user:
            self.user = user
            self.set_up(b"POCKETKV.USER", user.encode("utf-8", "surrogateescape"))
        binding = self._binding
        if binding.tracking_changes != self._tracking_changes:
            self._tracking_changes = binding.tracking_changes
            if self.is_tracking:
                self.set_up(b"CLIENT", b"TRACKING", b"OFF")
            self.is_tracking = binding.tracking is not None
            if binding.tracking is not None:
                self.set_up(*binding.tracking)
        if session.monitoring and not self.is_monitoring:
            self.is_monitoring = True
            self.set_up(b"MONITOR")
        caching = self.client.caching()
        if caching and self.is_tracking:
            self.set_up(b"CLIENT", b"CACHING", caching)

    def set_up(self, *request: bytes) -> SetUp:
        """Send what the client has not asked; complete when it is answered, or never will be."""
        forward = SetUp(self, self.client, *request)
        super().send(forward)
        return forward

    def on_push(self, frame: bytes) -> None:
        """What the server tells the client."""
        if not self.client.closed:
            self.client.pushed(frame)

    # --- the end -------------------------------------------------------------------------------

    def on_sweep(self, now_s: float) -> None:
        """As of other lanes, but that a client may wait as long as it likes."""
        if self.closed or not self.is_ready:
            Lane.on_sweep(self, now_s)
        elif self.pending and self.pending[0].may_block:
            if self.upstream.is_retired:
                self._leave()
        elif not self.pending and not self.upstream.is_retired:
            if self._binding.keeps:
                return
            idle_s = limits.UPSTREAM_IDLE_TIMEOUT_S
            if self.upstream.router.lanes_open > _KEPT_OPEN_MAX:
                idle_s = 0.0
            if now_s - self.last_receive_s > idle_s:
                self.give_up(Failure.CLOSED, "idle")
        else:
            Lane.on_sweep(self, now_s)

    def on_closed(self) -> None:
        """The server has forgotten what its client has read."""
        Lane.on_closed(self)
        if self.is_tracking and not self.client.closed:
            self.client.tracking_lost()

    def _leave(self) -> None:
        """Have the client wait elsewhere: the server is not one of the cluster any more."""
        waiting = self.pending.popleft()
        self.upstream.in_flight_bytes -= waiting.cost_bytes
        self.give_up(Failure.CLOSED, "the server has left")
        self.upstream.router.refused([waiting], self.upstream.unreachable("it has left"))
