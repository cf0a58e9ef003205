"""Refuses calls while S3 is known to be away, so that nobody waits for one time-out after another.

After some failures in a row the breaker opens: calls are refused at once. A thread of its own then
asks S3 again and again, at growing intervals, until it answers, and ends. Only an outage counts
as a failure: who is refused for a wrong key has been answered.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from pocketkv.tiers.s3.errors import S3Error


class Breaker:
    """Whether calls make sense.

    Args:
        probe: Asks S3 something, once; raises S3Error. Any answer but ``unavailable`` will do.
        failures_max: So many in a row open the breaker.
        wait_s, wait_max_s: Between probes: the first wait, and what it grows to by doubling. Each
            is shortened by chance, so that many servers do not come back at one moment.
    """

    def __init__(
        self, probe: Callable[[], None], *, failures_max: int, wait_s: float, wait_max_s: float
    ) -> None:
        self._probe = probe
        self._failures_max = failures_max
        self._wait_s = wait_s
        self._wait_max_s = wait_max_s
        self._lock = threading.Lock()
        self._failures = 0
        self._reason = ""
        self._opened = 0
        # Set when nobody needs the prober any more: S3 is back, or the store is closed.
        self._settled = threading.Event()
        self._settled.set()
        self._prober: threading.Thread | None = None
        self._closed = False

    @property
    def available(self) -> bool:
        """Whether calls are let through."""
        return not self._reason

    @property
    def reason(self) -> str:
        """Why not, in one line; empty if they are."""
        return self._reason

    @property
    def opened(self) -> int:
        """How often it has opened so far."""
        return self._opened

    def check(self) -> None:
        """Let a call through.

        Raises:
            S3Error: unavailable: there is an outage.
        """
        reason = self._reason
        if reason:
            raise S3Error("unavailable", f"S3 is away, and asked again until it answers: {reason}")

    def succeeded(self) -> None:
        """S3 has answered."""
        # Read without the lock: this is every call's case, and a failure just now may count.
        if not self._failures and not self._reason:
            return
        with self._lock:
            self._failures = 0
            self._reason = ""
            self._settled.set()

    def failed(self, reason: str) -> None:
        """S3 has not answered, or has asked to come again."""
        with self._lock:
            self._failures += 1
            if self._failures < self._failures_max or self._reason or self._closed:
                return
            self._reason = reason
            self._opened += 1
            previous = self._prober
            self._settled = settled = threading.Event()
            self._prober = threading.Thread(
                target=self._ask_until, args=(settled, previous), name="s3-probe", daemon=True
            )
            self._prober.start()

    def close(self) -> None:
        """End the prober; the breaker stays as it is."""
        with self._lock:
            self._closed = True
            self._settled.set()
            prober = self._prober
        if prober is not None:
            prober.join()

    def _ask_until(self, settled: threading.Event, previous: threading.Thread | None) -> None:
        if previous is not None:
            # It has been told to end, and may be in its last probe.
            previous.join()
        wait_s = self._wait_s
        while not settled.wait(wait_s * random.uniform(0.5, 1.0)):
            wait_s = min(2 * wait_s, self._wait_max_s)
            try:
                self._probe()
            except S3Error as error:
                if error.kind == "unavailable":
                    continue
            if not settled.is_set():
                self.succeeded()
