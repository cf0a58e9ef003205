"""What stands for the engine in tests of the volume: tables of keys, by their records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pocketkv.engine.cold import STRING, Cold
from pocketkv.engine.errors import CommandError
from pocketkv.tiers.volume.layout import LAYOUTS, Layout
from pocketkv.tiers.volume.segment import Segment
from pocketkv.tiers.volume.volume import Volume

SMALL = replace(LAYOUTS["nvme"], segment_bytes=4096, collect_bytes=1024, open_files_max=4)

Name = tuple[str, int, bytes]


@dataclass
class Entry:
    base: Cold
    due_ms: int
    changes: list[Cold] = field(default_factory=list)


class Table:
    """Keys of all jobs; implements what the volume asks an engine, and what replay tells it.

    Args:
        directory: Of the volume.
        layout: Of the volume.
        capacity_bytes: Of the volume.
        fresh: Whether the volume is emptied first.
    """

    def __init__(
        self,
        directory: Path,
        *,
        layout: Layout = SMALL,
        capacity_bytes: int | None = None,
        fresh: bool = False,
    ) -> None:
        self.entries: dict[Name, Entry] = {}
        self.volume = Volume(
            directory, index=self, capacity_bytes=capacity_bytes, layout=layout, fresh=fresh
        )
        for job in self.volume.jobs():
            self.volume.replay(job, JobVisitor(self, job))

    # --- what commands do ----------------------------------------------------------------------

    def put(self, job: str, db: int, key: bytes, value: bytes, due_ms: int = 0) -> None:
        self.take(job, db, key, self.volume.open(job).put(db, key, STRING, value, due_ms), due_ms)

    def change(self, job: str, db: int, key: bytes, value: bytes) -> None:
        self.entries[job, db, key].changes.append(self.volume.open(job).change(db, key, value))

    def delete(self, job: str, db: int, key: bytes) -> None:
        self.volume.open(job).delete(db, key)
        self.discard((job, db, key))

    def expire(self, job: str, db: int, key: bytes, due_ms: int) -> None:
        self.volume.open(job).expire(db, key, due_ms)
        self.entries[job, db, key].due_ms = due_ms

    def clear(self, job: str, db: int) -> None:
        self.volume.open(job).clear(db)
        self.discard_all(job, db)

    def drop(self, job: str) -> None:
        self.volume.drop(job)
        for name in [name for name in self.entries if name[0] == job]:
            del self.entries[name]

    def value(self, job: str, db: int, key: bytes) -> bytes:
        entry = self.entries[job, db, key]
        journal = self.volume.open(job)
        parts = []
        for cold in (entry.base, *entry.changes):
            part = journal.read_now(cold)
            parts.append(journal.read(cold) if part is None else part)
        return b"".join(parts)

    def values(self) -> dict[Name, tuple[bytes, int]]:
        return {name: (self.value(*name), entry.due_ms) for name, entry in self.entries.items()}

    def readable(self) -> tuple[dict[Name, tuple[bytes, int]], set[Name]]:
        """What can be read, and the keys of what cannot."""
        values, refused = {}, set()
        for name, entry in self.entries.items():
            try:
                values[name] = (self.value(*name), entry.due_ms)
            except CommandError as error:
                if not error.text.startswith(b"IOERR "):
                    raise
                refused.add(name)
        return values, refused

    def collect(self) -> int:
        """Collect until there is nothing to collect; return the number of steps."""
        steps = 0
        while self.volume.collect_step():
            steps += 1
            self.volume.commit()
            self.volume.sync()
            assert steps < 10_000
        self.volume.commit()
        self.volume.sync()
        return steps

    def check(self) -> None:
        """What the volume counts agrees with what is there."""
        volume = self.volume
        live: dict[int, int] = {}
        for entry in self.entries.values():
            for cold in (entry.base, *entry.changes):
                live[id(cold.place)] = live.get(id(cold.place), 0) + cold.record_bytes
        assert volume.live_bytes == sum(live.values())
        for segment in self.segments():
            assert segment.live == live.get(id(segment), 0)
            assert not segment.retired or segment.live == 0
        assert volume.used_bytes == sum(segment.reserved for segment in self.segments())

    def segments(self) -> Iterator[Segment]:
        for job in {name[0] for name in self.entries} | set(self.volume.jobs()):
            yield from self.volume.open(job).segments.values()

    # --- what the volume asks ------------------------------------------------------------------

    def record_of(self, job_id: str, db: int, key: bytes) -> Cold | None:
        entry = self.entries.get((job_id, db, key))
        return entry.base if entry is not None and not entry.changes else None

    def due_ms(self, job_id: str, db: int, key: bytes) -> int:
        return self.entries[job_id, db, key].due_ms

    def exists(self, job_id: str, db: int, key: bytes) -> bool:
        return (job_id, db, key) in self.entries

    def rewrite(self, job_id: str, db: int, key: bytes, place: Segment, *, now: bool) -> None:
        due_ms = self.entries[job_id, db, key].due_ms
        self.put(job_id, db, key, self.value(job_id, db, key), due_ms)

    # --- inside --------------------------------------------------------------------------------

    def take(self, job: str, db: int, key: bytes, cold: Cold, due_ms: int) -> None:
        self.discard((job, db, key))
        self.entries[job, db, key] = Entry(cold, due_ms)

    def discard(self, name: Name) -> None:
        entry = self.entries.pop(name, None)
        if entry is not None:
            journal = self.volume.open(name[0])
            for cold in (entry.base, *entry.changes):
                journal.release(cold)

    def discard_all(self, job: str, db: int) -> None:
        for name in [name for name in self.entries if name[:2] == (job, db)]:
            self.discard(name)


class JobVisitor:
    """Is told by replay what one job has."""

    def __init__(self, table: Table, job: str) -> None:
        self._table = table
        self._job = job

    def put(self, db: int, key: bytes, kind: int, cold: Cold, due_ms: int) -> None:
        assert kind == cold.kind
        self._table.take(self._job, db, key, cold, due_ms)

    def change(self, db: int, key: bytes, cold: Cold) -> None:
        entry = self._table.entries.get((self._job, db, key))
        if entry is None:
            self._table.volume.open(self._job).release(cold)
        else:
            entry.changes.append(cold)

    def part(self, db: int, key: bytes, cold: Cold, group: int) -> None:
        raise AssertionError("the table writes no parts")

    def delete(self, db: int, key: bytes) -> None:
        self._table.discard((self._job, db, key))

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        entry = self._table.entries.get((self._job, db, key))
        if entry is not None:
            entry.due_ms = due_ms

    def clear(self, db: int) -> None:
        self._table.discard_all(self._job, db)
