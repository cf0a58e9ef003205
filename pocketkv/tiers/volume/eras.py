"""How long ago something was read past the page cache, told by what was read since."""

from __future__ import annotations

import os
from typing import Final

# What was read longer ago than so much of the machine's memory was read since would not be in the
# page cache any more, had it been brought there: what is asked for again by then was not missed.
_CACHE_SHARE: Final = 0.25


class Eras:
    """A clock that goes by bytes: an era is as much as the page cache may keep.

    Attributes:
        now: Which era it is.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        if memory_bytes is None:
            memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._era_bytes = max(1, int(_CACHE_SHARE * memory_bytes))
        self._left_bytes = self._era_bytes
        self.now = 0

    def read(self, size: int) -> None:
        """So many bytes were read past the page cache."""
        self._left_bytes -= size
        if self._left_bytes <= 0:
            self.now += 1
            self._left_bytes = self._era_bytes
