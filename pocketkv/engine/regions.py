"""Where objects lie in memory: which regions are sparsely used, and moving objects out of those.

Neither CPython nor the C library moves an object, so a stretch of memory goes back to the system
only when the last object in it is gone, and a few that stay keep all of it. To move an object is to
hold an equal one in its place. Where the new one lies is for the allocator to say; but an object's
identity is its address, so it can be looked at, and a place that does not suit is kept occupied
until a better one is offered. What was moved away is kept as well. Only at the end everything that
lies in the regions to be left is freed at once, region after region: before that, the holes would
be offered again and again.

This relies on what CPython does and nobody promises. Where identities are no addresses, objects are
copied in vain and nothing else happens.
"""

from __future__ import annotations

import gc
import sys
from array import array
from typing import Any, Final, Protocol, TypeVar

from pocketkv.engine.sizes import (
    BYTES_OBJECT_BYTES,
    FLOAT_OBJECT_BYTES,
    allocated_bytes,
    dict_bytes,
)

# 4 MiB: several of CPython's arenas, which are 1 MiB each and begin anywhere.
REGION_SHIFT: Final = 22
REGION_BYTES: Final = 1 << REGION_SHIFT
# Up to here CPython's own allocator serves, from arenas; above, the C library, from its heap.
_SMALL_BYTES_MAX: Final = 512
# The C library maps what is as large by itself: it lies in no region with anything else.
MOVABLE_BYTES_MAX: Final = 120 * 1024
# A dict is an object and, elsewhere, its entries: the first is of this size.
_DICT_OBJECT_BYTES: Final = 64
# Of a region, in eighths: with more in use, leaving it is not worth the work.
_SPARSE_EIGHTHS: Final = 7
# Nor is leaving less than this part of all regions.
_LEFT_PART_MIN: Final = 1 / 32
# An attempt takes about as long as copying 2**10 bytes.
_ATTEMPT_SHIFT: Final = 10

# Large enough for its successor to be made when it is asked for, and of 32 bytes.
_LARGE_NUMBER: Final = 1 << 40

_join: Final = b"".join
_Key = TypeVar("_Key")
_Item = TypeVar("_Item")


class Addresses(Protocol):
    """Tells where in memory things lie that are no objects."""

    def of_entries(self, table: dict[Any, Any]) -> int:
        """A dict's table of entries."""
        ...

    def of_items(self, items: list[Any]) -> int:
        """A list's array of items."""
        ...


class Survey:
    """How much of each region is in use by what can be moved.

    Args:
        addresses: Tells them.
        lasting: Regions that hold what cannot be moved, and are not left (`lasting_regions`).

    Attributes:
        small, large: Bytes in use by region, in CPython's arenas and in the C library's heap.
        counted: How often something was counted.
    """

    __slots__ = ("_addresses", "_lasting", "counted", "large", "small")

    def __init__(self, addresses: Addresses, lasting: frozenset[int]) -> None:
        self._addresses = addresses
        self._lasting = lasting
        self.counted = 0
        self.small: dict[int, int] = {}
        self.large: dict[int, int] = {}

    def count(self, item: object, size_bytes: int, weight: int) -> None:
        """Count an object of a size, or several of which it is a sample."""
        self._count(id(item) >> REGION_SHIFT, size_bytes, weight)

    def count_bytes(self, item: bytes, weight: int) -> None:
        """`count`, of the commonest kind of object."""
        self._count(id(item) >> REGION_SHIFT, BYTES_OBJECT_BYTES + len(item), weight)

    def count_dict(self, table: dict[Any, Any], weight: int) -> None:
        """`count`, of a dict as it will be when it was made anew."""
        self._count(id(table) >> REGION_SHIFT, _DICT_OBJECT_BYTES, weight)
        region = self._addresses.of_entries(table) >> REGION_SHIFT
        self._count(region, dict_bytes(len(table)) - _DICT_OBJECT_BYTES, weight)

    def _count(self, region: int, size_bytes: int, weight: int) -> None:
        self.counted += 1
        counts = self.small if size_bytes <= _SMALL_BYTES_MAX else self.large
        counts[region] = counts.get(region, 0) + allocated_bytes(size_bytes) * weight

    def sparse_regions(self) -> list[int]:
        """The regions to leave: what is in them fits into the holes of the others."""
        # Arenas are made from high to low addresses, the heap grows upward: of regions that are
        # equally full the newest ones are left, since the oldest hold what the program needs.
        small = _sparsest(self.small, self._lasting, 1)
        return small + _sparsest(self.large, self._lasting, -1)


