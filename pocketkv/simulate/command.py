"""What `pocketkv simulate` does with the other modules."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO

from pocketkv.catalog import Catalog, CatalogError, load_catalog
from pocketkv.options import ConfigError, quoted
from pocketkv.simulate import plot, report
from pocketkv.simulate.comparing import POLICIES, simulate
from pocketkv.simulate.generate import generate
from pocketkv.simulate.options import SimulateConfig, simulate_config
from pocketkv.simulate.policies import World
from pocketkv.simulate.trace import TracedJob, TraceError, milliseconds, read_trace, write_trace

# Objects made, and not freed, before the garbage collector looks for circles.
_GC_OBJECTS: Final = 200_000


def run(namespace: argparse.Namespace) -> int:
    """Simulate and show; the process's exit status.

    Raises:
        ConfigError: an option, the trace or the catalog is wrong, or a file cannot be written.
    """
    config = simulate_config(namespace, os.environ)
    jobs = _jobs(config)
    if config.write_trace is not None:
        _write(config.write_trace, "--write-trace", lambda file: write_trace(jobs, file))
    world = _world(config)
    # Millions of small objects come, few of them in circles: to look for those all the time takes
    # as long as the simulation.
    gc.set_threshold(_GC_OBJECTS)
    is_watched = sys.stderr.isatty()
    outcomes = []
    for name in POLICIES:
        if is_watched:
            print(f"\r{name} ...\x1b[K", end="", file=sys.stderr, flush=True)
        outcomes.append(
            simulate(
                name,
                jobs,
                world,
                billing_min_s=config.billing_min_s,
                clock_s=time.perf_counter,
            )
        )
    if is_watched:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    summary = report.summary(jobs, config)
    if namespace.json:
        print(json.dumps({"trace": summary, "policies": [one.as_json() for one in outcomes]}))
    else:
        report.show(summary, outcomes)
    if config.plot is not None:
        length_s = max(job.end_s for job in jobs)
        drawing = plot.draw(outcomes, length_s, report.caption(summary))
        _write(config.plot, "--plot", lambda file: file.write(drawing))
    return 0


def _jobs(config: SimulateConfig) -> list[TracedJob]:
    if config.trace is None:
        return generate(config.jobs_per_hour, config.hours, config.seed, config.job_size)
    try:
        with config.trace.open(encoding="utf-8-sig", newline="") as file:
            return read_trace(file, str(config.trace))
    except TraceError as error:
        raise ConfigError(str(error)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{quoted(str(config.trace))}: {reason}") from error


def _world(config: SimulateConfig) -> World:
    try:
        catalog = load_catalog(None if config.catalog is None else str(config.catalog))
        for tier in ("dram", *config.rules.tiers):
            catalog.tier(tier)
    except CatalogError as error:
        raise ConfigError(str(error)) from error
    return World(
        _limited(catalog, config),
        config.rules,
        milliseconds(config.start_delay_s),
        config.move_share,
    )


def _limited(catalog: Catalog, config: SimulateConfig) -> Catalog:
    """Return the catalog of the tiers that there may be servers of, and of dram to compare with."""
    names = {"dram", *config.rules.tiers}
    return replace(catalog, tiers=tuple(tier for tier in catalog.tiers if tier.name in names))


def _write(path: Path, flag: str, write: Callable[[TextIO], object]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            write(file)
    except OSError as error:
        raise ConfigError(f"{flag}: {quoted(str(path))}: {error.strerror}") from error
