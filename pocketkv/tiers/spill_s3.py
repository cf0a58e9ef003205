"""Spilling to S3: small values in packs, large ones as objects. Never on the serving thread.

While S3 is away nothing is moved, so all that is not there already stays in memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from pocketkv import limits
from pocketkv.engine.cold import SPILLED_LARGE, Cold
from pocketkv.engine.errors import CommandError
from pocketkv.engine.shelf import StoredRead
from pocketkv.tiers.s3.blobs import SMALL_BYTES_MAX
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.gathering import Gatherer
from pocketkv.tiers.s3.opening import open_store
from pocketkv.tiers.s3.options import S3Options
from pocketkv.tiers.spill import Item, SpillError
from pocketkv.tiers.volume.checksums import checksum

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.fetching import Done
    from pocketkv.tiers.readers import Readers
    from pocketkv.tiers.s3.blobs import Blob
    from pocketkv.tiers.s3.packs import Pack, PackItem
    from pocketkv.tiers.s3.store import S3Store

T = TypeVar("T")

_TEND_INTERVAL_S: Final = 1.0
# Between two requests that delete what is not needed any more.
_TRASH_INTERVAL_S: Final = 5.0
_SWEEP_INTERVAL_S: Final = 3600.0
_STEP_BYTES: Final = limits.MIB
# Of the memory for values, what is held at most for what is being sent.
_IN_FLIGHT_SHARE: Final = 1 / 8
# Live bytes of sparse packs that are written anew together.
_REWRITE_BYTES: Final = 4 * limits.MIB


class S3SpillJournal:
    """What one job has in S3 (`pocketkv.engine.cold.Journal`); a small value's place is a pair."""

    def __init__(self, spill: S3Spill) -> None:
        self._spill = spill

    def reserve(self, size: int) -> bool:
        """There is always room."""
        return True

    def put(self, db: int, key: bytes, kind: int, payload: bytes, due_ms: int) -> Cold:
        """Values are written by `S3Spill.write`."""
        raise NotImplementedError  # Nothing is written where its client waits for it.

    def change(self, db: int, key: bytes, payload: bytes) -> Cold:
        """Changes are not written."""
        raise NotImplementedError  # As `put`.

    def part(self, db: int, key: bytes, kind: int, payload: bytes, group: int) -> Cold:
        """Parts are not written."""
        raise NotImplementedError  # As `put`.

    def delete(self, db: int, key: bytes) -> None:
        """Nobody reads what was deleted."""

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        """Memory knows that."""

    def clear(self, db: int) -> None:
        """Memory knows that."""

    def read_now(self, cold: Cold) -> bytes | None:
        """Nothing can be had without waiting."""
        return None

    def try_read(self, cold: Cold) -> bytes | None:
        """Nothing can be had without waiting."""
        return None

    def read(self, cold: Cold) -> bytes:
        """What is stored; for a worker.

        Raises:
            CommandError: IOERR.
        """
        if cold.kind == SPILLED_LARGE:
            blob: Blob = cold.place
            return _reading(lambda: self._spill.store.read_object(blob))
        while True:
            place: tuple[Pack, int] = cold.place
            try:
                return _reading(lambda: self._spill.read_item(*place, cold.length))  # noqa: B023
            except CommandError:
                # It may have been written anew meanwhile, and the old pack deleted.
                if cold.place is place:
                    raise

    def new_lock(self) -> threading.Lock:
        """What keeps two workers from reading the same value."""
        return threading.Lock()

    def read_into(self, cold: Cold, views: list[memoryview]) -> None:
        """Read a large value to where it is to stand; for a worker.

        Raises:
            CommandError: IOERR.
        """
        _reading(lambda: self._read_pieces(cold.place, views))

    def _read_pieces(self, blob: Blob, views: list[memoryview]) -> None:
        index = 0
        rest = views[0]
        for piece in self._spill.store.read_object_pieces(blob):
            view = memoryview(piece)
            while view:
                if not rest:
                    index += 1
                    rest = views[index]
                # In steps: other threads wait while bytes are copied.
                count = min(len(view), len(rest), _STEP_BYTES)
                rest[:count] = view[:count]
                view = view[count:]
                rest = rest[count:]

    def release(self, cold: Cold) -> None:
        """Nobody needs a value any more."""
        self._spill.release(cold)


def _reading(read: Callable[[], T]) -> T:
    """What is read.

    Raises:
        CommandError: IOERR: it could not be.
    """
    try:
        return read()
    except S3Error as error:
        raise CommandError(b"IOERR what is stored in S3 cannot be read: " + _line(error)) from error


def _is_gathered(size: int) -> bool:
    """Whether a value is read together with others that lie nearby."""
    return 0 < size <= SMALL_BYTES_MAX


