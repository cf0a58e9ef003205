"""RQ: its own workers, in processes of their own, on a storage server and on a job's URL."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job

from tests.clients import rq_jobs

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 40.0

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@contextmanager
def worker(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the queue `work`, which also moves what is due into it."""
    command = [sys.executable, "-m", "rq.cli", "worker", "work", "--with-scheduler", "--url", url]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(condition: Callable[[], Any], log: Path) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(log.read_text(encoding="utf-8"))


def is_done(job: Job) -> bool:
    return job.get_status(refresh=True) in ("finished", "failed")


@pytest.mark.timeout(180)
def test_a_worker_does_jobs_again_and_later_and_keeps_results(url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with redis.Redis.from_url(url) as connection, worker(url, log):
        queue = Queue("work", connection=connection)
        jobs = [queue.enqueue(rq_jobs.add, number, 1) for number in range(10)]
        dependent = queue.enqueue(rq_jobs.add, 1, 1, depends_on=jobs)
        retried = queue.enqueue(rq_jobs.fail_at_first, 2, retry=Retry(max=3))
        failing = queue.enqueue(rq_jobs.fail_at_first, 99)
        later = queue.enqueue_in(timedelta(seconds=1), rq_jobs.add, 20, 22)
        everything = [*jobs, dependent, retried, failing, later]
        wait_until(lambda: all(map(is_done, everything)), log)
        assert [job.return_value() for job in jobs] == list(range(1, 11))
        assert dependent.return_value() == 2
        assert retried.return_value() == "after 2 failures"
        assert later.return_value() == 42
        assert failing.get_status() == "failed"
        result = failing.latest_result()
        assert result is not None
        assert "failure 1" in (result.exc_string or "")
        assert failing.id in queue.failed_job_registry
        assert len(queue) == 0
        assert len(queue.finished_job_registry) == len(everything) - 1
