"""Source or target ends at any point of a move: there is one owner, and what lived on it stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.replies import Error
from tests.tiers.moves.scripted import IDS, LAST_SLOT, Cluster, cluster
from tests.tiers.moves.stalling import COPY, TAKE, Stalling
from tests.tiers.storage_process import Client, eventually

PHASES = {
    "copying": (COPY, False),
    "before it is taken": (TAKE, False),
    "taken, not answered": (TAKE, True),
}
KEYS = 500

# What is in doubt is asked for again after pauses, and each test starts servers of its own.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(params=PHASES)
def phase(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stalled:
    """A move that has come just so far."""

    def __init__(self, running: Cluster, phase: str) -> None:
        self.running = running
        self.phase = phase
        self.controller = running.controller
        word, passes = PHASES[phase]
        self.between = Stalling(running.servers[1].port, word, passes_word=passes)
        target = self.controller.servers[IDS[1]]
        self.controller.servers[IDS[1]] = replace(target, port=self.between.port)
        running.give_all()
        self.source = running.client(0)
        for n in range(KEYS):
            self.source("SET", f"key-{n}", n)
        self.source("SADD", "set", *range(3000))
        self.move_id = running.move()
        assert self.between.stalled.wait(20)
        if self.is_taken:
            # It is on its way to the target: not before that has it is anything to be cut off.
            eventually(lambda: bool(self.controller.messages("MEMBER.MOVED", self.move_id)))

    @property
    def is_taken(self) -> bool:
        return self.phase == "taken, not answered"

    def kill(self, number: int) -> None:
        os.kill(self.running.servers[number].pid, signal.SIGKILL)


@pytest.fixture
def stalled(tmp_path: Path, phase: str) -> Iterator[Stalled]:
    with cluster(tmp_path, may_be_killed=True) as running:
        found = Stalled(running, phase)
        yield found
        found.between.close()


def check_whole(client: Client) -> None:
    assert client("DBSIZE") == KEYS + 1
    assert all(client("GET", f"key-{n}") == b"%d" % n for n in range(KEYS))
    assert client("SCARD", "set") == 3000


def test_the_target_ends(stalled: Stalled) -> None:
    waiting = stalled.running.client(0)
    if stalled.phase != "copying":
        # Nobody knows yet whose the slots are: whoever asks waits.
        waiting.send(b"INCR", b"key-7")
    stalled.kill(1)
    stalled.between.close()
    stalled.controller.forget_server(IDS[1])
    eventually(lambda: bool(stalled.controller.messages("MEMBER.MOVE_FAILED", stalled.move_id)))
    if stalled.phase != "copying":
        assert waiting.receive(4) == b":8\r\n"
        stalled.source("SET", "key-7", 7)
    check_whole(stalled.source)
    # The controller may have it go elsewhere, or stay.
    stalled.controller.place_job([(0, LAST_SLOT, IDS[0])])
    check_whole(stalled.source)


def test_the_source_ends(stalled: Stalled) -> None:
    stalled.kill(0)
    stalled.controller.forget_server(IDS[0])
    stalled.controller.place_job([(0, LAST_SLOT, IDS[1])])
    target = stalled.running.client(1)
    eventually(lambda: target("SET", "new", 1) == "OK")
    if stalled.is_taken:
        target("DEL", "new")
        check_whole(target)
    else:
        eventually(lambda: target("DBSIZE") == 1)
        # What the source had sent comes too late.
        stalled.between.close()
        time.sleep(0.2)
        assert target("KEYS", "*") == [b"new"]
        assert target("GET", "key-1") is None


def test_nobody_ends_and_the_answer_comes_late(stalled: Stalled) -> None:
    waiting = stalled.running.client(0)
    waiting.send(b"GET", b"key-1")
    time.sleep(0.2)
    stalled.between.release()
    stalled.running.wait_moved(stalled.move_id)
    if stalled.phase != "copying":
        reply = waiting.receive(7)
        assert reply == b"-MOVED "
    check_whole(stalled.running.client(1))
    gone = stalled.source("GET", "key-1")
    assert isinstance(gone, Error)
    assert gone.text.startswith("MOVED ")


def test_the_connection_breaks(stalled: Stalled) -> None:
    """The source begins anew, or asks what became of the move; either way it is carried out."""
    stalled.between.close()
    target = stalled.controller.servers[IDS[1]]
    real = replace(target, port=stalled.running.servers[1].port)
    stalled.controller.servers[IDS[1]] = real
    stalled.controller.announce()
    if stalled.phase == "before it is taken":
        # The target says that it has not taken the slots, and never will by this move.
        eventually(lambda: bool(stalled.controller.messages("MEMBER.MOVE_FAILED", stalled.move_id)))
        check_whole(stalled.source)
        stalled.move_id = stalled.running.move()
    stalled.running.wait_moved(stalled.move_id)
    check_whole(stalled.running.client(1))


def test_the_job_ends(stalled: Stalled) -> None:
    stalled.controller.end_job()
    stalled.between.close()
    reports = stalled.controller.reports
    eventually(lambda: all(report["used_bytes"] == 0 for report in reports.values()))
