"""What is said on the wire: requests, and the exact replies that are due for them.

A driver that knows the reply to the byte needs no parser, so it costs little beside the server
that it measures, and it notices every reply that is not the one that the work is about.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

Operation = Literal["GET", "SET"]

OK: Final = b"+OK\r\n"

# The order in which keys are asked for, the same in every run and at every server.
_SEED: Final = 7
# Requests are sent so many bytes at a time where nothing is measured: fewer than what sockets
# hold of their replies.
_BATCH_BYTES: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Exchange:
    """Requests that are sent at once, and all their replies.

    Attributes:
        request: Bytes to send.
        reply: The bytes that must come back.
        operations: How many requests these are.
    """

    request: bytes
    reply: bytes
    operations: int = 1


def command(*arguments: bytes) -> bytes:
    """Return a request."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [bulk(argument) for argument in arguments]
    return b"".join(parts)


def bulk(value: bytes) -> bytes:
    """Return a string as an argument of a request or as a reply."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def key(number: int) -> bytes:
    """Return the name that redis-benchmark gives to the key of this number."""
    return b"key:%012d" % number


def value(size_bytes: int) -> bytes:
    """Return a value of this size; it is the same each time, so that replies can be foretold."""
    return (b"0123456789abcdef" * (size_bytes // 16 + 1))[:size_bytes]


@lru_cache(maxsize=4)
def dense_value(size_bytes: int) -> bytes:
    """Return a value that no medium can make smaller; the same each time, as that of `value`."""
    return random.Random(_SEED).randbytes(size_bytes)


def exchanges(
    operation: Operation, value_bytes: int, keys: int, pipeline: int = 1
) -> list[Exchange]:
    """Return exchanges that go once through all keys in random order, `pipeline` at a time.

    Keys that are left over from the last full pipeline are left out.
    """
    stored = value(value_bytes)
    reply = (bulk(stored) if operation == "GET" else OK) * pipeline
    order = random.Random(_SEED).sample(range(keys), keys)
    made = []
    for first in range(0, keys - pipeline + 1, pipeline):
        names = [key(number) for number in order[first : first + pipeline]]
        made.append(Exchange(_requests(operation, names, stored), reply, pipeline))
    return made


def short_lives(value_bytes: int, keys: int) -> list[Exchange]:
    """Return exchanges in each of which a value is set, got once, and removed."""
    stored = value(value_bytes)
    reply = OK + bulk(stored) + b":1\r\n"
    made = []
    for number in range(keys):
        name = key(number)
        requests = (command(b"SET", name, stored), command(b"GET", name), command(b"DEL", name))
        made.append(Exchange(b"".join(requests), reply))
    return made


def _requests(operation: Operation, names: Sequence[bytes], stored: bytes) -> bytes:
    if operation == "GET":
        return b"".join(command(b"GET", name) for name in names)
    return b"".join(command(b"SET", name, stored) for name in names)


def batches(requests: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield requests joined into batches that can be sent before replies are read, and counted."""
    batch: list[bytes] = []
    batch_bytes = 0
    for request in requests:
        batch.append(request)
        batch_bytes += len(request)
        if batch_bytes >= _BATCH_BYTES:
            yield b"".join(batch), len(batch)
            batch, batch_bytes = [], 0
    if batch:
        yield b"".join(batch), len(batch)
