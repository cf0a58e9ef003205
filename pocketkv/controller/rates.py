"""Bytes per second, from the totals that servers report and the times at which they do. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

from pocketkv.controller.members import Report

# Reports come every second; two that arrive closer together, after a pause, are one.
INTERVAL_MIN_MS: Final = 500

_COUNTERS: Final = ("received_bytes", "sent_bytes", "disk_read_bytes", "disk_written_bytes")


@dataclass(frozen=True)
class Rates:
    """What a server received, sent, read and wrote per second, lately.

    Attributes:
        since: The report that the next rates count from, and `since_ms` when it came.
    """

    received_bytes_s: float = 0.0
    sent_bytes_s: float = 0.0
    disk_read_bytes_s: float = 0.0
    disk_written_bytes_s: float = 0.0
    since: Report | None = None
    since_ms: int = 0

    def after(self, report: Report, now_ms: int) -> Self:
        """Return the rates when a report has come.

        A counter that went back is that of another process, which begins anew.
        """
        if self.since is None:
            return replace(self, since=report, since_ms=now_ms)
        elapsed_ms = now_ms - self.since_ms
        if elapsed_ms < INTERVAL_MIN_MS:
            return self
        per_second = {
            f"{name}_s": max(0, getattr(report, name) - getattr(self.since, name))
            * (1000 / elapsed_ms)
            for name in _COUNTERS
        }
        return replace(self, **per_second, since=report, since_ms=now_ms)

    @property
    def network_bytes_s(self) -> float:
        """The busier direction of the network."""
        return max(self.received_bytes_s, self.sent_bytes_s)

    @property
    def disk_bytes_s(self) -> float:
        """What devices read and wrote: they do one at a time."""
        return self.disk_read_bytes_s + self.disk_written_bytes_s
