"""Scripts and functions through a router: all servers of a job know them."""

from __future__ import annotations

import hashlib

import pytest
import trio
from trio.testing import trio_test

from pocketkv.engine.acl import follow_users
from tests.replies import Error
from tests.router.support import Cluster, run_cluster
from tests.router.test_routing import key_of_server
from tests.router.test_transactions import execute

KEYS = [key_of_server(index, 3) for index in range(3)]
SCRIPT = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
LIBRARY = """#!lua name=mine
redis.register_function('add', function(keys, args)
    return redis.call('INCRBY', keys[1], args[1])
end)"""
CROSS_SLOT = Error("CROSSSLOT Keys in request don't hash to the same slot")


@trio_test
async def test_a_script_is_executed_where_its_keys_are() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        for key in KEYS:
            assert await client.call("EVAL", SCRIPT, 1, key, 2) == 2
        assert await client.call("MGET", *KEYS) == [b"2"] * 3
        assert await client.call("EVAL", "return 'no keys'", 0) == b"no keys"
        assert await client.call("EVAL", SCRIPT, 2, KEYS[0], KEYS[1], 1) == CROSS_SLOT
        assert isinstance(await client.call("EVAL", SCRIPT, "x"), Error)
        assert await execute(client, ("EVAL", SCRIPT, 1, KEYS[0], 5)) == [7]


@trio_test
async def test_what_is_loaded_is_loaded_everywhere() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await client.call("SCRIPT", "EXISTS", SHA, "0" * 40) == [0, 0]
        assert await client.call("SCRIPT", "LOAD", SCRIPT) == SHA.encode()
        assert await client.call("SCRIPT", "EXISTS", SHA, "0" * 40) == [1, 0]
        pipeline = [("EVALSHA", SHA, 1, key, 1) for key in KEYS]
        assert await client.call_all(pipeline) == [1, 1, 1]
        assert await client.call("SCRIPT", "FLUSH") == "OK"
        assert isinstance(await client.call("EVALSHA", SHA, 1, KEYS[0], 1), Error)
        assert isinstance(await client.call("SCRIPT", "LOAD", "return return"), Error)


@trio_test
async def test_a_server_that_lacks_a_script_is_given_it() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        cluster.place({0: 1.0})
        assert await client.call("EVAL", SCRIPT, 1, KEYS[0], 1) == 1
        cluster.place({0: 1.0, 1: 1.0, 2: 1.0})
        for key in KEYS[1:]:
            assert await client.call("EVALSHA", SHA.upper(), 1, key, 3) == 3
            assert await client.call("EVALSHA", SHA, 1, key, 3) == 6
        assert await client.call("EVALSHA", "0" * 40, 0) == Error(
            "NOSCRIPT No matching script. Please use EVAL."
        )


@trio_test
async def test_functions_are_loaded_everywhere_and_where_they_lack() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        cluster.place({0: 1.0})
        assert await client.call("FUNCTION", "LOAD", LIBRARY) == b"mine"
        assert await client.call("FCALL", "add", 1, KEYS[0], 1) == 1
        cluster.place({0: 1.0, 1: 1.0, 2: 1.0})
        for key in KEYS[1:]:
            assert await client.call("FCALL", "add", 1, key, 3) == 3
        assert isinstance(await client.call("FCALL", "nosuch", 0), Error)
        (listed,) = await client.call("FUNCTION", "LIST")
        assert listed[1] == b"mine"
        assert await client.call("FUNCTION", "LOAD", "REPLACE", LIBRARY) == b"mine"
        assert isinstance(await client.call("FUNCTION", "LOAD", LIBRARY), Error)
        assert await client.call("FUNCTION", "DELETE", "mine") == "OK"
        assert await client.call("FUNCTION", "DELETE", "mine") == Error("ERR Library not found")
        assert await client.call("FUNCTION", "LIST") == []


