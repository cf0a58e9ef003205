"""Clients as users have them, each command sent once: what is tried again is not known once."""

from __future__ import annotations

from typing import Any, Final, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# A router gives up a server that does not answer after 5 s.
TIMEOUT_S: Final = 8.0
# Errors that say that nothing was executed. After all others nobody knows.
_REFUSALS: Final = (
    "OOM",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOAUTH",
    "WRONGPASS",
    "READONLY",
    "invalid username-password pair",
)


def is_refusal(error: Exception) -> bool:
    """Whether an error says that nothing was executed."""
    text = str(error)
    if isinstance(error, redis.ConnectionError) and "connecting to" in text:
        return True  # Nothing was sent.
    return isinstance(error, redis.RedisError) and text.startswith(_REFUSALS)


class Client(Protocol):
    """A connection to the cluster in one job."""

    @property
    def kind(self) -> str:
        """What it is, for people."""

    def send(self, *request: object) -> Any:
        """Send a command once and return its reply."""

    def close(self) -> None:
        """Close all connections."""


class PlainClient:
    """A client that knows one address, a router's."""

    kind: Final = "plain"

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._redis: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            single_connection_client=False,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )

    def send(self, *request: object) -> Any:
        """Send a command once and return its reply."""
        return self._redis.execute_command(*request)

    def close(self) -> None:
        """Close all connections."""
        self._redis.close()


class DirectClient:
    """A cluster-mode client, which talks to storage servers by the map that it has learnt.

    redis-py follows redirects by itself, which say that nothing was executed, and learns the map
    anew after an error. With its own settings it then tries again; here it does so only if nothing
    was sent, since a server that it knew is not there any more, as after a drain.
    """

    kind: Final = "direct"

    def __init__(self, url: str) -> None:
        self._url = url
        self._cluster: Any = None

    def send(self, *request: object) -> Any:
        """Send a command once and return its reply."""
        if self._cluster is None:
            self._cluster = self._connected()
        try:
            try:
                return self._cluster.execute_command(*request)
            except redis.ConnectionError as error:
                if not is_refusal(error):
                    raise
                return self._cluster.execute_command(*request)
        except redis.exceptions.RedisClusterException:
            # None of the servers that it knew could be reached.
            self.close()
            raise

    def _connected(self) -> Any:
        try:
            return redis.RedisCluster.from_url(
                self._url,
                decode_responses=True,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
            )
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            # Nothing but the map was asked for.
            raise redis.ConnectionError(f"connecting to the cluster: {error}") from error

    def close(self) -> None:
        """Close all connections; the next command opens them anew."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()
