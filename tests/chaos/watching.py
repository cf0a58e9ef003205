"""What the controller says of servers and maps, looked at all the time while a run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import redis

from tests.chaos.clients import PlainClient

INTERVAL_S: Final = 0.1
_TIMEOUT_S: Final = 2.0

Range = tuple[int, int, str]


@dataclass(frozen=True)
class Look:
    """What was seen at once, between two times.

    `placements` are the slots of each job and who owns them, or may do so at any moment since they
    are moving there; `servers` is the reply of SERVER.LIST.
    """

    begin_s: float
    end_s: float
    placements: dict[str, tuple[Range, ...]]
    servers: tuple[dict[str, Any], ...]


def ranges_of(placement: Iterable[Iterable[Any]]) -> tuple[Range, ...]:
    """Return the ranges of a reply's ``placement``."""
    return tuple((first, last, server) for first, last, _, _, server in placement)


def _arriving(info: dict[str, Any]) -> tuple[Range, ...]:
    """Return the ranges that are on their way to a server, if data moves at all."""
    return tuple((*move["slots"], move["target"]) for move in info.get("moves", ()))


class Watch:
    """Looks again and again; `looks` has what it saw, oldest first.

    Args:
        url: A router's address.
    """

    def __init__(self, url: str) -> None:
        self.looks: list[Look] = []
        self._url = url
        self._lock = threading.Lock()
        self._jobs = {"default"}

    def follow(self, job_id: str, placement: Iterable[Iterable[Any]]) -> None:
        """Look at this job, too, which is said to be placed like this at first."""
        now_s = time.monotonic()
        with self._lock:
            self._jobs.add(job_id)
            last = self.looks[-1].servers if self.looks else ()
            self.looks.append(Look(now_s, now_s, {job_id: ranges_of(placement)}, last))

    def leave(self, job_id: str) -> None:
        """Look no more at this job."""
        with self._lock:
            self._jobs.discard(job_id)

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        client = PlainClient(self._url, _TIMEOUT_S)
        while not stop.wait(INTERVAL_S):
            self._try(client)
        client.close()

    def look(self) -> Look | None:
        """Look now, by a connection of its own; None if the controller does not answer."""
        client = PlainClient(self._url, _TIMEOUT_S)
        try:
            return self._try(client)
        finally:
            client.close()

    def _try(self, client: PlainClient) -> Look | None:
        with self._lock:
            jobs = sorted(self._jobs)
        begin_s = time.monotonic()
        placements: dict[str, tuple[Range, ...]] = {}
        try:
            for job_id in jobs:
                try:
                    info = client.send("JOB.INFO", job_id)
                except redis.ResponseError as error:
                    if "no such job" in str(error):
                        continue  # It has ended meanwhile.
                    raise
                placements[job_id] = (*ranges_of(info["placement"]), *_arriving(info))
            servers = tuple(client.send("SERVER.LIST"))
        except (redis.RedisError, OSError):
            return None
        look = Look(begin_s, time.monotonic(), placements, servers)
        with self._lock:
            self.looks.append(look)
        return look

    def slots_of(
        self, server_id: str, job_id: str, begin_s: float, end_s: float
    ) -> tuple[tuple[int, int], ...]:
        """Return the ranges of a job that a server was seen to own at any time between the two."""
        with self._lock:
            looks = list(self.looks)
        before = [look for look in looks if look.end_s <= begin_s and job_id in look.placements]
        during = [look for look in looks if look.end_s > begin_s and look.begin_s <= end_s]
        return tuple(
            sorted(
                {
                    (first, last)
                    for look in [*before[-1:], *during]
                    for first, last, owner in look.placements.get(job_id, ())
                    if owner == server_id
                }
            )
        )
