"""What a simulated cluster costs, gives and is used for, added up over time. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pocketkv.catalog import MachineType

BUCKETS: Final = 480
"""Points of time that are kept for a plot, however long the trace is."""

_HOUR_MS: Final = 3_600_000


@dataclass
class Tally:
    """Sums over time of amounts that change now and then; `total` is their integral per ms."""

    amount: int = 0
    total: int = 0
    since_ms: int = 0

    def advance(self, now_ms: int) -> None:
        """Add up to now."""
        self.total += self.amount * (now_ms - self.since_ms)
        self.since_ms = now_ms

    def add(self, more: int, now_ms: int) -> None:
        """Change the amount from now on."""
        self.advance(now_ms)
        self.amount += more


@dataclass
class _Bill:
    machine: MachineType
    started_ms: int


@dataclass(frozen=True)
class Point:
    """Means over one piece of time: bytes per second that servers could do, and did; servers."""

    provided_bytes_s: float
    used_bytes_s: float
    servers: float


@dataclass
class Meter:
    """Servers that are paid for, and what jobs make of them.

    Args:
        length_ms: How long the trace is.
        billing_min_ms: A server is paid for at least so long.

    Attributes:
        cost_usd: What stopped servers have cost.
        moved_bytes: What went from server to server because slots moved.
        starts: How many servers were started.
        peak: The most servers at a time, by tier; `now` those of now.
        missed: Sum over jobs of their missing share, in thousandths, over time.
        missing_jobs: How many jobs ever got too little.
        running: How many jobs have begun and not ended.
    """

    length_ms: int
    billing_min_ms: int
    cost_usd: float = 0.0
    moved_bytes: int = 0
    starts: int = 0
    peak: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)
    missed: Tally = field(default_factory=Tally)
    missing_jobs: int = 0
    running: int = 0

    def __post_init__(self) -> None:
        self.servers = Tally()
        self.bandwidth = Tally()
        self.capacity = Tally()
        self.traffic = Tally()
        self.held = Tally()
        self._bills: dict[str, _Bill] = {}
        self._bucket_ms = max(1, -(-self.length_ms // BUCKETS))
        self._series = [(0, 0, 0)]

    def start(self, server_id: str, machine: MachineType, now_ms: int) -> None:
        """Begin to pay for a server."""
        self._touch(now_ms)
        self._bills[server_id] = _Bill(machine, now_ms)
        self.starts += 1
        self.now[machine.tier] += 1
        self.peak[machine.tier] = max(self.peak[machine.tier], self.now[machine.tier])
        self._count(machine, 1, now_ms)

    def stop(self, server_id: str, now_ms: int) -> None:
        """Pay for a server, for the last time."""
        self._touch(now_ms)
        bill = self._bills.pop(server_id)
        paid_ms = max(now_ms - bill.started_ms, self.billing_min_ms)
        self.cost_usd += bill.machine.server_price_per_hour * paid_ms / _HOUR_MS
        self.now[bill.machine.tier] -= 1
        self._count(bill.machine, -1, now_ms)

    def _count(self, machine: MachineType, sign: int, now_ms: int) -> None:
        self.servers.add(sign, now_ms)
        self.bandwidth.add(sign * machine.bandwidth_bytes_s, now_ms)
        self.capacity.add(sign * machine.capacity_bytes, now_ms)

    def use(self, traffic_bytes_s: int, held_bytes: int, now_ms: int) -> None:
        """Have jobs move and hold so much more from now on."""
        if traffic_bytes_s or held_bytes:
            self._touch(now_ms)
            self.traffic.add(traffic_bytes_s, now_ms)
            self.held.add(held_bytes, now_ms)

    def miss(self, more_thousandths: int, now_ms: int) -> None:
        """Have jobs lack so much more from now on."""
        self.missed.add(more_thousandths, now_ms)

    def finish(self, now_ms: int) -> None:
        """End: what still runs is stopped, and paid."""
        for server_id in list(self._bills):
            self.stop(server_id, now_ms)
        for tally in (self.servers, self.bandwidth, self.capacity, self.traffic, self.held):
            tally.advance(now_ms)
        self.missed.advance(now_ms)
        pieces = max(BUCKETS, -(-now_ms // self._bucket_ms))
        self._bucket_to(pieces * self._bucket_ms)

    # --- over time -----------------------------------------------------------------------------

    def _touch(self, now_ms: int) -> None:
        if now_ms >= len(self._series) * self._bucket_ms:
            self._bucket_to(now_ms)

    def _bucket_to(self, now_ms: int) -> None:
        """Note the sums at each end of a piece of time that has passed."""
        while (end_ms := len(self._series) * self._bucket_ms) <= now_ms:
            for tally in (self.bandwidth, self.traffic, self.servers):
                tally.advance(max(end_ms, tally.since_ms))
            self._series.append((self.bandwidth.total, self.traffic.total, self.servers.total))

    def points(self) -> list[Point]:
        """Return the means over each piece of time."""
        return [
            Point(*((after - before) / self._bucket_ms for before, after in zip(a, b, strict=True)))
            for a, b in zip(self._series, self._series[1:], strict=False)
        ]
