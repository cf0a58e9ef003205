"""`pocketkv serve` with real processes: its start, its end, and the death of each of them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from pocketkv.slots import SLOT_COUNT
from tests.e2e.local import (
    START_TIMEOUT_S,
    Cluster,
    eventually,
    is_alive,
    run_serve,
    serving,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that tests may use together: they leave it as it was."""
    with serving(tmp_path_factory.mktemp("shared")) as cluster:
        yield cluster


# --- a cluster ---------------------------------------------------------------------------------


def test_it_says_what_runs_where(cluster: Cluster) -> None:
    said = (cluster.log.parent / "said").read_text(encoding="utf-8")
    assert said.startswith(f"PocketKV is ready: redis://127.0.0.1:{cluster.port}\n")
    rows = [line.split() for line in said.splitlines() if line.startswith("  ")]
    assert [row[0] for row in rows[1:-1]] == ["controller", "router", "dram", "dram", "nvme"]
    for server in cluster.servers():
        (row,) = [row for row in rows if row[1] == server["id"][:8]]
        assert row[2] == f"{server['host']}:{server['port']}"
        assert str(server["pid"]) in row


def test_it_is_used_by_plain_and_by_cluster_clients(cluster: Cluster) -> None:
    plain = cluster.client()
    plain.set("hello", "world")
    with redis.RedisCluster.from_url(f"redis://127.0.0.1:{cluster.port}") as direct:
        assert direct.get("hello") == b"world"
        assert len(direct.get_primaries()) == 2
    plain.flushall()


