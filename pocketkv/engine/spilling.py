"""Which values leave memory for a slower medium, when, and when they come back.

Nothing moves below a mark. Above it, so much is moved that memory is at a lower mark again: of a
random sample of what could be moved, what was used least lately, as `frequency` tells; so one pass
over many keys that are used once moves none of those that are used again and again. A value comes
back for good if it was used more than what was moved out lately, and memory is below the mark;
what is above it makes room by what is used less. A job's quota has the same marks, for its values.

What counts as memory is what is accounted to jobs and, since that is an estimate, what the system
says beyond it, though no more than a part: what the allocator keeps after values were moved out is
no reason to move more.

Whoever wants to write while there is no room waits, as long as values are being moved out, and for
no longer than a while. Nothing here does I/O; `pocketkv.tiers.spill` moves what is picked here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final

from pocketkv.engine.cold import SPILLED_BYTES, Cold
from pocketkv.engine.errors import OUT_OF_MEMORY, CommandError
from pocketkv.engine.frequency import FrequencySketch
from pocketkv.engine.pauses import complete_with
from pocketkv.engine.values import Entry, value_cost
from pocketkv.resp.replies import Deferred, ErrorReply
from pocketkv.slots import SLOT_COUNT, key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database, Table
    from pocketkv.engine.keyspace import JobSpace, Keyspace
    from pocketkv.engine.pauses import Resume
    from pocketkv.engine.session import Session
    from pocketkv.engine.shelf import Shelf

HIGH_SHARE: Final = 0.85
"""Of memory, or of a job's quota: above this values are moved out ..."""

LOW_SHARE: Final = 0.80
"""... until it is here."""

VALUE_BYTES_MIN: Final = 256
"""Smaller values stay: what is kept of one that was moved takes half of that."""

RESIDENT_KEYS_MIN: Final = 16
"""So many keys of a job stay, unless they are large: moving the last ones would be thrashing."""

WAIT_MAX_S: Final = 10.0
"""How long a command waits for room before it is refused."""

# A key that stays although memory is needed may have such a part of it.
_SMALL_SHARE: Final = 1 / 64
# So much more than the memory is written by transactions and scripts, which cannot wait.
_TOLERATED_SHARE: Final = 1 / 32
# What is resident beyond what is accounted counts up to this part of what is accounted.
_OVERHEAD_SHARE: Final = 1 / 3
# The sketch has a counter in each row for so many bytes of memory.
_BYTES_PER_SLOT: Final = 1024
# So many times what is needed is looked at, for the least used of it to be moved.
_SAMPLE_RATIO: Final = 4
_SAMPLE_KEYS_MIN: Final = 32
# What was drawn and did not leave is looked at again the next time, up to so many.
_POOL_KEYS: Final = 256
# Draws of a slot, beyond which a sample is as large as it gets.
_DRAWS_MAX: Final = 2048
# Keys of one slot that are looked at in one draw: of a large table more, since to get to a place
# in the middle of it takes long.
_WINDOW_KEYS: Final = 64
_LARGE_TABLE_KEYS: Final = 4096
_LARGE_WINDOW_KEYS: Final = 1024
# By how much one value that is moved shifts what counts as seldom used.
_LEVEL_WEIGHT: Final = 1 / 64
# A value comes back if it was used by so much more often than what was moved out.
_LEVEL_MARGIN: Final = 1.0

ROOM: Final = 0
WAIT: Final = 1
FULL: Final = 2

_NO_ROOM_YET: Final = b"values could not be moved to the spill medium fast enough"
_NOTHING_TO_MOVE: Final = b"nothing that is left in memory can be moved to the spill medium"


class NoRoom(Exception):  # noqa: N818 - no error: whoever meets it waits
    """A command needs memory that is about to be made; it has changed nothing yet.

    Attributes:
        size: How much it needs.
    """

    def __init__(self, size: int) -> None:
        super().__init__("there is no room yet")
        self.size = size


