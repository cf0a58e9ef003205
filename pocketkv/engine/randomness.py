"""Where the engine has its randomness from: it is passed in, as the time is."""

from __future__ import annotations

from typing import Protocol


class Randomness(Protocol):
    """What the engine asks of `random.Random`."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 to `stop` - 1."""
        ...
