"""What the parser refuses, and what it costs to announce much and send little."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.parser import NEED_DATA, SKIPPED, RequestParser
from tests.resp import reference
from tests.resp.support import parse, pieces, receive, take


def peak_bytes(action: Callable[[], object]) -> int:
    """The most memory that was in use at a time while `action` ran, beyond what was before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def announce(stream: bytes) -> tuple[RequestParser, int]:
    """A parser that was sent a stream, with all that it asked for, and what that cost."""
    parser = RequestParser()

    def send() -> None:
        receive(parser, stream)
        assert take(parser) == ([], None)
        parser.writable()

    return parser, peak_bytes(send)


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"*1048576\r\n", id="many arguments"),
        pytest.param(b"*1\r\n$536870912\r\n", id="a large argument"),
        pytest.param(b"*1048576\r\n$536870912\r\n", id="many large arguments"),
        pytest.param(b"*2\r\n$536870912\r\nabc", id="a large argument that has begun"),
    ],
)
def test_announcing_much_reserves_little(stream: bytes) -> None:
    parser, cost_bytes = announce(stream)
    assert cost_bytes < limits.LARGE_BULK_FIRST_BYTES + 64 * limits.KIB
    assert parser.buffered_bytes() <= limits.LARGE_BULK_FIRST_BYTES


def test_memory_follows_what_arrives() -> None:
    parser = RequestParser()
    chunk = bytes(limits.RECEIVE_BYTES)
    receive(parser, b"*2\r\n$3\r\nSET\r\n$536870912\r\n")
    assert take(parser) == ([], None)
    received_bytes = 0
    for _ in range(100):
        receive(parser, chunk)
        received_bytes += len(chunk)
        assert take(parser) == ([], None)
        most = max(limits.LARGE_BULK_FIRST_BYTES, 2 * received_bytes) + len(chunk)
        assert parser.buffered_bytes() <= most


@pytest.mark.parametrize("size", [20_000, 300_000, 3_000_000])
def test_a_large_argument_costs_little_more_than_itself(size: int) -> None:
    stream = encode_request([b"SET", b"k", bytes(size)])
    chunks = pieces(stream, range(0, len(stream), limits.RECEIVE_BYTES))
    cost_bytes = peak_bytes(lambda: parse(chunks))
    # Its buffer, and the argument that is made of it.
    assert cost_bytes < 2 * max(size, limits.LARGE_BULK_FIRST_BYTES) + limits.MIB


def test_what_was_parsed_is_given_back() -> None:
    parser = RequestParser()
    stream = encode_request([b"SET", b"k", bytes(100_000)]) * 3
    tracemalloc.start()
    try:
        for _ in range(20):
            receive(parser, stream)
            requests, error = take(parser)
            assert (len(requests), error) == (3, None)
            del requests
        left_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert parser.buffered_bytes() == 0
    assert left_bytes < 64 * limits.KIB


def test_queued_bytes_are_counted() -> None:
    parser = RequestParser()
    stream = encode_request([b"ECHO", b"x" * 100])
    for _ in range(10):
        parser.feed(stream)
    assert parser.buffered_bytes() == 10 * len(stream)
    assert parser.next_request() == [b"ECHO", b"x" * 100]
    assert parser.buffered_bytes() == 9 * len(stream)


def test_many_small_pieces_are_not_joined_over_and_over() -> None:
    parser = RequestParser()
    stream = encode_request([b"SET", b"k", b"v" * 15_000])
    # Each of them is one receive of an unlucky client.
    for byte in stream * 4:
        parser.feed(bytes([byte]))
    assert len(take(parser)[0]) == 4


# --- limits ------------------------------------------------------------------------------------


def error_of(chunks: Iterable[bytes], parser: RequestParser | None = None) -> str | None:
    return parse(chunks, parser)[1]


def test_arguments_are_limited() -> None:
    assert error_of([b"*%d\r\n" % limits.ARGUMENTS_MAX]) is None
    error = error_of([b"*%d\r\n" % (limits.ARGUMENTS_MAX + 1)])
    assert error == "Protocol error: invalid multibulk length"


def test_an_argument_is_limited() -> None:
    assert error_of([b"*1\r\n$%d\r\n" % limits.BULK_BYTES_MAX]) is None
    error = error_of([b"*1\r\n$%d\r\n" % (limits.BULK_BYTES_MAX + 1)])
    assert error == "Protocol error: invalid bulk length"


