"""Bits: the loops, large strings, and what they cost. Replies: see ``tests/oracle``."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine import bits
from pocketkv.engine.extents import Extents
from pocketkv.engine.large_string import LargeString
from tests.engine.harness import Client, Engine
from tests.engine.media import FakeMedium
from tests.engine.stores import MemoryStore
from tests.replies import Error

MIB = 1024 * 1024

# --- loops -------------------------------------------------------------------------------------


@given(data=st.binary(max_size=200), repeat=st.integers(1, 200))
def test_bits_are_counted(data: bytes, repeat: int) -> None:
    expected = repeat * sum(byte.bit_count() for byte in data)
    assert bits.count_bits(data * repeat) == expected
    assert bits.count_bits(memoryview(bytearray(data * repeat))) == expected


@given(byte=st.sampled_from([0, 255, 7]), start=st.integers(0, 9000), rest=st.binary(max_size=3))
def test_the_first_other_byte_is_found(byte: int, start: int, rest: bytes) -> None:
    data = bytes((byte,)) * start + rest
    expected = next((i for i, found in enumerate(data) if found != byte), -1)
    assert bits.first_other(data, byte) == expected
    assert bits.first_other(memoryview(bytearray(data)), byte) == expected


@given(pairs=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=100))
def test_strings_are_combined(pairs: list[tuple[int, int]]) -> None:
    left, right = bytes(a for a, _ in pairs), bytes(b for _, b in pairs)
    for combine, expected in (
        (bits.and_into, [a & b for a, b in pairs]),
        (bits.or_into, [a | b for a, b in pairs]),
        (bits.xor_into, [a ^ b for a, b in pairs]),
    ):
        target = bytearray(left)
        combine(target, right)
        assert target == bytes(expected)
    target = bytearray(left)
    bits.invert(target)
    assert target == bytes(255 - a for a in left)


# --- large strings -----------------------------------------------------------------------------


@pytest.fixture
def large_client() -> Client:
    """Strings of 64 KiB and more are in extents, of which there are 16 MiB."""
    return Engine(extents=Extents(FakeMedium(16 * 256, page_bytes=4096))).connect()


def test_a_large_string_is_gone_through_where_it_stands(large_client: Client) -> None:
    client = large_client
    data = random.Random(5).randbytes(3 * MIB + 77)
    client("SET", "k", data)
    assert isinstance(client.db.find_stored(b"k"), LargeString)
    number = int.from_bytes(data, "big")
    assert client("BITCOUNT", "k") == number.bit_count()
    first, last = 1_000_003, 17_000_001
    inside = number >> 8 * len(data) - 1 - last & (1 << last - first + 1) - 1
    assert client("BITCOUNT", "k", first, last, "BIT") == inside.bit_count()
    assert client("BITOP", "NOT", "n", "k") == len(data)
    assert isinstance(client.db.find_stored(b"n"), LargeString)
    assert client("GET", "n") == bytes(255 - byte for byte in data)
    client("SET", "short", b"\xff" * 100_000)
    assert client("BITOP", "AND", "a", "k", "short") == len(data)
    assert client("GET", "a") == data[:100_000] + bytes(len(data) - 100_000)
    client("BITOP", "XOR", "x", "n", "k")
    assert client("BITPOS", "x", 0) == 8 * len(data)
    assert client("BITPOS", "a", 1, 100_000) == -1
    client("SETBIT", "a", 8 * 2 * MIB + 3, 1)
    assert client("BITPOS", "a", 1, 100_000) == 8 * 2 * MIB + 3
    assert client("BITFIELD", "a", "GET", "u8", f"#{2 * MIB}") == [16]


def test_a_bit_is_set_in_a_large_string_and_nothing_else_changes(large_client: Client) -> None:
    client = large_client
    data = bytearray(random.Random(6).randbytes(200_000))
    client("SET", "k", bytes(data))
    client("COPY", "k", "copy")
    for offset in (0, 8 * 123_456 + 5, 8 * 199_999 + 7):
        before = data[offset >> 3] >> 7 - offset % 8 & 1
        assert client("SETBIT", "k", offset, 1 - before) == before
        data[offset >> 3] ^= 128 >> offset % 8
    assert client("GET", "k") == data
    assert client("GET", "copy") != data
    reply = client("BITFIELD", "k", "SET", "u16", "#100000", 0x1234, "INCRBY", "i32", "#3", -7)
    assert len(reply) == 2
    assert client("GETRANGE", "k", -2, -1) == b"\x12\x34"
    value = client.db.find_stored(b"k")
    assert isinstance(value, LargeString)
    value.validate()


@pytest.mark.parametrize(
    "request_",
    [
        ["SETBIT", "k", 8 * MIB, 1],
        ["BITFIELD", "k", "GET", "u8", 0, "SET", "u8", 8 * MIB, 1],
        ["BITOP", "OR", "k", "source", "source"],
    ],
)
@pytest.mark.parametrize("is_large", [False, True])
def test_a_short_request_that_makes_a_long_string_is_refused(
    request_: list[object], is_large: bool
) -> None:
    engine = Engine(extents=Extents(FakeMedium(4096, page_bytes=4096))) if is_large else Engine()
    client = engine.connect()
    client("SETRANGE", "source", MIB, "x")
    client("SET", "k", "x")
    engine.space.quota_bytes = before = engine.space.used_bytes + MIB // 2
    reply = client(*request_)
    assert isinstance(reply, Error)
    assert reply.text.startswith("OOM")
    assert client("GET", "k") == b"x"
    assert engine.space.used_bytes == before - MIB // 2
    engine.validate()


def test_no_string_becomes_longer_than_it_may(client: Client) -> None:
    too_long = Error("ERR bit offset is not an integer or out of range")
    assert client("SETBIT", "k", 2**32, 1) == too_long
    assert client("BITFIELD", "k", "SET", "u8", "#536870912", 1) == too_long
    assert client("BITFIELD", "k", "SET", "u8", f"#{2**60}", 1) == too_long
    longer = Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    assert client("BITFIELD", "k", "SET", "u8", 2**32 - 1, 1) == longer
    assert client("EXISTS", "k") == 0


# --- elsewhere ---------------------------------------------------------------------------------


def test_bits_of_strings_that_are_not_in_memory() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client = engine.connect()
    client("SETBIT", "k", 1000, 1)
    client("EXPIRE", "k", 100)
    client("BITFIELD", "k", "SET", "i5", 3, -9, "INCRBY", "u3", "#100", 20)
    assert client("BITCOUNT", "k") == 1 + (-9 & 31).bit_count() + (20 & 7).bit_count()
    assert client("TTL", "k") == 100
    client("BITOP", "NOT", "n", "k")
    client("BITOP", "AND", "k", "n", "k")
    assert client("BITPOS", "k", 1) == -1
    assert client("TTL", "k") == -1
    engine.validate()
