"""What a store has done so far, counted by all its threads."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """The counters at one time; all of them only grow.

    Attributes:
        requests: Calls of each operation, failed ones too; what is repeated counts once.
        seconds: Time spent in them, waits between repetitions included.
        errors: Failed calls of each kind (`pocketkv.tiers.s3.errors.Kind`).
        retries: Repetitions.
        sent_bytes, received_bytes: Of values, without protocol and repetitions.
    """

    requests: dict[str, int]
    seconds: dict[str, float]
    errors: dict[str, int]
    retries: int
    sent_bytes: int
    received_bytes: int


class Counters:
    """Counts calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._errors: Counter[str] = Counter()
        self._retries = 0
        self._sent_bytes = 0
        self._received_bytes = 0

    def called(self, operation: str, seconds: float, error: str | None) -> None:
        """A call has ended, with an error of a kind or none."""
        with self._lock:
            self._requests[operation] += 1
            self._seconds[operation] = self._seconds.get(operation, 0.0) + seconds
            if error is not None:
                self._errors[error] += 1

    def failed(self, kind: str) -> None:
        """Something is wrong that no call told: a checksum, for one."""
        with self._lock:
            self._errors[kind] += 1

    def retried(self, times: int) -> None:
        """A request was repeated so often."""
        if times:
            with self._lock:
                self._retries += times

    def moved(self, *, sent: int = 0, received: int = 0) -> None:
        """So many bytes of values have arrived where they were to go."""
        with self._lock:
            self._sent_bytes += sent
            self._received_bytes += received

    def counts(self) -> Counts:
        """The counters now."""
        with self._lock:
            return Counts(
                dict(self._requests),
                dict(self._seconds),
                dict(self._errors),
                self._retries,
                self._sent_bytes,
                self._received_bytes,
            )
