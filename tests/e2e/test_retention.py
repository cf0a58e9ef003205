"""Keys that outlive their job, with real processes: where they go, and that nothing loses them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pocketkv import client
from tests.e2e.local import Cluster, eventually, serving

LARGE = os.urandom(5_000_001)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with one server that keeps files; tests purge what they leave behind."""
    with serving(tmp_path_factory.mktemp("retention"), "--dram", "1", "--nvme", "1") as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> str:
    return f"redis://127.0.0.1:{cluster.port}"


def is_moved(job: client.Job) -> bool:
    retention = job.info()["retention"]
    return bool(retention["is_there"]) and not retention["moving_from"]


def job_ids(cluster: Cluster) -> list[str]:
    return [one["id"] for one in cluster.client().execute_command("JOB.LIST")]


def test_marked_keys_stay_readable_and_everything_else_goes(cluster: Cluster, url: str) -> None:
    job = client.register_job("keeps", url=url, tiers=["dram"])
    with job.connect() as storage:
        storage.put_buffer(b"small", "a", persist_after_job=True)
        storage.put_buffer(LARGE, "large", persist_after_job=True)
        storage.put_buffer(b"gone", "b")
        storage.redis.sadd("set", *range(1000))
        storage.redis.set("expires", "later", ex=1000)
        assert storage.redis.execute_command("JOB.RETAIN", "set", "expires", "nosuch") == 2
        storage.put_buffer(b"read once", "once", persist_after_job=True)
        assert storage.get_buffer("once", delete_after_read=True) == b"read once"
        job.deregister()

        # Under the same URL, at once and ever after, also on connections that were there before.
        assert storage.get_buffer("a") == b"small"
        eventually(lambda: is_moved(job))
        assert storage.get_buffer("a") == b"small"
    (nvme,) = [s["id"] for s in cluster.servers() if s["tier"] == "nvme"]
    info = job.info()
    assert (info["phase"], info["lost_keys"]) == ("retained", 0)
    assert info["retention"] == {
        "server": nvme,
        "store": None,
        "is_there": True,
        "keys": 4,
        "moving_from": [],
    }
    assert set(cluster.owners(job.id)) == {nvme}
    eventually(lambda: job.info()["used_bytes"] > len(LARGE))

    def is_listed() -> bool:
        (listed,) = [
            one for one in cluster.admin.execute_command("JOB.LIST") if one["id"] == job.id
        ]
        return (listed["phase"], listed["keys"]) == ("retained", 4)

    # A report may have been made while they came.
    eventually(is_listed)
    for is_cluster in (False, True):
        with client.connect(job, cluster=is_cluster) as storage:
            assert storage.get_buffer("large") == LARGE
            assert storage.lookup("b") is None
            assert storage.lookup("once") is None
            assert storage.redis.scard("set") == 1000
            assert 900 < storage.redis.ttl("expires") <= 1000
            with pytest.raises(client.CommandRefusedError, match="this job has ended"):
                storage.put_buffer(b"x", "a")
            with pytest.raises(client.CommandRefusedError, match="this job has ended"):
                storage.delete("a")
    # The dram server has nothing of it any more.
    eventually(lambda: sum(s["keys"] for s in cluster.servers() if s["tier"] == "dram") == 0)
    with pytest.raises(client.JobNotFoundError):
        job.deregister()

    client.purge_job(job)
    with pytest.raises(client.AccessDeniedError):
        job.info()
    with pytest.raises(client.AccessDeniedError), client.connect(job, retries=0) as storage:
        storage.get_buffer("a")
    eventually(lambda: sum(s["keys"] for s in cluster.servers()) == 0)


def test_a_lease_that_runs_out_retains_as_well(cluster: Cluster, url: str) -> None:
    job = client.register_job("leased", url=url, lease=1)
    with job.connect() as storage:
        storage.put_buffer(b"result", "a", persist_after_job=True)
        eventually(lambda: job.info()["phase"] == "retained")
        assert storage.get_buffer("a") == b"result"
    job.purge()


def test_a_job_that_marked_nothing_ends_at_once(cluster: Cluster, url: str) -> None:
    job = client.register_job("plain", url=url)
    with job.connect() as storage:
        storage.put_buffer(b"x", "a")
    job.deregister()
    with pytest.raises(client.JobNotFoundError):
        client.purge_job(job.id, url=url)


def test_a_job_that_deleted_what_it_marked_ends_entirely(cluster: Cluster, url: str) -> None:
    job = client.register_job("changed", url=url)
    with job.connect() as storage:
        storage.put_buffer(b"x", "a", persist_after_job=True)
        assert storage.delete("a")
        storage.put_buffer(b"y", "a")
    job.deregister()
    eventually(lambda: job.id not in job_ids(cluster))


def test_only_a_job_that_has_ended_is_purged(cluster: Cluster, url: str) -> None:
    with (
        client.register_job("lives", url=url) as job,
        pytest.raises(client.CommandRefusedError, match="has not ended"),
    ):
        job.purge()


