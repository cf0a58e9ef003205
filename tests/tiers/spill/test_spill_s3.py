"""A dram server that spills to S3, as a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pocketkv import limits
from tests.tiers.s3.faulty import FaultyProxy
from tests.tiers.spill.writing import EXCESS, MEMORY_BYTES, Peak, keys_of, read, write
from tests.tiers.storage_process import eventually, storage

MIB = limits.MIB


@pytest.mark.parametrize("size", [20_000, 2 * MIB])
def test_three_times_the_memory(
    tmp_path: Path,
    bucket: str,
    endpoint: str,
    names: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with storage(tmp_path, "--memory", "64mb", "--spill", f"s3://{bucket}/a") as server:
        client = server.client()
        peak = Peak(server)
        numbers = keys_of(3 * MEMORY_BYTES, size)
        assert write(client, numbers, size, peak) == []
        assert server.info("used_memory") <= MEMORY_BYTES
        assert server.info("spilled_keys") > len(numbers) / 2
        # Packs, and not an object for each small value.
        assert 0 < len(names()) < max(200, len(numbers) / 10)
        # One request for each: not all of so many small ones.
        some = numbers[:: max(1, len(numbers) // 500)]
        assert read(client, some, size, peak) == []
        # Beside values there is what is being sent to S3, and read.
        assert peak.share < 1 + EXCESS + 32 * MIB / MEMORY_BYTES
        assert write(client, numbers[::2], size, peak) == []
        assert read(client, some, size) == []
        assert client("FLUSHALL") == "OK"
        eventually(lambda: names() == [])
        assert write(client, numbers[:10], size) == []
        assert read(client, numbers[:10], size) == []
    assert names() == []


def test_an_outage(
    tmp_path: Path, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with storage(tmp_path, "--memory", "64mb", "--spill", f"s3://{bucket}/a") as server:
        client = server.client()
        size = 20_000
        numbers = keys_of(2 * MEMORY_BYTES, size)
        assert write(client, numbers, size) == []
        assert server.info("spilled_keys") > 0
        proxy.fail("reset")
        client.socket.settimeout(60.0)
        # There is some room left; then it waits, and is refused with the reason.
        more = [10_000 + number for number in keys_of(MEMORY_BYTES, size)]
        written: list[int] = []
        refused: list[bytes] = []
        for number in more:
            refused = write(client, [number], size)
            if refused:
                break
            written.append(number)
        assert refused[0].startswith(b"-OOM command not allowed")
        assert b"S3" in refused[0] or b"s3" in refused[0], refused
        # What is in memory is served, what is not is a clear error.
        assert client("PING") == "PONG"
        assert read(client, written[-100:], size) == []
        proxy.heal()
        eventually(lambda: write(client, [99_999], size) == [], 40.0)
        eventually(lambda: write(client, more[-100:], size) == [], 40.0)
        assert read(client, [*numbers[::15], *written[::15]], size) == []


def test_s3_that_cannot_be_used(
    tmp_path: Path, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with (
        pytest.raises(AssertionError, match="--spill"),
        storage(tmp_path, "--memory", "64mb", "--spill", "s3://no-such-bucket/a"),
    ):
        pass
