"""Traces: what is read, what is refused and how, and that what is written is read again."""

from __future__ import annotations

import io
import itertools

import pytest

from pocketkv.jobs import Hints, Latency
from pocketkv.simulate.generate import KINDS, generate
from pocketkv.simulate.trace import TracedJob, TraceError, read_trace, write_trace

HEAD = "start_s,duration_s,name,lambdas,capacity,throughput,latency,tiers,written,read"


def test_a_line_is_a_job_and_what_is_empty_was_not_said() -> None:
    lines = [HEAD, "10,60,sort,500,100gb,7.5g,tolerant,nvme ssd,100g,90g", "", "5,1,x,,,,,,1kb,"]
    first, second = read_trace(lines, "t.csv")
    assert first == TracedJob("x", 5.0, 1.0, Hints(), 1024, 1024)
    hints = Hints(500, 100 * 2**30, 7_500_000_000, Latency.TOLERANT, ("nvme", "ssd"))
    assert second == TracedJob("sort", 10.0, 60.0, hints, 100 * 10**9, 90 * 10**9)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "t.csv: there is no column start_s"),
        ([HEAD], "t.csv: there are no jobs in it"),
        (["start_s,colour"], "t.csv: no column is called 'colour', only start_s, "),
        ([HEAD + ",read"], "t.csv: the column read is there twice"),
        ([HEAD, "1,2"], "t.csv, line 2: 2 values for 10 columns"),
        ([HEAD, "", "-1,1,x,,,,,,1,"], "t.csv, line 3, start_s: '-1' is not a number of seconds"),
        ([HEAD, "nan,1,x,,,,,,1,"], "t.csv, line 2, start_s: 'nan' is not"),
        ([HEAD, "1,0,x,,,,,,1,"], "t.csv, line 2, duration_s: '0' is shorter"),
        ([HEAD, "1,1,,,,,,,1,"], "t.csv, line 2: name is empty"),
        ([HEAD, "1,1,a b,,,,,,1,"], "t.csv, line 2, name: a job's name is"),
        ([HEAD, "1,1,x,many,,,,,1,"], "t.csv, line 2, lambdas: 'many' is not a whole number"),
        ([HEAD, "1,1,x,9999999,,,,,1,"], "t.csv, line 2: lambdas is not 0 to"),
        ([HEAD, "1,1,x,,5 parsecs,,,,1,"], "t.csv, line 2, capacity: "),
        ([HEAD, "1,1,x,,,,slow,,1,"], "t.csv, line 2, latency: 'slow' is not sensitive or tol"),
        ([HEAD, "1,1,x,,,,,tape,1,"], "t.csv, line 2, tiers: 'tape' is none of dram, "),
        ([HEAD, "1,1,x,,,,,dram dram,1,"], "t.csv, line 2: tiers has one twice"),
        ([HEAD, '1,1,"x,,,,,,1,'], "t.csv, line 2: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(lines, "t.csv")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_is_written_is_read_again() -> None:
    jobs = generate(500, 1, 7)
    file = io.StringIO()
    write_trace(jobs, file)
    assert read_trace(file.getvalue().splitlines(keepends=True), "t.csv") == jobs


def test_one_seed_is_one_trace_and_jobs_come_as_often_as_was_asked() -> None:
    jobs = generate(600, 4, 3)
    assert jobs == generate(600, 4, 3)
    assert jobs != generate(600, 4, 4)
    # 2,400 are expected, and four standard deviations of a Poisson count are 196.
    assert 2204 < len(jobs) < 2596
    for kind in KINDS:
        mine = [job for job in jobs if job.name == kind.name]
        assert abs(len(mine) / len(jobs) - kind.weight) < 0.05
        assert all(0.8 * kind.duration_s <= job.duration_s <= 1.2 * kind.duration_s for job in mine)


def test_even_the_shortest_trace_has_a_job() -> None:
    assert len(generate(0.01, 0.001, 1)) == 1


def test_what_a_job_does_adds_up_to_what_it_writes_and_reads() -> None:
    job = TracedJob("x", 0.0, 10.0, Hints(), 1000_000, 500_000)
    phases = job.phases()
    assert phases[0] == (0, 200_000, 0)
    assert phases[-2:] == [(5_000, 100_000, 1000_000), (10_000, 0, 0)]
    moved = sum(rate * (after - at) for (at, rate, _), (after, _, _) in itertools.pairwise(phases))
    assert moved == 1000 * (job.written_bytes + job.read_bytes)
