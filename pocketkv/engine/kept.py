"""Keys that outlived their job and are in a store of the whole cluster: read here, never changed.

Such a job has its own store instead of the server's: its tables hold a `Cold` for every key, and
every value is read when it is asked for, by whoever may wait. Nothing of it stays in memory, and
nothing that happens here changes the store: it belongs to all servers that can reach it, and what
a job has there is deleted as a whole. A key whose time has come is forgotten here and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pocketkv.engine.cold import LARGE, Cold, Journal
from pocketkv.engine.errors import CommandError
from pocketkv.engine.shelf import Shelf

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.database import Database
    from pocketkv.engine.large_string import LargeString
    from pocketkv.engine.values import Value

_TAKES_LONG: Final = b"ERR this command does not read what a job has retained in S3"


class KeptJournal(Journal, Protocol):
    """Where the values of one job are read. Nothing is ever written, and all takes long."""

    def large(self, cold: Cold) -> LargeString:
        """A string that is read a part at a time."""
        ...


class KeptStore(Protocol):
    """A store that outlives servers.

    Attributes:
        durable: False: databases do not write to it.
    """

    durable: bool

    def journal(self, job_id: str) -> KeptJournal:
        """Where a job's values are read."""
        ...

    def drop(self, job_id: str) -> None:
        """Its keys are not known here any more; they stay where they are."""
        ...


class KeptShelf(Shelf):
    """The part of such a store that belongs to one database.

    Args:
        db: The database.
        journal: Where it reads.
    """

    def __init__(self, db: Database, journal: KeptJournal) -> None:
        super().__init__(db, journal, durable=False)
        self._kept = journal

    def load(self, key: bytes, cold: Cold) -> Value:
        """The value that a table holds a `Cold` for.

        Raises:
            NotResident: It cannot be had without waiting; of a large string, nothing is read yet.
            CommandError: IOERR: it cannot be had, or is not what was written.
        """
        if cold.kind == LARGE:
            return self._kept.large(cold)
        return super().load(key, cold)

    def missing(self, key: bytes, cold: Cold, at_hand: list[PendingRead]) -> list[PendingRead]:
        """What has to be read before a value can be had: not known of a large string."""
        return [] if cold.kind == LARGE else super().missing(key, cold, at_hand)

    def read_waiting(self, key: bytes, cold: Cold) -> Value:
        """Refuse what would keep everybody waiting.

        Raises:
            CommandError: ERR.
        """
        raise CommandError(_TAKES_LONG)

    def came_back(self, key: bytes, cold: Cold, value: Value) -> None:
        """It does not stay: it is read again when it is asked for again."""

    def _count_spilled(self, cold: Cold, count: int) -> None:
        """Nothing here was moved out of memory."""