class Victim:
    """A value that is to leave memory.

    Attributes:
        shelf, key, entry: Where it is, and what it was when it was picked.
        size: What moving it frees.
        uses: How often it was used lately.
    """

    __slots__ = ("entry", "idle_since_s", "key", "shelf", "size", "uses")

    def __init__(self, shelf: Shelf, key: bytes, entry: Entry, size: int, uses: int) -> None:
        self.shelf = shelf
        self.key = key
        self.entry = entry
        self.size = size
        self.uses = uses
        self.idle_since_s = 0

    @property
    def job_id(self) -> str:
        """Whose it is."""
        return self.shelf.db.space.job_id


class _Limit:
    """What was moved out for the sake of one limit, memory's or a job's quota.

    Attributes:
        hot_bytes: Of values that are used more than those, and found no room to come back.
    """

    __slots__ = ("_ages", "_level", "hot_bytes")

    def __init__(self) -> None:
        self.hot_bytes = 0
        # About how often what was moved out lately had been used, as of so many halvings.
        self._level = 0.0
        self._ages = 0

    def note(self, uses: int, ages: int) -> None:
        """A value that was used so often is moved out."""
        self._level = self.seldom(ages) + (uses - self._level) * _LEVEL_WEIGHT

    def seldom(self, ages: int) -> float:
        """About how often what was moved out lately had been used.

        Args:
            ages: How often all counts of uses were halved so far.
        """
        if self._ages != ages:
            # The uses that are compared with it were halved as well.
            self._level /= 1 << min(ages - self._ages, 8)
            self._ages = ages
        return self._level

    def excess(self, used_bytes: int, limit_bytes: int, wanted_bytes: int) -> int:
        """How much has to leave; what is used more takes the place of what is used less."""
        excess = _excess(used_bytes, limit_bytes, wanted_bytes)
        hot_bytes, self.hot_bytes = self.hot_bytes, 0
        if hot_bytes:
            excess = max(excess, min(hot_bytes, used_bytes - int(LOW_SHARE * limit_bytes)))
        return excess


