"""Cold large values: read past the page cache, or through it where the system says no."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from pathlib import Path

import pytest

from pocketkv.limits import MIB
from pocketkv.tiers.volume.page_cache import counts_pages
from tests.tiers.files.disks import leave_cache
from tests.tiers.files.servers import Server, info, options_of, pattern, pipeline, serving
from tests.tiers.storage_process import eventually

SIZES = [MIB, 100_000, 5 * MIB + 3, 70 * MIB // 4]
_SETUP = {"x86_64": 206, "aarch64": 0}
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001


def refuse_async_reads() -> None:
    """Have the system refuse `io_setup` to this thread and what it starts, as a sandbox may."""
    steps = [
        (_LOAD, 0, 0, 0),
        (_IF_EQUAL, 0, 1, _SETUP[os.uname().machine]),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in steps))
    head = struct.pack("@HP", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(head), 0, 0) == 0


def check_cold_values(server: Server, folder: Path, *, is_direct: bool) -> None:
    """Have cold values read, more than once; and past the page cache, or never so."""
    client = server.control
    for number, size in enumerate(SIZES):
        assert client("SET", b"%d" % number, pattern(number, size)) == "OK"

    def is_read_directly() -> bool:
        leave_cache(folder)
        assert client.get(b"0") == pattern(0, MIB)
        return info(server, "tier_reads_direct") > 0

    if is_direct:
        # What the device was not seen to have is read otherwise, for a second or so.
        eventually(is_read_directly)
    for _ in range(2):
        leave_cache(folder)
        for number, size in enumerate(SIZES):
            assert (
                client("GETRANGE", b"%d" % number, 70_000, 90_000)
                == (pattern(number, size)[70_000:90_001])
            )
            assert client.get(b"%d" % number) == pattern(number, size)
        names = [b"%d" % number for number in range(len(SIZES))]
        assert client("MGET", *names) == [pattern(n, size) for n, size in enumerate(SIZES)]
    assert (info(server, "tier_reads_direct") > 0) == is_direct


def reads_directly(folder: Path) -> bool:
    """Whether the file system has reads past the page cache."""
    path = folder / "tried"
    path.touch()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("tier", ["nvme", "hdd"])
def test_cold_small_values(tmp_path: Path, tier: str) -> None:
    """Each of them is read from the device, however it is: they are in none of two caches."""
    folder = tmp_path / "values"
    sizes = [10, 500, 4096, 9000, 60_000]
    keys = {b"%d" % n: pattern(n, sizes[n % len(sizes)]) for n in range(400)}
    with serving(tmp_path, *options_of(tier, folder)) as server:
        client = server.control
        pipeline(client, [[b"SET", key, value] for key, value in keys.items()])
        client("SADD", "set", *range(100))
        for number in range(3):
            leave_cache(folder)
            for key, value in keys.items():
                assert client("GET", key) == value
            leave_cache(folder)
            assert client("MGET", *keys) == list(keys.values())
            # What was changed is read as it is now.
            assert client("APPEND", b"3", b"+") == len(keys[b"3"]) + 1
            keys[b"3"] += b"+"
            client("SET", b"4", number)
            keys[b"4"] = b"%d" % number
        is_direct = tier == "nvme" and reads_directly(tmp_path) and counts_pages()
        # Those of neighbours, and of what is read twice, go by the page cache.
        assert (info(server, "tier_reads_direct") > len(keys) // 4) == is_direct
        assert info(server, "tier_read_errors") == 0


@pytest.mark.parametrize("tier", ["nvme", "hdd"])
def test_cold_large_values(tmp_path: Path, tier: str) -> None:
    with serving(tmp_path, *options_of(tier, tmp_path / "values")) as server:
        is_direct = tier == "nvme" and reads_directly(tmp_path)
        check_cold_values(server, tmp_path / "values", is_direct=is_direct)
        assert "through the page cache only" not in server.log


def test_where_the_system_refuses_such_reads(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            refuse_async_reads()
            with serving(tmp_path, *options_of("nvme", tmp_path / "values")) as server:
                check_cold_values(server, tmp_path / "values", is_direct=False)
                assert server.log.count("through the page cache only") == 1
        except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
            failures.append(error)

    # What is refused to a thread stays so.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
