"""What the supervisor and the local backend have to do with the machine: small parts, for real."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pocketkv.config import ServeConfig
from pocketkv.controller.backends.local import LocalBackend, LocalPlan
from pocketkv.controller.children import (
    LOCAL_VARIABLE,
    child_environment,
    descendants_of,
    how_it_ended,
    is_running,
    lifeline_fd,
    processes,
)
from pocketkv.controller.machine import primary_address, private_directory, reserved_port
from pocketkv.controller.messages import ProcessDied
from pocketkv.controller.overview import overview
from pocketkv.serving.shell import LIFELINE_VARIABLE, StartError, listen

PLAN = LocalPlan(
    run_id="r",
    servers={"dram": 1},
    routers=1,
    memory_bytes=1 << 20,
    host="127.0.0.1",
    directory="nowhere",
    capacity_bytes=1 << 33,
    log_level="error",
    log_format="text",
    require_auth=False,
)


# --- children ----------------------------------------------------------------------------------


def test_what_configures_a_parent_does_not_configure_its_children() -> None:
    environ = {"POCKETKV_PORT": "1", "POCKETKV_SECRET_FILE": "f", "PATH": "p"}
    child = child_environment(environ, POCKETKV_SECRET="s", POCKETKV_ADMIN_PASSWORD=None)
    assert child == {"PATH": "p", "POCKETKV_SECRET": "s"}


@pytest.mark.parametrize(("text", "fd"), [("7", 7), ("", None), ("x", None)])
def test_the_lifeline_is_named_by_the_environment(text: str, fd: int | None) -> None:
    assert lifeline_fd({LIFELINE_VARIABLE: text}) == fd


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (2, "exit status 2"), (-9, "killed by SIGKILL"), (-99, "signal 99")],
)
def test_how_a_process_ended_is_told(status: int, words: str) -> None:
    assert words in how_it_ended(status)


def test_processes_below_processes_are_found() -> None:
    sleeper = "import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}, 'me'])"
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        try:
            while len(descendants_of(process.pid)) < 1:
                assert process.poll() is None
            (below,) = descendants_of(process.pid)
            assert {process.pid, below} <= set(descendants_of(os.getpid()))
            while not is_running(below, "me"):
                assert process.poll() is None
            assert not is_running(below, "somebody else")
            os.kill(below, signal.SIGKILL)
        finally:
            process.kill()
    assert not is_running(process.pid, "-c")
    assert process.pid not in {pid for pid, _, has_ended in processes() if not has_ended}


# --- the local backend -------------------------------------------------------------------------


def test_a_plan_comes_through_the_environment() -> None:
    assert LocalPlan.from_environment({LOCAL_VARIABLE: PLAN.as_text()}) == PLAN
    assert LocalPlan.from_environment({}) is None
    for broken in ("{", "[]", "{}", '{"servers": 3}'):
        with pytest.raises(StartError, match="not a plan"):
            LocalPlan.from_environment({LOCAL_VARIABLE: broken})


def run_backend(plan: LocalPlan, *steps: str) -> list[ProcessDied]:
    """Start a server, do to it what `steps` say, and wait for its end."""
    died: list[ProcessDied] = []

    async def main() -> None:
        is_over = trio.Event()

        def tell(event: ProcessDied) -> None:
            died.append(event)
            is_over.set()

        backend = LocalBackend(plan, bytes(range(32)), logging.getLogger("t"), os.environ)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(backend.run, ("127.0.0.1", 1), tell)
                backend.start("a" * 40, "dram")
                # Asking twice is as asking once.
                backend.start("a" * 40, "dram")
                for step in steps:
                    backend.stop("a" * 40, force=step == "force")
                await is_over.wait()
                nursery.cancel_scope.cancel()

    trio.run(main)
    return died


def test_a_server_that_is_stopped_is_told_to_have_ended() -> None:
    (died,) = run_backend(PLAN, "stop")
    assert died.server_id == "a" * 40
    assert died.reason in {"exit status 0", "killed by SIGTERM"}
    (died,) = run_backend(PLAN, "force")
    assert died.reason == "killed by SIGKILL"


def test_a_server_that_cannot_run_is_told_to_have_ended() -> None:
    (died,) = run_backend(replace(PLAN, host="192.0.2.1"))
    assert died.reason == "exit status 2"


def test_servers_that_do_not_run_are_told_at_once() -> None:
    died: list[ProcessDied] = []

    async def main() -> None:
        backend = LocalBackend(PLAN, bytes(32), logging.getLogger("t"), os.environ)
        async with trio.open_nursery() as nursery:
            await nursery.start(backend.run, ("127.0.0.1", 1), died.append)
            backend.stop("nobody", force=False)
            # A stranger, and a number that no process has.
            backend.watch("stranger", os.getpid())
            backend.watch("gone", 2**22 + 1)
            with trio.fail_after(10):
                while len(died) < 3:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert {event.server_id for event in died} == {"nobody", "stranger", "gone"}


# --- the machine -------------------------------------------------------------------------------


def test_a_reserved_port_is_for_those_who_share_it() -> None:
    with reserved_port("127.0.0.1", 0) as port:
        with pytest.raises(StartError, match="Address already in use"):
            listen("127.0.0.1", port)
        with listen("127.0.0.1", port, reuse_port=True) as listener:
            with socket.create_connection(("127.0.0.1", port)):
                listener.accept()[0].close()
            # Somebody listens already, and would share the port with the next who asks.
            with (
                pytest.raises(StartError, match="Address already in use"),
                reserved_port("127.0.0.1", port),
            ):
                pass


def test_a_private_directory_is_gone_with_all_that_was_made_for_it(tmp_path: Path) -> None:
    with private_directory(tmp_path / "a" / "b") as directory:
        (directory / "file").touch()
        assert directory.parent == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    with private_directory(tmp_path / "a") as directory:
        (tmp_path / "a" / "other").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["other"]


def test_a_directory_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StartError, match=r"--dir .*: Not a directory"),
        private_directory(tmp_path / "file" / "x"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_machine_has_an_address() -> None:
    socket.inet_pton(socket.AF_INET, primary_address("0.0.0.0"))
    socket.inet_pton(socket.AF_INET6, primary_address("::"))


# --- what is said ------------------------------------------------------------------------------


def config(**fields: object) -> ServeConfig:
    defaults: dict[str, object] = {
        "host": "127.0.0.1",
        "port": 6379,
        "metrics_port": 0,
        "log_level": "info",
        "log_format": "text",
        "dram": 1,
        "nvme": 0,
        "ssd": 0,
        "hdd": 0,
        "routers": 1,
        "memory_bytes": 1 << 30,
        "dir": None,
        "capacity_bytes": None,
        "spill": None,
        "retain": None,
        "state": None,
        "catalog": None,
        "require_auth": False,
        "secret": None,
        "admin_password": None,
    }
    return ServeConfig(**{**defaults, **fields})  # type: ignore[arg-type]


CONTROLLER = {"id": "c" * 40, "host": "127.0.0.1", "port": 7379, "metrics_port": None, "pid": 5}


@pytest.mark.parametrize(
    ("host", "port", "fields", "first", "last"),
    [
        ("127.0.0.1", 6379, {}, "redis://127.0.0.1:6379", "  redis-cli SET hello world"),
        ("::1", 7000, {}, "redis://[::1]:7000", "  redis-cli -h ::1 -p 7000 SET hello world"),
        (
            "127.0.0.1",
            6379,
            {"require_auth": True, "admin_password": "x"},
            "redis://127.0.0.1:6379",
            "  redis-cli --user admin --askpass JOB.REGISTER my-job",
        ),
        (
            "127.0.0.1",
            6379,
            {"require_auth": True},
            "redis://127.0.0.1:6379",
            "  redis-cli JOB.REGISTER my-job",
        ),
    ],
)
def test_how_to_use_it_is_said(
    host: str, port: int, fields: dict[str, object], first: str, last: str
) -> None:
    lines = overview(config(**fields), host, port, {"controller": CONTROLLER}, [])
    assert lines[0] == f"PocketKV is ready: {first}"
    assert lines[-1] == last
    assert lines[3].split() == ["controller", "cccccccc", "127.0.0.1:7379", "-", "5"]
