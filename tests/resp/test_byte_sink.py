"""Large arguments in memory: whole, whatever the pieces, and no more than was received."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.resp.byte_sink import ByteSink


def fill(sink: ByteSink, data: bytes, steps: list[int]) -> None:
    """Write `data` in pieces of these sizes, over and over."""
    position = 0
    while position < len(data):
        view = sink.writable()
        count = min(len(view), len(data) - position, steps[position % len(steps)])
        view[:count] = data[position : position + count]
        del view
        sink.wrote(count)
        position += count


@given(
    size=st.integers(16_384, 5 * limits.LARGE_BULK_FIRST_BYTES),
    steps=st.lists(st.integers(1_000, 3_000_000), min_size=1, max_size=5),
)
def test_what_was_received_is_the_bulk(size: int, steps: list[int]) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    sink = ByteSink(size)
    fill(sink, data, steps)
    assert sink.finish() == data


def test_memory_follows_what_was_received() -> None:
    sink = ByteSink(limits.BULK_BYTES_MAX)
    assert sink.buffered_bytes == limits.LARGE_BULK_FIRST_BYTES
    received = 0
    while received < 20 * limits.LARGE_BULK_FIRST_BYTES:
        count = len(sink.writable())
        sink.wrote(count)
        received += count
        assert sink.buffered_bytes <= 2 * received


def test_an_aborted_bulk_holds_nothing() -> None:
    sink = ByteSink(1_000_000)
    sink.abort()
    assert sink.buffered_bytes == 0


@pytest.mark.parametrize("missing", [1, 1_000_000])
def test_an_unfinished_bulk_is_not_given(missing: int) -> None:
    sink = ByteSink(1_000_000)
    fill(sink, bytes(1_000_000 - missing), [100_000])
    # Bytes that were never written must not be seen.
    with pytest.raises(ValueError, match="not whole"):
        sink.finish()
