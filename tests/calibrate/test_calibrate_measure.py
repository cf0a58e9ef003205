"""The arithmetic with a clock that is told what time it is; the rest on real files, small ones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.calibrate import measure as measuring
from pocketkv.calibrate.measure import CHUNK_BYTES, Samples, measure, timed
from pocketkv.calibrate.scratch import BLOCK_BYTES, ScratchFile, aligned_buffer


class SlowReader:
    """Takes so long for each read, by its own clock."""

    def __init__(self, delays_s: list[float]) -> None:
        self.delays_s = iter(delays_s)
        self.now_s = 100.0
        self.offsets: list[int] = []

    def clock(self) -> float:
        return self.now_s

    def read(self, offset: int) -> int:
        self.offsets.append(offset)
        self.now_s += next(self.delays_s)
        return BLOCK_BYTES


def test_rates_and_latencies_of_a_slow_reader() -> None:
    reader = SlowReader([0.25, 0.5, 0.25, 1.0])
    samples = timed(reader.read, range(0, 4 * BLOCK_BYTES, BLOCK_BYTES), 60, reader.clock)
    assert reader.offsets == [0, 4096, 8192, 12288]
    assert samples == Samples((0.25, 0.5, 0.25, 1.0), 4 * BLOCK_BYTES, 2.0)
    assert (samples.per_s, samples.bytes_s) == (2.0, 2 * BLOCK_BYTES)
    assert [samples.latency_us(p) for p in (0.5, 0.75, 0.99, 1.0)] == [25e4, 5e5, 1e6, 1e6]


def test_a_measurement_ends_with_its_time_but_not_before_the_first_operation() -> None:
    reader = SlowReader([1.0] * 100)
    assert len(timed(reader.read, range(100), 3.0, reader.clock).latencies_s) == 3
    reader = SlowReader([1000.0] * 2)
    assert timed(reader.read, range(100), 1.0, reader.clock).duration_s == 1000.0


def test_nothing_measured_is_zero() -> None:
    nothing = timed(lambda offset: offset, [], 1.0)
    assert (nothing.per_s, nothing.bytes_s, nothing.latency_us(0.5)) == (0, 0, 0)


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_a_latency_that_so_many_did_not_exceed(
    latencies_s: list[float], fraction: float
) -> None:
    found = Samples(tuple(latencies_s), 0, 1.0).latency_us(fraction)
    assert found in [one * 1e6 for one in latencies_s]
    within = sum(one * 1e6 <= found for one in latencies_s)
    assert within >= fraction * len(latencies_s) * (1 - 1e-9)
    below = sum(one * 1e6 < found for one in latencies_s)
    assert below < fraction * len(latencies_s) * (1 + 1e-9) + 1e-9


@pytest.fixture(params=[True, False], ids=["direct", "cached"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScratchFile]:
    with ScratchFile(tmp_path, direct=request.param) as file:
        yield file
        assert list(tmp_path.iterdir()) == []


def test_a_real_medium_is_measured_within_its_time(scratch: ScratchFile) -> None:
    said: list[str] = []
    size_bytes = 4 * CHUNK_BYTES
    found = measure(scratch, size_bytes + 5, 1.0, said.append)
    assert found.write.moved_bytes == found.read.moved_bytes == size_bytes
    assert found.is_direct == scratch.is_direct
    for samples in (found.write, found.read, found.random, found.random_deep, found.sync):
        assert samples.moved_bytes > 0
        assert 0 < samples.latency_us(0.5) <= samples.latency_us(0.99)
        assert samples.per_s > 0
    for samples in (found.random, found.random_deep, found.sync):
        assert samples.moved_bytes == len(samples.latencies_s) * BLOCK_BYTES
    if not scratch.is_direct:
        # No block is read twice: the second time it would come from the page cache.
        reads = len(found.random.latencies_s) + len(found.random_deep.latencies_s)
        assert reads <= size_bytes // BLOCK_BYTES
    assert found.duration_s < 10
    assert len(said) == 5


def test_what_was_written_can_be_read(scratch: ScratchFile) -> None:
    block = memoryview(aligned_buffer(BLOCK_BYTES))
    block[:] = os.urandom(BLOCK_BYTES)
    scratch.write_at(8 * BLOCK_BYTES, block)
    scratch.forget_cached()
    found = memoryview(aligned_buffer(BLOCK_BYTES))
    assert scratch.read_at(8 * BLOCK_BYTES, found) == BLOCK_BYTES
    assert found == block
    assert scratch.read_at(9 * BLOCK_BYTES, found) == 0


def test_a_file_system_that_makes_no_nameless_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with ScratchFile(tmp_path) as file:
        assert list(tmp_path.iterdir()) == []
        assert measure(file, CHUNK_BYTES, 0.2).write.moved_bytes == CHUNK_BYTES


def test_an_error_of_a_deep_read_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(scratch: ScratchFile) -> Any:
        def read(offset: int) -> int:
            raise OSError(5, "Input/output error")

        return read

    monkeypatch.setattr(measuring, "_reader", broken)
    with ScratchFile(tmp_path) as file, pytest.raises(OSError, match="Input/output error"):
        measuring._deep(file, iter(range(100)), 1.0, time.perf_counter)
