"""The entry for a catalog's file, and how it gets into one that people have written."""

from __future__ import annotations

import datetime
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.calibrate.entry import Entry, Prices, entry_of, merged
from pocketkv.calibrate.measure import Measurements, Samples
from pocketkv.calibrate.medium import Medium
from pocketkv.catalog import CatalogError, load_catalog, parse_catalog

PACKAGED = load_catalog()
KNOWN = PACKAGED.machine("nvme", "i3.2xlarge")
MEDIUM = Medium("ext4", "nvme0n1", rotational=False, available_bytes=10**12, tier="nvme")
TODAY = datetime.date(2026, 5, 6)
AS_BEFORE = Prices()

MEASURED = Measurements(
    write=Samples((0.01,) * 100, 10**9, 2.0),
    read=Samples((0.01,) * 100, 10**9, 1.0),
    random=Samples((0.0001,) * 99 + (0.01,), 409_600, 0.0199),
    random_deep=Samples((0.0002,) * 700, 2_867_200, 0.01),
    sync=Samples((0.001,), 4096, 0.001),
    is_direct=True,
    cpu_bound=False,
    duration_s=3.0,
)


def entry(
    prices: Prices = AS_BEFORE, network_bytes_s: int | None = None, *, is_known: bool = True
) -> Entry:
    return entry_of(
        MEASURED,
        MEDIUM,
        "nvme",
        "i3.2xlarge" if is_known else "own.box",
        known=KNOWN if is_known else None,
        prices=prices,
        network_bytes_s=network_bytes_s,
        today=TODAY,
    )


def test_an_entry_has_what_was_measured_and_leaves_prices_alone() -> None:
    found = entry()
    assert found.text().startswith('[nvme."i3.2xlarge"]\ncapacity = "950g"\nbandwidth = "500m"\n')
    catalog = parse_catalog(found.text().encode(), "own.toml", PACKAGED)
    assert catalog.tier("nvme").reference == replace(
        KNOWN,
        capacity_bytes=950 * 10**9,
        # The lesser of reading and writing.
        bandwidth_bytes_s=500 * 10**6,
        iops=70_000,
        read_latency_us=100,
        source=f"{KNOWN.source}; measured by pocketkv calibrate on 2026-05-06,"
        " ext4 on nvme0n1, not rotational",
    )


def test_the_network_may_carry_less() -> None:
    assert entry(network_bytes_s=125 * 10**6).figures["bandwidth"] == "125m"
    assert entry(network_bytes_s=10**9).figures["bandwidth"] == "500m"


def test_an_operators_prices_are_dated() -> None:
    found = entry(Prices(0.25, 0.0), is_known=False)
    machine = parse_catalog(found.text().encode(), "own.toml").machine("nvme", "own.box")
    assert (machine.price_per_hour, machine.price_per_gb_month) == (0.25, 0)
    assert machine.dated == "2026-05-06"
    assert machine.source.startswith("prices by the operator; measured by")
    assert entry(Prices(price_per_gb_month=0.1)).figures["dated"] == TODAY


def test_measuring_again_says_so_once() -> None:
    known = replace(KNOWN, source=str(entry().figures["source"]))
    again = entry_of(
        MEASURED,
        MEDIUM,
        "nvme",
        KNOWN.name,
        known=known,
        prices=Prices(),
        network_bytes_s=None,
        today=datetime.date(2027, 1, 1),
    )
    assert str(again.figures["source"]).count("measured by") == 1
    assert "2027-01-01" in str(again.figures["source"])


def test_the_slowest_medium_still_makes_an_entry() -> None:
    nothing = Samples((), 0, 0.0)
    slow = replace(
        MEASURED, write=nothing, read=nothing, random=nothing, random_deep=nothing, sync=nothing
    )
    found = entry_of(
        slow,
        replace(MEDIUM, available_bytes=0),
        "hdd",
        "m5.xlarge",
        known=PACKAGED.machine("hdd", "m5.xlarge"),
        prices=Prices(),
        network_bytes_s=None,
        today=TODAY,
    )
    assert parse_catalog(found.text().encode(), "own.toml", PACKAGED).tier("hdd").iops == 1


OWN = """\
# Our machines.

[nvme]
default = "i3.2xlarge"   # the usual ones

  [ nvme . "i3.2xlarge" ]   # bought
# Negotiated.
price_per_hour = 0.111
iops = 1 # guessed

# Cold ones.
[hdd."d3.xlarge"]
iops = 77
"""


def test_only_the_figures_that_were_measured_change_in_an_operators_file() -> None:
    found = merged(OWN, entry())
    lines = entry().lines()
    assert found == OWN.replace("iops = 1 # guessed", "iops = 70000").replace(
        "iops = 70000\n", "\n".join(["iops = 70000", lines[0], lines[1], *lines[3:]]) + "\n"
    )
    # Again, nothing is left to change.
    assert merged(found, entry()) == found
    catalog = parse_catalog(found.encode(), "own.toml", PACKAGED)
    assert catalog.tier("nvme").reference.price_per_hour == 0.111
    assert catalog.machine("hdd", "d3.xlarge").iops == 77


@pytest.mark.parametrize("document", ["", "\n", "# mine", OWN, '[nvme."i4i.large"]\niops = 3'])
def test_an_entry_is_added_at_the_end(document: str) -> None:
    new = entry(Prices(1.0, 0.0), is_known=False)
    found = merged(document, new)
    assert found.startswith(document.rstrip("\n"))
    assert found.endswith(new.text())


@pytest.mark.parametrize(
    "document",
    [
        'nvme = { "i3.2xlarge" = { iops = 1 } }',
        '[nvme]\n"i3.2xlarge" = { iops = 1 }',
        '[nvme]\n"i3.2xlarge".iops = 1',
        '[nvme."i3.2xlarge"]\n"iops" = 1',
        "nvme = 1",
    ],
)
def test_a_file_that_cannot_be_edited_by_lines_is_left_alone(document: str) -> None:
    with pytest.raises(CatalogError, match="cannot be put into this file"):
        merged(document, entry())


names = st.sampled_from(["i3.2xlarge", "i4i.large"])
sections = st.builds(
    lambda tier, name, figures, comment: (
        f'{comment}[{tier}."{name}"]\n'
        + "".join(f"{key} = {value}\n" for key, value in figures.items())
    ),
    st.sampled_from(["nvme", "ssd"]),
    names,
    st.dictionaries(
        st.sampled_from(["iops", "capacity", "price_per_hour", "source"]),
        st.sampled_from(["1", '"[nvme]"', '"""\n[nvme."i3.2xlarge"]\niops = 5\n"""']),
    ),
    st.sampled_from(["", "\n", "# [nvme]\n"]),
)


@given(st.lists(sections, max_size=4).map("".join))
def test_merging_says_what_it_should_or_refuses(document: str) -> None:
    try:
        before = tomllib.loads(document)
    except tomllib.TOMLDecodeError:
        return
    new = entry()
    try:
        found = merged(document, new)
    except CatalogError:
        assert '"""' in document
        return
    after = tomllib.loads(found)
    figures = tomllib.loads(new.text())["nvme"]["i3.2xlarge"]
    old = before.get("nvme", {}).get("i3.2xlarge", {})
    assert after["nvme"].pop("i3.2xlarge") == {**old, **figures}
    before.get("nvme", {}).pop("i3.2xlarge", None)
    before.setdefault("nvme", {})
    assert after == before
