"""How much may move at a time: what is under way, by server, and whether more may be. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

# A move is at most about so large, so that the first slots are served at their target early.
MOVE_BYTES_MAX: Final = 128 << 20
# A server is source, or target, of at most so many moves at a time, and bytes, if not of only one
# move. Small moves are quick, and many at a time keep a server busy; two large ones do as well.
SERVER_MOVES_MAX: Final = 8
SERVER_BYTES_MAX: Final = 2 * MOVE_BYTES_MAX
# In the whole cluster: each one that is over is a new map, which everybody is told.
CLUSTER_MOVES_MAX: Final = 256


@dataclass(frozen=True)
class Way:
    """From where to where something moves, and how much."""

    source: str
    target: str
    moved_bytes: int


class Traffic:
    """What is under way."""

    def __init__(self) -> None:
        self._moves: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be under way in the whole cluster."""
        return self._count >= CLUSTER_MOVES_MAX

    def add(self, way: Way) -> None:
        """Note what is under way."""
        self._count += 1
        for end in self._ends(way):
            self._moves[end] += 1
            self._bytes[end] += way.moved_bytes

    def busy(self) -> tuple[set[str], set[str]]:
        """Return the servers that can be source, and target, of nothing more."""
        full = [end for end, count in self._moves.items() if count >= SERVER_MOVES_MAX]
        return (
            {name for end, name in full if end == "from"},
            {name for end, name in full if end == "to"},
        )

    def take(self, way: Way) -> bool:
        """Note something more, if it may be; returns whether."""
        if self.is_full or not all(self._has_room(end, way) for end in self._ends(way)):
            return False
        self.add(way)
        return True

    def _has_room(self, end: tuple[str, str], way: Way) -> bool:
        moves = self._moves[end]
        if moves >= SERVER_MOVES_MAX:
            return False
        return not moves or self._bytes[end] + way.moved_bytes <= SERVER_BYTES_MAX

    @staticmethod
    def _ends(way: Way) -> tuple[tuple[str, str], tuple[str, str]]:
        return ("from", way.source), ("to", way.target)
