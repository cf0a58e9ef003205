"""What clients notice when a process hangs, dies or comes back: of other processes, nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocketkv.slots import SLOT_COUNT, key_slot
from tests.e2e.by_hand import by_hand
from tests.e2e.local import eventually, serving

NO_RETRY = Retry(NoBackoff(), 0)
KEYS = [f"key-{number}" for number in range(40)]


def client(port: int, **options: Any) -> Any:
    return redis.Redis(
        port=port, decode_responses=True, retry=NO_RETRY, socket_timeout=20, **options
    )


@contextmanager
def busy(*clients: Any) -> Iterator[Callable[[], int]]:
    """Have clients write and read all the time: each error, and each wrong value, fails the test.

    Gives how many commands they have had answered.
    """
    stop, done = threading.Event(), [0] * len(clients)

    def use(number: int) -> None:
        mine = [f"{key}-of-{number}" for key in KEYS]
        while not stop.is_set():
            for key in mine:
                assert clients[number].set(key, done[number])
                assert clients[number].get(key) == str(done[number])
                done[number] += 1

    with ThreadPoolExecutor(len(clients)) as pool:
        tasks = [pool.submit(use, number) for number in range(len(clients))]
        try:
            yield lambda: min(done)
        finally:
            stop.set()
    for task in tasks:
        task.result()


def go_on(done: Callable[[], int], commands: int = 50) -> None:
    """Wait until each of the busy clients has had so many more answers."""
    enough = done() + commands
    eventually(lambda: done() >= enough)


def owners(control: Any) -> dict[int, str]:
    """Who has each slot of the job `default`."""
    return {
        slot: server
        for first, last, _, _, server in control.execute_command("JOB.INFO", "default")["placement"]
        for slot in range(first, last + 1)
    }


# --- a server that hangs -----------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_server_that_stood_still_does_not_come_back_with_old_data(tmp_path: Path) -> None:
    with by_hand(tmp_path) as cluster:
        controller = cluster.start("controller", "--unhinted-servers", "2")
        address = ("--controller", f"127.0.0.1:{controller.port}")
        servers = {
            name: cluster.start("storage", *address, "--memory", "64mb", "--server-id", name)
            for name in ("a" * 40, "b" * 40)
        }
        router = cluster.start("router", *address)
        control = client(router.port, protocol=3)
        eventually(lambda: len(set(owners(control).values())) == 2)
        for key in KEYS:
            control.set(key, "old")
        where = owners(control)
        victim = servers["a" * 40]
        keys = [key for key in KEYS if where[key_slot(key.encode())] == "a" * 40]
        assert keys

        # Clients that talk to it straight, and do not know yet that it is out.
        stale = [client(victim.port, single_connection_client=True) for _ in keys]
        for one, key in zip(stale, keys, strict=True):
            assert one.get(key) == "old"
        victim.send_signal(signal.SIGSTOP)
        eventually(lambda: set(owners(control).values()) == {"b" * 40})
        eventually(lambda: controller.log_lines("server is silent", "a" * 40))
        for key in keys:
            eventually(lambda key=key: control.set(key, "new"))  # type: ignore[misc]
        for one, key in zip(stale, keys, strict=True):
            one.connection.send_command("GET", key)
        victim.send_signal(signal.SIGCONT)
        for one in stale:
            # The slots are somebody else's, who has all that was written since.
            with pytest.raises(redis.exceptions.MovedError):
                one.connection.read_response()
            one.close()
        assert victim.log_lines("the server stood still", "confirmed=true")
        assert [control.get(key) for key in keys] == ["new"] * len(keys)

        # It joins again, with nothing.
        eventually(lambda: len(control.execute_command("SERVER.LIST")) == 2)
        with redis.RedisCluster(
            "127.0.0.1", router.port, decode_responses=True, retry=NO_RETRY
        ) as direct:
            assert [direct.get(key) for key in keys] == ["new"] * len(keys)
        assert control.dbsize() <= len(KEYS)


@pytest.mark.timeout(120)
def test_clients_are_answered_again_soon_after_a_server_has_hung(tmp_path: Path) -> None:
    with serving(tmp_path, "--nvme", "0", "--dram", "2") as cluster:
        control = cluster.client()
        victim = cluster.servers()[0]
        where = owners(control)
        key = next(key for key in KEYS if where[key_slot(key.encode())] == victim["id"])
        with redis.RedisCluster("127.0.0.1", cluster.port, decode_responses=True) as direct:
            assert direct.set(key, "old")
            started_s = time.monotonic()
            os.kill(victim["pid"], signal.SIGSTOP)
            assert eventually(lambda: control.set(key, "new"))
            # It is out after 3 s; the rest is for a busy machine.
            assert time.monotonic() - started_s < 15
            assert direct.get(key) == "new"
        assert sum(cluster.owners().values()) == SLOT_COUNT
        assert cluster.stop() == 0


# --- controllers -------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_controller_that_is_killed_or_hangs_disturbs_no_client(tmp_path: Path) -> None:
    with serving(tmp_path, "--nvme", "0", "--dram", "2") as cluster:
        plain = [client(cluster.port) for _ in range(2)]
        direct = redis.RedisCluster(
            "127.0.0.1", cluster.port, decode_responses=True, retry=NO_RETRY
        )
        before = {server["pid"] for server in cluster.servers()}
        with busy(*plain, direct) as done:
            for _ in range(2):
                (controller,) = cluster.pids_of("controller")
                os.kill(controller, signal.SIGKILL)
                go_on(done)
                eventually(cluster.servers)
                go_on(done)
            (controller,) = cluster.pids_of("controller")
            os.kill(controller, signal.SIGSTOP)
            # Longer than a server may be silent, for the controller and for its servers.
            threading.Event().wait(4)
            go_on(done)
            os.kill(controller, signal.SIGCONT)
            go_on(done)
            eventually(lambda: {server["pid"] for server in cluster.servers()} == before)
        assert {server["pid"] for server in cluster.servers()} == before
        assert cluster.client().execute_command("JOB.INFO", "default")["lost_keys"] == 0
        direct.close()
        for one in plain:
            one.close()
        assert cluster.stop() == 0


@pytest.mark.timeout(120)
def test_two_controllers_never_both_write_maps(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state.db"))
    with by_hand(tmp_path) as cluster:
        first = cluster.start("controller", *state)
        # Not even if the first one hangs, since it may go on at any time.
        for number in (0, signal.SIGSTOP, signal.SIGCONT):
            first.send_signal(number)
            second = cluster.start("controller", *state)
            assert not second.is_ready
            assert second.process.wait(20) == 2
            (line,) = second.log_lines()
            assert "--state" in line
            assert "another controller" in line or "locked" in line
        assert client(first.port).ping()
        # When it dies, its lock goes with it, and the next one knows what it knew.
        job = client(first.port, protocol=3).execute_command("JOB.REGISTER", "sort")["id"]
        first.kill()
        third = cluster.start("controller", *state)
        assert third.is_ready
        listed = client(third.port, protocol=3).execute_command("JOB.LIST")
        assert job in {one["id"] for one in listed}


# --- routers -----------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_router_that_dies_is_noticed_by_its_own_clients_only(tmp_path: Path) -> None:
    with serving(tmp_path, "--nvme", "0", "--dram", "2", "--routers", "2") as cluster:
        routers = cluster.pids_of("router")
        by_router: dict[int, list[Any]] = {pid: [] for pid in routers}
        while not all(len(clients) >= 2 for clients in by_router.values()):
            one = client(cluster.port, single_connection_client=True)
            by_router[router_of(one)].append(one)
        victim, other = routers
        for one in by_router[victim]:
            assert one.set("a", 1)
        with busy(*by_router[other]) as done:
            go_on(done)
            os.kill(victim, signal.SIGKILL)
            go_on(done)
            # Those of the dead one are taken by any router when they try again, and it is replaced.
            assert eventually(lambda: by_router[victim][0].get("a")) == "1"
            eventually(lambda: len(cluster.pids_of("router")) == 2)
            eventually(lambda: is_served_by_both(cluster.port, cluster.pids_of("router")))
            go_on(done)
        for clients in by_router.values():
            for one in clients:
                one.close()
        assert cluster.stop() == 0


def router_of(one: Any) -> int:
    """The process that a client is connected to."""
    return int(one.info("server")["process_id"])


def is_served_by_both(port: int, pids: list[int]) -> bool:
    met = set()
    for _ in range(10):
        with client(port) as one:
            met.add(router_of(one))
    return met == set(pids)
