"""What a file tier does in the background: syncing, pacing, collecting, leaving memory.

Whatever may wait for the device is done by a worker thread, one of each kind at a time.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from pocketkv import limits
from pocketkv.engine.eviction import evict_some
from pocketkv.engine.node import Node
from pocketkv.resp.reactor import Reactor
from pocketkv.serving.memory import resident_bytes
from pocketkv.tiers.collecting import collect
from pocketkv.tiers.file_store import FileStore
from pocketkv.tiers.readers import Readers
from pocketkv.tiers.rescue import Rescue
from pocketkv.tiers.steps import Steps
from pocketkv.tiers.volume.large_file import LargeFile, Range
from pocketkv.tiers.writing import write_wholes

_SYNC_INTERVAL_S: Final = 1.0
_PACE_INTERVAL_S: Final = 0.01
_IDLE_INTERVAL_S: Final = 0.05
_COLLECT_INTERVAL_S: Final = 0.25
_EVICT_INTERVAL_S: Final = 0.1
# Of the memory budget: above the first, collections leave memory until it is at the second.
_EVICT_ABOVE: Final = 0.90
_EVICT_DOWN_TO: Final = 0.85
# Above this nothing more is taken in.
_FULL_ABOVE: Final = 1.0
_TOO_SLOW: Final = "the device does not keep up with what is written"
# Bytes that are written for evictions before others have their turn.
_EVICT_EFFORT_BYTES: Final = 512 * 1024


class Upkeep:
    """The background work of one server with a file store.

    Args:
        node: The server.
        store: Its store.
        reactor: What serves its clients.
        readers: Reads for them.
        release_memory: Gives freed memory back to the system.
        log: Where trouble is told.

    Attributes:
        failure: Why the device did not take something lately; empty if it did.
    """

    def __init__(
        self,
        node: Node,
        store: FileStore,
        reactor: Reactor,
        readers: Readers,
        release_memory: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        self._node = node
        self._store = store
        self._reactor = reactor
        self._readers = readers
        self._release_memory = release_memory
        self._log = log
        self._rescue = Rescue(node, store, log)
        self._steps = Steps(log)
        node.stepper = self._steps.add
        self._held_since_s = 0.0
        self.failure = ""

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            tasks = (self._sync, self._pace, self._hold, self._collect, self._evict, self._write)
            for task in (*tasks, self._steps.run):
                nursery.start_soon(task)

    # --- syncing -------------------------------------------------------------------------------

    async def _sync(self) -> None:
        """Bring what was written to the device, and give back what is free."""
        released: list[tuple[LargeFile, list[Range]]] = []
        while True:
            await trio.sleep(_SYNC_INTERVAL_S)
            self._readers.trim()
            error = self._node.retry_commit()
            if error is None:
                released += self._store.take_released()
            try:
                await self._rescue.run()
                await trio.to_thread.run_sync(self._store.sync)
                taken, released = released, []
                await trio.to_thread.run_sync(partial(self._store.punch, taken))
                await trio.to_thread.run_sync(self._store.volume.empty_trash)
            except OSError as failure:
                self._note_failure(failure)
            else:
                if self.failure and error is None and not self._store.pacer.refuses:
                    self.failure = ""
                    self._log.info("the medium takes writes again")

    def _note_failure(self, error: OSError) -> None:
        self._node.write_failed(error)
        if not self.failure:
            self._log.error("the medium fails", extra={"error": str(error)})
        self.failure = error.strerror or str(error)

    # --- pacing --------------------------------------------------------------------------------

    async def _pace(self) -> None:
        """Have large values written to the device as they come; hold writers that are faster."""
        pacer = self._store.pacer
        while True:
            if not pacer.is_due:
                await trio.sleep(_PACE_INTERVAL_S if pacer.outstanding_bytes else _IDLE_INTERVAL_S)
                continue
            try:
                await trio.to_thread.run_sync(partial(pacer.drain, pacer.outstanding_bytes // 2))
            except OSError as error:
                self._note_failure(error)

    async def _hold(self) -> None:
        """Look every few milliseconds whether writers of large values have to be held."""
        while True:
            self.hold_writers(trio.current_time())
            is_busy = self._store.pacer.is_due
            await trio.sleep(_PACE_INTERVAL_S if is_busy else _IDLE_INTERVAL_S)

    def hold_writers(self, now_s: float) -> None:
        """Hold writers of large values while the device is behind, or let them go on.

        A device that stays behind for `limits.LARGE_HOLD_MAX_S` has them refused, until it has
        caught up.

        Args:
            now_s: By a clock that only goes forward.
        """
        pacer, reactor = self._store.pacer, self._reactor
        if not pacer.is_behind:
            pacer.refuses = False
            if reactor.holds_large:
                reactor.release_large()
        elif pacer.refuses:
            pass  # What comes is received and forgotten, so there is nobody to be held.
        elif not reactor.holds_large:
            reactor.holds_large = True
            self._held_since_s = now_s
        elif now_s - self._held_since_s >= limits.LARGE_HOLD_MAX_S:
            pacer.refuses = True
            self._note_failure(OSError(errno.ETIMEDOUT, _TOO_SLOW))
            reactor.release_large()

    # --- collecting ----------------------------------------------------------------------------

    async def _collect(self) -> None:
        commit = self._node.retry_commit
        await collect(self._store.volume, lambda: commit() is None, _COLLECT_INTERVAL_S)

    async def _write(self) -> None:
        commit = self._node.retry_commit
        await write_wholes(self._node.keyspace, lambda: commit() is None, _IDLE_INTERVAL_S)

    # --- memory --------------------------------------------------------------------------------

    async def _evict(self) -> None:
        """Leave collections to the medium while memory is short, by what the system counts."""
        keyspace = self._node.keyspace
        while True:
            await trio.sleep(_EVICT_INTERVAL_S)
            used_bytes = resident_bytes()
            budget_bytes = keyspace.memory_bytes
            keyspace.memory_is_full = (
                used_bytes > _FULL_ABOVE * budget_bytes and not keyspace.residents
            )
            excess_bytes = used_bytes - int(_EVICT_DOWN_TO * budget_bytes)
            if used_bytes <= _EVICT_ABOVE * budget_bytes or not keyspace.residents:
                continue
            while excess_bytes > 0:
                freed = evict_some(keyspace, excess_bytes, _EVICT_EFFORT_BYTES)
                self._node.retry_commit()
                if freed == 0:
                    break
                excess_bytes -= freed
                await trio.lowlevel.checkpoint()
            self._release_memory()
