"""Moves values out of memory, to a directory or to S3, as `pocketkv.engine.spilling` decides.

What is moved is marked, written, and only then replaced by a stub, if nothing has changed it
meanwhile. So whatever goes wrong with the medium, a value is in memory or safely there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from pocketkv.engine.cold import CHANGED_STRING, STRING, Cold, Store
from pocketkv.engine.keyspace import JobSpace
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.node import Node
from pocketkv.engine.payloads import code_of
from pocketkv.engine.spilling import Spilling, Victim
from pocketkv.engine.values import Collection
from pocketkv.resp.reactor import Reactor
from pocketkv.serving.memory import resident_bytes

_IDLE_S: Final = 0.05
_BUSY_S: Final = 0.002
_WATCH_S: Final = 0.02
# How long a medium may refuse before nobody waits for it any more.
_GRACE_S: Final = 5.0
# How long to wait after nothing could be moved.
_PAUSE_S: Final = 0.05
_TRIM_INTERVAL_S: Final = 1.0
# Moved in one round, before it is looked again how much is needed.
_ROUND_BYTES: Final = 64 * 1024 * 1024


class SpillError(Exception):
    """Values could not be written to the medium; the text tells why, in one line."""


@dataclass(frozen=True, slots=True)
class Item:
    """A small value that is to be written."""

    db: int
    key: bytes
    kind: int
    payload: bytes


class SpillMedium(Store, Protocol):
    """Where values are moved to.

    Attributes:
        batch_bytes: Of small values that are written together.
        moves_max: Batches that may be under way at a time.
        name: Of its kind, for people.
    """

    batch_bytes: int
    moves_max: int
    name: str

    def accepts(self, job_id: str) -> bool:
        """Whether values of a job can be written now."""
        ...

    async def write(self, job_id: str, items: list[Item]) -> list[Cold]:
        """Write small values; nobody else runs between the last write and the return.

        Raises:
            SpillError: None of them is written.
        """
        ...

    async def write_large(self, job_id: str, size: int, views: list[memoryview]) -> Cold:
        """Write a large value.

        Raises:
            SpillError: It is not written.
        """
        ...

    async def tend(self) -> None:
        """Give back what is not needed any more, until cancelled."""
        ...

    def close(self) -> None:
        """Nothing of it is needed any more."""
        ...


class Mover:
    """Keeps the memory of one server below its mark.

    Args:
        node: The server.
        medium: Where values go.
        reactor: What serves its clients.
        release_memory: Gives freed memory back to the system.
        log: Where trouble is told.
    """

    def __init__(
        self,
        node: Node,
        medium: SpillMedium,
        reactor: Reactor,
        release_memory: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        spilling = node.keyspace.spilling
        assert spilling is not None  # It has a store that is not durable.
        self._spilling: Spilling = spilling
        self._node = node
        self._medium = medium
        self._reactor = reactor
        self._release_memory = release_memory
        self._log = log
        self._pressed = trio.Event()
        self._program_bytes = resident_bytes()
        self._refused_since_s: float | None = None
        self._trimmed_s = 0.0
        self._moved_bytes = 0
        spilling.on_pressed = self._on_pressed

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._medium.tend)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._move)

    # --- who waits -----------------------------------------------------------------------------

    def _on_pressed(self, is_memory: bool) -> None:
        """Somebody has to wait: for memory of the server, or for its job's quota."""
        if is_memory:
            self._reactor.holds_large = True
        self._pressed.set()

    async def _watch(self) -> None:
        """Let go on who has waited long enough."""
        while True:
            await trio.sleep(_WATCH_S)
            self._release()

    def _release(self) -> None:
        spilling = self._spilling
        spilling.release(self._node.clock.now_ms)
        keyspace = self._node.keyspace
        if self._reactor.holds_large and (
            spilling.accounted_bytes <= keyspace.memory_bytes or None in spilling.stuck
        ):
            self._reactor.release_large()

    # --- moving --------------------------------------------------------------------------------

    async def _move(self) -> None:
        while True:
            self._measure()
            wanted = self._spilling.excess()
            if not wanted:
                self._spilling.stuck.clear()
                with trio.move_on_after(_IDLE_S):
                    await self._pressed.wait()
                self._pressed = trio.Event()
                continue
            moved = 0
            for scope, spaces, excess_bytes in wanted:
                moved += await self._relieve(scope, spaces, min(excess_bytes, _ROUND_BYTES))
            self._trim()
            self._release()
            await trio.sleep(_BUSY_S if moved else _PAUSE_S)

    def _measure(self) -> None:
        """Take in what the system says."""
        extents = self._node.keyspace.extents
        in_extents = 0 if extents is None else extents.figures().used_bytes
        self._spilling.measure(max(0, resident_bytes() - self._program_bytes) + in_extents)

    def _trim(self) -> None:
        """Give back to the system what moving has freed, from time to time."""
        now_s = trio.current_time()
        if self._moved_bytes and now_s - self._trimmed_s > _TRIM_INTERVAL_S:
            self._release_memory()
            self._moved_bytes = 0
            self._trimmed_s = now_s

    async def _relieve(self, scope: str | None, spaces: list[JobSpace], excess_bytes: int) -> int:
        """Move so much out of these jobs; how much it was."""
        spaces = [space for space in spaces if self._medium.accepts(space.job_id)]
        moves = _Moves(self._medium.moves_max)
        picked_bytes = 0
        async with trio.open_nursery() as nursery:
            while excess_bytes > picked_bytes and not moves.error:
                wanted_bytes = min(excess_bytes - picked_bytes, self._medium.batch_bytes)
                victims = self._spilling.pick(spaces, wanted_bytes, scope)
                if not victims:
                    break
                picked_bytes += sum(victim.size for victim in victims)
                await moves.slots.acquire()
                nursery.start_soon(self._move_out, victims, moves)
                await trio.lowlevel.checkpoint()
        self._conclude(scope, picked_bytes, moves)
        self._moved_bytes += moves.moved_bytes
        return moves.moved_bytes

    def _conclude(self, scope: str | None, picked_bytes: int, moves: _Moves) -> None:
        """Tell those who wait whether there is hope."""
        spilling = self._spilling
        if moves.moved_bytes:
            self._refused_since_s = None
            spilling.reason = b""
            spilling.stuck.clear()
        elif moves.error:
            now_s = trio.current_time()
            if self._refused_since_s is None:
                self._refused_since_s = now_s
                self._log.error("values cannot be moved out", extra={"error": moves.error})
            spilling.reason = moves.error.encode()
            if now_s - self._refused_since_s > _GRACE_S or moves.is_full:
                spilling.stuck.add(None)
        elif picked_bytes == 0:
            spilling.stuck.add(scope)

    async def _move_out(self, victims: list[Victim], moves: _Moves) -> None:
        try:
            small: dict[str, list[Victim]] = {}
            for victim in victims:
                if victim.key in victim.shelf.chains:
                    self._drop_clean(victim, moves)
                elif isinstance(victim.entry, LargeString):
                    await self._move_large(victim, victim.entry, moves)
                else:
                    small.setdefault(victim.job_id, []).append(victim)
            for job_id, some in small.items():
                await self._move_small(job_id, some, moves)
        except SpillError as error:
            moves.error = str(error)
            moves.is_full = moves.is_full or isinstance(error, SpillFullError)
        finally:
            for victim in victims:
                victim.shelf.unmark(victim)
            moves.slots.release()

    @staticmethod
    def _drop_clean(victim: Victim, moves: _Moves) -> None:
        if victim.shelf.unmark(victim):
            moves.moved_bytes += victim.shelf.drop_clean(victim.key)

    async def _move_small(self, job_id: str, victims: list[Victim], moves: _Moves) -> None:
        victims = [victim for victim in victims if victim.shelf.spilling.get(victim.key) is victim]
        items = [await _item(victim) for victim in victims]
        # To make some of them took steps, and they may have been changed meanwhile.
        made = [
            (victim, item)
            for victim, item in zip(victims, items, strict=True)
            if victim.shelf.spilling.get(victim.key) is victim
        ]
        if not made:
            return
        victims = [victim for victim, _ in made]
        items = [item for _, item in made]
        colds = await self._medium.write(job_id, items)
        for victim, cold in zip(victims, colds, strict=True):
            if victim.shelf.moved(victim, cold):
                moves.moved_bytes += victim.size

    async def _move_large(self, victim: Victim, value: LargeString, moves: _Moves) -> None:
        if victim.shelf.spilling.get(victim.key) is not victim:
            return
        # As long as this lives, what it refers to stays as it is.
        held = value.bulk()
        views = [part.owner.view(part.offset, part.size) for part in held.ranges]
        cold = await self._medium.write_large(victim.job_id, held.size, views)
        if victim.shelf.moved(victim, cold):
            moves.moved_bytes += victim.size


class SpillFullError(SpillError):
    """There is no room on the medium."""


class _Moves:
    """Batches that are under way together, and what came of them."""

    def __init__(self, moves_max: int) -> None:
        self.slots = trio.Semaphore(moves_max)
        self.moved_bytes = 0
        self.error = ""
        self.is_full = False


async def _item(victim: Victim) -> Item:
    """What is to be written of a value; of use only if it is not changed meanwhile."""
    value = victim.entry
    db = victim.shelf.db.number
    if isinstance(value, Collection):
        pieces: list[bytes] = []
        for piece in value.payload_pieces():
            pieces.append(piece)
            if len(pieces) > 1:
                await trio.lowlevel.checkpoint()
                if victim.shelf.spilling.get(victim.key) is not victim:
                    break
        return Item(db, victim.key, code_of(value), b"".join(pieces))
    if isinstance(value, bytearray):
        return Item(db, victim.key, CHANGED_STRING, bytes(value))
    assert isinstance(value, bytes)  # What else there is, is not picked.
    return Item(db, victim.key, STRING, value)
