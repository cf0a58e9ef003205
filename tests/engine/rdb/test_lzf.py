from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.lzf import compress, decompress

words = st.sampled_from([b"a", b"abc", b"hello ", b"\0" * 30, b"0123456789" * 30])
texts = st.one_of(st.binary(max_size=100), st.lists(words, max_size=40).map(b"".join))


@given(texts)
def test_what_was_compressed_comes_back(text: bytes) -> None:
    compressed = compress(text, len(text) + 10)
    if compressed is not None:
        assert len(compressed) <= len(text) + 10
        assert decompress(compressed, len(text)) == text


@given(texts, st.integers(0, 60))
def test_it_is_never_longer_than_it_may_be(text: bytes, size_max: int) -> None:
    compressed = compress(text, size_max)
    assert compressed is None or len(compressed) <= size_max


@pytest.mark.parametrize("size", [21, 22, 40, 264, 265, 266, 267, 268, 300, 8192, 8193, 20_000])
@pytest.mark.parametrize("pattern", [b"x", b"xy", b"abcdefg", bytes(range(256))])
def test_repetition_is_compressed_and_comes_back(pattern: bytes, size: int) -> None:
    text = (pattern * size)[:size]
    compressed = compress(text, size - 4)
    if compressed is None:
        assert size < 300
    else:
        assert decompress(compressed, size) == text


def test_references_reach_far_and_into_what_they_make() -> None:
    far = b"needle in a haystack" + bytes(range(200)) * 40 + b"needle in a haystack"
    compressed = compress(far, len(far))
    assert compressed is not None
    assert decompress(compressed, len(far)) == far
    # A run of one byte, then 264 bytes from one byte back.
    assert decompress(b"\x00x\xe0\xff\x00", 265) == b"x" * 265


@given(st.binary(max_size=60), st.integers(0, 5000))
def test_anything_else_is_refused(data: bytes, size: int) -> None:
    try:
        made = decompress(data, size)
    except RdbError:
        return
    assert len(made) == size


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x05abc", id="a run that is cut off"),
        pytest.param(b"\x00a\x20", id="a reference that is cut off"),
        pytest.param(b"\x00a\xe0\x01", id="a long reference that is cut off"),
        pytest.param(b"\x00a\x20\x05", id="a reference to before the beginning"),
        pytest.param(b"\x00a", id="too short"),
        pytest.param(b"\x00a" * 20, id="too long"),
    ],
)
def test_what_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(RdbError):
        decompress(data, 8)
