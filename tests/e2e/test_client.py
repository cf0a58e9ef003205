"""The users' client against a whole cluster of real processes, as its users run it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pytest

from pocketkv import client
from pocketkv.demo.local import local_cluster

TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with local_cluster() as url:
        yield url


@pytest.fixture
def job(url: str) -> Iterator[client.Job]:
    # More than one server can send, so that it is spread over both.
    with client.register_job("files", url=url, lambdas=8, latency="sensitive", lease=60) as job:
        yield job


@pytest.fixture(params=[False, True], ids=["plain", "cluster"])
def storage(job: client.Job, request: pytest.FixtureRequest) -> Iterator[client.PocketClient]:
    with job.connect(cluster=request.param) as storage:
        yield storage


def test_files_go_in_and_out(storage: client.PocketClient, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "in").write_bytes(data)
    assert storage.put(tmp_path / "in", "dir/a") == len(data)
    assert storage.put_buffer(b"", "dir/empty") == 0
    assert storage.lookup("dir/a") == client.FileInfo(b"dir/a", len(data))
    assert storage.lookup("missing") is None
    assert storage.get("dir/a", tmp_path / "out", delete_after_read=True) == len(data)
    assert (tmp_path / "out").read_bytes() == data
    assert storage.count_files() == 1
    assert storage.get_buffer("dir/empty", delete_after_read=True) == b""
    with pytest.raises(client.FileMissingError):
        storage.get_buffer("dir/empty")


def test_prefixes_span_all_servers(storage: client.PocketClient) -> None:
    pipeline = storage.redis.pipeline(transaction=False)
    for number in range(3000):
        pipeline.set(f"p*/{number}", b"x")
    pipeline.set("q", b"x")
    pipeline.execute()
    assert storage.count_files() == 3001
    assert storage.count_files("p*/") == 3000
    assert storage.count_files("p*/1") == 1111
    assert storage.delete_prefix("p*/") == 3000
    assert storage.count_files() == 1
    assert storage.delete("q")
    assert not storage.delete("q")


def test_both_ways_lead_to_the_same_files(job: client.Job) -> None:
    with job.connect() as plain, job.connect(cluster=True) as cluster:
        assert len(cluster.redis.get_primaries()) == 2
        for number in range(100):
            (plain if number % 2 else cluster).put_buffer(b"%d" % number, f"k{number}")
        for number in range(100):
            reader = cluster if number % 2 else plain
            assert reader.get_buffer(f"k{number}") == b"%d" % number
        assert plain.count_files() == cluster.count_files() == 100
        # The router splits what one server alone cannot answer.
        names = [f"k{number}" for number in range(100)]
        assert plain.redis.mget(names) == [b"%d" % number for number in range(100)]
        assert plain.redis.delete(*names) == 100
        assert cluster.count_files() == 0


def test_of_many_who_take_a_file_one_gets_it(job: client.Job) -> None:
    def take(number: int) -> bool:
        with job.connect(cluster=number % 2 == 1) as storage:
            try:
                return storage.get_buffer("one", delete_after_read=True) == b"x"
            except client.FileMissingError:
                return False

    with job.connect() as storage, ThreadPoolExecutor(8) as threads:
        storage.put_buffer(b"x", "one")
        assert sorted(threads.map(take, range(8))) == [False] * 7 + [True]


def test_a_job_sees_its_own_files_only(url: str, job: client.Job) -> None:
    with client.register_job("files", url=url) as other:
        assert other.id != job.id
        with job.connect() as ours, other.connect() as theirs:
            ours.put_buffer(b"ours", "a")
            assert theirs.lookup("a") is None
            theirs.put_buffer(b"theirs", "a")
            assert theirs.delete_prefix("a") == 1
            assert ours.get_buffer("a") == b"ours"
        forged = other.url.replace(other.id, job.id)
        with client.connect(forged) as storage, pytest.raises(client.AccessDeniedError):
            storage.get_buffer("a")
        with pytest.raises(client.AccessDeniedError):
            client.connect(forged, cluster=True)


def test_a_job_that_ended_is_gone(url: str) -> None:
    job = client.register_job("short", url=url)
    with job.connect() as storage:
        storage.put_buffer(b"x", "a")
    client.deregister_job(job)
    with job.connect(retries=0) as storage, pytest.raises(client.PocketError):
        storage.get_buffer("a")
    with pytest.raises(client.JobNotFoundError):
        job.deregister()
    with pytest.raises(client.PocketError):
        job.info()


def test_a_full_job_is_told_and_another_does_not_notice(url: str, job: client.Job) -> None:
    with (
        client.register_job("small", url=url, capacity="1mb") as small,
        small.connect() as storage,
        job.connect() as other,
    ):
        with pytest.raises(client.OutOfSpaceError):
            storage.put_buffer(bytes(2_000_000), "a")
        assert storage.lookup("a") is None
        other.put_buffer(bytes(2_000_000), "a")
        # Freed is freed: the same megabyte can be used over and over.
        for _ in range(10):
            storage.put_buffer(bytes(500_000), "b")
            storage.get_buffer("b", delete_after_read=True)


def test_what_must_outlive_the_job_is_there_until_it_is_purged(url: str) -> None:
    with client.register_job("result", url=url) as job, job.connect() as storage:
        storage.put_buffer(b"x", "a", persist_after_job=True)
        storage.put_buffer(b"y", "b")
    with client.connect(job) as storage:
        assert storage.get_buffer("a") == b"x"
    client.purge_job(job)


def test_a_lease_runs_out_unless_it_is_kept(url: str) -> None:
    lost = client.register_job("lost", url=url, lease=1)
    with client.register_job("kept", url=url, lease=1, keep_lease=True) as kept:
        deadline = monotonic() + TIMEOUT_S
        while True:
            assert monotonic() < deadline
            try:
                lost.info()
            except client.PocketError:
                break
        assert kept.lease_error is None
        assert kept.info()["id"] == kept.id


def test_hints_can_be_changed(job: client.Job) -> None:
    job.update(capacity="100mb")
    job.renew()
    with pytest.raises(client.InvalidArgumentError):
        job.update()
    assert job.info()["id"] == job.id


WORKER = """
import pickle, sys
with pickle.load(sys.stdin.buffer) as storage:
    storage.put_buffer(storage.get_buffer("in") * 2, "out")
