"""The options of `pocketkv simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketkv.options import ConfigError, Given, Option, parse_number, parse_path, quoted
from pocketkv.scaling_rules import (
    AUTOSCALE,
    ScalingRules,
    TierRange,
    add_scaling_arguments,
    parse_seconds,
    scaling_rules,
)

JOBS_PER_HOUR: Final = 120.0
HOURS: Final = 1.0
SEED: Final = 1
"""The default trace: two jobs a minute, for an hour."""

RANGES: Final = {"dram": TierRange(1, 10_000), "nvme": TierRange(1, 10_000)}
"""The tiers that Pocket has; each keeps a server, so that jobs can begin at once."""

START_DELAY_S: Final = 30.0
"""What a machine of a cloud takes from the request until its server has joined; Pocket's release
waits for 60 to 100 s."""

BILLING_MIN_S: Final = 60.0
"""AWS bills machines by the second, and at least for a minute."""

MOVE_PERCENT: Final = 50
"""Moves leave half of a server's bandwidth to clients."""


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """What to simulate, and where the results go; without `trace` it is made up."""

    trace: Path | None
    jobs_per_hour: float
    hours: float
    seed: int
    job_size: int
    rules: ScalingRules
    start_delay_s: float
    billing_min_s: float
    move_share: float
    catalog: Path | None
    plot: Path | None
    write_trace: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; all default to None, which means not given."""
    parser.add_argument(
        "trace", nargs="?", metavar="TRACE.csv", help="jobs; without, a trace is made up"
    )
    parser.add_argument(
        "--generate",
        nargs=3,
        metavar=("JOBS_PER_HOUR", "HOURS", "SEED"),
        help=f"make a trace up [default: {JOBS_PER_HOUR:g} {HOURS:g} {SEED}]",
    )
    _JOB_SIZE.add_to(parser, "1")
    add_scaling_arguments(parser)
    _START_DELAY.add_to(parser, f"{START_DELAY_S:g}s")
    _BILLING_MIN.add_to(parser, f"{BILLING_MIN_S:g}s")
    _MOVE_PERCENT.add_to(parser, str(MOVE_PERCENT))
    _CATALOG.add_to(parser, "the catalog that comes with PocketKV")
    _PLOT.add_to(parser, "none")
    _WRITE_TRACE.add_to(parser, "none")
    parser.add_argument("--json", action="store_true", help="print JSON")


def simulate_config(namespace: argparse.Namespace, environ: Mapping[str, str]) -> SimulateConfig:
    """Return the configuration.

    Raises:
        ConfigError: an option is wrong.
    """
    given = Given(namespace, environ)
    if namespace.trace is not None and namespace.generate is not None:
        raise ConfigError("a trace is either read or made up: --generate goes without TRACE.csv")
    if getattr(namespace, AUTOSCALE.dest) is None and not environ.get(AUTOSCALE.variable):
        ranges = [f"{tier}={limits}" for tier, limits in RANGES.items()]
        namespace = argparse.Namespace(**{**vars(namespace), AUTOSCALE.dest: ranges})
    rules = scaling_rules(Given(namespace, environ))
    assert rules is not None, "there is a range"
    jobs_per_hour, hours, seed = _generated(namespace.generate)
    return SimulateConfig(
        trace=None if namespace.trace is None else Path(namespace.trace),
        jobs_per_hour=jobs_per_hour,
        hours=hours,
        seed=seed,
        job_size=given(_JOB_SIZE, 1),
        rules=rules,
        start_delay_s=given(_START_DELAY, START_DELAY_S),
        billing_min_s=given(_BILLING_MIN, BILLING_MIN_S),
        move_share=given(_MOVE_PERCENT, MOVE_PERCENT) / 100,
        catalog=given(_CATALOG, None),
        plot=given(_PLOT, None),
        write_trace=given(_WRITE_TRACE, None),
    )


def _generated(words: list[str] | None) -> tuple[float, float, int]:
    if words is None:
        return JOBS_PER_HOUR, HOURS, SEED
    try:
        rate = _amount(words[0], "a number of jobs per hour", 0.01, 10_000_000)
        hours = _amount(words[1], "a number of hours", 0.001, 24 * 366)
        return rate, hours, parse_number("a seed", 0, 2**32)(words[2])
    except ValueError as error:
        raise ConfigError(f"--generate: {error}") from error


def _amount(text: str, what: str, least: float, most: float) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not least <= amount <= most:
        raise ValueError(f"{quoted(text)} is not {what} ({least:g} to {most:,.0f})")
    return amount


_JOB_SIZE: Final = Option(
    "job-size",
    parse_number("a factor", 1, 100),
    "jobs that are made up move so many times as much per second, for so many times as long",
    "N",
)
_START_DELAY: Final = Option(
    "start-delay", parse_seconds, "how long a server takes from its request to its joining", "TIME"
)
_BILLING_MIN: Final = Option(
    "billing-min", parse_seconds, "a server is paid for at least so long", "TIME"
)
_MOVE_PERCENT: Final = Option(
    "move-percent", parse_number("a percentage", 1, 100), "bandwidth that moves of slots take", "N"
)
_CATALOG: Final = Option("catalog", parse_path, "TOML file of tiers and their prices", "PATH")
_PLOT: Final = Option("plot", parse_path, "SVG file to draw the results into", "FILE.svg")
_WRITE_TRACE: Final = Option("write-trace", parse_path, "file to write the trace to", "FILE.csv")
