"""Memory: what a key costs, and whether a server's own account of it is true.

Servers are started anew for it, since what they held before leaves its traces. A figure is the
growth since the start, so that it is about keys and values and not about the program around them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Final

from benchmarks.client import Client
from benchmarks.comparison import Row, Spread, Target
from benchmarks.exchanges import command, key, value
from benchmarks.servers import Endpoint
from benchmarks.works import MIB, SMALL_BYTES, size_title

Starter = Callable[[], AbstractContextManager[Endpoint]]

SETTLE_S: Final = 5.0
"""How long after half of the keys are deleted the account must be true again."""

_PER_KEY: Final = Target(high=1.5)
_HONEST: Final = Target(low=0.85, high=1.15)
_DELETED_PER_REQUEST: Final = 100


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds beyond what it held when it was empty.

    Attributes:
        keys: Number of keys.
        accounted_bytes: What it says that they take (``used_memory``).
        resident_bytes: What the kernel says.
    """

    keys: int
    accounted_bytes: int
    resident_bytes: int

    @property
    def honesty(self) -> float:
        """What the kernel says to what the server says."""
        return self.resident_bytes / max(self.accounted_bytes, 1)


class _Filled:
    """A server that is filled for measuring its memory."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client: Client = endpoint.client()
        self._empty_accounted_bytes = self._accounted_bytes()
        self._empty_resident_bytes = endpoint.memory_bytes()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def set_keys(self, keys: int, value_bytes: int) -> None:
        """Set this many keys."""
        self._client.set_strings(0, keys, value(value_bytes))

    def set_until(self, accounted_bytes: int, value_bytes: int) -> None:
        """Set keys until the server accounts for so much."""
        stored = value(value_bytes)
        step = max(1, accounted_bytes // (20 * (value_bytes + SMALL_BYTES)))
        keys = 0
        while self._accounted_bytes() - self._empty_accounted_bytes < accounted_bytes:
            self._client.set_strings(keys, step, stored)
            keys += step

    def delete_every_second(self) -> None:
        """Delete half of the keys: every second one, the worst for whoever wants memory back."""
        names = [key(number) for number in range(0, self._client.call("DBSIZE"), 2)]
        for batch in _batches(names):
            self._client.send([command(b"DEL", *batch)], b":%d\r\n" % len(batch))

    def held(self) -> Held:
        """Look at it."""
        return Held(
            keys=self._client.call("DBSIZE"),
            accounted_bytes=self._accounted_bytes() - self._empty_accounted_bytes,
            resident_bytes=self._endpoint.memory_bytes() - self._empty_resident_bytes,
        )

    def _accounted_bytes(self) -> int:
        return int(self._client.info("memory")["used_memory"])


def _batches(names: list[bytes]) -> Iterator[list[bytes]]:
    for first in range(0, len(names), _DELETED_PER_REQUEST):
        yield names[first : first + _DELETED_PER_REQUEST]


def bytes_per_key(start_ours: Starter, start_theirs: Starter, keys: int) -> tuple[Row, list[Held]]:
    """Return the comparison of what a small key costs, and the figures that it is from.

    Raises:
        BenchmarkError: A server does not start, or answers otherwise than it should.
    """
    held = []
    for start in (start_ours, start_theirs):
        with start() as endpoint:
            filled = _Filled(endpoint)
            try:
                filled.set_keys(keys, SMALL_BYTES)
                held.append(filled.held())
            finally:
                filled.close()
    ours, theirs = (one.resident_bytes / keys for one in held)
    row = Row(
        work=f"{keys:,} keys of {size_title(SMALL_BYTES)}",
        measure="memory per key",
        unit="B",
        ours=ours,
        theirs=theirs,
        compared=_single(ours / theirs),
        target=_PER_KEY,
    )
    return row, held


def honesty(
    start_ours: Starter, start_theirs: Starter, value_bytes: int, accounted_bytes: int
) -> tuple[list[Row], list[Held]]:
    """Return how true the accounts are when full, and some time after half is deleted.

    Both servers are at it at the same time, so that the wait is one. Otherwise as
    `bytes_per_key`.
    """
    with ExitStack() as stack:
        both = []
        for start in (start_ours, start_theirs):
            filled = _Filled(stack.enter_context(start()))
            stack.callback(filled.close)
            filled.set_until(accounted_bytes, value_bytes)
            both.append(filled)
        full = [filled.held() for filled in both]
        for filled in both:
            filled.delete_every_second()
        time.sleep(SETTLE_S)
        half = [filled.held() for filled in both]
    amount = f"{accounted_bytes / 1000**2:,.0f} MB of {size_title(value_bytes)} values"
    rows = [
        _honesty_row(amount, full),
        _honesty_row(f"{amount}, {SETTLE_S:.0f} s after half is deleted", half),
    ]
    return rows, full + half


def _honesty_row(work: str, held: list[Held]) -> Row:
    ours, theirs = (one.honesty for one in held)
    return Row(
        work=work,
        measure="resident / accounted",
        unit="",
        ours=ours,
        theirs=theirs,
        compared=_single(ours),
        target=_HONEST,
        is_own=True,
    )


def _single(figure: float) -> Spread:
    return Spread(figure, figure, figure)


HONESTY_VALUES_BYTES: Final = (SMALL_BYTES, MIB)
