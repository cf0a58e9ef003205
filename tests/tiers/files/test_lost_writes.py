"""Disks that fail to write what they had taken: nothing of it is lost when they work again."""

from __future__ import annotations

from pathlib import Path

from pocketkv.limits import KIB, MIB
from tests.tiers.files.disks import thin_ext4
from tests.tiers.files.servers import Client, must, options_of, pattern, serving
from tests.tiers.storage_process import eventually

SIZES = [10, 60 * KIB, 70 * KIB, 3 * MIB]


def fill(client: Client, name: str) -> None:
    for size in SIZES:
        must(client("SET", f"{name}:{size}", pattern(size + len(name), size)))
        must(client("APPEND", f"{name}:{size}", "and more"))
    must(client("SADD", f"{name}:set", *range(300)))


def check(client: Client, name: str) -> None:
    for size in SIZES:
        assert client("GET", f"{name}:{size}") == pattern(size + len(name), size) + b"and more"
    assert client("SCARD", f"{name}:set") == 300


def medium_error(client: Client) -> str:
    info: str = client("INFO", "tiers").decode()
    return next(line for line in info.splitlines() if line.startswith("tier_error:"))[11:]


def test_nothing_is_lost_by_a_disk_that_fails_to_write(tmp_path: Path) -> None:
    with thin_ext4(tmp_path / "disk", 192 * MIB) as disk:
        folder = disk.folder / "values"
        options = options_of("nvme", folder)
        with serving(tmp_path, *options) as server:
            client = server.control
            fill(client, "before")
            must(client("SET", "gone", "value"))
            must(client("SADD", "before:set", "later"))
            must(client("COPY", f"before:{70 * KIB}", "copied"))
            eventually(lambda: client("INFO", "tiers") is not None)
            disk.fail()
            fill(client, "lost")
            must(client("DEL", "gone"))
            must(client("SREM", "before:set", "later"))
            must(client("COPY", f"lost:{3 * MIB}", "twin"))
            must(client("APPEND", f"before:{70 * KIB}", "!"))
            must(client("SETRANGE", f"before:{70 * KIB}", 70 * KIB + 8, ""))
            eventually(lambda: medium_error(client) != "", timeout_s=30)
            # Everything can be read, and written, meanwhile.
            check(client, "lost")
            must(client("SET", "meanwhile", "value"))
            disk.work()
            eventually(lambda: medium_error(client) == "", timeout_s=120)
            digest = client("DEBUG", "DIGEST")
            assert "written again" in server.log
            server.kill()
        # What is read now comes from the disk.
        disk.remount()
        with serving(tmp_path, *options) as server:
            client = server.control
            check(client, "lost")
            assert client("GET", "gone") is None
            assert client("SISMEMBER", "before:set", "later") == 0
            assert client("GET", "twin") == client("GET", f"lost:{3 * MIB}")
            assert client("GET", f"before:{70 * KIB}") == (
                pattern(70 * KIB + 6, 70 * KIB) + b"and more!"
            )
            assert client("GET", "copied") == pattern(70 * KIB + 6, 70 * KIB) + b"and more"
            assert client("DEBUG", "DIGEST") == digest
            info: str = client("INFO", "tiers").decode()
            assert "tier_read_errors:0" in info
