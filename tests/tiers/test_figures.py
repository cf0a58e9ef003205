"""What a file tier tells of its medium."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.core import Metric

from pocketkv.engine.errors import write_refusal
from pocketkv.engine.keyspace import Clock, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.topology import Topology
from pocketkv.observability.metrics import Figures, Name
from pocketkv.tiers import figures as names
from pocketkv.tiers.figures import FileMedium
from pocketkv.tiers.file_store import RESERVED_BYTES, FileStore
from tests.tiers.storage_process import eventually, storage

MIB = 1024 * 1024
LOG = logging.getLogger("pocketkv.tests")


def stand_in(**fields: object) -> Any:
    """Somebody with nothing but these attributes."""
    return SimpleNamespace(**fields)


class Parts:
    """A medium, and what it tells of."""

    def __init__(self, folder: Path, capacity_bytes: int | None = None) -> None:
        self.store = FileStore(folder, "nvme", capacity_bytes, LOG)
        self.node = Node(
            node_id="a" * 40,
            role="storage",
            tier="nvme",
            keyspace=Keyspace(MIB, Clock(50_000), random.Random(1), None, self.store),
            topology=Topology(),
            timer_ns=lambda: 0,
        )
        self.readers = stand_in(waiting=3, given=17, given_direct=5)
        self.upkeep = stand_in(failure="")
        self.medium = FileMedium(self.node, self.store, self.readers, self.upkeep)

    def shown(self) -> dict[str, float]:
        """The metrics that it has, by name."""
        return {
            one.name.name.removeprefix("medium_"): cast("float", value)
            for one in self.medium.metrics()
            for _, value in one.values
        }


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path / "d")
    yield made
    made.store.close()


def test_what_is_written_and_read_is_counted(parts: Parts, tmp_path: Path) -> None:
    journal = parts.store.journal("job")
    cold = journal.put(0, b"key", 1, b"v" * 1000, 0)
    before = parts.medium.figures()
    assert (before.buffered_bytes > 1000, before.commits, before.written_bytes) == (True, 0, 0)
    parts.store.commit()
    journal.read(cold)
    after = parts.medium.figures()
    assert (after.buffered_bytes, after.commits, after.reads) == (0, 1, 1)
    assert after.written_bytes > 1000
    assert after.read_bytes == after.live_bytes == cold.record_bytes
    assert (after.segments, after.open_files) == (1, 1)
    assert (after.reads_waiting, after.reads_given, after.reads_direct) == (3, 17, 5)
    assert (after.directory, after.capacity_bytes) == (str(tmp_path / "d"), None)
    assert (after.used_bytes, after.large_bytes) == (after.journal_bytes, 0)
    assert after.free_bytes > 0
    assert after.error == ""


def test_room_is_what_the_capacity_leaves(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "d", 40 * MIB)
    parts.store.journal("job").put(0, b"key", 1, b"v" * MIB, 0)
    parts.store.commit()
    region = parts.store.large("job").allocate(10 * MIB)
    assert region is not None
    figures = parts.medium.figures()
    assert figures.large_bytes == 10 * MIB
    assert figures.used_bytes == figures.journal_bytes + 10 * MIB
    assert figures.free_bytes == figures.capacity_bytes - figures.used_bytes  # type: ignore[operator]
    assert parts.shown()["capacity_bytes"] == 40 * MIB
    del region
    parts.store.close()


def test_why_writes_fail_is_told_while_they_do(parts: Parts) -> None:
    parts.upkeep.failure = "Input/output error"
    assert parts.medium.error == "Input/output error"
    assert parts.shown()["failing"] == 1
    parts.node.write_error = write_refusal(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "No space left on device" in parts.medium.error
    parts.upkeep.failure = ""
    parts.node.write_error = None
    assert (parts.medium.error, parts.shown()["failing"]) == ("", 0)


def test_a_full_disk_is_told_as_long_as_it_is_full(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = parts.store.volume.state
    state.full, state.refusal = True, "No space left on device"
    assert parts.medium.error == ""
    monkeypatch.setattr(FileStore, "free_bytes", RESERVED_BYTES - 1)
    assert parts.medium.error == "No space left on device"
    state.full = False
    assert parts.medium.error == "no room is left for large values"
    monkeypatch.undo()
    state.full, state.refusal = True, os.strerror(errno.EDQUOT)
    assert parts.medium.error == "Disk quota exceeded"


def test_write_errors_are_counted_and_dated(parts: Parts) -> None:
    assert parts.shown()["last_write_error_timestamp_seconds"] == 0
    parts.node.write_failed(OSError(errno.EIO, "Input/output error"))
    shown = parts.shown()
    assert (shown["write_errors_total"], shown["last_write_error_timestamp_seconds"]) == (1, 50)


def test_what_ended_jobs_gave_back_stays_counted(parts: Parts) -> None:
    parts.store.large("job").punched_bytes = 4096
    parts.store.journal("job").put(0, b"key", 1, b"v", 0)
    parts.store.commit()
    parts.store.drop("job")
    parts.store.large("other").punched_bytes = 8192
    assert parts.store.punched_bytes == 12288


def test_every_metric_of_a_medium_is_shown(parts: Parts) -> None:
    declared = {value for value in vars(names).values() if isinstance(value, Name)}
    shown: list[Figures] = list(parts.medium.metrics())
    assert {one.name for one in shown} == declared
    assert len(shown) == len(declared)
    assert not any(isinstance(one, Metric) for one in shown)


def test_a_server_tells_of_its_medium(tmp_path: Path) -> None:
    options = ("--tier", "nvme", "--dir", str(tmp_path / "d"), "--memory", "64mb")
    with storage(tmp_path, *options) as server:
        server.control("SET", "small", "v" * 1000)
        server.control("SET", "large", b"v" * MIB)
        assert server.info("tier_large_bytes") == MIB
        assert server.info("tier_used_bytes") > MIB
        assert server.info("tier_commits") > 0
        assert server.info("tier_buffered_bytes") == 0
        assert server.info("tier_failing") == 0
        eventually(lambda: server.info("tier_free_bytes") > 0)
        text = server.control("INFO", "tiers").decode()
        assert f"tier_directory:{tmp_path / 'd'}\r\n" in text
        assert "tier_medium:files\r\n" in text
