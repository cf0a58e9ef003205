"""The measurements, each bounded in time: bandwidth, small random reads, waiting for the medium.

Everything is read once past the page cache, or, where that is not possible, after the kernel was
asked to forget it; then no block is read twice. Reads at depth are those of threads: their rate is
also limited by what one process of Python does, some 100,000 a second (`Measurements.cpu_bound`).
"""

from __future__ import annotations

import itertools
import random
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pocketkv.calibrate.scratch import BLOCK_BYTES, ScratchFile, aligned_buffer

CHUNK_BYTES: Final = 1024**2
"""What sequential reads and writes move at a time."""

DEPTH: Final = 16
"""Random reads under way at once."""

# Parts of the time; what is left over is for what cannot be cut short.
_WRITE_SHARE: Final = 0.3
_READ_SHARE: Final = 0.25
_RANDOM_SHARE: Final = 0.15
_SYNC_SHARE: Final = 0.1

# Through the page cache, writing waits for the medium so often: what is dirty at the end of the
# time must be little, or waiting for that would take long.
_SYNC_EVERY_BYTES: Final = 32 * 1024**2

# More blocks than are read in the time, and few enough to have a list of.
_RANDOM_BLOCKS_MAX: Final = 2**20

# Different data at this distance, for media that store the same only once.
_STAMP_EVERY_BYTES: Final = 128 * 1024

_CPU_BOUND_SHARE: Final = 0.8

Clock = Callable[[], float]


