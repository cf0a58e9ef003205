"""Files of a job: put, get, look up, count, delete. A file is one Redis string."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import redis

from pocketkv.client import transfer
from pocketkv.client.connection import (
    RETRIES,
    TIMEOUT_S,
    attempt,
    checked_url,
    open_redis,
    user_of,
)
from pocketkv.client.errors import (
    CommandRefusedError,
    FileMissingError,
    InvalidArgumentError,
    RetainNotAvailableError,
)
from pocketkv.client.transfer import Place
from pocketkv.jobs import DEFAULT_JOB_ID

_KEYS_PER_SCAN: Final = 1000

Key = str | bytes
"""The name of a file in its job; a text is stored as UTF-8."""


@dataclass(frozen=True)
class FileInfo:
    """What `PocketClient.lookup` tells of a file that is there."""

    key: bytes
    size_bytes: int


class PocketClient:
    """Files of one job; see `connect`. It pickles to its URL and connects anew.

    Every method may raise `ServerUnavailableError`, `AccessDeniedError`, and
    `CommandRefusedError` (as when a key holds a set).

    Attributes:
        redis: The redis-py client, a `redis.Redis` or a `redis.RedisCluster`; it returns bytes
            and does not retry.
    """

    def __init__(
        self,
        url: str,
        *,
        cluster: bool = False,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        self._url = checked_url(url)
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._retries = retries
        self.redis: Any = attempt(
            lambda: open_redis(self._url, cluster=cluster, timeout_s=timeout_s), retries
        )

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return user_of(self._url) or DEFAULT_JOB_ID

    # --- writing -----------------------------------------------------------------------------

    def put(self, source: Place, key: Key, *, persist_after_job: bool = False) -> int:
        """Store a file under `key`, replacing what was there; return its size in bytes.

        Args:
            source: A path, whose file is sent without being read into memory, or a file open for
                reading bytes, which is read from where it stands.
            key: Its name in the job.
            persist_after_job: Whether it must outlive the job: `connect` with the job's URL then
                still reads it, until `purge_job`.

        Raises:
            FileTooLargeError: More than `FILE_BYTES_MAX`.
            OutOfSpaceError: The job is at its quota.
            RetainNotAvailableError: See `persist_after_job`; nothing was stored.
            OSError: The source cannot be read.
        """
        with transfer.contents(source) as data:
            return self.put_buffer(data, key, persist_after_job=persist_after_job)

    def put_buffer(
        self, data: bytes | bytearray | memoryview, key: Key, *, persist_after_job: bool = False
    ) -> int:
        """Store `data` under `key`; otherwise as `put`."""
        with memoryview(data) as given, given.cast("B") as view:
            transfer.check_size(len(view))
            if persist_after_job:
                # Asked before, so that nothing is stored if it cannot be kept, and again after,
                # since only a key that exists can be marked.
                self._retain(key)
            self._run("SET", _key(key), view)
            if persist_after_job:
                self._retain(key)
            return len(view)

    def _retain(self, key: Key) -> None:
        try:
            self._run("JOB.RETAIN", _key(key))
        except CommandRefusedError as error:
            raise RetainNotAvailableError(f"persist_after_job: {error}") from error

    # --- reading -----------------------------------------------------------------------------

    def get(self, key: Key, destination: Place, *, delete_after_read: bool = False) -> int:
        """Write the file under `key` to `destination`; return its size in bytes.

        Args:
            key: Its name in the job.
            destination: A path, which appears only when it is complete, or a file open for
                writing bytes.
            delete_after_read: Whether to delete the key once `destination` is complete. Two who
                do it at the same time may both get the file; none loses it.

        Raises:
            FileMissingError: There is no such key; `destination` is as before.
            OSError: The destination cannot be written; the key is still there.
        """
        with transfer.destination(destination) as file:
            data = self.get_buffer(key)
            transfer.write_all(file, data)
        if delete_after_read:
            self._run("DEL", _key(key))
        return len(data)

    def get_buffer(self, key: Key, *, delete_after_read: bool = False) -> bytes:
        """Return the contents of the file under `key`.

        Args:
            key: Its name in the job.
            delete_after_read: Whether to delete it in the same step: of two who do it at the same
                time, one gets it. It is not repeated after `ServerUnavailableError`, since the
                file may have been deleted on the way.

        Raises:
            FileMissingError: There is no such key.
        """
        command = "GETDEL" if delete_after_read else "GET"
        data = self._run(command, _key(key), repeatable=not delete_after_read)
        if data is None:
            raise FileMissingError(f"there is no file {_key(key)!r}")
        return bytes(data)

    def lookup(self, key: Key) -> FileInfo | None:
        """Return what is known of the file under `key`, None if there is none."""
        name = _key(key)

        def ask() -> list[Any]:
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.execute_command("EXISTS", name)
            pipeline.execute_command("STRLEN", name)
            replies: list[Any] = pipeline.execute()
            return replies

        exists, size_bytes = attempt(ask, self._retries)
        return FileInfo(name, int(size_bytes)) if exists else None

    def count_files(self, prefix: Key = "") -> int:
        """Return how many keys begin with `prefix`; without it, how many the job has.

        Counting by prefix looks at every key of the job.
        """
        if not prefix:
            # By itself, RedisCluster would ask one server only.
            everywhere = {"target_nodes": redis.RedisCluster.PRIMARIES} if self._cluster else {}
            return int(attempt(lambda: self.redis.dbsize(**everywhere), self._retries))
        return len(self._keys(prefix))

    # --- deleting ----------------------------------------------------------------------------

    def delete(self, key: Key) -> bool:
        """Delete the file under `key`; return whether there was one.

        After a retry it may return False although this call deleted the file.
        """
        return int(self._run("DEL", _key(key))) > 0

    def delete_prefix(self, prefix: Key) -> int:
        """Delete all keys that begin with `prefix`; return how many there were.

        It looks at every key of the job. Keys made meanwhile may remain.

        Raises:
            InvalidArgumentError: `prefix` is empty; to free a whole job, deregister it.
        """
        if not prefix:
            raise InvalidArgumentError("an empty prefix would delete every file of the job")
        names = list(self._keys(prefix))
        batches = [names[i : i + _KEYS_PER_SCAN] for i in range(0, len(names), _KEYS_PER_SCAN)]
        return sum(attempt(partial(self._unlink, batch), self._retries) for batch in batches)

    def _unlink(self, names: list[bytes]) -> int:
        # One key a command: in cluster mode, the keys are on several servers.
        pipeline = self.redis.pipeline(transaction=False)
        for name in names:
            pipeline.execute_command("UNLINK", name)
        return sum(map(int, pipeline.execute()))

    def _keys(self, prefix: Key) -> set[bytes]:
        """The keys that begin with `prefix`; a set, since SCAN may show a key twice."""
        pattern = glob_of_prefix(_key(prefix))
        return attempt(
            lambda: set(self.redis.scan_iter(match=pattern, count=_KEYS_PER_SCAN)), self._retries
        )

    # --- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all connections; the job goes on."""
        if self._cluster:
            # RedisCluster's own `close` leaves connections to its nodes open.
            self.redis.disconnect_connection_pools()
        self.redis.close()

    def _run(self, *command: Any, repeatable: bool = True) -> Any:
        return attempt(
            lambda: self.redis.execute_command(*command), self._retries if repeatable else 0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., PocketClient], tuple[str, bool, float, int]]:
        return _reopened, (self._url, self._cluster, self._timeout_s, self._retries)

    def __repr__(self) -> str:
        return f"PocketClient(job={self.job_id!r}, cluster={self._cluster})"


def _reopened(url: str, cluster: bool, timeout_s: float, retries: int) -> PocketClient:
    return PocketClient(url, cluster=cluster, timeout_s=timeout_s, retries=retries)


def _key(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else bytes(key)


def glob_of_prefix(prefix: bytes) -> bytes:
    """Return the pattern, as SCAN takes it, of all keys that begin with `prefix`."""
    special = b"*?[]\\"
    return b"".join(b"\\%c" % byte if byte in special else b"%c" % byte for byte in prefix) + b"*"