@pytest.mark.parametrize("protocol", [2, 3])
@trio_test
async def test_a_script_that_does_not_end_is_killed(protocol: int) -> None:
    async with run_cluster(3) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        await other.call("HELLO", protocol)
        assert await other.call("SCRIPT", "KILL") == Error(
            "NOTBUSY No scripts in execution right now."
        )
        await client.send("EVAL", "while true do end", 1, KEYS[1])
        with trio.fail_after(20):
            while await other.call("SCRIPT", "KILL") != "OK":  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
        assert isinstance(await client.receive(), Error)
        assert await client.call("PING") == "PONG"


@trio_test
async def test_ping_says_that_a_script_takes_long() -> None:
    async with run_cluster(2) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        assert await client.call("CONFIG", "SET", "busy-reply-threshold", 10) == "OK"
        assert await other.call("PING") == "PONG"
        # It has used scripts before, as the other one.
        assert await other.call("EVAL", "return 1", 1, KEYS[0]) == 1
        await client.send("EVAL", "while true do end", 1, KEYS[0])
        with trio.fail_after(20):
            while (reply := await other.call("PING")) == "PONG":  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
            assert isinstance(reply, Error)
            assert reply.text.startswith("BUSY")
            assert (await other.call("FUNCTION", "STATS"))[0] == b"running_script"
            assert await other.call("SCRIPT", "KILL") == "OK"
        assert isinstance(await client.receive(), Error)
        assert await other.call("PING", "hello") == b"hello"


@trio_test
async def test_a_router_that_has_no_connection_yet_can_end_a_script() -> None:
    async with run_cluster(1) as cluster:
        client = await cluster.connect()
        assert await client.call("CONFIG", "SET", "busy-reply-threshold", 10) == "OK"
        await client.send("EVAL", "while true do end", 1, KEYS[0])
        other = client
        with trio.fail_after(20):
            # A lane of its own for each: of another database, of another protocol, of a waiter.
            for set_up in (("SELECT", 3), ("HELLO", 3), ("PING",)):
                other = await cluster.connect()
                await other.call(*set_up)
                for request in (("GET", KEYS[0]), ("BLPOP", KEYS[0], 1)):
                    reply = await other.call(*request)
                    assert isinstance(reply, Error)
                    assert reply.text.startswith("BUSY")
            assert await other.call("SCRIPT", "KILL") == "OK"
        assert isinstance(await client.receive(), Error)
        assert await other.call("GET", KEYS[0]) is None


def have_bob(cluster: Cluster, *rules: str) -> None:
    """Have everybody know of a user, as the controller would."""
    text = " ".join(("on", "nopass", "~x*", "+@scripting", "+get", *rules))
    for node in (cluster.router.node, *(storage.node for storage in cluster.storages)):
        follow_users(node, "default", {"bob": text})


@trio_test
async def test_scripts_call_only_what_their_user_may() -> None:
    async with run_cluster(2) as cluster:
        bob = await cluster.connect()
        have_bob(cluster, "+multi", "+exec", "+select", "+auth")
        assert await bob.call("AUTH", "bob", "any") == "OK"
        write = "return redis.call('set', KEYS[1], 'v')"
        denied = "The user executing the script can't run this command"
        for database in (0, 2):
            assert await bob.call("SELECT", database) == "OK"
            assert denied in (await bob.call("EVAL", write, 1, "x")).text
            assert await bob.call("EVAL", "return redis.call('get', KEYS[1])", 1, "x") is None
            may = "return redis.acl_check_cmd('set', KEYS[1], 'v')"
            assert await bob.call("EVAL", may, 1, "x") is None
            replies = await bob.call_all([("MULTI",), ("EVAL", write, 1, "x"), ("EXEC",)])
            assert denied in replies[-1][0].text
        # What it may, is followed at once.
        have_bob(cluster, "+set", "+auth")
        assert await bob.call("EVAL", write, 1, "x") == "OK"
        assert await bob.call("AUTH", "default", "") == "OK"
        assert await bob.call("EVAL", write, 1, "y") == "OK"