"""


def test_workers_get_a_pickled_client(storage: client.PocketClient) -> None:
    storage.put_buffer(b"ab", "in")
    subprocess.run(
        [sys.executable, "-c", WORKER], input=pickle.dumps(storage), timeout=TIMEOUT_S, check=True
    )
    assert storage.get_buffer("out") == b"abab"


@pytest.fixture(scope="module")
def closed_url() -> Iterator[str]:
    """A cluster that demands authentication, and a password for administration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETKV_ADMIN_PASSWORD", "s3cret")
        with local_cluster(["--require-auth", "--dram", "1", "--nvme", "0"]) as url:
            yield url


def test_a_closed_cluster_is_the_administrators(closed_url: str) -> None:
    for password in (None, "wrong"):
        with pytest.raises(client.AccessDeniedError):
            client.register_job("a", url=closed_url, admin_password=password)
    with client.connect(closed_url) as storage, pytest.raises(client.AccessDeniedError):
        storage.get_buffer("a")
    job = client.register_job("a", url=closed_url, admin_password="s3cret")
    with job.connect() as storage:
        storage.put_buffer(b"x", "a")
        assert storage.get_buffer("a") == b"x"
    with pytest.raises(client.AccessDeniedError):
        client.deregister_job(job.id, url=closed_url)
    client.deregister_job(job.id, url=closed_url, admin_password="s3cret")
    with pytest.raises(client.JobNotFoundError):
        client.deregister_job(job.id, url=closed_url, admin_password="s3cret")
