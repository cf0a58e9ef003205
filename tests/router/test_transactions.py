"""MULTI, EXEC and WATCH through a router: as on one server, while slots move and lanes break."""

from __future__ import annotations

import pytest
from trio.testing import trio_test

from pocketkv.router.private_lane import PrivateLane
from pocketkv.router.upstream import SPARE_NUMBER
from tests.replies import Error
from tests.router.support import Client, Cluster, eventually, run_cluster
from tests.router.test_routing import key_of_server

CROSS_SLOT = Error("CROSSSLOT Keys in request don't hash to the same slot")
ABORTED = Error("EXECABORT Transaction discarded because of previous errors.")
HERE, ALSO_HERE, THERE = key_of_server(0, 3), key_of_server(0, 3, "also"), key_of_server(2, 3)


async def execute(client: Client, *requests: tuple[object, ...]) -> object:
    """What EXEC answers, after requests that are all queued."""
    replies = await client.call_all([("MULTI",), *requests, ("EXEC",)])
    assert replies[:-1] == ["OK", *["QUEUED"] * len(requests)]
    return replies[-1]


def private_lanes(cluster: Cluster) -> list[PrivateLane]:
    return [
        lane
        for upstream in cluster.router.upstreams.values()
        for lane in upstream.lanes.values()
        if isinstance(lane, PrivateLane) and lane.key[3] != SPARE_NUMBER
    ]


@trio_test
async def test_commands_are_executed_together_on_the_server_of_their_keys() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        requests = [("SET", HERE, 1), ("INCR", HERE), ("SADD", ALSO_HERE, "x"), ("INCR", ALSO_HERE)]
        assert await execute(client, *requests) == [
            "OK",
            2,
            1,
            Error("WRONGTYPE Operation against a key holding the wrong kind of value"),
        ]
        assert await client.call("GET", HERE) == b"2"
        assert await execute(client, ("MGET", HERE, ALSO_HERE), ("PING",), ("ECHO", "x")) == [
            [b"2", None],
            "PONG",
            b"x",
        ]
        assert await execute(client) == []
        assert await execute(client, ("PING",)) == ["PONG"]


@trio_test
async def test_keys_of_several_servers_are_refused_at_exec_and_nothing_is_executed() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await execute(client, ("SET", HERE, 1), ("SET", THERE, 1)) == CROSS_SLOT
        assert await client.call("EXISTS", HERE, THERE) == 0
        # It is over.
        assert await client.call("EXEC") == Error("ERR EXEC without MULTI")


@trio_test
async def test_what_is_refused_when_it_is_queued_fails_the_transaction() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        for wrong, error in [
            (("NOSUCH",), "ERR unknown command 'NOSUCH', with args beginning with: "),
            (("GET",), "ERR wrong number of arguments for 'get' command"),
            (("JOB.REGISTER", "x"), "ERR Command not allowed inside a transaction"),
            (("DBSIZE",), CROSS_SLOT.text),
        ]:
            replies = await client.call_all([("MULTI",), ("SET", HERE, 1), wrong, ("EXEC",)])
            assert replies == ["OK", "QUEUED", Error(error), ABORTED]
        assert await client.call("GET", HERE) is None
        for name in ("WATCH", "MULTI"):
            replies = await client.call_all([("MULTI",), (name, HERE)[: 1 + (name == "WATCH")]])
            assert isinstance(replies[1], Error)
            assert await client.call("DISCARD") == "OK"
        assert await client.call("DISCARD") == Error("ERR DISCARD without MULTI")


@trio_test
async def test_on_one_server_commands_for_all_servers_may_be_in_it() -> None:
    async with run_cluster(1) as cluster:
        client = await cluster.connect()
        reply = await execute(client, ("SET", "a", 1), ("SET", "b", 1), ("DBSIZE",), ("SCAN", 0))
        assert isinstance(reply, list)
        assert reply[:3] == ["OK", "OK", 2]
        assert reply[3][0] == b"0"
        assert sorted(reply[3][1]) == [b"a", b"b"]
        assert await execute(client, ("FLUSHALL",), ("DBSIZE",)) == ["OK", 0]


@pytest.mark.parametrize("protocol", [2, 3])
@trio_test
async def test_commands_about_the_connection_are_answered_in_their_places(protocol: int) -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        await client.call("HELLO", protocol)
        number = await client.call("CLIENT", "ID")
        assert await execute(
            client,
            ("SET", HERE, 0),
            ("CLIENT", "ID"),
            ("SELECT", 3),
            ("SET", HERE, 3),
            ("CLIENT", "SETNAME", "me"),
            ("GET", HERE),
        ) == ["OK", number, "OK", "OK", "OK", b"3"]
        assert await client.call("CLIENT", "GETNAME") == b"me"
        assert await client.call("GET", HERE) == b"3"
        await client.call("SELECT", 0)
        # The client's lane follows it.
        assert await execute(client, ("GET", HERE)) == [b"0"]


