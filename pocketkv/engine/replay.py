"""A durable store's side of the keyspace: what was found on it, and what of it is still needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pocketkv.engine.chains import Chain, of_parts, parts_told
from pocketkv.engine.cold import LARGE, PARTED, Cold
from pocketkv.engine.errors import CommandError
from pocketkv.engine.marks import MARKS_DATABASE
from pocketkv.engine.swapping import ORDER_DATABASE, order, restore_order, stored_database
from pocketkv.engine.values import Collection
from pocketkv.engine.writing import leaves_later

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace, Keyspace
    from pocketkv.engine.shelf import Shelf


class Group:
    """Parts of a value whose end has not come yet.

    Attributes:
        number: Which parts belong together.
        records: The parts.
        begun: How many records the key's chain had before.
        changes: What came since, if there is no such chain.
    """

    def __init__(self, number: int, begun: int) -> None:
        self.number = number
        self.begun = begun
        self.records: list[Cold] = []
        self.changes: list[Cold] = []


class Replay:
    """Makes a job's keys again of the records that its journal has, told in their order.

    Args:
        space: The job, which has no keys yet.
    """

    def __init__(self, space: JobSpace) -> None:
        self._space = space
        self._order: tuple[Cold, int] | None = None
        self._groups: dict[tuple[int, bytes], Group] = {}

    def run(self, replay: Callable[[Replay], None]) -> None:
        """Have the records told by `replay`; nothing is written meanwhile."""
        self._space.replaying = True
        try:
            replay(self)
            for db, key in list(self._groups):
                self._forget(db, key)
            if self._order is not None:
                restore_order(self._space, *self._order)
        finally:
            self._space.replaying = False

    def put(self, db: int, key: bytes, kind: int, cold: Cold, due_ms: int) -> None:
        """A whole value, or a mark."""
        if db >= MARKS_DATABASE:
            self._space.database(db - MARKS_DATABASE).all_marks().restore(key, cold)
            return
        if db == ORDER_DATABASE:
            if self._order is not None:
                self._shelf(0)[1].journal.release(self._order[0])
            self._order = cold, due_ms
            return
        if kind & PARTED:
            self._end(db, key, cold, due_ms)
            return
        self._forget(db, key)
        self._space.database(db).restore(key, cold, due_ms)

    def part(self, db: int, key: bytes, cold: Cold, group: int) -> None:
        """A part of a value that is to come."""
        known = self._groups.get((db, key))
        if known is None or known.number != group:
            self._forget(db, key)
            known = self._groups[db, key] = Group(group, len(self._chain(db, key)))
        known.records.append(cold)

    def _end(self, db: int, key: bytes, end: Cold, due_ms: int) -> None:
        """The end of some parts.

        If they are not all there, the machine has stopped before they came to the medium. What the
        key had before stays then, with all its changes; without that, the end is a value of which
        parts are missing.
        """
        database, shelf = self._shelf(db)
        group = self._groups.pop((db, key), None) or Group(0, 0)
        chain = self._chain(db, key)
        is_whole = len(group.records) == parts_told(end)
        if chain and not is_whole:
            self._release(shelf, [end, *group.records])
            return
        if not is_whole:
            self._release(shelf, group.records + group.changes)
            group = Group(0, 0)
        if chain:
            # With these goes what it replaces.
            shelf.chains[key] = Chain(chain[: group.begun])
        made = of_parts(end, group.records, chain[group.begun :] + group.changes)
        database.restore(key, end, due_ms)
        if len(made) > 1:
            shelf.chains[key] = made

    def _chain(self, db: int, key: bytes) -> list[Cold]:
        """The records that a key has so far."""
        database, shelf = self._shelf(db)
        entry = database.find_stored(key)
        return list(shelf.chains.get(key, [entry] if isinstance(entry, Cold) else []))

    def _forget(self, db: int, key: bytes) -> None:
        """Parts whose end will not come."""
        group = self._groups.pop((db, key), None)
        if group is not None:
            self._release(self._shelf(db)[1], group.records + group.changes)

    @staticmethod
    def _release(shelf: Shelf, records: list[Cold]) -> None:
        for record in records:
            shelf.journal.release(record)

    def change(self, db: int, key: bytes, cold: Cold) -> None:
        """A change to a value."""
        database, shelf = self._shelf(db)
        entry = database.find_stored(key)
        if isinstance(entry, Cold):
            shelf.chains.setdefault(key, Chain([entry])).append(cold)
        elif (db, key) in self._groups:
            self._groups[db, key].changes.append(cold)
        else:
            # Of a value that was lost.
            shelf.journal.release(cold)

    def delete(self, db: int, key: bytes) -> None:
        """A key that was removed, or its mark."""
        if db >= MARKS_DATABASE:
            self._space.database(db - MARKS_DATABASE).all_marks().restore_removal(key)
            return
        self._forget(db, key)
        database = self._space.database(db)
        if database.find_stored(key) is not None:
            database.restore_removal(key)

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        """Another due time; 0: none."""
        database = self._space.database(db)
        if database.find_stored(key) is not None:
            database.restore_expiry(key, due_ms)

    def clear(self, db: int) -> None:
        """A database that was emptied; its marks went with it."""
        if db >= MARKS_DATABASE:
            return
        for other, key in list(self._groups):
            if other == db:
                self._forget(db, key)
        database = self._space.database(db)
        self._space.account(-database.count_bytes())
        database.discard()

    def large(self) -> list[tuple[Database, bytes, Cold]]:
        """The large strings that were found, by their last whole records."""
        return [
            (database, key, entry)
            for database in self._space.databases.values()
            for _, table in database.slot_tables()
            for key, entry in table.items()
            if isinstance(entry, Cold) and entry.kind == LARGE
        ]

    def _shelf(self, db: int) -> tuple[Database, Shelf]:
        database = self._space.database(db)
        assert database.shelf is not None  # A store is what replays.
        return database, database.shelf


class StoredIndex:
    """Tells a store which of its records are needed, and moves what it asks for."""

    def __init__(self) -> None:
        self.keyspace: Keyspace | None = None

    def _find(self, job_id: str, db: int) -> Database | None:
        assert self.keyspace is not None  # It was set before the store had any records.
        space = self.keyspace.spaces.get(job_id)
        return None if space is None else stored_database(space, db)

    def _order(self, job_id: str) -> Cold | None:
        assert self.keyspace is not None  # As above.
        space = self.keyspace.spaces.get(job_id)
        return None if space is None else space.order

    def record_of(self, job_id: str, db: int, key: bytes) -> Cold | None:
        """The record that is a key's whole value; ``None`` if there is none or changes follow."""
        if db == ORDER_DATABASE:
            return self._order(job_id)
        if db >= MARKS_DATABASE:
            marked = self._find(job_id, db - MARKS_DATABASE)
            return None if marked is None or marked.marks is None else marked.marks.record(key)
        database = self._find(job_id, db)
        if database is None or database.shelf is None:
            return None
        if key in database.shelf.writings:
            return None
        chain = database.shelf.chains.get(key)
        if chain is not None:
            return chain[0] if len(chain) == 1 else None
        entry = database.find_stored(key)
        return entry if isinstance(entry, Cold) else None

    def due_ms(self, job_id: str, db: int, key: bytes) -> int:
        """When a key expires; 0: never, as marks do."""
        if db == ORDER_DATABASE:
            assert self.keyspace is not None  # As above.
            return order(self.keyspace.spaces[job_id])
        database = self._find(job_id, db)
        return 0 if database is None else database.expiry_ms(key) or 0

    def exists(self, job_id: str, db: int, key: bytes) -> bool:
        """Whether there is such a key, expired or not, or such a mark."""
        if db == ORDER_DATABASE:
            return self._order(job_id) is not None
        if db >= MARKS_DATABASE:
            marked = self._find(job_id, db - MARKS_DATABASE)
            return marked is not None and marked.marks is not None and key in marked.marks
        database = self._find(job_id, db)
        return database is not None and database.find_stored(key) is not None

    def rewrite(self, job_id: str, db: int, key: bytes, place: object, *, now: bool) -> None:
        """Write a key's value anew, whole, if it has something in a place."""
        database = self._find(job_id, db)
        if database is None or database.shelf is None:
            return
        if not now and leaves_later(database.shelf, key, place):
            return
        entry = database.find_stored(key)
        if isinstance(entry, Cold) and entry.kind != LARGE:
            # Its changes were found and never used since.
            try:
                value = database.value_of(key, entry)
            except CommandError:
                # It is damaged, and stays where it is.
                return
            if isinstance(value, Collection):
                database.exchange(key, entry, value)
                database.shelf.loaded(key, entry)
        database.shelf.rewrite(key)
