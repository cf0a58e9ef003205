from __future__ import annotations

import json
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.amounts import AMOUNT_MAX
from pocketkv.catalog import TIER_NAMES, CatalogError, load_catalog
from pocketkv.jobs import (
    JOB_ID_RANDOM_BYTES,
    LAMBDA_THROUGHPUT_BYTES_S,
    LAMBDAS_MAX,
    Demand,
    HintError,
    Hints,
    Job,
    JobError,
    JobNameError,
    Latency,
    Phase,
    check_job_name,
    infer,
    is_job_id,
    new_job_id,
    parse_hints,
)
from pocketkv.limits import LEASE_MAX_S

CATALOG = load_catalog()
RANDOM = bytes(range(JOB_ID_RANDOM_BYTES))

names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(lambda n: n != "default")
amounts = st.none() | st.integers(0, AMOUNT_MAX)
tier_lists = st.lists(st.sampled_from(TIER_NAMES), min_size=1, unique=True).map(tuple)
hints_of_any_job = st.builds(
    Hints,
    lambdas=st.none() | st.integers(0, LAMBDAS_MAX),
    capacity_bytes=amounts,
    throughput_bytes_s=amounts,
    latency=st.none() | st.sampled_from(Latency),
    tiers=st.none() | tier_lists,
    lease_s=st.none() | st.integers(0, LEASE_MAX_S),
)
times_ms = st.integers(0, 2**45)
jobs = st.builds(
    lambda name, hints, now_ms, phase: replace(
        Job.registered(name, hints, now_ms, RANDOM), phase=phase
    ),
    names,
    hints_of_any_job,
    times_ms,
    st.sampled_from(Phase),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def options_of(hints: Hints) -> list[list[bytes]]:
    """The options that say `hints`."""
    words = {
        b"LAMBDAS": hints.lambdas,
        b"CAPACITY": hints.capacity_bytes,
        b"THROUGHPUT": hints.throughput_bytes_s,
        b"LATENCY": hints.latency,
        b"LEASE": hints.lease_s,
    }
    options = [[name, str(hint).encode()] for name, hint in words.items() if hint is not None]
    if hints.tiers is not None:
        options.append([b"TIERS", *(name.encode() for name in hints.tiers)])
    return options


@given(hints_of_any_job, st.randoms(use_true_random=False), st.booleans())
def test_options_are_read_in_any_order_and_case(hints: Hints, random: Any, is_upper: bool) -> None:
    options = options_of(hints)
    random.shuffle(options)
    words = [word.upper() if is_upper else word.lower() for option in options for word in option]
    assert parse_hints(words) == hints


option_words = st.sampled_from(
    [b"LAMBDAS", b"capacity", b"THROUGHPUT", b"LATENCY", b"TIERS", b"LEASE"]
) | st.sampled_from([b"1", b"-1", b"10gb", b"600mbps", b"sensitive", b"dram", b"NVME", b"\r\n"])


@given(st.lists(option_words | st.binary(max_size=100), max_size=12))
def test_garbage_is_hints_or_a_hint_error(words: list[bytes]) -> None:
    given_words = list(words)
    try:
        parse_hints(words)
    except HintError as error:
        message = str(error)
        # It becomes one line of a reply.
        assert message
        assert message.isascii()
        assert message.isprintable()
        assert len(message) < 200
    assert words == given_words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("COLOUR red", "unknown option 'COLOUR'"),
        ("it's", "unknown option 'it?s'"),
        ("LAMBDAS", "LAMBDAS needs a value"),
        ("LAMBDAS 1 lambdas 2", "LAMBDAS is given twice"),
        ("LAMBDAS -1", "LAMBDAS must be a whole number from 0 to 1000000"),
        ("LAMBDAS 1000001", "LAMBDAS must be a whole number from 0 to 1000000"),
        ("LAMBDAS 1.5", "LAMBDAS must be a whole number from 0 to 1000000"),
        ("LAMBDAS " + "9" * 5000, "LAMBDAS must be a whole number from 0 to 1000000"),
        ("CAPACITY much", "CAPACITY: 'much' is not an amount such as 64mb or 1.5g"),
        ("CAPACITY 1mbps", "CAPACITY: '1mbps' has a unit that is none of b, k,"),
        ("THROUGHPUT -1mb", "THROUGHPUT: '-1mb' is negative"),
        ("LATENCY 5ms", "LATENCY must be SENSITIVE or TOLERANT"),
        ("TIERS", "TIERS needs a value"),
        ("TIERS tape", "TIERS: 'tape' is none of dram, nvme, ssd, hdd"),
        ("TIERS dram DRAM", "TIERS names dram twice"),
        ("TIERS dram tape", "unknown option 'tape'"),
        ("TIERS dram TIERS nvme", "TIERS is given twice"),
        ("LEASE 99999999999", "LEASE must be a whole number from 0 to 2592000"),
    ],
)
def test_what_is_wrong_is_said(words: str, message: str) -> None:
    with pytest.raises(HintError) as caught:
        parse_hints(words.encode().split())
    assert str(caught.value).startswith(message)


