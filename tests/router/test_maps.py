"""Maps that change: no error, nothing lost, nobody's order broken."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from trio.testing import trio_test

from pocketkv import limits
from pocketkv.slots import key_slot
from tests.replies import Error
from tests.router.support import Client, Cluster, run_cluster

KEYS = [f"key:{number}" for number in range(40)]
PAIRS = [word for key in KEYS for word in (key, f"v{key}")]
VALUES = [f"v{key}".encode() for key in KEYS]


async def check_all(client: Client) -> None:
    for key, value in zip(KEYS, VALUES, strict=True):
        assert await client.call("GET", key) == value
    assert await client.call("MGET", *KEYS) == VALUES
    assert await client.call("EXISTS", *KEYS) == len(KEYS)
    assert await client.call("DBSIZE") == len(KEYS)


@trio_test
async def test_a_router_with_an_old_map_follows_the_servers() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await client.call("MSET", *PAIRS) == "OK"
        cluster.tell_storage(cluster.plan({1: 1.0, 2: 1.0}))
        assert cluster.used_keys()[0] == 0
        await check_all(client)
        assert await client.call("MSET", *PAIRS) == "OK"
        assert cluster.used_keys()[0] == 0
        assert cluster.router.counters.retries > 0


@trio_test
async def test_a_router_with_a_newer_map_waits_for_the_servers() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await client.call("MSET", *PAIRS) == "OK"
        placement = cluster.plan({1: 1.0, 2: 1.0})
        cluster.tell_router(placement)
        for key in KEYS:
            await client.send("GET", key)
        await client.send("MGET", *KEYS)
        # As soon as something was refused, the servers are told.
        with trio.fail_after(5):
            while not cluster.router.counters.retries:
                await trio.lowlevel.checkpoint()
        cluster.tell_storage(placement)
        assert [await client.receive() for _ in KEYS] == VALUES
        assert await client.receive() == VALUES


@trio_test
async def test_a_walk_goes_on_over_a_changed_map() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        await client.call("MSET", *PAIRS)
        found: set[bytes] = set()
        cursor = b"0"
        weights = [{0: 1.0}, {1: 1.0, 2: 1.0}, {0: 2.0, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}]
        step = 0
        while True:
            cursor, keys = await client.call("SCAN", cursor, "COUNT", 3)
            found.update(keys)
            if cursor == b"0":
                break
            placement = cluster.plan(weights[step % 4])
            cluster.tell_storage(placement)
            if step % 2:
                cluster.tell_router(placement)
            step += 1
        assert found == {key.encode() for key in KEYS}


@trio_test
async def test_a_slot_that_nobody_serves_yet_is_waited_for() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        key = KEYS[0]
        await client.call("SET", key, "v")
        owner = next(s for s in cluster.storages if s.node.keyspace.open("default").used_bytes)
        space = owner.node.keyspace.open("default")
        owned = bytes(space.owned)
        space.own(bytes(len(owned)))
        await client.send("GET", key)
        await client.send("SET", key, "w")
        await client.send("GET", key)
        with trio.move_on_after(0.1) as scope:
            await client.receive_raw()
        assert scope.cancelled_caught
        space.own(owned)
        assert [await client.receive() for _ in range(3)] == [b"v", "OK", b"w"]


@trio_test
async def test_waiting_for_a_slot_has_an_end() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REDIRECT_TIMEOUT_S", 0.1)
        async with run_cluster(2) as cluster:
            client = await cluster.connect()
            for storage in cluster.storages:
                storage.node.keyspace.open("default").own(bytes(16384))
            reply = await client.call("GET", KEYS[0])
            assert reply == Error("CLUSTERDOWN Hash slot not served")
            # Each takes the other one for the owner.
            first, second = cluster.storages
            to_second, to_first = cluster.plan({1: 1.0}), cluster.plan({0: 1.0})
            first.topology.set_placement(to_second)
            second.topology.set_placement(to_first)
            reply = await client.call("GET", KEYS[0])
            assert reply == Error(
                "CLUSTERDOWN Hash slot not served: its owner was not found in time"
            )


@trio_test
async def test_without_a_map_the_error_says_so() -> None:
    async with run_cluster(1, is_placed=False) as cluster:
        client = await cluster.connect()
        for request in (["GET", "a"], ["MGET", "a", "b"], ["DBSIZE"], ["SCAN", 0], ["RANDOMKEY"]):
            assert await client.call(*request) == Error(
                "CLUSTERDOWN The router has no map yet: it has not reached the controller"
            )
        assert await client.call("PING") == "PONG"
        cluster.place({0: 1.0}, "elsewhere")
        assert await client.call("GET", "a") == Error("CLUSTERDOWN The job has no placement")
        cluster.place({0: 1.0})
        assert await client.call("GET", "a") is None


async def _move_about(cluster: Cluster, stop: trio.Event) -> None:
    """Change the map all the time; the router hears of it a little later than the servers."""
    weights = [{0: 1.0, 1: 2.0}, {1: 1.0, 2: 1.0}, {2: 1.0}, {0: 3.0, 1: 1.0, 2: 1.0}]
    step = 0
    while not stop.is_set():
        placement = cluster.plan(weights[step % len(weights)])
        cluster.tell_storage(placement)
        await trio.sleep(0.002 * (step % 4))
        cluster.tell_router(placement)
        await trio.sleep(0.003)
        step += 1


async def _count_up(client: Client, name: str, rounds: int) -> None:
    """Commands whose replies tell if one of them overtook another, or was executed twice."""
    keys = [f"{name}:{number}" for number in range(7)]
    for round_ in range(rounds):
        requests: list[list[object]] = []
        expected: list[object] = []
        for step in range(10):
            value = round_ * 10 + step + 1
            requests += [["INCR", key] for key in keys]
            expected += [value] * len(keys)
            requests += [["MGET", *keys], ["APPEND", f"{name}:log", "x"]]
            expected += [[b"%d" % value] * len(keys), value]
        assert await client.call_all(requests) == expected


@trio_test
async def test_nothing_is_lost_or_overtaken_while_the_map_changes() -> None:
    async with run_cluster(3) as cluster:
        stop = trio.Event()
        async with trio.open_nursery() as movers:
            movers.start_soon(_move_about, cluster, stop)
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    client = await cluster.connect()
                    nursery.start_soon(_count_up, client, f"client{number}", 12)
            stop.set()
        assert cluster.router.counters.retries > 0
        assert len({key_slot(f"client{n}:log".encode()) for n in range(4)}) == 4
