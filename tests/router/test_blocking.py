"""Blocking commands through a router: on a lane of their client alone, wherever the keys go."""

from __future__ import annotations

import pytest
import trio
from trio.testing import trio_test

from pocketkv import limits
from pocketkv.engine.commands import COMMANDS
from pocketkv.router.private import may_block, with_time_left
from pocketkv.router.upstream import SPARE_NUMBER, Upstream
from tests.replies import Error
from tests.router.support import Client, Cluster, answered, eventually, run_cluster, to_bytes
from tests.router.test_routing import key_of_server
from tests.router.test_transactions import private_lanes

HERE, ALSO_HERE, THERE = key_of_server(0, 3), key_of_server(0, 3, "also"), key_of_server(2, 3)
WAITING = ("BZPOPMIN", HERE, 0)


async def until_blocked(cluster: Cluster, count: int) -> None:
    """Wait until so many clients wait at storage servers."""

    def are_blocked() -> bool:
        return sum(s.node.blocked_clients for s in cluster.storages) == count

    await eventually(are_blocked)


async def waiting(cluster: Cluster, *request: object) -> Client:
    client = await cluster.connect()
    before = sum(s.node.blocked_clients for s in cluster.storages)
    await client.send(*(request or WAITING))
    await until_blocked(cluster, before + 1)
    return client


@pytest.mark.parametrize("protocol", [2, 3])
@trio_test
async def test_it_answers_when_there_is_something_or_the_time_is_up(protocol: int) -> None:
    async with run_cluster(3) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        await client.call("HELLO", protocol)
        assert await client.call("BZPOPMIN", HERE, 0.01) is None
        await other.call("ZADD", HERE, 1, "a", 2, "b")
        one, two = (1.0, 2.0) if protocol == 3 else (b"1", b"2")
        assert await client.call(*WAITING) == [HERE.encode(), b"a", one]
        got = await client.call("BZPOPMIN", ALSO_HERE, HERE, 0)
        assert got == [HERE.encode(), b"b", two]
        await client.send(*WAITING)
        await until_blocked(cluster, 1)
        await other.call("ZADD", HERE, 1, "c")
        assert await client.receive() == [HERE.encode(), b"c", one]


@trio_test
async def test_what_comes_after_it_waits_and_what_came_before_it_is_done_first() -> None:
    async with run_cluster(3) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        pipeline = [("ZADD", HERE, 1, "a"), WAITING, WAITING, ("SET", THERE, "late"), ("PING",)]
        async with trio.open_nursery() as nursery:
            replies: list[object] = []

            async def ask() -> None:
                replies.extend(await client.call_all(pipeline))

            nursery.start_soon(ask)
            await until_blocked(cluster, 1)
            assert await other.call("GET", THERE) is None
            await other.call("ZADD", HERE, 5, "b")
        assert replies == [
            1,
            [HERE.encode(), b"a", b"1"],
            [HERE.encode(), b"b", b"5"],
            "OK",
            "PONG",
        ]


@trio_test
async def test_those_who_wait_are_served_in_their_order_and_share_nothing() -> None:
    async with run_cluster(3) as cluster:
        clients = [await waiting(cluster) for _ in range(5)]
        other = await cluster.connect()
        await other.call("ZADD", HERE, 1, "a", 2, "b", 3, "c", 4, "d", 5, "e")
        got = [(await client.receive())[1] for client in clients]
        assert got == [b"a", b"b", b"c", b"d", b"e"]
        assert await other.call("EXISTS", HERE) == 0
        # The lanes stay for what is asked next.
        opened = cluster.router.counters.lanes_opened
        assert await clients[0].call("BZPOPMIN", HERE, 0.001) is None
        assert cluster.router.counters.lanes_opened == opened


