"""HyperLogLogs: registers, estimates, media. Their bytes: see ``tests/oracle``."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketkv.engine import hyperloglog
from pocketkv.engine.hyperloglog import CorruptedError
from tests.engine.harness import Client, Engine
from tests.engine.stores import MemoryStore
from tests.replies import Error

HEADER = b"HYLL\x01\0\0\0" + bytes(8)


def filled(count: int, sparse_bytes_max: int = 3000) -> bytearray:
    data = hyperloglog.empty()
    for number in range(count):
        hyperloglog.add(data, b"element:%d" % number, sparse_bytes_max)
    return data


def test_hashes_are_redis_s() -> None:
    # Of the original MurmurHash64A: bytes from 128 on count as they are, whatever the length.
    elements = [bytes(range(255 - size, 255)) for size in range(18)]
    assert len({hyperloglog.murmur_hash(element) for element in elements}) == 18
    data = hyperloglog.empty()
    hyperloglog.add(data, b"a", 3000)
    # As redis-server 7.0.15 says by PFDEBUG DECODE.
    assert hyperloglog.describe(data) == b"Z:12711 v:2,1 Z:3672"


@settings(max_examples=30)
@given(
    changes=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 80), st.integers(0, hyperloglog.REGISTERS - 1)),
            st.integers(1, 51),
        ),
        max_size=60,
    ),
    sparse_bytes_max=st.sampled_from([0, 30, 60, 3000]),
)
def test_registers_are_raised_in_both_encodings(
    changes: list[tuple[int, int]], sparse_bytes_max: int
) -> None:
    model = bytearray(hyperloglog.REGISTERS)
    sparse = hyperloglog.empty()
    dense = hyperloglog.empty()
    hyperloglog.to_dense(dense)
    for index, rank in changes:
        changed = model[index] < rank
        model[index] = max(model[index], rank)
        assert hyperloglog.raise_register(sparse, index, rank, sparse_bytes_max) == changed
        assert hyperloglog.raise_register(dense, index, rank, sparse_bytes_max) == changed
        if hyperloglog.is_sparse(sparse):
            assert len(sparse) <= max(sparse_bytes_max, 18)
    assert hyperloglog.registers(sparse) == hyperloglog.registers(dense) == model
    hyperloglog.to_dense(sparse)
    assert sparse == dense
    assert len(dense) == hyperloglog.DENSE_BYTES


@pytest.mark.parametrize("count", [0, 1, 10, 100, 1000, 20_000])
@pytest.mark.parametrize("sparse_bytes_max", [0, 3000])
def test_estimates_are_close(count: int, sparse_bytes_max: int) -> None:
    data = filled(count, sparse_bytes_max)
    assert hyperloglog.is_sparse(data) == (count <= 1000 * (sparse_bytes_max > 0))
    estimated = hyperloglog.estimate(hyperloglog.registers(data))
    assert abs(estimated - count) <= count * 0.03


@given(data=st.binary(max_size=40), index=st.integers(0, hyperloglog.REGISTERS - 1))
def test_no_string_does_harm(data: bytes, index: int) -> None:
    corrupted = bytearray(HEADER + data)
    assert hyperloglog.is_valid(corrupted)
    hyperloglog.describe(corrupted)
    for use in (
        lambda: hyperloglog.registers(corrupted),
        lambda: hyperloglog.raise_register(corrupted, index, 33, 3000),
        lambda: hyperloglog.raise_register(corrupted, index, 3, 3000),
    ):
        try:
            use()
        except CorruptedError:
            pass
    assert hyperloglog.is_valid(corrupted)


def test_the_estimate_is_kept_until_something_changes(client: Client) -> None:
    client("PFADD", "k", *range(100))
    client("EXPIRE", "k", 100)
    assert client("GET", "k")[15] & 128
    estimated = client("PFCOUNT", "k")
    kept = client("GET", "k")
    assert int.from_bytes(kept[8:16], "little") == estimated == client("PFCOUNT", "k")
    assert client("PFADD", "k", 1, 2, 3) == 0
    assert client("GET", "k") == kept
    assert client("PFADD", "k", *range(100, 200)) == 1
    assert client("GET", "k")[15] & 128
    assert client("OBJECT", "ENCODING", "k") == b"raw"
    assert client("TTL", "k") == 100


def test_the_longest_sparse_one_is_a_setting(client: Client) -> None:
    client("CONFIG", "SET", "hll-sparse-max-bytes", 40)
    client("PFADD", "k", *range(5))
    assert client("PFDEBUG", "ENCODING", "k") == "sparse"
    client("PFADD", "k", *range(30))
    assert client("PFDEBUG", "ENCODING", "k") == "dense"
    client("PFADD", "other", "x")
    client("PFMERGE", "other", "k")
    assert client("PFDEBUG", "ENCODING", "other") == "dense"
    assert client("PFCOUNT", "other", "k") == client("PFCOUNT", "other") == 31


def test_what_is_none_is_refused_and_stays(client: Client) -> None:
    client("SET", "k", HEADER[:15] + b"\x80" + b"\x84" * 5)
    corrupted = Error("INVALIDOBJ Corrupted HLL object detected")
    client("PFADD", "good", "a")
    for request in (
        ["PFCOUNT", "k"],
        ["PFCOUNT", "good", "k"],
        ["PFMERGE", "good", "k"],
        ["PFMERGE", "k"],
        ["PFADD", "k", *range(30)],
    ):
        assert client(*request) == corrupted
    assert client("PFCOUNT", "good") == 1


def test_they_are_moved_out_of_memory_and_back() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client = engine.connect()
    dice = random.Random(3)
    seen: set[int] = set()
    for _ in range(30):
        numbers = [dice.randrange(10_000) for _ in range(60)]
        seen.update(numbers)
        client("PFADD", "k", *numbers)
        client("PFMERGE", "copy", "k")
        assert abs(client("PFCOUNT", "k") - len(seen)) <= 2 + len(seen) * 0.04
        engine.validate()
    assert client("PFCOUNT", "copy", "k") == client("PFCOUNT", "k")
    assert client("OBJECT", "ENCODING", "k") == b"raw"


def test_the_self_test_passes(client: Client) -> None:
    assert client("PFSELFTEST") == "OK"
