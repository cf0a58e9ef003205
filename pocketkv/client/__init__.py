"""The users' client: jobs, and files in them, over redis-py.

::

    from pocketkv import client

    with client.register_job("shuffle", url="redis://router:6379", capacity="10gb") as job:
        with job.connect() as storage:
            storage.put("part-0.bin", "map/0")
            data = storage.get_buffer("map/0", delete_after_read=True)
            storage.put("result.bin", "result", persist_after_job=True)
    client.connect(job).get("result", "copy.bin")
    client.purge_job(job)

A job is its URL: hand `Job.url` (or the `Job`, or a `PocketClient`, which both pickle to it) to
workers, and each opens a connection of its own with `connect`. In AWS Lambda, call `connect`
outside of the handler, so that warm starts find it open; a connection that died meanwhile is
found out and made anew.

Files are Redis strings: what `put` stores, any Redis client can ``GET``, and `PocketClient.redis`
is the redis-py client for everything that is not here. Sizes are in bytes, rates in bytes per
second, times in seconds; sizes and rates may also be texts such as ``64mb`` or ``600mbps``.
All errors are `PocketError`, but for what the local file system says (`OSError`). Clients may be
shared by threads, and must not be by forks.
"""

from __future__ import annotations

from pocketkv.client.connection import CONNECT_TIMEOUT_S, DEFAULT_URL, RETRIES, TIMEOUT_S
from pocketkv.client.errors import (
    AccessDeniedError,
    CommandRefusedError,
    FileMissingError,
    FileTooLargeError,
    InvalidArgumentError,
    JobNotFoundError,
    OutOfSpaceError,
    PocketError,
    RetainNotAvailableError,
    ServerUnavailableError,
)
from pocketkv.client.files import FileInfo, PocketClient
from pocketkv.client.jobs import Job, connect, deregister_job, purge_job, register_job
from pocketkv.client.transfer import FILE_BYTES_MAX

__all__ = [
    "CONNECT_TIMEOUT_S",
    "DEFAULT_URL",
    "FILE_BYTES_MAX",
    "RETRIES",
    "TIMEOUT_S",
    "AccessDeniedError",
    "CommandRefusedError",
    "FileInfo",
    "FileMissingError",
    "FileTooLargeError",
    "InvalidArgumentError",
    "Job",
    "JobNotFoundError",
    "OutOfSpaceError",
    "PocketClient",
    "PocketError",
    "RetainNotAvailableError",
    "ServerUnavailableError",
    "connect",
    "deregister_job",
    "purge_job",
    "register_job",
]
