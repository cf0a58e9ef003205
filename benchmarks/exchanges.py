"""What is said on the wire: requests, and the exact replies that are due for them.

A driver that knows the reply to the byte needs no parser, so it costs little beside the server
that it measures, and it notices every reply that is not the one that the work is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Operation = Literal["GET", "SET"]

OK: Final = b"+OK\r\n"


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


def exchanges(
    operation: Operation, value_bytes: int, keys: int, pipeline: int = 1
) -> list[Exchange]:
    """Return exchanges that go once through all keys, `pipeline` of them at a time.

    Keys that are left over from the last full pipeline are left out.
    """
    stored = value(value_bytes)
    reply = (bulk(stored) if operation == "GET" else OK) * pipeline
    made = []
    for first in range(0, keys - pipeline + 1, pipeline):
        names = [key(number) for number in range(first, first + pipeline)]
        made.append(Exchange(_requests(operation, names, stored), reply, pipeline))
    return made


def _requests(operation: Operation, names: Sequence[bytes], stored: bytes) -> bytes:
    if operation == "GET":
        return b"".join(command(b"GET", name) for name in names)
    return b"".join(command(b"SET", name, stored) for name in names)
