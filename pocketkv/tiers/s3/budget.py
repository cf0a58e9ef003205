"""Bounds the bytes that are under way at one time: who has more waits for others to be done."""

from __future__ import annotations

import threading


class Budget:
    """So many bytes may be taken together; one alone may take more.

    What is taken is given back by a transfer that ends, and transfers never take any, so whoever
    waits here waits no longer than transfers take.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._freed = threading.Condition()
        self._taken_bytes = 0
        self._most_bytes = 0

    @property
    def taken_bytes(self) -> int:
        """What is under way."""
        return self._taken_bytes

    @property
    def most_bytes(self) -> int:
        """The most that was ever under way."""
        return self._most_bytes

    def take(self, size: int) -> None:
        """Take bytes, as soon as there is room for them."""
        with self._freed:
            while not self._fits(size):
                self._freed.wait()
            self._add(size)

    def take_now(self, size: int) -> bool:
        """Take bytes if there is room for them."""
        with self._freed:
            if not self._fits(size):
                return False
            self._add(size)
            return True

    def give_back(self, size: int) -> None:
        """They are no longer under way."""
        with self._freed:
            self._taken_bytes -= size
            assert self._taken_bytes >= 0
            self._freed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._taken_bytes == 0 or self._taken_bytes + size <= self._limit_bytes

    def _add(self, size: int) -> None:
        self._taken_bytes += size
        self._most_bytes = max(self._most_bytes, self._taken_bytes)
