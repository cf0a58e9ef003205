from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.controller.events import WRITTEN_MAX
from pocketkv.controller.messages import Persist, Snapshot
from pocketkv.controller.store import Store, StoreError

BATCH = Persist(
    epoch=3,
    facts={"wanted": {"dram": 2}},
    jobs={"j": {"name": "sort"}, "k": {"name": "other"}},
    placements={"j": {"epoch": 3}, "k": {"epoch": 2}},
    servers={"a": {"pid": 1}, "b": {"pid": 2}},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def reopened(store: Store, path: Path) -> Snapshot:
    """What is there after the store was closed and opened again."""
    store.close()
    return read_once(path)


def read_once(path: Path) -> Snapshot:
    store = Store(path)
    try:
        return store.read()
    finally:
        store.close()


def test_a_new_file_has_nothing(store: Store) -> None:
    assert store.read() == Snapshot()


def test_what_was_written_is_there_after_a_restart(store: Store, path: Path) -> None:
    store.write(BATCH)
    store.write(
        Persist(
            epoch=4,
            jobs={"k": {"name": "new"}},
            removed_jobs=("j",),
            removed_servers=("a", "never there"),
        )
    )
    assert reopened(store, path) == Snapshot(
        epoch=4,
        facts={"wanted": {"dram": 2}},
        jobs={"k": {"name": "new"}},
        placements={"k": {"epoch": 2}},
        servers={"b": {"pid": 2}},
    )


def test_of_events_the_newest_are_kept(store: Store, path: Path) -> None:
    def event(number: int) -> dict[str, object]:
        return {"time_ms": number, "level": "info", "kind": "event", "fields": {}}

    for first in (0, 150):
        numbers = range(first, first + 150)
        store.write(Persist(epoch=1, events={str(n): event(n) for n in numbers}))
    store.write(Persist(epoch=2))
    kept = {int(name) for name in reopened(store, path).events}
    assert kept == set(range(300 - WRITTEN_MAX, 300))


def test_a_batch_is_written_whole_or_not_at_all(store: Store, path: Path) -> None:
    store.write(BATCH)
    with pytest.raises(TypeError):
        store.write(Persist(epoch=9, jobs={"j": {}}, servers={"c": {"x": object()}}))
    snapshot = reopened(store, path)
    assert (snapshot.epoch, snapshot.jobs["j"]) == (3, {"name": "sort"})


def test_the_epoch_never_goes_back(store: Store) -> None:
    store.write(BATCH)
    store.write(Persist(epoch=3))
    with pytest.raises(ValueError, match="epoch 2 comes after 3"):
        store.write(Persist(epoch=2, jobs={"late": {}}))
    assert "late" not in store.read().jobs


def test_two_controllers_never_have_one_file(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match="another controller has it"):
        Store(path)
    command = [sys.executable, "-c", OPEN, str(path)]
    other = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert other.stdout == f"--state {path}: another controller has it\n"
    store.close()
    Store(path).close()


def test_nothing_is_left_beside_the_file_when_it_is_closed(store: Store, path: Path) -> None:
    store.write(BATCH)
    store.close()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_without_a_file_it_remembers_while_it_is_open() -> None:
    store = Store(None)
    store.write(BATCH)
    assert store.read().epoch == 3
    store.close()


# --- files that cannot be used -----------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open database file"):
        Store(tmp_path / "nowhere" / "state.db")


def test_a_file_of_something_else(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be looked at as one " * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_database_of_something_else(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (id)")
    connection.close()
    with pytest.raises(StoreError, match="something else"):
        Store(path)


def test_a_file_of_another_version(store: Store, path: Path) -> None:
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"another version \(99"):
        Store(path)


def test_a_damaged_file_is_told_and_not_used(store: Store, path: Path) -> None:
    store.write(Persist(epoch=1, jobs={f"j{i}": {"x": "y" * 500} for i in range(200)}))
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:40960] = b"\xa5" * (40960 - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"^[^\n]+$"):
        read_once(path)


def test_a_record_that_is_not_json_is_told(store: Store, path: Path) -> None:
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO jobs VALUES ('j', '{')")
    connection.commit()
    connection.close()
    again = Store(path)
    with pytest.raises(StoreError, match="damaged"):
        again.read()
    again.close()


# --- sudden death ------------------------------------------------------------------------------

OPEN = """
import sys
from pathlib import Path
from pocketkv.controller.store import Store, StoreError
try:
    Store(Path(sys.argv[1]))
except StoreError as error:
    print(error)
"""

WRITE = """
import sys
from pathlib import Path
from pocketkv.controller.messages import Persist
from pocketkv.controller.store import Store
store = Store(Path(sys.argv[1]))
epoch = store.read().epoch
while True:
    epoch += 1
    record = {"epoch": epoch, "filling": "x" * 2000}
    store.write(Persist(epoch=epoch, jobs={"j": record}, placements={"j": record}))
    sys.stdout.write(f"{epoch}\\n")
    sys.stdout.flush()
"""


def test_a_writer_that_is_killed_loses_nothing_that_it_has_said(path: Path) -> None:
    last = 0
    for round_number in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20 * (round_number + 1)):
                said = int(writer.stdout.readline())
                assert said > last
                last = said
            os.kill(writer.pid, signal.SIGKILL)
        store = Store(path)
        snapshot = store.read()
        store.close()
        assert snapshot.epoch >= last
        last = snapshot.epoch
        # Both tables are of one batch, the last one.
        assert snapshot.jobs["j"] == snapshot.placements["j"]
        assert snapshot.jobs["j"]["epoch"] == last
