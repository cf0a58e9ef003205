"""What a storage server of a cluster does when it is told to end: it gives away what it has first.

It asks the controller for a drain, goes on serving, and ends when no map gives it slots any more,
or when its time is over; what it then still has is lost, and it says how much. If nobody could
take anything, or there is no controller, it ends at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable
from typing import Any, Final, Protocol

import trio

from pocketkv.engine.node import Node
from pocketkv.placement import PlacementMap
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError

# Where a whole cluster is told to end, the controller has gone by then, and there is nobody left
# to give anything to.
_PAUSE_S: Final = 0.2
_POLL_S: Final = 0.02


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
        link: Its link to the controller.
        timeout_s: How long that may take.
        log: The server's log.
    """

    def __init__(self, node: Node, link: Link, timeout_s: float, log: logging.Logger) -> None:
        self._node = node
        self._link = link
        self._timeout_s = timeout_s
        self._log = log

    async def leave(self) -> None:
        """Return when the server may end."""
        if not self._jobs() or self._timeout_s <= 0:
            return
        await trio.sleep(_PAUSE_S)
        try:
            await self._link.call("MEMBER.DRAIN", json.dumps({"deadline_s": self._timeout_s}))
        except (RemoteError, PeerError) as error:
            self._log.warning("not drained", extra={"error": str(error), **self._left()})
            return
        self._log.info("draining", extra={"timeout_s": self._timeout_s, **self._left()})
        with trio.move_on_after(self._timeout_s):
            # Maps come over the link; without it, nobody moves anything any more.
            while self._jobs() and self._link.joined:  # noqa: ASYNC110 - maps are applied elsewhere
                await trio.sleep(_POLL_S)
        if self._jobs():
            self._log.error("not everything could be moved away", extra=self._left())

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
