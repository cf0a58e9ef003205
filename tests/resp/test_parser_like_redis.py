"""What Redis itself makes of tricky requests, and what the parser does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketkv.resp.encoder import encode_request
from pocketkv.resp.parser import RequestParser
from tests.resp import real_redis
from tests.resp.support import parse


@pytest.fixture(scope="module")
def redis() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, real_redis.running(Path(folder)) as path:
        yield path


def words_by_redis(path: Path, line: bytes) -> list[bytes] | str:
    """The words of an inline request, told by Redis by keeping them in a list."""
    read = encode_request([b"LRANGE", b"k", b"0", b"-1"])
    sent = encode_request([b"DEL", b"k"]) + b"RPUSH k " + line + b"\n" + read
    answer = real_redis.exchange(path, sent + real_redis.END_REQUEST)
    lines = answer.split(b"\r\n", 2)
    if lines[1].startswith(b"-ERR Protocol error"):
        return lines[1].decode().removeprefix("-ERR ")
    if lines[1].startswith(b"-"):
        return []
    elements, error = parse([lines[2]])
    assert error is None
    return elements[0]


def words_by_us(line: bytes) -> list[bytes] | str:
    requests, error = parse([b"RPUSH k " + line + b"\n"])
    return error if error is not None else requests[0][2:]


LINES = [
    b"a b",
    b"  a \t b  ",
    b"a\r",
    b"a\r\r",
    b"a\rb",
    b"a\vb \f c\f",
    b"\v",
    b'"a b"',
    b'"a b',
    b'"a"b',
    b'"a""b"',
    b"'a''b'",
    b'a"b c"',
    b'a"b"c',
    b"it's",
    b"'it\\'s'",
    b"'it\\\\'",
    b"'a\\n'",
    b'"\\n\\r\\t\\b\\a\\q\\\\\\""',
    b'"\\x41\\xff\\x4g\\x4"',
    b'"\\x4',
    b'"a\\',
    b"\\n \\x41",
    b"\"\" ''",
    b'"a"\v"b"',
    b"'\"' \"'\"",
    b"\xff\x80 \x01",
    b"$3 *1",
    b"caf\xc3\xa9",
]


@pytest.mark.parametrize("line", LINES)
def test_the_same_words(redis: Path, line: bytes) -> None:
    assert words_by_us(line) == words_by_redis(redis, line)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([bytes([c]) for c in b"ab \t\r\v\f\"'\\xn4\xff"])).map(b"".join))
def test_the_same_words_of_any_line(redis: Path, line: bytes) -> None:
    assert words_by_us(line) == words_by_redis(redis, line)


@pytest.mark.parametrize(
    "stream",
    [
        b"*\r\n",
        b"*x\r\n",
        b"*+1\r\n",
        b"* 1\r\n",
        b"*01\r\n",
        b"*-0\r\n",
        b"*2147483648\r\n",
        b"*99999999999999999999\r\n",
        b"*0\r\n*-1\r\n*-7\r\nPING\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n*1\r\n",
        b"*1\r\n\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$9223372036854775808\r\n",
        b"PING\r\n*1\r\n$4\r\nPING\r\n",
        b"\r\n\r\n\nPING\n",
        b"a" * 70_000,
    ],
)
def test_the_same_answer_to_what_is_broken(redis: Path, stream: bytes) -> None:
    requests, error = parse([stream])
    assert all(request == [b"PING"] for request in requests)
    answer = b"+PONG\r\n" * len(requests)
    if error is not None:
        answer += b"-ERR " + error.encode() + b"\r\n"
    end = b"" if error is not None else real_redis.END_REQUEST
    assert real_redis.exchange(redis, stream + end) == answer


@pytest.mark.parametrize(
    "stream", [b"*11\r\n", b"*10\r\n$16385\r\n", b"*1\r\n$16385\r\n", b"*2147483648\r\n"]
)
def test_the_same_limits_before_authentication(tmp_path: Path, stream: bytes) -> None:
    parser = RequestParser()
    parser.restrict()
    _, error = parse([stream], parser)
    with real_redis.running(tmp_path, "--requirepass", "secret") as path:
        assert real_redis.exchange(path, stream) == f"-ERR {error}\r\n".encode()