@trio_test
async def test_a_client_that_goes_takes_nothing_with_it() -> None:
    async with run_cluster(3) as cluster:
        gone = await waiting(cluster)
        stays = await waiting(cluster)
        await gone.aclose()
        await until_blocked(cluster, 1)
        other = await cluster.connect()
        await other.call("ZADD", HERE, 1, "a")
        assert (await stays.receive())[1] == b"a"
        assert cluster.router.node.blocked_clients == 0


@trio_test
async def test_keys_of_several_servers_are_refused() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await client.call("BZPOPMIN", HERE, THERE, 0) == Error(
            "CROSSSLOT Keys in request don't hash to the same slot"
        )
        await client.call("SET", HERE, "text")
        assert isinstance(await client.call(*WAITING), Error)
        assert isinstance(await client.call("BZPOPMIN", HERE, "soon"), Error)
        assert isinstance(await client.call("BZPOPMIN"), Error)
        assert cluster.router.node.blocked_clients == 0


@pytest.mark.parametrize("router_knows", [True, False])
@trio_test
async def test_it_goes_on_waiting_where_its_keys_have_gone(router_knows: bool) -> None:
    async with run_cluster(3) as cluster:
        client, other = await waiting(cluster), await cluster.connect()
        for target in (1, 2, 0):
            placement = cluster.plan({target: 1.0})
            cluster.tell_storage(placement)
            if router_knows:
                cluster.tell_router(placement)
            waits_at = cluster.storages[target].node
            await eventually(lambda node=waits_at: node.blocked_clients)  # type: ignore[misc]
        await other.call("ZADD", HERE, 1, "a")
        assert (await client.receive())[1] == b"a"


@trio_test
async def test_its_time_is_not_longer_for_that() -> None:
    async with run_cluster(2) as cluster:
        began_s = trio.current_time()
        client = await waiting(cluster, "BZPOPMIN", HERE, 1.5)
        await trio.sleep(1.0)
        cluster.place({1: 1.0})
        assert await client.receive() is None
        assert 1.4 < trio.current_time() - began_s < 2.4


@trio_test
async def test_client_unblock_and_client_list_are_of_the_routers_clients() -> None:
    async with run_cluster(3) as cluster:
        other = await cluster.connect()
        for reason, expected in [
            ((), None),
            (("TIMEOUT",), None),
            (("ERROR",), Error("UNBLOCKED client unblocked via CLIENT UNBLOCK")),
        ]:
            client = await cluster.connect()
            number = await client.call("CLIENT", "ID")
            assert await other.call("CLIENT", "UNBLOCK", number) == 0
            await client.send(*WAITING)
            # It counts from the moment at which the router has it.
            await answered(other, 1, "CLIENT", "UNBLOCK", number, *reason)
            assert await client.receive() == expected
            assert await client.call("PING") == "PONG"
        client = await waiting(cluster)
        lines = (await other.call("CLIENT", "LIST")).split(b"\n")
        assert sum(b" flags=b " in line for line in lines) == 1
        assert b"blocked_clients:1\r\n" in await other.call("INFO", "clients")
        assert (
            await other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == len(lines) - 2
        )
        await until_blocked(cluster, 0)


@trio_test
async def test_a_job_that_ends_takes_its_waiting_clients_with_it() -> None:
    async with run_cluster(2) as cluster:
        cluster.place({0: 1.0, 1: 1.0}, "job")
        client = await cluster.login("job")
        await client.send(*WAITING)
        await until_blocked(cluster, 1)
        cluster.router.node.topology.end_job("job", cluster.epoch + 1)
        cluster.router.job_ended("job")
        cluster.router.topology_changed()
        assert await client.receive_raw() == b""
        await until_blocked(cluster, 0)


@trio_test
async def test_a_lane_that_breaks_is_replaced_and_a_server_that_left_too() -> None:
    async with run_cluster(2) as cluster:
        client, other = await waiting(cluster), await cluster.connect()
        (lane,) = private_lanes(cluster)
        lane.fail(ConnectionResetError(104, "reset"))
        await until_blocked(cluster, 1)
        await other.call("ZADD", HERE, 1, "a")
        assert (await client.receive())[1] == b"a"


