"""Simulated clusters: small traces counted by hand, what always holds, and the targets."""

from __future__ import annotations

import dataclasses
import math
import time
from itertools import count

import pytest

from pocketkv.catalog import Catalog, load_catalog, parse_catalog
from pocketkv.jobs import Hints, Latency
from pocketkv.scaling_rules import ScalingRules, TierRange
from pocketkv.simulate.comparing import (
    POCKET,
    POCKETKV,
    POLICIES,
    REDIS,
    STATIC_DRAM,
    STATIC_MIXED,
    Outcome,
    simulate,
)
from pocketkv.simulate.elastic import Elastic
from pocketkv.simulate.generate import generate
from pocketkv.simulate.options import HOURS, JOBS_PER_HOUR, RANGES, SEED
from pocketkv.simulate.pocket import Pocket
from pocketkv.simulate.policies import Policy, World
from pocketkv.simulate.trace import TracedJob

GB = 10**9
MB = 10**6

_MACHINE = """
[{tier}."m"]
capacity = "{capacity}"
bandwidth = "100m"
iops = 1000
read_latency_us = 1
price_per_hour = {price}
price_per_gb_month = 0.0
source = "made up"
dated = 2026-01-01
"""

CATALOG = parse_catalog(
    (
        _MACHINE.format(tier="dram", capacity="10g", price=3.6)
        + _MACHINE.format(tier="nvme", capacity="100g", price=1.8)
    ).encode(),
    "test",
)
"""A server of dram costs 0.001 USD per second, one of nvme half of it; both send 100 MB/s."""


def world(
    catalog: Catalog = CATALOG, *, least: int = 1, most: int = 50, down_after_s: float = 10.0
) -> World:
    ranges = {"dram": TierRange(least, most), "nvme": TierRange(least, most)}
    return World(catalog, ScalingRules(ranges, down_after_s=down_after_s), 30_000, 0.5)


def job(start_s: float, duration_s: float, mb_s: int, latency: Latency, gb: int = 1) -> TracedJob:
    """A job that hints at what it does: it writes, and reads, `gb` GB."""
    hints = Hints(None, gb * GB, mb_s * MB, latency)
    return TracedJob("job", start_s, duration_s, hints, gb * GB, gb * GB)


def play(
    policy: str, jobs: list[TracedJob], where: World | None = None, *, billing_min_s: float = 0.0
) -> Outcome:
    """Let a trace pass, and check after each start of a job what must always hold."""

    def check(now: Policy) -> None:
        if isinstance(now, Elastic | Pocket):
            now.validate()

    ticking = count()
    return simulate(
        policy,
        jobs,
        where or world(),
        billing_min_s=billing_min_s,
        clock_s=lambda: float(next(ticking)),
        check=check,
    )


# --- counted by hand ---------------------------------------------------------------------------


def test_clusters_of_fixed_size_have_what_the_peak_takes() -> None:
    jobs = [
        job(0, 100, 150, Latency.TOLERANT),
        job(50, 50, 150, Latency.TOLERANT),
        job(60, 40, 50, Latency.SENSITIVE),
    ]
    # 350 MB/s together are four servers; 300 and 50 by tier are three and one; with servers of
    # their own, two, two and one.
    for policy, servers, usd_s in (
        (STATIC_DRAM, {"dram": 4}, 0.004),
        (STATIC_MIXED, {"nvme": 3, "dram": 1}, 0.0025),
        (REDIS, {"dram": 5}, 0.005),
    ):
        found = play(policy, jobs)
        assert found.peak_servers == servers
        assert found.cost_usd == pytest.approx(100 * usd_s)
        assert (found.missed_s, found.moved_bytes) == (0, 0)


def test_a_job_that_fits_what_runs_misses_nothing_and_starts_nothing() -> None:
    found = play(POCKETKV, [job(10, 50, 80, Latency.SENSITIVE)])
    assert found.cost_usd == pytest.approx(60 * 0.0015)
    assert (found.missed_s, found.starts, found.peak_servers) == (0, 2, {"dram": 1, "nvme": 1})
    assert found.network_use == pytest.approx(2 * GB / (2 * 100 * MB * 60), rel=1e-3)


def test_a_job_that_needs_more_starts_on_what_is_there_and_spreads_when_more_is() -> None:
    # Of 200 MB/s there are 100; two dram servers are asked for at the next whole second, since one
    # is promised wholly, and the job's missing half costs it 31 s of half speed.
    found = play(POCKETKV, [job(10, 100, 200, Latency.SENSITIVE, gb=1)])
    assert found.missing_jobs == 1
    assert found.peak_servers["dram"] == 2
    # 10 s to the job, 1 s to the look, 30 s to the server, 1 s to the next look; then the half of
    # what it holds moves at 50 MB/s.
    assert found.missed_s == pytest.approx(0.5 * 31 + 0.5 * found.moved_bytes / (50 * MB), abs=1.0)
    assert found.moved_bytes > 0


