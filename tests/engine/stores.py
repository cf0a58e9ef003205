"""A durable store in memory, as strict as a real one, and slow to read when it is told to be.

It stands in for the files of `pocketkv.tiers` where a test is about the engine alone; the tests of
the file tiers run the same commands on real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pocketkv.engine.cold import CARRIED, CHANGE, CLEAR, DELETE, EXPIRE, PART, Cold, PendingRead
from pocketkv.engine.errors import CommandError
from pocketkv.engine.fetching import Done
from pocketkv.engine.keyspace import Keyspace
from pocketkv.engine.replay import Replay
from pocketkv.engine.writing import next_writing


@dataclass(slots=True)
class Record:
    """What was written."""

    kind: int
    db: int
    key: bytes
    payload: bytes
    due_ms: int


class MemoryJournal:
    """One job's records."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.records: list[Record] = []
        # Committed; what comes after them would be lost.
        self.committed = 0
        self.live: set[Cold] = set()
        self.has_room = True

    def reserve(self, size: int) -> bool:
        return self.has_room

    def _append(self, kind: int, db: int, key: bytes, payload: bytes, due_ms: int) -> Cold:
        self.records.append(Record(kind, db, bytes(key), bytes(payload), due_ms))
        self.store.pending = True
        return self.stub(len(self.records) - 1)

    def stub(self, number: int) -> Cold:
        record = self.records[number]
        size = len(record.payload)
        return Cold(record.kind, size, self, number, 40 + len(record.key) + size)

    def put(self, db: int, key: bytes, kind: int, payload: bytes, due_ms: int) -> Cold:
        cold = self._append(kind, db, key, payload, due_ms)
        self.live.add(cold)
        return cold

    def change(self, db: int, key: bytes, payload: bytes) -> Cold:
        cold = self._append(CHANGE, db, key, payload, 0)
        self.live.add(cold)
        return cold

    def part(self, db: int, key: bytes, kind: int, payload: bytes, group: int) -> Cold:
        assert kind in (PART, CARRIED)
        cold = self._append(kind, db, key, payload, group)
        self.live.add(cold)
        return cold

    def delete(self, db: int, key: bytes) -> None:
        self._append(DELETE, db, key, b"", 0)

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        self._append(EXPIRE, db, key, b"", due_ms)

    def clear(self, db: int) -> None:
        self._append(CLEAR, db, b"", b"", 0)

    def read_now(self, cold: Cold) -> bytes | None:
        return None if self.store.is_slow else self.read(cold)

    def try_read(self, cold: Cold) -> bytes | None:
        return self.read_now(cold)

    def read(self, cold: Cold) -> bytes:
        assert cold in self.live
        if cold in self.store.damaged:
            raise CommandError(b"IOERR damaged")
        return self.records[cold.offset].payload

    def release(self, cold: Cold) -> None:
        self.live.remove(cold)


class MemoryStore:
    """Journals by job.

    Attributes:
        is_slow: Whether nothing can be read without waiting.
        error: What a commit raises.
        damaged: Records that cannot be read.
    """

    durable = True
    keeps_large = False
    change_bytes = 4096
    refusal = "No space left on device"
    lacks_room = True

    def __init__(self, *, is_slow: bool = False) -> None:
        self.is_slow = is_slow
        self.journals: dict[str, MemoryJournal] = {}
        self.pending = False
        self.error: OSError | None = None
        self.damaged: set[Cold] = set()

    def journal(self, job_id: str) -> MemoryJournal:
        return self.journals.setdefault(job_id, MemoryJournal(self))

    def new_string(self, job_id: str) -> None:
        return None

    def drop(self, job_id: str) -> None:
        self.journals.pop(job_id, None)

    def commit(self) -> None:
        if self.error is not None:
            raise self.error
        for journal in self.journals.values():
            journal.committed = len(journal.records)
        self.pending = False

    def replay(self, job_id: str, source: MemoryJournal) -> Callable[[Replay], None]:
        """What tells the committed records of another store's journal, which become this one's."""
        journal = self.journal(job_id)
        journal.records = source.records[: source.committed]
        journal.committed = len(journal.records)

        def tell(visitor: Replay) -> None:
            for number, record in enumerate(journal.records):
                cold = journal.stub(number)
                if record.kind == DELETE:
                    visitor.delete(record.db, record.key)
                elif record.kind == EXPIRE:
                    visitor.expire(record.db, record.key, record.due_ms)
                elif record.kind == CLEAR:
                    visitor.clear(record.db)
                else:
                    journal.live.add(cold)
                    if record.kind == CHANGE:
                        visitor.change(record.db, record.key, cold)
                    elif record.kind in (PART, CARRIED):
                        visitor.part(record.db, record.key, cold, record.due_ms)
                    else:
                        visitor.put(record.db, record.key, record.kind, cold, record.due_ms)

        return tell


def write_some(keyspace: Keyspace, steps_max: int = 1 << 30) -> int:
    """Take steps of writing collections whole, while there are any; how many it were."""
    steps = 0
    while steps < steps_max and (writing := next_writing(keyspace)) is not None:
        record = writing.source()
        try:
            payload = None if record is None else writing.shelf.journal.read(record)
        except CommandError:
            writing.end()
            continue
        if not writing.step(payload):
            break
        steps += 1
    return steps


def fetch_at_once(reads: list[PendingRead], done: Done) -> None:
    """A fetcher that does not make anybody wait."""
    done(list(_results(reads)))


def _results(reads: list[PendingRead]) -> Iterator[bytes | CommandError]:
    for read in reads:
        try:
            yield read.read()
        except CommandError as error:
            yield error
