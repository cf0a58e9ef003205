"""Cursors: walking keys or elements bit by bit, in an order that outlives every change.

A container is walked in the order of a hash of its elements, and a cursor is a position in that
order. So a cursor means the same at any time and on any server, whatever was added or removed in
between: what is in the container during the whole walk is met at least once.

Sorting costs O(n log n), so the order of a container that is being walked is kept. That is only
a saving: a kept order may be dropped at any time.

A SCAN cursor has the slot above, the position in the slot below:

    slot << POSITION_BITS | position
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from pocketkv import limits
from pocketkv.slots import SLOT_COUNT

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.randomness import Randomness

POSITION_BITS: Final = 48
POSITION_MAX: Final = (1 << POSITION_BITS) - 1
# Where a walk over all slots ends, for a router; a client is told 0.
SCAN_END: Final = SLOT_COUNT << POSITION_BITS

# A slot with no more keys than this is returned whole: COUNT is a hint, and sorting would cost
# more than sending.
_SMALL_SLOT_KEYS: Final = 32


def position_of(element: bytes) -> int:
    """Where an element stands in the order: 48 bits that are the same on every server."""
    return crc32(element) << 16 | (len(element) & 0xFFFF)


class ScanOrder:
    """The elements that a container had once, in order.

    Attributes:
        items: The container itself, so that nothing else can take its identity.
        positions: Sorted; `elements` has the element of each.
    """

    __slots__ = ("elements", "items", "positions")

    def __init__(self, items: Collection[bytes]) -> None:
        self.items = items
        self.elements = sorted(items, key=position_of)
        self.positions = array("Q", map(position_of, self.elements))


class ScanCache:
    """The orders of the containers that are being walked, the last used ones.

    Each database has one (`Database.scans`). An order is taken anew whenever a walk begins, so the
    one that is kept was taken when the last walk began or later, and has every element that was
    there since.
    """

    __slots__ = ("orders",)

    def __init__(self) -> None:
        # By the identity of the container, the last used one last.
        self.orders: dict[int, ScanOrder] = {}

    def begin(self, items: Collection[bytes]) -> ScanOrder:
        """The order for a walk that begins now."""
        self.forget(items)
        return self._keep(ScanOrder(items))

    def resume(self, items: Collection[bytes]) -> ScanOrder:
        """The order for a walk that began earlier."""
        order = self.orders.pop(id(items), None)
        return self._keep(ScanOrder(items) if order is None else order)

    def _keep(self, order: ScanOrder) -> ScanOrder:
        while len(self.orders) >= limits.SCAN_ORDERS_MAX:
            del self.orders[next(iter(self.orders))]
        self.orders[id(order.items)] = order
        return order

    def forget(self, items: object) -> None:
        """Drop what is kept for a container, because its walk or its life is over."""
        self.orders.pop(id(items), None)

    def renew(self, items: object, fresh: Any) -> None:
        """A container was made anew, with equal elements: its walk goes on."""
        order = self.orders.pop(id(items), None)
        if order is not None:
            order.items = fresh
            self.orders[id(fresh)] = order


def scan_elements(
    items: Collection[bytes], cursor: int, count: int, cache: ScanCache
) -> tuple[int, list[bytes]]:
    """One step of a walk over a container that cannot be walked in an order of its own.

    Args:
        items: Its elements. Always the same object for the same container (best the value that
            the database holds, which is forgotten here when it is removed), with a fast ``in``.
        cursor: 0 to begin, or what the last step returned.
        count: About how many elements to return, at least 1. No more than that many elements
            altogether are returned at once, without being sorted.
        cache: Of the database that the container is in: `Database.scans`.

    Returns:
        The next cursor, 0 at the end, and elements that are in the container now.
    """
    if cursor == 0 and len(items) <= count:
        return 0, list(items)
    if cursor > POSITION_MAX:
        return 0, []
    order = cache.begin(items) if cursor == 0 else cache.resume(items)
    positions = order.positions
    start = bisect_left(positions, cursor)
    end = min(start + count, len(positions))
    # A position stands for all elements that have it, so they are not parted.
    while 0 < end < len(positions) and positions[end] == positions[end - 1]:
        end += 1
    found = [element for element in order.elements[start:end] if element in items]
    if end == len(positions):
        cache.forget(items)
        return 0, found
    return positions[end], found


def scan_keys(db: Database, cursor: int, count: int, *, proxied: bool) -> tuple[int, list[bytes]]:
    """One step of a walk over a database's keys, slot by slot.

    Args:
        db: The database.
        cursor: 0 to begin, or what the last step returned, here or at another server.
        count: About how many keys to return, at least 1.
        proxied: For a router, which goes on at the next owner: the walk stops where the slots
            that are served here stop, and the cursor says where that is, up to `SCAN_END`.
            Otherwise slots that are not served here are left out, and the end is 0.

    Returns:
        The next cursor, and keys that have not expired.
    """
    owned = db.space.owned
    slot = cursor >> POSITION_BITS
    position = cursor & POSITION_MAX
    stop = SLOT_COUNT
    if proxied and not db.space.owns_all:
        stop = owned.find(0, slot)
        stop = SLOT_COUNT if stop < 0 else stop
    end_cursor = stop << POSITION_BITS if proxied else 0
    visited = 0
    found: list[bytes] = []
    while slot < stop:
        occupied = db.next_occupied(slot)
        if occupied < 0 or occupied >= stop:
            break
        if occupied != slot:
            slot = occupied
            position = 0
        if owned[slot]:
            if visited >= count:
                return slot << POSITION_BITS | position, found
            position, keys = _scan_slot(db, slot, position, count - visited)
            visited += len(keys)
            found.extend(keys if slot not in db.expires else [k for k in keys if db.live(k, slot)])
            if position:
                return slot << POSITION_BITS | position, found
        slot += 1
        position = 0
    return end_cursor, found


def random_key(db: Database, randomness: Randomness) -> bytes | None:
    """A key that has not expired; ``None`` if there is none.

    Only of slots that are served here. They are drawn evenly from those next to a random
    position, then a key within its slot.
    """
    while db.size:
        slot = _next_served(db, randomness.randrange(SLOT_COUNT))
        if slot < 0:
            slot = _next_served(db, 0)
        if slot < 0:
            return None
        keys = list(db.table(slot))
        key = keys[randomness.randrange(len(keys))]
        if db.find(key) is not None:
            return key
    return None


def _next_served(db: Database, slot: int) -> int:
    """The first slot from `slot` on that has keys and is served here, or -1."""
    owned = db.space.owned
    slot = db.next_occupied(slot)
    while slot >= 0 and not owned[slot]:
        slot = db.next_occupied(slot + 1)
    return slot


def _scan_slot(db: Database, slot: int, position: int, count: int) -> tuple[int, list[bytes]]:
    table = db.table(slot)
    if position == 0 and len(table) <= _SMALL_SLOT_KEYS:
        return 0, list(table)
    return scan_elements(table, position, count, db.scans)
