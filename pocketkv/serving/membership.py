"""A member's link to the controller: it joins, hears maps, reports, and joins again when cut off.

The link carries control traffic only. While it is down the member goes on with the last maps
that it knows. Messages are described in `docs/architecture.md`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

import trio

from pocketkv.engine.topology import Topology
from pocketkv.placement import PlacementMap, Server
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import Peer, open_peer
from pocketkv.terms import Terms
from pocketkv.tokens import member_proof

UPDATE_PUSH = b"pocketkv.update"
_REPORT_INTERVAL_S = 1.0
_REPLY_TIMEOUT_S = 3.0
_BACKOFF_MIN_S = 0.05
_BACKOFF_MAX_S = 1.0


class Membership:
    """Keeps one member joined.

    Args:
        address: The controller's host and port.
        secret: The cluster's secret.
        identity: What the member tells of itself when it joins (see MEMBER.JOIN).
        topology: Is brought up to date by what the controller says.
        on_update: Called after each update with the jobs that changed and those that ended.
        report: Gives the figures for MEMBER.REPORT.
        log: The process's log.

    Attributes:
        joined: Whether the controller is there now.
    """

    def __init__(
        self,
        *,
        address: tuple[str, int],
        secret: bytes,
        identity: dict[str, Any],
        topology: Topology,
        on_update: Callable[[list[str], list[str]], None],
        report: Callable[[], dict[str, Any]],
        log: logging.Logger,
    ) -> None:
        self._address = address
        self._secret = secret
        self._identity = identity
        self._topology = topology
        self._on_update = on_update
        self._report = report
        self._log = log
        self._peer: Peer | None = None
        self._first_join = trio.Event()
        # Of the link that there is or that is being made.
        self._link: trio.CancelScope | None = None
        # Ends the pause before the next link is made, and who then waits for what comes of it.
        self._hurry = trio.Event()
        self._confirming: trio.Event | None = None

    @property
    def joined(self) -> bool:
        """Whether the controller is there now."""
        return self._peer is not None

    async def wait_joined(self) -> None:
        """Wait until the controller was reached for the first time."""
        await self._first_join.wait()

    async def confirm(self, timeout_s: float) -> bool:
        """Have the controller tell anew what is true, by joining again.

        Returns whether it did within the time. If it is away, the last maps are all there is.
        """
        confirming = self._confirming = trio.Event()
        self._hurry.set()
        if self._link is not None:
            self._link.cancel()
        with trio.move_on_after(timeout_s):
            await confirming.wait()
        return self._peer is not None

    async def call(self, *arguments: bytes | str | int, timeout_s: float = _REPLY_TIMEOUT_S) -> Any:
        """Send the controller a command.

        Raises:
            RemoteError: It refused.
            PeerError: It is away, or did not answer in time.
        """
        if self._peer is None:
            raise PeerError("the controller is away")
        return await self._peer.call(*arguments, timeout_s=timeout_s)

    async def run(self) -> None:
        """Stay joined until cancelled."""
        backoff_s = _BACKOFF_MIN_S
        told = False
        while True:
            confirming, self._confirming = self._confirming, None
            self._hurry = trio.Event()
            try:
                async with trio.open_nursery() as nursery:
                    self._link = nursery.cancel_scope
                    peer = await open_peer(nursery, *self._address)
                    try:
                        await self._join(peer)
                        backoff_s, told = _BACKOFF_MIN_S, False
                        if confirming is not None:
                            confirming.set()
                        await self._stay(nursery, peer)
                    finally:
                        self._peer = None
                        nursery.cancel_scope.cancel()
                        with trio.CancelScope(shield=True):
                            await peer.aclose()
            except* PeerError as errors:
                if not told:
                    self._log.warning(
                        "not joined to the controller",
                        extra={"error": "; ".join(str(e) for e in errors.exceptions)},
                    )
                    told = True
            self._link = None
            if confirming is not None:
                confirming.set()
            with trio.move_on_after(backoff_s):
                await self._hurry.wait()
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    async def _join(self, peer: Peer) -> None:
        await peer.call("HELLO", 3, timeout_s=_REPLY_TIMEOUT_S)
        nonce = await peer.call("MEMBER.CHALLENGE", timeout_s=_REPLY_TIMEOUT_S)
        if not isinstance(nonce, bytes):
            raise PeerError("the controller's challenge is not a bulk")
        proof = member_proof(self._secret, self._identity["id"], nonce)
        identity = {**self._identity, "epoch": self._topology.epoch}
        update = await peer.call(
            "MEMBER.JOIN", json.dumps(identity), proof, timeout_s=_REPLY_TIMEOUT_S
        )
        self._peer = peer
        self._apply(update)
        await self._acknowledge(peer)
        self._first_join.set()
        self._log.info("joined", extra={"epoch": self._topology.epoch})

    async def _stay(self, nursery: trio.Nursery, peer: Peer) -> None:
        """Report every second and apply what is pushed, until the link breaks."""
        nursery.start_soon(self._send_reports, peer)
        async for push in peer.pushes:
            if len(push) == 2 and push[0] == UPDATE_PUSH:
                self._apply(push[1])
                # Not waited for: its answer comes after that to a command which was passed on, and
                # which may itself wait for the acknowledgement of the next update.
                nursery.start_soon(self._acknowledge, peer)
        raise PeerError("the link to the controller broke")

    async def _send_reports(self, peer: Peer) -> None:
        while True:
            figures = json.dumps(self._report())
            await peer.call("MEMBER.REPORT", figures, timeout_s=_REPLY_TIMEOUT_S)
            await trio.sleep(_REPORT_INTERVAL_S)

    def _apply(self, text: Any) -> None:
        changed, ended = apply_update(self._topology, text)
        self._on_update(changed, ended)

    async def _acknowledge(self, peer: Peer) -> None:
        await peer.call("MEMBER.ACK", self._topology.epoch, timeout_s=_REPLY_TIMEOUT_S)


def apply_update(topology: Topology, text: Any) -> tuple[list[str], list[str]]:
    """Bring a topology up to date; the ids of jobs whose map changed, and of those that ended.

    Raises:
        PeerError: It is not an update.
    """
    try:
        update = json.loads(text)
        epoch = update["epoch"]
        if not isinstance(epoch, int) or not math.isfinite(epoch):
            raise PeerError("an update without an epoch")
        servers = update.get("servers")
        parsed = None if servers is None else [Server.from_json(s) for s in servers]
        terms = [Terms.from_json(t) for t in update.get("terms", ())]
        placements = [PlacementMap.from_json(p) for p in update.get("placements", ())]
        ended = [str(job_id) for job_id in update.get("ended", ())]
        full = bool(update.get("full"))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise PeerError(f"not an update: {error}") from error
    if parsed is not None:
        topology.set_servers(parsed, epoch)
    changed = [p.job_id for p in placements if topology.set_placement(p)]
    for one in terms:
        topology.set_terms(one)
    if full and epoch >= topology.epoch:
        listed = {p.job_id for p in placements}
        stated = {one.job_id for one in terms}
        for job_id in set(topology.terms) - stated:
            topology.set_terms(Terms(job_id, epoch))
        ended += [job_id for job_id in topology.placements if job_id not in listed]
    gone = [job_id for job_id in ended if topology.end_job(job_id, epoch)]
    topology.hear(epoch)
    return changed, gone
