"""Storage servers that are told to end, and what becomes of what they have."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocketkv.tiers.leaving import QUIET_S, QUIET_TIMEOUT_S
from tests.e2e.by_hand import Process, by_hand
from tests.e2e.local import eventually

BIG, SMALL = "a" * 40, "b" * 40
VALUES = {f"key-{number}": f"{number}:".ljust(20_000, "x") for number in range(1_500)}


@contextmanager
def two_servers(folder: Path, *options: str) -> Iterator[tuple[Any, Process, Process]]:
    """A server that holds everything, and a smaller one, which has `options`.

    Gives a client, the server that is full, and the controller.
    """
    with by_hand(folder) as cluster:
        controller = cluster.start("controller")
        address = ("--controller", f"127.0.0.1:{controller.port}")
        router = cluster.start("router", *address)
        big = cluster.start(
            *("storage", *address, "--memory", "96mb", "--server-id", BIG, "--drain-timeout", "3")
        )
        with redis.Redis(port=router.port, decode_responses=True, protocol=3) as control:
            eventually(lambda: control.set("key-0", ""))
            for key, value in VALUES.items():
                control.set(key, value)
            cluster.start("storage", *address, "--memory", "24mb", "--server-id", SMALL, *options)
            eventually(lambda: len(control.execute_command("SERVER.LIST")) == 2)
            yield control, big, controller


@pytest.mark.timeout(180)
def test_what_fits_nowhere_in_time_is_told_and_counted(tmp_path: Path) -> None:
    with two_servers(tmp_path) as (control, big, controller):
        big.send_signal(signal.SIGTERM)
        # Somebody else has its slots as soon as its time is over, and what had been moved.
        eventually(lambda: owners(control) == {SMALL}, 60)
        assert big.process.wait(60) == 0
        assert big.log_lines("not everything could be moved away", "jobs=1")
        (told,) = controller.log_lines("not everything was moved away in time", BIG)
        info = control.execute_command("JOB.INFO", "default")
        assert f"keys={info['lost_keys']} " in told
        left = {key: value for key in VALUES if (value := control.get(key)) is not None}
        assert left.items() <= VALUES.items()
        assert len(left) == control.dbsize() == len(VALUES) - info["lost_keys"]
        assert info["lost_keys"] > 100
        assert len(left) > 100
        kinds = [event["kind"] for event in events(control)]
        assert "not everything was moved away in time" in kinds
        assert control.set("key-0", "new")


@pytest.mark.timeout(180)
def test_what_does_not_fit_into_memory_goes_to_the_spill_medium(tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    with two_servers(tmp_path, "--spill", str(spill)) as (control, big, _):
        big.send_signal(signal.SIGTERM)
        assert big.process.wait(60) == 0
        assert owners(control) == {SMALL}
        assert not big.log_lines("not everything could be moved away")
        assert {key: control.get(key) for key in VALUES} == VALUES
        assert control.execute_command("JOB.INFO", "default")["lost_keys"] == 0


@pytest.mark.timeout(180)
def test_an_empty_server_does_not_end_while_clients_with_an_old_map_ask_it(tmp_path: Path) -> None:
    with by_hand(tmp_path) as cluster:
        controller = cluster.start("controller")
        address = ("--controller", f"127.0.0.1:{controller.port}")
        router = cluster.start("router", *address)
        first = cluster.start("storage", *address, "--memory", "32mb", "--server-id", BIG)
        with redis.Redis(port=router.port, decode_responses=True, protocol=3) as control:
            eventually(lambda: owners(control) == {BIG})
            cluster.start("storage", *address, "--memory", "32mb", "--server-id", SMALL)
            eventually(lambda: control.execute_command("SERVER.DRAIN", BIG))
            eventually(lambda: owners(control) == {SMALL})
            eventually(lambda: not control.execute_command("MOVE.LIST"))
        direct = redis.Redis(
            port=first.port, single_connection_client=True, retry=Retry(NoBackoff(), 0)
        )
        first.send_signal(signal.SIGTERM)
        told_s = time.monotonic()
        served_s = last_answered_s(direct)
        refused_s = time.monotonic()
        assert refused_s - served_s >= QUIET_S or refused_s - told_s >= QUIET_TIMEOUT_S
        direct.close()
        assert first.process.wait(60) == 0


def last_answered_s(direct: Any) -> float:
    """Ask a server that has nothing until it closes the connection.

    Returns when that was asked which it answered last.
    """
    served_s = time.monotonic()
    while True:
        asked_s = time.monotonic()
        try:
            direct.get("key")
        except redis.exceptions.MovedError:
            served_s = asked_s
        except redis.ConnectionError:
            return served_s


def owners(control: Any) -> set[str]:
    placement = control.execute_command("JOB.INFO", "default")["placement"]
    return {server for _, _, _, _, server in placement}


def events(control: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = control.execute_command("EVENTS.LIST")
    return found
