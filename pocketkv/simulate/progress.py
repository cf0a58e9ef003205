"""How far a job has come, which takes longer while it lacks something. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pocketkv.simulate.clock import Clock
from pocketkv.simulate.meter import Meter
from pocketkv.simulate.trace import TracedJob

WHOLE: Final = 1000
"""Speeds, and shares of a job that it lacks, are in thousandths, so that sums are exact."""

SLOWEST: Final = 50
"""A job that has a server at all comes on so fast at least: none waits for ever."""


class Progress:
    """A job's own time, which passes as fast as the share that it has of what it needs.

    Args:
        traced: The job.
        do: Called with what it does from now on if it lacks nothing, in bytes per second, and
            with what it holds; at the end with nothing.
        end: Called when it has ended.

    Attributes:
        speed: In thousandths.
    """

    def __init__(
        self,
        traced: TracedJob,
        clock: Clock,
        meter: Meter,
        do: Callable[[int, int], None],
        end: Callable[[], None],
    ) -> None:
        self.speed = 0
        self._clock = clock
        self._meter = meter
        self._do = do
        self._end = end
        self._phases = traced.phases()
        self._next = 0
        self._done = 0
        self._since_ms = clock.now_ms
        self._turn = 0
        self._lacking = WHOLE
        meter.running += 1
        meter.miss(WHOLE, clock.now_ms)

    def lack(self, missing: int, *, is_placed: bool = True) -> None:
        """Have the job lack such a share, in thousandths, from now on; at first, it lacks all.

        One that is placed comes on a little whatever it lacks.
        """
        now_ms = self._clock.now_ms
        self._done += (now_ms - self._since_ms) * self.speed
        self._since_ms = now_ms
        self.speed = max(WHOLE - missing, SLOWEST) if is_placed else 0
        self._meter.miss((WHOLE - self.speed) - self._lacking, now_ms)
        self._lacking = WHOLE - self.speed
        self._put_off()

    def _put_off(self) -> None:
        self._turn += 1
        if not self.speed:
            return
        turn = self._turn
        left = self._phases[self._next][0] * WHOLE - self._done

        def come() -> None:
            if turn == self._turn:
                self._come()

        self._clock.after(max(0, -(-left // self.speed)), come)

    def _come(self) -> None:
        at_ms, rate_bytes_s, held_bytes = self._phases[self._next]
        self._done, self._since_ms = at_ms * WHOLE, self._clock.now_ms
        self._next += 1
        self._do(rate_bytes_s, held_bytes)
        if self._next < len(self._phases):
            self._put_off()
            return
        self._meter.miss(-self._lacking, self._clock.now_ms)
        self._meter.running -= 1
        self._turn += 1
        self._end()