def test_the_job_default_is_on_all_dram_servers(cluster: Cluster) -> None:
    dram = {s["id"] for s in cluster.servers() if s["tier"] == "dram"}
    assert cluster.owners() == dict.fromkeys(dram, SLOT_COUNT // 2)


def test_a_job_that_says_nothing_is_on_one_server_and_meets_no_other(tmp_path: Path) -> None:
    with serving(tmp_path, "--nvme", "0", "--unhinted-servers", "1") as cluster:
        assert list(cluster.owners().values()) == [SLOT_COUNT]
        client = cluster.client()
        job = client.execute_command("JOB.REGISTER", "small")
        assert list(cluster.owners(job["id"]).values()) == [SLOT_COUNT]
        assert client.msetnx({"a": 1, "b": 2})
        assert client.rename("a", "c")
        # Another server is no reason to go there.
        assert client.execute_command("TIER.SCALE", "dram", 3)["wanted"] == 3
        eventually(lambda: len(cluster.servers()) == 3)
        assert list(cluster.owners().values()) == [SLOT_COUNT]


def test_who_connects_early_is_served_when_the_cluster_has_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    replies: list[bytes] = []

    def connect_early() -> None:
        sock = eventually(lambda: socket.create_connection(("127.0.0.1", port)), START_TIMEOUT_S)
        with sock:
            sock.settimeout(START_TIMEOUT_S)
            sock.sendall(b"SET a 1\r\n")
            replies.append(sock.recv(100))

    client = Thread(target=connect_early)
    client.start()
    try:
        with serving(tmp_path, "--port", str(port), "--dram", "1", "--nvme", "0"):
            client.join(START_TIMEOUT_S)
            assert replies == [b"+OK\r\n"]
    finally:
        client.join(START_TIMEOUT_S)


def test_memory_is_for_all_servers_together(cluster: Cluster) -> None:
    in_memory = [s for s in cluster.servers() if s["tier"] == "dram"]
    assert {s["capacity_bytes"] for s in in_memory} == {64 << 20}
    # The others have files, and the disk.
    in_files = [s for s in cluster.servers() if s["tier"] != "dram"]
    assert all(s["capacity_bytes"] > 64 << 20 for s in in_files)


def test_a_token_is_good_at_once_everywhere_and_is_worth_nothing_later(cluster: Cluster) -> None:
    admin = cluster.client()
    ports = [cluster.port, *(int(s["port"]) for s in cluster.servers())]
    for _ in range(5):
        job = admin.execute_command("JOB.REGISTER", "sort", "CAPACITY", "1mb")
        assert urlsplit(job["url"]).port == cluster.port
        for port in ports:
            with cluster.client(port, single_connection_client=True) as direct:
                assert direct.execute_command("AUTH", job["id"], job["token"])
        assert admin.execute_command("JOB.DEREGISTER", job["id"])
        for port in ports:
            with (
                cluster.client(port, single_connection_client=True) as direct,
                pytest.raises(redis.AuthenticationError),
            ):
                direct.execute_command("AUTH", job["id"], job["token"])


def test_no_secret_is_in_anybodys_arguments(cluster: Cluster) -> None:
    pid = cluster.pids_of("controller")[0]
    environment = dict(
        line.split(b"=", 1)
        for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"=" in line
    )
    secret = environment[b"POCKETKV_SECRET"]
    assert len(secret) == 64
    for process in [cluster.process.pid, *cluster.pids()]:
        assert secret not in Path(f"/proc/{process}/cmdline").read_bytes()


def test_a_tier_grows_and_shrinks_with_all_its_keys(cluster: Cluster) -> None:
    admin = cluster.client()
    before = {s["id"] for s in cluster.servers()}
    keys = {f"key-{number}": f"value {number}" for number in range(500)}
    admin.mset(keys)
    assert admin.execute_command("TIER.SCALE", "dram", 3)["wanted"] == 3
    eventually(lambda: len(cluster.owners()) == 3)
    (new,) = {s["id"] for s in cluster.servers()} - before
    eventually(lambda: not admin.execute_command("MOVE.LIST"))
    assert [s["keys"] > 0 for s in eventually(lambda: listed_with_keys(cluster, new))] == [True]
    assert admin.execute_command("SERVER.DRAIN", new)
    eventually(lambda: {s["id"] for s in cluster.servers()} == before)
    assert set(cluster.owners()) <= before
    eventually(lambda: not cluster_processes(cluster, new))
    assert admin.execute_command("TIER.LIST")[0]["wanted"] == 2
    assert admin.mget(list(keys)) == list(keys.values())
    assert admin.execute_command("JOB.INFO", "default")["lost_keys"] == 0
    admin.flushall()


def listed_with_keys(cluster: Cluster, server_id: str) -> list[dict[str, Any]]:
    """A server, once it has reported keys."""
    return [s for s in cluster.servers() if s["id"] == server_id and s["keys"]]


def cluster_processes(cluster: Cluster, server_id: str) -> list[int]:
    """The processes that run as a storage server."""
    return [
        pid
        for pid in cluster.pids_of("storage")
        if server_id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_no_acknowledged_write_is_lost_while_a_tier_grows(cluster: Cluster) -> None:
    admin, writer = cluster.client(), cluster.client()
    admin.execute_command("TIER.SCALE", "dram", 3)
    number = 0
    while len(cluster.servers()) < 4 or number < 200:
        assert writer.set(f"key-{number}", number)
        number += 1
        assert number < 200_000
    for _ in range(100):
        assert writer.set(f"key-{number}", number)
        number += 1
    assert writer.dbsize() == number
    assert writer.mget([f"key-{i}" for i in range(number)]) == [str(i) for i in range(number)]
    # It shrinks again while it is written to.
    admin.execute_command("TIER.SCALE", "dram", 2)
    while sum(s["tier"] == "dram" for s in cluster.servers()) > 2:
        for _ in range(50):
            assert writer.set(f"key-{number}", number)
            number += 1
        assert number < 400_000
    assert writer.dbsize() == number
    assert writer.mget([f"key-{i}" for i in range(number)]) == [str(i) for i in range(number)]
    admin.flushall()


# --- deaths ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose processes are killed; each test waits until it is whole again."""
    with serving(tmp_path_factory.mktemp("mortal")) as cluster:
        yield cluster
        assert cluster.stop() == 0


def test_a_storage_server_that_is_told_to_end_gives_everything_away_first(
    mortal: Cluster,
) -> None:
    cluster = mortal
    client = cluster.client()
    keys = {f"key-{number}": f"value {number}" for number in range(2000)}
    client.mset(keys)
    victim = next(s for s in cluster.servers() if s["id"] in cluster.owners())
    os.kill(victim["pid"], signal.SIGTERM)
    eventually(lambda: not is_alive(victim["pid"]))
    assert client.mget(list(keys)) == list(keys.values())
    # Another one was started in its place.
    eventually(lambda: len(cluster.servers()) == 3)
    assert victim["id"] not in {s["id"] for s in cluster.servers()}
    eventually(lambda: not client.execute_command("MOVE.LIST"))
    assert client.mget(list(keys)) == list(keys.values())
    assert client.execute_command("JOB.INFO", "default")["lost_keys"] == 0
    assert not cluster.log_lines("server died", victim["id"])
    client.flushall()


def test_each_process_that_is_killed_is_replaced(mortal: Cluster) -> None:
    cluster = mortal
    client = cluster.client()
    for number in range(100):
        client.set(f"key-{number}", number)

    # A storage server: the others keep what they have, all slots are served, one is new.
    before = cluster.servers()
    victim = next(s for s in before if s["tier"] == "dram" and s["id"] in cluster.owners())
    os.kill(victim["pid"], signal.SIGKILL)
    eventually(lambda: victim["id"] not in {s["id"] for s in cluster.servers()})
    eventually(lambda: len(cluster.servers()) == 3)
    assert sum(cluster.owners().values()) == SLOT_COUNT
    assert set(cluster.owners()) <= {s["id"] for s in cluster.servers()}
    eventually(lambda: [client.set(f"new-{i}", i) for i in range(100)])
    kept = [v for v in client.mget([f"key-{i}" for i in range(100)]) if v is not None]
    assert 0 < len(kept) < 100
    assert cluster.log_lines("server died", victim["id"], "SIGKILL")
    assert cluster.log_lines("data lost", "job=default", victim["id"])

    # The controller: nobody notices, and its successor knows everything.
    pids = {s["id"]: s["pid"] for s in cluster.servers()}
    epoch = client.execute_command("JOB.INFO", "default")["epoch"]
    job = client.execute_command("JOB.REGISTER", "sort", "CAPACITY", "1mb")
    (controller,) = cluster.pids_of("controller")
    os.kill(controller, signal.SIGKILL)
    assert client.get("new-1") == "1"
    eventually(lambda: len(cluster.servers()) == 3)
    assert {s["id"]: s["pid"] for s in cluster.servers()} == pids
    assert cluster.pids_of("controller") != [controller]
    assert client.execute_command("JOB.INFO", job["id"])["name"] == "sort"
    again = eventually(lambda: client.execute_command("JOB.REGISTER", "other"))
    assert again["epoch"] > job["epoch"] > epoch
    assert client.get("new-1") == "1"

    # Now that the parent of a storage server is gone, it is still watched.
    victim = next(s for s in cluster.servers() if s["tier"] == "nvme")
    os.kill(victim["pid"], signal.SIGKILL)
    eventually(lambda: victim["id"] not in {s["id"] for s in cluster.servers()})
    eventually(lambda: [s for s in cluster.servers() if s["tier"] == "nvme"])
    assert not is_alive(victim["pid"])

    # A router: on the same port again.
    (router,) = cluster.pids_of("router")
    os.kill(router, signal.SIGKILL)
    assert eventually(lambda: cluster.client().get("new-1")) == "1"
    assert cluster.log_lines("process died", "what=router-1", "SIGKILL")


def test_a_controller_and_a_storage_server_that_die_together(mortal: Cluster) -> None:
    cluster = mortal
    client = cluster.client()
    victim = next(s for s in cluster.servers() if s["tier"] == "dram")
    for pid in (*cluster.pids_of("controller"), victim["pid"]):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: victim["id"] not in cluster.owners())
    eventually(lambda: len(cluster.servers()) == 3)
    eventually(lambda: [client.set(f"key-{i}", i) for i in range(100)])


def test_a_server_that_hangs_is_out_and_does_not_come_back(mortal: Cluster) -> None:
    cluster = mortal
    client = cluster.client()
    victim = next(s for s in cluster.servers() if s["tier"] == "dram")
    os.kill(victim["pid"], signal.SIGSTOP)
    eventually(lambda: victim["id"] not in cluster.owners())
    eventually(lambda: not is_alive(victim["pid"]))
    eventually(lambda: len(cluster.servers()) == 3)
    eventually(lambda: [client.set(f"key-{i}", i) for i in range(100)])
    assert cluster.log_lines("server is silent", victim["id"])


# --- the end -----------------------------------------------------------------------------------


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "by" / "serve"
    with serving(tmp_path / "run", "--dir", str(folder)) as cluster:
        assert list(folder.iterdir())
        assert cluster.stop(signal.SIGINT) == 0
    assert not (tmp_path / "made").exists()
    assert not list((tmp_path / "run" / "tmp").iterdir())


def test_a_folder_that_was_there_before_is_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious").write_text("data", encoding="utf-8")
    with serving(tmp_path / "run", "--dir", str(folder), "--nvme", "0", "--dram", "1") as cluster:
        assert cluster.stop() == 0
    assert [path.name for path in folder.iterdir()] == ["precious"]


def test_a_process_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with serving(tmp_path, "--nvme", "0") as cluster:
        os.kill(cluster.pids_of("storage")[0], signal.SIGSTOP)
        os.kill(cluster.pids_of("router")[0], signal.SIGSTOP)
        assert cluster.stop() == 0


def test_all_processes_die_with_the_supervisor(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster:
        pids = cluster.pids()
        assert len(pids) == 5
        cluster.process.kill()
        cluster.process.wait()
        eventually(lambda: not [pid for pid in pids if is_alive(pid)])


def test_jobs_outlive_the_cluster_where_there_is_a_state(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    options = ("--state", str(state), "--nvme", "0", "--dram", "1")
    with serving(tmp_path, *options) as cluster:
        job = cluster.client().execute_command("JOB.REGISTER", "sort")
        assert cluster.stop() == 0
    assert [path.name for path in tmp_path.iterdir() if "state" in path.name] == ["state.db"]
    with serving(tmp_path, *options, "--dram", "2") as cluster:
        again = cluster.client().execute_command("JOB.INFO", job["id"])
        assert again["epoch"] > job["epoch"]
        assert len(cluster.owners()) == 2


def test_jobs_are_forgotten_where_there_is_none(tmp_path: Path) -> None:
    options = ("--nvme", "0", "--dram", "1")
    environment = {
        "POCKETKV_SECRET": "ab" * 32,
        "POCKETKV_ADMIN_PASSWORD": "x",
        "POCKETKV_PORT": "1",
    }
    with serving(tmp_path, *options, environment=environment) as cluster:
        with pytest.raises(redis.ResponseError, match="no permissions to run"):
            cluster.client().execute_command("JOB.REGISTER", "sort")
        admin = cluster.client(username="admin", password="x")
        assert admin.execute_command("JOB.REGISTER", "sort")["id"]
        assert cluster.stop() == 0


# --- what cannot start -------------------------------------------------------------------------


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, lines = run_serve("--port", str(port))
    assert (status, len(lines)) == (2, 1)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in lines[0]


def test_the_port_of_another_cluster(cluster: Cluster) -> None:
    status, lines = run_serve("--port", str(cluster.port))
    assert (status, len(lines)) == (2, 1)
    assert "Address already in use" in lines[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "-1"], "--memory: '-1' is negative"),
        (["--dram", "many"], "--dram: 'many' is not a number of processes"),
        (["--dram", "0", "--nvme", "0"], "no storage server is left"),
        (["--catalog", "nowhere.toml"], "nowhere.toml"),
        (["--state", "nowhere/state.db"], "unable to open database file"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
    ],
)
def test_what_cannot_be(options: list[str], said: str) -> None:
    status, lines = run_serve("--port", "0", *options)
    assert (status, len(lines)) == (2, 1)
    assert said in lines[0]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, lines = run_serve("--port", "0", "--dir", str(tmp_path / "file" / "below"))
    assert (status, len(lines)) == (2, 1)
    assert "--dir" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_state_that_is_something_else(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    state.write_text("this is no database " * 100, encoding="utf-8")
    status, lines = run_serve("--port", "0", "--state", str(state))
    assert (status, len(lines)) == (2, 1)
    assert "not a database" in lines[0]
