"""Which collections leave memory when it is needed: those that were not used since the last look.

A collection that was used since it was last looked at gets another turn and goes to the end of the
queue, as a page does in the CLOCK algorithm. So one pass over many collections that are used once
(a scan) throws out no more than as many of those that are used again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.values import Collection

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import Keyspace


def evict_some(keyspace: Keyspace, wanted_bytes: int, effort_max: int) -> int:
    """Leave collections to the store.

    Args:
        keyspace: Whose.
        wanted_bytes: Memory that is to be freed.
        effort_max: Bytes that may be written for it, about.

    Returns:
        How much was freed, 0 if there is nothing to leave.
    """
    residents = keyspace.residents
    freed = effort = 0
    looks = 2 * len(residents)
    while residents and looks > 0 and freed < wanted_bytes and effort < effort_max:
        looks -= 1
        shelf, key = next(iter(residents))
        used = residents.pop((shelf, key))
        value = shelf.db.find_stored(key)
        if not isinstance(value, Collection):
            continue
        if used:
            residents[shelf, key] = False
            continue
        cold = shelf.evict(key, value)
        shelf.db.exchange(key, value, cold)
        shelf.db.scans.forget(value)
        keyspace.evictions += 1
        freed += value.size_bytes
        effort += cold.record_bytes
    return freed
