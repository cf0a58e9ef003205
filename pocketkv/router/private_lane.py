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
from pocketkv.engine.commands import COMMANDS, Command
from pocketkv.resp.errors import ProtocolError
from pocketkv.router.exchange import Asker, Forward
from pocketkv.router.lane import Lane
from pocketkv.router.upstream import Binding, Failure
from pocketkv.router.wire import request_cost

if TYPE_CHECKING:
    from pocketkv.resp.reactor import Reactor
    from pocketkv.resp.replies import Reply
    from pocketkv.router.transactions import Watched
    from pocketkv.router.upstream import Upstream

# With so many lanes of single clients, one that has nothing to do is not kept open.
_KEPT_OPEN_MAX: Final = 1024
_COLON: Final = 58


class PrivateBinding(Binding):
    """The lanes of one client alone.

    Attributes:
        client: Whose they are.
        watched: What the client watches for its next transaction, if it does.
        keeps: Whether the servers know something else of it, so that idle lanes stay open.
    """

    __slots__ = ("client", "keeps", "watched")

    def __init__(self, client: Asker, job_id: str, database: int, protocol: int) -> None:
        super().__init__((job_id, database, protocol, -client.session.id))
        self.client = client
        self.watched: Watched | None = None
        self.keeps = False

    def close(self) -> None:
        """Close all of them; what they still owe fails."""
        for lane in list(self.lanes.values()):
            lane.give_up(Failure.CLOSED, "it is used no more")
        self.lanes.clear()


class SetUp(Forward):
    """A request that has a private lane follow its client: SELECT, HELLO. Nobody waits for it."""

    __slots__ = ("lane",)

    def __init__(self, lane: PrivateLane, client: Asker, *request: bytes) -> None:
        super().__init__(client, _record(request[0]), list(request))
        self.lane = lane
        self.cost_bytes = request_cost(self.request, None)
        self.upstream = lane.upstream

    def answer_error(self, frame: bytes) -> None:
        """The lane is not what the client takes it for."""
        self.lane.give_up(Failure.REJECTED, "it does not take the client's state")

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """It is done, or the lane is gone."""

    def reroute(self) -> None:
        """Another lane begins with what its client is by then."""


class PrivateLane(Lane):
    """One client's connection to a storage server.

    Attributes:
        client: Whose it is.
        database, protocol: What was asked for last.
        session_id: The client's number at the server; 0: not known yet.
    """

    __slots__ = ("_binding", "client", "database", "protocol", "session_id")

    def __init__(
        self, reactor: Reactor, sock: socket.socket, upstream: Upstream, binding: PrivateBinding
    ) -> None:
        session = binding.client.session
        self._binding = binding
        self.client = binding.client
        self.database = session.db.index
        self.protocol = session.protocol
        self.session_id = 0
        key = (binding.key[0], self.database, self.protocol, binding.key[3])
        super().__init__(reactor, sock, upstream, key)

    @property
    def is_waiting(self) -> bool:
        """Whether something that may block is all that it has to answer."""
        return len(self.pending) == 1 and self.pending[0].may_block

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

    def follow(self, database: int, protocol: int) -> None:
        """Have the server's session use what its client uses by now."""
        if protocol != self.protocol:
            self.protocol = protocol
            self.send(SetUp(self, self.client, b"HELLO", b"%d" % protocol))
        if database != self.database:
            self.database = database
            self.send(SetUp(self, self.client, b"SELECT", b"%d" % database))

    def on_push(self, frame: bytes) -> None:
        """What the server tells the client."""
        if not self.client.closed:
            self.client.pushed(frame)

    # --- the end -------------------------------------------------------------------------------

    def on_sweep(self, now_s: float) -> None:
        """As of other lanes, but that a client may wait as long as it likes."""
        if self.closed or not self.is_ready:
            Lane.on_sweep(self, now_s)
        elif self.is_waiting:
            if self.upstream.is_retired:
                self._leave()
        elif not self.pending and not self.upstream.is_retired:
            if self._binding.keeps or self._binding.watched is not None:
                return
            idle_s = limits.UPSTREAM_IDLE_TIMEOUT_S
            if self.upstream.router.lanes_open > _KEPT_OPEN_MAX:
                idle_s = 0.0
            if now_s - self.last_receive_s > idle_s:
                self.give_up(Failure.CLOSED, "idle")
        else:
            Lane.on_sweep(self, now_s)

    def _leave(self) -> None:
        """Have the client wait elsewhere: the server is not one of the cluster any more."""
        waiting = self.pending.popleft()
        self.upstream.in_flight_bytes -= waiting.cost_bytes
        self.give_up(Failure.CLOSED, "the server has left")
        self.upstream.router.refused([waiting], self.upstream.unreachable("it has left"))


def _record(name: bytes) -> Command:
    record = COMMANDS.get(name)
    if record is None:
        raise ProtocolError(f"no such command: {name!r}")
    return record
