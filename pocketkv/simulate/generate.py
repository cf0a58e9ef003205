"""Traces that are made up: jobs of three kinds that come at random, from a seed.

The kinds are those that Pocket was measured with (Klimovic et al., OSDI'18): sorting 100 GB with
hundreds of lambdas, which is bound by throughput; analysing a video, some 6 GB, which waits for no
single access; and building software with gg, about 1 GB in many small files by up to 650 lambdas,
which does. Sizes, lambdas and what is bound by what are the paper's; how long each runs is near
what its figures show, and the mix is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from pocketkv.jobs import Hints, Latency
from pocketkv.simulate.trace import TracedJob

_GB: Final = 10**9
_SPREAD: Final = 0.2
"""Durations differ so much from what is usual, either way."""


@dataclass(frozen=True)
class Kind:
    """A kind of job: how often it comes among others, and what a usual one is like."""

    name: str
    weight: float
    duration_s: float
    hints: Hints
    written_bytes: int
    read_bytes: int


KINDS: Final = (
    Kind(
        "sort",
        0.2,
        60.0,
        Hints(500, 100 * _GB, 7_500_000_000, Latency.TOLERANT),
        100 * _GB,
        100 * _GB,
    ),
    Kind(
        "video",
        0.4,
        90.0,
        Hints(300, 6 * _GB, 1_000_000_000, Latency.TOLERANT),
        6 * _GB,
        6 * _GB,
    ),
    # Headers and objects are read by many.
    Kind(
        "build",
        0.4,
        40.0,
        Hints(650, 1 * _GB, 250_000_000, Latency.SENSITIVE),
        1 * _GB,
        3 * _GB,
    ),
)


def generate(jobs_per_hour: float, hours: float, seed: int, size: int = 1) -> list[TracedJob]:
    """Return jobs that come independently of each other (Poisson), so many per hour on average.

    The same arguments always give the same jobs; at least one.

    Args:
        jobs_per_hour: The rate.
        hours: For how long jobs come; they end later.
        seed: Of the dice.
        size: Jobs move so many times as many bytes per second as usual, for so many times as long.
    """
    random = Random(seed)
    weights = [kind.weight for kind in KINDS]
    jobs: list[TracedJob] = []
    start_s = 0.0
    while True:
        start_s += random.expovariate(jobs_per_hour / 3600)
        if start_s >= hours * 3600 and jobs:
            return jobs
        kind = random.choices(KINDS, weights)[0]
        duration_s = kind.duration_s * size * random.uniform(1 - _SPREAD, 1 + _SPREAD)
        jobs.append(
            TracedJob(
                kind.name,
                round(start_s, 3),
                round(duration_s, 3),
                _larger(kind.hints, size),
                kind.written_bytes * size**2,
                kind.read_bytes * size**2,
            )
        )


def _larger(hints: Hints, size: int) -> Hints:
    return replace(
        hints,
        lambdas=(hints.lambdas or 0) * size,
        capacity_bytes=(hints.capacity_bytes or 0) * size**2,
        throughput_bytes_s=(hints.throughput_bytes_s or 0) * size,
    )
