"""Slots that are to have no keys here: those that have gone to another server, or never came whole.

Their keys are removed in the background, a slice at a time. Until that is over, such a slot is not
served, even if the map gives it to this server again: nobody must see what it had before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.slots import SLOT_COUNT

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace


def empty_foreign(space: JobSpace) -> int:
    """Have all keys removed that are in slots which are not this server's.

    Those that are on their way in stay. How many there are that were not to be removed before.
    """
    coming = bytearray(SLOT_COUNT)
    for incoming in space.incoming.values():
        coming[incoming.start : incoming.end + 1] = b"\x01" * len(incoming)
    found = 0
    for database in space.databases.values():
        if not database.foreign:
            continue
        for slot, table in database.slot_tables():
            if not (space.given[slot] or coming[slot]):
                found += 0 if slot in space.unclean else len(table)
                space.unclean.add(slot)
    return found


def empty_range(space: JobSpace, start: int, end: int) -> None:
    """Have the keys of a range of slots removed before it is served."""
    for database in space.databases.values():
        slot = database.next_occupied(start)
        while 0 <= slot <= end:
            space.unclean.add(slot)
            slot = database.next_occupied(slot + 1)
    space.serve_range(start, end, served=True)


def is_clean(space: JobSpace, start: int, end: int) -> bool:
    """Whether nothing of a range of slots is left to be removed."""
    return not any(start <= slot <= end for slot in space.unclean)


def empty_some(space: JobSpace, keys_max: int) -> bool:
    """Remove about so many of the keys that are to go; whether there are more."""
    while space.unclean and keys_max > 0:
        slot = next(iter(space.unclean))
        used_bytes = space.used_bytes
        for database in space.databases.values():
            keys_max -= database.drop_some(slot, keys_max)
        space.foreign_bytes -= used_bytes - space.used_bytes
        if any(database.occupied[slot] for database in space.databases.values()):
            continue
        keys_max -= 1
        space.unclean.discard(slot)
        if space.held(slot) is None:
            space.serve_range(slot, slot, served=True)
    if not space.unclean:
        # What was counted when it was sent, or as it came, differs a little from what it was.
        space.foreign_bytes = sum(coming.bytes_held for coming in space.incoming.values())
    return bool(space.unclean)