@trio_test
async def test_silence_is_not_held_against_a_server_that_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_PROBE_S", 0.1)
    async with run_cluster(2) as cluster:
        client, other = await waiting(cluster), await cluster.connect()
        (lane,) = private_lanes(cluster)
        before = lane.upstream.router.counters.lanes_opened
        lane.on_sweep(lane.last_receive_s + 100)
        # The server is asked, on another lane.
        await eventually(lambda: cluster.router.counters.lanes_opened > before)
        assert not lane.closed
        await other.call("ZADD", HERE, 1, "a")
        assert (await client.receive())[1] == b"a"


def test_what_is_left_of_a_time_out() -> None:
    def left(waited_s: float, *request: object) -> list[bytes]:
        words = [to_bytes(word) for word in request]
        return with_time_left(words[0].decode().lower(), words, waited_s)

    assert left(1, "BLPOP", "key", "2.5") == [b"BLPOP", b"key", b"1.500"]
    assert left(9, "BLMOVE", "a", "b", "LEFT", "LEFT", "2")[-1] == b"0.001"
    assert left(1, "BZPOPMAX", "key", "0")[-1] == b"0"
    assert left(1, "BLMPOP", "3", "1", "key", "LEFT")[1] == b"2.000"
    assert left(0.5, "XREAD", "BLOCK", "900", "STREAMS", "s", "$")[2] == b"400"
    assert left(5, "XREADGROUP", "GROUP", "g", "c", "block", "900", "STREAMS", "s", ">")[5] == b"1"
    assert left(5, "XREAD", "STREAMS", "BLOCK", "0") == [b"XREAD", b"STREAMS", b"BLOCK", b"0"]


def test_every_blocking_command_is_known() -> None:
    """A command that may block has a time-out that a router finds."""
    blocking = {c.name for c in COMMANDS.values() if "blocking" in c.flags}
    for name in blocking - {"wait", "waitaof"}:
        request = [name.encode(), b"BLOCK", b"7000", b"STREAMS", b"key", b"7000"]
        if name in {"blmpop", "bzmpop"}:
            request[1] = b"7000"
        assert may_block(COMMANDS[name.encode()], request)
        assert with_time_left(name, request, 1) != request


@trio_test
async def test_a_client_that_blocks_is_there_before_what_others_ask_later() -> None:
    wait = ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", HERE, ">")
    async with run_cluster(1) as cluster:
        other = await cluster.connect()
        await other.call("PING")
        for database in (0, 3):
            # A lane of its own, which it has not had before.
            client = await cluster.connect()
            for one in (client, other):
                await one.call("SELECT", database)
            await other.call("XGROUP", "CREATE", HERE, "g", "$", "MKSTREAM")
            await eventually(lambda: any(map(has_spare, cluster.router.upstreams.values())))
            await client.send(*wait)
            assert await other.call("DEL", HERE) == 1
            # Had it come later, there would have been no such group.
            assert "no longer exists" in (await client.receive()).text


@trio_test
async def test_a_client_that_waits_is_not_sent_on_where_its_server_has_died() -> None:
    async with run_cluster(2) as cluster:
        client = await waiting(cluster)
        (lane,) = private_lanes(cluster)
        upstream = lane.upstream
        await eventually(lambda: has_spare(upstream))
        spare = next(one for one in upstream.lanes.values() if one.key[3] == SPARE_NUMBER)
        lane.fail(ConnectionResetError(104, "reset"))
        # Whoever asks again does so on a new connection: the others may have ended as well.
        assert spare.closed
        await until_blocked(cluster, 1)
        await (await cluster.connect()).call("ZADD", HERE, 1, "a")
        assert (await client.receive())[1] == b"a"


def has_spare(upstream: Upstream) -> bool:
    return any(lane.key[3] == SPARE_NUMBER and lane.is_ready for lane in upstream.lanes.values())
