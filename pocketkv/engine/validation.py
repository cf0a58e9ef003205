"""What must always hold of stored keys and their accounts; tests ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.values import Collection
from pocketkv.slots import SLOT_COUNT, key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace


def validate_space(space: JobSpace) -> None:
    """Check the databases of a job, and what it is said to use.

    Raises:
        AssertionError: Something does not hold.
    """
    for database in space.databases.values():
        validate_database(database)
    assert space.used_bytes == sum(db.count_bytes() for db in space.databases.values())
    shelves = [db.shelf for db in space.databases.values() if db.shelf is not None]
    assert space.spilled_keys == sum(shelf.spilled_keys for shelf in shelves)
    assert space.spilled_bytes == sum(shelf.spilled_bytes for shelf in shelves)


def validate_database(database: Database) -> None:
    """Check a database's tables against its counts and its expiries.

    Raises:
        AssertionError: Something does not hold.
    """
    tables = dict(database.slot_tables())
    assert database.size == sum(len(table) for table in tables.values())
    given = database.space.given
    assert database.foreign == sum(len(t) for slot, t in tables.items() if not given[slot])
    assert all(tables.values())
    assert database.tables.count(None) == SLOT_COUNT - len(tables)
    assert sum(database.occupied) == len(tables)
    assert all(key_slot(key) == slot for slot, table in tables.items() for key in table)
    for table in tables.values():
        for value in table.values():
            if isinstance(value, Collection):
                value.validate()
    due = {key: ms for expires in database.expires.values() for key, ms in expires.items()}
    assert database.expires_count == len(due)
    assert all(key in tables[key_slot(key)] for key in due)
    database.schedule.validate()
    assert not due or database in database.space.expiring
