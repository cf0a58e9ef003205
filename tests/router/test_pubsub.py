"""Channels through a router: every subscriber of the job is told once, whatever its servers do."""

from __future__ import annotations

from typing import Any

from trio.testing import trio_test

from pocketkv.router.listening import ListenLane
from tests.replies import Error
from tests.router.support import Client, Cluster, answered, run_cluster
from tests.router.test_routing import key_of_server

SHARDS = [key_of_server(index, 3, "shard") for index in range(3)]


async def subscribed(cluster: Cluster, *names: str, protocol: int = 2) -> Client:
    client = await cluster.connect()
    await client.call("HELLO", protocol)
    await client.send("SUBSCRIBE", *names)
    for number, name in enumerate(names, 1):
        assert await client.receive() == [b"subscribe", name.encode(), number]
    return client


def message(channel: str, text: str) -> list[bytes]:
    return [b"message", channel.encode(), text.encode()]


def listen_lanes(cluster: Cluster) -> list[ListenLane]:
    lanes: list[ListenLane] = []
    for upstream in cluster.router.upstreams.values():
        lanes += [lane for lane in upstream.lanes.values() if isinstance(lane, ListenLane)]
    return lanes


@trio_test
async def test_all_subscribers_are_told_and_counted() -> None:
    async with run_cluster(3) as cluster:
        old = await subscribed(cluster, "news")
        new = await subscribed(cluster, "news", "sport", protocol=3)
        assert await old.call("PSUBSCRIBE", "n*") == [b"psubscribe", b"n*", 2]
        publisher = await cluster.connect()
        assert await publisher.call("PUBLISH", "news", "hello") == 3
        assert await old.receive() == message("news", "hello")
        assert await old.receive() == [b"pmessage", b"n*", b"news", b"hello"]
        assert await new.receive_raw() == b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"
        assert await publisher.call("PUBLISH", "sport", "1:0") == 1
        assert await publisher.call("PUBLISH", "nothing", "x") == 1
        assert await old.receive() == [b"pmessage", b"n*", b"nothing", b"x"]
        assert sorted(await publisher.call("PUBSUB", "CHANNELS")) == [b"news", b"sport"]
        assert await publisher.call("PUBSUB", "CHANNELS", "s*") == [b"sport"]
        counts = await publisher.call("PUBSUB", "NUMSUB", "news", "sport", "none")
        assert counts == [b"news", 2, b"sport", 1, b"none", 0]
        assert await publisher.call("PUBSUB", "NUMPAT") == 1


@trio_test
async def test_messages_of_a_channel_come_in_their_order() -> None:
    async with run_cluster(3) as cluster:
        client = await subscribed(cluster, "a", "b")
        publisher = await cluster.connect()
        requests = [("PUBLISH", "ab"[number % 2], number) for number in range(200)]
        assert await publisher.call_all(requests) == [1] * 200
        got: dict[bytes, list[int]] = {b"a": [], b"b": []}
        for _ in requests:
            _, channel, text = await client.receive()
            got[channel].append(int(text))
        assert got == {b"a": list(range(0, 200, 2)), b"b": list(range(1, 200, 2))}


@trio_test
async def test_over_resp2_a_subscriber_may_do_little_and_over_resp3_everything() -> None:
    async with run_cluster(3) as cluster:
        old = await subscribed(cluster, "x")
        refused = await old.call("GET", "key")
        assert isinstance(refused, Error)
        assert refused.text.startswith("ERR Can't execute 'get': only (P|S)SUBSCRIBE")
        assert await old.call("PING") == [b"pong", b""]
        assert await old.call("UNSUBSCRIBE", "x") == [b"unsubscribe", b"x", 0]
        assert await old.call("GET", "key") is None
        new = await subscribed(cluster, "x", protocol=3)
        assert await new.call("SET", "key", "value") == "OK"
        # The answer and the message come over two connections.
        both = [await new.call("PUBLISH", "x", "to myself"), await new.receive()]
        assert message("x", "to myself") in both
        assert 1 in both


@trio_test
async def test_sharded_channels_are_listened_to_where_their_slots_are() -> None:
    async with run_cluster(3) as cluster:
        client, publisher = await cluster.connect(), await cluster.connect()
        await client.send("SSUBSCRIBE", *SHARDS)
        for number, name in enumerate(SHARDS, 1):
            assert await client.receive() == [b"ssubscribe", name.encode(), number]
        assert sorted(await publisher.call("PUBSUB", "SHARDCHANNELS")) == sorted(
            name.encode() for name in SHARDS
        )
        cluster.place({0: 1.0, 2: 1.0})
        for name in SHARDS:
            await answered(publisher, 1, "SPUBLISH", name, "m")
            assert await client.receive() == [b"smessage", name.encode(), b"m"]
        # Nobody tells the client that a slot has moved.
        assert await client.call("SUNSUBSCRIBE", SHARDS[0]) == [
            b"sunsubscribe",
            SHARDS[0].encode(),
            2,
        ]
        assert await publisher.call("SPUBLISH", SHARDS[0], "m") == 0


@trio_test
async def test_servers_that_come_and_lanes_that_break_are_told_anew() -> None:
    async with run_cluster(3) as cluster:
        cluster.place({0: 1.0})
        client, publisher = await subscribed(cluster, "x"), await cluster.connect()
        for weights in ({1: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, {2: 1.0}):
            cluster.place(weights)
            await answered(publisher, 1, "PUBLISH", "x", "m")
            assert await client.receive() == message("x", "m")
        for lane in listen_lanes(cluster):
            lane.close()
        await answered(publisher, 1, "PUBLISH", "x", "m")
        assert await client.receive() == message("x", "m")


@trio_test
async def test_what_clients_leave_nobody_listens_to() -> None:
    async with run_cluster(3) as cluster:
        first, second = await subscribed(cluster, "x"), await subscribed(cluster, "x")
        publisher = await cluster.connect()
        await first.aclose()
        await answered(publisher, 1, "PUBLISH", "x", "m")
        assert await second.receive() == message("x", "m")
        assert await second.call("RESET") == "RESET"
        await answered(publisher, 0, "PUBLISH", "x", "m")
        assert await publisher.call("PUBSUB", "CHANNELS") == []


@trio_test
async def test_each_job_has_its_own_channels() -> None:
    async with run_cluster(2) as cluster:
        for job in ("one", "two"):
            cluster.place({0: 1.0, 1: 1.0}, job)
        listeners: dict[str, Any] = {}
        for job in ("one", "two"):
            listeners[job] = await cluster.login(job, 3)
            assert await listeners[job].call("SUBSCRIBE", "x") == [b"subscribe", b"x", 1]
        publisher = await cluster.login("one")
        assert await publisher.call("PUBLISH", "x", "for one") == 1
        assert await listeners["one"].receive() == message("x", "for one")
        assert await listeners["two"].call("PING") == "PONG"


@trio_test
async def test_what_is_wrong_with_pubsub_is_said_as_by_one_server() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert isinstance(await client.call("PUBSUB", "CHANNELS", "a", "b"), Error)
        assert isinstance(await client.call("PUBSUB", "NOSUCH"), Error)
        assert isinstance(await client.call("POCKETKV.LISTEN", "CHANNEL", "x", 1), Error)
        assert isinstance(await client.call("POCKETKV.PUBSUB", "CHANNELS"), Error)
