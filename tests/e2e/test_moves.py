"""Whoever has to do with a move is killed at any point of it: one owner, and nothing else is lost.

Which point that is, is up to the machine; `tests.tiers.moves.test_crashes` has each of them, with a
controller that is played. Here it is the real one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocketkv.slots import SLOT_COUNT
from tests.e2e.by_hand import ByHand, Process, by_hand
from tests.e2e.local import eventually

SOURCE, TARGET = "a" * 40, "b" * 40
# Large ones go by `sendfile`, the many small ones together.
VALUES = {f"large-{n}": f"{n}:".ljust(1_000_000, "x") for n in range(30)}
VALUES |= {f"small-{n}": f"{n}" for n in range(2_000)}
SET = "set-1"
MEMBERS = {str(n) for n in range(3_000)}
# From the order of a move on; a move of all this takes some tenths of a second on a machine that
# has nothing else to do.
DELAYS_S = (0.0, 0.2)
TIMEOUT_S = 60.0

pytestmark = pytest.mark.timeout(300)


class Cluster:
    """A controller, a router and a server that has everything; another one may join."""

    def __init__(self, processes: ByHand, folder: Path) -> None:
        self._processes = processes
        self._state = ("--unhinted-servers", "2", "--state", str(folder / "state.db"))
        self.controller = processes.start("controller", *self._state)
        address = ("--controller", f"127.0.0.1:{self.controller.port}", "--memory", "256mb")
        self._storage = ("storage", *address, "--server-id")
        self.router = processes.start("router", *address[:2])
        self.servers = {SOURCE: processes.start(*self._storage, SOURCE)}
        self.control = client(self.router.port)

    def fill(self) -> None:
        eventually(self.control.flushall, TIMEOUT_S)
        self.control.mset(VALUES)
        self.control.sadd(SET, *MEMBERS)
        # What the controller counts is what servers have reported.
        eventually(lambda: self._reported() == len(VALUES) + 1, TIMEOUT_S)

    def _reported(self) -> int:
        return sum(server["keys"] for server in self.control.execute_command("SERVER.LIST"))

    def start_move(self) -> None:
        """Have half of all slots begin to move to the other server."""
        self.servers[TARGET] = self._processes.start(*self._storage, TARGET)
        eventually(self._is_moving, TIMEOUT_S)

    def _is_moving(self) -> bool:
        return bool(self.control.execute_command("MOVE.LIST") or len(self.owners()) == 2)

    def restart_controller(self) -> None:
        self.controller.kill()
        port = self.controller.port
        self.controller = self._processes.start("controller", *self._state, port=port)

    def owners(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for first, last, _, _, server in self.info()["placement"]:
            counts[server] = counts.get(server, 0) + last - first + 1
        return counts

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = self.control.execute_command("JOB.INFO", "default")
        return found

    def settle(self, *alive: str) -> None:
        """Wait until these servers have all slots, and nothing moves."""

        def is_settled() -> bool:
            owners = self.owners()
            is_over = not self.control.execute_command("MOVE.LIST")
            return is_over and set(owners) == set(alive) and sum(owners.values()) == SLOT_COUNT

        eventually(is_settled, TIMEOUT_S)

    def check_values(self) -> int:
        """Look at every key, from both sides: it is whole or gone; how many there are."""
        values = dict(zip(VALUES, self.control.mget(list(VALUES)), strict=True))
        found = {key: value for key, value in values.items() if value is not None}
        assert found.items() <= VALUES.items()
        members = self.control.smembers(SET)
        assert members in (set(), MEMBERS)
        count = len(found) + bool(members)
        assert self.control.dbsize() == count
        for key in [*VALUES][::97]:
            assert self.answering(key) == [key in found]
        return count

    def answering(self, key: str) -> list[bool]:
        """Whether the key is there, by each server that does not send its client elsewhere."""
        found = []
        for server in self.control.execute_command("SERVER.LIST"):
            with suppress(redis.exceptions.MovedError), client(server["port"]) as direct:
                found.append(bool(direct.exists(key)))
        return found


def client(port: int) -> Any:
    return redis.Redis(
        port=port,
        decode_responses=True,
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=TIMEOUT_S,
    )


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    with by_hand(folder) as processes:
        running = Cluster(processes, folder)
        try:
            yield running
        finally:
            running.control.close()


def out(running: Cluster, server_id: str) -> Process:
    """Kill a server, and wait until the controller has it no more."""
    process = running.servers.pop(server_id)
    process.kill()
    eventually(lambda: server_id not in {s["id"] for s in listed(running)}, TIMEOUT_S)
    return process


def listed(running: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.control.execute_command("SERVER.LIST")
    return found


def test_the_target_is_killed(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        for delay_s in DELAYS_S:
            running.fill()
            lost_before = running.info()["lost_keys"]
            running.start_move()
            time.sleep(delay_s)
            out(running, TARGET)
            running.settle(SOURCE)
            lost = running.info()["lost_keys"] - lost_before
            assert running.check_values() == len(VALUES) + 1 - lost
            target_took = any(s.log_lines("slots moved away") for s in running.servers.values())
            assert target_took or not lost


@pytest.mark.parametrize("delay_s", DELAYS_S)
def test_the_source_is_killed(tmp_path: Path, delay_s: float) -> None:
    with cluster(tmp_path) as running:
        running.fill()
        running.start_move()
        time.sleep(delay_s)
        out(running, SOURCE)
        running.settle(TARGET)
        # What the target had taken lives, if it had taken anything.
        eventually(lambda: running.check_values() + running.info()["lost_keys"] == len(VALUES) + 1)
        took = sum(
            int(line.partition("keys=")[2].split()[0])
            for line in running.servers[TARGET].log_lines("slots taken over")
        )
        assert running.control.dbsize() == took


def test_the_controller_is_killed(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        running.fill()
        running.start_move()
        for delay_s in DELAYS_S:
            time.sleep(delay_s)
            running.restart_controller()
            eventually(running.owners, TIMEOUT_S)
        running.settle(SOURCE, TARGET)
        assert running.check_values() == len(VALUES) + 1
        assert running.info()["lost_keys"] == 0


def test_the_target_dies_with_what_it_took_before_the_controller_heard_of_it(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path) as running:
        running.fill()
        running.start_move()
        # It stands still, so it is not told what happens, and hears of the death first.
        running.controller.send_signal(signal.SIGSTOP)
        source, target = running.servers[SOURCE], running.servers[TARGET]
        eventually(lambda: source.log_lines("slots moved away"), TIMEOUT_S)
        target.kill()
        running.controller.send_signal(signal.SIGCONT)
        del running.servers[TARGET]
        running.settle(SOURCE)
        eventually(lambda: running.check_values() + running.info()["lost_keys"] == len(VALUES) + 1)
        assert running.info()["lost_keys"] > 0
