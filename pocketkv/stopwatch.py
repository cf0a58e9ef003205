"""Nanoseconds for who may not read a clock: it is passed in, as an object.

An object and not a function, since a compiled subclass (`pocketkv.resp.syscalls`) is then read
without a Python call.
"""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Reads a monotonic clock.

    Args:
        timer_ns: The clock.
    """

    __slots__ = ("_timer_ns",)

    def __init__(self, timer_ns: Callable[[], int]) -> None:
        self._timer_ns = timer_ns

    def now_ns(self) -> int:
        """Nanoseconds since some moment."""
        return self._timer_ns()
