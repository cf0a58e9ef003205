from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pocketkv import limits
from pocketkv.engine.extents import Extent, Extents
from pocketkv.engine.keyspace import Clock, Keyspace
from pocketkv.engine.trimming import Trimmer
from tests.engine.media import FakeMedium

PAGE = 64 * limits.KIB
MIB_PAGES = limits.MIB // PAGE
MEMORY_BYTES = limits.GIB
RESERVE_PAGES = int(limits.EXTENT_RESERVE_SHARE * MEMORY_BYTES) // PAGE


class Server:
    """A keyspace with extents, and a clock for its trimmer."""

    def __init__(self) -> None:
        self.medium = FakeMedium(200 * MIB_PAGES, page_bytes=PAGE)
        self.extents = Extents(self.medium)
        clock = Clock(0)
        self.keyspace = Keyspace(MEMORY_BYTES, clock, random.Random(0), self.extents)
        self.trimmer = Trimmer(self.keyspace, self.extents)
        self.now_s = 1000.0
        self.settle()

    def fill(self, mebibytes: int) -> list[Extent]:
        return self.extents.allocate_backed(mebibytes * limits.MIB)

    def step(self) -> bool:
        return self.trimmer.step(self.now_s)

    def settle(self) -> int:
        """Step until nothing is to do any more; how many steps it took."""
        steps = 1
        while self.step():
            steps += 1
        return steps

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.settle()

    def punched_pages(self) -> int:
        return sum(pages for _, pages in self.medium.punches)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.extents.validate()


def test_what_is_spent_goes_back_at_once_in_slices(server: Server) -> None:
    (extent,) = server.fill(10)
    extent.is_sent = True
    del extent
    assert server.step()
    assert server.punched_pages() == MIB_PAGES
    server.settle()
    assert server.punched_pages() == 10 * MIB_PAGES


def test_what_was_not_needed_for_a_window_goes_back(server: Server) -> None:
    chain = server.fill(100)
    server.wait(1.0)
    chain.clear()
    # It was free for a part of this window only.
    server.wait(1.0)
    assert server.extents.warm_pages == 100 * MIB_PAGES
    server.wait(0.5)
    assert server.extents.warm_pages == 100 * MIB_PAGES
    server.wait(0.5)
    assert server.extents.warm_pages == RESERVE_PAGES


def test_the_reserve_goes_back_when_nothing_is_asked_for(server: Server) -> None:
    server.fill(100)
    server.wait(1.0)
    server.wait(1.0)
    assert server.extents.warm_pages == RESERVE_PAGES
    server.wait(1.0)
    server.wait(1.0)
    assert server.extents.warm_pages == 0


def test_what_is_used_again_and_again_stays(server: Server) -> None:
    server.fill(50).clear()
    for _ in range(40):
        server.fill(50).clear()
        server.wait(0.3)
    assert server.medium.punches == []


def test_only_what_is_left_over_goes_back(server: Server) -> None:
    server.fill(100).clear()
    for _ in range(20):
        server.fill(40).clear()
        server.wait(0.3)
    assert server.extents.warm_pages == 40 * MIB_PAGES + RESERVE_PAGES


def test_after_much_was_dropped_at_once_nothing_is_waited_for(server: Server) -> None:
    chain = server.fill(100)
    server.wait(1.0)
    chain.clear()
    server.trimmer.hurry()
    assert server.settle() >= 100 // 4 - 6
    assert server.extents.warm_pages == RESERVE_PAGES


def test_free_extents_do_not_take_what_others_need(server: Server) -> None:
    server.fill(100).clear()
    server.keyspace.used_bytes = MEMORY_BYTES - 30 * limits.MIB
    server.settle()
    assert server.extents.warm_pages == 30 * MIB_PAGES
    server.keyspace.incoming_bytes = 10 * limits.MIB
    server.settle()
    assert server.extents.warm_pages == 20 * MIB_PAGES


def test_a_small_server_keeps_a_small_reserve(server: Server) -> None:
    server.keyspace.memory_bytes = 100 * limits.MIB
    server.fill(50).clear()
    server.wait(1.0)
    server.wait(1.0)
    assert server.extents.warm_pages == 2 * MIB_PAGES
