"""Clusters of fixed size: as many servers, all the time, as the peak of a trace takes. Pure.

Who provisions so must know the peak beforehand; these do, exactly, so nobody ever lacks anything.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pocketkv.catalog import Catalog, Tier
from pocketkv.controller.policy.needs import ROUNDING
from pocketkv.jobs import Demand, Latency, infer
from pocketkv.simulate.trace import TracedJob


@dataclass(frozen=True)
class _Taken:
    """What jobs take of a tier at a time."""

    capacity_bytes: int = 0
    throughput_bytes_s: int = 0
    servers: int = 0


def static_dram(jobs: Sequence[TracedJob], catalog: Catalog) -> dict[str, int]:
    """Return how many servers of dram all jobs together need at the peak, sharing them."""
    return _peaks(jobs, catalog, lambda demand: catalog.tier("dram"))


def static_mixed(jobs: Sequence[TracedJob], catalog: Catalog) -> dict[str, int]:
    """Return how many servers of each tier jobs need, each job on the one that suits it.

    Sensitive ones on the fastest that they allow; tolerant ones where their share costs least.
    """
    return _peaks(jobs, catalog, lambda demand: _suiting(demand, catalog))


def redis_dram(jobs: Sequence[TracedJob], catalog: Catalog) -> dict[str, int]:
    """Return how many servers of dram there must be if each job has whole ones of its own.

    As with a Redis Cluster per job: instances are not shared between jobs.
    """
    return _peaks(jobs, catalog, lambda demand: catalog.tier("dram"), is_shared=False)


def _suiting(demand: Demand, catalog: Catalog) -> Tier:
    tiers = [tier for tier in catalog.tiers if tier.name in demand.tiers]
    if demand.latency is Latency.SENSITIVE:
        return tiers[0]
    needs = demand.capacity_bytes, demand.throughput_bytes_s
    return min(tiers, key=lambda tier: tier.reference.cost_per_hour(*needs))


def _peaks(
    jobs: Sequence[TracedJob],
    catalog: Catalog,
    tier_of: Callable[[Demand], Tier],
    *,
    is_shared: bool = True,
) -> dict[str, int]:
    now: dict[str, _Taken] = {}
    peaks: dict[str, int] = {}
    ends: list[tuple[float, int, str, _Taken]] = []
    for number, job in enumerate(jobs):
        while ends and ends[0][0] <= job.start_s:
            _, _, name, gone = heapq.heappop(ends)
            now[name] = _sum(now[name], gone, -1)
        demand = infer(job.hints, catalog)
        tier = tier_of(demand)
        share = tier.servers_for(demand.capacity_bytes, demand.throughput_bytes_s)
        own = _Taken(
            demand.capacity_bytes, demand.throughput_bytes_s, max(1, math.ceil(share - ROUNDING))
        )
        heapq.heappush(ends, (job.end_s, number, tier.name, own))
        taken = now[tier.name] = _sum(now.get(tier.name, _Taken()), own, 1)
        together = tier.servers_for(taken.capacity_bytes, taken.throughput_bytes_s)
        servers = math.ceil(together - ROUNDING) if is_shared else taken.servers
        peaks[tier.name] = max(peaks.get(tier.name, 1), servers)
    return peaks


def _sum(one: _Taken, other: _Taken, sign: int) -> _Taken:
    return _Taken(
        one.capacity_bytes + sign * other.capacity_bytes,
        one.throughput_bytes_s + sign * other.throughput_bytes_s,
        one.servers + sign * other.servers,
    )
