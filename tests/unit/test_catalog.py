from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.catalog import (
    TIER_NAMES,
    Catalog,
    CatalogError,
    cost_per_hour,
    load_catalog,
    parse_tiers,
)

PACKAGED = load_catalog()

TIER_TEXT = """
[nvme]
capacity = "100g"
bandwidth = "800mbps"
read_latency_us = 90
price_per_hour = 0.5
price_per_gb_month = 0.1
source = "a vendor's list"
dated = 2026-03-01
"""

amounts = st.integers(0, 2**50)
held = st.dictionaries(st.sampled_from(TIER_NAMES), amounts)


def test_the_packaged_catalog_has_every_tier_fastest_first() -> None:
    assert tuple(tier.name for tier in PACKAGED.tiers) == TIER_NAMES
    latencies = [tier.read_latency_us for tier in PACKAGED.tiers]
    assert latencies == sorted(latencies)
    for tier in PACKAGED.tiers:
        assert tier.source
        datetime.date.fromisoformat(tier.dated)
        assert PACKAGED.tier(tier.name) is tier


def test_slower_tiers_hold_a_byte_for_less() -> None:
    per_byte = [tier.server_price_per_hour / tier.capacity_bytes for tier in PACKAGED.tiers]
    assert per_byte == sorted(per_byte, reverse=True)
    assert per_byte[0] > 10 * per_byte[1]


@given(held, held)
def test_cost_is_the_sum_of_the_scarcer_shares(
    capacity_bytes: dict[str, int], throughput_bytes_s: dict[str, int]
) -> None:
    expected = 0.0
    for tier in PACKAGED.tiers:
        share = max(
            capacity_bytes.get(tier.name, 0) / tier.capacity_bytes,
            throughput_bytes_s.get(tier.name, 0) / tier.bandwidth_bytes_s,
        )
        expected += share * tier.server_price_per_hour
    cost = cost_per_hour(PACKAGED, capacity_bytes, throughput_bytes_s)
    assert math.isclose(cost, expected, rel_tol=1e-9)
    assert cost_per_hour(PACKAGED, capacity_bytes) <= cost * (1 + 1e-9)


def test_a_whole_server_costs_its_price() -> None:
    dram, ssd = PACKAGED.tier("dram"), PACKAGED.tier("ssd")
    assert cost_per_hour(PACKAGED, {"dram": dram.capacity_bytes}) == dram.price_per_hour == 0.504
    # 2,000 GB at 0.08 dollars a month beside the machine's 0.192 an hour.
    assert ssd.server_price_per_hour == pytest.approx(0.192 + 160 / 730)
    assert ssd.servers_for(ssd.capacity_bytes / 2, ssd.bandwidth_bytes_s * 3) == 3


def test_a_tier_that_is_not_there_has_no_cost() -> None:
    with pytest.raises(CatalogError, match="no tier 'tape'"):
        cost_per_hour(PACKAGED, {"tape": 1})
    with pytest.raises(CatalogError, match="no tier 'dram'"):
        Catalog(()).tier("dram")


def test_an_operator_replaces_tiers_by_name(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(TIER_TEXT)
    own = load_catalog(str(path))
    nvme = own.tier("nvme")
    assert (nvme.capacity_bytes, nvme.bandwidth_bytes_s) == (100 * 10**9, 10**8)
    assert (nvme.read_latency_us, nvme.price_per_hour) == (90, 0.5)
    assert (nvme.source, nvme.dated) == ("a vendor's list", "2026-03-01")
    assert own.tier("dram") == PACKAGED.tier("dram")
    assert tuple(tier.name for tier in own.tiers) == TIER_NAMES


@pytest.mark.parametrize(
    ("path", "words"), [("missing.toml", "No such file"), ("", "Is a directory"), ("a\0b", "null")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        load_catalog(f"{tmp_path}/{path}")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[nvme]", "[nvme", "not TOML"),
        ("[nvme]", "[tape]", "no tier is called 'tape', only dram, nvme"),
        (TIER_TEXT, "nvme = 1", r"\[nvme\] is not a table"),
        ("read_latency_us = 90", "", "has no read_latency_us"),
        ("read_latency_us", "latency_us", "unknown figure 'latency_us'"),
        ("= 90", "= 0", "read_latency_us must be more than 0"),
        ("= 90", "= -1", "read_latency_us: '-1' is negative"),
        ("= 90", "= 1.5", "read_latency_us is not an amount"),
        ("= 90", "= true", "read_latency_us is not an amount"),
        ('"100g"', '"lots"', "capacity: 'lots' is not an amount"),
        ('"800mbps"', '"800mph"', "bandwidth: '800mph' has a unit"),
        ("= 0.5", "= -0.5", "price_per_hour must be 0 to 1000000 dollars"),
        ("= 0.5", "= nan", "price_per_hour must be 0 to 1000000 dollars"),
        ("= 0.5", "= inf", "price_per_hour must be 0 to 1000000 dollars"),
        ("= 0.5", '= "cheap"', "price_per_hour is not a number"),
        ("= 0.5", "= false", "price_per_hour is not a number"),
        ('"a vendor\'s list"', '""', "source is not a text"),
        ("2026-03-01", '"March"', "dated is not a date"),
        ("2026-03-01", "2026-03-01T10:00:00", "dated is not a date"),
    ],
)
def test_what_is_no_tier(old: str, new: str, words: str) -> None:
    text = TIER_TEXT.replace(old, new)
    assert text != TIER_TEXT
    with pytest.raises(CatalogError, match=words):
        parse_tiers(text.encode(), "own.toml")


values = st.sampled_from(
    ["1", "-1", "1.5", "nan", "true", '"1gb"', "2026-01-01", "[1]", "{}", "[[", "9" * 5000]
)


@given(
    st.binary()
    | st.dictionaries(st.sampled_from(["capacity", "bandwidth", "source", "x"]), values).map(
        lambda table: "".join(["[dram]\n", *(f"{k} = {v}\n" for k, v in table.items())]).encode()
    )
)
def test_garbage_is_a_catalog_error_or_nothing(document: bytes) -> None:
    try:
        tiers: dict[str, Any] = parse_tiers(document, "own.toml")
    except CatalogError as error:
        message = str(error)
        assert message.startswith("own.toml: ")
    else:
        assert tiers == {}
