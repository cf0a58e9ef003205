"""``pocketkv demo`` as a user runs it: right, wrong, interrupted, killed."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest
import redis

from pocketkv import cli
from pocketkv.demo import index
from pocketkv.demo.local import local_cluster
from pocketkv.tokens import SECRET_BYTES, job_token

TIMEOUT_S = 50.0
# Small enough for a few seconds, large enough for several batches of each mapper.
SMALL = ("--limit", "2mb", "--mappers", "2", "--reducers", "2")

Demo = subprocess.Popen[str]


@contextmanager
def started(*options: str) -> Iterator[Demo]:
    """A demo that runs; it does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketkv", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(*options: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a whole run."""
    with started(*options) as demo:
        output, errors = demo.communicate(timeout=TIMEOUT_S)
        return demo.returncode, output, errors


def read_until(demo: Demo, pattern: str) -> str:
    """Return what a demo shows up to the line that matches; pytest ends a test that waits long."""
    assert demo.stdout is not None
    shown = ""
    for line in demo.stdout:
        shown += line
        if re.search(pattern, line):
            return shown
    raise AssertionError(f"the demo ended: {shown}")


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, bytes]]:
    """A running cluster: its URL and its secret, with which the tests log in to the demo's job."""
    secret = secrets.token_bytes(SECRET_BYTES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETKV_SECRET", secret.hex())
        with local_cluster() as url:
            yield url, secret


@pytest.fixture
def jobs(cluster: tuple[str, bytes]) -> Iterator[redis.Redis]:
    """An administrator's connection; no job but `default` may be left when a test is over."""
    with redis.Redis.from_url(cluster[0], protocol=3, decode_responses=True) as admin:
        yield admin
        assert [job["id"] for job in list_jobs(admin)] == ["default"]


def list_jobs(admin: redis.Redis) -> list[dict[str, Any]]:
    command: Any = admin.execute_command
    listed: list[dict[str, Any]] = command("JOB.LIST")
    return listed


def wait_for_job(admin: redis.Redis) -> str:
    deadline = monotonic() + TIMEOUT_S
    while monotonic() < deadline:
        for job in list_jobs(admin):
            if job["name"] == "demo":
                return str(job["id"])
    raise AssertionError("the demo registers no job")


def test_it_brings_its_own_cluster() -> None:
    with started(*SMALL) as demo:
        shown = read_until(demo, r"^map:")
        children = psutil.Process(demo.pid).children(recursive=True)
        output, errors = demo.communicate(timeout=TIMEOUT_S)
    assert (demo.returncode, errors) == (0, "")
    shown += output
    assert re.search(r"^cluster: redis://127\.0\.0\.1:\d+, started in ", shown)
    assert re.search(r"job: +demo-[0-9a-f]{16} on dram \w+ 50 %, dram \w+ 50 %", shown)
    assert "Right: the index is" in shown
    assert "all 3 servers hold 0 bytes" in shown
    # Nothing is cut off where nobody has a terminal.
    assert "…" not in shown
    # serve, controller, router, three storage servers at least.
    assert len(children) >= 6
    wait_until_gone(children)


def test_a_wrong_result_is_a_failure(cluster: tuple[str, bytes], jobs: redis.Redis) -> None:
    """Somebody changes one place of one word, between map and reduce, through a Redis client."""
    url, secret = cluster
    with started("--url", url, *SMALL) as demo:
        job_id = wait_for_job(jobs)
        token = job_token(secret, job_id)
        with redis.Redis.from_url(url, username=job_id, password=token) as intruder:
            key = falsify(intruder)
        output, errors = demo.communicate(timeout=TIMEOUT_S)
    assert key.startswith("map/")
    assert demo.returncode == 1
    assert "WRONG: the word 'self' is wrong in 1 files" in output
    assert "Right" not in output
    assert re.fullmatch(r"pocketkv demo: FAILED: the result is not .*\n", errors)


def value_of(storage: redis.Redis, key: bytes) -> bytes:
    value = storage.get(key)
    assert isinstance(value, bytes)
    return value


def falsify(intruder: redis.Redis) -> str:
    """Change a chunk with the word `self`, as soon as there is one."""
    deadline = monotonic() + TIMEOUT_S
    while monotonic() < deadline:
        for key in intruder.scan_iter("map/*"):
            postings = dict(index.decode(value_of(intruder, key)))
            if b"self" in postings:
                file, places = postings[b"self"][0]
                postings[b"self"][0] = (file, places[:-1] + bytes([places[-1] ^ 1]))
                intruder.set(key, index.encode(postings))
                return str(key, "ascii")
    raise AssertionError("no mapper wrote anything")


def test_ctrl_c_ends_every_process_of_the_terminal() -> None:
    """A terminal sends it to the whole group, workers included."""
    with started(*SMALL) as demo:
        read_until(demo, r"^map:")
        children = psutil.Process(demo.pid).children(recursive=True)
        os.killpg(demo.pid, signal.SIGINT)
        _, errors = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130
    assert re.fullmatch(r"pocketkv demo: interrupted; .*\n", errors)
    wait_until_gone(children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("jobs")
@pytest.mark.slow
def test_an_interrupted_demo_leaves_no_job(
    cluster: tuple[str, bytes], number: signal.Signals
) -> None:
    with started("--url", cluster[0]) as demo:
        read_until(demo, r"^map:")
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130
    assert "Traceback" not in errors
    wait_until_gone(children)


@pytest.mark.slow
def test_a_killed_demo_takes_its_cluster_along() -> None:
    with started() as demo:
        read_until(demo, r"^map:")
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.kill()
        # The workers end when their servers do.
        wait_until_gone(children)


@pytest.mark.usefixtures("jobs")
def test_it_uses_a_cluster_that_runs_and_keeps_what_it_is_told_to(
    cluster: tuple[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be")
    port = cluster[0].rpartition(":")[2]
    options = ("--port", port, "--input", str(tmp_path), "--mappers", "2", "--reducers", "1")
    with started(*options, "--keep") as demo:
        shown = read_until(demo, r"^The job is kept until Ctrl-C")
        with redis.Redis.from_url(shown.split("redis-cli -u ")[1].strip()) as storage:
            words = dict(index.decode(value_of(storage, b"result/0/0")))
        demo.send_signal(signal.SIGINT)
        output, errors = demo.communicate(timeout=TIMEOUT_S)
    assert sorted(words) == [b"be", b"not", b"or", b"to"]
    assert (demo.returncode, errors) == (0, "")
    assert f"1 file in {tmp_path}, 18b" in shown
    assert "no server knows it any more" in output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--input", "/missing"], "/missing: No such file"),
        (["--url", "http://x"], "cannot register a job: not a URL"),
        (["--mappers", "0"], "'0' is not 1 to 256"),
        (["--port", "x"], "'x' is not a port"),
        (["--limit", "-1"], "negative"),
    ],
    ids=str,
)
def test_what_cannot_begin_is_one_line(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = cli.main(["demo", *options])
    except SystemExit as error:
        status = error.code
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "")
    assert reason in shown.err.splitlines()[-1]


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        status, output, errors = finished("--port", str(taken.getsockname()[1]))
    assert (status, output) == (2, "")
    assert re.fullmatch(r"pocketkv demo: cannot register a job: .*refused.*\n", errors)
