"""Random commands, restarts and collection, beside a dict that does the same."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.tiers.volume.table import Name, Table

JOBS = st.sampled_from(["a", "b/ü"])
DBS = st.sampled_from([0, 3])
KEYS = st.sampled_from([b"", b"k", b"key:%d" % 7, b"x" * 40])
# Some do not fit a segment of 4 KiB together with others, or at all.
VALUES = st.one_of(
    st.binary(max_size=40),
    st.tuples(st.binary(min_size=1, max_size=3), st.integers(100, 2000)).map(lambda t: t[0] * t[1]),
)
DUES = st.integers(0, 2**62)


# In memory, since thousands of volumes are made, and synced.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class VolumeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.table = Table(self.folder)
        self.model: dict[Name, tuple[bytes, int]] = {}
        self.committed = dict(self.model)

    @rule(job=JOBS, db=DBS, key=KEYS, value=VALUES, due_ms=DUES)
    def put(self, job: str, db: int, key: bytes, value: bytes, due_ms: int) -> None:
        self.table.put(job, db, key, value, due_ms)
        self.model[job, db, key] = (value, due_ms)

    @rule(job=JOBS, db=DBS, value=VALUES, count=st.integers(5, 40))
    def put_many(self, job: str, db: int, value: bytes, count: int) -> None:
        for number in range(count):
            self.put(job, db, b"many:%d" % number, value, 0)

    @rule(job=JOBS, db=DBS, stride=st.integers(1, 5))
    def delete_many(self, job: str, db: int, stride: int) -> None:
        for number in range(0, 40, stride):
            self.delete(job, db, b"many:%d" % number)

    @rule(job=JOBS, db=DBS, key=KEYS, value=VALUES)
    def change(self, job: str, db: int, key: bytes, value: bytes) -> None:
        if (job, db, key) in self.model:
            self.table.change(job, db, key, value)
            old, due_ms = self.model[job, db, key]
            self.model[job, db, key] = (old + value, due_ms)

    @rule(job=JOBS, db=DBS, key=KEYS)
    def delete(self, job: str, db: int, key: bytes) -> None:
        if self.model.pop((job, db, key), None) is not None:
            self.table.delete(job, db, key)

    @rule(job=JOBS, db=DBS, key=KEYS, due_ms=DUES)
    def expire(self, job: str, db: int, key: bytes, due_ms: int) -> None:
        if (job, db, key) in self.model:
            self.table.expire(job, db, key, due_ms)
            self.model[job, db, key] = (self.model[job, db, key][0], due_ms)

    @rule(job=JOBS, db=DBS)
    def clear(self, job: str, db: int) -> None:
        self.table.clear(job, db)
        self.model = {name: kept for name, kept in self.model.items() if name[:2] != (job, db)}

    @rule(job=JOBS)
    def drop(self, job: str) -> None:
        self.table.drop(job)
        self.model = {name: kept for name, kept in self.model.items() if name[0] != job}
        # The end of a job takes effect at once, what else was done waits for its commit.
        self.commit()

    @rule()
    def commit(self) -> None:
        self.table.volume.commit()
        self.committed = dict(self.model)

    @rule()
    def sync(self) -> None:
        self.table.volume.sync()

    @rule(steps=st.integers(1, 20))
    def collect(self, steps: int) -> None:
        self.commit()
        for _ in range(steps):
            self.table.volume.collect_step()

    @rule()
    def collect_all(self) -> None:
        self.commit()
        self.table.collect()

    @rule()
    def reopen(self) -> None:
        self.table.volume.close()
        self.committed = dict(self.model)
        self.table = Table(self.folder)
        assert self.table.volume.state.corrupt_records == 0

    @rule()
    def crash(self) -> None:
        """The process ends between two system calls, with what it has in its buffers."""
        copy = Path(tempfile.mkdtemp(dir=MEMORY))
        shutil.rmtree(copy)
        shutil.copytree(self.folder, copy)
        self.table.volume.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self.table = Table(copy)
        assert self.table.volume.state.corrupt_records == 0
        self.model = dict(self.committed)

    @precondition(lambda self: self.table.volume.segments)
    @rule()
    def lose_indexes(self) -> None:
        for path in self.folder.glob("jobs/*/*.idx"):
            path.unlink()

    @invariant()
    def agrees(self) -> None:
        assert self.table.values() == self.model
        # Reading has opened any number of files; this closes those that are too many.
        self.table.check()
        assert self.table.volume.open_files <= 5

    def teardown(self) -> None:
        self.reopen()
        self.agrees()
        self.table.volume.close()
        shutil.rmtree(self.folder)


VolumeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestVolume = VolumeMachine.TestCase
