"""Decides how much of the warm extents goes back to the system, and when.

What was not used through a whole window is not needed: it goes back, but for a small reserve, and
that too when nothing was asked for in a while. In between what is freed is used again, so that
whoever writes as much as it removes never waits for the system. What is spent cannot be used again
and goes back at once.

Everything is done in slices, since giving back takes the system some 0.2 ms for a mebibyte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits

if TYPE_CHECKING:
    from pocketkv.engine.extents import Extents
    from pocketkv.engine.keyspace import Keyspace

# Given back in one step, before others have their turn.
_SLICE_BYTES: Final = limits.MIB
# How long something must have been unused.
_WINDOW_S: Final = 1.0
# How long nothing must have been asked for, until the reserve goes back too.
_IDLE_S: Final = 3.0


class Trimmer:
    """Gives the extents of a keyspace back.

    Args:
        keyspace: Whose extents are meant.
        extents: They.
    """

    def __init__(self, keyspace: Keyspace, extents: Extents) -> None:
        self._keyspace = keyspace
        self._extents = extents
        self._window_end_s = 0.0
        self._busy_s = 0.0
        self._allocations = 0
        # Warm pages that are to go back.
        self._excess_pages = 0

    def hurry(self) -> None:
        """Much was freed at once, and nobody will write as much: do not wait and see."""
        extents = self._extents
        extents.warm_low_pages = extents.warm_pages
        self._window_end_s = 0.0

    def step(self, now_s: float) -> bool:
        """Give one slice back; whether there is more to give back now.

        Args:
            now_s: Monotonic time.
        """
        if now_s >= self._window_end_s:
            self._begin_window(now_s)
        extents = self._extents
        slice_pages = max(1, _SLICE_BYTES // extents.page_bytes)
        if extents.punch_spent(slice_pages):
            return True
        excess_pages = max(self._excess_pages, self._overfull_pages())
        self._excess_pages = min(excess_pages, extents.warm_pages)
        if self._excess_pages == 0:
            return False
        self._excess_pages -= extents.punch_warm(min(self._excess_pages, slice_pages))
        return self._excess_pages > 0

    def _begin_window(self, now_s: float) -> None:
        """Look what was needed in the window that ends."""
        self._window_end_s = now_s + _WINDOW_S
        extents = self._extents
        if extents.allocations != self._allocations:
            self._allocations = extents.allocations
            self._busy_s = now_s
        reserve_bytes = 0
        if now_s - self._busy_s < _IDLE_S:
            share_bytes = int(limits.EXTENT_RESERVE_SHARE * self._keyspace.memory_bytes)
            reserve_bytes = min(limits.EXTENT_RESERVE_MAX_BYTES, share_bytes)
        reserve_pages = reserve_bytes // extents.page_bytes
        self._excess_pages = max(0, extents.warm_low_pages - reserve_pages)
        extents.warm_low_pages = extents.warm_pages
        for sink in list(self._keyspace.unfinished):
            sink.give_back_rest()

    def _overfull_pages(self) -> int:
        """How many warm pages take memory that the server does not have."""
        keyspace = self._keyspace
        extents = self._extents
        free_bytes = extents.warm_pages * extents.page_bytes
        over_bytes = (
            keyspace.used_bytes + keyspace.incoming_bytes + free_bytes - keyspace.memory_bytes
        )
        return -(-over_bytes // extents.page_bytes) if over_bytes > 0 else 0
