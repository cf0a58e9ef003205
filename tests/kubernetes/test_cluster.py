"""A whole cluster on a test's API: real servers that join, drain and die as pods do.

Each test runs on an API of the tests' own, and on a real control plane if there is one: then the
controllers may what the chart lets them, pods are made and placed by Kubernetes itself, and only
the kubelet is played.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.connecting import NAMESPACE
from tests.kubernetes.controllers import Controllers, eventually, running
from tests.kubernetes.machines import Server, stateful_set
from tests.kubernetes.objects import decoded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DRAM = "pk-storage-memory"


@pytest.fixture(params=["the tests' API", "a control plane"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """An API server for each test."""
    if request.param == "the tests' API":
        yield request.getfixturevalue("own_server")
    else:
        real = request.getfixturevalue("real_server")
        real.empty()
        yield real
        real.empty()


KEYS = {f"key:{i}": f"value {i}".encode() for i in range(300)}


class Load:
    """A client that reads and writes all the time, and what it met."""

    def __init__(self, controllers: Controllers) -> None:
        self._client = controllers.client()
        self._stop = threading.Event()
        self.errors: list[str] = []
        self.count = 0
        self._client.mset(KEYS)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            name = f"key:{self.count % len(KEYS)}"
            try:
                if self._client.get(name) != KEYS[name]:
                    self.errors.append(f"{name} is gone")
                self._client.set(name, KEYS[name])
            except redis.RedisError as error:
                self.errors.append(repr(error))
            self.count += 1

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._client.close()

    def check(self) -> None:
        """Nothing was wrong, and everything is there."""
        assert self.errors == []
        count = self.count
        eventually(lambda: self.count > count + 10, "the client goes on")
        assert self.errors == []


def kept(controllers: Controllers) -> bool:
    client = controllers.client()
    found = dict(zip(KEYS, client.mget(KEYS), strict=True))
    client.close()
    return bool(found == KEYS)


def test_scaling_up_is_a_join_and_scaling_down_a_drain(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 2)]
    with running(server, tmp_path, sets, "c-a") as (cluster, controllers):
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        with Load(controllers) as load:
            controllers.call("TIER.SCALE", "dram", 3)
            controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1", f"{DRAM}-2")
            eventually(lambda: controllers.servers()[f"{DRAM}-2"]["keys"] > 0, "keys move to it")
            controllers.call("TIER.SCALE", "dram", 1)
            controllers.wait_servers(f"{DRAM}-0")
            eventually(lambda: cluster.pods() == [f"{DRAM}-0"], "the others have gone")
            load.check()
        assert kept(controllers)
        assert controllers.call("JOB.INFO", "default")["lost_keys"] == 0
        if isinstance(server, ApiServer):
            assert server.count("PUT .*/scale") <= 3, "once up, and down as servers became empty"


def test_who_takes_over_goes_on_and_no_client_notices(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 2)]
    with running(server, tmp_path, sets, "c-a", "c-b") as (_, controllers):
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        first = eventually(controllers.leader, "one leads")
        job = controllers.call("JOB.REGISTER", "shuffle", "CAPACITY", "1mb")
        with Load(controllers) as load:
            controllers.kill(first)
            other = next(iter(controllers.processes))
            eventually(lambda: controllers.leader() == other, "the other one leads")
            eventually(lambda: controllers.call("JOB.LIST"), "it answers")
            assert controllers.call("JOB.INFO", job["id"])["phase"] == "active"
            second = controllers.call("JOB.REGISTER", "after", "CAPACITY", "1mb")
            # Epochs of a term are above all those of earlier ones.
            assert second["epoch"] >> 32 > job["epoch"] >> 32
            load.check()
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        assert controllers.call("JOB.INFO", "default")["lost_keys"] == 0


def test_a_leader_that_stood_still_is_fenced(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 1)]
    with running(server, tmp_path, sets, "c-a", "c-b") as (_, controllers):
        controllers.wait_servers(f"{DRAM}-0")
        first = eventually(controllers.leader, "one leads")
        old = controllers.processes[first]
        with Load(controllers) as load:
            old.send_signal(signal.SIGSTOP)
            eventually(lambda: controllers.leader() not in {"", first}, "the other one leads")
            eventually(lambda: controllers.call("JOB.REGISTER", "new"), "and writes")
            old.send_signal(signal.SIGCONT)
            log = tmp_path / f"{first}.log"
            eventually(lambda: "leading no more" in log.read_text(), "it finds that out")
            assert controllers.leader() != first
            assert [job["name"] for job in controllers.call("JOB.LIST")] == ["default", "new"]
            load.check()


def test_a_leader_that_is_told_to_stop_gives_the_lease_back(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 1)]
    with running(server, tmp_path, sets, "c-a", "c-b") as (_, controllers):
        controllers.wait_servers(f"{DRAM}-0")
        first = eventually(controllers.leader, "one leads")
        controllers.processes[first].terminate()
        assert controllers.processes[first].wait(20) == 0
        assert controllers.holder() != first
        eventually(lambda: controllers.leader() not in {"", first}, "the other one leads")
        log = (tmp_path / f"{controllers.leader()}.log").read_text()
        assert "leading identity" in log


@pytest.mark.parametrize("ordinal", [0, 1])
def test_a_pod_that_is_evicted_drains_and_comes_back(
    server: Server, tmp_path: Path, ordinal: int
) -> None:
    name = f"{DRAM}-{ordinal}"
    sets = [stateful_set("memory", "dram", 2)]
    with running(server, tmp_path, sets, "c-a") as (cluster, controllers):
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        with Load(controllers) as load:
            before = cluster.processes[name][1].pid
            cluster.evict(name)

            def is_back() -> bool:
                one = controllers.servers().get(name)
                return one is not None and one["pid"] != before and one["keys"] > 0

            eventually(is_back, "it has come back, and has keys")
            assert set(controllers.servers()) == {f"{DRAM}-0", f"{DRAM}-1"}
            load.check()
        assert kept(controllers)
        assert controllers.call("JOB.INFO", "default")["lost_keys"] == 0
        assert controllers.tier("dram")["wanted"] == 2
        if isinstance(server, ApiServer):
            assert server.count("PUT .*/scale") == 0


def test_a_server_that_is_told_to_go_while_nobody_leads_waits_for_the_next_leader(
    server: Server, tmp_path: Path
) -> None:
    """An upgrade of everything ends controllers and servers at the same time."""
    sets = [stateful_set("memory", "dram", 2)]
    names = [f"{DRAM}-0", f"{DRAM}-1"]
    with running(server, tmp_path, sets, "c-a") as (cluster, controllers):
        controllers.wait_servers(*names)
        with Load(controllers) as load:
            before = cluster.processes[names[1]][1].pid
            controllers.kill("c-a")
            log = tmp_path / f"{names[1]}.log"
            eventually(lambda: "not joined" in log.read_text(), "it knows")
            cluster.evict(names[1])
            eventually(lambda: "stopping" in log.read_text(), "it is told to go")
            controllers.start("c-b")

            def is_back() -> bool:
                one = controllers.servers().get(names[1])
                return one is not None and one["pid"] != before and one["keys"] > 0

            eventually(is_back, "it has drained, and come back")
            load.check()
        assert kept(controllers)
        assert controllers.call("JOB.INFO", "default")["lost_keys"] == 0


def test_a_machine_that_is_taken_away_is_a_failure(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 2)]
    with running(server, tmp_path, sets, "c-a") as (cluster, controllers):
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        client = controllers.client()
        client.mset(KEYS)
        before = cluster.processes[f"{DRAM}-1"][1].pid
        cluster.reclaim(f"{DRAM}-1")

        def is_replaced() -> bool:
            one = controllers.servers().get(f"{DRAM}-1")
            return one is not None and one["pid"] != before and one["state"] == "up"

        eventually(is_replaced, "its pod was made anew")
        # The router may hear of the new server after the controller tells of it.
        eventually(lambda: client.mset(KEYS), "its slots are served")
        assert kept(controllers)
        client.close()
        assert set(controllers.servers()) == {f"{DRAM}-0", f"{DRAM}-1"}
        assert controllers.tier("dram")["wanted"] == 2


def test_pods_that_stay_pending_are_told_of(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 1)]
    with running(server, tmp_path, sets, "c-a", pods_max=1) as (cluster, controllers):
        controllers.wait_servers(f"{DRAM}-0")
        controllers.call("TIER.SCALE", "dram", 2)
        [told] = eventually(lambda: controllers.tier("dram")["waiting"], "it is told")
        assert re.match(rf"{DRAM}-1 waits: Unschedulable: 0/\d nodes.* Insufficient \w+", told)
        job = controllers.call("JOB.REGISTER", "large", "CAPACITY", "100mb", "TIERS", "dram")
        assert told in job["short"]
        kinds = [event["kind"] for event in controllers.call("EVENTS.LIST")]
        assert "server waits" in kinds
        cluster.pods_max = 2
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        assert controllers.tier("dram")["waiting"] == []


def test_an_outage_of_the_api_stops_scaling_and_never_data(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 2)]
    with running(server, tmp_path, sets, "c-a", "c-b") as (_, controllers):
        controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1")
        with Load(controllers) as load:
            with server.outage():
                logs = [tmp_path / f"{name}.log" for name in ("c-a", "c-b")]
                eventually(
                    lambda: any("leading no more" in log.read_text() for log in logs),
                    "nobody leads without the API",
                )
                load.check()
            eventually(controllers.leader, "one leads again")
            eventually(lambda: controllers.call("TIER.SCALE", "dram", 3), "it scales")
            controllers.wait_servers(f"{DRAM}-0", f"{DRAM}-1", f"{DRAM}-2")
            load.check()
        assert controllers.call("JOB.INFO", "default")["lost_keys"] == 0


def test_a_pocketjob_is_a_job(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 1)]
    objects = server.objects
    with running(server, tmp_path, sets, "c-a") as (_, controllers):
        controllers.wait_servers(f"{DRAM}-0")
        objects.create(
            NAMESPACE,
            "pocketjobs",
            {"metadata": {"name": "shuffle"}, "spec": {"capacity": "1mb", "tiers": ["dram"]}},
        )

        def shown(name: str = "shuffle") -> Any:
            one = objects.find(NAMESPACE, "pocketjobs", name) or {}
            return one.get("status") or {}

        eventually(lambda: shown().get("phase") == "Active", "it is registered")
        eventually(lambda: shown().get("secretName") == "shuffle-pocketkv", "it has a Secret")
        secret = decoded(objects.get(NAMESPACE, "secrets", "shuffle-pocketkv"))
        client = redis.Redis.from_url(secret["url"], protocol=3)
        client.set("a", b"x" * 5000)
        eventually(lambda: shown().get("usedBytes", 0) > 5000, "its usage is told")
        assert shown()["tiers"] == ["dram"]
        assert shown()["id"] == secret["id"]
        objects.patch(NAMESPACE, "pocketjobs", "shuffle", {"spec": {"capacity": "2mb"}})

        def quota() -> Any:
            return controllers.call("JOB.INFO", secret["id"])["demand"]["capacity_bytes"]

        eventually(lambda: quota() == 2 * 1024**2, "an edit is an update")
        objects.delete(NAMESPACE, "pocketjobs", "shuffle")
        eventually(lambda: objects.find(NAMESPACE, "pocketjobs", "shuffle") is None, "it goes")
        assert objects.find(NAMESPACE, "secrets", "shuffle-pocketkv") is None
        assert secret["id"] not in {job["id"] for job in controllers.call("JOB.LIST")}
        with pytest.raises(redis.RedisError):
            client.get("a")
        client.close()


def test_a_job_of_a_client_has_an_object(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 1)]
    objects = server.objects
    with running(server, tmp_path, sets, "c-a") as (_, controllers):
        controllers.wait_servers(f"{DRAM}-0")
        job = controllers.call("JOB.REGISTER", "By_Hand", "CAPACITY", "1mb")

        def of_client() -> Any:
            return [
                one
                for one in objects.all(NAMESPACE, "pocketjobs")
                if (one.get("status") or {}).get("id") == job["id"]
            ]

        (one,) = eventually(of_client, "it is listed")
        assert one["spec"] == {"capacity": 1024**2}
        controllers.call("JOB.DEREGISTER", job["id"])
        eventually(lambda: objects.all(NAMESPACE, "pocketjobs") == [], "it goes with the job")
        other = controllers.call("JOB.REGISTER", "other")
        (one,) = eventually(lambda: objects.all(NAMESPACE, "pocketjobs"), "it is listed")
        objects.delete(NAMESPACE, "pocketjobs", one["metadata"]["name"])
        eventually(lambda: objects.all(NAMESPACE, "pocketjobs") == [], "it goes")
        assert other["id"] not in {job["id"] for job in controllers.call("JOB.LIST")}


def test_a_pocketjob_that_cannot_be_says_why(server: Server, tmp_path: Path) -> None:
    sets = [stateful_set("memory", "dram", 1)]
    objects = server.objects
    with running(server, tmp_path, sets, "c-a") as (_, controllers):
        controllers.wait_servers(f"{DRAM}-0")
        bad = {"metadata": {"name": "bad"}, "spec": {"capacity": "much"}}
        objects.create(NAMESPACE, "pocketjobs", bad)

        def condition() -> Any:
            status = objects.get(NAMESPACE, "pocketjobs", "bad").get("status") or {}
            return next(iter(status.get("conditions") or ()), {})

        eventually(lambda: condition().get("reason") == "BadSpec", "it says so")
        assert "capacity" in condition()["message"].lower()
        objects.patch(NAMESPACE, "pocketjobs", "bad", {"spec": {"capacity": "1mb"}})
        eventually(lambda: condition().get("status") == "True", "it is registered once mended")