@dataclass(frozen=True)
class Samples:
    """Operations, how long each took, and all together."""

    latencies_s: tuple[float, ...]
    moved_bytes: int
    duration_s: float

    @property
    def bytes_s(self) -> float:
        """Bytes per second."""
        return self.moved_bytes / self.duration_s if self.duration_s > 0 else 0.0

    @property
    def per_s(self) -> float:
        """Operations per second."""
        return len(self.latencies_s) / self.duration_s if self.duration_s > 0 else 0.0

    def latency_us(self, fraction: float) -> float:
        """Return the latency that `fraction` of the operations did not exceed; 0 without any."""
        if not self.latencies_s:
            return 0.0
        ranked = sorted(self.latencies_s)
        rank = max(1, -int(-fraction * len(ranked) // 1))
        return ranked[min(rank, len(ranked)) - 1] * 1e6


@dataclass(frozen=True)
class Measurements:
    """All that was measured.

    Attributes:
        write, read: In chunks of `CHUNK_BYTES`, one after the other.
        random, random_deep: Reads of `BLOCK_BYTES`, one at a time and `DEPTH` at a time.
        sync: Writes of `BLOCK_BYTES`, each with the wait until the medium has it.
        is_direct: Whether the page cache was left out.
        cpu_bound: Whether the deep reads kept this process busy, so that the medium can do more.
        duration_s: What all of it took.
    """

    write: Samples
    read: Samples
    random: Samples
    random_deep: Samples
    sync: Samples
    is_direct: bool
    cpu_bound: bool
    duration_s: float


def timed(
    operation: Callable[[int], int],
    offsets: Iterable[int],
    limit_s: float,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Call `operation` with each offset until `limit_s` have passed; it returns bytes moved.

    It is called once at least, if there is an offset: so slow a medium is measured as well.
    """
    latencies_s: list[float] = []
    moved_bytes = 0
    start = now = clock()
    for offset in offsets:
        before = now
        moved_bytes += operation(offset)
        now = clock()
        latencies_s.append(now - before)
        if now - start >= limit_s:
            break
    return Samples(tuple(latencies_s), moved_bytes, now - start)


def measure(
    scratch: ScratchFile,
    size_bytes: int,
    limit_s: float,
    say: Callable[[str], None] = lambda text: None,
    clock: Clock = time.perf_counter,
) -> Measurements:
    """Measure the medium that `scratch` is on, with at most `size_bytes`, in some `limit_s`.

    Args:
        scratch: The file.
        size_bytes: How much is written to it, rounded to whole chunks, and one at least.
        limit_s: Seconds; a medium that takes long over single operations may need a few more.
        say: Told what comes next, for people who wait.
        clock: Gives seconds.

    Raises:
        OSError: the disk is full, or something else is wrong with it.
    """
    start = clock()
    say("writing")
    write = _write(scratch, max(1, size_bytes // CHUNK_BYTES), _WRITE_SHARE * limit_s, clock)
    say("reading")
    read = _read(scratch, write.moved_bytes, _READ_SHARE * limit_s, clock)
    scratch.forget_cached()
    scratch.expect_random_reads()
    shallow, deep = _random_offsets(write.moved_bytes, repeat=scratch.is_direct)
    say("reading at random")
    random_limit_s = _RANDOM_SHARE * limit_s
    one = _reader(scratch)
    random_one = timed(one, shallow, random_limit_s, clock)
    say(f"reading at random, {DEPTH} at a time")
    cpu_start, wall_start = time.process_time(), time.perf_counter()
    random_deep = _deep(scratch, deep, random_limit_s, clock)
    cpu_s, wall_s = time.process_time() - cpu_start, time.perf_counter() - wall_start
    say("waiting for the medium")
    sync = _sync(scratch, write.moved_bytes, _SYNC_SHARE * limit_s, clock)
    return Measurements(
        write=write,
        read=read,
        random=random_one,
        random_deep=random_deep,
        sync=sync,
        is_direct=scratch.is_direct,
        cpu_bound=cpu_s > _CPU_BOUND_SHARE * wall_s,
        duration_s=clock() - start,
    )


def _write(scratch: ScratchFile, chunks: int, limit_s: float, clock: Clock) -> Samples:
    buffer = aligned_buffer(CHUNK_BYTES)
    # Random bytes, since some media compress.
    buffer[:] = random.Random(0).randbytes(CHUNK_BYTES)
    chunk = memoryview(buffer)

    def write(offset: int) -> int:
        for at in range(0, CHUNK_BYTES, _STAMP_EVERY_BYTES):
            struct.pack_into("<Q", buffer, at, offset + at)
        scratch.write_at(offset, chunk)
        if not scratch.is_direct and (offset + CHUNK_BYTES) % _SYNC_EVERY_BYTES == 0:
            scratch.sync()
        return CHUNK_BYTES

    start = clock()
    written = timed(write, range(0, chunks * CHUNK_BYTES, CHUNK_BYTES), limit_s, clock)
    # What is still in a cache, of the kernel or of the disk, is not written yet.
    scratch.sync()
    return Samples(written.latencies_s, written.moved_bytes, clock() - start)


def _read(scratch: ScratchFile, size_bytes: int, limit_s: float, clock: Clock) -> Samples:
    scratch.forget_cached()
    chunk = memoryview(aligned_buffer(CHUNK_BYTES))
    offsets = range(0, size_bytes, CHUNK_BYTES)
    return timed(lambda offset: scratch.read_at(offset, chunk), offsets, limit_s, clock)


def _reader(scratch: ScratchFile) -> Callable[[int], int]:
    block = memoryview(aligned_buffer(BLOCK_BYTES))
    return lambda offset: scratch.read_at(offset, block)


def _random_offsets(size_bytes: int, *, repeat: bool) -> tuple[Iterator[int], Iterator[int]]:
    """Return offsets of blocks for single and for deep reads; none twice, unless `repeat`."""
    blocks = size_bytes // BLOCK_BYTES
    chosen = random.Random(0).sample(range(blocks), min(blocks, _RANDOM_BLOCKS_MAX))
    offsets = [number * BLOCK_BYTES for number in chosen]
    if repeat:
        return itertools.cycle(offsets), itertools.cycle(reversed(offsets))
    half = len(offsets) // 2
    return iter(offsets[:half]), iter(offsets[half:])


def _deep(scratch: ScratchFile, offsets: Iterator[int], limit_s: float, clock: Clock) -> Samples:
    """Read with `DEPTH` threads, which take the offsets from one iterator."""
    stop = threading.Event()
    found: list[Samples] = []
    failures: list[OSError] = []

    def until_stopped() -> Iterator[int]:
        while not stop.is_set():
            # One step of a plain iterator is atomic, so threads may share it.
            offset = next(offsets, None)
            if offset is None:
                return
            yield offset

    def work() -> None:
        try:
            found.append(timed(_reader(scratch), until_stopped(), limit_s, clock))
        except OSError as error:
            # It is raised again, in the thread that waits.
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(DEPTH)]
    start = clock()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if failures:
        raise failures[0]
    latencies_s = tuple(itertools.chain.from_iterable(one.latencies_s for one in found))
    moved_bytes = sum(one.moved_bytes for one in found)
    return Samples(latencies_s, moved_bytes, clock() - start)


def _sync(scratch: ScratchFile, size_bytes: int, limit_s: float, clock: Clock) -> Samples:
    block = memoryview(aligned_buffer(BLOCK_BYTES))

    def write(offset: int) -> int:
        scratch.write_at(offset, block)
        scratch.sync()
        return BLOCK_BYTES

    return timed(write, range(0, size_bytes, BLOCK_BYTES), limit_s, clock)
