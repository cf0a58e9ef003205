"""Disks that refuse, disappear or fail: writes get IOERR, and nothing acknowledged is lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pocketkv.limits import KIB, MIB
from tests.replies import Error
from tests.tiers.files.disks import ext4, immutable, leave_cache
from tests.tiers.files.servers import Client, must, options_of, pattern, serving
from tests.tiers.storage_process import eventually

SIZES = [10, KIB, 60 * KIB, 70 * KIB, MIB]
WRITES: list[list[object]] = [
    ["SET", "new", "value"],
    ["SET", "10", pattern(1, 60 * KIB)],
    ["SET", "10", pattern(1, 70 * KIB)],
    ["APPEND", str(70 * KIB), "x"],
    ["DEL", "10"],
    ["SADD", "set", "more"],
    ["EXPIRE", "10", "100"],
    ["FLUSHDB"],
    ["FLUSHALL"],
]


def fill(client: Client) -> None:
    for size in SIZES:
        must(client("SET", size, pattern(size, size)))
    must(client("SADD", "set", *range(100)))
    must(client("SET", "expires", "some day", "PXAT", "4000000000000"))


def check(client: Client) -> None:
    for size in SIZES:
        assert client("GET", size) == pattern(size, size)
        assert client("GETRANGE", size, "3", "7") == pattern(size, size)[3:8]
    assert client("SCARD", "set") == 100
    assert client("PEXPIRETIME", "expires") == 4_000_000_000_000
    assert client("DBSIZE") == len(SIZES) + 2


def refused(client: Client, request: list[object]) -> str:
    reply = client(*request)
    assert isinstance(reply, Error), request
    assert reply.text.startswith("IOERR "), (request, reply)
    return reply.text


@pytest.mark.parametrize("tier", ["nvme", "hdd"])
def test_files_that_cannot_be_written_for_a_while(tmp_path: Path, tier: str) -> None:
    folder = tmp_path / "values"
    options = options_of(tier, folder)
    with serving(tmp_path, *options) as server:
        client = server.control
        fill(client)
        digest = client("DEBUG", "DIGEST")
        with immutable(folder):
            # The first is refused after it was done in memory, and is written later; what comes
            # after it is not done at all.
            assert "not permitted" in refused(client, ["SET", "new", "value"])
            for request in WRITES:
                refused(client, request)
            assert client("PING") == "PONG"
            for size in SIZES:
                assert client("GET", size) == pattern(size, size)
        eventually(lambda: client("SET", "again", "value") == "OK")
        assert client("GET", "again") == b"value"
        assert client("DEL", "new", "again") == 2
        check(client)
        assert client("DEBUG", "DIGEST") == digest
        server.kill()
    with serving(tmp_path, *options) as server:
        check(server.control)
        assert server.control("DEBUG", "DIGEST") == digest


def test_writers_meet_a_disk_that_comes_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "values"
    options = options_of("nvme", folder)
    stop = threading.Event()
    acknowledged: list[int] = []
    errors: list[Error] = []

    def write(client: Client, number: int) -> None:
        while not stop.is_set():
            reply = client("SET", number, pattern(number, SIZES[number // 4 % len(SIZES)]))
            if isinstance(reply, Error):
                errors.append(reply)
            else:
                acknowledged.append(number)
            number += 4

    with serving(tmp_path, *options) as server:
        threads = [
            threading.Thread(target=write, args=(server.client(), number)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for _ in range(3):
            stop.wait(0.1)
            with immutable(folder):
                stop.wait(0.1)
        stop.wait(0.1)
        stop.set()
        for thread in threads:
            thread.join(30.0)
        assert errors
        assert {error.text.split()[0] for error in errors} == {"IOERR"}, set(errors)
        server.kill()
    with serving(tmp_path, *options) as server:
        for number in acknowledged:
            size = SIZES[number // 4 % len(SIZES)]
            assert server.control("GET", number) == pattern(number, size)


def test_a_disk_that_is_pulled_out(tmp_path: Path) -> None:
    with ext4(tmp_path / "disk", 128 * MIB) as disk:
        folder = disk.folder / "values"
        options = options_of("nvme", folder)
        with serving(tmp_path, *options) as server:
            client = server.control
            fill(client)
            disk.pull_out()
            for request in WRITES:
                refused(client, request)
            # Nothing can be read either, but for what needs no file.
            assert refused(client, ["GET", 60 * KIB])
            assert client("PING") == "PONG"
            assert client("STRLEN", MIB) == MIB
            assert client("SCARD", "set") == 100
            server.process.terminate()
            server.process.wait(20)
            assert "internal error" not in server.log, server.log
            server.kill()
        disk.unmount()
        disk.mount()
        with serving(tmp_path, *options) as server:
            check(server.control)
            must(server.control("SET", "new", "value"))


def test_parts_of_a_disk_that_cannot_be_read(tmp_path: Path) -> None:
    with ext4(tmp_path / "disk", 96 * MIB) as disk:
        folder = disk.folder / "values"
        with serving(tmp_path, *options_of("nvme", folder)) as server:
            client = server.control
            small = [b"small:%d" % number for number in range(400)]
            large = [b"large:%d" % number for number in range(40)]
            for number, name in enumerate(small):
                must(client("SET", name, pattern(number, 30 * KIB)))
            for number, name in enumerate(large):
                must(client("SET", name, pattern(number, 700 * KIB)))
            expected = {name: pattern(n, 30 * KIB) for n, name in enumerate(small)}
            expected |= {name: pattern(n, 700 * KIB) for n, name in enumerate(large)}
            leave_cache(folder)
            # What is behind this in the file that stands for the disk is an error to read.
            size = disk.image.stat().st_size
            with disk.image.open("r+b") as image:
                image.seek(size // 3)
                tail = image.read()
                image.truncate(size // 3)
            failed = 0
            for name, value in expected.items():
                reply = client("GET", name)
                if isinstance(reply, Error):
                    assert reply.text.startswith("IOERR "), reply
                    failed += 1
                else:
                    assert reply == value
            assert 0 < failed < len(expected)
            with disk.image.open("r+b") as image:
                image.seek(size // 3)
                image.write(tail)
            for name, value in expected.items():
                assert client("GET", name) == value
            server.kill()
