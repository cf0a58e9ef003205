from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine.rdb.crc64 import crc64


def by_bits(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x95AC9329AC4BC9B5 if crc & 1 else crc >> 1
    return crc


def test_the_check_value_of_the_algorithm() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert crc64(b"") == 0


@given(st.binary(max_size=200))
def test_tables_compute_what_the_polynomial_says(data: bytes) -> None:
    assert crc64(data) == by_bits(data)


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_it_can_be_computed_in_parts(first: bytes, second: bytes) -> None:
    assert crc64(second, crc64(first)) == crc64(first + second)


def test_long_data_has_the_same_checksum_as_its_parts() -> None:
    data = bytes(range(256)) * 100 + b"odd"
    crc = 0
    for start in range(0, len(data), 1000):
        crc = crc64(data[start : start + 1000], crc)
    assert crc64(data) == crc
