"""SWAPDB: two databases of a job exchange all they have, whatever their size.

A database's records on a medium are told by its `number`, which goes where its keys go. On a
durable medium one more record, in a database that has no other use, has where each of them is, so
that they are found there after a restart. That it is one record makes a swap whole or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.cold import STRING
from pocketkv.engine.errors import CommandError

if TYPE_CHECKING:
    from pocketkv.engine.cold import Cold
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace

ORDER_DATABASE: Final = 0x7FFF
"""Where the record is, as a key that expires: its time is which number has which index."""

_ORDER_KEY: Final = b"order"
_INDEX_BITS: Final = 4
# The last one has the index that is left; so there is a bit that is always set.
_TOLD: Final = limits.DATABASES - 1
_SET_BIT: Final = 1 << _INDEX_BITS * _TOLD
# All that is a database's but its name, and who looks on.
_CONTENT: Final = (
    *("accessed_s", "expires", "expires_count", "foreign", "marks", "number", "occupied"),
    *("salt", "scans", "schedule", "shelf", "size", "tables"),
)
_ELSEWHERE: Final = b"ERR SWAPDB is not possible while the job's keys are kept in S3"


def swap(space: JobSpace, first_index: int, second_index: int) -> None:
    """Have two databases exchange their keys.

    Raises:
        CommandError: Nothing could tell of it where the keys are.
    """
    if space.kept is not None:
        raise CommandError(_ELSEWHERE)
    if first_index == second_index:
        return
    first, second = space.database(first_index), space.database(second_index)
    # Whoever watches a key that either of them has is to know.
    _tell_of_all(first, second)
    _exchange(first, second)
    shelf = first.shelf
    if shelf is not None and shelf.durable and not space.replaying:
        space.keyspace.changes += 1
        old = space.order
        space.order = shelf.journal.put(ORDER_DATABASE, _ORDER_KEY, STRING, b"", order(space))
        if old is not None:
            shelf.journal.release(old)
    _tell_of_all(first, second)


def _tell_of_all(first: Database, second: Database) -> None:
    for database in (first, second):
        database.space.was_cleared(database)


def _exchange(first: Database, second: Database) -> None:
    for name in _CONTENT:
        of_first, of_second = getattr(first, name), getattr(second, name)
        setattr(first, name, of_second)
        setattr(second, name, of_first)
    for database in (first, second):
        if database.shelf is not None:
            database.shelf.db = database
        if database.marks is not None:
            database.marks.move_to(database)
        if database.schedule:
            database.space.expiring.add(database)
        else:
            database.space.expiring.discard(database)


# --- on a medium -------------------------------------------------------------------------------


def stored_database(space: JobSpace, number: int) -> Database | None:
    """The database whose records have a number."""
    database = space.databases.get(number)
    if database is not None and database.number == number:
        return database
    return next((db for db in space.databases.values() if db.number == number), None)


def order(space: JobSpace) -> int:
    """Which number has which index, as the time of the record."""
    indexes = list(range(limits.DATABASES))
    for database in space.databases.values():
        indexes[database.number] = database.index
    told = _SET_BIT
    for number in range(_TOLD):
        told |= indexes[number] << _INDEX_BITS * number
    return told


def restore_order(space: JobSpace, record: Cold, told: int) -> None:
    """Have databases, which are where their numbers say, be where a record says."""
    space.order = record
    for number in range(_TOLD):
        index = told >> _INDEX_BITS * number & limits.DATABASES - 1
        database = stored_database(space, number)
        if index != number and database is None:
            database = space.database(number)
        if database is not None and database.index != index:
            _exchange(database, space.database(index))
