"""Memory stays within its budget whatever is written, and files are given back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketkv import config
from pocketkv.engine.node import Node
from pocketkv.limits import KIB, MIB
from tests.replies import Error
from tests.tiers.files.disks import leave_cache, used_bytes
from tests.tiers.files.servers import Client, Request, Server, must, pattern, pipeline, serving
from tests.tiers.storage_process import eventually

BUDGET_BYTES = 128 * MIB
# What the system counts may be so much above what was asked for.
MEMORY_BYTES_MAX = int(BUDGET_BYTES * 1.15)


def options(folder: Path, tier: str = "nvme") -> list[str]:
    return ["--tier", tier, "--memory", "128mb", "--dir", str(folder / "values")]


class Watched:
    """A server whose memory is looked at after every few requests."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client: Client = server.control
        self.highest_bytes = 0

    def send(self, requests: list[Request]) -> list[object]:
        replies = pipeline(self.client, requests)
        self.highest_bytes = max(self.highest_bytes, self.server.memory_bytes())
        assert self.highest_bytes < MEMORY_BYTES_MAX, self.highest_bytes // MIB
        return replies


def churn(watched: Watched, size: int, total_bytes: int, live_bytes: int) -> None:
    """Write values, read them, and delete all but the last few."""
    live = live_bytes // size
    batch = max(1, min(500, 4 * MIB // size))
    for first in range(0, total_bytes // size, batch):
        names = range(first, first + batch)
        sets: list[Request] = [[b"SET", b"%d" % n, pattern(n % 32, size)] for n in names]
        assert set(watched.send(sets)) == {"OK"}
        some = names[:: max(1, batch // 20)]
        assert watched.send([[b"GET", b"%d" % n] for n in some]) == [
            pattern(n % 32, size) for n in some
        ]
        watched.send([[b"DEL", *[b"%d" % (n - live) for n in names]]])
    assert watched.client("DBSIZE") <= live + batch


def churn_sets(watched: Watched, total_bytes: int) -> None:
    """Sets that together have no room in memory; they are written, used, and checked."""
    count = total_bytes // (500 * 250)
    for number in range(count):
        members = [b"%d:%d:" % (number, member) + b"m" * 100 for member in range(500)]
        assert watched.send([[b"SADD", b"set:%d" % number, *members]]) == [500]
        older = b"set:%d" % (number // 2)
        probe = b"%d:7:" % (number // 2) + b"m" * 100
        assert watched.send([[b"SISMEMBER", older, probe]]) == [1]
    for number in range(count):
        assert watched.send(
            [[b"SCARD", b"set:%d" % number], [b"SREM", b"set:%d" % number, b"x"]]
        ) == [500, 0]


def run(folder: Path, tier: str, work: Callable[[Watched], None]) -> None:
    with serving(folder, *options(folder, tier)) as server:
        watched = Watched(server)
        work(watched)
        # Everything goes at once, and with it the files.
        assert watched.client("FLUSHALL") == "OK"
        eventually(lambda: used_bytes(folder / "values") < 24 * MIB)


@pytest.mark.parametrize("size", [4 * KIB, 60 * KIB, MIB])
def test_strings_that_come_and_go(tmp_path: Path, size: int) -> None:
    def work(watched: Watched) -> None:
        churn(watched, size, 3 * BUDGET_BYTES, BUDGET_BYTES // 2)
        # What was deleted takes no more than what is left.
        eventually(lambda: used_bytes(tmp_path / "values") < 3.5 * BUDGET_BYTES / 2)

    run(tmp_path, "nvme", work)


def test_sets_that_must_leave_memory(tmp_path: Path) -> None:
    run(tmp_path, "nvme", lambda watched: churn_sets(watched, 2 * BUDGET_BYTES))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tier", ["nvme", "ssd", "hdd"])
@pytest.mark.parametrize("size", [KIB, 4 * KIB, 60 * KIB, MIB])
def test_ten_times_as_much_as_memory(tmp_path: Path, tier: str, size: int) -> None:
    live_bytes = BUDGET_BYTES // 8 if size == KIB else BUDGET_BYTES
    run(tmp_path, tier, lambda watched: churn(watched, size, 10 * BUDGET_BYTES, live_bytes))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_times_as_much_in_sets(tmp_path: Path) -> None:
    run(tmp_path, "nvme", lambda watched: churn_sets(watched, 10 * BUDGET_BYTES))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_more_keys_than_memory_can_list(tmp_path: Path) -> None:
    with serving(tmp_path, *options(tmp_path)) as server:
        watched = Watched(server)
        refused: Error | None = None
        number = 0
        while refused is None:
            names = range(number, number + 1000)
            for reply in watched.send([[b"SET", b"key:%d" % n, b"value %d" % n] for n in names]):
                if isinstance(reply, Error):
                    refused = refused or reply
                else:
                    number += 1
        assert refused.text.startswith("OOM ")
        assert number > 50_000
        assert watched.client("GET", "key:77") == b"value 77"
        for first in range(0, number, 1000):
            watched.send([[b"DEL", *[b"key:%d" % n for n in range(first, first + 1000)]]])
        eventually(lambda: watched.client("SET", "key", "value") == "OK")


def test_a_value_larger_than_memory(tmp_path: Path) -> None:
    size = 160 * MIB
    with serving(tmp_path, *options(tmp_path)) as server:
        client = server.control
        piece = pattern(1, MIB)
        client.send_raw(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n" % size)
        highest_bytes = 0
        for _ in range(size // MIB):
            client.send_raw(piece)
            highest_bytes = max(highest_bytes, server.memory_bytes())
        client.send_raw(b"\r\n")
        assert client.next_reply() == "OK"
        leave_cache(tmp_path / "values")
        client.send(b"GET", b"key")
        assert client.receive(len(b"$%d\r\n" % size)) == b"$%d\r\n" % size
        for _ in range(size // MIB):
            assert client.receive(MIB) == piece
            highest_bytes = max(highest_bytes, server.memory_bytes())
        assert client.receive(2) == b"\r\n"
        assert highest_bytes < MEMORY_BYTES_MAX


def test_a_gap_larger_than_the_memory_takes_no_room(tmp_path: Path) -> None:
    with serving(tmp_path, *options(tmp_path)) as server:
        watched = Watched(server)
        end = 2 * BUDGET_BYTES
        assert watched.send([[b"SETRANGE", b"key", b"%d" % end, b"<here>"]]) == [end + 6]
        assert watched.client("GETRANGE", "key", end - 2, end + 5) == b"\0\0<here>"
        assert used_bytes(tmp_path / "values") < 24 * MIB


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_value_that_no_request_could_hold(tmp_path: Path) -> None:
    # As far as the server lets a value grow by parts.
    grows = hasattr(Node, "value_bytes_max") or "value_bytes_max" in (
        config.StorageConfig.__dataclass_fields__
    )
    count = 700 if grows else 500
    with serving(tmp_path, *options(tmp_path)) as server:
        watched = Watched(server)
        written, read = hashlib.sha256(), hashlib.sha256()
        for number in range(count):
            piece = pattern(number, MIB)
            written.update(piece)
            assert watched.send([[b"APPEND", b"key", piece]]) == [(number + 1) * MIB]
        leave_cache(tmp_path / "values")
        for number in range(count):
            start = number * MIB
            span = [b"%d" % start, b"%d" % (start + MIB - 1)]
            (got,) = watched.send([[b"GETRANGE", b"key", *span]])
            assert isinstance(got, bytes)
            read.update(got)
        assert read.digest() == written.digest()
        middle = count // 2 * MIB + 12_345
        must(watched.client("SETRANGE", "key", middle, pattern(9, 3 * MIB)))
        assert watched.client("STRLEN", "key") == count * MIB
        assert watched.client("GETRANGE", "key", middle - 2, middle + 3 * MIB - 1)[2:] == pattern(
            9, 3 * MIB
        )
        server.kill()
    with serving(tmp_path, *options(tmp_path)) as server:
        assert server.control("STRLEN", "key") == count * MIB
        assert server.control("GETRANGE", "key", middle, middle + 9) == pattern(9, 10)
        assert server.control("DEL", "key") == 1
        eventually(lambda: used_bytes(tmp_path / "values") < 24 * MIB)
