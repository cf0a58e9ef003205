"""What jobs have retained in S3: written there when they end, read by whoever has their slots.

Every server that has the same ``--retain`` URL can do either. When a job has ended, its servers
write what is marked (`S3Kept.hand_over`). Then one of them is given all slots of the job: it lists
what is in S3, holds an index of it in memory, and reads values when they are asked for
(`S3Kept.follow`). Should it die, another one does the same. What a purged job had there is deleted
by one of these servers, which the controller names. Threads do all of that, and nobody waits but
who asked.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import trio

from pocketkv.engine.cold import Cold
from pocketkv.engine.errors import CommandError
from pocketkv.engine.kept import KeptShelf
from pocketkv.engine.shelf import StoredRead
from pocketkv.resp.errors import PeerError
from pocketkv.resp.reactor import Fetch
from pocketkv.slots import SLOT_COUNT
from pocketkv.tiers.kept_string import KeptHold, KeptPart, KeptString
from pocketkv.tiers.kept_writing import KeptWriter, Progress
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.gathering import Gatherer
from pocketkv.tiers.s3.opening import open_store

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.fetching import Done, Fetcher
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.large_string import LargeString
    from pocketkv.resp.replies import FileRange
    from pocketkv.tiers.readers import Readers
    from pocketkv.tiers.s3.blobs import Blob
    from pocketkv.tiers.s3.options import S3Options
    from pocketkv.tiers.s3.retained import RetainedKey
    from pocketkv.tiers.s3.store import S3Store

T = TypeVar("T")

# What is kept in memory of a key beside its name: a stub, where it is, a checksum or more.
KEPT_BYTES: Final = 256
_CHECKSUM_BYTES: Final = 8
# Keys that are put into the index before others have their turn.
_KEYS_PER_SLICE: Final = 500
_RETRY_S: Final = 1.0
# How often it is asked what is to be deleted, beside when a job ends; and again after a failure.
_DELETE_INTERVAL_S: Final = 60.0
_DELETE_RETRY_S: Final = 5.0
_CANNOT_READ: Final = b"IOERR what this job has retained in S3 cannot be read: "
_GONE: Final = b"IOERR what this job has retained is read by another server by now"


class Opening:
    """Commands that wait for a job's index (`pocketkv.engine.cold.PendingRead`).

    Attributes:
        space: The job.
        owned: The slots that are served when it is there.
    """

    is_coming = False

    def __init__(self, space: JobSpace, owned: bytearray) -> None:
        self.space = space
        self.owned = owned
        self._waiting: list[Done] = []

    @property
    def is_current(self) -> bool:
        """Whether it is still waited for."""
        return self.space.opening is self

    def wait(self, done: Done) -> None:
        """Be told when it is there, or why it is not."""
        self._waiting.append(done)

    def end(self, result: bytes | CommandError) -> None:
        """Tell those who wait."""
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done([result])

    def try_read(self) -> None:
        """It is there when `end` is called."""

    def read(self) -> bytes:
        """No thread reads it."""
        raise NotImplementedError  # `S3Kept.fetch` sees to it.

    def keep(self, result: bytes | CommandError) -> bool:
        """There is nothing to keep; false if it cannot be had."""
        return not isinstance(result, CommandError)

    def prepare(self) -> Iterator[None]:
        """There is nothing to do."""
        return iter(())

    def forget(self) -> None:
        """There is nothing to forget."""


class KeptS3Journal:
    """Reads what one job has in S3 (`pocketkv.engine.kept.KeptJournal`)."""

    def __init__(self, kept: S3Kept) -> None:
        self._kept = kept

    def reserve(self, size: int) -> bool:
        """Nothing is written."""
        return False

    def put(self, db: int, key: bytes, kind: int, payload: bytes, due_ms: int) -> Cold:
        """Nothing is written."""
        raise NotImplementedError  # Shelves that are not durable write nothing.

    def change(self, db: int, key: bytes, payload: bytes) -> Cold:
        """Nothing is written."""
        raise NotImplementedError  # As `put`.

    def part(self, db: int, key: bytes, kind: int, payload: bytes, group: int) -> Cold:
        """Nothing is written."""
        raise NotImplementedError  # As `put`.

    def delete(self, db: int, key: bytes) -> None:
        """It stays in S3 until all of the job goes."""

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        """Nothing is written."""

    def clear(self, db: int) -> None:
        """Nothing is written."""

    def read_now(self, cold: Cold) -> bytes | None:
        """Nothing can be had without waiting."""
        return None

    def try_read(self, cold: Cold) -> bytes | None:
        """Nothing can be had without waiting."""
        return None

    def read(self, cold: Cold) -> bytes:
        """What is stored; for a worker thread.

        Raises:
            CommandError: IOERR.
        """
        return self._kept.read(cold)

    def release(self, cold: Cold) -> None:
        """It stays in S3 until all of the job goes."""

    def large(self, cold: Cold) -> LargeString:
        """A string that is read a part at a time."""
        return KeptString(self._kept, cold)


class S3Kept:
    """The store of one server for what jobs retain (`pocketkv.engine.kept.KeptStore`).

    Args:
        url: ``s3://bucket/prefix``.
        server_id: Of this server.
        is_known: Whether there is such a job, ended or not.
        log: Where trouble is told.
        options: How to talk to S3.

    Attributes:
        parts: Of large strings, those that were read for commands (`kept_string.PartReader`).
        damaged: Objects that could not be understood.
        stored_bytes: What the jobs that are read here have in S3: all that they had when they
            ended, since nothing goes before all of it does.

    Raises:
        S3Error: It cannot be used.
    """

    durable = False

    def __init__(
        self,
        url: str,
        *,
        server_id: str | None,
        is_known: Callable[[str], bool],
        log: logging.Logger,
        options: S3Options | None = None,
    ) -> None:
        self.url = url
        self.store: S3Store = open_store(url, server_id=server_id, options=options)
        self.parts: dict[tuple[Cold, int, int], bytes] = {}
        self.damaged = 0
        self.stored_bytes: dict[str, int] = {}
        self._is_known = is_known
        self._log = log
        self._journal = KeptS3Journal(self)
        self._gatherer = Gatherer(self.store.read_range)
        self._progress: dict[str, Progress] = {}
        self._openings: dict[str, Opening] = {}
        self._changed = trio.Event()
        self._ended = trio.Event()
        # Of jobs that were purged while this server wrote for them.
        self._left: set[str] = set()
        self._troubles: set[str] = set()
        self._readers: Readers | None = None
        self._other_fetcher: Fetcher | None = None
        self._other_fetch: Fetch | None = None

    def close(self) -> None:
        """End all threads; what is in S3 stays."""
        self.store.close()

    # --- what the engine asks ------------------------------------------------------------------

    def journal(self, job_id: str) -> KeptS3Journal:
        """Where a job's values are read."""
        return self._journal

    def drop(self, job_id: str) -> None:
        """A job's keys are not to be known here any more."""
        self.stored_bytes.pop(job_id, None)
        opening = self._openings.pop(job_id, None)
        if opening is not None and opening.is_current:
            opening.space.opening = None
            # They are executed anew, and sent to where the job is now.
            opening.end(b"")

    # --- reading -------------------------------------------------------------------------------

    def use(self, readers: Readers, fetcher: Fetcher | None, fetch: Fetch | None) -> None:
        """Read with these threads.

        Args:
            readers: The threads.
            fetcher: Has anything else read that a command waits for.
            fetch: Has a part of any other large value read.
        """
        self._readers = readers
        self._other_fetcher = fetcher
        self._other_fetch = fetch

    def fetch(self, reads: list[PendingRead], done: Done) -> None:
        """`Node.fetcher`: have things read, wherever they are."""
        assert self._readers is not None  # `use` comes first.
        first = reads[0] if reads else None
        if isinstance(first, Opening):
            # What else was asked for is not known before the index is.
            rest = reads[1:]

            def opened(results: list[bytes | CommandError]) -> None:
                if isinstance(results[0], CommandError) or not rest:
                    done(results * len(reads))
                else:
                    self.fetch(rest, lambda others: done([*results, *others]))

            first.wait(opened)
            return
        if not _is_kept(first):
            assert self._other_fetcher is not None  # Only a store has reads of its own.
            self._other_fetcher(reads, done)
            return
        for read in reads:
            if isinstance(read, StoredRead):
                self._announce(read.cold.place)
        self._readers.fetch(reads, done)

    def fetch_part(
        self, part: FileRange, start: int, size: int, done: Callable[[Exception | None], None]
    ) -> None:
        """`Reactor.fetch`: have a part of a large value read, wherever it is."""
        if isinstance(part.owner, KeptHold):
            assert self._readers is not None  # `use` comes first.
            self._readers.fetch_part(part, start, size, done)
            return
        assert self._other_fetch is not None  # Nothing else has to be waited for.
        self._other_fetch(part, start, size, done)

    def _announce(self, blob: Blob) -> None:
        if blob.is_small:
            self._gatherer.announce(blob.name, blob.offset, blob.size)

    def read(self, cold: Cold) -> bytes:
        """A whole value; for a worker thread.

        Raises:
            CommandError: IOERR.
        """
        blob: Blob = cold.place
        try:
            if blob.is_small:
                data = self._gatherer.read(blob.name, blob.offset, blob.size)
                if blob.is_right(0, data):
                    return data
            return self.store.read_object(blob)
        except S3Error as error:
            raise _unreadable(error) from error

    def read_part(self, cold: Cold, start: int, stop: int) -> bytes:
        """A part of a value; for a worker thread.

        Raises:
            CommandError: IOERR.
        """
        try:
            return self.store.read_object(cold.place, start, stop)
        except S3Error as error:
            raise _unreadable(error) from error

    # --- the index -----------------------------------------------------------------------------

    def follow(self, space: JobSpace, owned: bytearray) -> None:
        """Serve these slots of a job that is in S3, as soon as it is known what there is."""
        if space.kept is self:
            if space.opening is None:
                space.own(owned)
            else:
                self._openings[space.job_id].owned = owned
            return
        space.move_to(self)
        space.own(bytearray(SLOT_COUNT))
        space.opening = self._openings[space.job_id] = Opening(space, owned)
        self._changed.set()

    def leave(self, space: JobSpace) -> None:
        """A job's slots are elsewhere."""
        if space.kept is self:
            space.move_to(None)

    async def run(self, call: Call) -> None:
        """Work until cancelled.

        Args:
            call: Sends the controller a command.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._delete, call)
            opening: set[Opening] = set()
            while True:
                for one in self._openings.values():
                    if one not in opening:
                        nursery.start_soon(self._open, one)
                opening = set(self._openings.values())
                await self._changed.wait()
                self._changed = trio.Event()

    async def _open(self, opening: Opening) -> None:
        """Learn what a job has, and serve it."""
        job_id = opening.space.job_id
        while opening.is_current:
            damaged: list[S3Error] = []
            try:
                keys = await _asked(partial(self.store.list_retained, job_id, damaged))
            except S3Error as error:
                self._trouble("cannot be read", job_id, error)
                opening.end(_unreadable(error))
                await trio.sleep(_RETRY_S)
                continue
            for damage in damaged:
                self.damaged += 1
                self._log.error(
                    "retained keys are lost", extra={"job": job_id, "error": damage.text}
                )
            await self._restore(opening, keys)
            if opening.is_current:
                self.stored_bytes[job_id] = sum(key.blob.size for key in keys)
                self._end_opening(opening, len(keys))

    def _end_opening(self, opening: Opening, keys: int) -> None:
        """The index of a job is there."""
        space = opening.space
        self._troubles.discard(space.job_id)
        del self._openings[space.job_id]
        space.opening = None
        space.own(opening.owned)
        opening.end(b"")
        self._log.info("retained keys are served", extra={"job": space.job_id, "keys": keys})

    async def _restore(self, opening: Opening, keys: list[RetainedKey]) -> None:
        space = opening.space
        for start in range(0, len(keys), _KEYS_PER_SLICE):
            if not opening.is_current:
                return
            for key in keys[start : start + _KEYS_PER_SLICE]:
                blob = key.blob
                cold = Cold(key.kind, blob.size, blob, 0, blob.size)
                cold.cost_bytes = KEPT_BYTES + _CHECKSUM_BYTES * len(blob.checksums)
                space.database(key.db).restore(key.key, cold, key.due_ms)
            await trio.lowlevel.checkpoint()

    # --- handing over --------------------------------------------------------------------------

    async def hand_over(self, space: JobSpace, is_wanted: Callable[[], bool]) -> tuple[int, int]:
        """Write what a job retains; how many keys are there now, and how many cannot be read.

        Raises:
            PeerError: It is not all there, and is to be tried again.
        """
        job_id = space.job_id
        progress = self._progress.setdefault(job_id, Progress())
        writer = KeptWriter(self.store, space, progress, is_wanted, self._log)
        try:
            await writer.write()
        except S3Error as error:
            raise PeerError(error.text) from error
        finally:
            if not self._is_known(job_id):
                # It was purged meanwhile, perhaps before the last of it was written.
                self.forget(job_id)
                self._left.add(job_id)
                self._ended.set()
        return len(progress.written), len(progress.unreadable)

    def forget(self, job_id: str) -> None:
        """What a job has retained is in S3, or not needed any more."""
        self._progress.pop(job_id, None)

    # --- deleting ------------------------------------------------------------------------------

    def ended(self, job_id: str) -> None:
        """A job is no more: something may have to be deleted."""
        self.forget(job_id)
        self._ended.set()

    async def _delete(self, call: Call) -> None:
        """Delete what purged jobs have left, when the controller says so."""
        while True:
            try:
                named = [name.decode() for name in await call("MEMBER.PURGES")]
                is_done = all([await self._delete_job(job_id) for job_id in {*named, *self._left}])
                for job_id in named:
                    if job_id not in self._left:
                        await call("MEMBER.PURGED", job_id)
            except PeerError:
                is_done = False
            with trio.move_on_after(_DELETE_INTERVAL_S if is_done else _DELETE_RETRY_S):
                await self._ended.wait()
            self._ended = trio.Event()

    async def _delete_job(self, job_id: str) -> bool:
        """Delete what a purged job has left; false if some of it is still there."""
        self._left.add(job_id)
        try:
            await _asked(partial(self.store.purge, job_id))
        except S3Error as error:
            self._trouble("cannot be deleted", job_id, error)
            return False
        self._left.discard(job_id)
        self._troubles.discard(job_id)
        return True

    def _trouble(self, what: str, job_id: str, error: S3Error) -> None:
        """Tell the operator, once for each job."""
        if job_id not in self._troubles:
            self._troubles.add(job_id)
            self._log.error(f"retained keys {what}", extra={"job": job_id, "error": error.text})


class Call(Protocol):
    """Sends the controller a command: `Membership.call`."""

    def __call__(self, *arguments: bytes | str | int) -> Awaitable[Any]:
        """Send it.

        Raises:
            PeerError: It refused, is away, or did not answer in time.
        """
        ...


def _is_kept(read: PendingRead | None) -> bool:
    """Whether something has to be read from S3."""
    if isinstance(read, StoredRead):
        return isinstance(read.shelf, KeptShelf)
    return isinstance(read, KeptPart)


async def _asked(call: Callable[[], T]) -> T:
    """Have a worker call S3."""
    return await trio.to_thread.run_sync(call)


def _unreadable(error: S3Error) -> CommandError:
    return CommandError(_CANNOT_READ + " ".join(error.text.split()).encode())
