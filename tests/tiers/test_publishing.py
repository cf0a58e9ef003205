"""What is published on one storage server reaches the job's subscribers on the others."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.tiers.moves.scripted import IDS, LAST_SLOT, Cluster, cluster
from tests.tiers.storage_process import Client, eventually

MIDDLE = 8000


def spread(running: Cluster) -> None:
    """The job is on both servers."""
    running.controller.place_job([(0, MIDDLE, IDS[0]), (MIDDLE + 1, LAST_SLOT, IDS[1])])
    running.wait_known()


def test_every_subscriber_of_the_job_is_told_once_and_in_order(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        spread(running)
        here, there, publisher = running.client(0), running.client(1), running.client(0)
        assert here("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
        assert there("PSUBSCRIBE", "n*") == [b"psubscribe", b"n*", 1]
        for number in range(200):
            publisher.send(b"PUBLISH", b"news", b"%d" % number)
        assert [_integer(publisher) for _ in range(200)] == [2] * 200
        for number in range(200):
            assert _message(here) == [b"message", b"news", b"%d" % number]
            assert _message(there) == [b"pmessage", b"n*", b"news", b"%d" % number]
        assert publisher("PUBLISH", "news", "x" * 3_000_000) == 2
        assert len(_message(there)[3]) == 3_000_000


def _integer(client: Client) -> int:
    line = b""
    while not line.endswith(b"\r\n"):
        line += client.receive(1)
    assert line.startswith(b":"), line
    return int(line[1:])


def _message(client: Client) -> list[bytes]:
    """An array of bulks that comes unasked."""
    head = b""
    while not head.endswith(b"\r\n"):
        head += client.receive(1)
    assert head.startswith(b"*"), head
    return [client.bulk() for _ in range(int(head[1:]))]


def test_a_server_that_is_dead_or_stands_still_costs_only_its_subscribers(tmp_path: Path) -> None:
    with cluster(tmp_path, may_be_killed=True) as running:
        spread(running)
        here, there, publisher = running.client(0), running.client(1), running.client(0)
        here("SUBSCRIBE", "news")
        there("SUBSCRIBE", "news")
        assert publisher("PUBLISH", "news", "1") == 2
        os.kill(running.servers[1].pid, signal.SIGSTOP)
        try:
            assert publisher("PUBLISH", "news", "2") == 1
            assert running.client(0)("PING") == "PONG"
        finally:
            os.kill(running.servers[1].pid, signal.SIGCONT)
        # It was late, not lost.
        assert _message(there)[2] == b"1"
        assert _message(there)[2] == b"2"
        os.kill(running.servers[1].pid, signal.SIGKILL)
        eventually(lambda: publisher("PUBLISH", "news", "3") == 1)
        assert publisher("PUBLISH", "news", "4") == 1
        assert [_message(here)[2] for _ in range(2)] == [b"1", b"2"]


def test_a_server_that_loses_the_job_sends_its_subscribers_away(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        spread(running)
        there, sharded = running.client(1), running.client(1)
        there("SUBSCRIBE", "news")
        assert sharded("SSUBSCRIBE", "{foo}a") == [b"ssubscribe", b"{foo}a", 1]  # slot 12182
        (move_id,) = running.controller.place_job(
            [(0, MIDDLE, IDS[0]), (MIDDLE + 1, LAST_SLOT, IDS[1])],
            [(MIDDLE + 1, LAST_SLOT, IDS[1], IDS[0])],
        )
        running.wait_moved(move_id)
        assert sharded.receive(1) == b"*"
        assert sharded.receive(len(b"3\r\n$12\r\nsunsubscribe")).endswith(b"sunsubscribe")
        running.controller.place_job([(0, LAST_SLOT, IDS[0])])
        there.socket.settimeout(20)
        assert there.socket.recv(100) == b""
