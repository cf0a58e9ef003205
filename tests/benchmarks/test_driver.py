"""The drivers and helpers, against real processes; how fast they are is nobody's business here."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from benchmarks.client import BenchmarkError
from benchmarks.driver import Driver, Flood, Ping
from benchmarks.exchanges import Exchange, Operation, bulk, command, exchanges, key, value
from benchmarks.floor import floor_server, ways
from benchmarks.servers import HOST

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
    assert made[1].request.startswith(command(b"GET", key(4)))
    assert made[1].reply == bulk(b"012") * 4
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


@pytest.mark.parametrize("make", [partial(Flood, clients=1), Ping])
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
