"""Writes what one job retains on this server to S3, when the job has ended.

Small values go many to an object, others to objects of their own, in pieces, some of them at the
same time. What was written is noted, so that whoever was interrupted goes on where he was.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.resp.errors import PeerError
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.packs import PACK_BYTES
from pocketkv.tiers.s3.retained import ENTRIES_MAX, Retained
from pocketkv.tiers.sending import pieces

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.tiers.s3.store import S3Store

# Objects that are written at the same time.
_WRITES_MAX: Final = 4
# Longer values have an object of their own.
_SMALL_BYTES: Final = limits.MIB
# Beside its value, what a key counts for towards the size of an object.
_KEY_BYTES: Final = 512


@dataclass
class Progress:
    """How far the keys of a job are.

    Attributes:
        written: Those that are in S3, by database and name.
        unreadable: Those that are lost: what is stored of them cannot be read.
    """

    written: set[tuple[int, bytes]] = field(default_factory=set)
    unreadable: set[tuple[int, bytes]] = field(default_factory=set)


class KeptWriter:
    """Writes the marked keys of a job.

    Args:
        store: Where they go.
        space: The job.
        progress: What was written before, and is from now on.
        is_wanted: Whether it still has to be done.
        log: Where lost keys are told.
    """

    def __init__(
        self,
        store: S3Store,
        space: JobSpace,
        progress: Progress,
        is_wanted: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._space = space
        self._progress = progress
        self._is_wanted = is_wanted
        self._log = log
        self._slots = trio.Semaphore(_WRITES_MAX)
        self._batch: list[Retained] = []
        self._batch_bytes = 0
        self._failure: Exception | None = None

    async def write(self) -> None:
        """Write all that is not written yet, or as much as is wanted.

        Raises:
            S3Error: Some of it is not.
            PeerError: There is no memory to read it into.
        """
        async with trio.open_nursery() as nursery:
            for db in list(self._space.databases.values()):
                for key in [] if db.marks is None else db.marks.keys():
                    if self._failure is not None or not self._is_wanted():
                        break
                    if (db.index, key) not in self._progress.written:
                        await self._begin(nursery, db, key)
            await self._send_batch(nursery)
        if self._failure is not None:
            raise self._failure

    async def _begin(self, nursery: trio.Nursery, db: Database, key: bytes) -> None:
        """Have one key written, or wait for others to be written with."""
        place = db.index, key
        entry = db.find(key)
        if entry is None:
            return
        due_ms = db.expiry_ms(key) or 0
        parts = pieces(db, key, entry)
        try:
            kind, total, _, piece = await anext(parts)
        except CommandError as error:
            self._lose(place, error)
            return
        if total > _SMALL_BYTES:
            await self._slots.acquire()
            nursery.start_soon(self._write_large, place, kind, due_ms, total, piece, parts)
            return
        await parts.aclose()
        self._batch.append(Retained(db.index, key, kind, piece, due_ms))
        self._batch_bytes += len(piece) + 2 * len(key) + _KEY_BYTES
        if self._batch_bytes >= PACK_BYTES or len(self._batch) >= ENTRIES_MAX:
            await self._send_batch(nursery)

    async def _send_batch(self, nursery: trio.Nursery) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            await self._slots.acquire()
            nursery.start_soon(self._write_small, batch)

    async def _write_small(self, batch: list[Retained]) -> None:
        if await self._try(partial(self._store.put_retained_many, self._space.job_id, batch)):
            self._progress.written.update((entry.db, entry.key) for entry in batch)

    async def _write_large(
        self,
        place: tuple[int, bytes],
        kind: int,
        due_ms: int,
        total: int,
        first: bytes,
        rest: AsyncIterator[tuple[int, int, int, bytes]],
    ) -> None:
        async def following() -> bytes | None:
            found = await anext(rest, None)
            return None if found is None else found[3]

        def source() -> Iterator[bytes]:
            piece: bytes | None = first
            while piece is not None:
                yield piece
                piece = trio.from_thread.run(following)

        write = partial(
            self._store.put_retained, self._space.job_id, *place, kind, source(), total, due_ms
        )
        try:
            if await self._try(write):
                self._progress.written.add(place)
        except CommandError as error:
            self._lose(place, error)

    async def _try(self, write: Callable[[], object]) -> bool:
        """Have a thread write something, and see whether it was.

        Raises:
            CommandError: What is to be written cannot be read.
        """
        try:
            await trio.to_thread.run_sync(write)
        except (S3Error, PeerError) as error:
            self._failure = self._failure or error
            return False
        finally:
            self._slots.release()
        return True

    def _lose(self, place: tuple[int, bytes], error: CommandError) -> None:
        """A key cannot be read."""
        index, key = place
        if key in self._space.database(index):
            self._progress.unreadable.add(place)
            self._log.error(
                "a retained key cannot be read",
                extra={"job": self._space.job_id, "error": error.text.decode()},
            )
