"""How the users' client reaches a router or a cluster: URLs, connections, retries, errors.

redis-py repeats any command after a connection error, also one that must not be executed twice.
Here redis-py repeats nothing; `attempt` does, and its caller says whether that is safe.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from pocketkv.client.errors import (
    AccessDeniedError,
    CommandRefusedError,
    InvalidArgumentError,
    JobNotFoundError,
    OutOfSpaceError,
    PocketError,
    ServerUnavailableError,
)

DEFAULT_URL: Final = "redis://127.0.0.1:6379"
"""Where `pocketkv serve` listens if it is told nothing."""

TIMEOUT_S: Final = 30.0
"""How long a server may take for the next bytes of an answer, in seconds."""

CONNECT_TIMEOUT_S: Final = 5.0
"""How long a connection may take to be made, in seconds."""

RETRIES: Final = 6
"""How often a request that may be repeated is repeated when no answer came: for some 2 seconds, in
which a router that died is started anew."""

ADMIN_USER: Final = "admin"
"""The user that an administrator authenticates as."""

_BACKOFF_MIN_S: Final = 0.05
_BACKOFF_MAX_S: Final = 1.0
# A connection that was idle for longer is tried before it is used: a Lambda that was frozen
# cannot know that the other side has hung up.
_HEALTH_CHECK_S: Final = 15
_RECEIVE_BYTES: Final = 256 * 1024
# Arguments from this size on are sent from where they are.
_COPIED_BYTES_MAX: Final = 16 * 1024

T = TypeVar("T")


# --- URLs ----------------------------------------------------------------------------------------


def checked_url(url: str) -> str:
    """Return the URL of a router or a job; ``host:port`` may stand for ``redis://host:port``.

    Raises:
        InvalidArgumentError: It is neither.
    """
    parts = _split(url if "://" in url else f"redis://{url}")
    # A URL may hold a token, so the message does not repeat it.
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise InvalidArgumentError("not a URL such as redis://host:6379")
    return parts.geturl()


def user_of(url: str) -> str | None:
    """Return the user that a URL names, which is a job's id."""
    user = _split(url).username
    return None if user is None else unquote(user)


def with_user(url: str, user: str, password: str) -> str:
    """Return `url` with another user and password."""
    parts = _split(url)
    place = parts.netloc.rpartition("@")[2]
    netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{place}"
    return parts._replace(netloc=netloc).geturl()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # It is looked at only now, and may be no number.
        return parts
    except ValueError as error:
        raise InvalidArgumentError("not a URL such as redis://host:6379") from error


# --- connections ---------------------------------------------------------------------------------


class Packer:
    """Writes requests without copying large values, and sends files from where they are mapped.

    redis-py's own two packers copy a value twice (hiredis), or do not take every argument.
    """

    def pack(self, *arguments: Any) -> list[bytes | memoryview]:
        """Return the pieces of one request.

        Raises:
            redis.DataError: An argument is neither bytes, text nor number.
        """
        # redis-py hands over some commands of two words as one.
        words = _encoded(arguments[0]).split()
        parts = [*words, *map(_encoded, arguments[1:])]
        pieces: list[bytes | memoryview] = []
        small = [b"*%d\r\n" % len(parts)]
        for part in parts:
            small.append(b"$%d\r\n" % len(part))
            if len(part) > _COPIED_BYTES_MAX:
                pieces += [b"".join(small), memoryview(part)]
                small = [b"\r\n"]
            else:
                small += [part, b"\r\n"]
        pieces.append(b"".join(small))
        return pieces


def _encoded(argument: Any) -> Any:
    if isinstance(argument, bytes | bytearray | memoryview):
        return argument
    if isinstance(argument, str):
        return argument.encode()
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        return repr(argument).encode()
    raise redis.DataError(f"a {type(argument).__name__} cannot be sent: use bytes, text or number")


