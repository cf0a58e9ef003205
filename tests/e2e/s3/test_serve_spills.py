"""`pocketkv serve --spill`: more than there is memory for, in a directory and in S3."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pocketkv import client
from tests.e2e.local import Cluster, eventually, run_serve, serving

MIB = 1024 * 1024
# For two servers.
MEMORY_BYTES = 32 * MIB
VALUE_BYTES = 40_000
# The store in this process takes some milliseconds of it for each request.
READ_MAX = 400

pytestmark = pytest.mark.timeout(240)

Names = Callable[[], list[str]]


def value_of(number: int) -> bytes:
    return (b"%08d" % number) * (VALUE_BYTES // 8)


@contextmanager
def spilling(folder: Path, where: str, endpoint: str = "") -> Iterator[Cluster]:
    options = ("--dram", "2", "--nvme", "0", "--spill", where)
    environment = {"AWS_ENDPOINT_URL": endpoint} if endpoint else None
    with serving(folder, *options, memory=str(MEMORY_BYTES), environment=environment) as cluster:
        yield cluster


def write_twice_the_memory(storage: client.PocketClient) -> int:
    """How many values there are."""
    count = 2 * MEMORY_BYTES // VALUE_BYTES
    for start in range(0, count, 50):
        with storage.redis.pipeline(transaction=False) as pipeline:
            for number in range(start, start + 50):
                pipeline.set(f"k{number}", value_of(number))
            pipeline.execute()
    return count


def check(storage: client.PocketClient, written: range) -> None:
    every = written[:: max(1, len(written) // READ_MAX)]
    for start in range(0, len(every), 50):
        numbers = every[start : start + 50]
        found = storage.redis.mget(*(f"k{number}" for number in numbers))
        assert found == [value_of(number) for number in numbers]


def spilled_keys(cluster: Cluster, job: client.Job) -> int:
    user, _, token = job.url.removeprefix("redis://").partition("@")[0].partition(":")
    found = 0
    for server in cluster.servers():
        direct = cluster.client(server["port"], username=user, password=token)
        found += int(direct.info("memory")["spilled_keys"])
    return found


def test_a_directory(tmp_path: Path) -> None:
    where = tmp_path / "spill" / "here"
    with spilling(tmp_path / "cluster", str(where)) as cluster:
        job = client.register_job("much", url=f"redis://127.0.0.1:{cluster.port}")
        with job.connect() as storage:
            count = write_twice_the_memory(storage)
            assert spilled_keys(cluster, job) > count / 3
            # A part for each server.
            (private,) = where.iterdir()
            assert len(list(private.glob("dram-*"))) == 2
            check(storage, range(count))
        job.deregister()
        eventually(lambda: not list(private.glob("dram-*/jobs/*")))
        # What a server leaves that dies goes with it.
        os.kill(cluster.servers()[0]["pid"], signal.SIGKILL)
        eventually(lambda: len(list(private.glob("dram-*"))) == 2)
    assert not (tmp_path / "spill").exists()


def test_s3(tmp_path: Path, bucket: str, endpoint: str, names: Names) -> None:
    with spilling(tmp_path, f"s3://{bucket}/cluster", endpoint) as cluster:
        url = f"redis://127.0.0.1:{cluster.port}"
        job = client.register_job("much", url=url)
        with job.connect() as storage:
            count = write_twice_the_memory(storage)
            assert spilled_keys(cluster, job) > count / 3
            # Packs, and all of them of the job.
            eventually(lambda: names() != [])
            assert all(name.startswith(f"cluster/jobs/{job.id}/") for name in names())
            assert len(names()) < count / 10
            check(storage, range(count))
            # What a server that dies has left of the job goes with the job, too.
            dead = cluster.servers()[0]
            os.kill(dead["pid"], signal.SIGKILL)
            eventually(lambda: dead["id"] not in cluster.owners(job.id))
        job.deregister()
        eventually(lambda: names() == [])
    assert names() == []


@pytest.mark.slow
def test_sparse_packs_are_written_anew(
    tmp_path: Path, bucket: str, endpoint: str, names: Names
) -> None:
    with spilling(tmp_path, f"s3://{bucket}/cluster", endpoint) as cluster:
        job = client.register_job("sparse", url=f"redis://127.0.0.1:{cluster.port}")
        with job.connect() as storage:
            count = write_twice_the_memory(storage)
            before = set(names())
            gone = [f"k{number}" for number in range(count) if number % 5]
            for start in range(0, len(gone), 500):
                storage.redis.unlink(*gone[start : start + 500])
            # A fifth is left, in packs of its own, and the old ones go.
            eventually(lambda: len(names()) <= len(before) / 2, 60)
            check(storage, range(0, count, 5))
        job.deregister()
        eventually(lambda: names() == [])


def test_where_nothing_can_be_spilled_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, lines = run_serve("--port", "0", "--spill", str(tmp_path / "file"))
    assert status != 0
    (line,) = lines
    assert line.startswith(f"pocketkv serve: --spill {tmp_path / 'file'}: ")
