"""Threads that read from a medium, so that only those wait who asked.

A read is a short call without the interpreter's lock. Handing it over and back is what costs, so
this is as little as can be: a queue that is made in C, and one wake-up of the serving thread for
all that was read since the last one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, TypeAlias

import trio

from pocketkv.engine.errors import CommandError

Read: TypeAlias = "Callable[[], bytes]"
Done: TypeAlias = "Callable[[list[bytes | CommandError]], None]"

# How many reads a medium is given at a time. A disk that turns can do no more than sort a few.
DEPTHS: Final = {"nvme": 32, "ssd": 32, "hdd": 4}
_DEFAULT_DEPTH: Final = 16


class _Batch:
    """Reads that are waited for together."""

    __slots__ = ("done", "left", "results")

    def __init__(self, count: int, done: Done) -> None:
        self.results: list[bytes | CommandError] = [b""] * count
        self.left = count
        self.done = done


class Readers:
    """Reads for the serving thread.

    Args:
        depth: How many reads may be under way.
        log: Where defects are told.
    """

    def __init__(self, depth: int, log: logging.Logger) -> None:
        self._log = log
        self._depth = depth
        self._queue: SimpleQueue[tuple[_Batch, int, Read] | None] = SimpleQueue()
        self._finished: deque[tuple[_Batch, int, bytes | CommandError]] = deque()
        self._threads: list[threading.Thread] = []
        self._token = trio.lowlevel.current_trio_token()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many reads were asked for and are not done."""
        return self._waiting

    def read(self, reads: list[Read], done: Done) -> None:
        """Have things read, and `done` called with the results in their order."""
        if not reads:
            done([])
            return
        batch = _Batch(len(reads), done)
        self._waiting += len(reads)
        while len(self._threads) < min(self._waiting, self._depth):
            self._start_thread()
        for index, read in enumerate(reads):
            self._queue.put((batch, index, read))

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="reader", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        """What each thread does until it is told to end."""
        while (item := self._queue.get()) is not None:
            batch, index, read = item
            result: bytes | CommandError
            try:
                result = read()
            except CommandError as error:
                result = error
            except OSError as error:
                result = CommandError(b"IOERR " + (error.strerror or str(error)).encode())
            except Exception as error:  # noqa: BLE001 - it is logged, and whoever waits is told
                self._log.exception("internal error while reading")
                result = CommandError(b"ERR internal error: " + type(error).__name__.encode())
            self._finished.append((batch, index, result))
            try:
                self._token.run_sync_soon(self._deliver, idempotent=True)
            except trio.RunFinishedError:
                return

    def _deliver(self) -> None:
        """Pass on what was read; on the serving thread."""
        finished = self._finished
        while finished:
            batch, index, result = finished.popleft()
            batch.results[index] = result
            batch.left -= 1
            self._waiting -= 1
            if batch.left == 0:
                batch.done(batch.results)

    def close(self) -> None:
        """End the threads, each after the read that it is at."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(1.0)


def depth_of(tier: str) -> int:
    """How many reads a tier's medium is given at a time."""
    return DEPTHS.get(tier, _DEFAULT_DEPTH)
