"""Whether memory is fragmented so much that a pass of defragmentation is worth it.

The evidence is what is resident beyond what is accounted for. Not all of that can be gained: the
program itself and what clients' connections hold are in it, and what a pass could not move. So what
remained after a pass is taken as given, and only what comes on top of it counts. Therefore a pass
that gained nothing is not repeated before much more was freed, and one that gained much is followed
by another if much is left.
"""

from __future__ import annotations

from typing import Final

# What a pass is worth: so much in all, and so much more than a pass left behind, as parts of what
# is accounted for.
_EXCESS_SHARE: Final = 0.07
_GAIN_SHARE: Final = 0.05
# Less is not worth looking at everything that is stored.
_GAIN_BYTES_MIN: Final = 8 * 1024**2
# While the excess grows by such a part of it between two looks, much is being deleted, and a pass
# would have to be repeated at once; but it does not wait for longer than so many looks.
_GROWING_SHARE: Final = 0.02
_WAITED_MAX: Final = 60


class Fragmentation:
    """The evidence, as it is looked at from time to time.

    Args:
        program_bytes: What is resident while nothing is stored.
    """

    __slots__ = ("_accounted_bytes", "_given_bytes", "_program_bytes", "_resident_bytes", "_waited")

    def __init__(self, program_bytes: int) -> None:
        self._program_bytes = program_bytes
        # At the last look.
        self._accounted_bytes = 0
        # What was resident when the pass under way began.
        self._resident_bytes = 0
        # The excess that is taken as given.
        self._given_bytes = 0
        self._waited = 0

    def calls_for_pass(self, resident_bytes: int, accounted_bytes: int) -> bool:
        """Look at it; whether a pass should begin now."""
        excess_bytes = self._excess_bytes(resident_bytes, accounted_bytes)
        # What is used again is no longer there to be gained, nor given.
        self._given_bytes = max(0, min(self._given_bytes, excess_bytes))
        freed_bytes = self._accounted_bytes - accounted_bytes
        self._accounted_bytes = accounted_bytes
        if not self.is_worth_it(resident_bytes, accounted_bytes):
            self._waited = 0
            return False
        if freed_bytes > _GROWING_SHARE * excess_bytes and self._waited < _WAITED_MAX:
            self._waited += 1
            return False
        self._waited = 0
        return True

    def is_worth_it(self, resident_bytes: int, accounted_bytes: int) -> bool:
        """Whether a pass is worth it, be it now or when less is being freed."""
        excess_bytes = self._excess_bytes(resident_bytes, accounted_bytes)
        if excess_bytes <= max(_EXCESS_SHARE * accounted_bytes, _GAIN_BYTES_MIN):
            return False
        return excess_bytes - self._given_bytes > self._gain_bytes_min(accounted_bytes)

    def begin(self, resident_bytes: int, accounted_bytes: int) -> None:
        """A pass begins."""
        self._resident_bytes = resident_bytes
        self._accounted_bytes = accounted_bytes

    def end(self, resident_bytes: int, accounted_bytes: int) -> None:
        """The pass is over."""
        freed_bytes = max(0, self._accounted_bytes - accounted_bytes)
        self._accounted_bytes = accounted_bytes
        if self._resident_bytes - resident_bytes >= self._gain_bytes_min(accounted_bytes):
            return
        # What was freed meanwhile is none of what the pass could not gain.
        excess_bytes = self._excess_bytes(resident_bytes, accounted_bytes)
        self._given_bytes = max(0, excess_bytes - freed_bytes)

    def _excess_bytes(self, resident_bytes: int, accounted_bytes: int) -> int:
        return resident_bytes - accounted_bytes - self._program_bytes

    @staticmethod
    def _gain_bytes_min(accounted_bytes: int) -> int:
        return max(int(_GAIN_SHARE * accounted_bytes), _GAIN_BYTES_MIN)
