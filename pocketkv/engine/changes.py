"""Who wants to know what changes: keys that move to another server, and whatever else watches keys.

A job has one observer or none, so that a change which nobody asks for costs one look. Several make
one together. What is only held in another way (moved out of memory, read again, made anew in
another place) is no change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace


class Observer(Protocol):
    """Is told of changes after they were made. It must not change anything itself."""

    def changed(self, database: Database, key: bytes, slot: int) -> None:
        """A key was set, changed in place, marked, or removed, for whatever reason."""
        ...

    def noted(self, database: Database, key: bytes, slot: int) -> None:
        """What a value notes of its readers has changed (a stream's groups), and nothing else."""
        ...

    def expiry_changed(self, database: Database, key: bytes, slot: int) -> None:
        """A key that is there expires at another time, or never."""
        ...

    def cleared(self, database: Database) -> None:
        """All keys of a database are removed at once; none of them is told of."""
        ...

    def left(self, space: JobSpace, start: int, end: int) -> None:
        """A range of slots, both ends included, has gone to another server, with its keys."""
        ...


class _Several:
    """Observers that are told one after the other."""

    __slots__ = ("members",)

    def __init__(self, members: list[Observer]) -> None:
        self.members = members

    def changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.changed`."""
        for member in self.members:
            member.changed(database, key, slot)

    def noted(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.noted`."""
        for member in self.members:
            member.noted(database, key, slot)

    def expiry_changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.expiry_changed`."""
        for member in self.members:
            member.expiry_changed(database, key, slot)

    def cleared(self, database: Database) -> None:
        """As `Observer.cleared`."""
        for member in self.members:
            member.cleared(database)

    def left(self, space: JobSpace, start: int, end: int) -> None:
        """As `Observer.left`."""
        for member in self.members:
            member.left(space, start, end)


def tell_noted(database: Database, key: bytes, grown_bytes: int) -> None:
    """A value has noted something of its readers, which no reader has to know of.

    What it costs, and what is kept of it on a medium, changes as with any other change.
    """
    database.space.account(grown_bytes)
    if database.shelf is not None:
        database.shelf.changed(key)
    if database.observer is not None:
        database.observer.noted(database, key, key_slot(key))


def tell_left(space: JobSpace, before: bytes | bytearray) -> None:
    """Tell of slots that a map has taken away, without a move.

    Args:
        space: The job's, as it is now.
        before: What `JobSpace.given` was until then.
    """
    slot = 0
    while space.observer is not None and slot < len(before):
        if before[slot] and not space.given[slot]:
            start = slot
            while slot + 1 < len(before) and before[slot + 1] and not space.given[slot + 1]:
                slot += 1
            space.observer.left(space, start, slot)
        slot += 1


def joined(observer: Observer | None, another: Observer) -> Observer:
    """What tells both."""
    return another if observer is None else _Several([*_members(observer), another])


def parted(observer: Observer | None, gone: Observer) -> Observer | None:
    """What tells all but one."""
    left = [member for member in _members(observer) if member is not gone]
    return _Several(left) if len(left) > 1 else next(iter(left), None)


def _members(observer: Observer | None) -> list[Observer]:
    if isinstance(observer, _Several):
        return observer.members
    return [] if observer is None else [observer]
