"""Writers of large values are held while the device is behind, and refused if it stays so."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv import limits
from pocketkv.engine.keyspace import Clock, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.topology import Topology
from pocketkv.resp.reactor import Reactor
from pocketkv.tiers.file_store import FileStore
from pocketkv.tiers.upkeep import Upkeep
from pocketkv.tiers.volume.pacing import Pacer
from tests.tiers.test_figures import stand_in

MIB = 1024 * 1024
LOG = logging.getLogger("pocketkv.tests")


class Bench:
    """A file store whose device has taken nothing of 4 MiB, where 2 are much."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder, "nvme", None, LOG)
        self.store.pacer = Pacer(start_bytes=MIB, behind_bytes=2 * MIB)
        self.node = Node(
            node_id="a" * 40,
            role="storage",
            tier="nvme",
            keyspace=Keyspace(MIB, Clock(50_000), random.Random(1), None, self.store),
            topology=Topology(),
            timer_ns=lambda: 0,
        )
        self.reactor = Reactor(LOG)
        self.upkeep = Upkeep(self.node, self.store, self.reactor, stand_in(), lambda: False, LOG)
        region = self.store.large("job").allocate(4 * MIB)
        assert region is not None
        assert region.append(memoryview(os.urandom(4 * MIB)))
        self.region = region

    def state(self) -> tuple[bool, bool]:
        return self.reactor.holds_large, self.store.pacer.refuses


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "d")
    yield made
    del made.region
    made.reactor.close()
    made.store.close()


def test_writers_go_on_when_the_device_has_caught_up(bench: Bench) -> None:
    assert bench.store.pacer.outstanding_bytes == 4 * MIB
    bench.upkeep.hold_writers(100.0)
    assert bench.state() == (True, False)
    bench.store.pacer.drain(MIB)
    bench.upkeep.hold_writers(101.0)
    assert bench.state() == (False, False)
    assert bench.upkeep.failure == ""


def test_a_device_that_stays_behind_has_writers_refused(bench: Bench) -> None:
    bench.upkeep.hold_writers(100.0)
    bench.upkeep.hold_writers(100.0 + limits.LARGE_HOLD_MAX_S / 2)
    assert bench.state() == (True, False)
    bench.upkeep.hold_writers(100.0 + limits.LARGE_HOLD_MAX_S)
    # They go on, to be told.
    assert bench.state() == (False, True)
    assert "does not keep up" in bench.upkeep.failure
    assert (bench.node.write_errors, bench.node.last_write_error) == (1, bench.upkeep.failure)
    bench.upkeep.hold_writers(101.0 + limits.LARGE_HOLD_MAX_S)
    assert bench.state() == (False, True)
    assert bench.node.write_errors == 1
    bench.store.pacer.drain()
    bench.upkeep.hold_writers(102.0 + limits.LARGE_HOLD_MAX_S)
    assert bench.state() == (False, False)


def test_each_wait_begins_anew(bench: Bench) -> None:
    """A device that is slow, but takes something now and then, is waited for."""
    pacer, now_s = bench.store.pacer, 0.0
    for _ in range(5):
        pacer.outstanding_bytes = 3 * MIB
        bench.upkeep.hold_writers(now_s)
        assert bench.state() == (True, False)
        now_s += limits.LARGE_HOLD_MAX_S * 0.9
        bench.upkeep.hold_writers(now_s)
        pacer.outstanding_bytes = MIB
        bench.upkeep.hold_writers(now_s)
        assert bench.state() == (False, False)
