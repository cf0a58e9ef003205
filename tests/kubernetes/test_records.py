"""What a PocketJob says of a job, and what is written to it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pocketkv.controller.backends.kubernetes import records
from pocketkv.jobs import HintError, Hints, JobNameError, Latency, is_job_id, new_job_id


def one(name: str = "shuffle", uid: str = "u-1", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid, **metadata}}


def test_hints_of_a_spec() -> None:
    spec = {
        "lambdas": 8,
        "capacity": "10gb",
        "throughput": "8gbps",
        "latency": "sensitive",
        "tiers": ["dram", "nvme"],
        "leaseSeconds": 60,
    }
    assert records.hints_of(spec) == Hints(
        8, 10 * 1024**3, 10**9, Latency.SENSITIVE, ("dram", "nvme"), 60
    )
    assert records.hints_of({"capacity": 4096}) == Hints(capacity_bytes=4096)
    assert records.hints_of({}) == Hints()


@pytest.mark.parametrize(
    "spec", [{"capacity": "much"}, {"tiers": "dram"}, {"tiers": ["tape"]}, {"lambdas": -1}]
)
def test_a_spec_that_cannot_be(spec: dict[str, Any]) -> None:
    with pytest.raises(HintError):
        records.hints_of(spec)


def test_what_a_spec_does_not_say_any_more_is_taken_back() -> None:
    before = Hints(lambdas=4, capacity_bytes=10, lease_s=60)
    after = before.merged(records.update_of({"lambdas": 5}))
    assert (after.lambdas, after.capacity_bytes, after.lease_s) == (5, 0, 0)


def test_a_spec_of_hints_says_the_same() -> None:
    hints = Hints(8, 4096, 10**9, Latency.TOLERANT, ("ssd",), 60)
    assert records.hints_of(records.spec_of(hints)) == hints
    assert records.spec_of(Hints(lambdas=0)) == {}


def test_the_id_of_an_object_is_always_the_same_and_no_other_objects() -> None:
    first = records.job_id_of(one())
    assert is_job_id(first)
    assert first == records.job_id_of(one())
    assert first != records.job_id_of(one(uid="u-2"))
    with pytest.raises(JobNameError):
        records.job_id_of(one("n" * 65))


def test_only_an_object_of_a_client_names_its_job() -> None:
    """Or whoever may make objects could take the token of any job."""
    job_id = new_job_id("theirs", bytes(8))
    named: Any = {"annotations": {records.JOB_ANNOTATION: job_id}}
    assert records.job_id_of(one(**named)) != job_id
    labels: Any = {records.ORIGIN_LABEL: records.CLIENT}
    assert records.job_id_of(one(labels=labels, **named)) == job_id


@pytest.mark.parametrize("name", ["shuffle", "By_Hand", "a.b", "-x-", "...", "_", "a.-b"])
def test_names_of_objects_are_names(name: str) -> None:
    made = records.object_name(new_job_id(name, bytes(8)))
    label = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    assert re.fullmatch(rf"{label}(\.{label})*", made), made


def test_jobs_of_similar_names_have_objects_of_their_own() -> None:
    made = {records.object_name(new_job_id(name, bytes(8))) for name in ("a_b", "a-b", "A-b")}
    assert len(made) == 3


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    first = records.conditions(
        (), records.registered(is_so=True, reason="Registered", message="it is"), 1, "t1"
    )
    again = records.conditions(
        first, records.registered(is_so=True, reason="Registered", message="it is"), 2, "t2"
    )
    other = records.conditions(
        again, records.registered(is_so=False, reason="Ended", message="it is over"), 2, "t3"
    )
    times = [made[0]["lastTransitionTime"] for made in (first, again, other)]
    assert times == ["t1", "t1", "t3"]


def test_no_condition_has_an_empty_message() -> None:
    """Some API servers take an empty text for none, and refuse the whole status."""
    for found in (records.satisfied(()), records.satisfied(("dram is full",))):
        [one] = records.conditions((), found, 1, "t1")
        assert one["message"]
