"""Slots go from one real server to another, with all that they hold."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pocketkv import limits
from pocketkv.tokens import job_token
from tests.replies import Error
from tests.tiers.moves.scripted import IDS, LAST_SLOT, SECRET, Cluster, cluster
from tests.tiers.storage_process import eventually


def test_every_kind_of_value_goes(tmp_path: Path) -> None:
    large = os.urandom(3 * limits.MIB + 11)
    with cluster(tmp_path) as running:
        running.give_all()
        a = running.client(0)
        a("MSET", "small", "value", "empty", "", "number", 12)
        a("APPEND", "changed", "abc")
        a("APPEND", "changed", "def")
        a("SADD", "integers", 1, 2, 3)
        a("SADD", "members", *(f"member-{n}" for n in range(20_000)))
        a("RPUSH", "queue", *(f"item-{n}" for n in range(20_000)))
        a("ZADD", "scores", *(part for n in range(20_000) for part in (n * 7 % 999, f"m-{n}")))
        a("LINSERT", "queue", "BEFORE", "item-10000", "between")
        a("SET", "large", large)
        a("SET", "expiring", "soon", "PX", 1_000_000)
        due_ms = a("PEXPIRETIME", "expiring")
        for n in range(3000):
            a("SET", f"key-{n}", n)
        size = a("DBSIZE")
        move_id = running.move()
        running.wait_moved(move_id)
        b = running.client(1)
        assert b("DBSIZE") == size
        assert b("MGET", "small") == [b"value"]
        assert b("GET", "empty") == b""
        assert b("OBJECT", "ENCODING", "number") == b"int"
        assert b("GET", "changed") == b"abcdef"
        assert sorted(b("SMEMBERS", "integers")) == [b"1", b"2", b"3"]
        assert b("OBJECT", "ENCODING", "integers") == b"intset"
        assert b("SCARD", "members") == 20_000
        assert b("LLEN", "queue") == 20_001
        assert b("LRANGE", "queue", 9999, 10_001) == [b"item-9999", b"between", b"item-10000"]
        assert b("ZCARD", "scores") == 20_000
        assert b("ZRANGE", "scores", 0, 1, "WITHSCORES") == [b"m-0", b"0", b"m-10989", b"0"]
        assert b.get(b"large") == large
        assert b("PEXPIRETIME", "expiring") == due_ms
        assert all(b("GET", f"key-{n}") == b"%d" % n for n in range(3000))
        assert isinstance(a("GET", "small"), Error)
        assert a("GET", "small").text.startswith("MOVED ")
        assert a("DBSIZE") == 0


def options_of(medium: str, folder: Path) -> tuple[str, ...]:
    """What makes a server of a medium."""
    if medium == "dram":
        return ()
    if medium == "spill":
        return ("--memory", "24mb", "--spill", str(folder))
    return ("--tier", medium, "--dir", str(folder))


@pytest.mark.parametrize(
    ("source", "target"),
    [("dram", "nvme"), ("nvme", "dram"), ("nvme", "hdd"), ("spill", "dram"), ("dram", "spill")],
)
def test_slots_go_from_medium_to_medium(tmp_path: Path, source: str, target: str) -> None:
    folders = [tmp_path / "from", tmp_path / "to"]
    for folder in folders:
        folder.mkdir()
    servers = [options_of(m, f) for m, f in zip((source, target), folders, strict=True)]
    large = [os.urandom(limits.MIB + n) for n in range(30)]
    with cluster(tmp_path, *servers) as running:
        running.give_all()
        a = running.client(0)
        for n, value in enumerate(large):
            assert a("SET", f"large-{n}", value) == "OK"
        a("APPEND", "large-0", "the end")
        a("SETRANGE", "large-1", 1000, "in the middle")
        for n in range(2000):
            a("SET", f"small-{n}", b"%d" % n * 100)
        a("SADD", "set", *(f"member-{n}" for n in range(10_000)))
        a("SADD", "integers", 1, 2, 3)
        a("EXPIRE", "small-1", 1000)
        due_ms = a("PEXPIRETIME", "small-1")
        running.wait_moved(running.move())
        b = running.client(1)
        large[0] += b"the end"
        large[1] = large[1][:1000] + b"in the middle" + large[1][1013:]
        assert b("DBSIZE") == 2032
        for n, value in enumerate(large):
            assert b.get(b"large-%d" % n) == value
        assert all(b("GET", f"small-{n}") == b"%d" % n * 100 for n in range(2000))
        assert b("PEXPIRETIME", "small-1") == due_ms
        assert b("SCARD", "set") == 10_000
        assert sorted(b("SMEMBERS", "integers")) == [b"1", b"2", b"3"]
        # The source frees what it had.
        reports = running.controller.reports
        eventually(lambda: any(report["used_bytes"] == 0 for report in reports.values()))


def test_many_jobs_with_few_keys_go_in_seconds(tmp_path: Path) -> None:
    jobs = [f"job-{n:016x}" for n in range(200)]
    with cluster(tmp_path) as running:
        for job_id in jobs:
            running.controller.place_job([(0, LAST_SLOT, IDS[0])], job_id=job_id)
        for job_id in jobs:
            eventually(lambda j=job_id: is_known(running, j))  # type: ignore[misc]
            client = running.client(0, job_id)
            client("SET", "key", job_id)
            client.close()
        began_s = time.monotonic()
        moves = [
            running.controller.place_job(
                [(0, LAST_SLOT, IDS[0])], [(0, LAST_SLOT, IDS[0], IDS[1])], job_id=job_id
            )[0]
            for job_id in jobs
        ]
        for move_id in moves:
            running.wait_moved(move_id)
        print(f"{len(jobs)} jobs took {time.monotonic() - began_s:.2f} s")  # noqa: T201
        for job_id in jobs[::20]:
            assert running.client(1, job_id)("GET", "key") == job_id.encode()


def is_known(running: Cluster, job_id: str) -> bool:
    """Whether the source knows a job."""
    client = running.servers[0].client()
    reply = client("AUTH", job_id, job_token(SECRET, job_id))
    client.close()
    return bool(reply == "OK")


def test_a_target_without_memory_is_told_of(tmp_path: Path) -> None:
    with cluster(tmp_path, (), ("--memory", "8mb")) as running:
        running.give_all()
        a = running.client(0)
        for n in range(12):
            a("SET", f"large-{n}", bytes(limits.MIB))
        move_id = running.move()
        eventually(lambda: bool(running.controller.messages("MEMBER.MOVE_FAILED", move_id)))
        (told,) = running.controller.messages("MEMBER.MOVE_FAILED", move_id)
        assert told["code"] == "OOM"
        assert a("DBSIZE") == 12
        # What had come is given back when the controller decides anew.
        running.controller.place_job([(0, LAST_SLOT, IDS[0])])
        reports = running.controller.reports
        eventually(lambda: any(report["used_bytes"] == 0 for report in reports.values()))


def test_figures_are_told(tmp_path: Path) -> None:
    with cluster(tmp_path) as running:
        running.give_all()
        running.client(0)("SET", "a", 1)
        running.wait_moved(running.move())
        assert running.servers[0].info("pocketkv_moves_sent_keys") == 1
        assert running.servers[1].info("pocketkv_moves_received_keys") == 1
        reports = running.controller.reports
        eventually(lambda: any(report["holds"]["count"] for report in reports.values()))
