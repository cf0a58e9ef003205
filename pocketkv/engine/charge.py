"""What a job is charged for a large string that is no value yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace


class Charge:
    """Memory that a job uses for a string that is not a value yet."""

    __slots__ = ("size_bytes", "space")

    def __init__(self, space: JobSpace) -> None:
        self.space = space
        self.size_bytes = 0

    def __del__(self) -> None:
        self.add(-self.size_bytes)

    def add(self, count: int) -> None:
        """It uses so much more (or less, if negative)."""
        self.size_bytes += count
        self.space.incoming_bytes += count
        self.space.keyspace.incoming_bytes += count
