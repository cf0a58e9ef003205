"""The controller's memory: jobs, placements, servers and the epoch, in one SQLite file.

A batch is written whole or not at all, and is on its way to the disk when `write` returns: it
survives the death of the process at any point. It may not survive a loss of power, which the
values that it tells of do not survive either; members that know a newer epoch say so when they
join. The file is locked for as long as the store is open, so two controllers never both write,
and the lock goes when the process does. The epoch that is kept only grows.

Calls take some 0.1 ms, and as long as the disk takes when it is busy: they are for a thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from pocketkv.controller.events import WRITTEN_MAX
from pocketkv.controller.messages import Persist, Snapshot

# Marks the file as ours: "PKV1" as a number.
_APPLICATION_ID: Final = 0x504B5631
_VERSION: Final = 1
_TABLES: Final = ("jobs", "placements", "servers", "facts", "events")
_EPOCH: Final = "epoch"


class StoreError(Exception):
    """The file cannot be used, or not any more; one line that names it."""


class Memory(Protocol):
    """Where a controller remembers; its calls block, and are for a thread."""

    def read(self) -> Snapshot:
        """Return all that was written.

        Raises:
            StoreError: It cannot be read, or has been damaged.
        """
        ...

    def write(self, batch: Persist) -> None:
        """Write a batch, whole or not at all.

        Raises:
            StoreError: It was not written, and nothing more can be.
            ValueError: Its epoch is older than the one that was written last.
        """
        ...


class Store:
    """An open and locked file.

    Args:
        path: Where it is; made if it is not there. None: in memory, for as long as this process
            lives.

    Raises:
        StoreError: It cannot be read or written, is not ours, or another controller has it.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = "the state" if path is None else f"--state {path}"
        try:
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path,
                isolation_level=None,
                # Its calls come from whichever worker thread is free, one at a time.
                check_same_thread=False,
                timeout=0,
            )
        except sqlite3.Error as error:
            raise self._failure(error) from error
        try:
            self._open()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._failure(error) from error
        except StoreError:
            self._connection.close()
            raise

    def _open(self) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        application_id = self._number("PRAGMA application_id")
        tables = self._number("SELECT count(*) FROM sqlite_master")
        if application_id != _APPLICATION_ID and (application_id or tables):
            raise StoreError(f"{self._name}: an SQLite file of something else")
        version = self._number("PRAGMA user_version")
        if application_id == _APPLICATION_ID and version != _VERSION:
            raise StoreError(
                f"{self._name}: written by another version ({version}, this one reads {_VERSION})"
            )
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        # Writing takes the lock, and keeps it.
        run("BEGIN IMMEDIATE")
        run(f"PRAGMA application_id = {_APPLICATION_ID}")
        run(f"PRAGMA user_version = {_VERSION}")
        for table in _TABLES:
            run(
                f"CREATE TABLE IF NOT EXISTS {table}"
                " (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID"
            )
        run("COMMIT")

    def _number(self, query: str) -> int:
        (number,) = self._connection.execute(query).fetchone()
        return int(number)

    def _failure(self, error: sqlite3.Error) -> StoreError:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StoreError(f"{self._name}: another controller has it")
        return StoreError(f"{self._name}: {error}")

    def read(self) -> Snapshot:
        """Return all that was written.

        Raises:
            StoreError: It cannot be read, or has been damaged.
        """
        try:
            (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise StoreError(f"{self._name}: damaged: {verdict}".splitlines()[0])
            tables = {table: self._records(table) for table in _TABLES}
        except sqlite3.Error as error:
            raise self._failure(error) from error
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self._name}: damaged: {error}") from error
        facts = tables["facts"]
        epoch = facts.pop(_EPOCH, 0)
        if type(epoch) is not int:
            raise StoreError(f"{self._name}: damaged: the epoch is {epoch!r}")
        return Snapshot(
            epoch=epoch,
            facts=facts,
            jobs=tables["jobs"],
            placements=tables["placements"],
            servers=tables["servers"],
            events=tables["events"],
        )

    def _records(self, table: str) -> dict[str, Any]:
        rows = self._connection.execute(f"SELECT id, record FROM {table} ORDER BY id")
        return {name: json.loads(record) for name, record in rows}

    def write(self, batch: Persist) -> None:
        """Write a batch, whole or not at all.

        Raises:
            StoreError: It could not be written; nothing has changed.
            ValueError: Its epoch is older than the one that was written last.
        """
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            try:
                self._write(batch)
                run("COMMIT")
            except BaseException:
                run("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _write(self, batch: Persist) -> None:
        row = self._connection.execute(
            "SELECT record FROM facts WHERE id = ?", (_EPOCH,)
        ).fetchone()
        if row is not None and int(row[0]) > batch.epoch:
            raise ValueError(f"epoch {batch.epoch} comes after {row[0]}")
        self._put("facts", {**batch.facts, _EPOCH: batch.epoch})
        self._put("jobs", batch.jobs)
        self._put("placements", batch.placements)
        self._put("servers", batch.servers)
        self._remove("jobs", batch.removed_jobs)
        self._remove("placements", batch.removed_jobs)
        self._remove("servers", batch.removed_servers)
        if batch.events:
            self._put("events", batch.events)
            self._connection.execute(
                "DELETE FROM events WHERE CAST(id AS INTEGER) <= (SELECT CAST(id AS INTEGER)"
                " FROM events ORDER BY CAST(id AS INTEGER) DESC LIMIT 1 OFFSET ?)",
                (WRITTEN_MAX,),
            )

    def _put(self, table: str, records: Mapping[str, Any]) -> None:
        self._connection.executemany(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?)",
            [(name, json.dumps(record)) for name, record in records.items()],
        )

    def _remove(self, table: str, names: Iterable[str]) -> None:
        self._connection.executemany(
            f"DELETE FROM {table} WHERE id = ?", [(name,) for name in names]
        )

    def close(self) -> None:
        """Close the file, and give up its lock."""
        self._connection.close()
