"""`--autoscale` and the flags beside it: what they say, what is wrong with them, who gets them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from pocketkv.catalog import load_catalog
from pocketkv.config import (
    ControllerConfig,
    ServeConfig,
    add_controller_arguments,
    add_serve_arguments,
    controller_config,
    serve_config,
)
from pocketkv.options import ConfigError
from pocketkv.scaling_rules import (
    ScalingRules,
    TierRange,
    check_scaling,
    parse_autoscale,
    parse_cost,
    parse_seconds,
    scaling_arguments,
)

SECRET = {"POCKETKV_SECRET": "00" * 32}
GB = 1024**3


def serve(arguments: str = "", environ: dict[str, str] | None = None) -> ServeConfig:
    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    namespace = parser.parse_args(arguments.split())
    return serve_config(namespace, environ or {}, machine_memory_bytes=8 * GB)


def controller(arguments: str = "", environ: dict[str, str] | None = None) -> ControllerConfig:
    parser = argparse.ArgumentParser()
    add_controller_arguments(parser)
    return controller_config(parser.parse_args(arguments.split()), {**SECRET, **(environ or {})})


@pytest.mark.parametrize("configure", [serve, controller])
def test_flags_are_repeated_and_their_variable_is_a_list(configure: Callable[..., Any]) -> None:
    ranges = {"dram": TierRange(1, 8), "nvme": TierRange(0, 4)}
    by_flags = configure("--autoscale dram=1..8 --autoscale nvme=0..4")
    assert by_flags.scaling == ScalingRules(ranges)
    assert configure("--autoscale dram=1..8,NVME=0..4").scaling == ScalingRules(ranges)
    variable = {"POCKETKV_AUTOSCALE": "dram=1..8, nvme=0..4", "POCKETKV_SERVERS_MAX": "9"}
    assert configure("", variable).scaling == ScalingRules(ranges, servers_max=9)
    # A flag wins over the whole variable.
    by_both = configure("--autoscale ssd=0..1", variable)
    assert by_both.scaling == ScalingRules({"ssd": TierRange(0, 1)}, servers_max=9)
    assert configure().scaling is None
    assert configure("", {"POCKETKV_AUTOSCALE": ""}).scaling is None


def test_all_of_it_reaches_the_controller() -> None:
    flags = (
        "--autoscale dram=1..8 --autoscale nvme=0..4 --servers-max 6 --cost-per-hour-max 12.50"
        " --scale-up-after 1.5s --scale-down-after 90"
    )
    rules = serve(flags).scaling
    assert rules == ScalingRules(
        {"dram": TierRange(1, 8), "nvme": TierRange(0, 4)}, 6, 12.5, 1.5, 90.0
    )
    assert controller(" ".join(scaling_arguments(rules))).scaling == rules
    assert scaling_arguments(None) == []


def test_a_scaled_tier_starts_with_the_least_unless_it_is_told() -> None:
    assert serve("--autoscale dram=1..8").servers == {"dram": 1, "nvme": 1, "ssd": 0, "hdd": 0}
    assert serve("--autoscale dram=1..8 --dram 5").dram == 5
    assert serve("--autoscale ssd=2..3", {"POCKETKV_SSD": "3"}).ssd == 3


def test_memory_is_shared_by_as_many_servers_as_there_may_be() -> None:
    config = serve("--autoscale dram=1..8 --memory 900mb")
    assert config.server_memory_bytes == 100 * 1024**2
    limited = serve("--autoscale dram=1..8 --memory 900mb --servers-max 3")
    assert limited.server_memory_bytes == 300 * 1024**2
    files = serve("--autoscale nvme=0..4 --autoscale hdd=1..2 --dram 1 --nvme 1")
    assert files.server_capacity_shares == 6
    assert serve("--nvme 0").server_capacity_shares == 1


@pytest.mark.parametrize(
    ("configure", "arguments", "message"),
    [
        *(
            (configure, arguments, message)
            for configure in (serve, controller)
            for arguments, message in (
                ("--autoscale dram", "--autoscale: 'dram' is not tier=least..most, such as"),
                ("--autoscale dram=1-8", "--autoscale: 'dram=1-8' is not tier=least..most"),
                ("--autoscale dram=-1..8", "--autoscale: 'dram=-1..8' is not tier=least..most"),
                ("--autoscale tape=1..8", "--autoscale: 'tape' is none of dram, nvme, ssd, hdd"),
                ("--autoscale dram=8..1", "--autoscale: 8..1 is no range of servers: from 0 on"),
                ("--autoscale dram=0..0", "--autoscale: 0..0 is no range of servers"),
                (
                    "--autoscale dram=1..2 --autoscale dram=1..3",
                    "--autoscale: dram has more than one range",
                ),
                ("--servers-max 3", "--servers-max needs --autoscale or POCKETKV_AUTOSCALE"),
                ("--cost-per-hour-max 3", "--cost-per-hour-max needs --autoscale or"),
                ("--scale-down-after 3s", "--scale-down-after needs --autoscale or"),
                (
                    "--autoscale dram=2..3 --autoscale nvme=1..1 --servers-max 2",
                    "--servers-max: 2 is less than the 3 servers that --autoscale has at least",
                ),
                ("--autoscale dram=1..2 --servers-max 0", "--servers-max: '0' is not a number"),
                (
                    "--autoscale dram=1..2 --cost-per-hour-max free",
                    "--cost-per-hour-max: 'free' is not an amount of dollars above 0",
                ),
                (
                    "--autoscale dram=1..2 --scale-up-after soon",
                    "--scale-up-after: 'soon' is not a number of seconds, such as 30s",
                ),
            )
        ),
        (serve, "--autoscale dram=2..3 --dram 1", "--dram: 1 is not within dram=2..3 of --autosc"),
        (serve, "--autoscale dram=1..65", "--autoscale: dram=1..65 is more than 64 processes on"),
        (serve, "--autoscale dram=0..3 --nvme 0", "--dram, --nvme, --ssd and --hdd: no storage"),
        (
            serve,
            "--autoscale dram=1..3 --nvme 2 --servers-max 2",
            "--servers-max: 2 is less than the 3 storage servers that the cluster starts with",
        ),
        (
            serve,
            "--autoscale dram=1..8 --nvme 0 --memory 4mb",
            "--memory: 4mb is less than 1mb for each of 8 storage servers",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    configure: Callable[[str], Any], arguments: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", ",", "dram=1..2,", "dram=1..2;nvme=1..2", "dram=٣..4", "=1..2"]
)
def test_what_is_no_list_of_ranges(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not tier=least\.\.most"):
        parse_autoscale(text)


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "nan", "inf", "1e3", "1_0", "$3", "9" * 40])
def test_what_is_no_amount_of_dollars(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of dollars"):
        parse_cost(text)


def test_times() -> None:
    assert (parse_seconds("30s"), parse_seconds("0"), parse_seconds("1.5")) == (30.0, 0.0, 1.5)
    for text in ("", "s", "-1", "1m", "nan", "1e3"):
        with pytest.raises(ValueError, match="is not a number of seconds"):
            parse_seconds(text)
    with pytest.raises(ValueError, match="more than 86400"):
        parse_seconds("90000s")


def test_marks_must_leave_a_gap() -> None:
    with pytest.raises(ValueError, match="shrink_below < target < grow_above"):
        ScalingRules(target=0.8)


def test_what_the_catalog_cannot_do_is_said_at_the_start() -> None:
    catalog = load_catalog(None)
    price = catalog.tier("dram").server_price_per_hour
    rules = ScalingRules({"dram": TierRange(1, 4)}, cost_per_hour_max_usd=price * 2)
    check_scaling(None, catalog, {"dram": 100})
    check_scaling(rules, catalog, {"dram": 2})
    with pytest.raises(ConfigError, match=r"--cost-per-hour-max 1\.01: the servers .* 1\.51"):
        check_scaling(rules, catalog, {"dram": 3})
