"""Fills a server with more than its memory, and looks whether it is all there."""

from __future__ import annotations

import random
from collections.abc import Iterator

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from tests.tiers.storage_process import Client, Storage

MEMORY_BYTES = 64 * limits.MIB
# Of the memory for values, what the process may take beyond it and itself.
EXCESS = 0.15
# Requests that are sent before their replies are read.
WINDOW = 16


def value_of(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def keys_of(total_bytes: int, size: int) -> list[int]:
    return list(range(total_bytes // size))


class Peak:
    """The most that a server ever took.

    Attributes:
        program_bytes: What it took at the beginning.
        bytes: The most since.
    """

    def __init__(self, server: Storage) -> None:
        self._server = server
        self.program_bytes = self.bytes = server.rss_bytes()

    def look(self) -> None:
        self.bytes = max(self.bytes, self._server.rss_bytes())

    @property
    def share(self) -> float:
        """What the values took at most, as a part of the memory for them."""
        return (self.bytes - self.program_bytes) / MEMORY_BYTES


def write(client: Client, numbers: list[int], size: int, peak: Peak | None = None) -> list[bytes]:
    """Write values; the replies that were no OK."""
    wrong: list[bytes] = []
    for window in windows(numbers, size):
        client.send_raw(
            b"".join(encode_request([b"SET", b"k%d" % n, value_of(n, size)]) for n in window)
        )
        for _ in window:
            line = b""
            while not line.endswith(b"\r\n"):
                line += client.receive(1)
            if line != b"+OK\r\n":
                wrong.append(line)
        if peak is not None:
            peak.look()
    return wrong


def read(client: Client, numbers: list[int], size: int, peak: Peak | None = None) -> list[int]:
    """Read values; the numbers of those that are not as they were written."""
    wrong: list[int] = []
    for window in windows(numbers, size):
        client.send_raw(b"".join(encode_request([b"GET", b"k%d" % n]) for n in window))
        wrong += [n for n in window if client.bulk() != value_of(n, size)]
        if peak is not None:
            peak.look()
    return wrong


def windows(numbers: list[int], size: int) -> Iterator[list[int]]:
    count = WINDOW if size < limits.MIB else 1
    for start in range(0, len(numbers), count):
        yield numbers[start : start + count]
