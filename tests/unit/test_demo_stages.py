"""The demo's stages with real worker processes, on a real Redis in cluster mode.

Redis's users stand for jobs, so that workers connect as they do to PocketKV. What is wrong is made
wrong through an ordinary Redis client, between the stages.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Self, cast

import pytest
import redis

from pocketkv import client
from pocketkv.demo import index, stages, worker
from pocketkv.demo.files import find_files
from pocketkv.demo.screen import Screen
from pocketkv.demo.stages import Driver, StageError, Workers
from pocketkv.demo.worker import Task
from tests.redis_server import free_port, redis_server

TIMEOUT_S = 10.0
JOB = "demo-0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    bus = ("--cluster-port", str(free_port()))
    with (
        redis_server("--cluster-enabled", "yes", *bus, tcp=True) as started,
        redis.Redis(port=started.port) as admin,
    ):
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        admin.acl_setuser(JOB, enabled=True, passwords="+token", keys="*", commands=["+@all"])
        deadline = monotonic() + TIMEOUT_S
        while b"state:ok" not in cast("bytes", admin.execute_command("CLUSTER", "INFO")):
            assert monotonic() < deadline
        yield admin


@pytest.fixture
def storage(server: redis.Redis) -> Iterator[Any]:
    yield server
    server.flushall()


@pytest.fixture
def job(server: redis.Redis) -> client.Job:
    port = server.connection_pool.connection_kwargs["port"]
    return client.Job(f"redis://{JOB}:token@127.0.0.1:{port}")


@pytest.fixture
def driver(job: client.Job, tmp_path: Path, storage: Any) -> Driver:
    folder = tmp_path / "input"
    folder.mkdir()
    for number in range(6):
        (folder / f"f{number}").write_text(f"alpha beta f{number} alpha\n" * (number + 1))
    return Driver(job, find_files(folder, 10_000), 3, 2, Screen())


class InThisProcess:
    """Does the tasks one after another, without the second that new processes take."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def poll(self) -> bool:
        for task in self._tasks:
            try:
                worker.run(task)
            except (worker.WorkerError, redis.RedisError) as error:
                raise StageError(f"worker {task.worker} failed: {error}") from error
        return False


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "Workers", InThisProcess)


def test_the_stages_give_the_right_index(driver: Driver, storage: Any) -> None:
    mapped = driver.map()
    assert (mapped.workers, mapped.read_bytes) == (3, 6 * 20 * 7 // 2)
    # A chunk for each reducer of each mapper, and the mappers' reports.
    assert mapped.written_keys == 6
    assert storage.dbsize() == 7
    reduced = driver.reduce()
    assert (reduced.workers, reduced.fetched_keys) == (2, 6)
    assert reduced.fetched_bytes == reduced.read_bytes == mapped.written_bytes
    assert list(storage.scan_iter("map/*")) == []
    checked, found = driver.check()
    assert found == []
    assert checked.fetched_bytes == reduced.written_bytes


@pytest.mark.usefixtures("quick")
def test_a_value_that_was_changed_between_the_stages_is_found(driver: Driver, storage: Any) -> None:
    """The changed chunk is a good one by itself: it only does not say the truth."""
    driver.map()
    key, chunk = next(
        (key, storage.get(key))
        for key in storage.scan_iter("map/*")
        if b"alpha" in storage.get(key)
    )
    postings = dict(index.decode(chunk))
    file, places = postings[b"alpha"][0]
    postings[b"alpha"][0] = (file, places[:-1] + bytes([places[-1] + 1]))
    storage.set(key, index.encode(postings))
    driver.reduce()
    _, found = driver.check()
    assert found == ["the word 'alpha' is wrong in 1 files"]


@pytest.mark.usefixtures("quick")
def test_a_result_that_was_lost_is_found(driver: Driver, storage: Any) -> None:
    driver.map()
    driver.reduce()
    for key in storage.scan_iter("result/*"):
        if b"alpha" in storage.get(key):
            storage.delete(key)
    _, found = driver.check()
    assert any("is missing" in difference for difference in found)
    assert any("words are missing, such as 'alpha'" in difference for difference in found)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("change", ["lost", "damaged", "set"])
def test_a_chunk_that_cannot_be_used_fails_its_reducer(
    driver: Driver, storage: Any, change: str
) -> None:
    driver.map()
    key = min(storage.scan_iter("map/*"))
    if change == "lost":
        storage.delete(key)
    elif change == "damaged":
        storage.setrange(key, 0, b"\xff")
    else:
        storage.delete(key)
        storage.sadd(key, "x")
    expected = {"lost": "is missing", "damaged": "is damaged", "set": "WRONGTYPE"}[change]
    with pytest.raises(StageError, match=expected) as caught:
        driver.reduce()
    assert str(caught.value).startswith("worker ")


@pytest.mark.usefixtures("quick")
def test_a_file_that_vanished_fails_its_mapper(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "input" / "f3").unlink()
    with pytest.raises(StageError, match=r"worker \d failed: .*f3: No such file"):
        driver.map()


@pytest.mark.usefixtures("quick")
def test_a_reducer_wants_every_mapper(driver: Driver, storage: Any) -> None:
    driver.map()
    storage.srem("done/map", min(storage.smembers("done/map")))
    with pytest.raises(StageError, match="2 of 3 mappers have reported"):
        driver.reduce()


def wait_for(workers: Workers) -> None:
    """Wait until all have ended, or one has failed."""
    deadline = monotonic() + TIMEOUT_S
    while workers.poll():
        assert monotonic() < deadline


def test_no_worker_outlives_its_stage(job: client.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is killed, the other waits for a server that does not answer."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://{JOB}:token@127.0.0.1:{silent.getsockname()[1]}"
        tasks = [Task("map", number, url, False, 2, 1) for number in range(2)]
        with Workers(tasks) as workers:
            os.kill(started[1].pid, signal.SIGKILL)
            with pytest.raises(StageError, match="worker 1 failed: exit status -9"):
                wait_for(workers)
    assert [process.poll() for process in started] == [-9, -9]


def test_a_worker_says_why_it_cannot_begin(job: client.Job) -> None:
    wrong = job.url.replace(":token@", ":wrong@")
    denied = pytest.raises(StageError, match=r"worker 0 failed: .*username-password")
    with Workers([Task("map", 0, wrong, True, 1, 1)]) as workers, denied:
        wait_for(workers)
