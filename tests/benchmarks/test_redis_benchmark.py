from __future__ import annotations

import pytest

from benchmarks.client import BenchmarkError, parse_info
from benchmarks.redis_benchmark import check, parse

HEADER = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",'
    '"p99_latency_ms","max_latency_ms"\n'
)


def test_figures_are_in_operations_per_second_and_microseconds() -> None:
    text = HEADER + '"GET","73260.07","0.392","0.088","0.311","0.767","0.903","2.119"\n'
    assert parse(text) == pytest.approx((73260.07, 311, 903))


def test_the_name_of_a_test_may_hold_anything() -> None:
    text = HEADER + '"EVAL return redis.call(\'SET\', 1) 0","10.5","1","1","1","1","2","3"\n'
    assert parse(text) == (10.5, 1000, 2000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEADER,
        HEADER + 2 * '"GET","1.0","1","1","1","1","1","1"\n',
        HEADER + '"GET","nan","1","1","1","1","1","1"\n',
        HEADER + '"GET","0.00","1","1","1","1","1","1"\n',
        HEADER + '"GET","1.0"\n',
        HEADER + '"GET","many","1","1","1","1","1","1"\n',
        "test,rps\nGET,1.0\n",
    ],
)
def test_anything_else_is_no_figure(text: str) -> None:
    with pytest.raises(BenchmarkError):
        parse(text)


def test_a_warning_that_changes_nothing_is_let_pass() -> None:
    check(0, "")
    check(0, "WARNING: Could not fetch server CONFIG\n\n")


@pytest.mark.parametrize(
    ("status", "errors", "said"),
    [
        (1, "Error from server: ERR unknown command 'FOO'\n", "unknown command 'FOO'"),
        (0, "Error from server: MOVED 1 127.0.0.1:1\n", "MOVED"),
        (0, "WARNING: Could not fetch server CONFIG\nError: reset by peer", "reset by peer"),
        (-9, "", r"exit status -9\) says: nothing"),
    ],
)
def test_an_error_is_no_measurement(status: int, errors: str, said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        check(status, errors)


def test_info_is_read_by_field() -> None:
    text = b"# Errorstats\r\nerrorstat_ERR:count=3\r\n\r\n# Server\r\nexecutable:/a:b\r\n"
    assert parse_info(text) == {"errorstat_ERR": "count=3", "executable": "/a:b"}
