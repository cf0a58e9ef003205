"""Moving slots of a job between two servers while clients use them: what both sides decide.

The source copies the keys of the slots (`Outgoing`) and notes what changes of what it has copied.
It sends that again, round after round, until little is left; then it holds commands on the slots
(`Hold`), sends the rest, and has the target take them. What the target has received and not taken
(`Incoming`) stands in the job's tables, where nobody sees it: its slots are not given to it.

Nothing here does I/O; `pocketkv.tiers.moves` carries moves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pocketkv.engine.cold import Cold
from pocketkv.engine.emptying import empty_range
from pocketkv.engine.large_string import NEVER_WRITTEN, LargeString
from pocketkv.engine.pauses import complete_with
from pocketkv.engine.values import Collection, Entry, value_cost
from pocketkv.resp.replies import Deferred, ErrorReply
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.pauses import Resume
    from pocketkv.engine.session import Session
    from pocketkv.placement import SlotMove

# What of a key changed.
_VALUE: Final = 1
_EXPIRY: Final = 2
# What a key takes to be sent and taken beside its bytes, told in bytes that take as long.
_KEY_OVERHEAD_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class MoveFigures:
    """What a server has moved, and how long commands were held for it.

    Attributes:
        sending, receiving: Moves under way.
        sent, received, failed: Moves that were carried out, or given up.
        sent_keys, sent_bytes, received_keys, received_bytes: What they had.
        holds: How often commands on slots were held.
        last_hold_s, max_hold_s, p99_hold_s: For how long; the last of the last thousand or so.
        lost_keys: Keys that had gone to a server which is no more.
    """

    sending: int
    receiving: int
    sent: int
    received: int
    failed: int
    sent_keys: int
    sent_bytes: int
    received_keys: int
    received_bytes: int
    holds: int
    last_hold_s: float
    max_hold_s: float
    p99_hold_s: float
    lost_keys: int


class Moves(Protocol):
    """What carries moves out, as the engine sees it."""

    def taken(self, job_id: str, move: SlotMove, keys: int, size: int) -> None:
        """Slots were taken over, with so many keys and bytes."""
        ...

    def figures(self) -> MoveFigures:
        """What was moved so far."""
        ...


class Held(Exception):  # noqa: N818 - no error: whoever meets it waits
    """A command concerns slots that are held; it has changed nothing yet.

    Attributes:
        hold: The hold.
    """

    def __init__(self, hold: Hold) -> None:
        super().__init__("the slots are held")
        self.hold = hold


class Hold:
    """Commands on a range of slots that wait until the slots have gone, or stay after all.

    Attributes:
        start, end: The slots, both included.
        held: The replies that wait, in the order of their commands, with what makes them.
    """

    __slots__ = ("_space", "end", "held", "refusal", "start")

    def __init__(self, space: JobSpace, start: int, end: int) -> None:
        self._space = space
        self.start = start
        self.end = end
        self.held: dict[Deferred, tuple[Session, list[bytes], Resume]] = {}
        # What is answered at once, when it has lasted for too long.
        self.refusal = b""
        space.holds.append(self)
        space.serve_range(start, end, served=False)

    def __len__(self) -> int:
        return self.end - self.start + 1

    def keep(self, session: Session, request: list[bytes], resume: Resume) -> Deferred:
        """Keep a command until the hold is over; `resume` then executes it."""
        held = self.held

        def forget() -> None:
            held.pop(deferred, None)

        deferred = Deferred(exclusive=True, on_abandon=forget)
        if self.refusal:
            deferred.complete(ErrorReply(self.refusal))
        else:
            held[deferred] = (session, request, resume)
        return deferred

    def refuse(self, text: bytes) -> None:
        """Answer what waits, and what comes, with an error: it cannot be said when this ends."""
        self.refusal = text
        waiting, self.held = self.held, {}
        for deferred in waiting:
            deferred.complete(ErrorReply(text))

    def release(self) -> None:
        """End it: what was held is executed, in order, by whoever has the slots now."""
        self._space.holds.remove(self)
        self._space.serve_range(self.start, self.end, served=True)
        for deferred, (session, request, resume) in list(self.held.items()):
            # One of those before it may have closed this one's connection.
            if self.held.pop(deferred, None) is not None:
                reply = resume(session, request)
                failure = session.node.commit()
                complete_with(deferred, reply if failure is None else failure)


class Outgoing:
    """Slots that this server is moving to another one.

    Args:
        space: The job.
        move: What is ordered.

    Attributes:
        was_cleared: Whether a database was emptied, so that the copy is worth nothing.
        is_held: Whether commands on the slots are held, so that nothing changes but by itself.
    """

    __slots__ = (
        "_dirty",
        "_queue",
        "_reached",
        "_tracked",
        "end",
        "is_held",
        "move",
        "space",
        "start",
        "was_cleared",
    )

    def __init__(self, space: JobSpace, move: SlotMove) -> None:
        self.is_held = False
        self.space = space
        self.move = move
        self.start = move.start
        self.end = move.end
        # Values of which changes are sent instead of the whole.
        self._tracked: dict[tuple[int, bytes], Collection | LargeString] = {}
        self.begin()
        space.observe(self)

    def begin(self) -> None:
        """Copy from the beginning."""
        self._forget_tracked()
        self._dirty: dict[tuple[int, bytes], int] = {}
        # The keys that are copied next, of the slot that was reached: changes of later slots need
        # no note, since what they are then is copied.
        self._queue: list[tuple[Database, list[bytes]]] = []
        self._reached = self.start - 1
        self.was_cleared = False

    def close(self) -> None:
        """It is over, one way or the other."""
        self.space.unobserve(self)
        self._forget_tracked()

    def _forget_tracked(self) -> None:
        for (index, key), value in self._tracked.items():
            # It may have been made anew in another place.
            for held in (value, self.space.database(index).find_stored(key)):
                if isinstance(held, Collection):
                    held.changes = None
        self._tracked = {}

    # --- changes -------------------------------------------------------------------------------

    def changed(self, database: Database, key: bytes, slot: int) -> None:
        """A key is another, or no more."""
        if self.start <= slot <= self._reached:
            self._dirty[database.index, key] = _VALUE

    def noted(self, database: Database, key: bytes, slot: int) -> None:
        """What a value notes of its readers is a part of it."""
        self.changed(database, key, slot)

    def expiry_changed(self, database: Database, key: bytes, slot: int) -> None:
        """A key expires at another time."""
        if self.start <= slot <= self._reached:
            self._dirty.setdefault((database.index, key), _EXPIRY)

    def cleared(self, database: Database) -> None:
        """A database is empty."""
        self.was_cleared = True

    def left(self, space: JobSpace, start: int, end: int) -> None:
        """Slots have gone; these or others."""

    # --- what to send --------------------------------------------------------------------------

    def next_copied(self) -> tuple[Database, bytes] | None:
        """The next key to be copied; ``None`` if there are no more."""
        while True:
            while self._queue:
                database, keys = self._queue[-1]
                if keys:
                    return database, keys.pop()
                self._queue.pop()
            if self._reached >= self.end:
                return None
            self._reached = min(self._next_occupied(), self.end)
            for database in self.space.databases.values():
                self._queue.append((database, list(database.tables[self._reached] or ())))

    def _next_occupied(self) -> int:
        """The next slot that has keys in any database."""
        found = self.end + 1
        for database in self.space.databases.values():
            slot = database.next_occupied(self._reached + 1)
            if 0 <= slot < found:
                found = slot
        return found

    def take_dirty(self) -> list[tuple[Database, bytes, bool]]:
        """What changed since it was copied; of each whether it was more than its expiry."""
        dirty, self._dirty = self._dirty, {}
        databases = self.space.databases
        return [(databases[db], key, what == _VALUE) for (db, key), what in dirty.items()]

    def put_back(self, rest: list[tuple[Database, bytes, bool]]) -> None:
        """Some of `take_dirty` was not sent."""
        for database, key, is_value in rest:
            place = (database.index, key)
            self._dirty[place] = min(
                self._dirty.get(place, _EXPIRY), _VALUE if is_value else _EXPIRY
            )

    def dirty_bytes(self, bytes_max: int) -> int:
        """About what it takes to send all that is dirty, if it is no more than `bytes_max`."""
        size = 0
        for place, what in self._dirty.items():
            size += _KEY_OVERHEAD_BYTES + len(place[1])
            if what == _VALUE:
                entry = self.space.databases[place[0]].find_stored(place[1])
                if entry is not None:
                    size += self._size_of(place, entry)
            if size > bytes_max:
                break
        return size

    def _size_of(self, place: tuple[int, bytes], entry: Entry) -> int:
        if self._tracked.get(place) is entry:
            if isinstance(entry, LargeString):
                return max(0, len(entry) - entry.written_from)
            if entry.changes is not None:
                return sum(map(len, entry.changes))
        if isinstance(entry, Cold):
            return entry.length
        return value_cost(entry)

    # --- values of which only changes are sent again -------------------------------------------

    def track(self, database: Database, key: bytes, entry: Collection | LargeString) -> None:
        """From now on note what is changed of a value: all of it is about to be sent."""
        if isinstance(entry, LargeString):
            entry.written_from = NEVER_WRITTEN
        elif database.shelf is not None and database.shelf.durable:
            # Its changes are the journal's.
            return
        else:
            entry.changes = []
        self._tracked[database.index, key] = entry

    def changes_of(self, database: Database, key: bytes, entry: Entry) -> list[bytes] | None:
        """What was changed of a collection that is tracked; ``None``: all of it has to be sent."""
        if not isinstance(entry, Collection) or entry.changes is None:
            return None
        if self._tracked.get((database.index, key)) is not entry:
            return None
        changes = entry.changes
        entry.changes = []
        return changes

    def written_from(self, database: Database, key: bytes, string: LargeString) -> int:
        """From where on a large string was changed since it was sent; 0: all of it."""
        if self._tracked.get((database.index, key)) is not string:
            return 0
        return min(string.written_from, len(string))


class Incoming:
    """Slots that another server is moving here, as far as they have come.

    Args:
        space: The job.
        move: What is ordered.

    Attributes:
        failure: Why it cannot be taken, as an error with its code; empty: so far it can.
        bytes_held: What was accounted to the job for it.
    """

    __slots__ = ("bytes_held", "end", "failure", "move", "space", "start")

    def __init__(self, space: JobSpace, move: SlotMove) -> None:
        self.space = space
        self.move = move
        self.start = move.start
        self.end = move.end
        self.failure = b""
        self.bytes_held = 0
        space.incoming[move.id] = self

    def __len__(self) -> int:
        return self.end - self.start + 1

    def received(self, grown_bytes: int) -> None:
        """The job uses so much more for it."""
        self.bytes_held += grown_bytes
        self.space.foreign_bytes += grown_bytes

    def take(self) -> int:
        """Serve the slots from now on; how many keys they have."""
        self._end()
        return self.space.give(self.start, self.end, given=True)

    def drop(self) -> None:
        """Forget what has come; it is removed in the background, before the slots are served."""
        self._end()
        empty_range(self.space, self.start, self.end)

    def _end(self) -> None:
        space = self.space
        del space.incoming[self.move.id]
        space.foreign_bytes -= self.bytes_held
        for place in list(space.adopting):
            if self.start <= key_slot(place[1]) <= self.end:
                del space.adopting[place]
