"""Things to do later, for commands that answer later. The shell that moves the clock runs them.

The shell calls `Timers.run_due` when `Timers.next_ms` has come; after each round of service it
looks at `next_ms` again, since a command may have set an earlier timer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import Clock


class Timer:
    """Something to do at a time, once."""

    __slots__ = ("action", "due_ms", "number")

    def __init__(self, due_ms: int, number: int, action: Callable[[], None]) -> None:
        self.due_ms = due_ms
        self.number = number
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: Timer) -> bool:
        return (self.due_ms, self.number) < (other.due_ms, other.number)


class Timers:
    """The timers of one node. Times are milliseconds of the Unix epoch, as the clock's."""

    __slots__ = ("_cancelled", "_heap", "_number", "clock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._heap: list[Timer] = []
        self._cancelled = 0
        # Timers that are due at the same time run in the order in which they were set.
        self._number = 0

    def at(self, due_ms: int, action: Callable[[], None]) -> Timer:
        """Have `action` called once, as soon as the time is `due_ms` or later."""
        self._number += 1
        timer = Timer(due_ms, self._number, action)
        heapq.heappush(self._heap, timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Do nothing when its time comes; nothing happens if it has come already."""
        if timer.action is None:
            return
        timer.action = None
        self._cancelled += 1
        # Most time-outs never come: they must not pile up until they would have.
        if self._cancelled * 2 > len(self._heap):
            self._heap = [t for t in self._heap if t.action is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_ms(self) -> int | None:
        """When the next timer is due; ``None`` if there is none."""
        self._drop_cancelled()
        return self._heap[0].due_ms if self._heap else None

    def run_due(self) -> None:
        """Do what is due by the clock."""
        while True:
            self._drop_cancelled()
            if not self._heap or self._heap[0].due_ms > self.clock.now_ms:
                return
            timer = heapq.heappop(self._heap)
            action, timer.action = timer.action, None
            if action is not None:
                action()

    def _drop_cancelled(self) -> None:
        while self._heap and self._heap[0].action is None:
            heapq.heappop(self._heap)
            self._cancelled -= 1
