"""Places jobs anew whose servers hold nothing of them, without a window for a write to be lost.

The servers that would give slots away are asked to hold the job's writes, then whether they have
keys of it. If not, the map changes; then the held writes go on, and find their way by the new
map. A server that does not answer, or that has keys, keeps its slots. Data is never moved here.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from pocketkv.controller.core import Core
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.messages import JobSettled
from pocketkv.placement import Server
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import Peer, open_peer
from pocketkv.tokens import job_token

# How long a server holds writes if nobody tells it that it is over, as when the controller dies.
_PAUSE_MS: Final = 5_000
# The map must have changed long before that.
_DECIDE_S: Final = 2.0
_TIMEOUT_S: Final = 0.3


class Settler:
    """Works off `ClusterState.unsettled`.

    Args:
        core: The controller's core.
        secret: The cluster's secret, to enter jobs with.
    """

    def __init__(self, core: Core, secret: bytes) -> None:
        self._core = core
        self._secret = secret
        # A job is settled by one task at a time.
        self._lock = trio.Lock()
        self._decide_by_s = -math.inf

    async def run(self) -> None:
        """Settle jobs whenever there are some, until cancelled."""
        core = self._core
        while True:
            await core.unsettled.wait()
            core.unsettled = trio.Event()
            while core.state.unsettled:
                await self.settle(min(core.state.unsettled))

    async def settle(self, job_id: str) -> None:
        """Give a job its best placement, as far as its servers hold nothing of it."""
        async with self._lock, self._held(job_id) as empty:
            if trio.current_time() > self._decide_by_s:
                empty.clear()
            try:
                epoch = await self._core.tell(JobSettled(job_id, frozenset(empty)))
            except RefusedError:
                self._core.state.unsettled.discard(job_id)  # It has ended meanwhile.
                return
            if empty:
                await self._core.wait_acknowledged(epoch)

    @asynccontextmanager
    async def _held(self, job_id: str) -> AsyncIterator[set[str]]:
        """Hold writes on the servers that might give slots away; gives those that are empty."""
        state = self._core.state
        members = [state.fleet.members.get(name) for name in state.settling_sources(job_id)]
        empty: set[str] = set()
        self._decide_by_s = trio.current_time() + _DECIDE_S
        async with trio.open_nursery() as nursery:
            peers: list[Peer] = []
            # Those that reported keys a moment ago are not asked to hold anything.
            for member in members:
                usage = None if member is None else member.report.jobs.get(job_id)
                if member is not None and (usage is None or not usage.keys):
                    await self._hold(nursery, member.server, job_id, peers, empty)
            try:
                yield empty
            finally:
                with trio.CancelScope(shield=True):
                    for peer in peers:
                        await self._release(peer)

    async def _hold(
        self,
        nursery: trio.Nursery,
        server: Server,
        job_id: str,
        peers: list[Peer],
        empty: set[str],
    ) -> None:
        try:
            peer = await open_peer(nursery, server.host, server.port, timeout_s=_TIMEOUT_S)
            peers.append(peer)
            token = job_token(self._secret, job_id)
            await peer.call("HELLO", 2, "AUTH", job_id, token, timeout_s=_TIMEOUT_S)
            await peer.call("CLIENT", "PAUSE", _PAUSE_MS, "WRITE", timeout_s=_TIMEOUT_S)
            keyspace = await peer.call("INFO", "keyspace", timeout_s=_TIMEOUT_S)
        except PeerError as error:
            self._core.log.debug(
                "server not asked", extra={"server": server.id, "error": str(error)}
            )
            return
        if isinstance(keyspace, bytes) and b"keys=" not in keyspace:
            empty.add(server.id)

    @staticmethod
    async def _release(peer: Peer) -> None:
        try:
            await peer.call("CLIENT", "UNPAUSE", timeout_s=_TIMEOUT_S)
        except PeerError:
            pass  # The pause ends by itself.
        await peer.aclose()
