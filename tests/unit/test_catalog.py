from __future__ import annotations

import datetime
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv import catalog as catalog_module
from pocketkv.catalog import (
    TIER_NAMES,
    Catalog,
    CatalogError,
    MachineType,
    Need,
    Provision,
    Tier,
    cost_per_hour,
    costs_per_hour,
    load_catalog,
    parse_catalog,
)

PACKAGED = load_catalog()

OWN_TEXT = """
[nvme."box.big"]
capacity = "100g"
bandwidth = "800mbps"
iops = 12_000
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
        assert len(tier.machines) >= 3
        assert PACKAGED.tier(tier.name) is tier
        for machine in tier.machines:
            assert machine.source.startswith(machine.name)
            datetime.date.fromisoformat(machine.dated)
            assert PACKAGED.machine(tier.name, machine.name) is machine
            assert machine.tier == tier.name
            # A reference's figures are sane as a whole: a full read of it takes less than a day.
            assert machine.capacity_bytes / machine.bandwidth_bytes_s < 86_400


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


def test_a_tier_has_the_figures_of_its_first_machine_type() -> None:
    for tier in PACKAGED.tiers:
        first = tier.machines[0]
        assert tier.reference is first
        for name in MachineType.__dataclass_fields__.keys() - {"tier", "name"}:
            assert getattr(tier, name) == getattr(first, name)
        assert tier.server_price_per_hour == first.server_price_per_hour
        assert tier.servers_for(10**12, 10**9, 10**4) == first.servers_for(10**12, 10**9, 10**4)
    with pytest.raises(CatalogError, match="no machine type 'abacus' of nvme"):
        PACKAGED.machine("nvme", "abacus")
    with pytest.raises(CatalogError, match=r"\[nvme\] has no machine type"):
        Tier("nvme", ())


def test_the_share_of_a_server_is_what_is_scarcest_on_it() -> None:
    ssd = PACKAGED.tier("ssd").reference
    whole = ssd.server_price_per_hour
    assert ssd.cost_per_hour(ssd.capacity_bytes / 4) == pytest.approx(whole / 4)
    assert ssd.cost_per_hour(0, ssd.bandwidth_bytes_s / 2) == pytest.approx(whole / 2)
    assert ssd.cost_per_hour(1, 1, ssd.iops * 3) == pytest.approx(whole * 3)
    assert ssd.gb_price_per_hour * 2000 == pytest.approx(whole)


def test_costs_are_told_by_tier() -> None:
    costs = costs_per_hour(PACKAGED, {"dram": 2**30, "ssd": 0}, {"hdd": 10**6})
    assert list(costs) == ["dram", "hdd", "ssd"]
    assert costs["ssd"] == 0
    assert costs["dram"] == pytest.approx(0.504 / 60)
    assert sum(costs.values()) == cost_per_hour(PACKAGED, {"dram": 2**30}, {"hdd": 10**6})


DOCS = (Path(__file__).parents[2] / "docs/catalog.md").read_text(encoding="utf-8")


def test_what_the_docs_give_as_examples_are_catalogs() -> None:
    examples = re.findall(r"^```toml\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    first, only, default = (own(example) for example in examples)
    assert first.machine("nvme", "i4i.2xlarge").price_per_hour == 0.43
    assert first.tier("hdd").reference.name == "rack-7"
    assert [machine.name for machine in only.tier("hdd").machines] == ["rack-6"]
    assert default.tier("dram").reference.name == "r7g.2xlarge"


def test_the_docs_have_every_field() -> None:
    text = (Path(catalog_module.__file__).parent / "catalog.toml").read_text(encoding="utf-8")
    used = set(re.findall(r"^([a-z_]+) =", text, re.MULTILINE))
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", DOCS, re.MULTILINE))
    assert used <= documented


# --- the cheapest ------------------------------------------------------------------------------


def machine(name: str, price: float, tier: str = "dram", **figures: int) -> MachineType:
    return MachineType(
        tier=tier,
        name=name,
        **{
            "capacity_bytes": 100,
            "bandwidth_bytes_s": 100,
            "iops": 100,
            "read_latency_us": 10,
            **figures,
        },
        price_per_hour=price,
        price_per_gb_month=0.0,
        source="a test",
        dated="2026-01-01",
    )


def test_small_needs_go_to_small_machines_and_large_ones_to_what_is_cheap_by_size() -> None:
    small, large = machine("small", 1.0), machine("large", 4.0, capacity_bytes=800)
    tier = Tier("dram", (small, large))
    assert tier.cheapest(Need(capacity_bytes=100)) == Provision(small, 1)
    assert tier.cheapest(Need(capacity_bytes=300)) == Provision(small, 3)
    # At one price, fewer servers.
    assert tier.cheapest(Need(capacity_bytes=400)) == Provision(large, 1)
    assert tier.cheapest(Need(capacity_bytes=800)) == Provision(large, 1)
    assert tier.cheapest(Need(capacity_bytes=801)) == Provision(large, 2)
    assert tier.cheapest(Need(throughput_bytes_s=800)) == Provision(small, 8)
    assert tier.cheapest(Need(reads_s=150)) == Provision(small, 2)
    # Nothing at all still takes a server to be there.
    assert tier.cheapest(Need()) == Provision(small, 1)


def test_what_is_too_slow_is_no_offer() -> None:
    fast = machine("fast", 9.0, read_latency_us=1)
    slow = machine("slow", 1.0, "hdd", read_latency_us=5000)
    catalog = Catalog((Tier("dram", (fast,)), Tier("hdd", (slow,))))
    assert [p.machine for p in catalog.offers(Need(1))] == [slow, fast]
    assert [p.machine for p in catalog.offers(Need(1), ["dram"])] == [fast]
    assert [p.machine for p in catalog.offers(Need(1, read_latency_us_max=4999))] == [fast]
    assert catalog.offers(Need(1, read_latency_us_max=0)) == []
    assert catalog.tier("hdd").cheapest(Need(1, read_latency_us_max=4999)) is None


needs = st.builds(Need, amounts, st.integers(0, 2**40), st.integers(0, 2**30))


@given(needs)
def test_offers_suffice_and_come_cheapest_first(need: Need) -> None:
    offers = PACKAGED.offers(need)
    assert len(offers) == sum(len(tier.machines) for tier in PACKAGED.tiers)
    costs = [offer.cost_per_hour for offer in offers]
    assert costs == sorted(costs)
    for offer in offers:
        share = offer.machine.servers_for(
            need.capacity_bytes, need.throughput_bytes_s, need.reads_s
        )
        assert share <= offer.servers * (1 + 1e-9)
        assert offer.servers - 1 < max(share, 1)
    for tier in PACKAGED.tiers:
        cheapest = tier.cheapest(need)
        assert cheapest == next(o for o in offers if o.machine.tier == tier.name)


# --- an operator's own file --------------------------------------------------------------------


def own(text: str) -> Catalog:
    return parse_catalog(text.encode(), "own.toml", PACKAGED)


def test_an_operator_adds_a_machine_type_which_becomes_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN_TEXT)
    catalog = load_catalog(str(path))
    nvme = catalog.tier("nvme")
    assert nvme.reference.name == "box.big"
    assert (nvme.capacity_bytes, nvme.bandwidth_bytes_s, nvme.iops) == (100 * 10**9, 10**8, 12_000)
    assert (nvme.read_latency_us, nvme.price_per_hour) == (90, 0.5)
    assert (nvme.source, nvme.dated) == ("a vendor's list", "2026-03-01")
    assert nvme.machines[1:] == PACKAGED.tier("nvme").machines
    assert catalog.tier("dram") == PACKAGED.tier("dram")
    assert tuple(tier.name for tier in catalog.tiers) == TIER_NAMES


def test_an_operator_changes_figures_of_what_is_there() -> None:
    tier = own('[nvme."i3.2xlarge"]\nprice_per_hour = 0.1\n').tier("nvme")
    packaged = PACKAGED.machine("nvme", "i3.2xlarge")
    assert tier.reference == replace(
        packaged, price_per_hour=0.1, source=f"{packaged.source}; some figures from own.toml"
    )
    assert len(tier.machines) == len(PACKAGED.tier("nvme").machines)
    dated = own('[nvme."i3.2xlarge"]\nsource = "bill"\ndated = 2026-05-01\n').tier("nvme").reference
    assert dated == replace(packaged, source="bill", dated="2026-05-01")
    # Naming one is enough to make it the reference.
    assert own('[nvme."i3.2xlarge"]\n').tier("nvme").reference == packaged


def test_what_s3_costs_and_an_operator_changes_it() -> None:
    assert PACKAGED.s3 is not None
    assert PACKAGED.s3.cost_per_hour(730 * 1024**3) == pytest.approx(0.023)
    own = parse_catalog(b"[s3]\nprice_per_gb_month = 0.01", "own.toml", PACKAGED)
    assert own.tiers == PACKAGED.tiers
    assert own.s3 is not None
    assert own.s3.price_per_gb_month == 0.01
    assert own.s3.source == f"{PACKAGED.s3.source}; some figures from own.toml"
    assert parse_catalog(b"", "own.toml", PACKAGED).s3 == PACKAGED.s3
    assert parse_catalog(b"", "own.toml").s3 is None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"[s3]\nprice_per_gb_month = -1", "must be 0 to"),
        (b"[s3]\ncapacity = 1", "unknown figure 'capacity'"),
        (b"[s3]\nprice_per_gb_month = 1", "has no source"),
        (b"s3 = 0.023", "is not a table"),
    ],
)
def test_what_is_no_price_of_s3(document: bytes, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        parse_catalog(document, "own.toml")


def test_an_operator_chooses_the_reference_and_what_there_is() -> None:
    assert own('[nvme]\ndefault = "i3.2xlarge"\n').tier("nvme").reference.name == "i3.2xlarge"
    assert own(f'[nvme]\ndefault = "i3.2xlarge"\n{OWN_TEXT}').tier("nvme").machines[0].iops > 12_000
    assert [m.name for m in own(f"[nvme]\nonly = true\n{OWN_TEXT}").tier("nvme").machines] == [
        "box.big"
    ]
    assert own("[nvme]\nonly = false\n") == PACKAGED
    assert own("") == PACKAGED


@pytest.mark.parametrize(
    ("path", "words"), [("missing.toml", "No such file"), ("", "Is a directory"), ("a\0b", "null")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        load_catalog(f"{tmp_path}/{path}")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[nvme", "[[nvme", "not TOML"),
        ("[nvme", "[tape", "no tier is called 'tape', only dram, nvme"),
        (OWN_TEXT, '"a\\nb" = 1', r"no tier is called 'a\\nb', only"),
        (OWN_TEXT, "nvme = 1", r"\[nvme\] is not a table"),
        ('."box.big"', "", r"\[nvme\] capacity belongs under a machine type, such as"),
        ('"box.big"', '"box big"', "machine type with the odd name 'box big'"),
        (OWN_TEXT, "[nvme]\ncolour = 1", r"\[nvme\] has an unknown setting 'colour'"),
        (OWN_TEXT, "[nvme]\nonly = 1", r"\[nvme\] only is not true or false"),
        (OWN_TEXT, "[nvme]\nonly = true", r"\[nvme\] only: no machine type is given"),
        (OWN_TEXT, "[nvme]\ndefault = 1", r"\[nvme\] default is none of its machine types"),
        (OWN_TEXT, '[nvme]\ndefault = "x"', r"\[nvme\] default is none of its machine types"),
        (OWN_TEXT, "[nvme.default]", r"\[nvme\] default is none of its machine types"),
        ("read_latency_us = 90", "", r"\[nvme.'box.big'\] has no read_latency_us"),
        ("read_latency_us", "latency_us", "unknown figure 'latency_us'"),
        ("= 90", "= 0", "read_latency_us must be more than 0"),
        ("= 90", "= -1", "read_latency_us: '-1' is negative"),
        ("= 90", "= 1.5", "read_latency_us is not an amount"),
        ("= 90", "= true", "read_latency_us is not an amount"),
        ("= 90", "= 1_" + "0" * 5000, "limit"),
        ("12_000", '"many"', "iops: 'many' is not an amount"),
        ('"100g"', '"lots"', "capacity: 'lots' is not an amount"),
        ('"100g"', "{ g = 1 }", "capacity is not an amount"),
        ('"800mbps"', '"800mph"', "bandwidth: '800mph' has a unit"),
        ("= 0.5", "= -0.5", "price_per_hour must be 0 to 1000000 dollars"),
        ("= 0.5", "= nan", "price_per_hour must be 0 to 1000000 dollars"),
        ("= 0.5", "= inf", "price_per_hour must be 0 to 1000000 dollars"),
        ("= 0.5", '= "cheap"', "price_per_hour is not a number"),
        ("= 0.5", "= false", "price_per_hour is not a number"),
        ('"a vendor\'s list"', '""', "source is not a text"),
        ('"a vendor\'s list"', '"two\\nlines"', "source is not a text"),
        ("2026-03-01", '"March"', "dated is not a date"),
        ("2026-03-01", "2026-03-01T10:00:00", "dated is not a date"),
    ],
)
def test_what_is_no_catalog(old: str, new: str, words: str) -> None:
    text = OWN_TEXT.replace(old, new)
    assert text != OWN_TEXT
    with pytest.raises(CatalogError, match=words) as raised:
        own(text)
    assert "\n" not in str(raised.value)


keys = st.sampled_from(["capacity", "bandwidth", "source", "default", "only", "x"])
values = st.sampled_from(
    ["1", "-1", "1.5", "nan", "true", '"1gb"', "2026-01-01", "[1]", "{}", "[[", "9" * 5000]
)
headers = st.sampled_from(["[dram]", '[dram."r6i.large"]', '[dram."x"]'])


@given(
    st.binary()
    | st.tuples(headers, st.dictionaries(keys, values)).map(
        lambda one: "\n".join([one[0], *(f"{k} = {v}" for k, v in one[1].items())]).encode()
    )
)
def test_garbage_is_one_line_of_error_or_a_catalog(document: bytes) -> None:
    try:
        catalog = parse_catalog(document, "own.toml", PACKAGED)
    except CatalogError as error:
        message = str(error)
        assert message.startswith("own.toml: ")
        assert len(message.splitlines()) == 1
    else:
        assert tuple(tier.name for tier in catalog.tiers) == TIER_NAMES
