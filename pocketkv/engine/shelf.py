"""What one database keeps on its server's medium, beside what it has in memory.

On a durable medium (a file tier) every value is written before it is acknowledged. A string is
kept there only: its table holds a `Cold`. A collection is loaded when it is touched and stays until
the memory is needed; meanwhile what changes of it is written as changes. Large strings have bytes
of their own on the medium, so what is written here only tells where.

On any other medium (spill) nothing is written but what is moved out of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from pocketkv.engine.chains import STEPPED_BYTES, Chain, making, takes_steps
from pocketkv.engine.cold import (
    CHANGED_STRING,
    LARGE,
    NO_STEPS,
    SPILLED_BYTES,
    SPILLED_LARGE,
    STRING,
    Cold,
    NotResident,
)
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.packing import PayloadError, pack
from pocketkv.engine.payloads import code_of
from pocketkv.engine.returning import LargeRead
from pocketkv.engine.sizes import EXPIRY_BYTES, key_cost
from pocketkv.engine.values import Collection, value_cost
from pocketkv.engine.writing import PARTED_BYTES, Carrying, Rewriting, Writing, is_whole_due

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pocketkv.engine.cold import Journal, PendingRead
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import Keyspace
    from pocketkv.engine.spilling import Victim
    from pocketkv.engine.values import Entry, Value

_STRINGS: Final = frozenset({STRING, CHANGED_STRING})
# What a `Cold` takes in memory.
COLD_BYTES: Final = 80
# So many changes has a large string, which are small beside what tells all of it.
_LARGE_CHANGES_MAX: Final = 256


class StoredRead:
    """A record that has to be read."""

    __slots__ = ("cold", "key", "shelf")

    def __init__(self, shelf: Shelf, cold: Cold, key: bytes | None = None) -> None:
        self.shelf = shelf
        self.cold = cold
        # Of a collection that takes many steps to be made, if this is the first of its records.
        self.key = key

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, StoredRead) and other.cold is self.cold and other.shelf is self.shelf
        )

    def __hash__(self) -> int:
        return hash(self.cold)

    @property
    def is_coming(self) -> bool:
        """To try and read what is not in memory has the system begin to read it."""
        return self.shelf.durable and self.cold.length <= STEPPED_BYTES

    def try_read(self) -> bytes | None:
        """What it says, if that is in the system's memory now."""
        return self.shelf.journal.try_read(self.cold)

    def read(self) -> bytes:
        """Read it; for a worker thread."""
        return self.shelf.journal.read(self.cold)

    def keep(self, result: bytes | CommandError) -> bool:
        """Have it at hand."""
        self.shelf.fetched[self.cold] = result
        return True

    def prepare(self) -> Iterator[None]:
        """Make the collection."""
        return NO_STEPS if self.key is None else self.shelf.assembling(self.key, self.cold)

    def forget(self) -> None:
        """It is not needed any more."""
        self.shelf.fetched.pop(self.cold, None)


