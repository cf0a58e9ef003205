"""Users and settings of a job: the same on every router and server, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.local import Cluster, eventually, serving


def ports(cluster: Cluster) -> list[int]:
    return [cluster.port, *(int(server["port"]) for server in cluster.servers())]


def as_user(cluster: Cluster, port: int, user: str, password: str) -> Any:
    client = cluster.client(port, username=user, password=password)
    assert client.execute_command("ACL", "WHOAMI") == user.rpartition("/")[2]
    return client


def test_they_hold_everywhere_and_survive_whoever_dies(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "2", "--nvme", "0") as cluster:
        admin = cluster.client()
        job = admin.execute_command("JOB.REGISTER", "sort")
        alice = f"{job['id']}/alice"
        owner = cluster.client(username=job["id"], password=job["token"])
        rules = ("on", ">secret", "~a*", "+@all", "-flushall", "&news")
        assert owner.execute_command("ACL", "SETUSER", "alice", *rules)
        clients = [as_user(cluster, port, alice, "secret") for port in ports(cluster)]
        for client in clients:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.flushall()
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.get("b")
        # What a server is told, routers know as well, and whoever is connected.
        server = cluster.client(ports(cluster)[1], username=job["id"], password=job["token"])
        assert server.execute_command("ACL", "SETUSER", "alice", "resetkeys", "~b*")
        assert clients[0].set("b", "1")
        with pytest.raises(redis.exceptions.NoPermissionError):
            clients[0].set("a", "1")
        assert server.config_set("notify-keyspace-events", "KEA")
        assert owner.config_get("notify-keyspace-events") == {"notify-keyspace-events": "AKE"}
        # The default user of the job `default` may be limited; of a job, it has the token.
        with pytest.raises(redis.exceptions.ResponseError, match="has the job's token"):
            owner.execute_command("ACL", "SETUSER", "default", "off")

        (controller,) = cluster.pids_of("controller")
        (router,) = cluster.pids_of("router")
        for pid in (controller, router, int(cluster.servers()[0]["pid"])):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: cluster.client().execute_command("TIER.SCALE", "dram", 3))
        eventually(lambda: len(cluster.client().execute_command("SERVER.LIST")) == 3)
        for port in eventually(lambda: ports(cluster)):
            client = eventually(partial(as_user, cluster, port, alice, "secret"))
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.flushall()
            shown = client.config_get("notify-keyspace-events")
            assert shown == {"notify-keyspace-events": "AKE"}

        owner = cluster.client(username=job["id"], password=job["token"])
        listener = as_user(cluster, ports(cluster)[1], alice, "secret")
        assert owner.execute_command("ACL", "DELUSER", "alice", "nobody") == 1
        assert owner.execute_command("ACL", "DELUSER", "alice") == 0
        with pytest.raises(redis.exceptions.RedisError):
            listener.get("b")
        for port in ports(cluster):
            with pytest.raises(redis.exceptions.AuthenticationError):
                as_user(cluster, port, alice, "secret")


def test_the_job_default_may_have_a_password(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "2", "--nvme", "0") as cluster:
        client = cluster.client()
        client.mset({"a": "1", "b": "2", "c": "3"})
        assert client.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
        with pytest.raises(redis.exceptions.AuthenticationError):
            cluster.client().get("a")
        known = cluster.client(password="secret")
        assert known.mget("a", "b", "c") == ["1", "2", "3"]
        with redis.RedisCluster(
            host="127.0.0.1", port=cluster.port, password="secret", decode_responses=True
        ) as direct:
            assert direct.get("b") == "2"
        assert known.execute_command("ACL", "SETUSER", "default", "nopass")
        assert cluster.client().get("a") == "1"
