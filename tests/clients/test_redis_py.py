"""redis-py: its plain client, the asynchronous one, and the one for clusters."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.commands.core import Script

TIMEOUT_S = 20.0


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    with redis.Redis.from_url(
        url, protocol=request.param, decode_responses=True, socket_timeout=TIMEOUT_S
    ) as client:
        yield client


def test_connecting(client: Any) -> None:
    assert client.ping() is True
    assert client.client_setname("me")
    assert client.client_getname() == "me"
    assert client.info("server")["redis_version"]


def test_pipelines(client: Any) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for number in range(500):
            pipeline.set(f"key:{number}", number)
        for number in range(500):
            pipeline.incr(f"key:{number}")
        answers = pipeline.execute()
    assert answers == [True] * 500 + list(range(1, 501))


def test_transactions(client: Any) -> None:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.multi()
        pipeline.set("{t}a", 1)
        pipeline.incr("{t}a")
        pipeline.rpush("{t}list", "x", "y")
        pipeline.lrange("{t}list", 0, -1)
        assert pipeline.execute() == [True, 2, 2, ["x", "y"]]


def test_a_watched_key_that_changes_breaks_a_transaction(client: Any, url: str) -> None:
    client.set("balance", 10)
    with client.pipeline() as pipeline, redis.Redis.from_url(url) as other:
        pipeline.watch("balance")
        assert pipeline.get("balance") == "10"
        other.set("balance", 11)
        pipeline.multi()
        pipeline.set("balance", 9)
        with pytest.raises(redis.WatchError):
            pipeline.execute()
    assert client.get("balance") == "11"


def test_scripts(client: Any) -> None:
    script: Script = client.register_script(
        "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1]) .. '!'"
    )
    assert script(keys=["key"], args=["value"]) == "value!"
    assert client.script_exists(script.sha) == [True]
    assert client.eval("return {1, 'two', {3}}", 0) == [1, "two", [3]]


def test_a_lock_is_held_by_one(client: Any) -> None:
    with client.lock("lock", timeout=TIMEOUT_S) as lock:
        assert not client.lock("lock", blocking_timeout=0.05).acquire()
        assert lock.owned()
        assert lock.extend(5)
    assert client.lock("lock", blocking_timeout=0.05).acquire()


def test_publishing_and_subscribing(client: Any) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as subscriber:
        subscriber.subscribe("news")
        subscriber.psubscribe("we*")
        # Confirmed before anything is published.
        while subscriber.get_message(timeout=1.0) is not None:
            pass
        assert client.publish("news", "first") == 1
        assert client.publish("weather", "second") == 1
        assert client.publish("nobody", "third") == 0
        messages = [next_message(subscriber) for _ in range(2)]
    assert [(m["type"], m["channel"], m["data"]) for m in messages] == [
        ("message", "news", "first"),
        ("pmessage", "weather", "second"),
    ]


def next_message(subscriber: Any) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        message = subscriber.get_message(timeout=1.0)
        if message is not None:
            return message
    raise AssertionError("no message came")


def test_blocking(client: Any, url: str) -> None:
    def push_later() -> None:
        with redis.Redis.from_url(url) as other:
            # Not before somebody waits, as far as a client can see.
            time.sleep(0.1)
            other.rpush("queue", "job")
            other.zadd("scores", {"best": 1.5})
            other.xadd("stream", {"field": "value"}, id="5-1")

    thread = threading.Thread(target=push_later)
    thread.start()
    try:
        assert client.blpop("queue", timeout=TIMEOUT_S) is not None
        assert list(client.bzpopmin("scores", timeout=TIMEOUT_S)) == ["scores", "best", 1.5]
        found = client.xread({"stream": "0"}, block=int(1000 * TIMEOUT_S))
        assert "value" in str(found)
    finally:
        thread.join()
    assert client.blpop("queue", timeout=0.05) is None


def test_iteration(client: Any) -> None:
    client.mset({f"key:{number}": number for number in range(300)})
    client.sadd("set", *range(1000))
    client.hset("hash", mapping={f"field:{number}": number for number in range(1000)})
    client.zadd("zset", {f"member:{number}": number for number in range(1000)})
    assert len(set(client.scan_iter("key:*", count=20))) == 300
    assert set(client.sscan_iter("set")) == set(map(str, range(1000)))
    assert dict(client.hscan_iter("hash"))["field:7"] == "7"
    assert dict(client.zscan_iter("zset"))["member:7"] == 7.0
    assert len(list(client.scan_iter(_type="hash"))) == 1


def test_every_type_of_value(client: Any) -> None:
    client.setrange("text", 3, "x")
    client.lpush("list", 1, 2, 3)
    client.hset("hash", mapping={"a": 1, "b": 2})
    client.zadd("zset", {"a": 1, "b": 2.5})
    client.xadd("stream", {"a": 1})
    client.pfadd("hll", "a", "b", "c")
    client.geoadd("geo", (13.361389, 38.115556, "Palermo"))
    client.setbit("bits", 7, 1)
    assert client.lrange("list", 0, -1) == ["3", "2", "1"]
    assert client.hgetall("hash") == {"a": "1", "b": "2"}
    ranged = client.zrange("zset", 0, -1, withscores=True)
    assert [tuple(pair) for pair in ranged] == [("a", 1.0), ("b", 2.5)]
    assert client.xlen("stream") == 1
    assert client.pfcount("hll") == 3
    assert client.geopos("geo", "Palermo")[0][0] == pytest.approx(13.361389, abs=1e-5)
    assert client.bitcount("bits") == 1
    client.rpush("numbers", 3, 1, 2)
    assert client.sort("numbers", desc=True) == ["3", "2", "1"]


def test_what_is_dumped_is_restored(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.hset("{d}hash", mapping={"a": 1})
        payload = client.dump("{d}hash")
        client.restore("{d}copy", 0, payload)
        assert client.hgetall("{d}copy") == {b"a": b"1"}


def test_keys_move_between_databases(cluster_url: str) -> None:
    with redis.Redis.from_url(cluster_url) as zero, redis.Redis.from_url(cluster_url, db=1) as one:
        zero.mset({f"key:{number}": number for number in range(100)})
        assert zero.move("key:7", 1)
        assert one.get("key:7") == b"7"
        assert zero.swapdb(0, 1)
        assert (zero.dbsize(), one.dbsize()) == (1, 99)
        assert one.get("key:8") == b"8"
        assert zero.copy("key:7", "key:7", destination_db=2)
        zero.flushall()


# --- asynchronous ------------------------------------------------------------------------------


def test_the_asynchronous_client(url: str) -> None:
    async def main() -> None:
        client: Any = redis.asyncio.Redis.from_url(url, decode_responses=True)
        async with client:
            async with client.pipeline(transaction=True) as pipeline:
                answers = await pipeline.set("{a}x", 1).incr("{a}x").get("{a}x").execute()
            assert answers == [True, 2, "2"]
            async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
                await subscriber.subscribe("channel")
                await asyncio.sleep(0)
                while await subscriber.get_message(timeout=0.5) is not None:
                    pass
                await client.publish("channel", "message")
                async with asyncio.timeout(TIMEOUT_S):
                    while (message := await subscriber.get_message(timeout=1.0)) is None:
                        pass
                assert message["data"] == "message"
            waiting = asyncio.create_task(client.blpop(["queue"], timeout=TIMEOUT_S))
            await asyncio.sleep(0.05)
            await client.lpush("queue", "element")
            assert list(await waiting) == ["queue", "element"]
            await asyncio.gather(*(client.set(f"k:{number}", number) for number in range(50)))
            assert len([key async for key in client.scan_iter("k:*")]) == 50
            assert await client.eval("return ARGV[1]", 0, "echoed") == "echoed"

    asyncio.run(main())


# --- clusters ----------------------------------------------------------------------------------


@pytest.fixture
def cluster(cluster_url: str) -> Iterator[Any]:
    with redis.RedisCluster.from_url(cluster_url, decode_responses=True) as cluster:
        yield cluster


def test_the_cluster_client(cluster: Any) -> None:
    keys = {f"key:{number}": str(number) for number in range(200)}
    for key, value in keys.items():
        cluster.set(key, value)
    assert cluster.mget_nonatomic(list(keys)) == list(keys.values())
    with cluster.pipeline() as pipeline:
        for key in keys:
            pipeline.incr(key)
        assert pipeline.execute() == [int(value) + 1 for value in keys.values()]
    assert set(cluster.scan_iter("key:*", count=20)) == set(keys)
    with cluster.pipeline(transaction=True) as pipeline:
        pipeline.set("{t}a", 1)
        pipeline.incr("{t}a")
        assert pipeline.execute() == ["OK", 2]
    assert cluster.eval("return redis.call('GET', KEYS[1])", 1, "key:7") == "8"
    cluster.rpush("queue", "element")
    assert list(cluster.blpop("queue", timeout=TIMEOUT_S)) == ["queue", "element"]


def test_sharded_channels(cluster: Any) -> None:
    subscriber = cluster.pubsub(ignore_subscribe_messages=True)
    subscriber.ssubscribe("channel")
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        subscriber.get_sharded_message(timeout=0.1)
    cluster.spublish("channel", "message")
    message = None
    deadline = time.monotonic() + TIMEOUT_S
    while message is None and time.monotonic() < deadline:
        message = subscriber.get_sharded_message(timeout=0.5)
    assert message is not None
    assert message["data"] == "message"
    subscriber.close()


def test_the_asynchronous_cluster_client(cluster_url: str) -> None:
    async def main() -> None:
        async with redis.asyncio.RedisCluster.from_url(
            cluster_url, decode_responses=True
        ) as cluster:
            for number in range(100):
                await cluster.set(f"key:{number}", number)
            pipeline: Any = cluster.pipeline()
            for number in range(100):
                pipeline.get(f"key:{number}")
            assert await pipeline.execute() == [str(number) for number in range(100)]

    asyncio.run(main())
