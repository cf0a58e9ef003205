"""How far the cluster may be scaled, and by which marks; `--autoscale` and the flags beside it.

A tier that has a range grows when the busiest of its resources is used above `grow_above`, to as
many servers as would have it at `target`, and shrinks when all are used below `shrink_below`, to
the most servers that were needed meanwhile, which would not be used above `target`. The gap
between `target` and `grow_above` is what keeps it from flapping.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pocketkv.catalog import TIER_NAMES, Catalog
from pocketkv.options import ConfigError, Given, Option, parse_number, quoted

TIER_SERVERS_MAX: Final = 10_000
"""Most servers of one tier: more than any cluster has had, and a slip of the finger is noticed."""

SECONDS_MAX: Final = 86_400
"""Longest time for which a load must last before it counts."""


@dataclass(frozen=True)
class TierRange:
    """A tier has at least `least` servers, and at most `most`."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or not 1 <= self.most <= TIER_SERVERS_MAX:
            raise ValueError(
                f"{self} is no range of servers: from 0 on, up to {TIER_SERVERS_MAX} and at least 1"
            )

    def __contains__(self, servers: int) -> bool:
        return self.least <= servers <= self.most

    def __str__(self) -> str:
        return f"{self.least}..{self.most}"


@dataclass(frozen=True)
class ScalingRules:
    """Limits and marks of scaling.

    Attributes:
        tiers: The range of each tier that is scaled by its load; others stay as they are.
        servers_max: Most storage servers of the cluster; None: no limit.
        cost_per_hour_max_usd: What they may cost by the catalog; None: no limit.
        up_after_s: How long a resource must be above its mark before servers are added.
        down_after_s: How long all must be below theirs before some are taken away.
        grow_above, shrink_below, target: Parts of what servers can do; see the module.
    """

    tiers: Mapping[str, TierRange] = field(default_factory=dict)
    servers_max: int | None = None
    cost_per_hour_max_usd: float | None = None
    up_after_s: float = 2.0
    down_after_s: float = 10.0
    grow_above: float = 0.8
    shrink_below: float = 0.6
    target: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.shrink_below < self.target < self.grow_above <= 1:
            raise ValueError("marks of scaling: shrink_below < target < grow_above")


def parse_autoscale(text: str) -> dict[str, TierRange]:
    """Return the ranges of ``dram=1..8,nvme=0..4``.

    Raises:
        ValueError: there are none, or a tier has two.
    """
    ranges: dict[str, TierRange] = {}
    for part in text.split(","):
        matched = re.fullmatch(r"\s*([A-Za-z]+)=([0-9]{1,6})\.\.([0-9]{1,6})\s*", part)
        if matched is None:
            raise ValueError(f"{quoted(part)} is not tier=least..most, such as dram=1..8")
        tier = matched.group(1).lower()
        if tier not in TIER_NAMES:
            raise ValueError(f"{quoted(tier)} is none of {', '.join(TIER_NAMES)}")
        if tier in ranges:
            raise ValueError(f"{tier} has more than one range")
        ranges[tier] = TierRange(int(matched.group(2)), int(matched.group(3)))
    return ranges


def parse_cost(text: str) -> float:
    """Return US dollars per hour.

    Raises:
        ValueError: not an amount above 0.
    """
    # Not `float`'s whole grammar: "nan" is no limit, and "1_0" a slip.
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,6})?", text) or not float(text) > 0:
        raise ValueError(f"{quoted(text)} is not an amount of dollars above 0, such as 2.50")
    return float(text)


def parse_seconds(text: str) -> float:
    """Return a time that may be given as ``30`` or ``30s``.

    Raises:
        ValueError: not a number of seconds from 0 on.
    """
    matched = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)s?", text)
    if matched is None:
        raise ValueError(f"{quoted(text)} is not a number of seconds, such as 30s")
    if float(matched.group(1)) > SECONDS_MAX:
        raise ValueError(f"{quoted(text)} is more than {SECONDS_MAX} seconds")
    return float(matched.group(1))


