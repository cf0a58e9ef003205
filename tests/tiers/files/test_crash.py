"""Servers that are killed while clients write: what was acknowledged is there, nothing else."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.tiers.files.servers import FILE_TIERS, Server, options_of, serving
from tests.tiers.files.writers import write_until_killed, writers

WRITERS = 4


def crash_again_and_again(folder: Path, tier: str, seed: int, rounds: int) -> int:
    """Kill a server at random moments; how many requests were acknowledged."""
    rng = random.Random(seed)
    writing = writers(WRITERS, seed)
    for _ in range(rounds):
        with serving(folder, *options_of(tier, folder / "values")) as server:
            for writer in writing:
                writer.check(server.control)
            write_until_killed(server, writing, rng.uniform(0.05, 1.3))
    with serving(folder, *options_of(tier, folder / "values")) as server:
        for writer in writing:
            writer.check(server.control)
            assert not writer.refused
    return sum(writer.acknowledged for writer in writing)


@pytest.mark.parametrize("tier", ["nvme", "hdd"])
def test_nothing_acknowledged_is_lost(tmp_path: Path, tier: str) -> None:
    assert crash_again_and_again(tmp_path, tier, 1, 3) > 300


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 6))
@pytest.mark.parametrize("tier", FILE_TIERS)
def test_nothing_acknowledged_is_lost_in_many_crashes(tmp_path: Path, tier: str, seed: int) -> None:
    assert crash_again_and_again(tmp_path, tier, seed, 25) > 2000


def test_a_server_that_stops_loses_nothing_either(tmp_path: Path) -> None:
    writing = writers(2, 9)
    for _ in range(2):
        with serving(tmp_path, *options_of("nvme", tmp_path / "values")) as server:
            for writer in writing:
                writer.check(server.control)
            stop = threading.Event()
            threads = [
                threading.Thread(target=writer.run, args=(server.client(), stop))
                for writer in writing
            ]
            for thread in threads:
                thread.start()
            stop.wait(0.5)
            Server.stop(server)
            for thread in threads:
                thread.join(30.0)