@trio_test
async def test_a_watched_key_that_changes_makes_exec_do_nothing() -> None:
    async with run_cluster(3) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        assert await client.call("WATCH", HERE) == "OK"
        await other.call("SET", HERE, "other")
        assert await execute(client, ("SET", HERE, "mine")) is None
        assert await execute(client, ("GET", HERE)) == [b"other"]
        for end in ("UNWATCH", "DISCARD"):
            await client.call("WATCH", HERE)
            if end == "DISCARD":
                await client.call("MULTI")
            assert await client.call(end) == "OK"
            await other.call("APPEND", HERE, "!")
            assert await execute(client, ("STRLEN", ALSO_HERE)) == [0]
        await client.call("WATCH", HERE)
        assert await execute(client, ("PING",)) == ["PONG"]
        await client.call("WATCH", HERE)
        await other.call("DEL", HERE)
        assert await execute(client, ("PING",)) is None


@trio_test
async def test_what_is_watched_is_on_one_server() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await client.call("WATCH", HERE, ALSO_HERE) == "OK"
        assert await client.call("WATCH", THERE) == CROSS_SLOT
        assert await execute(client, ("SET", THERE, 1)) == CROSS_SLOT
        assert await client.call("WATCH", THERE) == "OK"


@pytest.mark.parametrize("router_knows", [True, False])
@trio_test
async def test_a_watched_key_that_moves_counts_as_changed(router_knows: bool) -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        await client.call("SET", HERE, 1)
        await client.call("WATCH", HERE)
        placement = cluster.plan({1: 1.0, 2: 1.0})
        cluster.tell_storage(placement)
        if router_knows:
            cluster.tell_router(placement)
        assert await execute(client, ("INCR", HERE)) is None
        assert await execute(client, ("INCR", HERE)) == [2]


@trio_test
async def test_a_transaction_follows_its_keys() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        for number in range(1, 6):
            cluster.tell_storage(cluster.plan({number % 3: 1.0}))
            assert await execute(client, ("INCR", HERE), ("INCR", ALSO_HERE)) == [number] * 2


@trio_test
async def test_without_its_lane_nobody_knows_whether_a_watched_key_has_changed() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        await client.call("WATCH", HERE)
        (lane,) = private_lanes(cluster)
        lane.close()
        assert await client.call("WATCH", ALSO_HERE) == "OK"
        assert await execute(client, ("SET", HERE, 1)) is None
        assert await execute(client, ("SET", HERE, 1)) == ["OK"]


@trio_test
async def test_a_client_that_resets_or_goes_watches_nothing() -> None:
    async with run_cluster(3) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        await client.call("WATCH", HERE)
        await client.call_all([("MULTI",), ("SET", HERE, 1)])
        assert await client.call("RESET") == "RESET"
        await other.call("SET", HERE, 2)
        assert await execute(client, ("GET", HERE)) == [b"2"]
        await client.call("WATCH", HERE)
        await client.aclose()
        await eventually(lambda: not private_lanes(cluster))


@trio_test
async def test_clients_see_each_others_transactions() -> None:
    async with run_cluster(1) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        await client.call_all([("MULTI",), ("PING",), ("PING",)])
        assert b" multi=2 " in await other.call("CLIENT", "LIST")


@trio_test
async def test_a_transaction_that_writes_waits_for_the_end_of_a_pause() -> None:
    async with run_cluster(3) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        await client.call_all([("MULTI",), ("SET", HERE, 1)])
        assert await other.call("CLIENT", "PAUSE", 60_000, "WRITE") == "OK"
        assert await execute(other, ("GET", HERE)) == [None]
        await client.send("EXEC")
        assert await other.call("GET", HERE) is None
        assert await other.call("CLIENT", "UNPAUSE") == "OK"
        assert await client.receive() == ["OK"]


@trio_test
async def test_exec_without_multi_does_not_end_what_is_watched() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        for wrong in ("EXEC", "DISCARD"):
            for pipeline in ([("MULTI",), ("EXEC",)], [("MULTI",), ("GET", "a"), ("EXEC",)]):
                requests = [("WATCH", "a"), (wrong,), ("SET", "a", 1), *pipeline]
                replies = await client.call_all(requests)
                assert isinstance(replies[1], Error)
                assert replies[-1] is None
        # One that is refused does, as in Redis.
        requests = [("WATCH", "a"), ("EXEC", "x"), ("SET", "a", 1), ("MULTI",), ("EXEC",)]
        assert (await client.call_all(requests))[-1] == []
