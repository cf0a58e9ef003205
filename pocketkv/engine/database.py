"""One numbered database of one job: its keys by slot, their expiry, their size.

Keys are kept in one table per slot, so that a slot can be counted, listed, moved and dropped
without touching the others. Every change goes through the few methods under "changes": what must
happen with each change (accounting, expiry, and whatever later has to know) has one place.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pocketkv.engine.cold import Cold
from pocketkv.engine.errors import WRONG_TYPE, CommandError
from pocketkv.engine.marks import Marks
from pocketkv.engine.notifications import CHANGES, EXPIRED, KEY_MISS, NEW
from pocketkv.engine.scan import ScanCache
from pocketkv.engine.schedule import Schedule
from pocketkv.engine.sizes import EXPIRY_BYTES, key_cost
from pocketkv.engine.values import SHED_BYTES_MIN, Collection, Entry, String, Value, value_cost
from pocketkv.slots import SLOT_COUNT, key_slot

if TYPE_CHECKING:
    from pocketkv.engine.changes import Observer
    from pocketkv.engine.frequency import FrequencySketch
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.shelf import Shelf

Table = dict[bytes, Entry]


class Database:
    """The keys of one database. All times are milliseconds of the Unix epoch.

    Attributes:
        space: The job that it belongs to.
        index: Its number, as in SELECT.
        number: Its number on a medium, which goes where its keys go (see `swapping`).
        uses: Counts how often keys are used; ``None`` where nobody asks.
        salt: Tells its keys there from equal ones of others.
        size: How many keys it has.
        foreign: How many of them are in slots that the map does not give this server.
        observer: Is told of every change; ``None``: nobody wants to know.
        tables: Keys and values by slot; ``None`` for a slot without keys.
        occupied: One byte per slot, 1 where there is a table: finding the next one is memchr.
        expires: Due times by slot.
        schedule: The keys that expire, in that order.
        scans: Orders of the containers here that are being walked.
        shelf: What it keeps on the server's medium; ``None`` if everything is in memory.
        marks: Keys that are to outlive their job; ``None`` if none ever was marked.
    """

    __slots__ = (
        "accessed_s",
        "clock",
        "expires",
        "expires_count",
        "foreign",
        "index",
        "marks",
        "number",
        "observer",
        "occupied",
        "salt",
        "scans",
        "schedule",
        "shelf",
        "size",
        "space",
        "tables",
        "uses",
    )

    def __init__(self, space: JobSpace, index: int) -> None:
        self.space = space
        self.clock = space.clock
        self.index: int = index
        self.number: int = index
        self.uses: FrequencySketch | None = space.keyspace.uses
        self.salt: int = hash((space.job_id, index))
        self.observer: Observer | None = space.observer
        self._reset()

    def _reset(self) -> None:
        self.size = 0
        self.foreign = 0
        self.tables: list[Table | None] = [None] * SLOT_COUNT
        self.occupied = bytearray(SLOT_COUNT)
        self.expires: dict[int, dict[bytes, int]] = {}
        self.expires_count = 0
        # When a slot's keys were last used, in seconds; by slot, since a time per key would cost
        # more memory than many a value.
        self.accessed_s = array("I", bytes(4 * SLOT_COUNT))
        self.schedule = Schedule(self.expires)
        self.scans = ScanCache()
        self.shelf: Shelf | None = self.space.shelf(self)
        self.marks: Marks | None = None

    # --- reading -------------------------------------------------------------------------------

    def lookup(self, key: bytes) -> Value | None:
        """The value of a key that exists and has not expired; an expired one is removed.

        Raises:
            NotResident: It cannot be had without waiting.
            CommandError: IOERR: it cannot be had.
        """
        entry = self.find(key)
        if self.shelf is not None and entry is not None:
            return self._loaded(key, entry)
        return entry  # type: ignore[return-value]  # without a shelf nothing is cold

    def _loaded(self, key: bytes, entry: Entry) -> Value:
        """The value of an entry; a collection stays in memory from then on."""
        shelf = self.shelf
        assert shelf is not None
        if not isinstance(entry, Cold):
            if isinstance(entry, Collection):
                shelf.touched(key)
            return entry
        value = shelf.load(key, entry)
        if not shelf.durable:
            shelf.came_back(key, entry, value)
        elif isinstance(value, Collection):
            self.exchange(key, entry, value)
            shelf.loaded(key, entry)
        return value

    def value_of(self, key: bytes, entry: Entry) -> Value:
        """The value of an entry, which stays as it is, however long it takes to be read.

        Raises:
            CommandError: IOERR: it cannot be had.
        """
        if not isinstance(entry, Cold):
            return entry
        assert self.shelf is not None  # Nothing is cold without one.
        return self.shelf.read_waiting(key, entry)

    def exchange(self, key: bytes, entry: Entry, other: Entry) -> None:
        """Hold the same value in another form."""
        self.table(key_slot(key))[key] = other
        self.space.account(value_cost(other) - value_cost(entry))

    def find_stored(self, key: bytes) -> Entry | None:
        """What the table holds for a key, expired or not."""
        table = self.tables[key_slot(key)]
        return None if table is None else table.get(key)

    def find(self, key: bytes) -> Entry | None:
        """`lookup` for whoever does not need the value itself."""
        slot = key_slot(key)
        table = self.tables[slot]
        if table is None:
            return None
        value = table.get(key)
        if value is None:
            return None
        if self.expires_count and self._is_due(key, slot):
            if not self.space.keeps_expired:
                self._expire(key)
            return None
        self.accessed_s[slot] = self.clock.now_s
        if self.uses is not None:
            self.uses.add(key, self.salt)
        return value

    def _is_due(self, key: bytes, slot: int) -> bool:
        """Whether a key's time has come."""
        expires = self.expires.get(slot)
        if expires is None:
            return False
        due_ms = expires.get(key)
        return due_ms is not None and due_ms <= self.clock.now_ms

    def peek(self, key: bytes) -> Value | None:
        """`read` for a command that looks at a value without using it (OBJECT ENCODING ...).

        Nobody is told if the key is not there.
        """
        slot = key_slot(key)
        accessed_s = self.accessed_s[slot]
        try:
            value = self.lookup(key)
        finally:
            self.accessed_s[slot] = accessed_s
        stats = self.space.stats
        if value is None:
            stats.misses += 1
        else:
            stats.hits += 1
        return value

    def touch(self, key: bytes) -> bool:
        """Use a key without needing its value; whether it exists."""
        found = self.find(key) is not None
        stats = self.space.stats
        if found:
            stats.hits += 1
        else:
            stats.misses += 1
            self.notify(KEY_MISS, b"keymiss", key)
        return found

    def see(self, key: bytes) -> Entry | None:
        """`peek` for a command that does not need the value itself (EXISTS, TYPE, TTL ...)."""
        entry = self.glimpse(key)
        if entry is None:
            self.notify(KEY_MISS, b"keymiss", key)
        return entry

    def glimpse(self, key: bytes) -> Entry | None:
        """`see` for a command that tells nobody of a key that is not there (OBJECT)."""
        slot = key_slot(key)
        accessed_s = self.accessed_s[slot]
        entry = self.find(key)
        self.accessed_s[slot] = accessed_s
        if entry is None:
            self.space.stats.misses += 1
        else:
            self.space.stats.hits += 1
        return entry

    def read(self, key: bytes) -> Value | None:
        """`lookup` for a command that reads: it counts as a hit or a miss."""
        value = self.lookup(key)
        stats = self.space.stats
        if value is None:
            stats.misses += 1
            self.notify(KEY_MISS, b"keymiss", key)
        else:
            stats.hits += 1
        return value

    def read_string(self, key: bytes) -> String | None:
        """`read`, refusing anything but a string.

        Raises:
            CommandError: WRONGTYPE.
        """
        value = self.read(key)
        if isinstance(value, Collection):
            raise CommandError(WRONG_TYPE)
        return value

    def lookup_string(self, key: bytes) -> String | None:
        """`lookup`, refusing anything but a string.

        Raises:
            CommandError: WRONGTYPE.
        """
        value = self.lookup(key)
        if isinstance(value, Collection):
            raise CommandError(WRONG_TYPE)
        return value

    def __contains__(self, key: bytes) -> bool:
        return self.find(key) is not None

    def expiry_ms(self, key: bytes) -> int | None:
        """When the key expires; ``None`` if it does not, or does not exist."""
        expires = self.expires.get(key_slot(key))
        return None if expires is None else expires.get(key)

    def idle_s(self, key: bytes) -> int:
        """Seconds since a key of the same slot was used: at most how long this one was not."""
        return max(0, self.clock.now_s - self.accessed_s[key_slot(key)])

    # --- changes -------------------------------------------------------------------------------

    def put(self, key: bytes, value: Value) -> None:
        """Set a key, whatever it held; its expiry is forgotten."""
        slot = key_slot(key)
        if self.expires_count:
            if self.space.notify_flags and self._is_due(key, slot):
                self._expire(key)
            self._forget_expiry(key, slot)
        self._store(key, value, slot, 0)

    def put_keeping_expiry(self, key: bytes, value: Value) -> None:
        """Set a key to a new value; its expiry stays."""
        due_ms = 0 if self.shelf is None or not self.expires_count else self.expiry_ms(key) or 0
        self._store(key, value, key_slot(key), due_ms)

    def _store(self, key: bytes, value: Entry, slot: int, due_ms: int) -> None:
        shelf = self.shelf
        if shelf is not None:
            value = shelf.stored(key, value, due_ms)  # type: ignore[arg-type]
        table = self.tables[slot]
        if table is None:
            table = self.tables[slot] = {}
            self.occupied[slot] = 1
        old = table.get(key)
        table[key] = value
        self.accessed_s[slot] = self.clock.now_s
        if self.uses is not None:
            self.uses.add(key, self.salt)
        space = self.space
        if old is None:
            self.size += 1
            if not space.owns_all and not space.given[slot]:
                self.foreign += 1
            elif space.notify_flags & NEW and not space.replaying:
                self.notify(NEW, b"new", key)
            space.account(key_cost(key) + value_cost(value))
            if shelf is not None:
                shelf.added(key)
        else:
            space.account(value_cost(value) - value_cost(old))
            if shelf is not None:
                shelf.replaced(key, old)
            if isinstance(old, Collection) and old is not value and old.size_bytes > SHED_BYTES_MIN:
                space.keyspace.shedding.append(old)
        if self.observer is not None:
            self.observer.changed(self, key, slot)

    def modified(self, key: bytes, grown_bytes: int) -> None:
        """A value was changed in place and now costs so much more (or less, if negative)."""
        self.space.account(grown_bytes)
        if self.shelf is not None:
            self.shelf.changed(key)
        if self.observer is not None:
            self.observer.changed(self, key, key_slot(key))

    def notify(self, kind: int, event: bytes, key: bytes) -> None:
        """Tell of something that happened to a key (see `notifications`), if the job wants it."""
        space = self.space
        space.events += kind & CHANGES != 0
        if space.notify_flags & kind:
            assert space.notifier is not None  # Whoever sets the flags sets it.
            space.notifier.notify(self, kind, event, key)

    def remove(self, key: bytes) -> bool:
        """Remove a key; false if it does not exist (or has expired)."""
        if self.find(key) is None:
            return False
        self._remove(key)
        return True

    def _remove(self, key: bytes) -> None:
        """Remove a key that exists, with its value."""
        value = self._drop(key)
        if isinstance(value, Collection) and value.size_bytes > SHED_BYTES_MIN:
            self.space.keyspace.shedding.append(value)

    def _drop(self, key: bytes) -> Entry:
        """Remove a key that exists."""
        slot = key_slot(key)
        if self.expires_count:
            self._forget_expiry(key, slot)
        table = self.tables[slot]
        assert table is not None
        value = table.pop(key)
        if not table:
            self.tables[slot] = None
            self.occupied[slot] = 0
        if self.scans.orders:
            self.scans.forget(value)
            if not table:
                self.scans.forget(table)
        self.size -= 1
        space = self.space
        if not space.owns_all and not space.given[slot]:
            self.foreign -= 1
        space.account(-(key_cost(key) + value_cost(value)))
        if self.shelf is not None:
            self.shelf.removed(key, value)
        if self.marks is not None:
            self.marks.discard(key)
        if self.observer is not None:
            self.observer.changed(self, key, slot)
        return value

    def take(self, key: bytes) -> Value | None:
        """Remove a key and give its value; ``None`` if it does not exist."""
        value = self.lookup(key)
        if value is not None:
            self._drop(key)
        return value

    def clear(self) -> None:
        """Remove every key; the memory is freed in the background."""
        if self.shelf is not None and self._is_only():
            # All that the job has on the medium goes at once.
            self.space.clear()
            return
        self.space.account(-self.used_bytes())
        if self.shelf is not None and self.shelf.durable:
            self.space.keyspace.changes += 1
            self.shelf.journal.clear(self.number)
        if self.marks is not None:
            self.marks.clear()
        self.discard()

    def discard(self, *, release: bool = True) -> None:
        """`clear`, where the caller has accounted for it.

        Args:
            release: Whether what is on a medium has to be given back value by value.
        """
        self.space.expiring.discard(self)
        if self.marks is not None and release:
            self.marks.release()
        self.space.was_cleared(self)
        tables = [table for table in self.tables if table]
        shelf = self.shelf
        if shelf is None:
            self.space.keyspace.discard(tables, None)
        else:
            self.space.keyspace.discard(tables, shelf.journal if release else None)
            shelf.close(release=release)
        self._reset()

    def used_bytes(self) -> int:
        """What this database's keys cost, O(keys) unless the job has no other database."""
        return self.space.used_bytes if self._is_only() else self.count_bytes()

    def _is_only(self) -> bool:
        """Whether the job has no other database with keys."""
        return all(db is self or not db.size for db in self.space.databases.values())

    def count_bytes(self) -> int:
        """What this database's keys cost, counted key by key."""
        cost = self.expires_count * EXPIRY_BYTES
        if self.marks is not None:
            cost += self.marks.size_bytes()
        for _, table in self.slot_tables():
            cost += sum(key_cost(key) + value_cost(value) for key, value in table.items())
        return cost

    def mark(self, key: bytes) -> bool:
        """Have a key outlive its job; false if it does not exist."""
        if self.find(key) is None:
            return False
        self.all_marks().add(key)
        if self.observer is not None:
            self.observer.changed(self, key, key_slot(key))
        return True

    def all_marks(self) -> Marks:
        """The marks, to be added to."""
        if self.marks is None:
            self.marks = Marks(self)
        return self.marks

    # --- expiry --------------------------------------------------------------------------------

    def set_expiry(self, key: bytes, due_ms: int) -> bool:
        """Have an existing key expire at `due_ms`; a time in the past removes it at once.

        Returns:
            Whether it is still there. The caller tells what happened (see `notify`).
        """
        if due_ms <= self.clock.now_ms:
            self._remove(key)
            self.space.stats.expired += 1
            return False
        self._set_due(key, due_ms)
        return True

    def _set_due(self, key: bytes, due_ms: int) -> None:
        slot = key_slot(key)
        expires = self.expires.get(slot)
        if expires is None:
            expires = self.expires[slot] = {}
        old_ms = expires.get(key)
        expires[key] = due_ms
        if old_ms is None:
            self.expires_count += 1
            self.space.account(EXPIRY_BYTES)
            self.space.expiring.add(self)
        else:
            # The same object again, or each refresh would leave one more of the key.
            key = self.schedule.remove(key, old_ms)
        self.schedule.add(key, due_ms)
        if self.shelf is not None:
            self.shelf.expiry_changed(key, due_ms, grown=old_ms is None)
        if self.observer is not None:
            self.observer.expiry_changed(self, key, slot)

    def persist(self, key: bytes) -> bool:
        """Forget a key's expiry; false if it has none."""
        slot = key_slot(key)
        forgotten = self._forget_expiry(key, slot)
        if forgotten and self.shelf is not None:
            self.shelf.expiry_changed(key, 0, grown=False)
        if forgotten and self.observer is not None:
            self.observer.expiry_changed(self, key, slot)
        return forgotten

    def _forget_expiry(self, key: bytes, slot: int) -> bool:
        expires = self.expires.get(slot)
        if expires is None:
            return False
        due_ms = expires.pop(key, None)
        if due_ms is None:
            return False
        if not expires:
            del self.expires[slot]
        self.schedule.remove(key, due_ms)
        self.expires_count -= 1
        self.space.account(-EXPIRY_BYTES)
        if self.shelf is not None:
            self.shelf.expiry_forgotten()
        return True

    def _expire(self, key: bytes) -> None:
        """Remove a key because its time has come."""
        self._remove(key)
        space = self.space
        space.stats.expired += 1
        if space.notify_flags & EXPIRED and (space.owns_all or space.given[key_slot(key)]):
            self.notify(EXPIRED, b"expired", key)

    def expire_due(self, keys_max: int) -> int:
        """Remove keys whose time has come, at most about `keys_max`; how much work it was."""
        now_ms = self.clock.now_ms
        work = 0
        while work < keys_max and (keys := self.schedule.due(now_ms, keys_max - work)):
            for key in keys:
                self._expire(key)
            work += len(keys)
        if not self.schedule:
            self.space.expiring.discard(self)
        return work

    def drop_some(self, slot: int, keys_max: int) -> int:
        """Remove keys of a slot, whether or not they have expired; how many, at most so many."""
        keys = list(islice(self.tables[slot] or (), max(0, keys_max)))
        for key in keys:
            self._remove(key)
        return len(keys)

    # --- as it was found on a medium -----------------------------------------------------------

    def restore(self, key: bytes, entry: Entry, due_ms: int) -> None:
        """Hold what was written for a key, even if its time has come: it may have been changed."""
        slot = key_slot(key)
        if self.expires_count:
            self._forget_expiry(key, slot)
        self._store(key, entry, slot, 0)
        if due_ms:
            self._set_due(key, due_ms)

    def restore_expiry(self, key: bytes, due_ms: int) -> None:
        """Have a key that is there expire at another time, or never (0)."""
        if due_ms:
            self._set_due(key, due_ms)
        else:
            self._forget_expiry(key, key_slot(key))

    def restore_removal(self, key: bytes) -> None:
        """Hold a key that is there no more."""
        self._drop(key)

    @property
    def visible(self) -> int:
        """How many keys clients are told of: those in slots of this server."""
        return self.size - self.foreign

    # --- many keys -----------------------------------------------------------------------------

    def live(self, key: bytes, slot: int) -> bool:
        """Whether a key that stands in a table has not expired."""
        expires = self.expires.get(slot)
        if expires is None:
            return True
        due_ms = expires.get(key)
        return due_ms is None or due_ms > self.clock.now_ms

    def next_occupied(self, slot: int) -> int:
        """The first slot from `slot` on that has keys; -1 if there is none."""
        return self.occupied.find(1, slot)

    def slot_tables(self) -> Iterator[tuple[int, Table]]:
        """The slots that have keys, with their tables, in order."""
        slot = self.occupied.find(1)
        while slot >= 0:
            yield slot, self.table(slot)
            slot = self.occupied.find(1, slot + 1)

    def table(self, slot: int) -> Table:
        """The table of a slot that has keys."""
        table = self.tables[slot]
        assert table is not None
        return table

    def keys_in_slot(self, slot: int) -> list[bytes]:
        """The keys of one slot that have not expired."""
        return [key for key in self.tables[slot] or () if self.live(key, slot)]

    def iter_keys(self) -> Iterator[bytes]:
        """All keys that have not expired. Nothing may be changed meanwhile."""
        for slot, table in self.slot_tables():
            if slot not in self.expires:
                yield from table
            else:
                yield from (key for key in table if self.live(key, slot))