class PocketConnection(redis.Connection):
    """redis-py's connection with our packer; for cluster mode, this is the only way to set it."""

    def __init__(self, **options: Any) -> None:
        ours = {"command_packer": Packer(), "health_check_interval": _HEALTH_CHECK_S}
        super().__init__(**ours, **options)  # type: ignore[no-untyped-call] # redis-py's lack


class PocketTlsConnection(redis.SSLConnection):
    """The same with TLS, for ``rediss://``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(command_packer=Packer(), health_check_interval=_HEALTH_CHECK_S, **options)


def open_redis(url: str, *, cluster: bool, timeout_s: float) -> Any:
    """Return a `redis.Redis`, or a `redis.RedisCluster` that has learnt the job's map.

    Raises:
        redis.RedisError: With `cluster`, no map could be had.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s),
        "socket_timeout": timeout_s,
        "socket_keepalive": True,
        "socket_read_size": _RECEIVE_BYTES,
        "protocol": 3,
        "decode_responses": False,
        "connection_class": PocketTlsConnection if url.startswith("rediss") else PocketConnection,
    }
    if cluster:
        return redis.RedisCluster.from_url(url, **options)
    return redis.Redis.from_pool(redis.ConnectionPool.from_url(url, **options))


def control(url: str, *command: str | bytes, retries: int = RETRIES) -> Any:
    """Send one command about jobs to a router, on a connection of its own; return its reply.

    Raises:
        PocketError: It was refused, or nobody answered.
    """
    connection = open_redis(url, cluster=False, timeout_s=TIMEOUT_S)
    try:
        return attempt(lambda: connection.execute_command(*command), retries)
    finally:
        connection.close()


# --- failures ------------------------------------------------------------------------------------


def attempt(send: Callable[[], T], retries: int) -> T:
    """Call `send` until it gets an answer, at most 1 + `retries` times, with growing pauses.

    Raises:
        PocketError: What redis-py raised, in our words.
    """
    pause_s = _BACKOFF_MIN_S
    for left in range(retries, -1, -1):
        try:
            return send()
        except (RedisError, RedisClusterException) as error:
            translated = translate(error)
            if left == 0 or not isinstance(translated, ServerUnavailableError):
                raise translated from error
        # Many workers that lost the same server must not come back in the same moment.
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, _BACKOFF_MAX_S)
    raise InvalidArgumentError("retries is negative")


_DENIED: Final = ("NOAUTH", "WRONGPASS", "NOPERM")
_AWAY: Final = ("CLUSTERDOWN", "LOADING", "TRYAGAIN", "MASTERDOWN")
_NO_JOB: Final = re.compile(r"\bno such job\b", re.IGNORECASE)


def translate(error: Exception) -> PocketError:
    """Return the error of this package for one of redis-py's."""
    if isinstance(error, RedisClusterException) and isinstance(error.__cause__, RedisError):
        # Cluster mode hides why its first node did not tell the map.
        return translate(error.__cause__)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return AccessDeniedError(text)
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return OutOfSpaceError(text)
    away = (
        redis.exceptions.ConnectionError
        | redis.exceptions.TimeoutError
        | redis.exceptions.ClusterDownError
        | redis.exceptions.TryAgainError
        | RedisClusterException
    )
    if isinstance(error, away) or text.startswith(_AWAY):
        return ServerUnavailableError(text)
    if text.startswith(_DENIED):
        return AccessDeniedError(text)
    if isinstance(error, redis.DataError):
        return InvalidArgumentError(text)
    if _NO_JOB.search(text):
        return JobNotFoundError(text)
    return CommandRefusedError(text)


# --- replies -------------------------------------------------------------------------------------


def text_map(reply: Any) -> dict[str, Any]:
    """Return a map reply with texts for names, and for values that are bytes, at every depth.

    Raises:
        CommandRefusedError: It is no map.
    """
    if not isinstance(reply, dict):
        raise CommandRefusedError("the server's answer is not a map: is it PocketKV?")
    return {_text(name): _plain(value) for name, value in reply.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_text(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return _text(value) if isinstance(value, bytes) else value


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