def test_the_largest_argument_can_be_configured() -> None:
    parser = RequestParser()
    parser.bulk_bytes_max = 100
    assert parse([encode_request([bytes(100)])], parser) == ([[bytes(100)]], None)
    assert error_of([encode_request([bytes(101)])], parser) is not None


def test_a_request_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_BYTES_MAX", 100)
    assert error_of([encode_request([bytes(50), bytes(50)])] * 3) is None
    assert error_of([b"*2\r\n$50\r\n" + bytes(50) + b"\r\n$51\r\n"]) == (
        "Protocol error: too big request"
    )
    assert error_of([b"*1\r\n$101\r\n"]) == "Protocol error: too big request"


@pytest.mark.parametrize("step", [100, 7919, 100_000])
def test_a_line_is_limited(step: int) -> None:
    fits = b"a" * limits.LINE_BYTES_MAX
    assert parse(pieces(fits + b"\n", range(step, len(fits), step))) == ([[fits]], None)
    longer = fits + b"a"
    for stream in (longer, longer + b"\n"):
        error = error_of(pieces(stream, range(step, len(stream), step)))
        assert error == "Protocol error: too big inline request"


@pytest.mark.parametrize("head", [b"*", b"*-", b"*1\r\n$", b"*1\r\n$-"])
def test_a_length_is_limited(head: bytes) -> None:
    parser = RequestParser()
    parser.feed(head + b"1" * 19)
    assert parser.next_request() is NEED_DATA
    parser.feed(b"1")
    with pytest.raises(ProtocolError, match="length"):
        parser.next_request()


# --- before authentication ---------------------------------------------------------------------


def restricted() -> RequestParser:
    parser = RequestParser()
    parser.restrict()
    return parser


def test_limits_are_tighter_before_authentication() -> None:
    fits = [bytes(limits.UNAUTHENTICATED_BULK_BYTES_MAX)] * limits.UNAUTHENTICATED_ARGUMENTS_MAX
    assert parse([encode_request(fits)], restricted()) == ([fits], None)
    assert error_of([b"*11\r\n"], restricted()) == (
        "Protocol error: unauthenticated multibulk length"
    )
    assert error_of([b"*1\r\n$16385\r\n"], restricted()) == (
        "Protocol error: unauthenticated bulk length"
    )


def test_the_reference_knows_the_tighter_limits() -> None:
    bounds = reference.Bounds(arguments_max=10, bulk_bytes_max=16 * 1024, authenticated=False)
    for stream in (b"*11\r\n", b"*1\r\n$16385\r\n", b"*1\r\n$-1\r\n", b"*1048577\r\n", b"*-1\r\n"):
        assert error_of([stream], restricted()) == reference.parse(stream, bounds).error


def test_limits_are_lifted_by_authentication() -> None:
    parser = restricted()
    parser.unrestrict(limits.BULK_BYTES_MAX, limits.REQUEST_BYTES_MAX)
    request = [bytes(20_000)] * 11
    assert parse([encode_request(request)], parser) == ([request], None)


def test_limits_are_lifted_for_requests_that_were_received_before() -> None:
    parser = restricted()
    request = [b"DEL", *[b"k"] * 20]
    parser.feed(encode_request([b"AUTH", b"x"]) + encode_request(request))
    assert parser.next_request() == [b"AUTH", b"x"]
    parser.unrestrict(limits.BULK_BYTES_MAX, limits.REQUEST_BYTES_MAX)
    assert parser.next_request() == request


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"*0\r\n", b"*-1\r\n", b"   \r\n"])
def test_empty_requests_do_not_hold_the_thread(empty: bytes) -> None:
    parser = RequestParser()
    for _ in range(100):
        parser.feed(empty * 1000)
    parser.feed(b"PING\r\n")
    before = parser.buffered_bytes()
    calls = 0
    while (request := parser.next_request()) is SKIPPED:
        assert before - parser.buffered_bytes() <= limits.REQUESTS_PER_TURN * len(empty)
        before = parser.buffered_bytes()
        calls += 1
    assert request == [b"PING"]
    assert calls >= 100_000 // limits.REQUESTS_PER_TURN
