"""Ten thousand clients that wait cost nobody anything: an operation does as much as among ten."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from types import FrameType

import pytest

from tests.engine.harness import BLOCKED, Client, Engine

MANY = 10_000
FEW = 10
# How much longer the fastest of many runs may take among many: far less than what it would take to
# look at each of them, which is a hundred times as long.
SLOWER_MAX = 3


def blocked(count: int, *request: object) -> tuple[Engine, list[Client]]:
    """An engine with so many clients that wait."""
    engine = Engine()
    clients = [engine.connect() for _ in range(count)]
    for number, client in enumerate(clients):
        assert client(*[f"own:{number}" if part == "OWN" else part for part in request]) is BLOCKED
    assert engine.node.blocked_clients == count
    return engine, clients


def calls(step: Callable[[], object]) -> int:
    """How many functions are called, C's included."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    # A collection of garbage would call whoever wants to know of it.
    gc.disable()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def fastest_s(step: Callable[[], object]) -> float:
    """The time of the fastest of many runs."""
    found = []
    for _ in range(200):
        began_s = time.perf_counter()
        step()
        found.append(time.perf_counter() - began_s)
    return min(found)


def push_and_pop(client: Client) -> None:
    client("RPUSH", "other", "x")
    client("LPOP", "other")


WAITS = {
    "each for its own": ("BLPOP", "OWN", 0),
    "all for the same": ("BLPOP", "awaited", 0),
    "with time-outs": ("BLMOVE", "OWN", "awaited", "LEFT", "LEFT", 100),
}


@pytest.mark.parametrize("request_", WAITS.values(), ids=WAITS)
def test_an_operation_on_another_key(request_: tuple[object, ...]) -> None:
    counts, times_s = [], []
    for number in (FEW, MANY):
        engine, _clients = blocked(number, *request_)
        client = engine.connect()
        push_and_pop(client)
        counts.append(calls(lambda client=client: push_and_pop(client)))  # type: ignore[misc]
        times_s.append(fastest_s(lambda client=client: push_and_pop(client)))  # type: ignore[misc]
    assert counts[0] == counts[1]
    assert times_s[1] < SLOWER_MAX * times_s[0]


def test_a_push_that_serves_the_first_of_many() -> None:
    """It is served, and waits again behind all others."""
    counts, times_s = [], []
    for number in (FEW, MANY):
        engine, clients = blocked(number, "BLPOP", "awaited", 0)
        pusher = engine.connect()
        turn = iter(clients * 40)

        def serve_one(pusher: Client = pusher, turn: object = turn) -> None:
            assert pusher("RPUSH", "awaited", "x") == 1
            first: Client = next(turn)  # type: ignore[call-overload]
            assert first.result() == [b"awaited", b"x"]
            assert first("BLPOP", "awaited", 0) is BLOCKED

        serve_one()
        counts.append(calls(serve_one))
        times_s.append(fastest_s(serve_one))
    assert counts[0] == counts[1]
    assert times_s[1] < SLOWER_MAX * times_s[0]


def test_waits_that_begin_and_time_out() -> None:
    """A time-out more is a place more in a heap: some more comparisons, and no look at all."""
    counts = []
    for number in (FEW, MANY):
        engine, _clients = blocked(number, "BLPOP", "OWN", 1000)
        client = engine.connect()

        def wait(engine: Engine = engine, client: Client = client) -> None:
            assert client("BLPOP", "mine", 0.001) is BLOCKED
            engine.advance(1)
            assert client.result() is None

        wait()
        counts.append(calls(wait))
    assert counts[1] < counts[0] + 100
