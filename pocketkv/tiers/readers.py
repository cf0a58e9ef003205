"""Threads that read from a medium, so that only those wait who asked.

A read is a short call without the interpreter's lock. Handing it over and back is what costs, so
this is as little as can be: a queue that is made in C, and one wake-up of the serving thread for
all that was read since the last one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, TypeAlias, cast

import trio

from pocketkv.engine.cold import PendingRead
from pocketkv.engine.errors import CommandError
from pocketkv.engine.fetching import Done
from pocketkv.engine.shelf import StoredRead
from pocketkv.resp.replies import FileRange, StoredOwner
from pocketkv.tiers.volume.direct import DirectPart, DirectReads
from pocketkv.tiers.volume.record_reads import RecordReads

Read: TypeAlias = "Callable[[], bytes]"

# How many reads a medium is given at a time. A disk that turns can do no more than sort a few.
DEPTHS: Final = {"nvme": 32, "ssd": 32, "hdd": 4}
_DEFAULT_DEPTH: Final = 16
# Commands that are executed, and reads that are looked for, before others have their turn.
_COMMANDS_PER_POLL: Final = 4
_LOOKS_PER_POLL: Final = 64
# The same of those that were read past the page cache, which wait for nothing more.
_RECORDS_PER_POLL: Final = 16
# A read of an NVMe or SSD that is not overloaded is done before that.
_POLLED_S: Final = 0.005


class _Batch:
    """Reads that are waited for together."""

    __slots__ = ("done", "left", "results")

    def __init__(self, count: int, done: Done) -> None:
        self.results: list[bytes | CommandError] = [b""] * count
        self.left = count
        self.done = done


class _Coming:
    """One of them, which the system may be reading since a time."""

    __slots__ = ("batch", "index", "read", "since_s")

    def __init__(self, batch: _Batch, index: int, read: PendingRead, since_s: float) -> None:
        self.batch = batch
        self.index = index
        self.read = read
        self.since_s = since_s


class _Record:
    """A record that is read past the page cache: for somebody alone, or as one of several."""

    __slots__ = ("batch", "done", "index", "read")

    def __init__(
        self, read: StoredRead, done: Done | None, batch: _Batch | None, index: int
    ) -> None:
        self.read = read
        self.done = done
        self.batch = batch
        self.index = index


class Readers:
    """Reads for the serving thread.

    Args:
        depth: How many reads may be under way.
        log: Where defects are told.
        polls: Whether it is worth while to look for what is being read.
        direct: Reads past the page cache, if there is somebody who does.
        records: The same of small values.
        wake: Has `poll` called soon, though nothing else happens.

    Attributes:
        given: How many reads were asked for so far.
        given_direct: How many of them were begun past the page cache.
    """

    def __init__(
        self,
        depth: int,
        log: logging.Logger,
        *,
        polls: bool = True,
        direct: DirectReads | None = None,
        records: RecordReads | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._log = log
        self._depth = depth
        self._queue: SimpleQueue[tuple[_Batch, int, Read] | None] = SimpleQueue()
        self._finished: deque[tuple[_Batch, int, bytes | CommandError]] = deque()
        self._threads: list[threading.Thread] = []
        self._token = trio.lowlevel.current_trio_token()
        self._polls = polls
        self._direct = direct
        self._records = records
        self._wake = wake
        self._coming: deque[_Coming] = deque()
        self._waiting = 0
        self.given = 0
        self.given_direct = 0

    @property
    def waiting(self) -> int:
        """How many reads were asked for and are not done."""
        return self._waiting

    def read(self, reads: list[Read], done: Done) -> None:
        """Have things read, and `done` called with the results in their order."""
        if not reads:
            done([])
            return
        batch = _Batch(len(reads), done)
        self._waiting += len(reads)
        self.given += len(reads)
        for index, read in enumerate(reads):
            self._give((batch, index, read))

    def fetch(self, reads: list[PendingRead], done: Done) -> None:
        """The same for what commands wait for: each by the way that costs least.

        What can be is read past the page cache. What the system may be reading already is looked
        for again and again (`poll`) for a short time, which costs less than to wake a thread; what
        takes longer is left to one.
        """
        if not reads:
            done([])
            return
        is_idle = not self._is_looking()
        self._waiting += len(reads)
        self.given += len(reads)
        # This is what there is most of, so it takes as little as can be.
        if len(reads) == 1 and isinstance(reads[0], StoredRead):
            self._fetch_record(reads[0], done)
        else:
            self._fetch_each(reads, done)
        if is_idle and self._wake is not None and self._is_looking():
            self._wake()

    def _fetch_record(self, read: StoredRead, done: Done) -> None:
        """`fetch` for who needs only this."""
        # It is asked for once: what is refused because it is wanted again would not be after that.
        if self._begin_record(read, _Record(read, done, None, 0)):
            self.given_direct += 1
        else:
            self._fetch_cached(_Batch(1, done), 0, read)

    def _begin_record(self, read: StoredRead, record: _Record) -> bool:
        records = self._records
        # What was moved out of memory is on another volume.
        if records is None or not read.shelf.durable:
            return False
        return records.begin(read.cold, record)

    def _fetch_each(self, reads: list[PendingRead], done: Done) -> None:
        batch = _Batch(len(reads), done)
        for index, read in enumerate(reads):
            if self._begin_direct(batch, index, read):
                self.given_direct += 1
            else:
                self._fetch_cached(batch, index, read)

    def _fetch_cached(self, batch: _Batch, index: int, read: PendingRead) -> None:
        """Have something brought into the page cache, and read from there."""
        if self._polls and read.is_coming:
            self._coming.append(_Coming(batch, index, read, time.monotonic()))
        else:
            self._give((batch, index, read.read))

    def _is_looking(self) -> bool:
        """Whether `poll` has something to do that was asked for."""
        return (
            bool(self._coming)
            or (self._records is not None and self._records.under_way > 0)
            or (self._direct is not None and self._direct.under_way > 0)
        )

    def _begin_direct(self, batch: _Batch, index: int, read: PendingRead) -> bool:
        """Have something read past the page cache; false if it cannot be."""
        if isinstance(read, StoredRead):
            return self._begin_record(read, _Record(read, None, batch, index))
        direct = self._direct
        if direct is None or not isinstance(read, DirectPart):
            return False
        return direct.begin(read, (batch, index, read))

    def fetch_part(
        self, part: FileRange, start: int, size: int, done: Callable[[Exception | None], None]
    ) -> None:
        """`Reactor.fetch`: have a part of a large value read."""
        owner = cast("StoredOwner", part.owner)

        def read() -> bytes:
            owner.fetch(part.offset + start, size)
            return b""

        def on_read(results: list[bytes | CommandError]) -> None:
            result = results[0]
            done(result if isinstance(result, CommandError) else None)

        self.read([read], on_read)

    def poll(self) -> bool:
        """Begin and look for what was asked for; whether there is more to look for."""
        is_more = False
        if self._records is not None and self._records.under_way > 0:
            is_more = self._poll_records()
        if self._direct is not None and self._direct.under_way > 0:
            is_more = self._poll_direct() or is_more
        if self._coming:
            is_more = self._poll_coming() or is_more
        return is_more

    def _poll_coming(self) -> bool:
        """Look for what the system may be reading, in order; whether there is more."""
        coming = self._coming
        now_s = time.monotonic()
        commands = 0
        for _ in range(_LOOKS_PER_POLL):
            if not coming or commands == _COMMANDS_PER_POLL:
                break
            first = coming[0]
            result: bytes | CommandError | None
            try:
                result = first.read.try_read()
            except CommandError as error:
                result = error
            if result is None:
                if now_s - first.since_s < _POLLED_S:
                    # Those that were asked for later come later.
                    break
                self._give((first.batch, first.index, first.read.read))
                coming.popleft()
                continue
            coming.popleft()
            commands += self._take(first.batch, first.index, result)
        return bool(coming)

    def _poll_records(self) -> bool:
        """Begin reads of records, and pass on some that are done; whether there may be more."""
        records = self._records
        assert records is not None  # The caller has looked.
        records.submit()
        taken = records.take(_RECORDS_PER_POLL)
        for context, payload in taken:
            record: _Record = context
            batch = record.batch
            if payload is None:
                # A thread finds out what is wrong.
                if batch is None:
                    assert record.done is not None  # One of them is there.
                    batch = _Batch(1, record.done)
                self._give((batch, record.index, record.read.read))
            elif batch is None:
                assert record.done is not None  # As above.
                self._waiting -= 1
                record.done([payload])
            else:
                self._take(batch, record.index, payload)
        return len(taken) == _RECORDS_PER_POLL

    def _poll_direct(self) -> bool:
        """Begin reads of large values, and pass on one that is done; false if there was none."""
        direct = self._direct
        assert direct is not None  # The caller has looked.
        direct.submit()
        taken = direct.take()
        if taken is None:
            return False
        (batch, index, read), is_good = taken
        if is_good:
            self._take(batch, index, b"")
        else:
            # A thread finds out what is wrong.
            self._give((batch, index, read.read))
        return True

    def _give(self, item: tuple[_Batch, int, Read]) -> None:
        if len(self._threads) < min(self._waiting, self._depth):
            self._start_thread()
        self._queue.put(item)

    def _take(self, batch: _Batch, index: int, result: bytes | CommandError) -> bool:
        """Note a result; whether that was all that somebody waits for, who is told."""
        batch.results[index] = result
        batch.left -= 1
        self._waiting -= 1
        if batch.left > 0:
            return False
        batch.done(batch.results)
        return True

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="reader", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        """What each thread does until it is told to end."""
        while (item := self._queue.get()) is not None:
            batch, index, read = item
            result: bytes | CommandError
            try:
                result = read()
            except CommandError as error:
                result = error
            except OSError as error:
                result = CommandError(b"IOERR " + (error.strerror or str(error)).encode())
            except Exception as error:  # noqa: BLE001 - it is logged, and whoever waits is told
                self._log.exception("internal error while reading")
                result = CommandError(b"ERR internal error: " + type(error).__name__.encode())
            self._finished.append((batch, index, result))
            try:
                self._token.run_sync_soon(self._deliver, idempotent=True)
            except trio.RunFinishedError:
                return
            # What was read may keep a file open, and the next call may come much later.
            del item, batch, read, result

    def _deliver(self) -> None:
        """Pass on what was read; on the serving thread."""
        finished = self._finished
        while finished:
            batch, index, result = finished.popleft()
            self._take(batch, index, result)

    def trim(self) -> None:
        """Give memory back that is not needed; to be called now and then."""
        if self._direct is not None:
            self._direct.buffers.trim()
        if self._records is not None:
            self._records.trim()

    def close(self) -> None:
        """End the threads, each after the read that it is at, and what is read directly."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(1.0)
        if self._direct is not None:
            self._direct.close()
        if self._records is not None:
            self._records.close()


def depth_of(tier: str) -> int:
    """How many reads a tier's medium is given at a time."""
    return DEPTHS.get(tier, _DEFAULT_DEPTH)
