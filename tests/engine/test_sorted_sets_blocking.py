"""BZPOPMIN, BZPOPMAX and BZMPOP: who is served with what, and who is not."""

from __future__ import annotations

import pytest

from tests.engine.harness import BLOCKED, Engine
from tests.replies import Error


def test_what_is_there_is_given_at_once(engine: Engine) -> None:
    client = engine.connect()
    client("ZADD", "b", 1, "x", 2, "y")
    assert client("BZPOPMAX", "a", "b", 0) == [b"b", b"y", b"2"]
    assert client("BZMPOP", 0, 2, "a", "b", "MIN", "COUNT", 5) == [b"b", [[b"x", b"1"]]]
    assert client("EXISTS", "b") == 0


def test_who_came_first_is_served_first(engine: Engine) -> None:
    first, second, third, other = (engine.connect() for _ in range(4))
    assert first("BZPOPMIN", "a", "b", 0) is BLOCKED
    assert second("BZMPOP", 0, 1, "b", "MAX", "COUNT", 2) is BLOCKED
    assert third("BZPOPMAX", "b", 0) is BLOCKED
    assert other("ZADD", "b", 1, "x", 2, "y", 3, "z", 4, "last") == 4
    assert first.result() == [b"b", b"x", b"1"]
    assert second.result() == [b"b", [[b"last", b"4"], [b"z", b"3"]]]
    assert third.result() == [b"b", b"y", b"2"]
    assert other("EXISTS", "b") == 0
    assert engine.node.blocked_clients == 0


def test_scores_are_doubles_in_resp3(engine: Engine) -> None:
    waiter, other = engine.connect(protocol=3), engine.connect()
    assert waiter("BZPOPMIN", "a", 0) is BLOCKED
    other("ZADD", "a", 1.5, "x")
    assert waiter.result() == [b"a", b"x", 1.5]


def test_whatever_makes_a_sorted_set_serves(engine: Engine) -> None:
    waiter, other = engine.connect(), engine.connect()
    other("ZADD", "source", 1, "x")
    for request in (
        ["ZINCRBY", "a", 1, "x"],
        ["ZUNIONSTORE", "a", 1, "source"],
        ["ZRANGESTORE", "a", "source", 0, -1],
        ["GEOADD", "a", 13.3, 38.1, "x"],
        ["COPY", "source", "a"],
        ["RENAME", "source", "a"],
    ):
        assert waiter("BZMPOP", 0, 1, "a", "MIN") is BLOCKED
        assert not isinstance(other(*request), Error)
        key, ((member, _),) = waiter.result()
        assert (key, member) == (b"a", b"x")
        assert other("EXISTS", "a") == 0


def test_another_type_serves_nobody(engine: Engine) -> None:
    waiter, other = engine.connect(), engine.connect()
    assert waiter("BZPOPMIN", "a", 0) is BLOCKED
    other("SET", "a", "text")
    assert waiter.result() is BLOCKED
    assert isinstance(other("BZPOPMIN", "a", 0), Error)
    other("DEL", "a")
    other("ZADD", "a", 1, "x")
    assert waiter.result() == [b"a", b"x", b"1"]


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_wait_ends_in_time(engine: Engine, protocol: int) -> None:
    waiter, other = engine.connect(protocol=protocol), engine.connect()
    null = b"_\r\n" if protocol == 3 else b"*-1\r\n"
    for request in (["BZPOPMIN", "a", "0.5"], ["BZMPOP", "0.5", 1, "a", "MIN"]):
        assert waiter(*request) is BLOCKED
        engine.advance(499)
        assert waiter.result() is BLOCKED
        engine.advance(1)
        assert waiter.transport.take() == null
    other("ZADD", "a", 1, "x")
    assert other("ZCARD", "a") == 1


def test_who_is_gone_takes_nothing(engine: Engine) -> None:
    gone, waiter, other = (engine.connect() for _ in range(3))
    assert gone("BZPOPMIN", "a", 0) is BLOCKED
    assert waiter("BZPOPMIN", "a", 0) is BLOCKED
    gone.disconnect()
    other("ZADD", "a", 1, "x", 2, "y")
    assert waiter.result() == [b"a", b"x", b"1"]
    assert other("ZRANGE", "a", 0, -1) == [b"y"]


@pytest.mark.parametrize(
    ("timeout", "is_right"),
    [
        *[(text, True) for text in ("0", "1", "0.001", "1e-9", "0x1p4", "9223372036854775")],
        *[(text, False) for text in ("-1", "x", "", "nan", "inf", "1e300", "1 ", "1e16")],
    ],
)
def test_timeouts_are_numbers(engine: Engine, timeout: str, is_right: bool) -> None:
    client = engine.connect()
    reply = client("BZPOPMIN", "a", timeout)
    assert (reply is BLOCKED) == is_right
    assert isinstance(reply, Error) != is_right
