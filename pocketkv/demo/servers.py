"""What the storage servers hold of the demo's job, as they report it, and that nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocketkv import client

POLL_S: Final = 0.1
# Servers report once a second.
COUNTED_TIMEOUT_S: Final = 5.0
FREED_TIMEOUT_S: Final = 5.0
PROBE_TIMEOUT_S: Final = 2.0
# As `pocketkv serve` shows them: enough to tell them apart.
_SHOWN_ID_CHARACTERS: Final = 8


class LeftBehindError(Exception):
    """Something of the job is left after its end; one line."""


@dataclass(frozen=True)
class Holding:
    """What one server holds of the job; `share` is its part of the slots, 0 to 1."""

    server: str
    tier: str
    share: float
    used_bytes: int
    keys: int


def holdings(info: dict[str, Any]) -> list[Holding]:
    """Return what each server holds, out of what ``JOB.INFO`` answers."""
    servers = sorted(info["servers"], key=lambda server: str(server["id"]))
    slots = sum(int(server["slots"]) for server in servers) or 1
    return [
        Holding(
            server=str(server["id"])[:_SHOWN_ID_CHARACTERS],
            tier=str(server["tier"]),
            share=int(server["slots"]) / slots,
            used_bytes=int(server["used_bytes"]),
            keys=int(server["keys"]),
        )
        for server in servers
    ]


def addresses(info: dict[str, Any]) -> list[tuple[str, int]]:
    """Return host and port of each server of the job, out of what ``JOB.INFO`` answers."""
    return sorted({(str(entry[2]), int(entry[3])) for entry in info["placement"]})


def counted_holdings(job: client.Job, keys: int) -> list[Holding]:
    """Return what each server holds, as soon as their reports count as many keys as there are.

    Raises:
        LeftBehindError: They do not within `COUNTED_TIMEOUT_S`.
    """
    found: list[Holding] = []

    def agrees() -> bool:
        found[:] = holdings(job.info())
        return sum(holding.keys for holding in found) == keys

    if not _wait(agrees, COUNTED_TIMEOUT_S):
        counted = sum(holding.keys for holding in found)
        raise LeftBehindError(f"the servers report {counted} keys where there are {keys}")
    return found


def check_refused(job: client.Job, servers: list[tuple[str, int]]) -> None:
    """Check that no server lets the job in any more.

    Raises:
        LeftBehindError: One still does after `FREED_TIMEOUT_S`.
    """
    for host, port in servers:
        if not _wait(partial(_refuses, job, host, port), FREED_TIMEOUT_S):
            raise LeftBehindError(f"the server at {host}:{port} still knows the job")


def _refuses(job: client.Job, host: str, port: int) -> bool:
    parts = urlsplit(job.url)
    probe = redis.Redis(
        host=host,
        port=port,
        username=job.id,
        password=unquote(parts.password or ""),
        socket_timeout=PROBE_TIMEOUT_S,
        socket_connect_timeout=PROBE_TIMEOUT_S,
        # redis-py takes a wrong password for a connection that failed, and tries for seconds.
        retry=Retry(NoBackoff(), 0),
    )
    with probe:
        try:
            probe.dbsize()
        except redis.ConnectionError:
            # A wrong password is one of these too. A server that is gone lets nobody in either.
            return True
    return False


def lost_keys(job: client.Job) -> int:
    """Return how many keys the job has lost with servers that died, as far as is known."""
    try:
        return int(job.info()["lost_keys"])
    except client.PocketError:
        return 0


def check_empty(url: str, admin_password: str | None) -> int:
    """Check that no server of the cluster holds anything; returns how many servers there are.

    Raises:
        LeftBehindError: One still does after `FREED_TIMEOUT_S`.
    """
    used: dict[str, int] = {}

    def is_empty() -> bool:
        used.clear()
        used.update(used_bytes(url, admin_password))
        return not any(used.values())

    if not _wait(is_empty, FREED_TIMEOUT_S):
        left = ", ".join(f"{name} {size} bytes" for name, size in sorted(used.items()) if size)
        raise LeftBehindError(f"servers still hold something: {left}")
    return len(used)


def used_bytes(url: str, admin_password: str | None) -> dict[str, int]:
    """Return how many bytes each server of the cluster holds, of all jobs, as last reported."""
    login = {"username": "admin", "password": admin_password} if admin_password else {}
    with redis.Redis.from_url(url, protocol=3, **login) as router:
        servers: list[dict[bytes, Any]] = router.execute_command("SERVER.LIST")
    return {server[b"id"].decode(): int(server[b"used_bytes"]) for server in servers}


def _wait(is_true: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
