"""Commands of plain clients at a router, on real servers: as if there were only one."""

from __future__ import annotations

from trio.testing import trio_test

from pocketkv.slots import key_slot
from tests.replies import Error
from tests.router.support import run_cluster

KEYS = [f"key:{number}" for number in range(60)]


def key_of_server(index: int, servers: int, prefix: str = "k") -> str:
    """A key whose slot is in the given part of evenly spread slots."""
    width = 16384 // servers
    for number in range(100_000):
        key = f"{prefix}{number}"
        if key_slot(key.encode()) // width == index:
            return key
    raise AssertionError("no such key")


@trio_test
async def test_single_keys_go_to_their_owners() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        for key in KEYS:
            assert await client.call("SET", key, f"value of {key}") == "OK"
        assert all(0 < count < len(KEYS) for count in cluster.used_keys())
        for key in KEYS:
            assert await client.call("GET", key) == f"value of {key}".encode()
        assert await client.call("GET", "absent") is None
        assert await client.call("INCR", KEYS[0]) == Error(
            "ERR value is not an integer or out of range"
        )


@trio_test
async def test_commands_of_many_keys_are_split_and_merged() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        pairs = [word for key in KEYS for word in (key, f"v{key}")]
        assert await client.call("MSET", *pairs) == "OK"
        expected = [f"v{key}".encode() for key in KEYS]
        assert await client.call("MGET", *KEYS, "absent") == [*expected, None]
        assert await client.call("MGET", *reversed(KEYS)) == expected[::-1]
        assert await client.call("EXISTS", *KEYS, KEYS[0], "absent") == len(KEYS) + 1
        assert await client.call("TOUCH", *KEYS) == len(KEYS)
        assert await client.call("DBSIZE") == len(KEYS)
        assert sorted(await client.call("KEYS", "*")) == sorted(key.encode() for key in KEYS)
        assert await client.call("DEL", *KEYS[:20], "absent") == 20
        assert await client.call("UNLINK", *KEYS[:30]) == 10
        assert await client.call("DBSIZE") == 30
        assert await client.call("FLUSHALL") == "OK"
        assert cluster.used_keys() == [0, 0, 0]


@trio_test
async def test_scan_meets_every_key_once_and_ends_with_zero() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        # Several ranges per server.
        cluster.place({0: 3.0, 1: 1.0, 2: 2.0})
        cluster.place({0: 1.0, 1: 3.0, 2: 1.0})
        await client.call("MSET", *[word for key in KEYS for word in (key, "v")])
        found: list[bytes] = []
        cursor = b"0"
        while True:
            cursor, keys = await client.call("SCAN", cursor, "COUNT", 7)
            found += keys
            if cursor == b"0":
                break
        assert sorted(found) == sorted(key.encode() for key in KEYS)
        assert await client.call("SCAN", "nonsense") == Error("ERR invalid cursor")
        assert await client.call("SCAN", 0, "COUNT", "x") == Error(
            "ERR value is not an integer or out of range"
        )
        assert await client.call("SCAN", 2**63) == [b"0", []]


@trio_test
async def test_random_key_finds_the_only_key() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await client.call("RANDOMKEY") is None
        for index in range(3):
            key = key_of_server(index, 3)
            await client.call("SET", key, "v")
            assert await client.call("RANDOMKEY") == key.encode()
            await client.call("DEL", key)


@trio_test
async def test_keys_of_one_command_may_not_have_several_owners() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        here, there = key_of_server(0, 3), key_of_server(2, 3)
        await client.call("SET", here, "v")
        assert await client.call("RENAME", here, there) == Error(
            "CROSSSLOT Keys in request don't hash to the same slot"
        )
        assert await client.call("RENAME", here, key_of_server(0, 3, "other")) == "OK"
        assert await client.call("MSETNX", here, "1", there, "2") == Error(
            "CROSSSLOT Keys in request don't hash to the same slot"
        )


@trio_test
async def test_a_job_on_one_server_meets_no_limits() -> None:
    async with run_cluster(1) as cluster:
        client = await cluster.connect()
        assert await client.call("MSETNX", "a", "1", "b", "2", "c", "3") == 1
        assert await client.call("RENAME", "a", "d") == "OK"
        assert await client.call("MGET", "a", "b", "c", "d") == [None, b"2", b"3", b"1"]


@trio_test
async def test_what_is_wrong_is_refused_as_by_one_server() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        a, b = key_of_server(0, 3), key_of_server(1, 3)
        assert await client.call("MSET", a, "1", b) == Error(
            "ERR wrong number of arguments for 'mset' command"
        )
        assert await client.call("GET") == Error("ERR wrong number of arguments for 'get' command")
        reply = await client.call("NOSUCH", "a")
        assert reply == Error("ERR unknown command 'NOSUCH', with args beginning with: 'a' ")


@trio_test
async def test_clients_cannot_use_commands_between_servers() -> None:
    async with run_cluster(1) as cluster:
        client = await cluster.connect()
        for name in ("POCKETKV.PROXY", "pocketkv.proxy", "MEMBER.JOIN"):
            reply = await client.call(name, "x", "y")
            assert reply == Error(
                f"ERR unknown command '{name}', with args beginning with: 'x' 'y' "
            )


@trio_test
async def test_pipelines_over_all_servers_keep_their_order() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        requests: list[list[object]] = []
        expected: list[object] = []
        for number in range(2500):
            key = f"k{number % 97}"
            requests += [["SET", key, number], ["GET", key], ["PING", number], ["STRLEN", key]]
            expected += ["OK", b"%d" % number, b"%d" % number, len(str(number))]
        assert await client.call_all(requests) == expected


@trio_test
async def test_each_protocol_has_its_own_replies() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        await client.send("GET", "absent")
        await client.send("SADD", "s", "m")
        await client.send("SMEMBERS", "s")
        await client.send("HELLO", 3)
        await client.send("GET", "absent")
        await client.send("SMEMBERS", "s")
        await client.send("HELLO", 2)
        await client.send("GET", "absent")
        raw = [await client.receive_raw() for _ in range(8)]
        assert raw[0] == raw[7] == b"$-1\r\n"
        assert raw[2] == b"*1\r\n$1\r\nm\r\n"
        assert raw[3].startswith(b"%")
        assert raw[4] == b"_\r\n"
        assert raw[5] == b"~1\r\n$1\r\nm\r\n"
        assert raw[6].startswith(b"*")


@trio_test
async def test_databases_are_apart_and_a_change_keeps_the_order() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        requests: list[list[object]] = []
        expected: list[object] = []
        for round_ in range(50):
            requests += [["SELECT", 1], ["SET", "k", round_], ["SELECT", 0], ["GET", "k"]]
            expected += ["OK", "OK", "OK", None]
        requests += [["SET", "a", 1], ["SELECT", 1], ["FLUSHALL"], ["SELECT", 0], ["EXISTS", "a"]]
        expected += ["OK", "OK", "OK", "OK", 0]
        assert await client.call_all(requests) == expected
        assert cluster.used_keys() == [0, 0, 0]
