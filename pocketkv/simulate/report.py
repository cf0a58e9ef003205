"""The table of what came of a trace under each policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pocketkv.amounts import format_bytes
from pocketkv.simulate.comparing import POCKET, POCKETKV, STATIC_DRAM, Outcome
from pocketkv.simulate.options import SimulateConfig
from pocketkv.simulate.trace import TracedJob

_PLAIN_COLUMNS: Final = 140


def summary(jobs: Sequence[TracedJob], config: SimulateConfig) -> dict[str, Any]:
    """Return what the trace is, as what `json.dumps` takes."""
    made_up = f"made up: {config.jobs_per_hour:g} jobs per hour, seed {config.seed}"
    if config.job_size > 1:
        made_up += f", {config.job_size} times as large and as long"
    return {
        "origin": made_up if config.trace is None else str(config.trace),
        "jobs": len(jobs),
        "kinds": dict(sorted(Counter(job.name for job in jobs).items())),
        "hours": max(job.end_s for job in jobs) / 3600,
        "bytes": sum(job.written_bytes + job.read_bytes for job in jobs),
        "start_delay_s": config.start_delay_s,
        "billing_min_s": config.billing_min_s,
        "scale_down_after_s": config.rules.down_after_s,
    }


def caption(trace: dict[str, Any]) -> str:
    """Return a line about the trace."""
    kinds = trace["kinds"]
    named = ""
    if len(kinds) <= 8:
        named = " (" + ", ".join(f"{count} {name}" for name, count in kinds.items()) + ")"
    return (
        f"{trace['jobs']:,} jobs{named} in {trace['hours']:.1f} h, {trace['origin']};"
        f" servers take {trace['start_delay_s']:g} s to start"
    )


def comparison(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how PocketKV compares with others, a line each."""
    by_name = {one.policy: one for one in outcomes}
    own = by_name[POCKETKV]
    lines = []
    for name in (STATIC_DRAM, POCKET):
        other = by_name[name]
        part = 1 - own.cost_usd / other.cost_usd if other.cost_usd else 0.0
        verdict = f"{abs(part):.0%} {'cheaper' if part >= 0 else 'dearer'} than {name}"
        if other.missed_s:
            less = 1 - own.missed_s / other.missed_s
            verdict += f", with {abs(less):.0%} {'less' if less >= 0 else 'more'} missed"
        lines.append(f"{POCKETKV} is {verdict}")
    return lines


def show(trace: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Print the table."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PLAIN_COLUMNS
    console.print(caption(trace), soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(_TITLES):
        table.add_column(title, justify="left" if not number else "right", no_wrap=True)
    for one in outcomes:
        table.add_row(*_row(one))
    console.print(table)
    for line in comparison(outcomes):
        console.print(line, soft_wrap=True)
    own = next(one for one in outcomes if one.policy == POCKETKV)
    if own.duration_s > 0:
        console.print(
            f"simulated in {sum(one.duration_s for one in outcomes):.1f} s;"
            f" {POCKETKV}: {own.events:,} events, {own.events / own.duration_s:,.0f} per second",
            soft_wrap=True,
        )


_TITLES: Final = (
    "policy",
    "cost USD",
    "server h",
    "most servers",
    "network",
    "capacity",
    "missed",
    "late jobs",
    "moved",
    "starts",
)


def _row(one: Outcome) -> list[str]:
    return [
        one.policy,
        f"{one.cost_usd:,.2f}",
        f"{one.server_hours:,.1f}",
        ", ".join(f"{count} {tier}" for tier, count in one.peak_servers.items()),
        f"{one.network_use:.0%}",
        f"{one.capacity_use:.1%}",
        f"{one.missed:.1%}",
        f"{one.missing_jobs:,}",
        format_bytes(one.moved_bytes) if one.moved_bytes else "-",
        f"{one.starts:,}",
    ]