def _line(error: S3Error) -> bytes:
    return error.text.replace("\r", " ").replace("\n", " ").encode()


class S3Spill:
    """Implements `pocketkv.tiers.spill.SpillMedium` on S3.

    Args:
        url: ``s3://bucket/prefix``.
        server_id: Tells what an earlier run of this server has left; ``None``: that is not known.
        memory_bytes: What the server has for values.
        known_jobs: All jobs that have not ended.
        known_servers: All servers that there are; ``None``: that is not known.
        log: Where trouble is told.
        options: How to talk to S3.

    Raises:
        S3Error: It cannot be used.
    """

    durable = False
    keeps_large = False
    # No changes are written.
    change_bytes = 1
    pending = False
    batch_bytes = 4 * limits.MIB
    moves_max = 4
    name = "s3"

    def __init__(
        self,
        url: str,
        *,
        server_id: str | None,
        memory_bytes: int,
        known_jobs: Callable[[], Collection[str]],
        known_servers: Callable[[], Collection[str] | None] = lambda: None,
        log: logging.Logger,
        options: S3Options | None = None,
    ) -> None:
        options = options or S3Options()
        in_flight_bytes = max(self.batch_bytes, int(memory_bytes * _IN_FLIGHT_SHARE))
        options = replace(
            options, in_flight_bytes_max=min(options.in_flight_bytes_max, in_flight_bytes)
        )
        self.store: S3Store = open_store(url, server_id=server_id, options=options)
        self._gatherer = Gatherer(self.store.read_range)
        self._known_jobs = known_jobs
        self._known_servers = known_servers
        # As of the last sweep: a controller that has just started does not know all of them yet.
        self._servers_before: Collection[str] | None = None
        self._log = log
        self._journal = S3SpillJournal(self)
        # What stands for the items of each pack, in their order; ``None`` for what is released.
        self._colds: dict[Pack, list[Cold | None]] = {}
        self._dropping: set[str] = set()
        self._written: set[str] = set()
        self._is_failing = False

    def check(self) -> None:
        """See that S3 can be used.

        Raises:
            S3Error: It cannot.
        """
        self.store.check()

    # --- what the engine asks ------------------------------------------------------------------

    def journal(self, job_id: str) -> S3SpillJournal:
        """What a job has here."""
        return self._journal

    @property
    def refusal(self) -> str:
        """Why values cannot be written now."""
        return self.store.reason

    @property
    def lacks_room(self) -> bool:
        """Whether that was for want of room."""
        return True

    def new_string(self, job_id: str) -> None:
        """Large strings are in memory, too."""

    def drop(self, job_id: str) -> None:
        """Forget all that a job has. Nothing of it is written until what there was is deleted."""
        self._dropping.add(job_id)
        for pack in [pack for pack in self._colds if pack.job_id == job_id]:
            del self._colds[pack]

    def commit(self) -> None:
        """Nothing has to stand here before it is answered."""

    def release(self, cold: Cold) -> None:
        """Nobody needs a value any more."""
        if cold.kind == SPILLED_LARGE:
            self.store.delete_object(cold.place)
            return
        pack, offset = cold.place
        colds = self._colds.get(pack)
        if colds is None:
            # Its job was dropped.
            return
        colds[pack.index_of(offset)] = None
        self._release(pack, offset)

    def _release(self, pack: Pack, offset: int) -> None:
        self.store.release(pack, offset)
        if pack.live_items == 0:
            self._colds.pop(pack, None)

    # --- reading -------------------------------------------------------------------------------

    def fetch(self, readers: Readers, reads: list[PendingRead], done: Done) -> None:
        """`Node.fetcher`: have things read, small ones that lie side by side together."""
        for read in reads:
            if isinstance(read, StoredRead) and _is_gathered(read.cold.length):
                pack, offset = read.cold.place
                self._gatherer.announce(pack.name, offset, read.cold.length)
        readers.fetch(reads, done)

    def read_item(self, pack: Pack, offset: int, size: int) -> bytes:
        """Read a small value; for a worker.

        Raises:
            S3Error: It cannot be read.
        """
        if _is_gathered(size):
            data = self._gatherer.read(pack.name, offset, size)
            if checksum(data) == pack.item(pack.index_of(offset)).checksum:
                return data
        return self.store.read_item(pack, offset, size)

    # --- writing -------------------------------------------------------------------------------

    def accepts(self, job_id: str) -> bool:
        """Whether what a job had before is deleted."""
        return job_id not in self._dropping

    async def write(self, job_id: str, items: list[Item]) -> list[Cold]:
        """Write small values as one pack.

        Raises:
            SpillError: None of them is written.
        """
        payloads = [item.payload for item in items]
        self._written.add(job_id)
        pack = await self._asked(lambda: self.store.write_pack(job_id, payloads))
        colds = [
            Cold(item.kind, place.size, (pack, place.offset), 0, place.size)
            for item, place in zip(items, pack.items(), strict=True)
        ]
        self._colds[pack] = list(colds)
        return colds

    async def write_large(self, job_id: str, size: int, views: list[memoryview]) -> Cold:
        """Write a large value as an object.

        Raises:
            SpillError: It is not written.
        """

        def pieces() -> Iterator[bytes]:
            for view in views:
                for start in range(0, len(view), _STEP_BYTES):
                    yield bytes(view[start : start + _STEP_BYTES])

        self._written.add(job_id)
        blob = await self._asked(lambda: self.store.write_object(job_id, pieces(), size))
        return Cold(SPILLED_LARGE, size, blob, 0, size)

    async def _asked(self, call: Callable[[], T]) -> T:
        """Have a worker call S3.

        Raises:
            SpillError: The call failed.
        """
        try:
            return await trio.to_thread.run_sync(call)
        except S3Error as error:
            raise SpillError(_line(error).decode()) from error

    # --- in the background ---------------------------------------------------------------------

    async def tend(self) -> None:
        """Delete what is not needed any more, until cancelled."""
        trash_s = sweep_s = trio.current_time()
        while True:
            now_s = trio.current_time()
            try:
                await self._drop_jobs()
                await self._rewrite_sparse()
                if now_s >= trash_s:
                    trash_s = now_s + _TRASH_INTERVAL_S
                    await self._asked(self.store.empty_trash)
                if now_s >= sweep_s:
                    await self._sweep()
                    sweep_s = now_s + _SWEEP_INTERVAL_S
            except SpillError as error:
                if not self._is_failing:
                    self._is_failing = True
                    self._log.error("the spill store fails", extra={"error": str(error)})
            else:
                if self._is_failing:
                    self._is_failing = False
                    self._log.info("the spill store answers again")
            await trio.sleep(_TEND_INTERVAL_S)

    async def _sweep(self) -> None:
        """Delete what others have left that are no more."""
        jobs, servers = self._known_jobs(), self._known_servers()
        before, self._servers_before = self._servers_before, servers
        known = None if servers is None or before is None else {*servers, *before}
        await self._asked(lambda: self.store.sweep(jobs, known))

    async def _drop_jobs(self) -> None:
        for job_id in list(self._dropping):
            # Of a job that has ended, what servers have left that are no more goes as well.
            has_ended = job_id not in self._known_jobs()
            await self._asked(partial(self.store.drop_job, job_id, everywhere=has_ended))
            self._dropping.discard(job_id)
            self._written.discard(job_id)

    async def _rewrite_sparse(self) -> None:
        """Write anew what little is needed of some packs of one job, so that they can go."""
        chosen: list[Pack] = []
        size = 0
        for pack in self.store.sparse_packs():
            if pack not in self._colds or not self.accepts(pack.job_id):
                continue
            if chosen and (pack.job_id != chosen[0].job_id or size > _REWRITE_BYTES):
                continue
            chosen.append(pack)
            size += pack.live_bytes
        if len(chosen) < 2 and size < _REWRITE_BYTES // 8:
            # A pack that is written anew alone is soon sparse again, if it is small.
            return
        found: list[tuple[Pack, PackItem, bytes]] = []
        for pack in chosen:
            live = await self._asked(lambda: self.store.read_live(pack))  # noqa: B023
            found += [(pack, item, data) for item, data in live]
        if not found:
            return
        payloads = [data for _, _, data in found]
        fresh = await self._asked(lambda: self.store.write_pack(chosen[0].job_id, payloads))
        self._move(found, fresh)

    def _move(self, found: list[tuple[Pack, PackItem, bytes]], fresh: Pack) -> None:
        """Have what stands for these items tell where they are now."""
        moved: list[Cold | None] = [None] * len(found)
        self._colds[fresh] = moved
        for pack in {pack for pack, _, _ in found}:
            self._gatherer.forget(pack.name)
        for index, ((pack, old, _), new) in enumerate(zip(found, fresh.items(), strict=True)):
            colds = self._colds.get(pack)
            cold = None if colds is None else colds[pack.index_of(old.offset)]
            if cold is None:
                self._release(fresh, new.offset)
                continue
            self.release(cold)
            # At once, for who reads it meanwhile.
            cold.place = (fresh, new.offset)
            moved[index] = cold

    def close(self) -> None:
        """End all threads. What is in S3 is deleted when the server or another one sweeps."""
        try:
            for job_id in self._written | self._dropping:
                self.store.drop_job(job_id, everywhere=False)
        except S3Error as error:
            self._log.error("values stay in the spill store", extra={"error": error.text})
        self.store.close()
