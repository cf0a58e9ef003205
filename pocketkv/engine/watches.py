"""WATCH: keys whose change makes a client's next EXEC do nothing.

A job has one `Watchers` for all of its clients, which is told of changes only while somebody
watches. A key that is about to expire breaks a watch when it has, whether or not it was removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace


class Watch:
    """What one client watches.

    Attributes:
        keys: The keys, with the database of each, and whether it was there.
        is_broken: Whether one of them has changed.
    """

    __slots__ = ("is_broken", "keys")

    def __init__(self) -> None:
        self.keys: dict[tuple[Database, bytes], bool] = {}
        self.is_broken = False

    def add(self, database: Database, key: bytes) -> None:
        """Watch a key from now on."""
        if (database, key) in self.keys:
            return
        # One whose time has come is removed now, so that its removal is no change later.
        if _has_expired(database, key):
            database.find(key)
        self.keys[database, key] = database.find_stored(key) is not None
        space = database.space
        if space.watchers is None:
            space.watchers = Watchers(space)
        space.watchers.add(database, key, self)

    def end(self) -> None:
        """Watch nothing any more."""
        for database, key in self.keys:
            watchers = database.space.watchers
            assert watchers is not None  # Made by `add`.
            watchers.remove(database, key, self)
        self.keys.clear()

    def is_broken_now(self) -> bool:
        """Whether a key has changed, or should have been removed by now."""
        return self.is_broken or any(
            was_there and _has_expired(database, key)
            for (database, key), was_there in self.keys.items()
        )


def _has_expired(database: Database, key: bytes) -> bool:
    """Whether a key is there that should not be any more."""
    return database.find_stored(key) is not None and not database.live(key, key_slot(key))


class Watchers:
    """The watched keys of one job on this server; told of every change while there are any."""

    __slots__ = ("_by_key", "_space")

    def __init__(self, space: JobSpace) -> None:
        self._space = space
        self._by_key: dict[Database, dict[bytes, set[Watch]]] = {}

    def add(self, database: Database, key: bytes, watch: Watch) -> None:
        """Have a watch broken by a change of a key."""
        if not self._by_key:
            self._space.observe(self)
        self._by_key.setdefault(database, {}).setdefault(key, set()).add(watch)

    def remove(self, database: Database, key: bytes, watch: Watch) -> None:
        """Undo `add`."""
        of_database = self._by_key[database]
        watches = of_database[key]
        watches.remove(watch)
        if watches:
            return
        del of_database[key]
        if not of_database:
            del self._by_key[database]
            if not self._by_key:
                self._space.unobserve(self)

    def changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.changed`."""
        watched = self._by_key.get(database)
        if watched is not None:
            for watch in watched.get(key, ()):
                watch.is_broken = True

    def noted(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.noted`: no change, as in Redis."""

    def expiry_changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.expiry_changed`: a change like any other."""
        self.changed(database, key, slot)

    def cleared(self, database: Database) -> None:
        """As `Observer.cleared`: of keys that were there."""
        for key, watches in self._by_key.get(database, {}).items():
            if database.find_stored(key) is not None:
                has_expired = _has_expired(database, key)
                for watch in watches:
                    # To have none, or one that has expired, is the same.
                    if not has_expired or watch.keys[database, key]:
                        watch.is_broken = True

    def left(self, space: JobSpace, start: int, end: int) -> None:
        """As `Observer.left`: nobody knows what becomes of those keys."""
        for watched in self._by_key.values():
            for key, watches in watched.items():
                if start <= key_slot(key) <= end:
                    for watch in watches:
                        watch.is_broken = True
