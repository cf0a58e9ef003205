"""CONFIG SET and DEBUG through a router: what concerns values reaches all of a job's servers."""

from __future__ import annotations

from trio.testing import trio_test

from tests.replies import Error
from tests.router.support import eventually, run_cluster
from tests.router.test_routing import key_of_server

KEYS = [key_of_server(index, 3) for index in range(3)]


@trio_test
async def test_how_values_are_kept_is_set_everywhere_and_at_servers_that_come() -> None:
    async with run_cluster(3) as cluster:
        cluster.place({0: 1.0, 1: 1.0})
        client = await cluster.connect()
        values = [storage.node.settings for storage in cluster.storages]
        assert await client.call("CONFIG", "SET", "hash-max-ziplist-entries", 7) == "OK"
        assert [v.hash_max_listpack_entries for v in values] == [7, 7, 512]
        cluster.place({0: 1.0, 1: 1.0, 2: 1.0})
        await eventually(lambda: values[2].hash_max_listpack_entries == 7)
        got = await client.call("CONFIG", "GET", "hash-max-listpack-entries")
        assert got == [b"hash-max-listpack-entries", b"7"]
        # What concerns connections is the router's own.
        assert await client.call("CONFIG", "SET", "timeout", 100, "list-compress-depth", 1) == "OK"
        assert [v.timeout for v in values] == [0, 0, 0]
        assert [v.list_compress_depth for v in values] == [1, 1, 1]
        assert isinstance(await client.call("CONFIG", "SET", "nosuch", 1), Error)
        assert isinstance(await client.call("CONFIG", "SET", "hll-sparse-max-bytes", "x"), Error)


@trio_test
async def test_what_happens_to_keys_is_told_wherever_they_are() -> None:
    async with run_cluster(3) as cluster:
        cluster.place({0: 1.0, 1: 1.0})
        client, listener = await cluster.connect(), await cluster.connect()
        await listener.call("PSUBSCRIBE", "__keyevent@0__:*")
        assert await client.call("CONFIG", "SET", "notify-keyspace-events", "KEA") == "OK"
        for key in KEYS:
            await client.call("SET", key, 1)
            assert await listener.receive() == [
                b"pmessage",
                b"__keyevent@0__:*",
                b"__keyevent@0__:set",
                key.encode(),
            ]
        cluster.place({2: 1.0})
        await eventually(lambda: cluster.storages[2].node.keyspace.open("default").notify_flags)
        await client.call("DEL", KEYS[0])
        assert (await listener.receive())[2:] == [b"__keyevent@0__:del", KEYS[0].encode()]


@trio_test
async def test_a_digest_is_of_all_keys() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        empty = await client.call("DEBUG", "DIGEST")
        assert empty == "0" * 40
        for key in KEYS:
            await client.call("SET", key, key)
        spread = await client.call("DEBUG", "DIGEST")
        cluster.place({1: 1.0})
        assert await client.call("DEBUG", "DIGEST") == spread != empty
        assert await client.call("DEBUG", "RELOAD") == "OK"
