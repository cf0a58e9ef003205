"""What a storage server does about moves that its maps order: as their source, and as their target.

There is a worker for each server that something goes to, with one connection that all moves there
share, of whatever job; small ones go first, so that many jobs with few keys are soon served where
they are to be. What became of a move is told to the controller until its maps say so.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from pocketkv.engine.emptying import empty_some
from pocketkv.engine.keyspace import JobSpace
from pocketkv.engine.migration import Numbers, slots_migrated, slots_migrating
from pocketkv.engine.moving import MoveFigures
from pocketkv.engine.node import Node
from pocketkv.observability.metrics import Figures
from pocketkv.placement import PlacementMap, ServerState, SlotMove
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.resp.reactor import Reactor
from pocketkv.tiers.carrying import Carrier, Failed
from pocketkv.tiers.line import Line, open_line
from pocketkv.tiers.move_metrics import HoldTimes, move_metrics
from pocketkv.tiers.resting import Rests

_PAUSE_S: Final = 0.1
# A target that cannot be reached for so long is given up; the controller may know more.
_UNREACHABLE_S: Final = 5.0
# Keys that are removed before others have their turn, and how often it is looked whether any are.
_KEYS_PER_SLICE: Final = 200
_EMPTY_INTERVAL_S: Final = 0.02
# Moves that are carried out at a time, each to another server.
_WORKERS_MAX: Final = 2

Key = tuple[str, str]


class Call(Protocol):
    """Sends the controller a command: `Membership.call`."""

    def __call__(self, *arguments: bytes | str | int) -> Awaitable[Any]:
        """Send it.

        Raises:
            RemoteError: It refused.
            PeerError: It is away, or did not answer in time.
        """
        ...


@dataclass
class _Wanted:
    """A move that this server is to carry out."""

    job_id: str
    move: SlotMove
    is_begun: bool = False


class Mover:
    """Carries out the moves of one storage server.

    Args:
        node: The server.
        reactor: Holds its connections.
        call: Sends the controller a command.
        log: The server's log.
    """

    def __init__(self, node: Node, reactor: Reactor, call: Call, log: logging.Logger) -> None:
        self._node = node
        self._reactor = reactor
        self._call = call
        self._log = log
        self.holds = HoldTimes()
        self._rests = Rests(lambda: node.commands_processed)
        self._wanted: dict[Key, _Wanted] = {}
        self._running: dict[Key, Carrier] = {}
        # Keys that went with a flip, until the controller's maps know of it.
        self._gone: dict[Key, tuple[SlotMove, int]] = {}
        # What the controller is to be told, until its maps say so.
        self._untold: dict[Key, tuple[str, str]] = {}
        # What was given up, so that it is not tried again.
        self._failed: set[Key] = set()
        self._workers: set[str] = set()
        self._limiter = trio.CapacityLimiter(_WORKERS_MAX)
        self._changed = trio.Event()
        self._telling = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._numbers = Numbers(node.id)
        self._sent = self._received = self._failures = 0
        self._sent_keys = self._sent_bytes = self._received_keys = self._received_bytes = 0
        self._lost_keys = 0

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._tell_controller)
            nursery.start_soon(self._empty_slots)
            try:
                while True:
                    self._changed = trio.Event()
                    for wanted in list(self._wanted.values()):
                        target = wanted.move.target
                        if target not in self._workers:
                            self._workers.add(target)
                            nursery.start_soon(self._work, target)
                    await self._changed.wait()
            finally:
                self._nursery = None

    def hurry(self) -> None:
        """This server is to end soon: what it sends away does not wait for clients."""
        self._rests.hurry()

    # --- maps ----------------------------------------------------------------------------------

    def follow(self, placement: PlacementMap) -> None:
        """A job's map has changed."""
        job_id = placement.job_id
        space = self._node.keyspace.open(job_id)
        ordered = {move.id: move for move in placement.moves}
        for move_id in [m for j, m in self._wanted if j == job_id and m not in ordered]:
            self._wanted.pop((job_id, move_id), None)
        for move in placement.moves:
            key = (job_id, move.id)
            is_ours = move.source == self._node.id and key not in self._failed
            if is_ours and key not in self._wanted:
                self._wanted[key] = _Wanted(job_id, move)
                self._changed.set()
        self._follow_arrivals(space, ordered)
        known = placement.flips | ordered.keys()
        for key in [key for key in self._untold if key[0] == job_id and key[1] not in known]:
            del self._untold[key]
        self._failed = {k for k in self._failed if k[0] != job_id or k[1] in ordered}
        self._follow_gone(placement)
        if self._untold:
            self._telling.set()

    def _follow_arrivals(self, space: JobSpace, ordered: dict[str, SlotMove]) -> None:
        """Forget what came of moves that are ordered no more; whoever was given slots has them."""
        space.refused_moves &= ordered.keys()
        for move_id in [i for i in space.incoming if i not in ordered]:
            space.incoming[move_id].drop()

    def _follow_gone(self, placement: PlacementMap) -> None:
        """Look whether slots that went to another server came back without their keys."""
        for key, (move, keys) in list(self._gone.items()):
            job_id, move_id = key
            if job_id != placement.job_id or move_id in placement.flips:
                continue
            del self._gone[key]
            if placement.owner(move.start) == self._node.id:
                self._lost_keys += keys
                self._log.warning(
                    "keys were lost with the server that they had gone to",
                    extra={"job": job_id, "keys": keys, "target": move.target},
                )
                self._tell(key, "MEMBER.MOVE_FAILED", code="LOST", reason=f"{keys} keys", keys=keys)

    def forget(self, job_id: str) -> None:
        """A job is no more."""
        self._wanted = {k: v for k, v in self._wanted.items() if k[0] != job_id}
        self._gone = {k: v for k, v in self._gone.items() if k[0] != job_id}
        self._untold = {k: v for k, v in self._untold.items() if k[0] != job_id}
        self._failed = {key for key in self._failed if key[0] != job_id}

    def _is_ordered(self, key: Key) -> bool:
        return key in self._wanted

    # --- the source ----------------------------------------------------------------------------

    async def _work(self, target: str) -> None:
        """Carry out all moves to one server, one after the other."""
        line: Line | None = None
        unreachable_since_s = math.inf
        try:
            while (wanted := self._next(target)) is not None:
                try:
                    async with self._limiter:
                        if line is None or line.closed:
                            line = await self._open_line(target, wanted.job_id)
                        await self._carry(line, wanted)
                except PeerError as error:
                    now_s = trio.current_time()
                    unreachable_since_s = min(unreachable_since_s, now_s)
                    self._log.warning(
                        "slots are not moved yet",
                        extra={"job": wanted.job_id, "target": target, "error": str(error)},
                    )
                    if line is not None:
                        line.close()
                    if now_s - unreachable_since_s > _UNREACHABLE_S:
                        self._give_up(wanted, Failed("UNREACHABLE", str(error)))
                    await trio.sleep(_PAUSE_S)
                else:
                    unreachable_since_s = math.inf
        finally:
            self._workers.discard(target)
            if line is not None:
                line.close()

    def _next(self, target: str) -> _Wanted | None:
        """The smallest move to a server that is not under way."""
        waiting = [w for w in self._wanted.values() if w.move.target == target]
        return min(waiting, key=self._size, default=None)

    def _size(self, wanted: _Wanted) -> int:
        space = self._node.keyspace.open(wanted.job_id)
        return space.used_bytes * len(wanted.move)

    async def _open_line(self, target: str, job_id: str) -> Line:
        server = self._node.topology.servers.get(target)
        if server is None:
            raise PeerError(f"server {target} is not known")
        return await open_line(self._reactor, server, self._node.secret, self._node.id, job_id)

    def _target_is_known(self, target: str) -> bool:
        server = self._node.topology.servers.get(target)
        return server is not None and server.state is not ServerState.DOWN

    async def _carry(self, line: Line, wanted: _Wanted) -> None:
        job_id, move = wanted.job_id, wanted.move
        key = (job_id, move.id)
        carrier = Carrier(
            self._node,
            job_id,
            move,
            open_line=lambda: self._open_line(move.target, job_id),
            is_ordered=lambda: self._is_ordered(key),
            target_is_known=lambda: self._target_is_known(move.target),
            holds=self.holds,
            rests=self._rests,
            on_flip=lambda keys, size: self._on_flip(wanted, keys, size),
            log=self._log,
        )
        self._running[key] = carrier
        if not wanted.is_begun:
            wanted.is_begun = True
            number = self._numbers.next(self._node.clock.now_ms)
            slots_migrating(self._node, job_id, move, number)
        try:
            await carrier.run(line)
        except Failed as failure:
            self._give_up(wanted, failure)
        finally:
            del self._running[key]
        await trio.lowlevel.checkpoint()

    def _on_flip(self, wanted: _Wanted, keys: int, size: int) -> None:
        """Slots have gone to another server, this moment."""
        job_id, move = wanted.job_id, wanted.move
        key = (job_id, move.id)
        self._wanted.pop(key, None)
        self._sent += 1
        self._sent_keys += keys
        self._sent_bytes += size
        self._gone[key] = (move, keys)
        number = self._numbers.next(self._node.clock.now_ms)
        slots_migrated(self._node, job_id, move, number)
        self._log.info("slots moved away", extra=_described(job_id, move, keys, size))
        self._tell(key, "MEMBER.MOVED", keys=keys, bytes=size)

    def _give_up(self, wanted: _Wanted, failure: Failed) -> None:
        key = (wanted.job_id, wanted.move.id)
        if self._wanted.pop(key, None) is None:
            return
        self._failed.add(key)
        self._failures += 1
        self._log.warning(
            "slots are not moved",
            extra={"job": key[0], "move": key[1], "code": failure.code, "error": failure.reason},
        )
        self._tell(key, "MEMBER.MOVE_FAILED", code=failure.code, reason=failure.reason[:200])

    # --- the target ----------------------------------------------------------------------------

    def taken(self, job_id: str, move: SlotMove, keys: int, size: int) -> None:
        """`Moves.taken`: slots have come, this moment."""
        self._received += 1
        self._received_keys += keys
        self._received_bytes += size
        self._log.info("slots taken over", extra=_described(job_id, move, keys, size))
        self._tell((job_id, move.id), "MEMBER.MOVED", keys=keys, bytes=size)

    async def _empty_slots(self) -> None:
        """Remove what has gone, or never was taken, a slice at a time."""
        while True:
            for space in list(self._node.keyspace.spaces.values()):
                while space.unclean:
                    empty_some(space, _KEYS_PER_SLICE)
                    self._node.commit()
                    await trio.lowlevel.checkpoint()
            await trio.sleep(_EMPTY_INTERVAL_S)

    # --- the controller ------------------------------------------------------------------------

    def _tell(self, key: Key, command: str, **fields: Any) -> None:
        text = json.dumps({"job": key[0], "move": key[1], **fields})
        self._untold[key] = (command, text)
        self._telling.set()

    async def _tell_controller(self) -> None:
        """Tell what became of moves; again whenever a map comes that does not know."""
        while True:
            await self._telling.wait()
            self._telling = trio.Event()
            failed = False
            for key, (command, text) in list(self._untold.items()):
                if self._untold.get(key) != (command, text):
                    continue
                try:
                    await self._call(command, text)
                except RemoteError as error:
                    self._log.debug("the controller did not take it", extra={"error": str(error)})
                except PeerError:
                    failed = True
                else:
                    if command == "MEMBER.MOVE_FAILED" and self._untold.get(key) == (command, text):
                        del self._untold[key]
            if failed:
                await trio.sleep(_PAUSE_S)
                self._telling.set()

    # --- figures -------------------------------------------------------------------------------

    def progress(self) -> dict[str, dict[str, list[int]]]:
        """Bytes done and in all of the moves under way, by job and move."""
        found: dict[str, dict[str, list[int]]] = {}
        for (job_id, move_id), carrier in self._running.items():
            found.setdefault(job_id, {})[move_id] = list(carrier.progress())
        return found

    def hold_figures(self) -> dict[str, float]:
        """How often commands were held, and how long the last time, and at most."""
        holds = self.holds
        return {
            "count": holds.count,
            "last_s": holds.last_s,
            "max_s": holds.max_s,
            "p99_s": holds.p99_s,
        }

    def metrics(self) -> Iterable[Figures]:
        """A source of `NodeMetrics`."""
        return move_metrics(self.figures(), self.holds)

    def figures(self) -> MoveFigures:
        """`Moves.figures`."""
        spaces = self._node.keyspace.spaces.values()
        return MoveFigures(
            sending=len(self._running),
            receiving=sum(len(space.incoming) for space in spaces),
            sent=self._sent,
            received=self._received,
            failed=self._failures,
            sent_keys=self._sent_keys,
            sent_bytes=self._sent_bytes,
            received_keys=self._received_keys,
            received_bytes=self._received_bytes,
            holds=self.holds.count,
            p99_hold_s=self.holds.p99_s,
            last_hold_s=self.holds.last_s,
            max_hold_s=self.holds.max_s,
            lost_keys=self._lost_keys,
        )


def _described(job_id: str, move: SlotMove, keys: int, size: int) -> dict[str, Any]:
    return {
        "job": job_id,
        "move": move.id,
        "slots": f"{move.start}-{move.end}",
        "source": move.source,
        "target": move.target,
        "keys": keys,
        "bytes": size,
    }
