from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import plot, report
from benchmarks.comparison import Row, Spread, Target
from benchmarks.sampling import CPU, P99, THROUGHPUT, Result, Sample, Work
from benchmarks.works import router_works, works


def sample(throughput: float, cpu_us: float, p99_us: float = 90.0) -> Sample:
    """One second of work."""
    operations = int(throughput)
    return Sample(operations, 1.0, cpu_us * operations / 1e6, 0.1, 50.0, p99_us)


def result(work: Work, ours: float, theirs: float = 1000.0) -> Result:
    """Three pairs; the server CPU is as much less as throughput is more."""
    return Result(
        work,
        [sample(ours * scale, 10 * theirs / ours) for scale in (0.9, 1.0, 1.1)],
        [sample(theirs, 10) for _ in range(3)],
        {"send": [sample(5000, 2)], "sendfile": [sample(4000, 1)]},
    )


@pytest.fixture
def by_name() -> dict[str, Work]:
    return {work.name: work for work in [*works(), *router_works()]}


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (73260.4, "/s", "73,260/s"),
        (9.5, "/s", "10/s"),
        (8.456, "us", "8.46 us"),
        (19.94, "us", "19.9 us"),
        (1234.5, "us", "1,234 us"),
        (0.954, "", "0.95"),
    ],
)
def test_figures_are_for_people(amount: float, unit: str, text: str) -> None:
    assert report.figure(amount, unit) == text


def test_a_work_has_a_line_for_each_measure(by_name: dict[str, Work]) -> None:
    rows = result(by_name["get-100-own"], 900).rows()
    throughput, cpu, _, p99 = rows
    assert [row.measure for row in (throughput, cpu, p99)] == [THROUGHPUT, CPU, P99]
    assert (throughput.ours, throughput.theirs) == (900, 1000)
    assert throughput.compared == Spread(0.9, 0.81, 0.99)
    assert (throughput.verdict, p99.verdict) == ("MISSES", "")
    # Of the two ways of sending, the better, whichever is better in this measure.
    assert (throughput.floor, cpu.floor) == (5000, 1)


def test_what_redis_benchmark_leaves_out_is_noted(by_name: dict[str, Work]) -> None:
    notes = {
        name: [row.note for row in result(by_name[name], 900).rows()]
        for name in ("get-1m", "get-1m-own", "set-1m", "get-100")
    }
    assert notes["get-1m"] == ["", "", "to the first bytes", "to the first bytes"]
    assert {*notes["get-1m-own"], *notes["set-1m"], *notes["get-100"]} == {""}


def test_the_driver_at_its_limit_is_noted(by_name: dict[str, Work]) -> None:
    busy = Sample(1000, 1.0, server_cpu_s=0.5, driver_cpu_s=0.95, p50_us=1, p99_us=1)
    free = Sample(1000, 1.0, server_cpu_s=0.95, driver_cpu_s=0.95, p50_us=1, p99_us=1)
    for ours, theirs, note in ((busy, free, "driver at its limit"), (free, free, "")):
        made = Result(by_name["set-1m"], [ours] * 3, [theirs] * 3, {})
        assert [row.note for row in made.rows()] == [note, "", "", ""]


def test_another_driver_than_the_floors_compares_in_cpu_time_only(
    by_name: dict[str, Work],
) -> None:
    rows = result(by_name["get-100"], 900).rows()
    assert [row.floor is None for row in rows] == [True, False, True, True]


def test_the_table_is_aligned_markdown(by_name: dict[str, Work]) -> None:
    lines = report.table(result(by_name["get-1m-own"], 2000).rows()).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("| work ")
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells == [
        "GET 1 MiB, 4 connections",
        "own",
        "throughput",
        "2,000/s",
        "1,000/s",
        "2.00",
        "1.80 - 2.20",
        ">= 1.3",
        "meets",
        "5,000/s",
        "",
    ]
    # The work is named once.
    assert lines[3].startswith("|  ")


