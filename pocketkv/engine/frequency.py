"""How often keys were used lately, estimated in a fixed amount of memory.

A count-min sketch with aging, as TinyLFU has it (Einziger, Friedman, Manes: TinyLFU, ACM TOS 2017):
each key has a counter in each of four rows, its frequency is about the least of them, and from time
to time all counters are halved, so that what was popular once does not stay so. A counter is a byte
of which only values up to 15 are used.
"""

from __future__ import annotations

from typing import Final

from pocketkv.crc16 import crc16

_ROWS: Final = 4
_COUNTER_MAX: Final = 15
_SLOTS_MIN: Final = 1024
# Uses, per counter of a row, after which all counters are halved.
_USES_PER_SLOT: Final = 8
_MIX: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
_MASK: Final = (1 << 64) - 1
_HALVED: Final = bytes(number >> 1 for number in range(256))


class FrequencySketch:
    """Estimates of how often keys were used.

    Args:
        keys: About how many keys are to be told apart; more of them share counters.
    """

    __slots__ = ("_mask", "_rows", "_uses", "_uses_max")

    def __init__(self, keys: int) -> None:
        slots = _SLOTS_MIN
        while slots < keys:
            slots *= 2
        self._mask = slots - 1
        self._rows = [bytearray(slots) for _ in range(_ROWS)]
        self._uses = 0
        self._uses_max = _USES_PER_SLOT * slots

    def add(self, key: bytes) -> None:
        """Count one use of a key."""
        places = self._places(key)
        least = min(row[place] for row, place in zip(self._rows, places, strict=True))
        if least < _COUNTER_MAX:
            # Only the least ones: a counter that is higher was counted up by other keys.
            for row, place in zip(self._rows, places, strict=True):
                if row[place] == least:
                    row[place] = least + 1
        self._uses += 1
        if self._uses >= self._uses_max:
            self._age()

    def estimate(self, key: bytes) -> int:
        """How often a key was used lately: 0 to 15, and seldom too much."""
        places = self._places(key)
        return min(row[place] for row, place in zip(self._rows, places, strict=True))

    def _places(self, key: bytes) -> list[int]:
        # The slot's checksum spreads well and costs least; the hash tells keys of a slot apart.
        number = (hash(key) ^ crc16(key) << 48) & _MASK
        mask = self._mask
        return [((number * factor & _MASK) >> 32) & mask for factor in _MIX]

    def _age(self) -> None:
        """Halve all counters."""
        self._rows = [row.translate(_HALVED) for row in self._rows]
        self._uses >>= 1
