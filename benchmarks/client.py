"""A connection for what is around the measuring: filling servers, asking what they know."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import hiredis

from benchmarks.exchanges import OK, batches, command, key

TIMEOUT_S: Final = 60.0
_RECEIVE_BYTES: Final = 64 * 1024


class BenchmarkError(Exception):
    """Something cannot be measured; one line that says why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server has counted since it started.

    Attributes:
        errors: Error replies.
        hits, misses: Look-ups that found their key, or did not.
    """

    errors: int
    hits: int
    misses: int

    def since(self, before: Counts) -> Counts:
        """Return what was added since then."""
        return Counts(
            self.errors - before.errors, self.hits - before.hits, self.misses - before.misses
        )


class Client:
    """A blocking connection to a server; a context manager.

    Args:
        host: Where it listens.
        port: Its port.

    Raises:
        OSError: Nobody listens there, or nothing came in `TIMEOUT_S`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._sock = socket.create_connection((host, port), timeout=TIMEOUT_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(notEnoughData=self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def call(self, *arguments: bytes | str | int) -> Any:
        """Return the reply to one command.

        Raises:
            BenchmarkError: The reply is an error, or the server closed the connection.
        """
        encoded = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
        self._sock.sendall(command(*encoded))
        while (reply := self._reader.gets()) is self:
            received = self._sock.recv(_RECEIVE_BYTES)
            if not received:
                raise BenchmarkError(f"{encoded[0].decode()}: the server closed the connection")
            self._reader.feed(received)
        if isinstance(reply, Exception):
            raise BenchmarkError(f"{encoded[0].decode()}: {reply}")
        return reply

    def send(self, requests: Iterable[bytes], reply: bytes) -> None:
        """Send requests, many at a time, each of which must be answered by `reply`.

        Raises:
            BenchmarkError: One was answered by something else.
        """
        for batch, count in batches(requests):
            self.exchange(batch, reply, count)

    def exchange(self, batch: bytes, reply: bytes, count: int) -> None:
        """Send a batch of requests, each of the `count` of which must be answered by `reply`.

        Raises:
            BenchmarkError: One was answered by something else.
        """
        self._sock.sendall(batch)
        due = reply * count
        received = b""
        while len(received) < len(due):
            # An error reply is longer or shorter than the one that is due, so look each time.
            part = self._sock.recv(_RECEIVE_BYTES)
            received += part
            if not part or not due.startswith(received):
                raise BenchmarkError(f"answered {received[-200:]!r} instead of {reply!r}")

    def set_strings(self, first: int, count: int, stored: bytes) -> None:
        """Set `count` keys, from the one numbered `first` on, to the same value."""
        self.send((command(b"SET", key(n), stored) for n in range(first, first + count)), OK)

    def info(self, section: str = "everything") -> dict[str, str]:
        """Return what INFO says, of one section or of all."""
        return parse_info(self.call("INFO", section))

    def knows(self, name: str) -> bool:
        """Whether the server has a command."""
        return self.call("COMMAND", "INFO", name)[0] is not None

    def counts(self) -> Counts:
        """Return what the server has counted itself."""
        fields = self.info()
        errors = [text for name, text in fields.items() if name.startswith("errorstat_")]
        return Counts(
            errors=sum(int(text.partition("count=")[2]) for text in errors),
            hits=int(fields["keyspace_hits"]),
            misses=int(fields["keyspace_misses"]),
        )


def parse_info(text: bytes) -> dict[str, str]:
    """Return the fields of an INFO reply."""
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: field for name, colon, field in lines if colon and not name.startswith("#")}