def test_pocket_waits_for_all_servers_and_pays_for_them_meanwhile() -> None:
    # Two servers of dram are there and have 200 of 350 MB/s; two of nvme come after 30 s.
    found = play(POCKET, [job(10, 100, 350, Latency.TOLERANT)])
    assert found.missed_s == pytest.approx(30)
    assert found.peak_servers == {"dram": 2, "nvme": 2}
    assert found.cost_usd == pytest.approx(0.002 * 140 + 2 * 0.0005 * 130)
    assert found.moved_bytes == 0


def test_pocket_takes_servers_away_one_a_second_while_little_is_allocated() -> None:
    jobs = [job(0, 100, 400, Latency.TOLERANT), job(200, 100, 10, Latency.TOLERANT)]
    found = play(POCKET, jobs)
    # Four were needed; two are kept until the end.
    assert found.peak_servers == {"dram": 2, "nvme": 2}
    assert found.server_hours * 3600 == pytest.approx(2 * 300 + 130 + 130, abs=6)


def test_a_server_is_paid_for_at_least_so_long() -> None:
    found = play(POCKETKV, [job(0, 40, 80, Latency.SENSITIVE)], billing_min_s=60)
    assert found.cost_usd == pytest.approx(60 * 0.0015)


def test_servers_that_are_not_needed_leave_and_take_nothing_along() -> None:
    jobs = [job(0, 60, 500, Latency.SENSITIVE), job(300, 10, 10, Latency.SENSITIVE)]
    found = play(POCKETKV, jobs)
    assert found.peak_servers["dram"] == 5
    # Five run for a minute or two, one for all the time, and nvme's one.
    assert found.server_hours * 3600 < 2 * 310 + 4 * 140
    assert found.capacity_use < 1


def test_a_job_that_may_never_be_met_comes_to_its_end_all_the_same() -> None:
    found = play(POCKETKV, [job(0, 100, 1000, Latency.SENSITIVE)], world(most=2))
    assert found.peak_servers["dram"] == 2
    assert found.missed > 1
    assert found.traffic_bytes == pytest.approx(2 * GB, rel=0.01)


# --- what always holds -------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_what_jobs_write_and_read_is_what_servers_take_in_and_send(policy: str) -> None:
    jobs = generate(200, 0.5, 5)
    found = play(policy, jobs, dataclasses.replace(world(), catalog=CATALOG))
    moved = sum(job.written_bytes + job.read_bytes for job in jobs)
    # Rates are whole bytes per second and thousandths.
    assert found.traffic_bytes == pytest.approx(moved, rel=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_trace_has_one_outcome(policy: str) -> None:
    first, second = (play(policy, generate(300, 0.2, 9)) for _ in range(2))
    assert first == second
    assert first != play(policy, generate(300, 0.2, 10))


def test_the_pieces_over_time_add_up_to_the_whole() -> None:
    found = play(POCKETKV, generate(120, 0.5, 2))
    points = found.points
    used, provided = (
        sum(getattr(p, n) for p in points) for n in ("used_bytes_s", "provided_bytes_s")
    )
    assert found.network_use == pytest.approx(used / provided)
    assert all(0 <= p.used_bytes_s <= p.provided_bytes_s + 1 for p in points)


def test_servers_of_a_cluster_stay_within_its_limits() -> None:
    limited = world(most=50)
    rules = dataclasses.replace(limited.rules, servers_max=12)
    found = play(POCKETKV, generate(400, 0.1, 3), dataclasses.replace(limited, rules=rules))
    assert max(p.servers for p in found.points) <= 12
    assert sum(found.peak_servers.values()) <= 24
    assert found.missed > 0


# --- the targets -------------------------------------------------------------------------------


def test_the_default_trace_costs_60_percent_less_than_static_dram_and_less_than_pocket() -> None:
    where = World(load_catalog(), ScalingRules(RANGES), 30_000, 0.5)
    jobs = generate(JOBS_PER_HOUR, HOURS, SEED)
    own, pocket, static = (
        simulate(name, jobs, where, billing_min_s=60, clock_s=time.perf_counter)
        for name in (POCKETKV, POCKET, STATIC_DRAM)
    )
    assert own.cost_usd <= 0.4 * static.cost_usd
    assert own.cost_usd < pocket.cost_usd
    assert own.missed_s <= pocket.missed_s
    assert math.isclose(own.traffic_bytes, pocket.traffic_bytes, rel_tol=0.01)
