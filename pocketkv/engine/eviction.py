"""Which collections leave memory when it is needed: those that were not used since the last look.

A collection that was used since it was last looked at gets another turn and goes to the end of the
queue, as a page does in the CLOCK algorithm. So one pass over many collections that are used once
(a scan) throws out no more than as many of those that are used again and again.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pocketkv.engine.values import SHED_BYTES_MIN, Collection

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import Keyspace

# Of more collections so many are looked at to tell how large all of them are.
_SAMPLED_KEYS: Final = 512


def memory_bytes(keyspace: Keyspace) -> int:
    """What is accounted for in the memory of a server whose values are on a durable store.

    That is keys with what stands for their values, and the collections that are in use; of many,
    this is an estimate. What large strings take in memory is next to nothing.
    """
    residents = keyspace.residents
    count = len(residents)
    size = 0
    looked = 0
    for shelf, key in islice(residents, 0, None, 1 + count // _SAMPLED_KEYS):
        value = shelf.db.find_stored(key)
        if isinstance(value, Collection):
            size += value.size_bytes
        looked += 1
    return keyspace.index_bytes + (size * count // looked if looked else 0)


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
        if used or shelf.must_stay(key):
            residents[shelf, key] = False
            continue
        cold = shelf.evict(key, value)
        shelf.db.exchange(key, value, cold)
        shelf.db.scans.forget(value)
        keyspace.evictions += 1
        if value.size_bytes > SHED_BYTES_MIN:
            keyspace.shedding.append(value)
        freed += value.size_bytes
        effort += cold.record_bytes
    return freed
