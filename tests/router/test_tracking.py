"""CLIENT TRACKING and MONITOR through a router."""

from __future__ import annotations

import pytest
from trio.testing import trio_test

from tests.router.support import Client, Cluster, answered, eventually, run_cluster
from tests.router.test_routing import key_of_server
from tests.router.test_transactions import execute, private_lanes

KEYS = [key_of_server(index, 3) for index in range(3)]


async def tracking(cluster: Cluster, *options: object, protocol: int = 3) -> Client:
    client = await cluster.connect()
    await client.call("HELLO", protocol)
    assert await client.call("CLIENT", "TRACKING", "ON", *options) == "OK"
    return client


def invalidated(*keys: str) -> list[object]:
    return [b"invalidate", [key.encode() for key in keys]]


@trio_test
async def test_a_client_is_told_once_of_what_it_has_read() -> None:
    async with run_cluster(3) as cluster:
        client, other = await tracking(cluster), await cluster.connect()
        for key in KEYS:
            assert await client.call("GET", key) is None
            await other.call("SET", key, 1)
            assert await client.receive() == invalidated(key)
            await other.call("SET", key, 2)
            assert await client.call("PING") == "PONG"
        assert await client.call("MGET", *KEYS) == [b"2"] * 3
        await other.call("DEL", *KEYS)
        told = [await client.receive() for _ in KEYS]
        assert sorted(map(str, told)) == sorted(str(invalidated(key)) for key in KEYS)
        assert await client.call("CLIENT", "TRACKING", "OFF") == "OK"
        await client.call("GET", KEYS[0])
        await other.call("SET", KEYS[0], 1)
        assert await client.call("CLIENT", "TRACKINGINFO") == {
            b"flags": [b"off"],
            b"redirect": -1,
            b"prefixes": [],
        }
        assert await client.call("GET", KEYS[0]) == b"1"


@trio_test
async def test_it_may_say_which_reads_count() -> None:
    async with run_cluster(3) as cluster:
        client, other = await tracking(cluster, "OPTIN"), await cluster.connect()
        await client.call("GET", KEYS[0])
        assert await client.call("CLIENT", "CACHING", "YES") == "OK"
        await client.call("MGET", KEYS[1], KEYS[2])
        await client.call("GET", KEYS[0])
        await other.call("MSET", KEYS[0], 1, KEYS[1], 1)
        assert await client.receive() == invalidated(KEYS[1])
        await other.call("SET", KEYS[2], 1)
        assert await client.receive() == invalidated(KEYS[2])
        assert await client.call("PING") == "PONG"


@trio_test
async def test_what_it_changes_itself_it_need_not_be_told() -> None:
    async with run_cluster(3) as cluster:
        client, other = await tracking(cluster, "NOLOOP"), await cluster.connect()
        await client.call("GET", KEYS[0])
        await client.call("SET", KEYS[0], 1)
        assert await client.call("GET", KEYS[0]) == b"1"
        await other.call("SET", KEYS[0], 2)
        assert await client.receive() == invalidated(KEYS[0])


@trio_test
async def test_it_may_hear_of_all_keys_with_a_prefix_wherever_they_are() -> None:
    async with run_cluster(3) as cluster:
        client = await tracking(cluster, "BCAST", "PREFIX", "k")
        other = await cluster.connect()
        # It is in force at all servers.
        for key in KEYS:
            await other.call("SET", key, 1)
            assert await client.receive() == invalidated(key)
        assert await client.call("MGET", *KEYS) == [b"1"] * 3
        await other.call("SET", "other", 1)
        assert await client.call("PING") == "PONG"


@trio_test
async def test_another_client_may_be_told_over_resp2() -> None:
    async with run_cluster(3) as cluster:
        receiver, other = await cluster.connect(), await cluster.connect()
        number = await receiver.call("CLIENT", "ID")
        await receiver.call("SUBSCRIBE", "__redis__:invalidate")
        client = await tracking(cluster, "REDIRECT", number, protocol=2)
        for key in KEYS:
            await client.call("GET", key)
            await other.call("SET", key, 1)
            assert await receiver.receive() == [
                b"message",
                b"__redis__:invalidate",
                [key.encode()],
            ]
        assert await client.call("CLIENT", "GETREDIR") == number
        await client.call("GET", KEYS[0])
        assert await client.call("PING") == "PONG"


@trio_test
async def test_keys_that_move_and_lanes_that_break_make_copies_worth_nothing() -> None:
    async with run_cluster(3) as cluster:
        client, other = await tracking(cluster), await cluster.connect()
        await client.call("GET", KEYS[0])
        cluster.place({1: 1.0, 2: 1.0})
        assert await client.receive() == invalidated(KEYS[0])
        await client.call("GET", KEYS[0])
        for lane in private_lanes(cluster):
            lane.close()
        # One for each lane.
        assert await client.receive() == [b"invalidate", None]
        await answered(other, "OK", "SET", KEYS[0], 1)


@trio_test
async def test_a_connection_that_is_reset_tracks_nothing() -> None:
    async with run_cluster(3) as cluster:
        client, other = await tracking(cluster, "BCAST"), await cluster.connect()
        assert await client.call("RESET") == "RESET"
        await eventually(lambda: not private_lanes(cluster))
        await other.call("SET", KEYS[0], 1)
        assert await client.call("GET", KEYS[0]) == b"1"
        assert not cluster.router.broadcasting


@trio_test
async def test_reads_in_transactions_and_other_databases_count() -> None:
    async with run_cluster(3) as cluster:
        client, other = await tracking(cluster), await cluster.connect()
        assert await execute(client, ("GET", KEYS[0])) == [None]
        await other.call("SET", KEYS[0], 1)
        assert await client.receive() == invalidated(KEYS[0])
        await client.call("SELECT", 2)
        await other.call("SELECT", 2)
        assert await client.call("GET", KEYS[0]) is None
        await other.call("SET", KEYS[0], 1)
        assert await client.receive() == invalidated(KEYS[0])


@pytest.mark.parametrize("protocol", [2, 3])
@trio_test
async def test_what_clients_ask_is_shown(protocol: int) -> None:
    async with run_cluster(3) as cluster:
        monitor, client = await cluster.connect(), await cluster.connect()
        await monitor.call("HELLO", protocol)
        assert await monitor.call("MONITOR") == "OK"
        await client.call("SET", KEYS[0], "value")
        await client.call("PING")
        await execute(client, ("GET", KEYS[0]))
        shown = [(await monitor.receive()).split("] ", 1)[1] for _ in range(5)]
        one = [f'"SET" "{KEYS[0]}" "value"', '"PING"']
        assert shown == [*one, '"MULTI"', f'"GET" "{KEYS[0]}"', '"EXEC"']


@trio_test
async def test_monitor_shows_what_scripts_call() -> None:
    async with run_cluster(2) as cluster:
        monitor, client = await cluster.connect(), await cluster.connect()
        assert await monitor.call("MONITOR") == "OK"
        script = "return redis.call('set', KEYS[1], ARGV[1])"
        for key in KEYS[:2]:
            assert await client.call("EVAL", script, 1, key, "value") == "OK"
            shown = [await monitor.receive() for _ in range(2)]
            assert '"EVAL"' in shown[0]
            assert shown[1].endswith(f'[0 lua] "set" "{key}" "value"')
        await monitor.call("RESET")
        await client.call("EVAL", script, 1, KEYS[0], "value")
        assert await monitor.call("PING") == "PONG"
