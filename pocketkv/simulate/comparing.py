"""A trace under several policies: the figures of each. Pure but for the clock that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pocketkv.catalog import Catalog
from pocketkv.simulate import fixed
from pocketkv.simulate.clock import Clock
from pocketkv.simulate.elastic import Elastic
from pocketkv.simulate.meter import Meter, Point
from pocketkv.simulate.pocket import Pocket
from pocketkv.simulate.policies import Base, Policy, World
from pocketkv.simulate.trace import TracedJob, milliseconds

POCKETKV: Final = "PocketKV"
POCKET: Final = "Pocket's release"
STATIC_DRAM: Final = "static dram"
STATIC_MIXED: Final = "static mixed"
REDIS: Final = "Redis, dram"
POLICIES: Final = (POCKETKV, POCKET, STATIC_MIXED, STATIC_DRAM, REDIS)
"""All that are compared, in the order in which they are shown."""

_FIXED: Final[Mapping[str, Callable[[Sequence[TracedJob], Catalog], dict[str, int]]]] = {
    STATIC_DRAM: fixed.static_dram,
    STATIC_MIXED: fixed.static_mixed,
    REDIS: fixed.redis_dram,
}


_TAIL_MS: Final = 1_000
"""After the trace, a cluster runs on in such steps while jobs are late."""


class FixedCluster(Base):
    """A cluster of fixed size, on which jobs do what they do."""

    def __init__(self, world: World, clock: Clock, meter: Meter, servers: dict[str, int]) -> None:
        super().__init__(world, clock, meter)
        self._servers = servers

    def begin(self) -> None:
        """See `Policy.begin`."""
        for tier, count in self._servers.items():
            for number in range(count):
                machine = self.world.catalog.tier(tier).reference
                self.meter.start(f"{tier}-{number}", machine, 0)

    def start(self, traced: TracedJob) -> None:
        """See `Policy.start`."""
        before_rate = before_held = 0
        for after_ms, rate, held in traced.phases():
            more = rate - before_rate, held - before_held
            self.clock.after(after_ms, partial(self._use, *more))
            before_rate, before_held = rate, held

    def _use(self, more_bytes_s: int, more_bytes: int) -> None:
        self.meter.use(more_bytes_s, more_bytes, self.now_ms)


@dataclass(frozen=True)
class Outcome:
    """What came of a trace under one policy.

    Attributes:
        cost_usd: Of all servers, over the whole trace.
        server_hours: How long servers ran, together.
        peak_servers: The most at a time, by tier.
        network_use, capacity_use: Parts that were used of what was paid for, over time.
        missed_s: Seconds in which jobs lacked something of what they had said that they need, each
            counted with the share that they lacked.
        missed: The same as a part of all the time that jobs ran.
        missing_jobs: How many jobs ever lacked something.
        moved_bytes: What went from server to server.
        starts: How many servers were started.
        traffic_bytes: What jobs moved in and out.
        events: What the simulation did, `duration_s` how long that took.
        points: Over time, for the plot.
    """

    policy: str
    cost_usd: float
    server_hours: float
    peak_servers: Mapping[str, int]
    network_use: float
    capacity_use: float
    missed_s: float
    missed: float
    missing_jobs: int
    moved_bytes: int
    starts: int
    traffic_bytes: int
    events: int
    duration_s: float
    points: Sequence[Point]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as what `json.dumps` takes."""
        figures = {name: value for name, value in vars(self).items() if name != "points"}
        return {**figures, "peak_servers": dict(self.peak_servers)}


def simulate(
    name: str,
    jobs: Sequence[TracedJob],
    world: World,
    *,
    billing_min_s: float,
    clock_s: Callable[[], float],
    check: Callable[[Policy], None] | None = None,
) -> Outcome:
    """Return what comes of a trace under a policy.

    Args:
        name: One of `POLICIES`.
        jobs: The trace, in the order of their start.
        world: What the cluster is like.
        billing_min_s: A server is paid for at least so long.
        clock_s: How long the simulation takes is measured with this.
        check: Called after each start of a job, for tests.
    """
    started_s = clock_s()
    length_ms = max(milliseconds(job.end_s) for job in jobs)
    clock = Clock()
    meter = Meter(length_ms, milliseconds(billing_min_s))
    policy = _policy(name, jobs, world, clock, meter)
    policy.begin()
    waiting = iter(jobs)

    def start(job: TracedJob) -> None:
        put_off()
        policy.start(job)
        if check is not None:
            check(policy)

    def put_off() -> None:
        """Only the next job waits in the clock: a trace may have a million."""
        job = next(waiting, None)
        if job is not None:
            clock.at(milliseconds(job.start_s), lambda: start(job))

    put_off()
    clock.run(length_ms)
    while meter.running:
        clock.run(clock.now_ms + _TAIL_MS)
    meter.finish(clock.now_ms)
    return _outcome(name, jobs, meter, clock, clock_s() - started_s)


def _policy(
    name: str, jobs: Sequence[TracedJob], world: World, clock: Clock, meter: Meter
) -> Policy:
    if name == POCKETKV:
        return Elastic(world, clock, meter)
    if name == POCKET:
        return Pocket(world, clock, meter)
    return FixedCluster(world, clock, meter, _FIXED[name](jobs, world.catalog))


def _outcome(
    name: str, jobs: Sequence[TracedJob], meter: Meter, clock: Clock, duration_s: float
) -> Outcome:
    missed_s = meter.missed.total / 1_000_000
    return Outcome(
        policy=name,
        cost_usd=meter.cost_usd,
        server_hours=meter.servers.total / 3_600_000,
        peak_servers=dict(meter.peak),
        network_use=_ratio(meter.traffic.total, meter.bandwidth.total),
        capacity_use=_ratio(meter.held.total, meter.capacity.total),
        missed_s=missed_s,
        missed=missed_s / sum(job.duration_s for job in jobs),
        missing_jobs=meter.missing_jobs,
        moved_bytes=meter.moved_bytes,
        starts=meter.starts,
        traffic_bytes=meter.traffic.total // 1000,
        events=clock.events,
        duration_s=duration_s,
        points=meter.points(),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
