"""The drivers and helpers, against real processes; how fast they are is nobody's business here."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from benchmarks import heavy
from benchmarks.client import BenchmarkError
from benchmarks.driver import Driver, Flood, Ping
from benchmarks.exchanges import (
    Exchange,
    Operation,
    batches,
    bulk,
    command,
    exchanges,
    key,
    short_lives,
    value,
)
from benchmarks.floor import floor_server, ways
from benchmarks.helpers import helper
from benchmarks.paced import Paced
from benchmarks.servers import HOST, redis_server

TIMEOUT_S = 10.0


def test_requests_are_as_redis_wants_them() -> None:
    assert command(b"SET", key(7), b"") == (
        b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000007\r\n$0\r\n\r\n"
    )
    assert bulk(b"a\r\n") == b"$3\r\na\r\n\r\n"
    assert [len(value(size)) for size in (0, 1, 16, 100)] == [0, 1, 16, 100]


def test_exchanges_go_once_through_all_keys() -> None:
    made = exchanges("GET", 3, keys=10, pipeline=4)
    assert [exchange.operations for exchange in made] == [4, 4]
    assert made[1].reply == bulk(b"012") * 4
    asked = b"".join(exchange.request for exchange in made)
    all_of_them = [command(b"GET", key(number)) for number in range(10)]
    # Each once, but for what is left over from the last pipeline, and in no order.
    assert [asked.count(request) for request in all_of_them].count(1) == 8
    assert asked != b"".join(all_of_them[:8])
    assert made == exchanges("GET", 3, keys=10, pipeline=4)
    [one] = exchanges("SET", 3, keys=1)
    assert one == Exchange(command(b"SET", key(0), b"012"), b"+OK\r\n")


@pytest.mark.parametrize(
    ("operation", "value_bytes", "pipeline"),
    [("GET", 100, 1), ("SET", 100, 16), ("GET", 3_000_000, 1), ("SET", 3_000_000, 1)],
)
def test_a_flood_is_answered_to_the_byte(
    operation: Operation, value_bytes: int, pipeline: int
) -> None:
    make = partial(exchanges, operation, value_bytes, 3 * pipeline, pipeline)
    for way in ways(operation, value_bytes):
        with floor_server(operation, value_bytes, pipeline, way) as floor:
            driven = Flood(make, clients=3).run(HOST, floor.port, 10 * pipeline)
            assert driven.operations == 10 * pipeline
            assert 0 < driven.p50_us <= driven.p99_us
            assert driven.duration_s > 0
            assert floor.cpu().ticks_s >= 0
            assert floor.memory_bytes() > 1_000_000


def test_a_short_life_is_answered_as_a_server_does() -> None:
    assert len({made.request for made in short_lives(100, keys=8)}) == 8
    with redis_server() as endpoint:
        driven = Flood(partial(short_lives, 70_000, 8), clients=2).run(HOST, endpoint.port, 10)
        assert driven.operations == 10
        with endpoint.client() as client:
            assert client.call("DBSIZE") == 0


def test_batches_hold_all_requests_in_order() -> None:
    requests = [b"%d" % number * 50_000 for number in range(7)]
    made = list(batches(requests))
    assert [count for _, count in made] == [3, 3, 1]
    assert b"".join(batch for batch, _ in made) == b"".join(requests)
    assert list(batches([])) == []


def test_paced_requests_leave_by_the_clock() -> None:
    make = partial(exchanges, "GET", 100, 10)
    with floor_server("GET", 100, 1, "send") as floor:
        driven = Paced(make, clients=3, rate=1000).run(HOST, floor.port, 50)
    assert driven.operations == 50
    assert driven.duration_s >= 49 / 1000
    assert 0 < driven.p50_us <= driven.p99_us


def test_a_heavy_client_tells_what_it_moved() -> None:
    for operation in ("GET", "SET"):
        with redis_server() as endpoint:
            with endpoint.client() as client:
                assert heavy.fill(client) == client.call("DBSIZE")
            with helper("heavy", HOST, str(endpoint.port), operation) as pump:
                assert pump.ready == "ready"
                Paced(partial(exchanges, "SET", 100, 10), 2, 1000).run(HOST, endpoint.port, 100)
            assert float(pump.result) > 1


def test_a_heavy_client_that_is_answered_wrongly_says_nothing() -> None:
    with answering(b"-ERR no\r\n") as port, helper("heavy", HOST, str(port), "GET") as pump:
        # It ends by itself; leaving the block before that would end it without an answer.
        os.waitid(os.P_PID, pump.pid, os.WEXITED | os.WNOWAIT)
    assert pump.result == ""


def test_a_ping_is_answered_to_the_byte() -> None:
    make = partial(exchanges, "GET", 200_000, 2)
    with floor_server("GET", 200_000, 1, "send") as floor:
        assert Ping(make).run(HOST, floor.port, 5).operations == 5


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A server that answers one connection's first bytes with `reply`, then closes it."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(TIMEOUT_S)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(TIMEOUT_S)
                sock.recv(65536)
                sock.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    "make", [partial(Flood, clients=1), Ping, partial(Paced, clients=1, rate=1000)]
)
@pytest.mark.parametrize("value_bytes", [100, 100_000])
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"-ERR no such thing\r\n", "-ERR no such thing"),
        (b"$-1\r\n", r"\$-1"),
        (b"", "closed the connection"),
        (b"$1", "closed the connection"),
    ],
)
def test_what_is_not_due_is_no_throughput(
    make: Callable[[Callable[[], list[Exchange]]], Driver],
    value_bytes: int,
    reply: bytes,
    said: str,
) -> None:
    driver = make(partial(exchanges, "GET", value_bytes, 1))
    with answering(reply) as port, pytest.raises(BenchmarkError, match=said):
        driver.run(HOST, port, 1)


def test_more_than_is_due_is_noticed() -> None:
    driver = Flood(partial(exchanges, "GET", 5, 1), clients=1)
    with answering(bulk(value(5)) + b"+OK\r\n") as port, pytest.raises(BenchmarkError):
        driver.run(HOST, port, 1)
