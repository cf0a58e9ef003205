"""Defragmentation: a pass over everything that is stored, in slices, gives unused memory back.

Much is deleted, and what is left lies scattered: no stretch of memory is free as a whole, so next
to nothing goes back to the system. And a dict never becomes smaller when entries are removed. A
pass looks how full each region of memory is, moves what lies in the sparsest ones into the holes of
the others (see `pocketkv.engine.regions`), makes dicts anew that have far more room than entries,
and frees what it left. Nothing changes for whoever reads: every key and value is an equal one, and
replies that refer to the old ones keep them for as long as they need.

Between slices, commands are executed as ever. When a pass is worth it, is for others to say
(`pocketkv.engine.fragmentation`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from pocketkv.engine.database import Database, Table
from pocketkv.engine.keyspace import Keyspace
from pocketkv.engine.regions import (
    MOVABLE_BYTES_MAX,
    REGION_SHIFT,
    Addresses,
    Evacuation,
    Survey,
    lasting_regions,
)
from pocketkv.engine.values import Collection, Entry

# A table with no more keys is looked through in one go, which takes well under 1 ms.
_WHOLE_KEYS_MAX: Final = 1024
# Of a larger table, so many keys at a time.
_KEYS_AT_ONCE: Final = 64
# A dict with more entries is not made anew, since that cannot be done in parts.
_DICT_ENTRIES_MAX: Final = 16 * 1024
# About so many keys of a database are surveyed: enough to know how full a region is.
_SURVEYED_KEYS: Final = 250_000
# Objects freed at a time, each an attempt's part of the work.
_RELEASED_PER_ATTEMPT: Final = 4
# What an int of 64 bits takes.
_INT_BYTES: Final = 32


class Defragmenter:
    """Runs passes over one keyspace.

    Args:
        keyspace: What is stored.
        addresses: Tells where in memory things lie that are no objects.
        give_back: Asks the C library to return to the system what is free in its heap.

    Attributes:
        passes: How many were begun.
        moved_objects, moved_bytes: What all passes moved.
        spent_ns: How long all slices took, as whoever runs them counts it.
    """

    def __init__(
        self,
        keyspace: Keyspace,
        addresses: Addresses,
        give_back: Callable[[], object],
    ) -> None:
        self._keyspace = keyspace
        self._addresses = addresses
        self._lasting = lasting_regions()
        self._give_back = give_back
        self._evacuation = Evacuation([], addresses)
        self._work: Iterator[None] | None = None
        self._stopped = False
        self.passes = 0
        self.moved_objects = 0
        self.moved_bytes = 0
        self.spent_ns = 0

    @property
    def running(self) -> bool:
        """Whether a pass is under way."""
        return self._work is not None

    def begin(self) -> None:
        """Begin a pass; none is under way."""
        assert self._work is None
        self.passes += 1
        self._stopped = False
        self._work = self._pass()

    def stop(self) -> None:
        """Move nothing more: what is left of the pass is to free what was moved away."""
        self._stopped = True

    def step(self, effort: int) -> bool:
        """One slice of the pass under way; whether there is more to do.

        Args:
            effort: How much to do, in about the time that it takes to copy a small object.
        """
        if self._work is None:
            return False
        self._evacuation.attempts = effort
        for _ in self._work:
            return True
        self._work = None
        return False

    # --- a pass: each of these yields when the effort of its slice is used up ------------------

    def _pass(self) -> Iterator[None]:
        survey = Survey(self._addresses, self._lasting)
        for db, slot in self._occupied():
            yield from self._survey(survey, db, slot)
        attempts = self._evacuation.attempts
        evacuation = self._evacuation = Evacuation(survey.sparse_regions(), self._addresses)
        evacuation.attempts = attempts
        for db, slot in self._occupied():
            yield from self._move_slot(db, slot)
            yield from self._move_tables(db, slot)
            if evacuation.attempts <= 0:
                yield
        for db in self._databases():
            yield from self._move_schedule(db)
        self.moved_objects += evacuation.moved_objects
        self.moved_bytes += evacuation.moved_bytes
        yield from self._release()

    def _databases(self) -> list[Database]:
        spaces = list(self._keyspace.spaces.values())
        return [db for space in spaces for db in space.databases.values() if db.size]

    def _occupied(self) -> Iterator[tuple[Database, int]]:
        """All slots with keys; they may lose them meanwhile."""
        for db in self._databases():
            slot = db.next_occupied(0)
            while slot >= 0 and not self._stopped:
                yield db, slot
                slot = db.next_occupied(slot + 1)

    # --- looking ------------------------------------------------------------------------------

    def _survey(self, survey: Survey, db: Database, slot: int) -> Iterator[None]:
        evacuation = self._evacuation
        table = db.table(slot)
        survey.count_dict(table, 1)
        evacuation.attempts -= 2
        # Keys are spread evenly over slots, unless by their tags: then a slot is large, and all
        # of it is looked at.
        stride = 1 + db.size // _SURVEYED_KEYS
        if len(table) > _WHOLE_KEYS_MAX:
            stride = 1
        elif slot % stride:
            return
        items = iter(table.items())
        try:
            while self._count_some(survey, items, stride):
                yield
        except RuntimeError:
            # Keys were added or removed meanwhile. Enough of them was seen.
            return
        expires = db.expires.get(slot)
        if expires is not None and len(expires) <= _WHOLE_KEYS_MAX:
            survey.count_dict(expires, stride)
            for due_ms in expires.values():
                survey.count(due_ms, _INT_BYTES, stride)

    def _count_some(
        self, survey: Survey, items: Iterator[tuple[bytes, Entry]], weight: int
    ) -> bool:
        """Count until the attempts are used up; whether there is more to count."""
        end = survey.counted + max(1, self._evacuation.attempts)
        began = survey.counted
        for key, value in items:
            survey.count_bytes(key, weight)
            if type(value) is bytes:
                survey.count_bytes(value, weight)
            elif isinstance(value, Collection):
                value.survey(survey, weight)
            if survey.counted >= end:
                self._evacuation.attempts = 0
                return True
        self._evacuation.attempts -= survey.counted - began
        return False

    # --- moving -------------------------------------------------------------------------------

    def _move_slot(self, db: Database, slot: int) -> Iterator[None]:
        """Move the keys and values of a slot that lie in regions that are left."""
        table = db.table(slot)
        if len(table) <= _WHOLE_KEYS_MAX:
            self._evacuation.attempts -= len(table) >> 1
            moved: dict[bytes, bytes] = {}
            yield from self._move_keys(db, slot, self._concerned(table), moved)
            if moved:
                _renew_keys(db, slot, moved)
        elif self._evacuation.held:
            yield from self._move_by_turns(db, slot, len(table))
        yield from self._move_due_times(db, slot)

    def _move_by_turns(self, db: Database, slot: int, keys: int) -> Iterator[None]:
        """The same for a large table, a few keys at a time.

        Each goes behind the last one, so the first ones are always those that were not looked at,
        whatever happens meanwhile.
        """
        while keys > 0:
            first = list(islice(db.tables[slot] or (), _KEYS_AT_ONCE))
            if not first:
                return
            moved: dict[bytes, bytes] = {}
            yield from self._move_keys(db, slot, first, moved)
            for key in first:
                if self._present(db, slot, key) is not None:
                    _renew_key(db, slot, key, moved.get(key, key))
            keys -= len(first)
            self._evacuation.attempts -= 2 * len(first)
            if self._evacuation.attempts <= 0:
                yield

    def _concerned(self, table: Table) -> list[bytes]:
        held = self._evacuation.held
        return [
            key
            for key, value in table.items()
            if (id(key) >> REGION_SHIFT) in held
            or (id(value) >> REGION_SHIFT) in held
            or type(value) is not bytes
        ]

    def _move_keys(
        self, db: Database, slot: int, keys: list[bytes], moved: dict[bytes, bytes]
    ) -> Iterator[None]:
        """Move the values of these keys, and collect equal keys that are to take their place."""
        place = 0
        while (place := self._move_some(db.tables[slot], keys, place, moved)) < len(keys):
            if self._evacuation.attempts <= 0:
                yield
                continue
            value = self._present(db, slot, keys[place])
            if isinstance(value, Collection):
                yield from self._move_collection(db, slot, keys[place], value)
            place += 1

    def _move_some(
        self, table: Table | None, keys: list[bytes], place: int, moved: dict[bytes, bytes]
    ) -> int:
        """Move from one key on; where the attempts were used up, or a collection comes."""
        if table is None:
            return len(keys)
        evacuation = self._evacuation
        held = evacuation.held
        while place < len(keys):
            key = keys[place]
            value = table.get(key)
            if type(value) is bytes:
                if (id(value) >> REGION_SHIFT) in held and len(value) <= MOVABLE_BYTES_MAX:
                    moved_value = evacuation.move_bytes(value)
                    if moved_value is None:
                        return place
                    table[key] = moved_value
            elif value is None:
                place += 1
                continue
            elif not self._move_other(table, key, value):
                return place
            if (id(key) >> REGION_SHIFT) in held and key not in moved:
                moved_key = evacuation.move_bytes(key)
                if moved_key is None:
                    return place
                moved[key] = moved_key
            if isinstance(value, Collection):
                return place
            place += 1
        return place

    @staticmethod
    def _present(db: Database, slot: int, key: bytes) -> Entry | None:
        table = db.tables[slot]
        return None if table is None else table.get(key)

    def _move_other(self, table: Table, key: bytes, value: Entry) -> bool:
        """Move a string that is no ``bytes``; false if the attempts are used up before."""
        evacuation = self._evacuation
        if not isinstance(value, bytearray) or len(value) > MOVABLE_BYTES_MAX:
            return True
        if not evacuation.concerns(value):
            return True
        # Its bytes lie elsewhere, where nobody sees; they get the room that they need.
        while evacuation.attempts > 0:
            evacuation.attempts -= 1 + (len(value) >> 10)
            copy = bytearray(value)
            if not evacuation.refuses(copy):
                evacuation.moved(value, len(value))
                table[key] = copy
                return True
        return False

    def _move_collection(
        self, db: Database, slot: int, key: bytes, value: Collection
    ) -> Iterator[None]:
        evacuation = self._evacuation
        while evacuation.concerns(value):
            renewed = value.renewed()
            if renewed is None:
                break
            evacuation.attempts -= 1
            if not evacuation.refuses(renewed):
                evacuation.moved(value, sys.getsizeof(value))
                db.table(slot)[key] = renewed
                db.scans.renew(value, renewed)
                value = renewed
            elif evacuation.attempts <= 0:
                yield
                if self._present(db, slot, key) is not value:
                    return
        place = 0
        while (place := value.evacuate(evacuation, place)) >= 0:
            yield
            if self._present(db, slot, key) is not value:
                return

    def _move_due_times(self, db: Database, slot: int) -> Iterator[None]:
        expires = db.expires.get(slot)
        if expires is None or len(expires) > _DICT_ENTRIES_MAX:
            return
        evacuation = self._evacuation
        evacuation.attempts -= len(expires) >> 2
        for key, due_ms in list(expires.items()):
            # A key that was given its expiry later may be another object than the table's.
            while evacuation.concerns(key) and key in expires:
                moved_key = evacuation.move_bytes(key)
                if moved_key is not None:
                    _renew_key(db, slot, key, moved_key)
                    break
                yield
            while evacuation.concerns(due_ms) and expires.get(key) is due_ms:
                moved = evacuation.move_int(due_ms)
                if moved is not None:
                    expires[key] = moved
                    break
                yield

    # --- dicts that are in the way, or have too much room --------------------------------------

    def _move_tables(self, db: Database, slot: int) -> Iterator[None]:
        table = db.tables[slot]
        while table is not None and self._is_movable(table):
            fresh = self._evacuation.move_dict(table)
            if fresh is not None:
                db.tables[slot] = fresh
                db.scans.renew(table, fresh)
                size_bytes = sys.getsizeof(table)
                del table
                self._evacuation.occupy_entries(size_bytes)
                break
            yield
            table = db.tables[slot]
        expires = db.expires.get(slot)
        while expires is not None and self._is_movable(expires):
            fresh_expires = self._evacuation.move_dict(expires)
            if fresh_expires is not None:
                db.expires[slot] = fresh_expires
                break
            yield
            expires = db.expires.get(slot)

    def _is_movable(self, table: dict[Any, Any]) -> bool:
        return len(table) <= _DICT_ENTRIES_MAX and self._evacuation.concerns_dict(table)

    def _move_schedule(self, db: Database) -> Iterator[None]:
        evacuation = self._evacuation
        number = 0
        while (number := db.schedule.evacuate(evacuation, number)) >= 0:
            if evacuation.attempts <= 0:
                yield

    # --- freeing ------------------------------------------------------------------------------

    def _release(self) -> Iterator[None]:
        evacuation = self._evacuation
        while evacuation.held:
            regions = len(evacuation.held)
            evacuation.release(_RELEASED_PER_ATTEMPT * max(1, evacuation.attempts))
            if len(evacuation.held) < regions:
                self._give_back()
            yield
        self._give_back()


def _renew_keys(db: Database, slot: int, fresh: dict[bytes, bytes]) -> None:
    """Hold these objects wherever equal keys of a slot are held; each stands for itself."""
    table = db.tables[slot]
    if table is None:
        return
    # A dict whose keys are replaced one by one gets twice the room that it needs.
    renewed = {fresh.get(key, key): value for key, value in table.items()}
    db.tables[slot] = renewed
    db.scans.renew(table, renewed)
    expires = db.expires.get(slot)
    if expires is None:
        return
    db.expires[slot] = {fresh.get(key, key): due_ms for key, due_ms in expires.items()}
    for key in fresh.values():
        due_ms = expires.get(key)
        if due_ms is not None:
            db.schedule.renew(key, due_ms)


def _renew_key(db: Database, slot: int, key: bytes, fresh: bytes) -> None:
    """The same of one key that is there; it then stands behind all others."""
    table = db.table(slot)
    table[fresh] = table.pop(key)
    expires = db.expires.get(slot)
    if expires is not None:
        due_ms = expires.pop(key, None)
        if due_ms is not None:
            expires[fresh] = due_ms
            db.schedule.renew(fresh, due_ms)
