"""Metrics of slots that are moved between servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pocketkv.engine.moving import MoveFigures
from pocketkv.engine.stats import LATENCY_BUCKETS
from pocketkv.observability.metrics import Figures, Histogram, Name

MOVING = Name("moves", "gauge", "Moves of slots under way.", ("direction",))
MOVED = Name("moves_total", "counter", "Moves of slots that were carried out.", ("direction",))
MOVED_KEYS = Name("moved_keys_total", "counter", "Keys that they had.", ("direction",))
MOVED_BYTES = Name("moved_bytes_total", "counter", "Bytes that they had.", ("direction",))
FAILED = Name("moves_failed_total", "counter", "Moves of slots that were given up at the source.")
HELD = Name(
    "move_hold_seconds",
    "histogram",
    "How long commands on slots were held that were about to go, or that clients changed as fast "
    "as they were sent.",
)
LOST = Name("moved_keys_lost_total", "counter", "Keys that were lost with the server they went to.")

_RECENT_HOLDS: Final = 1000
_LAST_BUCKET: Final = LATENCY_BUCKETS - 1


class HoldTimes:
    """How long commands were held for moves.

    Attributes:
        count, total_ns, last_s, max_s: How often, and for how long.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.last_s = 0.0
        self.max_s = 0.0
        self._buckets = [0] * LATENCY_BUCKETS
        self._recent_s: list[float] = []

    def add(self, duration_s: float) -> None:
        """Commands on some slots were held for so long."""
        duration_ns = int(duration_s * 1e9)
        self.count += 1
        self.total_ns += duration_ns
        self.last_s = duration_s
        self.max_s = max(self.max_s, duration_s)
        self._buckets[min(duration_ns.bit_length(), _LAST_BUCKET)] += 1
        self._recent_s.append(duration_s)
        del self._recent_s[:-_RECENT_HOLDS]

    @property
    def p99_s(self) -> float:
        """What 99 % of the last holds did not exceed."""
        times_s = sorted(self._recent_s)
        return times_s[len(times_s) * 99 // 100] if times_s else 0.0

    def histogram(self) -> Histogram:
        """All of them, as a metric tells it."""
        return Histogram(tuple(self._buckets), self.total_ns)


def move_metrics(figures: MoveFigures, holds: HoldTimes) -> Iterator[Figures]:
    """The metrics of one server."""
    for name, sent, received in (
        (MOVING, figures.sending, figures.receiving),
        (MOVED, figures.sent, figures.received),
        (MOVED_KEYS, figures.sent_keys, figures.received_keys),
        (MOVED_BYTES, figures.sent_bytes, figures.received_bytes),
    ):
        yield Figures(name).add(sent, "out").add(received, "in")
    yield Figures(FAILED).add(figures.failed)
    yield Figures(HELD).add(holds.histogram())
    yield Figures(LOST).add(figures.lost_keys)
