"""Sets that take many steps to be made: they leave memory and come back, as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiers.files.servers import Client, must, serving
from tests.tiers.storage_process import eventually

MEMBERS = 60_000


def options(folder: Path) -> list[str]:
    return ["--tier", "nvme", "--memory", "64mb", "--dir", str(folder / "values")]


def members_of(number: int) -> list[bytes]:
    return [b"%d:%d:" % (number, member) + b"m" * 40 for member in range(MEMBERS)]


def evictions(client: Client) -> int:
    info: str = client("INFO", "tiers").decode()
    found = [line for line in info.splitlines() if line.startswith("tier_evictions:")]
    return int(found[0].partition(":")[2])


@pytest.mark.timeout(180)
def test_huge_sets_leave_memory_and_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, *options(tmp_path)) as server:
        client = server.control
        for number in range(5):
            members = members_of(number)
            for at in range(0, MEMBERS, 5000):
                must(client("SADD", f"set:{number}", *members[at : at + 5000]))
            must(client("SREM", f"set:{number}", members[7]))
        eventually(lambda: evictions(client) > 0, timeout_s=60)
        for number in range(5):
            assert client("SCARD", f"set:{number}") == MEMBERS - 1
            must(client("SADD", f"set:{number}", "more"))
            assert client("SISMEMBER", f"set:{number}", members_of(number)[8]) == 1
        assert client("SINTERCARD", "2", "set:1", "set:2") == 1
        digest = client("DEBUG", "DIGEST")
        server.kill()
    with serving(tmp_path, *options(tmp_path)) as server:
        client = server.control
        assert client("DEBUG", "DIGEST") == digest
        for number in range(5):
            assert client("SCARD", f"set:{number}") == MEMBERS
            some = [*members_of(number)[5:10], b"more"]
            assert client("SMISMEMBER", f"set:{number}", *some) == [1, 1, 0, 1, 1, 1]
