"""What the request parser understands, however the stream is cut."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.resp.encoder import encode_request
from pocketkv.resp.parser import RequestParser
from tests.resp import reference
from tests.resp.support import parse, pieces, receive, take

LARGE = bytes(range(256)) * 100
HUGE = random.Random(7).randbytes(3 * 1024 * 1024 + 5)


@dataclass
class Case:
    name: str
    stream: bytes
    requests: list[list[bytes]]
    error: str | None = None


CASES = [
    Case("nothing", b"", []),
    Case("one argument", b"*1\r\n$4\r\nPING\r\n", [[b"PING"]]),
    Case("empty argument", b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", [[b"ECHO", b""]]),
    Case("CRLF in an argument", b"*2\r\n$1\r\na\r\n$4\r\n\r\n\r\n\r\n", [[b"a", b"\r\n\r\n"]]),
    Case("pipeline", b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\nc\r\n", [[b"a"], [b"b"], [b"c"]]),
    Case("empty arrays", b"*0\r\n*-1\r\n*-99\r\n*1\r\n$1\r\na\r\n", [[b"a"]]),
    Case("large argument", encode_request([b"SET", b"k", LARGE]), [[b"SET", b"k", LARGE]]),
    Case(
        "large arguments, then small ones",
        encode_request([LARGE, LARGE]) + encode_request([b"a"]) + encode_request([b"b", LARGE]),
        [[LARGE, LARGE], [b"a"], [b"b", LARGE]],
    ),
    Case("inline", b"SET key value\r\n", [[b"SET", b"key", b"value"]]),
    Case("inline without CR", b"PING\n", [[b"PING"]]),
    Case("blank lines", b"\r\n\n  \r\n\t\nPING\r\n", [[b"PING"]]),
    Case("inline blanks", b"  a\t b  \r\n", [[b"a", b"b"]]),
    Case("inline CR inside", b"a\rb\r\n", [[b"a", b"b"]]),
    Case("inline CR before CRLF", b"a\r\r\n", [[b"a"]]),
    Case("inline, form feed inside a word", b"a\x0bb \x0c c\r\n", [[b"a\x0bb", b"c"]]),
    Case("double quotes", b'"a b" "\\n\\r\\t\\b\\a"\n', [[b"a b", b"\n\r\t\b\a"]]),
    Case("hexadecimal digits", b'"\\x41\\xfF\\x4" "\\xzz"\n', [[b"A\xffx4", b"xzz"]]),
    Case("escaped characters", b'"\\"" "\\\\" "\\q"\n', [[b'"', b"\\", b"q"]]),
    Case("single quotes", b"'a b' 'it\\'s' '\\n' '\"'\n", [[b"a b", b"it's", b"\\n", b'"']]),
    Case("quotes inside a word", b"ab\"c d\" e'f'\n", [[b"abc d", b"ef"]]),
    Case("empty quotes", b"\"\" ''\n", [[b"", b""]]),
    Case("quotes closed by form feed", b"'a'\x0cb\n", [[b"a", b"b"]]),
    Case("inline, then array", b"PING\r\n*1\r\n$1\r\na\r\n", [[b"PING"], [b"a"]]),
    Case("array, then inline", b"*1\r\n$1\r\na\r\nPING\r\n", [[b"a"], [b"PING"]]),
    Case("line that is no array", b"$3\r\n", [[b"$3"]]),
    Case("HTTP", b"GET / HTTP/1.1\r\nA: b\r\n\r\n", [[b"GET", b"/", b"HTTP/1.1"], [b"A:", b"b"]]),
    # --- incomplete ---
    Case("no end of line", b"PING", []),
    Case("only a star", b"*", []),
    Case("minus", b"*-", []),
    Case("no length", b"*1\r\n", []),
    Case("half a CRLF", b"*1\r\n$4\r\nPING\r", []),
    Case("one argument missing", b"*2\r\n$4\r\nPING\r\n", []),
    # --- broken ---
    Case("unbalanced double", b'a "b\n', [], "unbalanced quotes in request"),
    Case("unbalanced single", b"a 'b\n", [], "unbalanced quotes in request"),
    Case("word after a quote", b'"a"b\n', [], "unbalanced quotes in request"),
    Case("word after a single quote", b"'a'b\n", [], "unbalanced quotes in request"),
    Case("backslash at the end", b'"a\\\n', [], "unbalanced quotes in request"),
    Case("no count", b"*\r\n", [], "invalid multibulk length"),
    Case("count of letters", b"*abc\r\n", [], "invalid multibulk length"),
    Case("count with plus", b"*+1\r\n", [], "invalid multibulk length"),
    Case("count with blank", b"* 1\r\n", [], "invalid multibulk length"),
    Case("count with zero", b"*01\r\n", [], "invalid multibulk length"),
    Case("count minus zero", b"*-0\r\n", [], "invalid multibulk length"),
    Case("count minus nothing", b"*-\r\n", [], "invalid multibulk length"),
    Case("count of 20 digits", b"*11111111111111111111", [], "invalid multibulk length"),
    Case("count too large", b"*1048577\r\n", [], "invalid multibulk length"),
    Case("count without LF", b"*1\rx", [], "invalid multibulk length"),
    Case("count without CR", b"*1\n$1\na\n", [], "invalid multibulk length"),
    Case("no bulk", b"*1\r\nx", [], "expected '$', got 'x'"),
    Case("nested array", b"*1\r\n*1\r\n", [], "expected '$', got '*'"),
    Case("control character", b"*1\r\n\r\n", [], "expected '$', got ' '"),
    Case("negative bulk", b"*1\r\n$-1\r\n", [], "invalid bulk length"),
    Case("bulk of letters", b"*1\r\n$x\r\n", [], "invalid bulk length"),
    Case("bulk without length", b"*1\r\n$\r\n", [], "invalid bulk length"),
    Case("bulk too large", b"*1\r\n$536870913\r\n", [], "invalid bulk length"),
    Case("bulk too long", b"*1\r\n$1\r\nab\r\n", [], "expected CRLF after a bulk"),
    Case("bulk too short", b"*1\r\n$3\r\na\r\n*1\r\n", [], "expected CRLF after a bulk"),
    Case("a request before the error", b"PING\n*1\r\n?", [[b"PING"]], "expected '$', got '?'"),
]  # fmt: skip


def expected(case: Case) -> tuple[list[list[bytes]], str | None]:
    return case.requests, None if case.error is None else f"Protocol error: {case.error}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestCases:
    def test_whole(self, case: Case) -> None:
        assert parse([case.stream]) == expected(case)

    def test_byte_by_byte(self, case: Case) -> None:
        assert parse([bytes([byte]) for byte in case.stream]) == expected(case)

    def test_byte_by_byte_and_parsed_at_the_end(self, case: Case) -> None:
        parser = RequestParser()
        for byte in case.stream:
            parser.feed(bytes([byte]))
        assert take(parser) == expected(case)

    def test_cut_anywhere_into_two(self, case: Case) -> None:
        # The middle of a long argument is like any other byte of it.
        places = range(len(case.stream))
        near_ends = [*places[:300], *places[-300:], *places[300:-300:997]]
        for place in near_ends:
            assert parse(pieces(case.stream, [place])) == expected(case)

    def test_the_reference_agrees(self, case: Case) -> None:
        result = reference.parse(case.stream)
        assert (result.requests, result.error) == expected(case)


# Pieces of protocol, put together at random, break it in more ways than random bytes.
FRAGMENTS = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        rb"*1\r\n *2\r\n *0\r\n *-1\r\n $1\r\n $0\r\n $-1\r\n $3\r\n \r\n \n \r \0"
        rb" \" ' \\ \\x4 a abc\r\n \t \v * $ - 0 12 *1048577\r\n $536870913\r\n PING\r\n".split(
            b" "
        )
    ).map(lambda text: text.decode("unicode_escape").encode("latin-1")),
    st.lists(st.binary(max_size=20), max_size=4).map(encode_request),
    st.integers(16_000, 40_000).map(lambda n: encode_request([b"SET", bytes(n)])),
)
STREAMS = st.lists(FRAGMENTS, max_size=12).map(b"".join)
CUTS = st.lists(st.integers(0, 500), max_size=20)


@given(STREAMS, CUTS)
def test_any_stream_is_parsed_as_the_reference_does(stream: bytes, cuts: list[int]) -> None:
    result = reference.parse(stream)
    assert parse(pieces(stream, cuts)) == (result.requests, result.error)


@given(st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=6), max_size=6), CUTS)
def test_what_a_client_sends_comes_out(requests: list[list[bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode_request(request) for request in requests)
    assert parse(pieces(stream, cuts)) == (requests, None)


@given(st.integers(16_000, 140_000), st.integers(1, 70_000), st.binary(max_size=3))
def test_a_large_argument_comes_out_whole(size: int, step: int, before: bytes) -> None:
    value = HUGE[:size]
    stream = encode_request([b"SET", before, value]) + encode_request([b"PING"])
    cuts = range(step, len(stream), step)
    assert parse(pieces(stream, cuts)) == ([[b"SET", before, value], [b"PING"]], None)


@pytest.mark.parametrize("step", [1000, 65_536, 1_048_576, 10_000_000])
def test_a_huge_argument_comes_out_whole(step: int) -> None:
    stream = encode_request([b"SET", b"k", HUGE, b"KEEPTTL"])
    cuts = range(step, len(stream), step)
    assert parse(pieces(stream, cuts)) == ([[b"SET", b"k", HUGE, b"KEEPTTL"]], None)


@pytest.mark.parametrize("size", [16_383, 16_384, 16_385, 65_535, 1_048_575, 1_048_576, 1_048_577])
@pytest.mark.parametrize("present", [-2, -1, 0, 1, 2])
def test_a_cut_at_the_end_of_a_large_argument(size: int, present: int) -> None:
    value = HUGE[:size]
    stream = encode_request([value])
    cut = len(stream) - 2 + present
    assert parse([stream[:cut], stream[cut:], stream]) == ([[value], [value]], None)


def test_arguments_are_bytes() -> None:
    requests, _ = parse([encode_request([b"a", LARGE]) + b"inline 'x'\r\n"])
    assert {type(argument) for request in requests for argument in request} == {bytes}


def test_a_broken_stream_stays_broken() -> None:
    parser = RequestParser()
    parser.feed(b"*1\r\nx")
    for _ in range(3):
        assert take(parser) == ([], "Protocol error: expected '$', got 'x'")


def test_knows_whether_a_request_is_under_way() -> None:
    stream = encode_request([b"SET", b"k", LARGE])
    assert not RequestParser().mid_request
    for cut in (1, 4, 10, 40, len(stream) - 1):
        parser = RequestParser()
        receive(parser, stream[:cut])
        assert take(parser) == ([], None)
        assert parser.mid_request
        receive(parser, stream[cut:])
        assert take(parser) == ([[b"SET", b"k", LARGE]], None)
        assert (parser.mid_request, parser.buffered_bytes()) == (False, 0)
