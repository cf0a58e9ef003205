"""Values that are not in memory: what a table holds in their place, and who knows where they are.

On a file tier a small string is written to its job's journal and a table keeps a `Cold` for it.
Nothing here does I/O; a `Journal` is made by the plane, and told of every change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pocketkv.engine.errors import CommandError
    from pocketkv.engine.large_string import LargeString

# What a record holds: a string, one that was changed in place (OBJECT ENCODING tells them apart), a
# large one, or a collection, whose codes come next.
STRING = 1
LARGE = 2
CHANGED_STRING = 3
# All of a large string's bytes, where they were in extents before.
SPILLED_LARGE = 4
# What is kept in memory of a value that was moved out, beside its key.
SPILLED_BYTES = 112
FIRST_COLLECTION = 8
# With a collection's code: all of it, in parts that were written before.
PARTED = 16
CHANGE = 64
DELETE = 65
EXPIRE = 66
CLEAR = 67
# A part of a collection that is being written whole, and a change to it that is carried along.
PART = 68
CARRIED = 69


class Cold:
    """A value that a table holds without its bytes.

    Attributes:
        kind: What it is: `STRING`, `LARGE`, or the code of a collection.
        length: Of the stored bytes; of a string, its length.
        place, offset: Where its record is, which only its journal understands.
        record_bytes: What the record takes on the medium.
        cost_bytes: What is accounted for it: the same, unless only memory is accounted.
    """

    __slots__ = ("cost_bytes", "kind", "length", "offset", "place", "record_bytes")

    def __init__(self, kind: int, length: int, place: Any, offset: int, record_bytes: int) -> None:
        self.kind = kind
        self.length = length
        self.place = place
        self.offset = offset
        self.record_bytes = record_bytes
        self.cost_bytes = record_bytes


class Journal(Protocol):
    """Where one job's values are written. Databases are told by number, times in milliseconds.

    What is written counts from the next `commit` of the journal's volume on.
    """

    def reserve(self, size: int) -> bool:
        """Whether so many more bytes find room."""
        ...

    def put(self, db: int, key: bytes, kind: int, payload: bytes, due_ms: int) -> Cold:
        """A key's whole value; `due_ms` is 0 if it does not expire."""
        ...

    def change(self, db: int, key: bytes, payload: bytes) -> Cold:
        """A change to the value that a key has."""
        ...

    def part(self, db: int, key: bytes, kind: int, payload: bytes, group: int) -> Cold:
        """A part of a value (`PART`, `CARRIED`), which counts once a `put` has ended the parts.

        Args:
            db: The database.
            key: The value's.
            kind: What it is.
            payload: What it has.
            group: A positive number that those parts have which belong together.
        """
        ...

    def delete(self, db: int, key: bytes) -> None:
        """A key is no more."""
        ...

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        """A key's due time has changed; 0: it does not expire."""
        ...

    def clear(self, db: int) -> None:
        """A database is empty."""
        ...

    def read_now(self, cold: Cold) -> bytes | None:
        """What is stored, if it can be had without waiting.

        Raises:
            CommandError: IOERR: it cannot be read, or is not what was written.
        """
        ...

    def try_read(self, cold: Cold) -> bytes | None:
        """As `read_now`; what is not at hand is on its way then, if the medium has such a thing.

        Raises:
            CommandError: As `read_now`.
        """
        ...

    def read(self, cold: Cold) -> bytes:
        """What is stored; this may take long, and may be called by a worker thread.

        Raises:
            CommandError: As `read_now`.
        """
        ...

    def release(self, cold: Cold) -> None:
        """Nobody needs a record any more."""
        ...


class SpillJournal(Journal, Protocol):
    """Where what is moved out of memory is written."""

    def new_lock(self) -> AbstractContextManager[Any]:
        """What keeps two workers from reading the same value."""
        ...

    def read_into(self, cold: Cold, views: list[memoryview]) -> None:
        """Read a large value to where it is to stand; for a worker.

        Raises:
            CommandError: As `read_now`.
        """
        ...


class Store(Protocol):
    """What a server's keys are kept on beside its memory.

    Attributes:
        durable: Whether everything is written there before it is acknowledged; otherwise only
            what is moved out of memory is.
        keeps_large: Whether it keeps large strings by itself.
        change_bytes: Of a collection there may be one change more for so many of its bytes, before
            all of it is written anew: the less, the cheaper it is to read one record more.
        pending: Whether something was written that `commit` has not passed on.
    """

    durable: bool
    keeps_large: bool
    change_bytes: int

    @property
    def refusal(self) -> str:
        """Why a journal's `reserve` last said no."""
        ...

    @property
    def lacks_room(self) -> bool:
        """Whether that was for want of room."""
        ...

    def new_string(self, job_id: str) -> LargeString | None:
        """An empty string for more than a table should hold; ``None``: tables hold all of them."""
        ...

    @property
    def pending(self) -> bool:
        """Whether `commit` has something to do."""
        ...

    def journal(self, job_id: str) -> Journal:
        """A job's journal, made if it is new."""
        ...

    def drop(self, job_id: str) -> None:
        """Forget all that a job has; its journals are of no use any more."""
        ...

    def commit(self) -> None:
        """Pass what was written on to the system.

        Raises:
            OSError: Some of it could not be; it is tried again by the next call.
        """
        ...


NO_STEPS: Final[Iterator[None]] = iter(())
"""What `PendingRead.prepare` answers where there is nothing to do."""


class PendingRead(Protocol):
    """Something that a command has to wait for. Equal ones are the same.

    Attributes:
        is_coming: Whether it is on its way already, so that `try_read` will have it soon.
    """

    @property
    def is_coming(self) -> bool:
        """See above."""
        ...

    def try_read(self) -> bytes | None:
        """What `read` gives, if it is there now.

        Raises:
            CommandError: IOERR.
        """
        ...

    def read(self) -> bytes:
        """Read it; this may take long, and is done by a worker thread.

        Raises:
            CommandError: IOERR.
        """
        ...

    def keep(self, result: bytes | CommandError) -> bool:
        """Have it at hand, or why it cannot be had; false if an error cannot be kept."""
        ...

    def prepare(self) -> Iterator[None]:
        """What is to be done with it on the serving thread before it is used, step by step."""
        ...

    def forget(self) -> None:
        """It is not needed any more."""
        ...


class NotResident(Exception):  # noqa: N818 - no error: it is answered by reading
    """A command needs values that cannot be had without waiting.

    Whoever executes the command lets them be read and executes it again, so it must have changed
    nothing yet.

    Attributes:
        reads: What has to be read.
    """

    def __init__(self, reads: list[PendingRead]) -> None:
        # No text: it is raised for each value that is read, and never shown.
        self.reads = reads
