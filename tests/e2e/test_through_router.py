"""What needs a connection of its own, through real routers, while servers go and come."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.e2e.local import Cluster, eventually, serving

CHANNEL = "news"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    options = ("--nvme", "0", "--dram", "3", "--routers", "2")
    with serving(tmp_path_factory.mktemp("routers"), *options) as cluster:
        yield cluster
        assert cluster.stop() == 0


@pytest.fixture(scope="module")
def one_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("router"), "--nvme", "0", "--dram", "3") as cluster:
        yield cluster
        assert cluster.stop() == 0


def in_background(call: Any) -> tuple[threading.Thread, list[Any]]:
    """Have a thread make a call; what it answers, or raises, will be in the list."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except redis.RedisError as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers


def blocked(cluster: Cluster) -> int:
    """How many clients wait in the only router."""
    return int(cluster.admin.info("clients")["blocked_clients"])


def heard(subscriber: Any) -> bytes | str | None:
    """The next message's text; confirmations are passed over."""
    while (message := subscriber.get_message(timeout=20)) is not None:
        if message["type"] in {"message", "pmessage", "smessage"}:
            text: bytes | str = message["data"]
            return text
    return None


def test_subscribers_of_all_routers_and_servers_are_told_once(cluster: Cluster) -> None:
    ports = [cluster.port] * 4 + [int(server["port"]) for server in cluster.servers()]
    subscribers = []
    for port in ports:
        subscriber = cluster.client(port).pubsub()
        subscriber.subscribe(CHANNEL)
        assert subscriber.get_message(timeout=20)["type"] == "subscribe"
        subscribers.append(subscriber)
    for number, port in enumerate(ports):
        publisher = cluster.client(port)
        eventually(lambda p=publisher: p.pubsub_numsub(CHANNEL))  # type: ignore[misc]
        told = publisher.publish(CHANNEL, str(number))
        assert told == len(ports)
        assert [heard(subscriber) for subscriber in subscribers] == [str(number)] * len(ports)
    assert cluster.client().pubsub_numsub(CHANNEL) == [(CHANNEL, len(ports))]
    for subscriber in subscribers:
        subscriber.close()


def test_transactions_and_watches_of_real_clients(cluster: Cluster) -> None:
    client, other = cluster.client(), cluster.client()
    for number in range(20):
        key = f"counter-{number}"
        with client.pipeline() as pipe:
            assert pipe.incr(key).incr(key).get(key).execute() == [1, 2, "2"]
        with client.pipeline() as pipe:
            pipe.watch(key)
            other.set(key, "other")
            pipe.multi()
            pipe.set(key, "mine")
            with pytest.raises(redis.WatchError):
                pipe.execute()
    client.flushall()


def test_locks_and_scripts_of_real_clients(cluster: Cluster) -> None:
    client, other = cluster.client(), cluster.client()
    for number in range(5):
        with client.lock(f"lock-{number}", timeout=60):
            assert not other.lock(f"lock-{number}", timeout=60).acquire(blocking=False)
        assert other.lock(f"lock-{number}", timeout=60).acquire(blocking=False)
    client.flushall()


@pytest.mark.timeout(120)
def test_clients_that_wait_go_on_waiting_while_their_keys_move(one_router: Cluster) -> None:
    cluster = one_router
    client = cluster.client(socket_connect_timeout=20)
    client.connection_pool.connection_kwargs["socket_timeout"] = None
    keys = [f"queue-{number}" for number in range(20)]
    waiting = [in_background(lambda key=key: client.blpop([key], 0)) for key in keys]
    eventually(lambda: blocked(cluster) == len(keys))
    admin = cluster.admin
    victim = next(iter(cluster.owners()))
    assert admin.execute_command("SERVER.DRAIN", victim)
    eventually(lambda: victim not in cluster.owners())
    eventually(lambda: blocked(cluster) == len(keys))
    for key in keys:
        assert admin.lpush(key, f"for {key}") == 1
    for key, (thread, answers) in zip(keys, waiting, strict=True):
        thread.join(20)
        assert answers == [[key, f"for {key}"]]
    assert admin.dbsize() == 0


@pytest.mark.timeout(120)
def test_a_server_that_is_killed_costs_subscribers_and_waiting_clients_nothing(
    one_router: Cluster,
) -> None:
    cluster = one_router
    client = cluster.client()
    client.connection_pool.connection_kwargs["socket_timeout"] = None
    subscriber = cluster.client().pubsub()
    subscriber.subscribe(CHANNEL)
    keys = [f"queue-{number}" for number in range(20)]
    waiting = [in_background(lambda key=key: client.blpop([key], 0)) for key in keys]
    eventually(lambda: blocked(cluster) == len(keys))
    owners = cluster.owners()
    victim = next(server for server in cluster.servers() if server["id"] in owners)
    os.kill(victim["pid"], signal.SIGKILL)
    eventually(lambda: victim["id"] not in cluster.owners())
    eventually(lambda: blocked(cluster) == len(keys))
    for key in keys:
        assert cluster.admin.lpush(key, key) == 1
    for key, (thread, answers) in zip(keys, waiting, strict=True):
        thread.join(20)
        assert answers == [[key, key]]
    eventually(lambda: cluster.admin.publish(CHANNEL, "still there") == 1)
    assert heard(subscriber) == "still there"
    subscriber.close()
