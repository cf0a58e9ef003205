"""Sends and reads values, large ones in parts, some of them at a time.

An object exists when all of it has arrived, or not at all: S3 makes it of the parts at the end. A
value that could not be sent leaves nothing behind: its parts are deleted, and if S3 cannot even be
told so, they are in the trash.

The thread that calls takes a value's bytes from its source, and waits while too many are under way;
the threads of a pool send and read them. Those never wait for anything but S3, and nobody waits for
room who holds some that is not under way, so all waits end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Final, TypeVar

from pocketkv.tiers.s3.blobs import Blob, corrupt, parts_of
from pocketkv.tiers.s3.budget import Budget
from pocketkv.tiers.s3.client import Client
from pocketkv.tiers.s3.counters import Counters
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.options import S3Options
from pocketkv.tiers.s3.trash import Trash

T = TypeVar("T")

# Bytes that are wrong are read once more, since the way here may have changed them.
_READS_MAX: Final = 2


class Transfers:
    """What is under way between us and S3."""

    def __init__(
        self, client: Client, options: S3Options, counters: Counters, trash: Trash
    ) -> None:
        self._client = client
        self._part_bytes = options.part_bytes
        self._parts_ahead_max = options.transfers_max
        self._counters = counters
        self._trash = trash
        self._pool = ThreadPoolExecutor(options.transfers_max, thread_name_prefix="s3")
        # Apart, so that who reads to write, or reads one value while reading another, never waits
        # for itself. Nobody waits for room to read ahead, which is held between two pieces.
        self.sending = Budget(options.in_flight_bytes_max)
        self.reading = Budget(options.in_flight_bytes_max)
        self.ahead = Budget(options.in_flight_bytes_max)

    def close(self) -> None:
        """End the threads, when what they do has ended."""
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        """Apply what asks S3 to names, some at a time, and yield its results in order."""
        return self._pool.map(function, names)

    # --- sending -------------------------------------------------------------------------------

    def send(self, name: str, pieces: Iterable[bytes], size: int) -> None:
        """Make an object of pieces with one request; they have at most about `size` bytes.

        Raises:
            S3Error: There is no object. Also what the pieces raise.
        """
        self.sending.take(size)
        try:
            self._client.put(name, b"".join(pieces))
        except S3Error as error:
            if error.kind == "unavailable":
                # It may have arrived, and only the answer not.
                self._trash.add(name)
            raise
        finally:
            self.sending.give_back(size)

    def send_parts(self, name: str, pieces: Iterable[bytes], part_bytes: int) -> None:
        """Make an object of pieces, at least one, which are taken as they can be sent.

        Raises:
            S3Error: There is no object. Also what the pieces raise.
        """
        upload_id = self._client.begin_parts(name)
        futures: list[Future[str]] = []
        try:
            size = self._submit_parts(
                name, upload_id, parts_of(pieces, part_bytes), part_bytes, futures
            )
            tags = [future.result() for future in futures]
            self._end_parts(name, upload_id, tags, size)
        except BaseException:
            self._give_up(name, upload_id, futures)
            raise

    def _submit_parts(
        self,
        name: str,
        upload_id: str,
        parts: Iterator[bytes],
        part_bytes: int,
        futures: list[Future[str]],
    ) -> int:
        """Put parts under way, until all are or one has failed; return their bytes."""
        size = 0
        while True:
            part = self._take_part(parts, part_bytes)
            if not part:
                return size
            future = self._pool.submit(
                self._client.put_part, name, upload_id, len(futures) + 1, part
            )
            # Called for one that is cancelled as well.
            future.add_done_callback(partial(self._part_is_done, len(part)))
            futures.append(future)
            size += len(part)
            for done in futures[-self._parts_ahead_max * 2 :]:
                if done.done():
                    done.result()

    def _part_is_done(self, size: int, _: Future[str]) -> None:
        self.sending.give_back(size)

    def _take_part(self, parts: Iterator[bytes], part_bytes: int) -> bytes:
        """Take the next part and the room that it needs; empty if there is none."""
        part = b""
        self.sending.take(part_bytes)
        try:
            part = next(parts, b"")
        finally:
            self.sending.give_back(part_bytes - len(part))
        return part

    def _end_parts(self, name: str, upload_id: str, tags: list[str], size: int) -> None:
        try:
            self._client.end_parts(name, upload_id, tags)
        except S3Error as error:
            # A request that is repeated since its answer was lost finds nothing to end any more.
            if error.kind != "missing" or self._client.size(name) != size:
                raise

    def _give_up(self, name: str, upload_id: str, futures: list[Future[str]]) -> None:
        for future in futures:
            future.cancel()
        # A part that arrives after the others were deleted would stay.
        wait(futures)
        try:
            self._client.abort_parts(name, upload_id)
        except S3Error:
            self._trash.add_upload(name, upload_id)
        else:
            # All parts may have become an object without our being told.
            self._trash.add(name)

    # --- reading -------------------------------------------------------------------------------

    def read(self, blob: Blob, start: int, end: int) -> Iterator[bytes]:
        """Yield a range of a value in pieces, the next ones being read ahead.

        Raises:
            S3Error: It cannot be read, or is not what was written.
        """
        steps = deque(self._steps(start, end))
        ahead: deque[tuple[Future[bytes], int]] = deque()
        try:
            while steps or ahead:
                if ahead:
                    piece = self._take_first(ahead)
                    self._read_ahead(blob, steps, ahead)
                else:
                    step = steps.popleft()
                    self._read_ahead(blob, steps, ahead)
                    piece = self._read_now(blob, *step)
                yield piece
        finally:
            for future, _ in ahead:
                future.cancel()
            wait([future for future, _ in ahead])
            self.ahead.give_back(sum(size for _, size in ahead))

    def _read_now(self, blob: Blob, start: int, end: int) -> bytes:
        self.reading.take(end - start)
        try:
            return self._read_checked(blob, start, end)
        finally:
            self.reading.give_back(end - start)

    def _take_first(self, ahead: deque[tuple[Future[bytes], int]]) -> bytes:
        future, size = ahead[0]
        try:
            return future.result()
        finally:
            ahead.popleft()
            self.ahead.give_back(size)

    def _read_ahead(
        self,
        blob: Blob,
        steps: deque[tuple[int, int]],
        ahead: deque[tuple[Future[bytes], int]],
    ) -> None:
        """Put what comes next under way, as far as there is room at once."""
        while steps and len(ahead) < self._parts_ahead_max:
            start, end = steps[0]
            if not self.ahead.take_now(end - start):
                return
            steps.popleft()
            ahead.append((self._pool.submit(self._read_checked, blob, start, end), end - start))

    def _steps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a range where parts would end, so that no block is read twice."""
        while start < end:
            stop = min(end, start - start % self._part_bytes + self._part_bytes)
            yield start, stop
            start = stop

    def _read_checked(self, blob: Blob, start: int, end: int) -> bytes:
        first, last = blob.blocks_around(start, end)
        data = self.read_right(
            blob.name, blob.offset + first, last - first, lambda data: blob.is_right(first, data)
        )
        if (first, last) == (start, end):
            return data
        return data[start - first : end - first]

    def read_right(
        self, name: str, offset: int, size: int, is_right: Callable[[bytes], bool]
    ) -> bytes:
        """Read a range of an object, at least one byte, and see that it is right.

        Raises:
            S3Error: It cannot be read; corrupt: it is wrong.
        """
        for _ in range(_READS_MAX):
            data = self._client.get_range(name, offset, size)
            if is_right(data):
                return data
        self._counters.failed("corrupt")
        raise corrupt(name, offset, size)
