"""What a storage server of a cluster does when it is told to end: it gives away what it has first.

It asks the controller for a drain, goes on serving, and ends when no map gives it slots any more
and no client asks for them, or when its time is over. What it then still has is lost: it serves
none of it any more, and tells the controller how much that is, which has others serve its slots at
once. If nobody could take anything, it ends at once.

A controller that is away may be followed by another, which goes on with the drain: an upgrade of
everything ends controllers and servers at the same time. So it is waited for, for a while, by who
has something to lose.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from pocketkv.engine.node import Node
from pocketkv.placement import PlacementMap
from pocketkv.resp.client_connection import ClientConnection
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.resp.reactor import Reactor
from pocketkv.slots import SLOT_COUNT

AWAY_TIMEOUT_S: Final = 20.0
"""How long a controller is waited for: twice what it takes until another one leads."""

# Where a whole cluster is told to end, the controller has gone by then, and there is nobody left
# to give anything to.
_PAUSE_S: Final = 0.2
_POLL_S: Final = 0.02
# Clients that know an old map are told where its slots are by now; whoever has a command on its way
# when the connection closes would not know what became of it. So it ends when nobody has sent
# anything for so long, or later at last: what started it waits for 3 s before it kills it.
QUIET_S: Final = 0.3
QUIET_TIMEOUT_S: Final = 1.5


class Link(Protocol):
    """The link to the controller: `Membership`."""

    @property
    def joined(self) -> bool:
        """Whether the controller is there now."""
        ...

    def call(self, *arguments: bytes | str | int) -> Awaitable[Any]:
        """Send it a command.

        Raises:
            RemoteError: It refused.
            PeerError: It is away, or did not answer in time.
        """
        ...


class Leaver:
    """Empties one storage server before it ends.

    Args:
        node: The server.
        reactor: What serves its clients.
        link: Its link to the controller.
        figures: What it reports to the controller, as of now.
        timeout_s: How long that may take.
        log: The server's log.
        away_s: How long a controller that is away is waited for.
    """

    def __init__(
        self,
        node: Node,
        reactor: Reactor,
        link: Link,
        figures: Callable[[], dict[str, Any]],
        timeout_s: float,
        log: logging.Logger,
        away_s: float = AWAY_TIMEOUT_S,
    ) -> None:
        self._node = node
        self._reactor = reactor
        self._link = link
        self._figures = figures
        self._timeout_s = timeout_s
        self._log = log
        self._away_s = away_s

    async def leave(self) -> None:
        """Return when the server may end."""
        if self._jobs() and self._timeout_s > 0:
            await trio.sleep(_PAUSE_S)
            if not await self._give_away():
                return
        await self._fall_quiet()

    async def _give_away(self) -> bool:
        """Have everything moved to others; whether nothing is left."""
        is_draining = False
        with trio.move_on_after(self._timeout_s) as scope:
            while self._jobs() and await self._is_to_drain(scope.deadline):
                is_draining = True
                # Maps come over the link; without it, nobody moves anything any more.
                while self._jobs() and self._link.joined:  # noqa: ASYNC110 - applied elsewhere
                    await trio.sleep(_POLL_S)
        if self._jobs() and is_draining:
            await self._give_up()
        return not self._jobs()

    async def _is_to_drain(self, deadline_s: float) -> bool:
        """Ask the controller for a drain, or the next one if it is away; whether it agrees."""
        # Who holds nothing need not wait for anybody.
        until_s = trio.current_time() + (self._away_s if self._left()["bytes"] else 0.0)
        while True:
            error = await self._ask(deadline_s - trio.current_time())
            if error is None:
                return True
            if trio.current_time() >= until_s:
                break
            await trio.sleep(_PAUSE_S)
            # One that is about to end refuses as well, and is away by now.
            if isinstance(error, RemoteError) and self._link.joined:
                break
        self._log.warning("not drained", extra={"error": str(error), **self._left()})
        return False

    async def _ask(self, timeout_s: float) -> PeerError | None:
        try:
            await self._link.call("MEMBER.DRAIN", json.dumps({"deadline_s": timeout_s}))
        except PeerError as error:
            return error
        self._log.info("draining", extra={"timeout_s": round(timeout_s, 1), **self._left()})
        return None

    async def _give_up(self) -> None:
        """Serve nothing any more, and tell what is left."""
        self._log.error("not everything could be moved away", extra=self._left())
        figures = json.dumps(self._figures())
        for job_id in self._jobs():
            # What is written from now on would be lost though it was acknowledged.
            self._node.keyspace.open(job_id).own(bytes(SLOT_COUNT))
        try:
            await self._link.call("MEMBER.ENDS", figures)
        except (RemoteError, PeerError) as error:
            self._log.warning("the controller was not told", extra={"error": str(error)})

    async def _fall_quiet(self) -> None:
        """Wait until no client sends anything any more, if the cluster goes on without this one."""
        with trio.move_on_after(QUIET_TIMEOUT_S):
            while self._link.joined and self._silence_s() < QUIET_S:  # noqa: ASYNC110 - as above
                await trio.sleep(_POLL_S)

    def _silence_s(self) -> float:
        """How long no client has sent anything."""
        clients = [
            connection
            for connection in self._reactor.connections.values()
            if isinstance(connection, ClientConnection)
        ]
        last_s = max((client.last_receive_s for client in clients), default=-math.inf)
        return time.monotonic() - last_s

    def _left(self) -> dict[str, Any]:
        """What would be lost if it ended now."""
        jobs = set(self._jobs())
        spaces = [space for name, space in self._node.keyspace.spaces.items() if name in jobs]
        return {"jobs": len(jobs), "bytes": sum(space.used_bytes for space in spaces)}

    def _jobs(self) -> list[str]:
        """The jobs whose maps have something to do with this server, as far as is known."""
        return [name for name, p in self._node.topology.placements.items() if self._concerns(p)]

    def _concerns(self, placement: PlacementMap) -> bool:
        own = self._node.id
        if placement.ranges_of(own):
            return True
        # Of a move that was carried out the controller has to hear before this process ends.
        return bool(placement.flips) or any(own in (m.source, m.target) for m in placement.moves)
