"""The tables at the end of the demo."""

from __future__ import annotations

import math
from typing import Any

from pocketkv.catalog import Catalog
from pocketkv.demo.screen import Screen, amount, rate
from pocketkv.demo.servers import Holding
from pocketkv.demo.stages import Stage


def show_stages(screen: Screen, stages: list[Stage]) -> None:
    """Show what each stage read, moved through PocketKV, and how fast it got through its input."""
    rows = [
        [
            f"{stage.workers} x {stage.name}",
            f"{stage.duration_s:.1f} s",
            amount(stage.read_bytes),
            _keys_and_bytes(stage.written_keys, stage.written_bytes),
            _keys_and_bytes(stage.fetched_keys, stage.fetched_bytes),
            rate(stage.read_bytes, stage.duration_s),
        ]
        for stage in stages
    ]
    screen.table(
        "Stages",
        ["stage", "time", "input", "into the job", "out of the job", "speed"],
        rows,
    )
    shuffled = stages[0]
    screen.say(
        f"Shuffled: {shuffled.written_keys} keys, {amount(shuffled.written_bytes)}."
        " Speed is input by time, starting and computing included."
    )


def show_servers(screen: Screen, held: list[Holding]) -> None:
    """Show what each server held at the peak, which is after the map stage."""
    rows = [
        [h.server, h.tier, f"{100 * h.share:.0f} %", str(h.keys), amount(h.used_bytes)]
        for h in held
    ]
    screen.table(
        "Servers, between map and reduce", ["server", "tier", "slots", "keys", "memory"], rows
    )


def show_cost(screen: Screen, catalog: Catalog, info: dict[str, Any], duration_s: float) -> None:
    """Show what the job would have cost, by the catalog's prices."""
    for line in cost_lines(catalog, info, duration_s):
        screen.say(line)


def cost_lines(catalog: Catalog, info: dict[str, Any], duration_s: float) -> list[str]:
    """Return what is said of the cost; `info` is what ``JOB.INFO`` answers."""
    demand = info["demand"]
    tiers = [str(tier) for tier in info["tiers"]]
    per_hour = float(info["cost_usd_per_hour"])
    reserved = f"{amount(demand['capacity_bytes'])} and {rate(demand['throughput_bytes_s'], 1)}"
    price = f"{duration_s:.1f} s of {_dollars(per_hour)} an hour"
    lines = [
        "",
        f"Cost, were these the catalog's machines: {_dollars(per_hour * duration_s / 3600)}",
        f"  {price}, for what is kept for the job: {reserved} on {' and '.join(tiers)}",
    ]
    if len(tiers) == 1:
        tier = catalog.tier(tiers[0])
        share = tier.servers_for(demand["capacity_bytes"], demand["throughput_bytes_s"])
        count = max(1, math.ceil(share - 1e-9))
        machines = f"{count} x {tier.source.split(',', 1)[0]}"
        hour = _dollars(count * tier.server_price_per_hour)
        lines += [
            f"  a Redis of one's own for that throughput, {machines}, for an hour: {hour}",
            f"  prices of {tier.dated}; routers, controller and traffic are not in them",
        ]
    return lines


def _keys_and_bytes(keys: int, size_bytes: int) -> str:
    return f"{keys} keys {amount(size_bytes)}" if keys else "-"


def _dollars(amount_usd: float) -> str:
    return f"{amount_usd:.2f} USD" if amount_usd >= 0.1 else f"{amount_usd:.6f} USD"
