"""The simulated clock: what is to be done when, in the order of time. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """Runs what was put off until its time comes; no time passes otherwise.

    Attributes:
        now_ms: The time, in milliseconds since the trace began.
        events: How many things were done.
    """

    def __init__(self) -> None:
        self.now_ms = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0

    def at(self, when_ms: int, action: Callable[[], None]) -> None:
        """Have something done at a time; at the same time, what was put off first is done first."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(when_ms, self.now_ms), self._sequence, action))

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Have something done in so many milliseconds."""
        self.at(self.now_ms + delay_ms, action)

    def run(self, until_ms: int) -> None:
        """Do everything that is due up to and at a time, which it then is."""
        while self._heap and self._heap[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._heap)
            self.events += 1
            action()
        self.now_ms = until_ms