def lasting_regions() -> frozenset[int]:
    """The regions that now hold objects of any kind: called before there are any keys."""
    return frozenset(id(item) >> REGION_SHIFT for item in gc.get_objects())


def _sparsest(counts: dict[int, int], lasting: frozenset[int], direction: int) -> list[int]:
    # In eighths, so that neighbours that are about equally full stay together: an arena that
    # reaches into the next region is freed only with that.
    keyed = [
        (used_bytes * 8 + REGION_BYTES // 2 >> REGION_SHIFT, region * direction)
        for region, used_bytes in counts.items()
        if region not in lasting
    ]
    holes_bytes = sum(max(0, REGION_BYTES - used_bytes) for used_bytes in counts.values())
    moved_bytes = 0
    chosen: list[int] = []
    for eighths, position in sorted(keyed):
        used_bytes = counts[position * direction]
        moved_bytes += used_bytes
        holes_bytes -= max(0, REGION_BYTES - used_bytes)
        if moved_bytes > holes_bytes or eighths >= _SPARSE_EIGHTHS:
            break
        chosen.append(position * direction)
    return chosen if len(chosen) > _LEFT_PART_MIN * len(counts) else []


def _block(size_bytes: int) -> object:
    """Any object that takes a block of this size, to within the 16 bytes that blocks differ by."""
    if size_bytes <= 16:
        return object()
    if size_bytes <= 32:
        return _LARGE_NUMBER + 1
    return b"\0" * max(2, size_bytes - BYTES_OBJECT_BYTES)


def _fill(fresh: dict[_Key, _Item], table: dict[_Key, _Item]) -> None:
    """Put all entries into an empty dict, which then has room for them and no more."""
    entries = len(table)
    if entries <= 5 or (slots := entries * 3 // 2 + 1) & (slots - 1) == 0:
        # CPython reserves twice the room that these numbers of entries need.
        for key, item in table.items():
            fresh[key] = item  # noqa: PERF403 - another dict would lie elsewhere
    else:
        # Unlike a copy, which is as large as what it was made of.
        fresh.update(table)


class Evacuation:
    """Objects on their way out of some regions.

    Args:
        regions: The regions that are left.
        addresses: Tells them.

    Attributes:
        attempts: How much may still be tried in the slice of work under way, in about the time
            that a small object takes. Whoever moves objects stops when it is used up.
        held: What is kept in each region until the end: objects that were moved away, and new
            ones that got a place there.
        moved_objects, moved_bytes: What was moved so far.
    """

    __slots__ = ("_addresses", "attempts", "held", "moved_bytes", "moved_objects")

    def __init__(self, regions: list[int], addresses: Addresses) -> None:
        self._addresses = addresses
        self.held: dict[int, list[object]] = {region: [] for region in regions}
        self.attempts = 0
        self.moved_objects = 0
        self.moved_bytes = 0

    def concerns(self, item: object) -> bool:
        """Whether an object lies in a region that is left."""
        return (id(item) >> REGION_SHIFT) in self.held

    def concerns_dict(self, table: dict[Any, Any]) -> bool:
        """Whether a dict is to be made anew: it is in the way, or has more room than it needs."""
        if sys.getsizeof(table) > dict_bytes(len(table)):
            return True
        if not self.held:
            return False
        return self.concerns(table) or self._concerns_at(self._addresses.of_entries(table))

    def concerns_list(self, items: list[Any]) -> bool:
        """Whether a list, or its array of items, lies in a region that is left."""
        return self.concerns(items) or self._concerns_at(self._addresses.of_items(items))

    def _concerns_at(self, address: int) -> bool:
        return (address >> REGION_SHIFT) in self.held

    def refuses(self, item: object) -> bool:
        """Whether a new object got a place where it cannot stay; the place is then kept taken."""
        return self._refuses_at(id(item), item)

    def _refuses_at(self, address: int, item: object) -> bool:
        held = self.held.get(address >> REGION_SHIFT)
        if held is None:
            return False
        held.append(item)
        return True

    def moved(self, item: object, size_bytes: int) -> None:
        """Keep an object in whose place another one is held."""
        held = self.held.get(id(item) >> REGION_SHIFT)
        if held is not None:
            held.append(item)
        self.moved_objects += 1
        self.moved_bytes += size_bytes

    def move_bytes(self, item: bytes) -> bytes | None:
        """An equal object for one that is concerned; ``None`` if the attempts are used up."""
        held = self.held
        cost = 1 + (len(item) >> _ATTEMPT_SHIFT)
        while self.attempts > 0:
            self.attempts -= cost
            # Of what is simpler, most gives the very same object.
            copy = _join((item, b""))
            refused = held.get(id(copy) >> REGION_SHIFT)
            if refused is None:
                self.moved(item, BYTES_OBJECT_BYTES + len(item))
                return copy
            if copy is item:
                # There is one empty object only. That was no attempt.
                self.attempts += cost
                return item
            refused.append(copy)
        return None

    def move_int(self, item: int) -> int | None:
        """An equal object for one that is concerned; ``None`` if the attempts are used up."""
        while self.attempts > 0:
            self.attempts -= 1
            copy = item + 0
            if copy is item:
                # There is one object only of each small number.
                self.attempts += 1
                return item
            if not self.refuses(copy):
                self.moved(item, sys.getsizeof(item))
                return copy
        return None

    def move_float(self, item: float) -> float | None:
        """An equal object for one that is concerned; ``None`` if the attempts are used up."""
        while self.attempts > 0:
            self.attempts -= 1
            # Unlike adding nothing, this keeps the sign of zero.
            copy = item * 1.0
            if not self.refuses(copy):
                self.moved(item, FLOAT_OBJECT_BYTES)
                return copy
        return None

    def move_list(self, items: list[_Item]) -> list[_Item] | None:
        """A list of the same items without needless room; ``None`` if the attempts are used up."""
        while self._finds_place(8 * len(items)):
            fresh = items[:]
            if self.refuses(fresh) or self._refuses_at(self._addresses.of_items(fresh), fresh):
                continue
            self.moved(items, sys.getsizeof(items))
            return fresh
        return None

    def move_array(self, numbers: array[int]) -> array[int] | None:
        """The array, or an equal one if it is concerned; ``None`` if the attempts are used up."""
        if not self.concerns(numbers) and not self._concerns_at(numbers.buffer_info()[0]):
            return numbers
        while self._finds_place(numbers.itemsize * len(numbers)):
            fresh = numbers[:]
            if self.refuses(fresh) or self._refuses_at(fresh.buffer_info()[0], fresh):
                continue
            self.moved(numbers, sys.getsizeof(numbers))
            return fresh
        return None

    def move_dict(self, table: dict[_Key, _Item]) -> dict[_Key, _Item] | None:
        """An equal dict without needless room; ``None`` if the attempts are used up.

        The old one is not kept, since it refers to what stays: see `occupy_entries`.
        """
        size_bytes = dict_bytes(len(table)) - _DICT_OBJECT_BYTES
        while self._finds_place(size_bytes):
            fresh: dict[_Key, _Item] = {}
            if self.refuses(fresh):
                continue
            self.attempts -= len(table) >> 2
            _fill(fresh, table)
            if self.held and self._refuses_at(self._addresses.of_entries(fresh), fresh):
                continue
            self.moved_objects += 1
            self.moved_bytes += size_bytes
            return fresh
        return None

    def _finds_place(self, size_bytes: int) -> bool:
        """Whether a block of this size is likely to be offered a place where it can stay.

        What is freed last is mostly offered first. Otherwise there is another attempt, but much
        would be kept that is larger than this block, and refers to other things.
        """
        while self.attempts > 0:
            self.attempts -= 1
            if not self.held or not self.refuses(_block(size_bytes)):
                return True
        return False

    def occupy_entries(self, dict_size_bytes: int) -> None:
        """Keep the place of the entries of a dict that was freed just now, if it is to be kept.

        Args:
            dict_size_bytes: What `sys.getsizeof` said of it.
        """
        self.refuses(_block(dict_size_bytes - _DICT_OBJECT_BYTES))

    def release(self, objects_max: int) -> bool:
        """Free about so many of the objects that were kept; whether there are more.

        The last region comes first, where the C library's heap ends.
        """
        while objects_max > 0 and self.held:
            region = max(self.held)
            held = self.held[region]
            stay = max(0, len(held) - objects_max)
            objects_max -= 1 + len(held) - stay
            del held[stay:]
            if not held:
                del self.held[region]
        return bool(self.held)
