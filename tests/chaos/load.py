"""Real clients that use a job and write down what they saw."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import redis

from tests.chaos.clients import Client, is_refusal
from tests.histories.models import Model, SetModel, StringModel
from tests.histories.operations import Recorder

# Beyond the size from which on strings are in extents.
LARGE_BYTES: Final = 100_000
KEYS_OF_A_KIND: Final = 6
MEMBERS: Final = 5

_Request = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Job:
    """A job as its clients know it; `token` marks all values that are written in it."""

    id: str
    url: str
    token: str


@dataclass(frozen=True)
class Failure:
    """A command that was answered with an error, or not at all."""

    client: str
    kind: str
    job_id: str
    key: str
    name: str
    begin_s: float
    end_s: float
    error: str


class KeyKind:
    """A kind of key, and what is done with it."""

    def __init__(
        self, letter: str, model: Model, draw: Callable[[random.Random, str], _Request]
    ) -> None:
        self.letter = letter
        self.model = model
        self.draw = draw


def _text(dice: random.Random, value: str) -> _Request:
    return dice.choice(
        [
            ("SET", (value,)),
            ("SET", (value,)),
            ("SET", (value, "NX")),
            ("APPEND", (value,)),
            ("GETDEL", ()),
            ("DEL", ()),
            *[("GET", ())] * 5,
        ]
    )


def _counter(dice: random.Random, _value: str) -> _Request:
    # Seldom deleted: each number is seen once, so that a lost or repeated INCR shows.
    if dice.random() < 0.02:
        return "DEL", ()
    return dice.choice([("INCR", ()), ("INCR", ()), ("GET", ())])


def _expiring(dice: random.Random, value: str) -> _Request:
    lifetime_ms = dice.choice([50, 400, 3_000, 60_000])
    return dice.choice(
        [
            ("SET", (value, "PX", lifetime_ms)),
            ("SET", (value, "PX", lifetime_ms, "NX")),
            ("PEXPIRE", (lifetime_ms,)),
            ("PERSIST", ()),
            ("EXISTS", ()),
            *[("GET", ())] * 5,
        ]
    )


def _large(dice: random.Random, value: str) -> _Request:
    return dice.choice([("SET", (f"{value}*",)), ("GET", ()), ("GET", ()), ("DEL", ())])


def _set(dice: random.Random, value: str) -> _Request:
    token = value.partition(":")[0]
    members = tuple(f"{token}:{dice.randrange(MEMBERS)}" for _ in range(dice.randrange(1, 3)))
    return dice.choice(
        [
            ("SADD", members),
            ("SADD", members),
            ("SREM", members),
            ("SPOP", ()),
            ("SCARD", ()),
            ("SISMEMBER", members[:1]),
            ("SMEMBERS", ()),
            ("SMEMBERS", ()),
        ]
    )


KINDS: Final = (
    KeyKind("text", StringModel(), _text),
    KeyKind("counter", StringModel(), _counter),
    KeyKind("expiring", StringModel(), _expiring),
    KeyKind("large", StringModel(), _large),
    KeyKind("set", SetModel(), _set),
)
KEYS: Final = {
    f"{kind.letter}-{number}": kind for kind in KINDS for number in range(KEYS_OF_A_KIND)
}
"""All keys, which are called the same in all jobs."""


def as_sent(value: Any) -> Any:
    """Return what is stored for a value of a history: one that ends in ``*`` is long."""
    if isinstance(value, str) and value.endswith("*"):
        return value + value[:-1].encode().hex() * (LARGE_BYTES // (2 * len(value)))
    return value


def as_noted(result: Any) -> Any:
    """Return the value of a history that stands for what was read; damage remains visible."""
    if not isinstance(result, str) or len(result) < LARGE_BYTES // 2:
        return result
    value = result.partition("*")[0] + "*"
    if as_sent(value) == result:
        return value
    digest = blake2b(result.encode(), digest_size=4).hexdigest()
    return f"{value} damaged, {len(result)} characters, {digest}"


class Worker:
    """One client of a job, which sends one command after the other.

    Args:
        name: The client's, in histories.
        job: What it uses.
        client: How it reaches it.
        recorder: Takes down what it sees; histories are called ``job key``.
        dice: Decides what it does.
        pause_s: How long it rests after each command, on average.
    """

    def __init__(
        self,
        name: str,
        job: Job,
        client: Client,
        recorder: Recorder,
        dice: random.Random,
        pause_s: float,
    ) -> None:
        self.name = name
        self.failures: list[Failure] = []
        self.leaks: list[str] = []
        self.done = 0
        self._job = job
        self._client = client
        self._recorder = recorder
        self._dice = dice
        self._pause_s = pause_s

    def run(self, stop: threading.Event) -> None:
        """Use the job until `stop` is set."""
        keys = list(KEYS)
        try:
            while not stop.is_set():
                key = self._dice.choice(keys)
                value = f"{self._job.token}:{self.name}.{self.done}"
                name, arguments = KEYS[key].draw(self._dice, value)
                self.call(key, name, *arguments)
                stop.wait(self._dice.uniform(0, 2 * self._pause_s))
        finally:
            self._client.close()

    def read_all(self) -> None:
        """Read every key once, and close the client."""
        try:
            for key, kind in KEYS.items():
                self.call(key, "SMEMBERS" if kind.letter == "set" else "GET")
        finally:
            self._client.close()

    def call(self, key: str, name: str, *arguments: Any) -> None:
        """Send one command, and note what came of it."""
        request = (name, key, *map(as_sent, arguments))
        begin_s = time.monotonic()
        try:
            result = self._recorder.call(
                self.name,
                f"{self._job.id} {key}",
                name,
                arguments,
                lambda: as_noted(self._client.send(*request)),
                is_refusal,
            )
        except (redis.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
            self._fail(key, name, begin_s, error)
            return
        self.done += 1
        for value in result if isinstance(result, set) else (result,):
            token = value.partition(":")[0] if isinstance(value, str) else ""
            if ":" in str(value) and token != self._job.token:
                self.leaks.append(f"{self._job.id} saw {value[:80]!r} in {key}")

    def _fail(self, key: str, name: str, begin_s: float, error: Exception) -> None:
        self.failures.append(
            Failure(
                self.name,
                self._client.kind,
                self._job.id,
                key,
                name,
                begin_s,
                time.monotonic(),
                f"{type(error).__name__}: {error}",
            )
        )