def test_tiers_takes_every_word_that_names_one() -> None:
    words = [b"TIERS", b"nvme", b"DRAM", b"LEASE", b"60"]
    assert parse_hints(words) == Hints(tiers=("nvme", "dram"), lease_s=60)


@given(hints_of_any_job, hints_of_any_job)
def test_merging_takes_what_the_update_gives(hints: Hints, update: Hints) -> None:
    merged = hints.merged(update)
    for name in ("lambdas", "capacity_bytes", "throughput_bytes_s", "latency", "tiers", "lease_s"):
        new, old = getattr(update, name), getattr(hints, name)
        assert getattr(merged, name) == (old if new is None else new)
    assert merged.merged(update) == merged
    assert hints.merged(Hints()) == hints


@given(hints_of_any_job)
def test_a_demand_is_known_in_full_and_keeps_what_was_given(hints: Hints) -> None:
    demand = infer(hints, CATALOG)
    assert 1 <= demand.capacity_bytes <= AMOUNT_MAX
    assert 1 <= demand.throughput_bytes_s <= AMOUNT_MAX
    assert demand.capacity_bytes == hints.capacity_bytes or not hints.capacity_bytes
    assert demand.throughput_bytes_s == hints.throughput_bytes_s or not hints.throughput_bytes_s
    assert demand.latency == (hints.latency or Latency.SENSITIVE)
    assert set(demand.tiers) == set(hints.tiers or TIER_NAMES)
    assert list(demand.tiers) == sorted(demand.tiers, key=TIER_NAMES.index)


@given(st.integers(1, LAMBDAS_MAX), st.sampled_from(Latency))
def test_lambdas_give_throughput_and_from_it_capacity(lambdas: int, latency: Latency) -> None:
    demand = infer(Hints(lambdas=lambdas, latency=latency), CATALOG)
    tier = CATALOG.tier("dram" if latency is Latency.SENSITIVE else "nvme")
    assert demand.throughput_bytes_s == lambdas * LAMBDA_THROUGHPUT_BYTES_S
    servers = demand.throughput_bytes_s / tier.bandwidth_bytes_s
    assert demand.capacity_bytes == pytest.approx(servers * tier.capacity_bytes)


DRAM, NVME, SSD, HDD = (CATALOG.tier(name) for name in TIER_NAMES)


@pytest.mark.parametrize(
    ("hints", "demand"),
    [
        # Nothing is known: the default allotment.
        (Hints(), (DRAM.capacity_bytes, DRAM.bandwidth_bytes_s)),
        (Hints(lambdas=0, capacity_bytes=0), (DRAM.capacity_bytes, DRAM.bandwidth_bytes_s)),
        (Hints(latency=Latency.TOLERANT), (NVME.capacity_bytes, NVME.bandwidth_bytes_s)),
        # Either of capacity and throughput gives the other.
        (
            Hints(capacity_bytes=4 * DRAM.capacity_bytes),
            (4 * DRAM.capacity_bytes, 4 * DRAM.bandwidth_bytes_s),
        ),
        (
            Hints(throughput_bytes_s=4 * DRAM.bandwidth_bytes_s),
            (4 * DRAM.capacity_bytes, 4 * DRAM.bandwidth_bytes_s),
        ),
        # A given capacity stands; the throughput is the lambdas'.
        (Hints(lambdas=2, capacity_bytes=10**9), (10**9, 2 * LAMBDA_THROUGHPUT_BYTES_S)),
        # A given throughput stands; the capacity is still what the lambdas suggest.
        (
            Hints(lambdas=100, throughput_bytes_s=1),
            (ceil(7_500_000_000 / DRAM.bandwidth_bytes_s * DRAM.capacity_bytes), 1),
        ),
        # The tiers that are allowed decide which servers are counted.
        (Hints(tiers=("hdd", "ssd")), (SSD.capacity_bytes, SSD.bandwidth_bytes_s)),
        (
            Hints(tiers=("dram",), latency=Latency.TOLERANT),
            (DRAM.capacity_bytes, DRAM.bandwidth_bytes_s),
        ),
        (
            Hints(tiers=("hdd",), latency=Latency.TOLERANT),
            (HDD.capacity_bytes, HDD.bandwidth_bytes_s),
        ),
    ],
)
def test_what_is_inferred(hints: Hints, demand: tuple[int, int]) -> None:
    found = infer(hints, CATALOG)
    assert (found.capacity_bytes, found.throughput_bytes_s) == demand


def test_a_tier_that_the_catalog_has_not_cannot_be_asked_for() -> None:
    with pytest.raises(CatalogError, match="no tier 'hdd'"):
        infer(Hints(tiers=("hdd",)), replace(CATALOG, tiers=CATALOG.tiers[:1]))


@given(names, st.binary(min_size=JOB_ID_RANDOM_BYTES, max_size=JOB_ID_RANDOM_BYTES))
def test_an_id_is_the_name_and_random_digits(name: str, random_bytes: bytes) -> None:
    job_id = new_job_id(name, random_bytes)
    assert job_id == f"{name}-{random_bytes.hex()}"
    assert is_job_id(job_id)


