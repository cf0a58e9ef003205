"""How long it takes to place a job: many jobs registered with a state machine of many servers.

``python -m benchmarks.placing --servers 1000 --jobs 10000``. No processes, no network: this is
what the controller's thread does for each ``JOB.REGISTER``, by its CPU time, so that what else
runs on the machine counts little.
"""

from __future__ import annotations

import argparse
import itertools
import time
from random import Random

from pocketkv.catalog import Catalog, load_catalog
from pocketkv.controller.members import STORAGE, Joining
from pocketkv.controller.messages import JobDeregistered, JobRegistered, Joined
from pocketkv.controller.state import ClusterState
from pocketkv.jobs import Hints, Job, Latency

MIX = ("dram", "dram", "nvme", "nvme", "ssd", "hdd")
"""Tiers of the servers, in turn."""


def cluster_of(servers: int, catalog: Catalog) -> ClusterState:
    """Return a cluster of so many servers as the catalog describes them."""
    state = ClusterState(catalog, str, now_ms=0)
    for number, tier in zip(range(servers), itertools.cycle(MIX)):
        joining = Joining(
            id=f"server-{number:05}",
            role=STORAGE,
            host="10.0.0.1",
            port=7000,
            generation="1",
            tier=tier,
            machine=f"machine-{number}",
            capacity_bytes=catalog.tier(tier).capacity_bytes,
        )
        state.handle(Joined(joining), 0)
    return state


def some_hints(random: Random) -> Hints:
    """Return hints of a job: mostly less than one server, one in a hundred about ninety."""
    if random.random() < 0.01:
        return Hints(lambdas=400, capacity_bytes=10**13, latency=Latency.TOLERANT)
    return Hints(
        lambdas=random.choice([None, 1, 2, 5]),
        capacity_bytes=random.choice([None, 10**8, 10**9, 10**10, 3 * 10**10]),
        latency=random.choice([None, *Latency]),
    )


def measure(servers: int, jobs: int, living: int) -> tuple[list[float], int]:
    """Return the seconds of each registration, sorted, and how many living jobs are short.

    Never more than `living` jobs are there at a time: then one ends, whichever, for each.
    """
    random = Random(1)
    state = cluster_of(servers, load_catalog())
    seconds = []
    alive: list[str] = []
    for number in range(jobs):
        job = Job.registered("job", some_hints(random), 0, number.to_bytes(8, "big"))
        before = time.thread_time()
        state.handle(JobRegistered(job), 0)
        seconds.append(time.thread_time() - before)
        alive.append(job.id)
        if len(alive) > living:
            state.handle(JobDeregistered(alive.pop(random.randrange(len(alive)))), 0)
    return sorted(seconds), sum(bool(tenant.shortages) for tenant in state.tenants.values())


def main() -> None:
    """Print one line of a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--living", type=int, default=2_500, help="jobs at a time")
    args = parser.parse_args()
    seconds, short = measure(args.servers, args.jobs, args.living)
    ranks = [0.5, 0.99, 0.999, 1.0]
    figures = [sum(seconds) / len(seconds)]
    figures += [seconds[min(len(seconds) - 1, int(len(seconds) * rank))] for rank in ranks]
    shown = " | ".join(f"{1000 * figure:.2f} ms" for figure in figures)
    print("| servers | jobs | at a time | short | mean | p50 | p99 | p99.9 | max |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| {args.servers} | {args.jobs} | {args.living} | {short} | {shown} |")


if __name__ == "__main__":
    main()
