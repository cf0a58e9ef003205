"""Lithops: functions in processes of this machine, which exchange all through PocketKV."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

lithops = pytest.importorskip("lithops")

TIMEOUT_S = 90

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


def squared(number: int) -> int:
    return number * number


def total(results: list[int]) -> int:
    return sum(results)


@pytest.fixture
def configuration(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    parts = urlsplit(url)
    monkeypatch.setenv("HOME", str(tmp_path))
    storage = {"host": parts.hostname, "port": parts.port, "storage_bucket": "bucket"}
    if parts.username:
        storage |= {"username": parts.username, "password": parts.password}
    return {
        "lithops": {"backend": "localhost", "storage": "redis", "telemetry": False},
        "localhost": {"version": 1, "runtime": sys.executable},
        "redis": storage,
    }


def test_functions_are_mapped_and_reduced(configuration: dict[str, Any]) -> None:
    with lithops.FunctionExecutor(config=configuration, log_level=None) as executor:
        future = executor.map_reduce(squared, list(range(20)), total)
        assert executor.get_result(future, timeout=TIMEOUT_S) == sum(n * n for n in range(20))
        executor.clean(clean_cloudobjects=True)


def test_objects_are_stored_listed_and_removed(configuration: dict[str, Any]) -> None:
    storage = lithops.Storage(config=configuration)
    bucket = storage.bucket
    for number in range(3):
        storage.put_object(bucket, f"texts/{number}", "some words " * (number + 1))
    large = bytes(range(256)) * 20_000
    storage.put_object(bucket, "large", large)
    assert sorted(storage.list_keys(bucket, "texts/")) == ["texts/0", "texts/1", "texts/2"]
    assert storage.get_object(bucket, "texts/1") == b"some words some words "
    assert storage.get_object(bucket, "large") == large
    assert int(storage.head_object(bucket, "large")["content-length"]) == len(large)
    storage.delete_objects(bucket, ["texts/0", "texts/1", "texts/2", "large"])
    assert storage.list_keys(bucket, "texts/") == []