AUTOSCALE: Final = Option(
    "autoscale",
    parse_autoscale,
    "a tier whose servers follow its load, and how many it has; may be given for several tiers",
    "TIER=LEAST..MOST",
    is_list=True,
)
SERVERS_MAX: Final = Option(
    "servers-max",
    parse_number("a number of storage servers", 1, 1_000_000),
    "storage servers that autoscaling may have in all",
    "N",
)
_COST_PER_HOUR_MAX: Final = Option(
    "cost-per-hour-max",
    parse_cost,
    "what they may cost per hour by the catalog, in US dollars",
    "USD",
)
_SCALE_UP_AFTER: Final = Option(
    "scale-up-after", parse_seconds, "how long load must be high to add servers", "SECONDS"
)
_SCALE_DOWN_AFTER: Final = Option(
    "scale-down-after", parse_seconds, "how long load must be low to take servers away", "SECONDS"
)


def add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; all default to None, which means not given."""
    AUTOSCALE.add_to(parser, "none: tiers have as many servers as they are told to have")
    SERVERS_MAX.add_to(parser, "none")
    _COST_PER_HOUR_MAX.add_to(parser, "none")
    _SCALE_UP_AFTER.add_to(parser, f"{ScalingRules.up_after_s:g}s")
    _SCALE_DOWN_AFTER.add_to(parser, f"{ScalingRules.down_after_s:g}s")


def scaling_rules(given: Given) -> ScalingRules | None:
    """Return by which rules tiers are scaled, None if they are not.

    Raises:
        ConfigError: an option is wrong, or limits what is not there.
    """
    ranges = given(AUTOSCALE, None)
    if ranges is None:
        options: tuple[Option[Any], ...] = (
            SERVERS_MAX,
            _COST_PER_HOUR_MAX,
            _SCALE_UP_AFTER,
            _SCALE_DOWN_AFTER,
        )
        for option in options:
            if given(option, None) is not None:
                raise ConfigError(f"{given.source(option)} needs {AUTOSCALE.either}")
        return None
    servers_max = given(SERVERS_MAX, None)
    least = sum(limits.least for limits in ranges.values())
    if servers_max is not None and servers_max < least:
        raise ConfigError(
            f"{given.source(SERVERS_MAX)}: {servers_max} is less than the {least} servers that"
            f" {given.source(AUTOSCALE)} has at least"
        )
    return ScalingRules(
        tiers=ranges,
        servers_max=servers_max,
        cost_per_hour_max_usd=given(_COST_PER_HOUR_MAX, None),
        up_after_s=given(_SCALE_UP_AFTER, ScalingRules.up_after_s),
        down_after_s=given(_SCALE_DOWN_AFTER, ScalingRules.down_after_s),
    )


def scaling_arguments(rules: ScalingRules | None) -> list[str]:
    """Return the flags that say `rules` to another process."""
    if rules is None:
        return []
    arguments: list[str] = []
    for tier, limits in rules.tiers.items():
        arguments += [AUTOSCALE.flag, f"{tier}={limits}"]
    limited: tuple[tuple[Option[Any], float | None], ...] = (
        (SERVERS_MAX, rules.servers_max),
        (_COST_PER_HOUR_MAX, rules.cost_per_hour_max_usd),
        (_SCALE_UP_AFTER, rules.up_after_s),
        (_SCALE_DOWN_AFTER, rules.down_after_s),
    )
    for option, value in limited:
        if value is not None:
            text = str(value) if isinstance(value, int) else f"{value:.6f}"
            arguments += [option.flag, text]
    return arguments


def check_scaling(rules: ScalingRules | None, catalog: Catalog, plan: Mapping[str, int]) -> None:
    """Check that rules can be kept by a cluster that starts with the servers of a plan.

    Raises:
        ConfigError: They cannot.
    """
    if rules is None:
        return
    prices = {tier.name: tier.server_price_per_hour for tier in catalog.tiers}
    missing = [tier for tier in rules.tiers if tier not in prices]
    if missing:
        raise ConfigError(f"{AUTOSCALE.flag}: the catalog has no tier {missing[0]}")
    usd = sum(count * prices.get(tier, 0.0) for tier, count in plan.items())
    most_usd = rules.cost_per_hour_max_usd
    if most_usd is not None and usd > most_usd:
        raise ConfigError(
            f"{_COST_PER_HOUR_MAX.flag} {most_usd:.2f}: the servers that the cluster starts"
            f" with cost {usd:.2f} USD per hour"
        )
