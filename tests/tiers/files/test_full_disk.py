"""A disk that is full: writes are refused with the reason, everything else goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.limits import KIB, MIB
from tests.replies import Error
from tests.tiers.files.disks import SMALL_DISK_BYTES, ext4, tmpfs
from tests.tiers.files.servers import Client, Server, must, pattern, pipeline, serving
from tests.tiers.storage_process import eventually

SIZES = [100, KIB, 60 * KIB, 70 * KIB, MIB]
# Of each kind of value one; all of them take long.
_QUICK = {("tmpfs", KIB), ("tmpfs", 70 * KIB), ("ext4", 60 * KIB)}


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "tmpfs":
        with tmpfs(tmp_path / "disk", SMALL_DISK_BYTES) as folder:
            yield folder
    else:
        with ext4(tmp_path / "disk", SMALL_DISK_BYTES) as found:
            yield found.folder


@contextlib.contextmanager
def server_on(disk: Path, tmp_path: Path) -> Iterator[Server]:
    options = ["--tier", "nvme", "--memory", "512mb", "--dir", str(disk / "values")]
    with serving(tmp_path, *options) as server:
        yield server


def fill(client: Client, size: int, first: int = 0) -> tuple[int, Error]:
    """Write values until one is refused: how many there are then, and the refusal."""
    number = first
    batch = max(1, 300 * KIB // (size + 100))
    while True:
        names = range(number, number + batch)
        for name in names:
            client.send(b"SET", b"%d" % name, pattern(name, size))
        replies = [client.next_reply() for _ in names]
        refused = [reply for reply in replies if isinstance(reply, Error)]
        accepted = replies.index(refused[0]) if refused else batch
        assert replies[:accepted] == ["OK"] * accepted
        number += accepted
        if refused:
            # Smaller ones may still have found room after the first that did not.
            for name, reply in zip(names, replies, strict=True):
                if name > number and reply == "OK":
                    must(client("DEL", b"%d" % name))
            return number, refused[0]


def check(client: Client, numbers: Iterator[int] | range, size: int) -> None:
    names = list(numbers)
    for at in range(0, len(names), 200):
        some = names[at : at + 200]
        values = client("MGET", *some) if size < MIB else [client("GET", name) for name in some]
        assert values == [pattern(name, size) for name in some]


@pytest.mark.parametrize(
    ("disk", "size"),
    [
        pytest.param(kind, size, marks=[] if (kind, size) in _QUICK else [pytest.mark.slow])
        for kind in ("tmpfs", "ext4")
        for size in SIZES
    ],
    indirect=["disk"],
)
@pytest.mark.timeout(180)
def test_a_full_disk(disk: Path, tmp_path: Path, size: int) -> None:
    with server_on(disk, tmp_path) as server:
        client = server.control
        must(client("SADD", "set", "a", "b"))
        count, refused = fill(client, size)
        assert refused.text.startswith("OOM "), refused
        assert "space" in refused.text or "room" in refused.text, refused
        # Most of it could be used.
        assert count * size > SMALL_DISK_BYTES * (0.25 if size < KIB else 0.4)
        assert client("PING") == "PONG"
        assert client("SISMEMBER", "set", "a") == 1
        check(client, range(count), size)
        assert isinstance(client("SET", "one more", pattern(0, 4 * MIB)), Error)
        # Deleting needs no room, and makes some.
        names = range(0, count, 2)
        for at in range(0, len(names), 500):
            deletions = [[b"DEL", b"%d" % name] for name in names[at : at + 500]]
            assert set(pipeline(client, deletions)) == {1}
        eventually(lambda: client("SET", "fits", pattern(5, size)) == "OK")
        again, _ = refilled(client, size, count)
        assert again > count
        server.kill()
    with server_on(disk, tmp_path) as server:
        client = server.control
        assert client("DBSIZE") == again - len(names) + 2
        check(client, range(1, count, 2), size)
        check(client, range(count, again), size)
        assert client("GET", "fits") == pattern(5, size)
        assert client("SMEMBERS", "set") in ([b"a", b"b"], [b"b", b"a"])
        must(client("FLUSHALL"))
        eventually(lambda: client("SET", "fits", pattern(6, 20 * MIB)) == "OK")
        server.stop()
    with server_on(disk, tmp_path) as server:
        assert server.control("DBSIZE") == 1
        assert server.control.get(b"fits") == pattern(6, 20 * MIB)


def refilled(client: Client, size: int, first: int) -> tuple[int, Error]:
    """Write more until there is enough, or no room for some time: collection takes its time."""
    number = first
    refused = Error("")
    # Of very small values, what tells of their deletion takes a third of what they took.
    wanted = first + (first // 10 if size >= KIB else 100)

    def has_more() -> bool:
        nonlocal number, refused
        number, refused = fill(client, size, number)
        return number > wanted

    eventually(has_more)
    return number, refused


def test_everything_that_writes_is_refused_and_changes_nothing(disk: Path, tmp_path: Path) -> None:
    with server_on(disk, tmp_path) as server:
        client = server.control
        must(client("SET", "text", "old"))
        must(client("SET", "large", pattern(1, 70 * KIB)))
        must(client("SADD", "set", "a"))
        count, _ = fill(client, 60 * KIB)
        fill(client, 1000, 10**6)
        value = pattern(2, 30 * MIB)
        for request in (
            ["SET", "text", value],
            ["SETEX", "text", "100", value],
            ["GETSET", "large", value],
            ["APPEND", "large", value],
            ["APPEND", "text", value],
            ["SETRANGE", "text", "5", value],
            ["MSET", "text", "new", "large", value],
            ["SADD", "set", value],
        ):
            reply = client(*request)
            assert isinstance(reply, Error), request[:2]
            assert reply.text.startswith("OOM "), reply
        assert client("GET", "text") == b"old"
        assert client("TTL", "text") == -1
        assert client("GET", "large") == pattern(1, 70 * KIB)
        assert client("SMEMBERS", "set") == [b"a"]
        before = client("DEBUG", "DIGEST")
        assert count > 0
        server.kill()
    with server_on(disk, tmp_path) as server:
        assert server.control("DEBUG", "DIGEST") == before
        assert server.control("GETDEL", "text") == b"old"
        assert server.control("SREM", "set", "a") == 1
        assert server.control("UNLINK", "large", "0") == 2


def test_a_capacity_is_kept(tmp_path: Path) -> None:
    options = ["--tier", "ssd", "--memory", "256mb", "--dir", str(tmp_path / "values")]
    options += ["--capacity", "40mb"]
    with serving(tmp_path, *options) as server:
        client = server.control
        count, refused = fill(client, 70 * KIB)
        assert refused.text.startswith("OOM ")
        assert 15 * MIB < count * 70 * KIB < 41 * MIB
        check(client, range(count), 70 * KIB)
        for name in range(count):
            assert client("DEL", name) == 1
        again, refused = fill(client, 10 * KIB)
        assert refused.text.startswith("OOM ")
        assert 15 * MIB < again * 10 * KIB < 41 * MIB
        check(client, range(again), 10 * KIB)
