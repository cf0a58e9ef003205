"""Clients that use a job while its slots move, and know what every answer has to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.replies import Error
from tests.tiers.moves.scripted import Cluster
from tests.tiers.storage_process import Client


class Follower:
    """A client of storage servers that follows MOVED, as cluster clients do."""

    def __init__(self, cluster: Cluster) -> None:
        self._by_port = {
            server.port: cluster.client(number) for number, server in enumerate(cluster.servers)
        }
        self._current = next(iter(self._by_port.values()))
        self.redirected = 0

    def __call__(self, *arguments: object) -> object:
        for _ in range(10):
            reply = self._current(*arguments)
            if not isinstance(reply, Error) or not reply.text.startswith("MOVED"):
                return reply
            self.redirected += 1
            self._current = self._by_port[int(reply.text.rsplit(":", 1)[1])]
        raise AssertionError("it is sent from one to the other")


class Load(threading.Thread):
    """Counts up keys of its own, and looks whether the count is right, until it is told to end."""

    def __init__(self, name: str, client: Callable[..., object]) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._prefix = name
        self.counts = [0] * 20
        self.failure: BaseException | None = None
        self.longest_s = 0.0
        self.requests = 0
        self._end = threading.Event()

    def run(self) -> None:
        try:
            while not self._end.is_set():
                self._round()
        except BaseException as error:  # noqa: BLE001 - it is raised by `finish`
            self.failure = error

    def _round(self) -> None:
        for number in range(len(self.counts)):
            key = f"{self._prefix}-{number}"
            began_s = time.monotonic()
            found = self._client("INCR", key)
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            self.counts[number] += 1
            assert found == self.counts[number], (key, found, self.counts[number])
            member = f"member-{self.counts[number]}"
            assert self._client("SADD", key + "-set", member) == 1
            assert self._client("APPEND", key + "-text", "x") == self.counts[number]
            if self.counts[number] > 50:
                assert self._client("DEL", key) == 1
                assert self._client("DEL", key + "-set") == 1
                assert self._client("EXISTS", key + "-set") == 0
                assert self._client("DEL", key + "-text") == 1
                self.counts[number] = 0
            self.requests += 3

    def finish(self) -> None:
        """End, and raise what went wrong."""
        self._end.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure
        assert not self.is_alive()

    def check(self, client: Callable[..., object]) -> None:
        """Everything is as this client left it."""
        for number, count in enumerate(self.counts):
            key = f"{self._prefix}-{number}"
            found = client("GET", key)
            assert found == (b"%d" % count if count else None)
            assert client("SCARD", key + "-set") == count
            assert client("STRLEN", key + "-text") == count


def plain(client: Client) -> Callable[..., object]:
    """A client of a router, which never sees where anything is."""

    def call(*arguments: object) -> object:
        reply = client(*arguments)
        assert not isinstance(reply, Error), reply
        return reply

    return call
