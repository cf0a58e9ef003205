"""Work on the serving thread that takes long, done in short steps between clients' commands."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import trio

# How long others may have to wait at a time, but for the last step begun.
_SLICE_S: Final = 0.002


class Steps:
    """Goes through iterators; of several, each has its turn.

    Args:
        log: Where defects are told.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._queue: deque[tuple[Iterator[None], Callable[[], None]]] = deque()
        self._wanted = trio.Event()

    def add(self, steps: Iterator[None], done: Callable[[], None]) -> None:
        """Go through `steps`, then call `done`; at once if that takes no step."""
        if next(steps, steps) is steps:
            done()
            return
        self._queue.append((steps, done))
        self._wanted.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._queue:
                self._slice()
                await trio.lowlevel.checkpoint()

    def _slice(self) -> None:
        steps, done = self._queue.popleft()
        until_s = time.perf_counter() + _SLICE_S
        try:
            for _ in steps:
                if time.perf_counter() >= until_s:
                    self._queue.append((steps, done))
                    return
        except Exception:  # noqa: BLE001 - it is logged, and done at once instead
            self._log.exception("internal error in a step")
        done()