def test_a_job_on_the_server_that_keeps_its_keys(cluster: Cluster, url: str) -> None:
    job = client.register_job("files", url=url, tiers=["nvme"])
    with job.connect() as storage:
        for number in range(2000):
            storage.redis.set(f"k{number}", number)
        marked = [f"k{number}" for number in range(0, 2000, 100)]
        assert storage.redis.execute_command("JOB.RETAIN", *marked) == 20
        job.deregister()
        eventually(lambda: is_moved(job))
        assert storage.redis.dbsize() == 20
        assert storage.redis.get("k100") == b"100"
    job.purge()


def test_what_is_retained_survives_the_controller_and_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "2", "--nvme", "1") as cluster:
        job = client.register_job("kept", url=f"redis://127.0.0.1:{cluster.port}")
        with job.connect() as storage:
            for number in range(300):
                storage.redis.set(f"k{number}", number)
            storage.put_buffer(LARGE, "large", persist_after_job=True)
            storage.redis.execute_command("JOB.RETAIN", *(f"k{n}" for n in range(300)))
            job.deregister()
            os.kill(cluster.pids_of("controller")[0], signal.SIGKILL)
            eventually(lambda: is_moved(job))
            assert job.info()["retention"]["keys"] == 301
            (nvme,) = [s for s in cluster.servers() if s["tier"] == "nvme"]
            os.kill(nvme["pid"], signal.SIGKILL)
            # The next process has the same directory.
            eventually(lambda: storage.redis.get("k7") == b"7", 40)
            assert storage.get_buffer("large") == LARGE
            assert [int(storage.redis.get(f"k{n}")) for n in range(300)] == list(range(300))
            assert job.info()["lost_keys"] == 0


def test_from_files_to_files(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "1", "--nvme", "2") as cluster:
        job = client.register_job("files", url=f"redis://127.0.0.1:{cluster.port}", tiers=["nvme"])
        with job.connect() as storage:
            for number in range(400):
                storage.redis.set(f"k{number}", number)
                storage.redis.set(f"unmarked{number}", number)
            storage.redis.sadd("set", *range(500))
            for number in range(6):
                storage.redis.set(f"large{number}", LARGE)
            assert len(cluster.owners(job.id)) == 2
            names = [*(f"k{n}" for n in range(400)), *(f"large{n}" for n in range(6)), "set"]
            assert storage.redis.execute_command("JOB.RETAIN", *names) == 407
            job.deregister()
            eventually(lambda: is_moved(job))
            assert len(cluster.owners(job.id)) == 1
            assert job.info()["retention"]["keys"] == storage.redis.dbsize() == 407
            assert all(storage.get_buffer(f"large{number}") == LARGE for number in range(6))
            assert storage.redis.scard("set") == 500


def retain_much(cluster: Cluster) -> client.Job:
    """A job on two dram servers with enough keys for something to happen while they are moved."""
    job = client.register_job("much", url=f"redis://127.0.0.1:{cluster.port}", tiers=["dram"])
    with job.connect() as storage:
        for number in range(8):
            storage.redis.set(f"large{number}", LARGE)
            storage.redis.execute_command("JOB.RETAIN", f"large{number}")
        for start in range(0, 8000, 1000):
            names = [f"k{number}" for number in range(start, start + 1000)]
            storage.redis.execute_command(
                "MSET", *(part for name in names for part in (name, name))
            )
            assert storage.redis.execute_command("JOB.RETAIN", *names) == 1000
    return job


def test_the_server_that_keeps_the_keys_dies_while_it_gets_them(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "2", "--nvme", "1") as cluster:
        job = retain_much(cluster)
        (nvme,) = [s for s in cluster.servers() if s["tier"] == "nvme"]
        job.deregister()
        os.kill(nvme["pid"], signal.SIGKILL)
        eventually(lambda: is_moved(job), 40)
        info = job.info()
        assert (info["retention"]["keys"], info["lost_keys"]) == (8008, 0)
        with job.connect() as storage:
            assert storage.redis.mget(*(f"k{n}" for n in range(8000))) == [
                b"k%d" % n for n in range(8000)
            ]
            assert all(storage.get_buffer(f"large{number}") == LARGE for number in range(8))


def test_what_a_dying_server_takes_with_it_is_counted(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "2", "--nvme", "1") as cluster:
        job = retain_much(cluster)
        # What it has is known from its last report, which comes every second.
        eventually(lambda: job.info()["retained_keys"] == 8008)
        dram = [s for s in cluster.servers() if s["tier"] == "dram"]
        os.kill(dram[0]["pid"], signal.SIGSTOP)
        job.deregister()
        os.kill(dram[0]["pid"], signal.SIGKILL)
        eventually(lambda: is_moved(job), 40)
        info = job.info()
        assert info["retention"]["keys"] + info["lost_keys"] == 8008
        assert info["lost_keys"] > 3000
        with job.connect() as storage:
            assert storage.redis.dbsize() == info["retention"]["keys"]


def test_without_files_there_is_nothing_to_keep_keys(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "1", "--nvme", "0") as cluster:
        url = f"redis://127.0.0.1:{cluster.port}"
        with client.register_job("dram", url=url) as job, job.connect() as storage:
            with pytest.raises(client.RetainNotAvailableError, match="no storage server with fil"):
                storage.put_buffer(b"x", "a", persist_after_job=True)
            assert storage.count_files() == 0
        with pytest.raises(redis.ResponseError, match="job 'default' never ends"):
            cluster.client().execute_command("JOB.RETAIN", "a")
