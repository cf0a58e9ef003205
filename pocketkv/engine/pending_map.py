"""Deliveries by the ids of their entries, in the order of the ids.

Ids and deliveries stand in chunks, so that adding behind all others takes no search, and anything
else a search over the chunks and one within a chunk: no step moves more than a chunk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pocketkv.engine.stream_groups import Pending

_ITEMS_MAX: Final = 256
# Chunks of fewer items are united with a neighbour, if both are then no more than half full.
_ITEMS_MIN: Final = 32


class PendingMap:
    """The map."""

    __slots__ = ("_keys", "_size", "_values")

    def __init__(self) -> None:
        # One list for each chunk, none empty; in ascending order, as are the chunks.
        self._keys: list[list[int]] = []
        self._values: list[list[Pending]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        for keys in self._keys:
            yield from keys

    def first(self) -> int:
        """The smallest key; there is one."""
        return self._keys[0][0]

    def last(self) -> int:
        """The largest key; there is one."""
        return self._keys[-1][-1]

    def get(self, key: int) -> Pending | None:
        """The value of a key."""
        number = self._chunk_of(key)
        if number == len(self._keys):
            return None
        keys = self._keys[number]
        position = bisect_left(keys, key)
        return self._values[number][position] if keys[position] == key else None

    def put(self, key: int, value: Pending) -> None:
        """Set the value of a key."""
        number = self._chunk_of(key)
        if number == len(self._keys):
            self._append(key, value)
            return
        keys = self._keys[number]
        position = bisect_left(keys, key)
        if keys[position] == key:
            self._values[number][position] = value
            return
        keys.insert(position, key)
        self._values[number].insert(position, value)
        self._size += 1
        if len(keys) > _ITEMS_MAX:
            self._split(number)

    def pop(self, key: int) -> Pending | None:
        """Remove a key; its value, or ``None`` if it is not there."""
        number = self._chunk_of(key)
        if number == len(self._keys):
            return None
        keys = self._keys[number]
        position = bisect_left(keys, key)
        if keys[position] != key:
            return None
        del keys[position]
        value = self._values[number].pop(position)
        self._size -= 1
        if len(keys) < _ITEMS_MIN:
            self._unite(number)
        return value

    def some(self, start: int, end: int, count: int) -> list[tuple[int, Pending]]:
        """At most `count` keys from `start` to `end`, both included, with their values."""
        found: list[tuple[int, Pending]] = []
        number = self._chunk_of(start)
        if number == len(self._keys):
            return found
        position = bisect_left(self._keys[number], start)
        while number < len(self._keys) and len(found) < count:
            keys = self._keys[number]
            values = self._values[number]
            while position < len(keys) and len(found) < count:
                if keys[position] > end:
                    return found
                found.append((keys[position], values[position]))
                position += 1
            position = 0
            number += 1
        return found

    def shed(self) -> bool:
        """Free some of it; false if nothing is left."""
        if self._keys:
            self._size -= len(self._keys.pop())
            self._values.pop()
        return bool(self._keys)

    def _chunk_of(self, key: int) -> int:
        """The first chunk that has a key of at least this."""
        chunks = self._keys
        high = len(chunks)
        # Mostly what comes is larger than all that is there.
        if high == 0 or chunks[high - 1][-1] < key:
            return high
        low = 0
        while low < high:
            middle = (low + high) // 2
            if chunks[middle][-1] < key:
                low = middle + 1
            else:
                high = middle
        return low

    def _append(self, key: int, value: Pending) -> None:
        if not self._keys or len(self._keys[-1]) >= _ITEMS_MAX:
            self._keys.append([])
            self._values.append([])
        self._keys[-1].append(key)
        self._values[-1].append(value)
        self._size += 1

    def _split(self, number: int) -> None:
        half = len(self._keys[number]) // 2
        self._keys.insert(number + 1, self._keys[number][half:])
        self._values.insert(number + 1, self._values[number][half:])
        del self._keys[number][half:]
        del self._values[number][half:]

    def _unite(self, number: int) -> None:
        """Let a small chunk, which may be empty, become one with a neighbour."""
        if not self._keys[number]:
            del self._keys[number]
            del self._values[number]
            return
        first = number if number + 1 < len(self._keys) else number - 1
        if first < 0 or len(self._keys[first]) + len(self._keys[first + 1]) > _ITEMS_MAX // 2:
            return
        self._keys[first] += self._keys.pop(first + 1)
        self._values[first] += self._values.pop(first + 1)

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        keys = list(self)
        assert keys == sorted(set(keys))
        assert len(keys) == self._size
        for numbers, values in zip(self._keys, self._values, strict=True):
            assert 0 < len(numbers) == len(values) <= _ITEMS_MAX
