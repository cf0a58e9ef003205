"""Which keys of a database are to outlive their job.

A mark belongs to a key's name: it stays when the key is set anew and goes when the key does. On a
durable medium it is a record of its own, in a database that has no other use, so that marks are
found again after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.cold import STRING, Cold
from pocketkv.engine.sizes import key_cost

if TYPE_CHECKING:
    from pocketkv.engine.cold import Journal
    from pocketkv.engine.database import Database

# The marks of database n are records of database n + this; no client can select it.
MARKS_DATABASE: Final = 0x8000


class Marks:
    """The marked keys of one database.

    Args:
        db: The database.
    """

    __slots__ = ("_db", "_number", "_records")

    def __init__(self, db: Database) -> None:
        self._db = db
        self._number = MARKS_DATABASE + db.number
        # By key; on a durable medium with the mark's record.
        self._records: dict[bytes, Cold | None] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: bytes) -> bool:
        return key in self._records

    def keys(self) -> list[bytes]:
        """The marked keys, in the order in which they were marked first."""
        return list(self._records)

    def record(self, key: bytes) -> Cold | None:
        """The record of a mark, if it has one."""
        return self._records.get(key)

    def size_bytes(self) -> int:
        """What the marks cost, as it is accounted to their job."""
        return sum(map(key_cost, self._records))

    def move_to(self, db: Database) -> None:
        """Be those of another database, which has the keys now."""
        self._db = db

    def add(self, key: bytes) -> None:
        """Mark a key."""
        if key in self._records:
            return
        journal = self._journal()
        record = None if journal is None else journal.put(self._number, key, STRING, b"", 0)
        self._keep(key, record)

    def discard(self, key: bytes) -> None:
        """A key is no more."""
        if key not in self._records:
            return
        self._forget(key)
        journal = self._journal()
        if journal is not None:
            journal.delete(self._number, key)

    def clear(self) -> None:
        """The database is emptied, and has accounted for it."""
        journal = self._journal()
        if journal is not None:
            journal.clear(self._number)

    def release(self) -> None:
        """Give the records back: nobody needs the marks any more."""
        shelf = self._db.shelf
        for record in self._records.values():
            if record is not None and shelf is not None:
                shelf.journal.release(record)
        self._records = {}

    def _journal(self) -> Journal | None:
        """Where a change of the marks is to be written, if it is."""
        shelf = self._db.shelf
        if shelf is None or not shelf.durable or self._db.space.replaying:
            return None
        shelf.keyspace.changes += 1
        return shelf.journal

    def _keep(self, key: bytes, record: Cold | None) -> None:
        self._records[key] = record
        self._account(key_cost(key))

    def _forget(self, key: bytes) -> None:
        record = self._records.pop(key)
        self._account(-key_cost(key))
        if record is not None:
            assert self._db.shelf is not None  # It made the record.
            self._db.shelf.journal.release(record)

    def _account(self, grown_bytes: int) -> None:
        self._db.space.account(grown_bytes)
        shelf = self._db.shelf
        if shelf is not None:
            shelf.index_bytes += grown_bytes
            shelf.keyspace.index_bytes += grown_bytes

    # --- as it was found on a medium -----------------------------------------------------------

    def restore(self, key: bytes, record: Cold) -> None:
        """A record says that a key is marked; the key itself may be found later."""
        if key in self._records:
            self._forget(key)
        self._keep(key, record)

    def restore_removal(self, key: bytes) -> None:
        """A record says that a key is not marked any more."""
        if key in self._records:
            self._forget(key)
