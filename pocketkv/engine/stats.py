"""What a node counts: commands, their latency, errors, slow calls. Read by INFO and metrics."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pocketkv.engine.commands import Command

# Latency is counted in buckets of powers of two nanoseconds; bucket i holds calls of less than
# 2**i ns. 2**40 ns are 18 minutes.
LATENCY_BUCKETS: Final = 41
_SLOW_ARGUMENTS_MAX: Final = 32
_SLOW_ARGUMENT_BYTES_MAX: Final = 128


class CommandStats:
    """Counts of one command on one node."""

    __slots__ = ("buckets", "calls", "failed", "rejected", "total_ns")

    def __init__(self) -> None:
        self.calls = 0
        self.failed = 0
        self.rejected = 0
        self.total_ns = 0
        self.buckets = array("q", bytes(8 * LATENCY_BUCKETS))


class KeyStats:
    """Counts of one job on this server; bytes are those of connections that were closed."""

    __slots__ = (
        "commands",
        "evicted",
        "expired",
        "hits",
        "misses",
        "received_bytes",
        "refused_oom",
        "sent_bytes",
        "spill_hits",
        "spilled_back",
        "spilled_out",
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from zero again: CONFIG RESETSTAT."""
        self.hits = 0
        self.misses = 0
        self.expired = 0
        self.evicted = 0
        self.commands = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.refused_oom = 0
        # Reads of what was moved out of memory, and keys that were moved out, and back for good.
        self.spill_hits = 0
        self.spilled_out = 0
        self.spilled_back = 0


@dataclass(frozen=True, slots=True)
class SlowCall:
    """One entry of the slow log."""

    id: int
    time_s: int
    duration_us: int
    arguments: list[bytes]
    address: str
    client_name: bytes
    job_id: str


class SlowLog:
    """The last slow calls of all jobs, newest first; SLOWLOG shows a job its own.

    Attributes:
        threshold_us: Calls that took longer are kept; negative: none.
        length_max: How many are kept.
    """

    __slots__ = ("entries", "length_max", "next_id", "threshold_us")

    def __init__(self, threshold_us: int = 10_000, length_max: int = 128) -> None:
        self.threshold_us = threshold_us
        self.length_max = length_max
        self.next_id = 0
        self.entries: deque[SlowCall] = deque()

    def add(
        self,
        request: list[bytes],
        time_s: int,
        duration_us: int,
        address: str,
        name: bytes,
        job_id: str,
    ) -> None:
        """Keep a call, its arguments shortened as Redis does."""
        if self.length_max <= 0:
            return
        shown = [_shorten(a) for a in request[:_SLOW_ARGUMENTS_MAX]]
        if len(request) > _SLOW_ARGUMENTS_MAX:
            left = len(request) - _SLOW_ARGUMENTS_MAX + 1
            shown[-1] = b"... (%d more arguments)" % left
        self.entries.appendleft(
            SlowCall(self.next_id, time_s, duration_us, shown, address, name, job_id)
        )
        self.next_id += 1
        self.trim()

    def trim(self) -> None:
        """Forget what is over `length_max`."""
        while len(self.entries) > max(self.length_max, 0):
            self.entries.pop()


def shown(command: Command, request: list[bytes]) -> list[bytes]:
    """A request as it may be kept: without passwords."""
    if command.name in _SECRET_FROM:
        start = _SECRET_FROM[command.name]
        return [*request[:start], *[_REDACTED] * len(request[start:])]
    if command.name in _PASSWORDS_FROM:
        return _without_passwords(request, _PASSWORDS_FROM[command.name])
    if command.name == "config|set":
        names = [b"", *(name.lower() for name in request)]
        return [
            _REDACTED if i % 2 and names[i] in _SECRET_SETTINGS else argument
            for i, argument in enumerate(request)
        ]
    return request


def _without_passwords(request: list[bytes], start: int) -> list[bytes]:
    """Arguments without what follows AUTH and AUTH2, which are options from `start` on."""
    kept = list(request)
    of_auth = 2 if request[0].upper() == b"HELLO" else 1
    for i in range(start, len(request)):
        secrets = {b"AUTH": of_auth, b"AUTH2": 2}.get(request[i].upper(), 0)
        for place in range(i + 1, min(i + 1 + secrets, len(request))):
            kept[place] = _REDACTED
    return kept


# Commands that may have secrets in all arguments from this one on.
_PASSWORDS_FROM: Final = {"hello": 2, "migrate": 6}
_SECRET_FROM: Final = {"auth": 1, "acl|setuser": 2, "acl|deluser": 2, "acl|getuser": 2}
_SECRET_SETTINGS: Final = frozenset((b"requirepass", b"masterauth", b"masteruser"))
_REDACTED: Final = b"(redacted)"


def _shorten(argument: bytes) -> bytes:
    if len(argument) <= _SLOW_ARGUMENT_BYTES_MAX:
        return argument
    left = len(argument) - _SLOW_ARGUMENT_BYTES_MAX
    return argument[:_SLOW_ARGUMENT_BYTES_MAX] + b"... (%d more bytes)" % left