@given(st.text())
def test_a_name_is_good_or_a_job_name_error(name: str) -> None:
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    is_good = 1 <= len(name) <= 64 and set(name) <= set(plain) and name != "default"
    try:
        check_job_name(name)
    except JobNameError:
        assert not is_good
    else:
        assert is_good


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a\n", "\u00e4", "a/b", "a:b", "default"])
def test_names_that_no_job_can_have(name: str) -> None:
    with pytest.raises(JobNameError):
        new_job_id(name, RANDOM)


@pytest.mark.parametrize("text", ["default", "", "sort", "sort-0011", f"sort-{RANDOM.hex()}\n"])
def test_what_is_no_id(text: str) -> None:
    assert not is_job_id(text)


def test_an_id_takes_all_its_random_bytes() -> None:
    with pytest.raises(ValueError, match="takes 8 random bytes"):
        new_job_id("sort", b"1234")


@given(jobs)
def test_a_job_survives_json(job: Job) -> None:
    assert Job.from_json(job.as_json()) == job
    text = json.dumps(job.as_json())
    assert Job.from_json(text) == job
    assert Job.from_json(text.encode()) == job


@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_garbage_is_a_job_error(text: str | bytes) -> None:
    with pytest.raises(JobError):
        Job.from_json(text)


job_fields = st.sampled_from(
    ["id", "name", "hints", "created_ms", "lease_expires_ms", "phase", "more"]
)
hint_fields = st.sampled_from(["lambdas", "latency", "tiers", "lease_s", "capacity_bytes", "x"])


@given(
    jobs,
    st.dictionaries(job_fields, json_values),
    st.dictionaries(hint_fields, json_values),
)
def test_a_spoilt_job_is_a_job_or_a_job_error(
    job: Job, spoilt: dict[str, Any], spoilt_hints: dict[str, Any]
) -> None:
    record = job.as_json()
    record["hints"] = {**record["hints"], **spoilt_hints}
    try:
        again = Job.from_json(json.dumps({**record, **spoilt}))
    except JobError:
        return
    assert Job.from_json(again.as_json()) == again


@pytest.mark.parametrize(
    "spoilt",
    [
        {"id": "sort"},
        {"name": "a b"},
        {"created_ms": None},
        {"created_ms": -1},
        {"created_ms": True},
        {"lease_expires_ms": 1.5},
        {"phase": "asleep"},
        {"hints": None},
        {"hints": {"tiers": []}},
        {"hints": {"tiers": ["dram", "dram"]}},
        {"hints": {"tiers": ["tape"]}},
        {"hints": {"tiers": "dram"}},
        {"hints": {"latency": None}},
        {"hints": {"lambdas": LAMBDAS_MAX + 1}},
        {"colour": "red"},
    ],
)
def test_a_job_that_cannot_be(spoilt: dict[str, Any]) -> None:
    job = Job.registered("sort", Hints(), 0, RANDOM)
    with pytest.raises(JobError):
        Job.from_json({**job.as_json(), **spoilt})


@given(names, times_ms, st.integers(1, LEASE_MAX_S), st.integers(0, 2**40))
def test_a_lease_ends_unless_it_is_renewed(
    name: str, now_ms: int, lease_s: int, later_ms: int
) -> None:
    job = Job.registered(name, Hints(lease_s=lease_s), now_ms, RANDOM)
    assert not job.is_expired(now_ms + lease_s * 1000 - 1)
    assert job.is_expired(now_ms + lease_s * 1000)
    renewed = job.renewed(now_ms + later_ms)
    assert not renewed.is_expired(now_ms + later_ms + lease_s * 1000 - 1)
    assert renewed.id == job.id


def test_a_job_without_a_lease_does_not_end() -> None:
    job = Job.registered("sort", Hints(lease_s=0), 5, RANDOM)
    assert job.lease_expires_ms is None
    assert not job.is_expired(2**60)


def test_an_update_renews_the_lease_only_if_it_names_one() -> None:
    job = Job.registered("sort", Hints(lease_s=10), 0, RANDOM)
    assert job.updated(Hints(lambdas=4), 5000).lease_expires_ms == 10_000
    assert job.updated(Hints(lease_s=10), 5000).lease_expires_ms == 15_000
    assert job.updated(Hints(lease_s=0), 5000).lease_expires_ms is None
    assert job.updated(Hints(lambdas=4), 5000).hints == Hints(lambdas=4, lease_s=10)


def test_a_demand_is_what_it_says() -> None:
    hints = parse_hints(b"LAMBDAS 10 CAPACITY 20gb LATENCY tolerant TIERS nvme".split())
    assert infer(hints, CATALOG) == Demand(
        capacity_bytes=20 * 1024**3,
        throughput_bytes_s=750_000_000,
        latency=Latency.TOLERANT,
        tiers=("nvme",),
    )
