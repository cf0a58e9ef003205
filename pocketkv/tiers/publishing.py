"""Carries what is published on one storage server to the others of its job.

There is one connection to each of them, made when it is first needed, on which messages leave in
the order in which they were published. Nobody waits for a server that is not there: what is
published meanwhile does not reach its subscribers, who have lost their connections anyway.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from pocketkv import limits
from pocketkv.engine.node import Node
from pocketkv.placement import Server
from pocketkv.resp.errors import PeerError
from pocketkv.resp.reactor import Reactor
from pocketkv.resp.replies import Deferred
from pocketkv.tiers.line import Line, open_line

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace

# PUBLISH answers without the count of a server that has not told it by then.
_COUNT_TIMEOUT_MS: Final = 1000
# A server that could not be reached is left alone for so long.
_RETRY_MS: Final = 1000

OnCount = Callable[[int], None]


class Tally:
    """Sums what several servers answer, and is complete at the latest when the time is up."""

    __slots__ = ("answer", "due_ms", "left", "told")

    def __init__(self, servers: int, due_ms: int) -> None:
        self.answer = Deferred(exclusive=False)
        self.left = servers
        self.told = 0
        self.due_ms = due_ms

    def add(self, count: int) -> None:
        """One of them has answered, or never will."""
        self.told += count
        self.left -= 1
        if self.left == 0:
            self.finish()

    def finish(self) -> None:
        """Answer what is known."""
        self.answer.complete(self.told)


class _Peer:
    """Another server, and what is on its way there.

    Attributes:
        line: The connection; ``None``: it is being made, or there is none.
        waiting: What is to be sent once it is made.
        retry_ms: Until when it is not tried again.
    """

    __slots__ = ("is_opening", "line", "retry_ms", "server", "waiting", "waiting_bytes")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.line: Line | None = None
        self.is_opening = False
        self.retry_ms = 0
        self.waiting: deque[tuple[list[bytes], OnCount]] = deque()
        self.waiting_bytes = 0

    def hold(self, request: list[bytes], on_count: OnCount) -> None:
        """Keep a message until there is a connection, if it is not too much by then."""
        size = sum(map(len, request))
        if self.waiting_bytes + size > limits.PUSH_BACKLOG_MAX_BYTES:
            on_count(0)
            return
        self.waiting_bytes += size
        self.waiting.append((request, on_count))

    def release(self) -> list[tuple[list[bytes], OnCount]]:
        """What was kept, in order."""
        held = list(self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        return held

    def post(self, request: list[bytes], on_count: OnCount) -> None:
        """Send a message; a server that takes too little loses its connection."""
        line = self.line
        assert line is not None  # The caller has looked.
        if line.outstanding_bytes > limits.PUSH_BACKLOG_MAX_BYTES:
            line.give_up(PeerError("it does not take what is published"))
        line.post(list(request), lambda reply: on_count(reply if isinstance(reply, int) else 0))


class Publisher:
    """The `engine.pubsub.Forwarder` of a storage server.

    Args:
        node: The server.
        reactor: Holds its connections.
        log: The server's log.
    """

    def __init__(self, node: Node, reactor: Reactor, log: logging.Logger) -> None:
        self._node = node
        self._reactor = reactor
        self._log = log
        self._peers: dict[str, _Peer] = {}
        # The other servers of jobs, with the maps that say so.
        self._others: dict[str, tuple[object, object, list[Server]]] = {}
        self._tallies: deque[Tally] = deque()
        self._is_watching = False
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Make connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- what the engine calls -----------------------------------------------------------------

    def forward(self, space: JobSpace, channel: bytes, message: bytes) -> Deferred | None:
        """As `engine.pubsub.Forwarder`."""
        servers = self._servers(space.job_id)
        if not servers:
            return None
        tally = Tally(len(servers), self._node.clock.now_ms + _COUNT_TIMEOUT_MS)
        request = [b"POCKETKV.PUBLISH", space.job_id.encode(), channel, message]
        for server in servers:
            self._send(server, request, tally.add)
        if not tally.answer.done:
            self._watch(tally)
        return tally.answer

    def _servers(self, job_id: str) -> list[Server]:
        """The job's servers without this one, looked up again when the maps have changed."""
        topology = self._node.topology
        placement = topology.placements.get(job_id)
        known = self._others.get(job_id)
        if known is not None and known[0] is placement and known[1] is topology.servers:
            return known[2]
        servers = [s for s in topology.job_servers(job_id) if s.id != self._node.id]
        if placement is None:
            self._others.pop(job_id, None)
        else:
            self._others[job_id] = placement, topology.servers, servers
        return servers

    def _send(self, server: Server, request: list[bytes], on_count: OnCount) -> None:
        peer = self._peers.get(server.id)
        if peer is None:
            peer = self._peers[server.id] = _Peer(server)
        if peer.line is not None and peer.line.closed:
            peer.line = None
        if peer.line is not None:
            peer.post(request, on_count)
        elif self._nursery is None or self._node.clock.now_ms < peer.retry_ms:
            on_count(0)
        else:
            peer.hold(request, on_count)
            if not peer.is_opening:
                peer.is_opening = True
                self._nursery.start_soon(self._open, peer, request[1].decode())

    # --- connections ---------------------------------------------------------------------------

    async def _open(self, peer: _Peer, job_id: str) -> None:
        node = self._node
        peer.server = node.topology.servers.get(peer.server.id, peer.server)
        try:
            peer.line = await open_line(self._reactor, peer.server, node.secret, node.id, job_id)
        except PeerError as error:
            peer.retry_ms = node.clock.now_ms + _RETRY_MS
            self._log.warning(
                "cannot publish to a server",
                extra={"server": peer.server.id, "error": str(error)},
            )
        finally:
            peer.is_opening = False
            for request, on_count in peer.release():
                if peer.line is None:
                    on_count(0)
                else:
                    peer.post(request, on_count)
        self._forget_gone()

    def _forget_gone(self) -> None:
        """Forget servers that the cluster has no more."""
        servers = self._node.topology.servers
        for server_id in [s for s in self._peers if s not in servers]:
            peer = self._peers[server_id]
            if not peer.is_opening:
                del self._peers[server_id]
                if peer.line is not None:
                    peer.line.close()

    # --- time-outs -----------------------------------------------------------------------------

    def _watch(self, tally: Tally) -> None:
        tallies = self._tallies
        while tallies and tallies[0].answer.done:
            tallies.popleft()
        tallies.append(tally)
        if not self._is_watching:
            self._is_watching = True
            self._node.timers.at(tally.due_ms, self._finish_due)

    def _finish_due(self) -> None:
        """Answer those who have waited long enough; the oldest come first."""
        tallies = self._tallies
        now_ms = self._node.clock.now_ms
        while tallies and (tallies[0].answer.done or tallies[0].due_ms <= now_ms):
            tallies.popleft().finish()
        self._is_watching = bool(tallies)
        if tallies:
            self._node.timers.at(tallies[0].due_ms, self._finish_due)
