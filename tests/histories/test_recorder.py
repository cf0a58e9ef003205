"""The recorder: what it notes of replies, refusals and silence."""

from __future__ import annotations

import math
from itertools import count

import pytest

from tests.histories.operations import UNKNOWN, Operation, Recorder


def recorder() -> Recorder:
    times = count(1)
    return Recorder(clock=lambda: float(next(times)))


def fail(error: Exception) -> None:
    raise error


def test_a_reply() -> None:
    noted = recorder()
    assert noted.call("c1", "k", "SMEMBERS", (), lambda: {"a"}) == {"a"}
    assert noted.call("c2", "k", "SADD", ("b",), lambda: 1) == 1
    assert noted.histories() == {
        "k": [
            Operation("c1", "SMEMBERS", (), 1, 2, frozenset("a")),
            Operation("c2", "SADD", ("b",), 3, 4, 1),
        ]
    }


def test_an_error_leaves_open_what_happened_unless_it_is_a_refusal() -> None:
    noted = recorder()
    with pytest.raises(TimeoutError):
        noted.call("c", "k", "INCR", (), lambda: fail(TimeoutError()))
    with pytest.raises(ValueError, match="OOM"):
        noted.call("c", "k", "INCR", (), lambda: fail(ValueError("OOM")), lambda e: "OOM" in str(e))
    (operation,) = noted.histories()["k"]
    assert (operation.result, operation.end_s) == (UNKNOWN, math.inf)


def test_histories_are_in_the_order_of_sending() -> None:
    noted = recorder()
    late, early = Operation("c", "GET", (), 5, 6, None), Operation("c", "GET", (), 1, 9, None)
    noted.add("k", late)
    noted.add("k", early)
    assert noted.histories()["k"] == [early, late]
