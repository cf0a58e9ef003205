"""Keeps a storage server's memory compact: a background task.

It looks now and then whether more is resident than is accounted for, and if so runs a pass of
defragmentation, a short slice at a time. How much of the thread that may take is a matter of
whether clients are served: `SHARE_BUSY` of it while they are, otherwise `SHARE_IDLE`.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import trio

from pocketkv.engine.defragment import Defragmenter
from pocketkv.engine.eviction import memory_bytes
from pocketkv.engine.fragmentation import Fragmentation
from pocketkv.engine.node import Node
from pocketkv.observability.process import ProcessSampler
from pocketkv.serving.memory import CPythonAddresses, release_free_memory

SHARE_BUSY: Final = 0.25
"""Part of the thread's time that a pass takes while clients are served."""
SHARE_IDLE: Final = 0.75
"""The same while there are no commands."""

_LOOK_INTERVAL_S: Final = 0.25
# How long a slice should take: a client that comes in between waits for no longer.
_SLICE_S: Final = 0.0005
# The effort that is taken to be about that, until it was measured, and within what bounds.
_EFFORT_FIRST: Final = 500
_EFFORT_MIN: Final = 50
_EFFORT_MAX: Final = 20_000
# A shorter sleep is no shorter: time-outs of the system's poll are whole milliseconds.
_SLEEP_MIN_S: Final = 0.001


class Compacting:
    """Runs passes over a node's keyspace when they are worth it.

    Args:
        node: The server; its `defragmenter` is set.
        log: Where passes are told.
        sampler: Tells what is resident.
    """

    def __init__(self, node: Node, log: logging.Logger, sampler: ProcessSampler) -> None:
        self._node = node
        self._log = log
        self._sampler = sampler
        self._fragmentation = Fragmentation(self._resident_bytes())
        self._effort = _EFFORT_FIRST
        self._defragmenter = Defragmenter(node.keyspace, CPythonAddresses(), release_free_memory)
        node.defragmenter = self._defragmenter

    async def run(self) -> None:
        """Look, and run a pass when it is worth it, for ever."""
        while True:
            await trio.sleep(_LOOK_INTERVAL_S)
            if self.is_called_for():
                await self.run_pass()

    def is_called_for(self) -> bool:
        """Look whether a pass should begin now."""
        node = self._node
        if not node.settings.activedefrag:
            return False
        accounted_bytes = accounted_in_objects_bytes(node)
        if not self._fragmentation.calls_for_pass(node.process.anonymous_bytes, accounted_bytes):
            return False
        # That was sampled a while ago, and much may have been freed since.
        resident_bytes = self._resident_bytes()
        return self._fragmentation.is_worth_it(resident_bytes, accounted_bytes)

    async def run_pass(self) -> None:
        """Run one pass."""
        node = self._node
        defragmenter = self._defragmenter
        resident_bytes = self._resident_bytes()
        self._fragmentation.begin(resident_bytes, accounted_in_objects_bytes(node))
        moved_bytes = defragmenter.moved_bytes
        began_s = time.monotonic()
        defragmenter.begin()
        commands = node.commands_processed
        owed_s = 0.0
        more = True
        while more:
            if not node.settings.activedefrag:
                defragmenter.stop()
            more, took_s = self._slice()
            share = SHARE_IDLE if node.commands_processed == commands else SHARE_BUSY
            commands = node.commands_processed
            owed_s += took_s * (1 - share) / share
            if owed_s < _SLEEP_MIN_S:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(owed_s)
                owed_s = 0.0
        left_bytes = self._resident_bytes()
        self._fragmentation.end(left_bytes, accounted_in_objects_bytes(node))
        self._log.info(
            "defragmented",
            extra={
                "seconds": round(time.monotonic() - began_s, 3),
                "moved_bytes": defragmenter.moved_bytes - moved_bytes,
                "resident_bytes_before": resident_bytes,
                "resident_bytes_after": left_bytes,
            },
        )

    def _slice(self) -> tuple[bool, float]:
        """One slice: whether there is more to do, and how long it took."""
        began_ns = time.perf_counter_ns()
        more = self._defragmenter.step(self._effort)
        took_ns = time.perf_counter_ns() - began_ns
        self._defragmenter.spent_ns += took_ns
        took_s = took_ns / 1e9
        # Not by more than that at a time: a slice may be long for reasons of its own.
        factor = min(2.0, max(0.5, _SLICE_S / max(took_s, 1e-6)))
        self._effort = min(_EFFORT_MAX, max(_EFFORT_MIN, int(self._effort * factor)))
        return more, took_s

    def _resident_bytes(self) -> int:
        """What is resident now, but for files."""
        self._node.process = self._sampler.sample()
        return self._node.process.anonymous_bytes


def accounted_in_objects_bytes(node: Node) -> int:
    """What is accounted to jobs of this process's objects: nothing of extents, nor of files."""
    keyspace = node.keyspace
    if keyspace.store is not None and keyspace.store.durable:
        return memory_bytes(keyspace)
    accounted_bytes = keyspace.used_bytes + keyspace.incoming_bytes
    if keyspace.extents is not None:
        accounted_bytes -= keyspace.extents.figures().used_bytes
    return max(0, accounted_bytes)