class Shelf:
    """The part of a medium that belongs to one database.

    Args:
        db: The database.
        journal: Where it writes.
        durable: Whether every value is written.

    Attributes:
        index_bytes: Memory of what is kept for keys whose values may be elsewhere.
        chains: Records of the values that are in memory and on the medium: the value as it was,
            then its changes.
        fetched: What was read for commands that wait for it, or why it could not be.
        reading: Large values that are on their way back from a spill medium.
        spilling: Values that are being moved out; one that is changed meanwhile is no longer in it.
        writings: Huge collections that are being written whole.
        spilled_keys, spilled_bytes: What was moved out, and what it takes there.
    """

    __slots__ = (
        "assemblies",
        "chains",
        "db",
        "durable",
        "fetched",
        "index_bytes",
        "is_cold",
        "journal",
        "keyspace",
        "reading",
        "spilled_bytes",
        "spilled_keys",
        "spilling",
        "unwritten",
        "writings",
    )

    def __init__(self, db: Database, journal: Journal, *, durable: bool) -> None:
        self.db = db
        self.keyspace: Keyspace = db.space.keyspace
        self.journal = journal
        self.durable = durable
        self.index_bytes = 0
        self.chains: dict[bytes, Chain] = {}
        self.fetched: dict[Cold, bytes | LargeString | Collection | CommandError] = {}
        self.reading: WeakValueDictionary[Cold, LargeRead] = WeakValueDictionary()
        # Collections that are being made, by their first records.
        self.assemblies: WeakValueDictionary[Cold, Iterator[None]] = WeakValueDictionary()
        self.writings: dict[bytes, Writing] = {}
        self.spilling: dict[bytes, Victim] = {}
        self.spilled_keys = 0
        self.spilled_bytes = 0
        # Whether the string that was asked for last was not in memory.
        self.is_cold = False
        # Keys whose values in memory are not on the medium as they are.
        self.unwritten: dict[bytes, None] = {}

    # --- changes -------------------------------------------------------------------------------

    def stored(self, key: bytes, value: Value, due_ms: int) -> Entry:
        """What a table is to hold for a key that is set to a value."""
        if not self._journals():
            return value
        if isinstance(value, Collection | LargeString):
            self.changed(key)
            return value
        kind = STRING if type(value) is bytes else CHANGED_STRING
        return self.journal.put(self.db.number, key, kind, bytes(value), due_ms)

    def changed(self, key: bytes) -> None:
        """A value in memory was changed, or is new."""
        if not self.durable:
            self._forget_moved(key)
        elif self._journals():
            if not self.unwritten:
                self.keyspace.unwritten.append(self)
            self.unwritten[key] = None

    def _journals(self) -> bool:
        """Whether what happens now is to be written; it is counted then."""
        if not self.durable or self.db.space.replaying:
            return False
        self.keyspace.changes += 1
        return True

    def added(self, key: bytes) -> None:
        """There is one key more."""
        self._index_grew(key_cost(key) + COLD_BYTES)

    def replaced(self, key: bytes, old: Entry) -> None:
        """Another value has taken the place of `old`."""
        if not self.durable:
            if isinstance(old, Cold):
                self._count_spilled(old, -1)
            self.spilling.pop(key, None)
        if isinstance(old, Cold):
            self._forget_cold(key, old)
        elif isinstance(old, Collection | LargeString):
            self._forget_chain(key)
            self.keyspace.residents.pop((self, key), None)

    def removed(self, key: bytes, old: Entry) -> None:
        """A key is no more."""
        self._index_grew(-key_cost(key) - COLD_BYTES)
        self.replaced(key, old)
        if self._journals():
            self.unwritten.pop(key, None)
            self.journal.delete(self.db.number, key)

    def expiry_changed(self, key: bytes, due_ms: int, *, grown: bool) -> None:
        """A key's due time is another, 0 if it has none; whether it had none before."""
        if grown:
            self._index_grew(EXPIRY_BYTES)
        if self._journals():
            self.journal.expire(self.db.number, key, due_ms)

    def expiry_forgotten(self) -> None:
        """A due time was forgotten with its value."""
        self._index_grew(-EXPIRY_BYTES)

    def close(self, *, release: bool) -> None:
        """The database is empty, and this shelf of no use any more."""
        self._index_grew(-self.index_bytes)
        residents = self.keyspace.residents
        for key in self.chains:
            residents.pop((self, key), None)
        self.db.space.spilled_keys -= self.spilled_keys
        self.db.space.spilled_bytes -= self.spilled_bytes
        self.spilled_keys = self.spilled_bytes = 0
        self.spilling = {}
        for writing in list(self.writings.values()):
            writing.end(release=release)
        if release:
            for chain in self.chains.values():
                for record in chain:
                    self.journal.release(record)
        self.chains = {}
        self.fetched = {}
        self.unwritten = {}

    def _index_grew(self, count: int) -> None:
        self.index_bytes += count
        self.keyspace.index_bytes += count

    def _forget_cold(self, key: bytes, cold: Cold) -> None:
        chain = self.chains.get(key)
        if chain is None:
            self.journal.release(cold)
        else:
            self._forget_chain(key)

    def _forget_chain(self, key: bytes) -> None:
        if self.writings and key in self.writings:
            self.writings[key].end()
        for record in self.chains.pop(key, ()):
            self.journal.release(record)

    # --- reading -------------------------------------------------------------------------------

    def load(self, key: bytes, cold: Cold) -> Value:
        """The value that a table holds a `Cold` for.

        Raises:
            NotResident: It cannot be had without waiting.
            CommandError: IOERR: it cannot be had, or is not what was written.
        """
        if cold.kind in _STRINGS:
            payload = self.read_now(cold) if self.fetched else self.journal.read_now(cold)
            self.is_cold = payload is None
            if payload is None:
                raise NotResident([StoredRead(self, cold)])
            return payload if cold.kind == STRING else bytearray(payload)
        if cold.kind == SPILLED_LARGE:
            return self._load_large(cold)
        return self._load_collection(key, cold)

    def _load_large(self, cold: Cold) -> LargeString:
        """A large string that was moved out of memory, when it was read."""
        found = self.fetched.get(cold)
        if isinstance(found, CommandError):
            raise found
        if not isinstance(found, LargeString):
            raise NotResident([self._large_read(cold)])
        return found

    def _large_read(self, cold: Cold) -> LargeRead:
        """What has to be done to have a large string; all who want it wait for the same."""
        read = self.reading.get(cold)
        if read is None:
            read = self.reading[cold] = LargeRead(self, cold)
        return read

    def _load_collection(self, key: bytes, cold: Cold) -> Value:
        chain = self.chains.get(key) or Chain([cold])
        made = self.fetched.get(chain[0])
        if isinstance(made, Collection):
            return made
        if isinstance(made, CommandError):
            raise made
        if takes_steps(chain):
            raise NotResident(self._stepped_reads(key, chain))
        payloads = [self.read_now(record) for record in chain]
        missing = [record for record, read in zip(chain, payloads, strict=True) if read is None]
        if missing:
            raise NotResident([StoredRead(self, record) for record in missing])
        return self.assemble(chain, [payload for payload in payloads if payload is not None])

    def _stepped_reads(self, key: bytes, chain: list[Cold]) -> list[PendingRead]:
        return [
            StoredRead(self, record, None if index else key) for index, record in enumerate(chain)
        ]

    def assembling(self, key: bytes, cold: Cold) -> Iterator[None]:
        """Make a collection of what was read of it, step by step, and have it at hand.

        Of several who wait for the same one, each goes on with what the others have begun.
        """
        shared = self.assemblies.get(cold)
        if shared is None:
            shared = self.assemblies[cold] = self._assembling(key, cold)
        # One of them may give up, and the others go on.
        for _ in shared:
            yield

    def _assembling(self, key: bytes, cold: Cold) -> Iterator[None]:
        if self.db.find_stored(key) is not cold:
            # Somebody else was first, or it was set anew.
            return
        chain = list(self.chains.get(key) or [cold])
        payloads: list[bytes] = []
        for record in chain:
            payload = self.fetched.get(record)
            if isinstance(payload, bytes):
                payloads.append(payload)
            elif isinstance(payload, CommandError):
                self.fetched[cold] = payload
        if len(payloads) < len(chain):
            return
        value: Collection | None = None
        try:
            for made in making(chain, payloads):
                value = made
                yield
        except PayloadError as error:
            self.fetched[cold] = CommandError(b"IOERR stored value: " + str(error).encode())
            return
        assert value is not None  # The last one is the value.
        value.changes = [] if self.durable else None
        # It may have become a chain of others meanwhile, or none that anybody waits for.
        is_same = self.db.find_stored(key) is cold and (self.chains.get(key) or [cold]) == chain
        if is_same and cold in self.fetched:
            self.fetched[cold] = value

    def assemble(self, chain: list[Cold], payloads: list[bytes]) -> Collection:
        """A collection, of its records.

        Raises:
            CommandError: IOERR: they do not make one.
        """
        try:
            *_, value = making(chain, payloads)
        except PayloadError as error:
            raise CommandError(b"IOERR stored value: " + str(error).encode()) from error
        assert value is not None  # The last one is the value.
        value.changes = [] if self.durable else None
        return value

    def loaded(self, key: bytes, cold: Cold) -> None:
        """A collection is in memory now, where there was a `Cold`."""
        self.chains.setdefault(key, Chain([cold]))
        self.touched(key)
        writing = self.writings.get(key)
        if writing is not None:
            # It goes on with what is in memory now.
            writing.end()
            self.begin_writing(key)

    def touched(self, key: bytes) -> None:
        """A collection that is in memory was used."""
        if self.durable:
            self.keyspace.residents[self, key] = True

    def read_now(self, cold: Cold) -> bytes | None:
        """What is stored, if it can be had without waiting."""
        payload = self.fetched.get(cold)
        if isinstance(payload, CommandError):
            raise payload
        # Those are taken as they are.
        assert not isinstance(payload, LargeString | Collection)
        return self.journal.read_now(cold) if payload is None else payload

    def read_waiting(self, key: bytes, cold: Cold) -> Value:
        """The value that a table holds a `Cold` for, however long it takes to be read.

        Raises:
            CommandError: IOERR: it cannot be had, or is not what was written.
        """
        chain = self.chains.get(key) or [cold]
        payloads = [self.journal.read(record) for record in chain]
        is_string = cold.kind in _STRINGS or cold.kind == SPILLED_LARGE
        return payloads[0] if is_string else self.assemble(chain, payloads)

    def missing(self, key: bytes, cold: Cold, at_hand: list[PendingRead]) -> list[PendingRead]:
        """What has to be read before a value can be had.

        What need not is kept in `fetched`, and added to `at_hand`: the caller has it forgotten.
        """
        found: list[PendingRead] = []
        chain = self.chains.get(key) or [cold]
        if takes_steps(chain):
            made = isinstance(self.fetched.get(chain[0]), Collection | CommandError)
            return [] if made else self._stepped_reads(key, chain)
        for record in chain:
            if record in self.fetched:
                continue
            if record.kind == SPILLED_LARGE:
                found.append(self._large_read(record))
            else:
                read = StoredRead(self, record)
                payload = self.journal.read_now(record)
                if payload is None:
                    found.append(read)
                else:
                    read.keep(payload)
                    at_hand.append(read)
        return found

    # --- writing -------------------------------------------------------------------------------

    def write_changes(self) -> None:
        """Write what has changed in memory to the journal."""
        unwritten, self.unwritten = self.unwritten, {}
        for key in unwritten:
            value = self.db.find_stored(key)
            if isinstance(value, Collection):
                self._write_collection(key, value)
            elif isinstance(value, LargeString):
                self._write_large(key, value)

    def _write_collection(self, key: bytes, value: Collection) -> None:
        chain = self.chains.get(key)
        changes = value.changes
        if chain is None or changes is None:
            self._write_all_of(key, value)
            self.touched(key)
        elif changes:
            store = self.keyspace.store
            assert store is not None  # It is what this is a part of.
            is_due = is_whole_due(chain, value, changes, store.change_bytes)
            if is_due and value.size_bytes <= PARTED_BYTES:
                self._write_all_of(key, value)
                self.touched(key)
                return
            value.changes = []
            chain.append(self.journal.change(self.db.number, key, pack(changes)))
            if is_due:
                self.begin_writing(key)

    def _write_all_of(self, key: bytes, value: Collection) -> None:
        """Write a collection whole, now."""
        if value.size_bytes <= PARTED_BYTES:
            self._write_whole(key, code_of(value), value.payload())
        else:
            if key in self.writings:
                self.writings[key].end()
            Rewriting(self, key).write_all(value)
        value.changes = []

    def begin_writing(self, key: bytes) -> None:
        """Have a huge collection be written whole, in steps."""
        if key not in self.writings:
            is_cold = isinstance(self.db.find_stored(key), Cold)
            writing = Carrying(self, key) if is_cold else Rewriting(self, key)
            self.writings[key] = writing
            self.keyspace.writings.append(writing)

    def _write_large(self, key: bytes, value: LargeString) -> None:
        chain = self.chains.get(key)
        if chain is None or len(chain) > _LARGE_CHANGES_MAX:
            self._write_whole(key, LARGE, value.payload())
            return
        changes = value.take_changes()
        for change in changes:
            chain.append(self.journal.change(self.db.number, key, change))

    def _write_whole(self, key: bytes, kind: int, payload: bytes) -> None:
        self._forget_chain(key)
        due_ms = self.db.expiry_ms(key) or 0
        self.chains[key] = Chain([self.journal.put(self.db.number, key, kind, payload, due_ms)])

    def rewrite(self, key: bytes) -> None:
        """Write a value that is in memory whole."""
        value = self.db.find_stored(key)
        if isinstance(value, Collection):
            self._write_all_of(key, value)
        elif isinstance(value, LargeString):
            self._write_whole(key, LARGE, value.payload())

    # --- to a spill medium, and back -----------------------------------------------------------

    def came_back(self, key: bytes, cold: Cold, value: Value) -> None:
        """A value that was moved out has been read; whether it stays is decided here."""
        db = self.db
        spilling = self.keyspace.spilling
        assert spilling is not None  # Nothing else is moved out.
        db.space.stats.spill_hits += 1
        is_whole = isinstance(value, Collection | LargeString)
        if not is_whole and not spilling.wants_back(db, key, value):
            return
        if isinstance(value, LargeString):
            # From now on it is accounted as a value.
            value.charge = None
        db.exchange(key, cold, value)
        db.space.stats.spilled_back += 1
        self._count_spilled(cold, -1)
        if is_whole:
            # As long as it is not changed, leaving it again costs nothing.
            self.chains[key] = Chain([cold])
            self.keyspace.residents[self, key] = True
        else:
            self.journal.release(cold)

    def unmark(self, victim: Victim) -> bool:
        """A value is not being moved out any more; false if it was changed since it was picked."""
        if self.spilling.get(victim.key) is not victim:
            return False
        del self.spilling[victim.key]
        return True

    def moved(self, victim: Victim, cold: Cold) -> bool:
        """A value that was being moved out is on the medium; false if it is not needed there."""
        key = victim.key
        if not self.unmark(victim):
            self.journal.release(cold)
            return False
        entry = self.db.find_stored(key)
        assert entry is not None  # Or the mark would be gone.
        # What is there is equal to what was marked, though it may have been renewed meanwhile.
        cold.cost_bytes = SPILLED_BYTES
        self._leave(key, entry, cold)
        return True

    def drop_clean(self, key: bytes) -> int:
        """Leave a value that is on the medium anyway: how much that frees, 0 if it is not so."""
        chain = self.chains.get(key)
        entry = self.db.find_stored(key)
        self.keyspace.residents.pop((self, key), None)
        if chain is None or entry is None or key in self.spilling:
            return 0
        del self.chains[key]
        size = value_cost(entry)
        self._leave(key, entry, chain[0])
        return size

    def _leave(self, key: bytes, entry: Entry, cold: Cold) -> None:
        """Hold a stub in place of a value."""
        self.db.exchange(key, entry, cold)
        if self.db.scans.orders:
            self.db.scans.forget(entry)
        self.db.space.stats.spilled_out += 1
        self._count_spilled(cold, 1)

    def _forget_moved(self, key: bytes) -> None:
        """What is on the medium of a value, or on its way there, is not it any more."""
        self.spilling.pop(key, None)
        if self.chains and key in self.chains:
            self._forget_chain(key)
            self.keyspace.residents.pop((self, key), None)

    def _count_spilled(self, cold: Cold, count: int) -> None:
        space = self.db.space
        self.spilled_keys += count
        space.spilled_keys += count
        self.spilled_bytes += count * cold.record_bytes
        space.spilled_bytes += count * cold.record_bytes

    # --- moving out of memory ------------------------------------------------------------------

    def evict(self, key: bytes, value: Collection) -> Cold:
        """Leave a collection to the medium: what takes its place in the table."""
        self.write_changes()
        chain = self.chains.get(key)
        if chain is None or (chain.changes and not takes_steps(chain)):
            self._write_all_of(key, value)
        if key in self.writings:
            # There is no room for it.
            self.writings[key].end()
        # Writing it may have counted as a use.
        self.keyspace.residents.pop((self, key), None)
        chain = self.chains[key]
        if len(chain) == 1:
            del self.chains[key]
        # Otherwise its changes stay what they are: to write all of it would take long.
        return chain[0]

    def must_stay(self, key: bytes) -> bool:
        """Whether a collection has to stay in memory for a little while, until it is written."""
        writing = self.writings.get(key)
        return writing is not None and not writing.is_stuck