def test_it_says_plainly_where_pocketkv_loses(by_name: dict[str, Work]) -> None:
    rows = [
        *result(by_name["get-100"], 500).rows(),
        *result(by_name["set-100"], 2000).rows(),
        *result(by_name["incr"], 950).rows(),
    ]
    said = report.losses(rows)
    assert said[0].startswith("PocketKV misses 4 of 6 targets")
    assert said[1] == (
        "  - GET 100 B, 50 connections (redis-benchmark): throughput 0.50 (target >= 1),"
        " CPU per operation 2.00 (target <= 1)."
    )
    assert said[2].startswith(
        "  - INCR, 50 connections (redis-benchmark): throughput 0.95"
        " (target >= 1, some pairs meet it),"
    )
    assert len(said) == 3


def test_what_has_no_target_can_be_behind_too() -> None:
    behind = Row("GET", "p99", "us", 3, 2, Spread(1.5, 1.2, 1.9))
    router = Row(
        "router", "p50", "us", 90, 30, Spread(60, 50, 70), Target(high=100), is_difference=True
    )
    said = report.losses([behind, router])
    assert said[0] == "PocketKV misses no target that was measured."
    assert said[2:] == ["  - GET: p99 1.50.", "  - router: p50 +60 us."]


def test_names_of_works_are_unique_and_all_have_what_they_need() -> None:
    listed = [*works(), *router_works()]
    names = [work.name for work in listed]
    assert len(set(names)) == len(names)
    assert not set(names) & {work.group for work in listed}
    assert {
        *("get-100", "set-16m-own", "get-100-p16", "idle-get", "xadd", "router-get-1m-own"),
    } <= set(names)
    for work in listed:
        assert work.needs
        assert not work.has_floor or (work.floor_driver and work.operation and work.value_bytes)


def test_a_quick_run_is_a_part_of_the_whole() -> None:
    quick = [work.name for work in [*works(), *router_works()] if work.is_quick]
    assert 5 < len(quick) < 15
    assert {"get-100", "get-1m-own", "router-get-100", "latency-get"} <= set(quick)


# --- the picture ---------------------------------------------------------------------------------


def test_the_picture_has_a_point_for_each_size(by_name: dict[str, Work]) -> None:
    names = ("get-100", "set-100", "get-1k-own", "get-1m-own", "set-1m", "get-100-p16", "idle-get")
    results = [result(by_name[name], 900) for name in names]
    root = ElementTree.fromstring(plot.draw(results, "<a machine> & more"))
    shapes = [element.tag.rpartition("}")[2] for element in root.iter()]
    # Two panels with the five unpipelined ones of many connections each.
    assert shapes.count("circle") == 10
    assert shapes.count("polyline") == 4
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"GET", "SET", "100 B", "1 KiB", "1 MiB", "Redis", "<a machine> & more"} <= set(words)


def test_sizes_stand_on_a_logarithmic_axis(by_name: dict[str, Work]) -> None:
    results = [result(by_name[f"get-{size}-own"], 900) for size in ("16", "1k", "64k", "100k")]
    root = ElementTree.fromstring(plot.draw(results, ""))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    x16, x1k, x64k, x100k = [
        float(element.attrib["cx"]) for element in root.iter() if element.tag.endswith("circle")
    ][:4]
    assert x1k - x16 == pytest.approx(x64k - x1k, abs=0.2)
    assert x64k < x100k < x64k + 0.1 * (x64k - x16)
    # Two names would stand in each other's place.
    words = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert ("64 KiB" in words, "100 KiB" in words) == (True, x100k - x64k >= 14)
    assert tags.count("circle") == 8


def test_the_driver_that_saturates_is_the_one_that_is_drawn(by_name: dict[str, Work]) -> None:
    slow, fast = result(by_name["get-100"], 500), result(by_name["get-100-own"], 800)
    for order in ([slow, fast], [fast, slow]):
        [point] = plot.points(order, THROUGHPUT)
        assert point.ratio.median == 0.8


def test_far_ratios_stay_inside_the_picture(by_name: dict[str, Work]) -> None:
    results = [result(by_name["get-1m-own"], 1e6), result(by_name["get-16m-own"], 20)]
    root = ElementTree.fromstring(plot.draw(results, ""))
    height = float(root.attrib["height"])
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert circles
    assert all(0 < float(circle.attrib["cy"]) < height for circle in circles)


def test_there_is_no_picture_of_nothing(by_name: dict[str, Work]) -> None:
    with pytest.raises(ValueError, match="no GET or SET"):
        plot.draw([result(by_name["incr"], 900)], "")
