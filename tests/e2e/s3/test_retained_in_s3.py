"""Keys that outlive their job in S3, with real processes and moto's S3: nothing loses them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pocketkv import client
from tests.e2e.local import Cluster, eventually, serving
from tests.tiers.s3.faulty import FaultyProxy

LARGE = os.urandom(20_000_001)
MEDIUM = os.urandom(100_000)

pytestmark = pytest.mark.timeout(240)

Names = Callable[[], list[str]]


@pytest.fixture
def cluster(
    tmp_path: Path,
    bucket: str,
    proxy: FaultyProxy,
) -> Iterator[Cluster]:
    """Two dram servers and nothing with files, and a store that can be made to fail."""
    options = ("--dram", "2", "--nvme", "0", "--retain", f"s3://{bucket}/kept")
    with serving(tmp_path, *options, environment={"AWS_ENDPOINT_URL": proxy.url}) as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> str:
    return f"redis://127.0.0.1:{cluster.port}"


def is_moved(job: client.Job) -> bool:
    retention = job.info()["retention"]
    return bool(retention["is_there"]) and not retention["moving_from"]


def is_there_again(job: client.Job) -> bool:
    """Whether keys are read, in a cluster whose controller may be away."""
    try:
        return is_moved(job)
    except client.ServerUnavailableError:
        return False


def retain_some(url: str) -> client.Job:
    job = client.register_job("keeps", url=url)
    with job.connect() as storage:
        storage.redis.mset({f"k{number}": str(number) for number in range(2000)})
        storage.put_buffer(LARGE, "large", persist_after_job=True)
        storage.put_buffer(MEDIUM, "medium", persist_after_job=True)
        storage.put_buffer(b"", "empty", persist_after_job=True)
        storage.put_buffer(b"gone", "b")
        storage.redis.sadd("set", *range(1000))
        storage.redis.set("expires", "later", ex=1000)
        marked = [*(f"k{number}" for number in range(1000)), "set", "expires"]
        assert storage.redis.execute_command("JOB.RETAIN", *marked) == 1002
    return job


def check_all_is_there(job: client.Job) -> None:
    for is_cluster in (False, True):
        with client.connect(job, cluster=is_cluster) as storage:
            assert storage.get_buffer("large") == LARGE
            assert storage.get_buffer("medium") == MEDIUM
            assert storage.get_buffer("empty") == b""
            assert storage.lookup("b") is None
            assert storage.lookup("k1000") is None
            numbers = range(1000)
            found = [storage.redis.get(f"k{number}") for number in numbers[::50]]
            assert [int(one) for one in found] == list(numbers[::50])
            assert storage.redis.scard("set") == 1000
            assert storage.redis.sismember("set", "999")
            assert storage.redis.type("set") == b"set"
            assert storage.redis.strlen("large") == len(LARGE)
            assert (
                storage.redis.getrange("large", 7_000_000, 7_000_099) == LARGE[7_000_000:7_000_100]
            )
            assert storage.redis.getrange("large", 100, 9_000_000) == LARGE[100:9_000_001]
            assert 0 < storage.redis.ttl("expires") <= 1000
            with pytest.raises(client.CommandRefusedError, match="this job has ended"):
                storage.put_buffer(b"x", "k1")
    with job.connect() as storage:
        assert storage.redis.dbsize() == 1005
        assert len(list(storage.redis.scan_iter(count=500))) == 1005
        assert storage.redis.mget("k1", "nosuch", "medium", "k2") == [b"1", None, MEDIUM, b"2"]


def test_they_are_read_from_s3_and_outlive_who_reads_them(
    cluster: Cluster,
    url: str,
    names: Names,
) -> None:
    job = retain_some(url)
    with job.connect() as storage:
        job.deregister()
        # Under the same URL, at once and ever after, also on connections that were there before.
        assert storage.redis.get("k7") == b"7"
        eventually(lambda: is_moved(job))
        assert storage.redis.get("k7") == b"7"
    info = job.info()
    assert (info["phase"], info["lost_keys"], info["retained_keys"]) == ("retained", 0, 1005)
    assert info["retention"]["keys"] == 1005
    assert info["retention"]["store"].endswith("/kept")
    check_all_is_there(job)
    # The servers have nothing but an index, and small values went many together.
    eventually(lambda: job.info()["used_bytes"] < 2_000_000)
    # What is in S3 is told, and paid for, all the same.
    eventually(lambda: job.info()["s3_bytes"] > len(LARGE) + len(MEDIUM))
    assert "s3" in [one["tier"] for one in job.info()["tier_costs"]]
    assert 2 <= len(names()) <= 8
    assert all(name.startswith(f"kept/retained/{job.id}/") for name in names())

    reader = info["retention"]["server"]
    (pid,) = [server["pid"] for server in cluster.servers() if server["id"] == reader]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: job.info()["retention"]["server"] not in {reader, None})
    check_all_is_there(job)
    assert job.info()["lost_keys"] == 0

    # And all servers at the same time, with the controller.
    for server in cluster.servers():
        os.kill(server["pid"], signal.SIGKILL)
    os.kill(cluster.pids_of("controller")[0], signal.SIGKILL)
    eventually(lambda: is_there_again(job), 60)
    check_all_is_there(job)

    client.purge_job(job)
    eventually(lambda: names() == [])
    with pytest.raises(client.AccessDeniedError), client.connect(job, retries=0) as storage:
        storage.get_buffer("k1")


def test_an_outage_loses_nothing(
    cluster: Cluster,
    url: str,
    proxy: FaultyProxy,
    names: Names,
) -> None:
    job = retain_some(url)
    proxy.fail("reset")
    job.deregister()
    eventually(lambda: cluster.log_lines("keys are not handed over yet"))
    # They are read where they were.
    with job.connect() as storage:
        assert storage.redis.get("k7") == b"7"
        assert storage.get_buffer("large") == LARGE
    assert not is_moved(job)
    proxy.heal()
    eventually(lambda: is_moved(job), 40)
    check_all_is_there(job)

    proxy.fail("reset")
    with job.connect(retries=0) as storage:
        with pytest.raises(redis.ResponseError, match=r"IOERR .*retained in S3 cannot be read"):
            storage.redis.get("k8")
        # What needs no value is known, and others are served.
        assert storage.redis.exists("k8") == 1
        assert cluster.client().set("other", "x")
    job.purge()
    eventually(lambda: cluster.log_lines("retained keys cannot be deleted"))
    assert names() != []
    # Whoever was to delete it dies; it is not forgotten.
    for server in cluster.servers():
        os.kill(server["pid"], signal.SIGKILL)
    os.kill(cluster.pids_of("controller")[0], signal.SIGKILL)
    proxy.heal()
    eventually(lambda: names() == [], 60)
