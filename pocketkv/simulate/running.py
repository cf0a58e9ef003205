"""Jobs while they run, and the servers that they run on, for policies that place by slots. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pocketkv.catalog import Catalog
from pocketkv.controller.policy import NOTHING, Ask, Commitment, Shortage
from pocketkv.controller.policy.needs import Need
from pocketkv.jobs import Demand, Latency, infer
from pocketkv.placement import Server
from pocketkv.simulate.progress import WHOLE, Progress
from pocketkv.simulate.trace import TracedJob
from pocketkv.slots import SLOT_COUNT


@dataclass
class Running:
    """A job that has registered and not ended.

    Attributes:
        traced: What the trace says of it.
        demand, need: What it is taken to need, and what it said that it needs.
        slots: By server.
        own: What it keeps of each server.
        loads: What it does to each server: bytes per second, bytes held.
        rate_bytes_s, held_bytes: What it would do now if it had all that it needs.
        missing: The share that it lacks of what it said it needs, in thousandths of it.
        asks: The servers that would give it that.
        moves: How often it was placed anew.
        progress: How far it has come.
    """

    id: str
    traced: TracedJob
    demand: Demand
    need: Need
    slots: Mapping[str, int] = field(default_factory=dict)
    own: dict[str, Commitment] = field(default_factory=dict)
    loads: dict[str, tuple[int, int]] = field(default_factory=dict)
    rate_bytes_s: int = 0
    held_bytes: int = 0
    missing: int = WHOLE
    asks: tuple[Ask, ...] = ()
    moves: int = 0
    progress: Progress | None = None

    @classmethod
    def begun(cls, job_id: str, traced: TracedJob, catalog: Catalog) -> Running:
        """Return a job that has nothing yet."""
        demand = infer(traced.hints, catalog)
        return cls(job_id, traced, demand, Need.of(traced.hints, demand))

    @property
    def speed(self) -> int:
        """How fast it comes on, in thousandths."""
        return 0 if self.progress is None else self.progress.speed

    def pace(self, missing: int, *, is_placed: bool) -> None:
        """See `Progress.lack`."""
        assert self.progress is not None, "it has begun"
        self.progress.lack(missing, is_placed=is_placed)

    def load_of(self, slots: int) -> tuple[int, int]:
        """Return what the job does to a server that has so many of its slots."""
        rate = self.rate_bytes_s * self.speed // WHOLE
        return rate * slots // SLOT_COUNT, self.held_bytes * slots // SLOT_COUNT

    def missing_by(self, shortages: tuple[Shortage, ...], tiers: Mapping[str, str]) -> int:
        """Return the share that the job lacks, in thousandths, where it has been placed.

        That of the scarcest resource; all of it without a server of its tiers; and what a job that
        is sensitive, and did not say which tiers it takes, has on other tiers than the fastest.
        """
        lacks = 0.0
        for shortage in shortages:
            if shortage.resource == "servers":
                lacks = 1.0
            elif shortage.resource in {"capacity", "throughput"} and shortage.wanted:
                lacks = max(lacks, 1 - shortage.available / shortage.wanted)
        hints = self.traced.hints
        if hints.latency is Latency.SENSITIVE and hints.tiers is None:
            slower = sum(n for s, n in self.slots.items() if tiers[s] != self.demand.tiers[0])
            lacks = max(lacks, slower / SLOT_COUNT)
        return round(lacks * WHOLE) if self.slots else WHOLE


@dataclass
class Station:
    """A simulated storage server.

    Attributes:
        server: Its record, as policy wants it.
        kept: What jobs keep of it.
        traffic_bytes_s, held_bytes: What they do to it.
        jobs: Which.
    """

    server: Server
    kept: Commitment = NOTHING
    traffic_bytes_s: int = 0
    held_bytes: int = 0
    jobs: dict[str, None] = field(default_factory=dict)

    @property
    def kept_in_bounds(self) -> tuple[int, int]:
        """What is kept of its capacity and bandwidth, as far as it has them.

        A job that lacks something has said more than what it was given.
        """
        return (
            min(self.kept.capacity_bytes, self.server.capacity_bytes),
            min(self.kept.throughput_bytes_s, self.server.bandwidth_bytes_s),
        )
