"""`pocketkv serve` as a test sees it: a process, what it says, and the processes below it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocketkv.client import PocketError
from pocketkv.controller.children import descendants_of, processes

T = TypeVar("T")

START_TIMEOUT_S = 40.0
WAIT_TIMEOUT_S = 20.0
# It takes 5 s at most by its own clocks; on a busy machine it waits for its turn in between, and
# the system for its turn to free what a process that was killed had.
STOP_TIMEOUT_S = 20.0
GONE_TIMEOUT_S = 20.0


def eventually(condition: Callable[[], T], timeout_s: float = WAIT_TIMEOUT_S) -> T:
    """The first true value of a condition, which is looked at until then; errors count as false."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        error: Exception | None = None
        try:
            value = condition()
            if value:
                return value
        except (redis.RedisError, PocketError, OSError, AssertionError) as met:
            error = met
        if time.monotonic() > deadline_s:
            raise AssertionError(f"it is not so after {timeout_s} s") from error
        select.select([], [], [], 0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    return any(number == pid and not has_ended for number, _, has_ended in processes())


class Cluster:
    """A running `pocketkv serve`.

    Attributes:
        ready: What it announced.
        said: What it has written to its standard output.
    """

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any], log: Path) -> None:
        self.process = process
        self.ready = ready
        self.log = log
        self.port = int(ready["port"])
        self._clients: list[redis.Redis] = []

    def client(self, port: int | None = None, **options: Any) -> Any:
        """A client of a router, or of whatever has this port; redis-py has no types for some."""
        client = redis.Redis(
            host="127.0.0.1",
            port=self.port if port is None else port,
            decode_responses=True,
            protocol=3,
            socket_timeout=WAIT_TIMEOUT_S,
            # Tests see each error, which retries would hide.
            retry=Retry(NoBackoff(), 0),
            **options,
        )
        self._clients.append(client)
        return client

    @cached_property
    def admin(self) -> Any:
        """One client for what is asked again and again: each has a connection of its own."""
        return self.client()

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin.execute_command("SERVER.LIST")
        return found

    def pids(self) -> list[int]:
        return descendants_of(self.process.pid)

    def pids_of(self, command: str) -> list[int]:
        """The processes of one subcommand."""
        found = []
        for pid in self.pids():
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command.encode() in arguments[:6]:
                found.append(pid)
        return found

    def owners(self, job: str = "default") -> dict[str, int]:
        """How many slots of a job each server has."""
        counts: dict[str, int] = {}
        placement = self.admin.execute_command("JOB.INFO", job)["placement"]
        for first, last, _, _, server in placement:
            counts[server] = counts.get(server, 0) + last - first + 1
        return counts

    def log_lines(self, *words: str) -> list[str]:
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if all(word in line for word in words)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it, and see to it that nothing is left."""
        pids = self.pids()
        for client in self._clients:
            client.close()
        self.process.send_signal(number)
        status = self.process.wait(STOP_TIMEOUT_S)
        # The system may take a moment to be done with a process that was killed.
        eventually(lambda: not [pid for pid in pids if is_alive(pid)], GONE_TIMEOUT_S)
        return status


@contextmanager
def serving(
    folder: Path, *options: str, environment: dict[str, str] | None = None, memory: str = "192mb"
) -> Iterator[Cluster]:
    """Run `pocketkv serve` on free ports, with `folder` for its log and temporary files."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "pocketkv", "serve", "--port", "0", "--memory", memory]
    # Most tests are about a job on several servers, and use the job `default` for it.
    command += ["--unhinted-servers", "16"]
    log, said = folder / "log", folder / "said"
    with log.open("ab") as errors, said.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--announce-fd", str(writing), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            pass_fds=(writing,),
            env={**os.environ, "TMPDIR": str(temporary), **(environment or {})},
        )
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as announced:
            assert select.select([announced], [], [], START_TIMEOUT_S)[0], "it is not ready"
            line = announced.readline()
        assert line, log.read_text(encoding="utf-8")
        yield Cluster(process, json.loads(line), log)
    finally:
        pids = [process.pid, *descendants_of(process.pid)]
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2 * STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                process.wait()


def run_serve(*options: str, timeout_s: float = START_TIMEOUT_S) -> tuple[int, list[str]]:
    """Run a `pocketkv serve` that does not start; its exit status and what it says."""
    run = subprocess.run(
        [sys.executable, "-m", "pocketkv", "serve", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert run.stdout == ""
    return run.returncode, run.stderr.splitlines()