class Spilling:
    """What a server with a spill medium has to decide, and who waits for it.

    Args:
        keyspace: The server's.

    Attributes:
        uses: How often keys were used.
        reason: Why nothing can be moved out now; empty if it can.
        stuck: Jobs of which nothing can be moved; ``None`` in it: nothing of any.
        overhead_bytes: What is resident beyond what is accounted.
        reads: Large values that are on their way back.
        on_pressed: Called when somebody has to wait, and whether for the server's memory and not
            just for a quota.
    """

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self.uses = FrequencySketch(keyspace.memory_bytes // _BYTES_PER_SLOT)
        self.reason = b""
        self.stuck: set[str | None] = set()
        self.overhead_bytes = 0
        self.reads = 0
        self.on_pressed: Callable[[bool], None] = _nothing
        # Of memory, and by job id of quotas.
        self._memory = _Limit()
        self._quotas: dict[str, _Limit] = {}
        self._pool: list[tuple[Shelf, bytes]] = []
        self._waiting: deque[_Held] = deque()
        self._resumed: _Held | None = None

    # --- how much memory is used ---------------------------------------------------------------

    @property
    def accounted_bytes(self) -> int:
        """What is accounted to all jobs, with what is being received for them."""
        return self.keyspace.used_bytes + self.keyspace.incoming_bytes

    @property
    def pressure_bytes(self) -> int:
        """What counts as used of the server's memory."""
        accounted_bytes = self.accounted_bytes
        return accounted_bytes + min(self.overhead_bytes, int(accounted_bytes * _OVERHEAD_SHARE))

    def measure(self, resident_bytes: int) -> None:
        """Take in what the system says that all values take."""
        self.overhead_bytes = max(0, resident_bytes - self.accounted_bytes)

    def excess(self) -> list[tuple[str | None, list[JobSpace], int]]:
        """Of which jobs how much has to leave memory now: those over their quotas, then all.

        Returns:
            For each the job's id, ``None`` for all; what belongs to it; and how much.
        """
        found: list[tuple[str | None, list[JobSpace], int]] = []
        spaces = list(self.keyspace.spaces.values())
        for space in spaces:
            quota_bytes = space.quota_bytes
            if quota_bytes is None:
                continue
            used_bytes = space.used_bytes + space.incoming_bytes
            excess = self._limit_of(space.job_id).excess(
                used_bytes, quota_bytes, self._wanted_by(space)
            )
            if excess > 0:
                found.append((space.job_id, [space], excess))
        if found:
            # What leaves for them leaves memory, too.
            self._memory.hot_bytes = 0
        excess = self._memory.excess(
            self.pressure_bytes, self.keyspace.memory_bytes, self._wanted_by(None)
        )
        if excess > 0:
            found.append((None, spaces, excess))
        return found

    def _limit_of(self, scope: str | None) -> _Limit:
        """What is known of a job's quota, or of memory."""
        if scope is None:
            return self._memory
        limit = self._quotas.get(scope)
        if limit is None:
            # Those of jobs that have ended are of no use.
            spaces = self.keyspace.spaces
            self._quotas = {name: one for name, one in self._quotas.items() if name in spaces}
            limit = self._quotas[scope] = _Limit()
        return limit

    def _wanted_by(self, space: JobSpace | None) -> int:
        """The most that a waiting command needs: of a job, or of any."""
        return max(
            (
                held.size
                for held in self._waiting
                if not held.gone and (space is None or held.session.space is space)
            ),
            default=0,
        )

    # --- what is to leave ----------------------------------------------------------------------

    def pick(
        self, spaces: list[JobSpace], wanted_bytes: int, scope: str | None = None
    ) -> list[Victim]:
        """The values that should leave memory first, about so much of them; none if none can.

        They are marked (`Shelf.spilling`) until they are moved, changed, or left.

        Args:
            spaces: The jobs that they are looked for in.
            wanted_bytes: How much is to leave.
            scope: For the sake of which job's quota; ``None``: of memory.
        """
        limit, ages = self._limit_of(scope), self.uses.ages
        sample = self._sample(spaces, wanted_bytes)
        sample.sort(key=_worth)
        picked: list[Victim] = []
        resident = {id(space): _resident_keys(space) for space in spaces}
        for victim in sample:
            if wanted_bytes <= 0:
                break
            space = victim.shelf.db.space
            if not self._may_leave(space, victim, resident[id(space)]):
                continue
            resident[id(space)] -= 1
            wanted_bytes -= victim.size
            limit.note(victim.uses, ages)
            victim.shelf.spilling[victim.key] = victim
            picked.append(victim)
        # What is left of the sample needs no drawing the next time.
        left = sample[len(picked) : len(picked) + _POOL_KEYS]
        self._pool = [(victim.shelf, victim.key) for victim in left]
        return picked

    def _may_leave(self, space: JobSpace, victim: Victim, resident: int) -> bool:
        limit_bytes = self.keyspace.memory_bytes
        if space.quota_bytes is not None:
            limit_bytes = min(limit_bytes, space.quota_bytes)
        return resident > RESIDENT_KEYS_MIN or victim.size > limit_bytes * _SMALL_SHARE

    def _sample(self, spaces: list[JobSpace], wanted_bytes: int) -> list[Victim]:
        """Values that could leave, drawn at random, some times as much as is wanted."""
        databases = [db for space in spaces for db in space.databases.values() if db.size]
        weights = [db.size for db in databases]
        total = sum(weights)
        seen: set[tuple[int, bytes]] = set()
        sample = self._pooled(spaces, seen)
        ratio = _SAMPLE_RATIO / 2 if sample else _SAMPLE_RATIO
        size = 0
        for _ in range(_DRAWS_MAX if total else 0):
            db = _drawn(databases, weights, self.keyspace.randomness.randrange(total))
            for victim in self._drawn_from(db, seen):
                sample.append(victim)
                size += victim.size
            if size >= ratio * wanted_bytes and len(sample) >= _SAMPLE_KEYS_MIN:
                break
            if len(seen) >= total:
                break
        return sample

    def _pooled(self, spaces: list[JobSpace], seen: set[tuple[int, bytes]]) -> list[Victim]:
        """What was drawn the last time, and did not leave."""
        pool, self._pool = self._pool, []
        found: list[Victim] = []
        for shelf, key in pool:
            db = shelf.db
            place = (id(db), key)
            if db.shelf is not shelf or db.space not in spaces or place in seen:
                continue
            entry = db.find_stored(key)
            if entry is not None:
                seen.add(place)
                self._consider(found, db, key, entry, key_slot(key))
        return found

    def _consider(
        self, found: list[Victim], db: Database, key: bytes, entry: Entry, slot: int
    ) -> None:
        """Add a value to those that could leave, if it could."""
        size = _freed_bytes(entry)
        shelf = db.shelf
        assert shelf is not None  # A server that spills has a store.
        if size > 0 and key not in shelf.spilling:
            victim = Victim(shelf, key, entry, size, self.uses.estimate(key, db.salt))
            victim.idle_since_s = db.accessed_s[slot]
            found.append(victim)

    def _drawn_from(self, db: Database, seen: set[tuple[int, bytes]]) -> list[Victim]:
        """What could leave of a slot that is drawn at random."""
        slot = db.next_occupied(self.keyspace.randomness.randrange(SLOT_COUNT))
        if slot < 0:
            slot = db.next_occupied(0)
        found: list[Victim] = []
        for key, entry in _window(db.table(slot), self.keyspace):
            place = (id(db), key)
            if place in seen:
                continue
            seen.add(place)
            if type(entry) is not Cold:
                self._consider(found, db, key, entry, slot)
        return found

    def drop_clean(self, wanted_bytes: int) -> int:
        """Leave values that the medium has anyway, those first that came first; how much it was."""
        residents = self.keyspace.residents
        freed_bytes = 0
        for shelf, key in list(residents):
            if freed_bytes >= wanted_bytes:
                break
            freed_bytes += shelf.drop_clean(key)
        return freed_bytes

    # --- what is to come back ------------------------------------------------------------------

    def wants_back(self, db: Database, key: bytes, value: Entry) -> bool:
        """Whether a value that was moved out, and has just been read, should stay in memory."""
        size = value_cost(value)
        uses, ages = self.uses.estimate(key, db.salt), self.uses.ages
        space = db.space
        limits = [(self._memory, self.pressure_bytes + size, self.keyspace.memory_bytes)]
        if space.quota_bytes is not None:
            used_bytes = space.used_bytes + space.incoming_bytes + size
            limits.append((self._limit_of(space.job_id), used_bytes, space.quota_bytes))
        if uses <= 1 or any(
            used_bytes > LOW_SHARE * limit_bytes and uses <= limit.seldom(ages) + _LEVEL_MARGIN
            for limit, used_bytes, limit_bytes in limits
        ):
            return False
        has_room = True
        for limit, used_bytes, limit_bytes in limits:
            if used_bytes > HIGH_SHARE * limit_bytes:
                limit.hot_bytes += size
                has_room = False
        return has_room

    def admit_read(self, size: int) -> None:
        """Make room for a large value that comes back.

        One at a time may go beyond what there is: it is left again as soon as it was answered.

        Raises:
            NoRoom: There is none yet.
        """
        lacking = self.accounted_bytes + size - self.keyspace.memory_bytes
        if lacking > 0 and self.drop_clean(lacking) < lacking and self.reads:
            raise NoRoom(size)

    # --- who has to wait -----------------------------------------------------------------------

    def verdict(self, space: JobSpace, request_bytes: int) -> int:
        """Whether there is `ROOM` for a write, or a reason to `WAIT`, or everything is `FULL`."""
        keyspace = self.keyspace
        quota_bytes = space.quota_bytes
        over_quota = space.exceeds_quota(request_bytes)
        over = self.accounted_bytes + request_bytes > keyspace.memory_bytes
        if not over and not over_quota:
            return ROOM
        if over and (request_bytes > keyspace.memory_bytes or None in self.stuck):
            return FULL
        if over_quota:
            assert quota_bytes is not None
            if request_bytes > quota_bytes or self.stuck & {None, space.job_id}:
                return FULL
        self.on_pressed(over)
        return WAIT

    def tolerates(self, request_bytes: int) -> bool:
        """Whether so much may be written by what cannot wait: a little more than there is room."""
        memory_bytes = self.keyspace.memory_bytes
        return self.accounted_bytes + request_bytes <= memory_bytes * (1 + _TOLERATED_SHARE)

    def refusal(self, space: JobSpace, request_bytes: int) -> CommandError:
        """The answer to a write of this size that finds no room anywhere."""
        quota_bytes = space.quota_bytes
        limit_bytes = self.keyspace.memory_bytes
        if quota_bytes is not None:
            limit_bytes = min(limit_bytes, quota_bytes)
        if request_bytes > limit_bytes and not self.stuck:
            return CommandError(OUT_OF_MEMORY)
        reason = self.reason or _NOTHING_TO_MOVE
        return CommandError(b"OOM command not allowed: memory is used up, and " + reason)

    def hold(self, session: Session, request: list[bytes], resume: Resume, size: int) -> Deferred:
        """Keep a command until there is room for so much; `resume` then executes it."""
        now_ms = session.node.clock.now_ms
        held = _Held(session, request, resume, now_ms)
        held.size = size
        if self._resumed is not None and self._resumed.request is request:
            held.since_ms = self._resumed.since_ms
        if self._is_late(held, now_ms):
            self._refuse(held)
        else:
            self._waiting.append(held)
        return held.deferred

    @property
    def waiting(self) -> int:
        """How many commands wait for room."""
        return len(self._waiting)

    def release(self, now_ms: int) -> None:
        """Execute what waited and finds room now, and refuse what has waited for too long."""
        for _ in range(len(self._waiting)):
            held = self._waiting.popleft()
            if held.gone:
                continue
            if self.verdict(held.session.space, held.size) != WAIT or self._is_late(held, now_ms):
                self._resumed = held
                try:
                    complete_with(held.deferred, held.resume(held.session, held.request))
                finally:
                    self._resumed = None
            else:
                self._waiting.append(held)

    def _is_late(self, held: _Held, now_ms: int) -> bool:
        return now_ms - held.since_ms > WAIT_MAX_S * 1000

    def _refuse(self, held: _Held) -> None:
        """A command has waited for too long."""
        held.session.space.stats.refused_oom += 1
        reason = self.reason or _NO_ROOM_YET
        text = b"OOM command not allowed: no room within %d s: %b" % (int(WAIT_MAX_S), reason)
        held.deferred.complete(ErrorReply(text))


class _Held:
    """A command that waits for room."""

    __slots__ = ("deferred", "gone", "request", "resume", "session", "since_ms", "size")

    def __init__(
        self, session: Session, request: list[bytes], resume: Resume, since_ms: int
    ) -> None:
        self.session = session
        self.request = request
        self.resume = resume
        self.since_ms = since_ms
        self.size = 0
        self.gone = False
        self.deferred = Deferred(exclusive=True, on_abandon=self._abandon)

    def _abandon(self) -> None:
        """The client is gone; what it sent must not stay in memory."""
        self.gone = True
        self.request = []


def _nothing(is_memory: bool) -> None:
    """What is called where nobody listens."""


def _excess(used_bytes: int, limit_bytes: int, wanted_bytes: int) -> int:
    """How much has to leave, so that what is used is at the lower mark, and who waits finds room.

    Nothing below the upper mark, unless somebody waits.
    """
    lacking = used_bytes + wanted_bytes - limit_bytes if wanted_bytes else 0
    if used_bytes > HIGH_SHARE * limit_bytes:
        return max(lacking, used_bytes - int(LOW_SHARE * limit_bytes))
    return max(lacking, 0)


def _worth(victim: Victim) -> tuple[int, int]:
    """What leaves first: what was used least; of that, what was not used for longest."""
    return victim.uses, victim.idle_since_s


def _freed_bytes(entry: Entry) -> int:
    """What moving a value frees; 0: it stays."""
    if isinstance(entry, Cold):
        return 0
    size = value_cost(entry)
    return size - SPILLED_BYTES if size >= VALUE_BYTES_MIN else 0


def _resident_keys(space: JobSpace) -> int:
    return sum(db.size for db in space.databases.values()) - space.spilled_keys


def _drawn(databases: list[Database], weights: list[int], number: int) -> Database:
    for db, weight in zip(databases, weights, strict=True):
        number -= weight
        if number < 0:
            return db
    raise ValueError("a number beyond all weights")


def _window(table: Table, keyspace: Keyspace) -> list[tuple[bytes, Entry]]:
    """Some of a table's keys with what they hold, from a random place on."""
    count = len(table)
    if count <= _WINDOW_KEYS:
        return list(table.items())
    size = _WINDOW_KEYS if count <= _LARGE_TABLE_KEYS else _LARGE_WINDOW_KEYS
    first = keyspace.randomness.randrange(max(1, count - size + 1))
    return list(islice(table.items(), first, first + size))
