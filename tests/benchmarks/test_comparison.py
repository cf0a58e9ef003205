from __future__ import annotations

import math

import pytest

from benchmarks.comparison import (
    Row,
    Spread,
    Target,
    differences,
    percentile,
    ratios,
    spread,
)
from benchmarks.sampling import operations_of_a_run, turns
from benchmarks.servers import CpuTime


def row(low: float, median: float, high: float, **more: object) -> Row:
    made: dict[str, object] = {
        "work": "GET",
        "measure": "p50",
        "unit": "us",
        "ours": 2.0,
        "theirs": 1.0,
        "compared": Spread(median, low, high),
    }
    return Row(**(made | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([5], 50, 5),
        ([5], 99, 5),
        ([3, 1, 2], 50, 2),
        ([4, 3, 1, 2], 50, 2),
        (range(1, 101), 99, 99),
        (range(1, 1001), 99, 990),
        ([1, 2], 0, 1),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[int], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_ratios_are_those_of_pairs_and_not_of_medians() -> None:
    # The machine became three times slower between the pairs; both felt it.
    assert ratios([100, 33, 90], [200, 66, 90]) == Spread(0.5, 0.5, 1.0)
    assert differences([30, 60], [10, 10]) == Spread(35, 20, 50)
    assert spread([3, 1, 2]) == Spread(2, 1, 3)


def test_a_pair_has_two_runs() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1, 2], [1])
    with pytest.raises(ValueError, match="zip"):
        differences([1], [1, 2])


def test_nothing_at_all_makes_every_ratio_infinite() -> None:
    assert ratios([1.0], [0.0]).median == math.inf


@pytest.mark.parametrize(
    ("target", "met", "missed", "text"),
    [
        (Target(low=1.0), [1.0, 1.01, 9], [0.999, 0], ">= 1"),
        (Target(high=0.8), [0.8, 0.1], [0.801, 2], "<= 0.8"),
        (Target(high=100, unit=" us"), [-5, 100], [100.1], "<= 100 us"),
        (Target(low=0.85, high=1.15), [0.85, 1, 1.15], [0.84, 1.16], "0.85 - 1.15"),
    ],
)
def test_a_target_has_its_bounds(
    target: Target, met: list[float], missed: list[float], text: str
) -> None:
    assert [target.is_met(figure) for figure in met + missed] == [True] * len(met) + [False] * len(
        missed
    )
    assert str(target) == text


def test_the_median_decides_and_the_range_says_how_sure_that_is() -> None:
    sure = row(1.2, 1.3, 1.4, target=Target(high=1.1))
    assert (sure.verdict, sure.is_missed, sure.is_missed_clearly) == ("MISSES", True, True)
    unsure = row(1.0, 1.3, 1.4, target=Target(high=1.1))
    assert (unsure.verdict, unsure.is_missed_clearly) == ("MISSES", False)
    met = row(0.5, 1.1, 1.4, target=Target(high=1.1))
    assert (met.verdict, met.is_missed, met.is_missed_clearly) == ("meets", False, False)
    assert row(1, 2, 3).verdict == ""


@pytest.mark.parametrize(
    ("ends", "is_less_better", "is_behind"),
    [
        ((1.1, 1.3), True, True),
        ((0.9, 1.3), True, False),
        ((0.7, 0.9), True, False),
        ((0.7, 0.9), False, True),
        ((0.7, 1.1), False, False),
        ((1.2, 1.3), False, False),
    ],
)
def test_behind_is_what_every_pair_says(
    ends: tuple[float, float], is_less_better: bool, is_behind: bool
) -> None:
    assert row(ends[0], 1.0, ends[1], is_less_better=is_less_better).is_behind == is_behind


def test_a_difference_is_even_at_none() -> None:
    assert row(2, 5, 9, is_difference=True).is_behind
    assert not row(-2, 0, 9, is_difference=True).is_behind
    assert not row(2, 2, 2, is_own=True).is_behind


def test_each_is_first_as_often_as_the_other() -> None:
    assert list(turns(5)) == [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1)]


def test_the_slowest_server_decides_how_much_is_done() -> None:
    assert operations_of_a_run([50_000, 80_000], 0.5, 2000) == 25_000
    assert operations_of_a_run([10, 80_000], 0.5, 2000) == 2000
    assert operations_of_a_run([1e9, 1e9], 100, 2000) == 5_000_000


def test_the_finer_account_of_cpu_time_counts_while_both_agree() -> None:
    before = CpuTime(ticks_s=1.00, threads_s=1.004)
    assert CpuTime(1.51, 1.509).since(before) == pytest.approx(0.505)
    # A thread has ended, and taken its time along.
    assert CpuTime(1.51, 1.204).since(before) == pytest.approx(0.51)
