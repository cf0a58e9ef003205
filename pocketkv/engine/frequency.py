"""How often keys were used lately, estimated in a fixed amount of memory.

A count-min sketch with aging, as TinyLFU has it (Einziger, Friedman, Manes: TinyLFU, ACM TOS 2017):
each key has a counter in each of four rows, its frequency is about the least of them, and from time
to time all counters are halved, so that what was popular once does not stay so. A counter is a byte
of which only values up to 15 are counted; what is restored may be more.

Where a key's counters are, follows from the hash that Python keeps with every ``bytes``: it is
keyed and well mixed, so no client can choose keys that share counters, and to count a use of a key
that was just looked up hashes nothing.
"""

from __future__ import annotations

from typing import Final

ROWS: Final = 4
USES_MAX: Final = 15
"""What `FrequencySketch.add` counts to at most."""

SLOTS_MIN: Final = 1024
SLOTS_MAX: Final = 1024 * 1024
# Uses, per counter of a row, after which all counters are halved.
_USES_PER_SLOT: Final = 8
_HALVED: Final = bytes(number >> 1 for number in range(256))

# The same for the compiled hot path, as C numbers.
_MASK: Final = (1 << 64) - 1
_COUNTER_MAX: Final = USES_MAX


class FrequencySketch:
    """Estimates of how often keys were used.

    Args:
        keys: About how many keys are to be told apart; more of them share counters. Within limits:
            each takes four bytes.

    Attributes:
        ages: How often all counters were halved.
    """

    __slots__ = ("_cells", "_mask", "_slots", "_uses", "_uses_max", "ages")

    def __init__(self, keys: int) -> None:
        slots = SLOTS_MIN
        while slots < keys and slots < SLOTS_MAX:
            slots *= 2
        self._slots = slots
        self._mask = slots - 1
        # Row after row.
        self._cells = bytearray(ROWS * slots)
        self.ages = 0
        self._uses = 0
        self._uses_max = _USES_PER_SLOT * slots

    @property
    def size_bytes(self) -> int:
        """What its counters take."""
        return len(self._cells)

    def add(self, key: bytes, salt: int = 0) -> None:
        """Count one use of a key; `salt` tells equal keys of different owners apart."""
        cells = self._cells
        mask = self._mask
        slots = self._slots
        number = (hash(key) ^ salt) & _MASK
        step = number >> 32 | 1
        first = number & mask
        second = slots + (number + step & mask)
        third = 2 * slots + (number + 2 * step & mask)
        fourth = 3 * slots + (number + 3 * step & mask)
        least = min(cells[first], cells[second], cells[third], cells[fourth])
        if least < _COUNTER_MAX:
            # Only the least ones: a counter that is higher was counted up by other keys.
            if cells[first] == least:
                cells[first] = least + 1
            if cells[second] == least:
                cells[second] = least + 1
            if cells[third] == least:
                cells[third] = least + 1
            if cells[fourth] == least:
                cells[fourth] = least + 1
        self._uses += 1
        if self._uses >= self._uses_max:
            self._age()

    def restore(self, key: bytes, frequency: int, salt: int = 0) -> None:
        """Take a key for one that was used so often, 0 to 255; that is forgotten as usual."""
        cells = self._cells
        mask = self._mask
        number = (hash(key) ^ salt) & _MASK
        step = number >> 32 | 1
        for row in range(ROWS):
            cell = row * self._slots + (number + row * step & mask)
            cells[cell] = max(cells[cell], frequency)

    def estimate(self, key: bytes, salt: int = 0) -> int:
        """How often a key was used lately: 0 to 15 (255 if restored so), and seldom too much."""
        cells = self._cells
        mask = self._mask
        slots = self._slots
        number = (hash(key) ^ salt) & _MASK
        step = number >> 32 | 1
        first = number & mask
        second = slots + (number + step & mask)
        third = 2 * slots + (number + 2 * step & mask)
        fourth = 3 * slots + (number + 3 * step & mask)
        return min(cells[first], cells[second], cells[third], cells[fourth])

    def _age(self) -> None:
        """Halve all counters."""
        self._cells = self._cells.translate(_HALVED)
        self._uses >>= 1
        self.ages += 1
