"""Everything that one server stores: a space per job, with its quota and the slots it owns here.

The clock is set from outside once per round of service, and randomness is passed in, so that
everything here is a function of its inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from pocketkv import limits
from pocketkv.engine.changes import joined, parted
from pocketkv.engine.cold import Cold
from pocketkv.engine.database import Database
from pocketkv.engine.errors import CAPACITY_USED, NO_WRITES, OUT_OF_MEMORY
from pocketkv.engine.extents import Extents
from pocketkv.engine.freeing import effort_of, release_some
from pocketkv.engine.kept import KeptShelf
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.shelf import Shelf
from pocketkv.engine.spilling import FULL, Spilling
from pocketkv.engine.stats import KeyStats
from pocketkv.engine.values import Collection
from pocketkv.jobs import DEFAULT_JOB_ID
from pocketkv.slots import SLOT_COUNT

if TYPE_CHECKING:
    from pocketkv.engine.acl import Acl
    from pocketkv.engine.changes import Observer
    from pocketkv.engine.cold import Journal, PendingRead, Store
    from pocketkv.engine.database import Table
    from pocketkv.engine.frequency import FrequencySketch
    from pocketkv.engine.kept import KeptStore
    from pocketkv.engine.key_eviction import KeyEviction
    from pocketkv.engine.moving import Hold, Incoming
    from pocketkv.engine.notifications import Notifier
    from pocketkv.engine.pubsub import PubSub
    from pocketkv.engine.randomness import Randomness
    from pocketkv.engine.scripts import Scripts
    from pocketkv.engine.sinks import ExtentSink
    from pocketkv.engine.tracking import Tracking
    from pocketkv.engine.transfer import Partial
    from pocketkv.engine.waiters import Waiters
    from pocketkv.engine.watches import Watchers
    from pocketkv.engine.writing import Writing

CLEARED: Final = b"CLEARED all keys were removed here meanwhile"
DEFAULT_JOB: Final = DEFAULT_JOB_ID
# What it takes to free a part of a collection, in keys.
_SHED_EFFORT: Final = 2000


class Clock:
    """The time of the round under way, of the Unix epoch."""

    __slots__ = ("now_ms", "now_s")

    def __init__(self, now_ms: int = 0) -> None:
        self.set(now_ms)

    def set(self, now_ms: int) -> None:
        """Move to `now_ms`."""
        self.now_ms = now_ms
        self.now_s = now_ms // 1000


class JobSpace:
    """The keys of one job on this server.

    Attributes:
        job_id: The job.
        quota_bytes: What it may use here; ``None``: as much as the server has.
        granted_bytes, limit_bytes: Where that comes from (see `quotas`).
        used_bytes: What it uses here (see `sizes`).
        incoming_bytes: What it uses beside that, for large strings that are no values yet.
        spilled_keys, spilled_bytes: Keys whose values were moved out of memory to a spill medium,
            and what those take there, which is no part of `used_bytes`.
        given: One byte per slot, 1 where the map gives it to this server.
        owned: The same where it is served now: but for those that are held, or to be emptied yet.
        owns_all: Whether all slots are served here, so that nothing has to be checked.
        epoch: Of the placement that `owned` follows.
        expires_actively, keeps_expired: Whether expired keys are removed before they are asked
            for, and whether not even then.
        read_only: Whether the job has ended, and what it left behind is only read.
        retains: Whether the controller knows that keys are to outlive the job.
        adopting: Values that come from another server in pieces, by database and key.
        observer: Is told of every change (see `changes`).
        waiters: Clients that wait for keys; ``None`` while none ever did.
        scripts: Its scripts and functions; likewise.
        watchers: Clients that watch keys (see `watches`); likewise.
        events: How many events there were in keys' lives, whoever wanted to hear of them.
        notify_flags: Events in keys' lives that are published (see `notifications`); 0: none.
        notifier: Publishes them.
        acl: The job's users; ``None``: there is only who has its token.
        pubsub: Who has subscribed to channels; ``None`` while nobody ever did.
        tracking: What clients may keep copies of; ``None`` while nobody tracks.
        holds: Ranges of slots whose commands are held.
        incoming: Moves of slots to this server that are under way, by id.
        refused_moves: Ids of those that will not be taken, whoever asks.
        unclean: Slots that are to be emptied in the background, since they are not this server's
            any more, or not yet.
        flips: How often slots came or went by a move.
        foreign_bytes: What of `used_bytes` is for slots that are on their way in or out, as far as
            that is known: the quota does not count it.
        kept: Where its keys are in place of the server's own medium, if they are elsewhere.
        opening: What its commands have to wait for before its keys are known here.
        order: On a durable store, the record of databases that were swapped (see `swapping`).
        replaying: Whether what is changed is on the store already.
    """

    __slots__ = (
        "acl",
        "adopting",
        "clock",
        "databases",
        "epoch",
        "events",
        "expires_actively",
        "expiring",
        "flips",
        "foreign_bytes",
        "given",
        "granted_bytes",
        "holds",
        "incoming",
        "incoming_bytes",
        "job_id",
        "keeps_expired",
        "kept",
        "keyspace",
        "limit_bytes",
        "notifier",
        "notify_flags",
        "observer",
        "opening",
        "order",
        "owned",
        "owns_all",
        "pubsub",
        "quota_bytes",
        "read_only",
        "refused_moves",
        "replaying",
        "retains",
        "scripts",
        "spilled_bytes",
        "spilled_keys",
        "stats",
        "tracking",
        "unclean",
        "used_bytes",
        "waiters",
        "watchers",
    )

    def __init__(self, keyspace: Keyspace, job_id: str) -> None:
        self.keyspace = keyspace
        self.clock = keyspace.clock
        self.job_id = job_id
        self.quota_bytes: int | None = None
        self.granted_bytes: int | None = None
        self.limit_bytes = 0
        self.used_bytes = 0
        self.incoming_bytes = 0
        self.spilled_keys = 0
        self.spilled_bytes = 0
        self.given = bytearray(SLOT_COUNT)
        self.owned = bytearray(SLOT_COUNT)
        self.owns_all = False
        self.observer: Observer | None = None
        self.waiters: Waiters | None = None
        self.scripts: Scripts | None = None
        self.watchers: Watchers | None = None
        self.events = 0
        self.notify_flags: int = 0
        self.notifier: Notifier | None = None
        self.acl: Acl | None = None
        self.pubsub: PubSub | None = None
        self.tracking: Tracking | None = None
        self.holds: list[Hold] = []
        self.incoming: dict[str, Incoming] = {}
        self.refused_moves: set[str] = set()
        self.unclean: set[int] = set()
        self.flips = 0
        self.foreign_bytes = 0
        self.epoch = 0
        self.databases: dict[int, Database] = {}
        self.expiring: set[Database] = set()
        self.expires_actively = True
        self.keeps_expired = False
        self.replaying = False
        self.read_only = False
        self.retains = False
        self.adopting: dict[tuple[int, bytes], Partial] = {}
        self.kept: KeptStore | None = None
        self.opening: PendingRead | None = None
        self.order: Cold | None = None
        self.stats = KeyStats()

    def database(self, index: int) -> Database:
        """Database number `index`, made when it is first asked for."""
        database = self.databases.get(index)
        if database is None:
            database = self.databases[index] = Database(self, index)
        return database

    # --- which slots are served ----------------------------------------------------------------

    def own(self, given: bytes | bytearray) -> None:
        """Serve just these slots from now on (one byte per slot).

        Those that are held or to be emptied are served when that is over.
        """
        self.given = bytearray(given)
        for database in self.databases.values():
            tables = database.slot_tables()
            database.foreign = sum(len(table) for slot, table in tables if not given[slot])
        owned = bytearray(given)
        for hold in self.holds:
            owned[hold.start : hold.end + 1] = bytes(len(hold))
        for slot in self.unclean:
            owned[slot] = 0
        self.owned = owned
        self.owns_all = 0 not in owned

    def give(self, start: int, end: int, *, given: bool) -> int:
        """Have a range of slots, both ends included, come or go; how many keys it has."""
        count = end - start + 1
        self.given[start : end + 1] = self.owned[start : end + 1] = bytes([given]) * count
        self.owns_all = 0 not in self.owned
        self.flips += 1
        keys = 0
        for database in self.databases.values():
            size = _keys_between(database, start, end)
            database.foreign += -size if given else size
            keys += size
        return keys

    def keys_between(self, start: int, end: int) -> int:
        """How many keys are in the slots from `start` to `end`, both included."""
        return sum(_keys_between(database, start, end) for database in self.databases.values())

    def serve_range(self, start: int, end: int, *, served: bool) -> None:
        """Stop to serve a range of slots for a moment, or go on with those that are given."""
        if served:
            self.owned[start : end + 1] = self.given[start : end + 1]
            if self.unclean:
                for slot in range(start, end + 1):
                    if slot in self.unclean:
                        self.owned[slot] = 0
        else:
            self.owned[start : end + 1] = bytes(end - start + 1)
        self.owns_all = 0 not in self.owned

    def held(self, slot: int) -> Hold | None:
        """The hold that a slot is in."""
        for hold in self.holds:
            if hold.start <= slot <= hold.end:
                return hold
        return None

    def own_everything(self) -> None:
        """Serve all slots: a server without a controller does."""
        self.own(b"\x01" * SLOT_COUNT)

    # --- who is told of changes ----------------------------------------------------------------

    def observe(self, observer: Observer) -> None:
        """Have somebody told of every change."""
        self._set_observer(joined(self.observer, observer))

    def unobserve(self, observer: Observer) -> None:
        """Undo `observe`."""
        self._set_observer(parted(self.observer, observer))

    def _set_observer(self, observer: Observer | None) -> None:
        self.observer = observer
        for database in self.databases.values():
            database.observer = observer

    def was_cleared(self, database: Database) -> None:
        """All keys of a database are removed, at once."""
        for incoming in self.incoming.values():  # What was copied of it is gone as well.
            incoming.failure = CLEARED
        if self.observer is not None:
            self.observer.cleared(database)

    @property
    def marked_keys(self) -> int:
        """How many keys are to outlive the job."""
        return sum(len(db.marks) for db in self.databases.values() if db.marks is not None)

    def account(self, grown_bytes: int) -> None:
        """The job now uses so much more here (or less, if negative)."""
        self.used_bytes += grown_bytes
        self.keyspace.used_bytes += grown_bytes

    def shelf(self, database: Database) -> Shelf | None:
        """What one of its databases keeps on a medium, if there is one."""
        if self.kept is not None:
            return KeptShelf(database, self.kept.journal(self.job_id))
        store = self.keyspace.store
        if store is None:
            return None
        return Shelf(database, store.journal(self.job_id), durable=store.durable)

    def clear(self) -> None:
        """Remove every key of the job."""
        self.account(-self.used_bytes)
        store = self.keyspace.store if self.kept is None else self.kept
        if store is not None:
            store.drop(self.job_id)
        self.order = None
        for database in self.databases.values():
            database.discard(release=False)
            database.number = database.index

    def move_to(self, kept: KeptStore | None) -> None:
        """Remove every key; those that come next are elsewhere, or ``None``: on this server."""
        self.clear()
        self.kept = kept
        for database in self.databases.values():
            # Those who are connected have it, and are to find there what comes.
            database.shelf = self.shelf(database)

    def refuses_write(self, request_bytes: int) -> bool:
        """Whether a write of this size would exceed the job's quota or the server's memory."""
        spilling = self.keyspace.spilling
        if spilling is not None:
            return spilling.verdict(self, request_bytes) == FULL
        if self.exceeds_quota(request_bytes):
            return True
        keyspace = self.keyspace
        used_bytes = keyspace.used_bytes + keyspace.incoming_bytes + request_bytes
        if keyspace.store is not None:
            return keyspace.store_refuses(self.job_id, used_bytes, request_bytes)
        return used_bytes > keyspace.memory_bytes

    def lacks_room(self, request_bytes: int) -> bool:
        """`refuses_write`, once those keys have gone that may (see `key_eviction`)."""
        if not self.refuses_write(request_bytes):
            return False
        eviction = self.keyspace.eviction
        return eviction is None or not eviction.make_room(self, request_bytes)

    def refuses_large(self, size: int) -> bool:
        """The same of a string of this size, none of which will ever be in memory."""
        return self.exceeds_quota(size) or self.keyspace.refuses_large(self.job_id, size)

    def refuses_copied(self, size: int) -> bool:
        """The same of one that is moved here: whether the server will have no room for it."""
        spilling = self.keyspace.spilling
        if spilling is not None:
            # What is too much is moved out; the command waits for it.
            return None in spilling.stuck or size > self.keyspace.memory_bytes
        return self.keyspace.refuses_large(self.job_id, size)

    def exceeds_quota(self, size: int) -> bool:
        """Whether so much more would be more than the job may use here."""
        quota_bytes = self.quota_bytes
        if quota_bytes is None:
            return False
        return self.used_bytes + self.incoming_bytes - self.foreign_bytes + size > quota_bytes

    def refusal(self, request_bytes: int, large_bytes: int = 0) -> bytes:
        """What is said to a write that was just refused; `large_bytes` never are in memory."""
        keyspace = self.keyspace
        store = keyspace.store
        if store is None or not store.durable or keyspace.lacks_memory(request_bytes):
            return OUT_OF_MEMORY
        if self.exceeds_quota(request_bytes + large_bytes):
            return OUT_OF_MEMORY
        if store.journal(self.job_id).reserve(request_bytes + limits.RECORD_MARGIN_BYTES):
            return CAPACITY_USED
        code = b"OOM " if store.lacks_room else b"IOERR "
        return code + NO_WRITES + store.refusal.encode()


def _keys_between(database: Database, start: int, end: int) -> int:
    return sum(map(len, filter(None, database.tables[start : end + 1])))


class Keyspace:
    """All jobs of one server.

    Args:
        memory_bytes: What all jobs together may use.
        clock: The time, set by the server's shell.
        randomness: For RANDOMKEY, SPOP and the like.
        extents: Where large strings are kept; ``None``: in memory, as all others.
        store: What there is beside the memory.

    Attributes:
        capacity_bytes: What all jobs together may use of a durable store; ``None``: all of it.
        index_bytes: Memory of keys whose values may be elsewhere (see `Shelf`).
        residents: Collections in memory that could be left, by shelf and key, and whether each
            was used since somebody last looked; in the order in which they came.
        unwritten, writings: Shelves with changes that the store was not told; wholes under way.
        changes: How often something was changed that the store has to be told.
        evictions: Collections that were left to the store so far.
        memory_is_full: Whether memory is used up and nothing can be moved out any more.
        spilling, eviction: Decide what is moved out, and which keys go, where that was asked for.
        used_bytes, incoming_bytes: What all jobs use (see `JobSpace`).
        unfinished: Large strings that are being received.
        shedding, discarded: Collections and tables that nobody sees, to be freed in the background.
    """

    __slots__ = (
        "_freeing",
        "_freeing_journal",
        "capacity_bytes",
        "changes",
        "clock",
        "discarded",
        "eviction",
        "evictions",
        "extents",
        "incoming_bytes",
        "index_bytes",
        "memory_bytes",
        "memory_is_full",
        "randomness",
        "residents",
        "shedding",
        "spaces",
        "spilling",
        "store",
        "unfinished",
        "unwritten",
        "used_bytes",
        "writings",
    )

    def __init__(
        self,
        memory_bytes: int,
        clock: Clock,
        randomness: Randomness,
        extents: Extents | None = None,
        store: Store | None = None,
    ) -> None:
        self.store = store
        self.capacity_bytes: int | None = None
        self.index_bytes = 0
        self.residents: dict[tuple[Shelf, bytes], bool] = {}
        self.unwritten: list[Shelf] = []
        self.writings: list[Writing] = []
        self.memory_is_full = False
        self.changes = 0
        self.evictions = 0
        self.memory_bytes = memory_bytes
        self.used_bytes = 0
        self.incoming_bytes = 0
        self.extents = extents
        self.unfinished: WeakSet[ExtentSink] = WeakSet()
        self.clock = clock
        self.randomness = randomness
        self.spaces: dict[str, JobSpace] = {}
        self.spilling: Spilling | None = None
        self.eviction: KeyEviction | None = None
        if store is not None and not store.durable:
            self.spilling = Spilling(self)
        self.shedding: list[Collection] = []
        self.discarded: list[tuple[Table, Journal | None]] = []
        self._freeing: Table | None = None
        self._freeing_journal: Journal | None = None

    @property
    def uses(self) -> FrequencySketch | None:
        """How often keys are used, if anybody goes by that."""
        if self.spilling is not None:
            return self.spilling.uses
        return None if self.eviction is None else self.eviction.uses

    def evict_by(self, eviction: KeyEviction | None) -> None:
        """Have keys go from now on when memory is full, or none."""
        self.eviction = eviction
        for space in self.spaces.values():
            for database in space.databases.values():
                database.uses = self.uses

    def open(self, job_id: str) -> JobSpace:
        """The space of a job, made if it is new here."""
        space = self.spaces.get(job_id)
        if space is None:
            space = self.spaces[job_id] = JobSpace(self, job_id)
        return space

    def drop(self, job_id: str) -> None:
        """Forget a job with all of its keys."""
        space = self.spaces.pop(job_id, None)
        if space is not None:
            space.incoming.clear()
            space.clear()

    def refuses_large(self, job_id: str, size: int) -> bool:
        """Whether there is no room for a string of this size, none of which will be in memory."""
        used_bytes = self.used_bytes + self.incoming_bytes + size
        if self.store is None or not self.store.durable:
            return used_bytes > self.memory_bytes
        return self.store_refuses(job_id, used_bytes, 0)

    def refuses_copy(self, job_id: str, size: int) -> bool:
        """Whether there is no room for so much of a job that is copied here, quota or not."""
        used_bytes = self.used_bytes + self.incoming_bytes + size
        if self.store is None or not self.store.durable:
            return used_bytes > self.memory_bytes
        return self.store_refuses(job_id, used_bytes, size)

    def store_refuses(self, job_id: str, used_bytes: int, request_bytes: int) -> bool:
        """Whether there is no room for a write on the store, or none in memory for its key."""
        store = self.store
        assert store is not None  # The caller has looked.
        if self.lacks_memory(request_bytes):
            return True
        if not store.durable:
            # What is too much is moved out.
            return False
        if self.capacity_bytes is not None and used_bytes > self.capacity_bytes:
            return True
        return not store.journal(job_id).reserve(request_bytes + limits.RECORD_MARGIN_BYTES)

    def lacks_memory(self, request_bytes: int) -> bool:
        """Whether there is no room in memory for what is kept there of a write's keys."""
        return self.memory_is_full or self.index_bytes + request_bytes > self.memory_bytes

    def new_string(self, job_id: str) -> LargeString | None:
        """An empty string for what is too large for a table; ``None``: nothing is."""
        if self.extents is not None:
            return LargeString(self.extents, [], 0)
        return None if self.store is None else self.store.new_string(job_id)

    @property
    def keeps_large(self) -> bool:
        """Whether `new_string` gives any."""
        return self.extents is not None or (self.store is not None and self.store.keeps_large)

    def commit(self) -> None:
        """Have what was changed stand on the store, so that it can be acknowledged.

        Raises:
            OSError: It cannot be written now; the next call tries again.
        """
        store = self.store
        if store is None or not store.durable:
            return
        while self.unwritten:
            self.unwritten.pop().write_changes()
        if store.pending:
            store.commit()

    def discard(self, tables: list[Table], journal: Journal | None) -> None:
        """Leave tables that nobody sees any more to be freed in the background.

        Args:
            tables: The tables.
            journal: Where what their values take on a medium is to be given back.
        """
        self.discarded.extend([(table, journal) for table in tables])

    def expire_some(self) -> bool:
        """One slice of active expiry; whether there is more to do now."""
        left = limits.EXPIRE_KEYS_PER_SLICE
        for space in self.spaces.values():
            if not space.expires_actively or space.keeps_expired:
                continue
            for database in list(space.expiring):
                left -= database.expire_due(left)
                if left <= 0:
                    return True
        return False

    def free_some(self, effort_max: int) -> bool:
        """Free about so many discarded keys; whether there are more.

        A large value counts as the more keys the larger it is: unmapping it takes the system time.
        """
        while effort_max > 0 and self.shedding:
            effort_max -= _SHED_EFFORT
            if not self.shedding[-1].shed():
                self.shedding.pop()
        while effort_max > 0 and (self._freeing or self.discarded):
            if not self._freeing:
                self._freeing, self._freeing_journal = self.discarded.pop()
            table = self._freeing
            if self._freeing_journal is not None:
                effort_max -= release_some(table, self._freeing_journal, effort_max)
                continue
            first = next(iter(table.values()))
            if len(table) <= effort_max and effort_of(first) == 0:
                # Values of one slot are much of a size: nearly every table is freed here.
                effort_max -= len(table)
                self._freeing = None
                table.clear()
                continue
            while table and effort_max > 0:
                _, value = table.popitem()
                effort_max -= 1 + effort_of(value)
        return bool(self._freeing or self.discarded or self.shedding)
