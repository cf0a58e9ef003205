"""Values that are not in the page cache are waited for by those who asked, and nobody else."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pocketkv.limits import KIB, MIB
from tests.tiers.files.disks import ext4, leave_cache, slow_reads
from tests.tiers.files.servers import Client, Server, info, options_of, pattern, pipeline, serving

READERS = 16
COLD = {4 * KIB: 600, 60 * KIB: 200, MIB: 16}
HOT_ROUNDS = 400


def fill(client: Client, size: int) -> None:
    pipeline(
        client,
        [[b"SET", b"cold:%d" % number, pattern(number, size)] for number in range(COLD[size])],
    )
    pipeline(client, [[b"SET", b"hot:%d" % n, pattern(n, KIB)] for n in range(10)])
    members = [b"member:%d" % number for number in range(100)]
    pipeline(client, [[b"SADD", b"hot set", *members]])


def use_hot(client: Client, rounds: int) -> float:
    """Use what is hot; the median time of one exchange in seconds."""
    times = []
    for number in range(rounds):
        began_s = time.perf_counter()
        assert client("GET", b"hot:%d" % (number % 10)) == pattern(number % 10, KIB)
        assert client("SISMEMBER", "hot set", "member:7") == 1
        assert client("SET", "written", number) == "OK"
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)


@contextmanager
def readers(server: Server, size: int) -> Iterator[list[int]]:
    """Clients that read all cold values again and again, each with a request under way.

    They are one thread, which takes as little of the processor as it can.
    """
    count = COLD[size]
    clients = [server.client() for _ in range(READERS)]
    stop = threading.Event()
    done = [0]

    def read() -> None:
        position = 0
        while not stop.is_set():
            numbers = [(position + index) % count for index in range(READERS)]
            position += READERS
            for client, number in zip(clients, numbers, strict=True):
                client.send(b"GET", b"cold:%d" % number)
            for client, number in zip(clients, numbers, strict=True):
                assert client.next_reply() == pattern(number, size)
                done[0] += 1

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(60.0)
        assert not thread.is_alive()


@pytest.mark.parametrize("size", COLD)
def test_hot_values_while_others_read_cold_ones(tmp_path: Path, size: int) -> None:
    """On a device that takes seconds for what the readers ask; the hot client takes none."""
    with (
        ext4(tmp_path / "disk", 96 * MIB) as disk,
        serving(tmp_path, *options_of("nvme", disk.folder / "values")) as server,
    ):
        client = server.control
        fill(client, size)
        leave_cache(disk.folder)
        use_hot(client, 10)
        alone_s = use_hot(client, HOT_ROUNDS)
        bytes_per_s = 2 * MIB
        with (
            slow_reads(server.process.pid, disk.device, bytes_per_s) as end_slowness,
            readers(server, size) as done,
        ):
            began_s = time.monotonic()
            beside_s = use_hot(client, HOT_ROUNDS)
            took_s = time.monotonic() - began_s
            finished = done[0]
            # So that the readers are done soon.
            end_slowness()
        # The readers did wait for the device meanwhile.
        assert finished * size < bytes_per_s * (took_s + 2) + READERS * size
        assert beside_s < 8 * alone_s + 0.002


def test_cold_values_are_right(tmp_path: Path) -> None:
    folder = tmp_path / "values"
    with serving(tmp_path, *options_of("ssd", folder)) as server:
        client = server.control
        for size, count in COLD.items():
            fill(client, size)
            for _ in range(2):
                leave_cache(folder)
                with readers(server, size) as done:
                    use_hot(client, 30)
                    names = [b"cold:%d" % number for number in range(0, count, 7)]
                    expected = [pattern(number, size) for number in range(0, count, 7)]
                    assert client("MGET", *names) == expected
                assert done[0] > 0


def test_what_is_wanted_again_is_in_memory_soon(tmp_path: Path) -> None:
    """Once read past the page cache, once into it, and no more, whatever else was read before."""
    hot = 50
    with (
        ext4(tmp_path / "disk", 96 * MIB) as disk,
        serving(tmp_path, *options_of("nvme", disk.folder / "values")) as server,
    ):
        client = server.control

        fill(client, 4 * KIB)
        # The next page that is written is another one.
        pipeline(client, [[b"SET", b"after:%d" % n, pattern(n, KIB)] for n in range(100)])
        leave_cache(disk.folder)
        for number in range(hot, COLD[4 * KIB]):
            assert client("GET", b"cold:%d" % number) == pattern(number, 4 * KIB)
        given = []
        for _ in range(4):
            before = info(server, "tier_reads_given")
            for number in range(hot):
                assert client("GET", b"cold:%d" % number) == pattern(number, 4 * KIB)
            given.append(info(server, "tier_reads_given") - before)
        assert given[0] > 0
        assert given[2:] == [0, 0], given
