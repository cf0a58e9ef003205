"""How a server that sends slots away leaves the processor to clients where it is short.

The system tells how long this thread was ready to run, and had to wait for a processor. Where that
is much, and clients are being served, so do their requests wait, in this process or in the one that
takes what is sent: then whoever sends rests after each step, the longer the more it was. Where
processors are idle, or nobody is served, it goes on at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

# Read after so long again.
_WINDOW_S: Final = 0.01
# Of the time, so much may be spent waiting before others are given more of it.
_CROWDED_SHARE: Final = 0.03
# Rests, as a part of the time that was worked: how they grow and shrink, and what is the most.
_REST_STEP: Final = 0.5
_REST_GROWTH: Final = 1.5
_REST_DECAY: Final = 0.8
_REST_MAX: Final = 4.0
# Less is none.
_RESTING_SHARE: Final = 0.05


class Rest:
    """How long to rest, for the time that was worked. Pure.

    Attributes:
        share: The part of the time worked, from 0 to 4.
    """

    __slots__ = ("_commands", "_looked_s", "_waited_s", "share")

    def __init__(self) -> None:
        self.share = 0.0
        self._looked_s = 0.0
        self._waited_s = 0.0
        self._commands = 0

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to `look` again."""
        return now_s - self._looked_s >= _WINDOW_S

    def look(self, now_s: float, waited_s: float, commands: int) -> None:
        """Take in what has happened.

        Args:
            now_s: Monotonic time.
            waited_s: How long this thread has waited for a processor so far.
            commands: How many commands were served so far.
        """
        elapsed_s = now_s - self._looked_s
        share = (waited_s - self._waited_s) / elapsed_s if elapsed_s > 0 else 0.0
        is_serving = commands != self._commands
        # What is long ago tells nothing of now.
        is_new = elapsed_s < 10 * _WINDOW_S
        self._looked_s, self._waited_s, self._commands = now_s, waited_s, commands
        if is_new and is_serving and share > _CROWDED_SHARE:
            self.share = min(_REST_GROWTH * self.share + _REST_STEP, _REST_MAX)
        elif is_new:
            self.share *= _REST_DECAY


class ProcessorWaits:
    """Reads how long the calling thread has waited for a processor; 0 where nobody tells."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Not Linux, or a system that does not count: then nobody rests.
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read_s(self) -> float:
        """In seconds, since the thread began."""
        if self._fd < 0:
            return 0.0
        try:
            fields = os.pread(self._fd, 128, 0).split()
        except OSError:
            return 0.0
        return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0


class Rests:
    """Tells whoever works in this thread how long to rest after a step.

    Args:
        commands: How many commands were served so far.
    """

    def __init__(self, commands: Callable[[], int]) -> None:
        self._commands = commands
        self._waits = ProcessorWaits()
        self._rest = Rest()
        self._is_in_haste = False

    @property
    def are_taken(self) -> bool:
        """Whether there is anything to rest for now."""
        return self._rest.share > _RESTING_SHARE and not self._is_in_haste

    def hurry(self) -> None:
        """Rest no more: what is not done in time is lost."""
        self._is_in_haste = True

    def after_s(self, worked_s: float) -> float:
        """How long to rest after so much work."""
        now_s = time.monotonic()
        if self._rest.is_due(now_s):
            self._rest.look(now_s, self._waits.read_s(), self._commands())
        return self._rest.share * worked_s if self.are_taken else 0.0
