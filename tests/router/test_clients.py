"""What belongs to one client holds for commands that are passed on, too."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from trio.testing import trio_test

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from pocketkv.serving.shell import drop_largest
from tests.replies import Error
from tests.router.support import Client, Cluster, run_cluster

MIB = 1024 * 1024


@trio_test
async def test_client_reply_off_and_skip() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        await client.send("CLIENT", "REPLY", "OFF")
        for number in range(50):
            await client.send("SET", f"k{number}", number)
        await client.send("MSET", "a", 1, "b", 2, "c", 3)
        await client.send("NOSUCH")
        assert await client.call("CLIENT", "REPLY", "ON") == "OK"
        assert await client.call("DBSIZE") == 53
        await client.send("CLIENT", "REPLY", "SKIP")
        await client.send("GET", "a")
        assert await client.call("GET", "b") == b"2"


@trio_test
async def test_quit_is_answered_after_what_came_before() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        requests = [["SET", f"k{n}", n] for n in range(100)] + [["QUIT"], ["SET", "late", 1]]
        await client.stream.send_all(
            b"".join(encode_request([str(a).encode() for a in r]) for r in requests)
        )
        assert [await client.receive() for _ in range(101)] == ["OK"] * 101
        assert await client.receive_raw() == b""
        other = await cluster.connect()
        assert await other.call("DBSIZE") == 100


@trio_test
async def test_a_client_that_half_closes_gets_its_replies() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        await client.send("SET", "k", "v")
        await client.send("GET", "k")
        await client.stream.send_eof()
        assert [await client.receive(), await client.receive()] == ["OK", b"v"]
        assert await client.receive_raw() == b""


@trio_test
async def test_all_of_a_deep_pipeline_is_served_before_the_end_of_its_client() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        request = encode_request([b"INCR", b"n"]) + encode_request([b"GET", b"m"])
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await client.stream.send_all(request * 4_000)
                await client.stream.send_eof()

            nursery.start_soon(send)
            for number in range(1, 4_001):
                assert await client.receive() == number
                assert await client.receive() is None
        assert await client.receive_raw() == b""


@trio_test
async def test_the_slow_log_has_no_commands_that_only_waited_for_others() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        await client.call("CONFIG", "SET", "slowlog-log-slower-than", 50_000)
        await client.call_all([["SET", f"k{n}", n] for n in range(5000)])
        # On a busy machine some were slow; the whole pipeline would be 128, the most it keeps.
        assert await client.call("SLOWLOG", "LEN") < 50
        assert (await client.call("CONFIG", "SET", "slowlog-log-slower-than", 0)) == "OK"
        await client.call("GET", "k1")
        assert (await client.call("SLOWLOG", "GET", 1))[0][3] == [b"GET", b"k1"]


@trio_test
async def test_reset_leaves_database_and_protocol() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        replies = await client.call_all(
            [
                ["HELLO", 3],
                ["SELECT", 3],
                ["SET", "k", "v"],
                ["RESET"],
                ["GET", "k"],
                ["SELECT", 3],
                ["GET", "k"],
            ]
        )
        assert replies[1:] == ["OK", "OK", "RESET", None, "OK", b"v"]


@trio_test
async def test_client_pause_holds_commands_that_are_passed_on() -> None:
    async with run_cluster(2) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        await client.call("SET", "k", "v")
        assert await other.call("CLIENT", "PAUSE", 60_000, "WRITE") == "OK"
        assert await client.call("GET", "k") == b"v"
        await client.send("SET", "k", "w")
        await client.send("GET", "k")
        with trio.move_on_after(0.05) as scope:
            await client.receive_raw()
        assert scope.cancelled_caught
        assert await other.call("CLIENT", "UNPAUSE") == "OK"
        assert [await client.receive(), await client.receive()] == ["OK", b"w"]


@trio_test
async def test_a_reply_of_the_router_waits_for_those_of_the_servers() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        requests: list[list[object]] = [["SET", "k", "v"], ["CLIENT", "INFO"], ["HELLO", 3]]
        requests += [["GET", "k"], ["NOSUCH"], ["COMMAND", "COUNT"], ["INCR", "n"]]
        replies = await client.call_all(requests)
        assert replies[0] == "OK"
        assert b"resp=2" in replies[1]
        assert replies[2][b"proto"] == 3
        assert replies[3] == b"v"
        assert isinstance(replies[4], Error)
        assert replies[5] > 100
        assert replies[6] == 1


@trio_test
async def test_info_speaks_for_the_whole_job() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        for number in range(100):
            await client.call("SET", f"k{number}", "v", "EX", 1000)
            await client.call("GET", f"k{number}")
        await client.call("GET", "absent")
        text = (await client.call("INFO")).decode()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        assert fields["db0"].startswith("keys=100,expires=100")
        assert (fields["keyspace_hits"], fields["keyspace_misses"]) == ("100", "1")
        assert int(fields["used_memory"]) == sum(
            s.node.keyspace.used_bytes for s in cluster.storages
        )
        assert fields["pocketkv_role"] == "router"
        assert fields["pocketkv_job_slots"] == "16384"
        server_only = await client.call("INFO", "server")
        assert b"# Keyspace" not in server_only
        assert b"redis_version" in server_only
        await client.call("HELLO", 3)
        assert (await client.call("INFO", "keyspace")).text.startswith(
            b"# Keyspace\r\ndb0:keys=100"
        )


@trio_test
async def test_commands_about_one_key_or_slot_go_to_its_owner() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        for number in range(9):
            key = f"k{number}"
            await client.call("SET", key, "value")
            slot = await client.call("CLUSTER", "KEYSLOT", key)
            assert await client.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
            assert await client.call("CLUSTER", "GETKEYSINSLOT", slot, 5) == [key.encode()]
            assert await client.call("MEMORY", "USAGE", key) > 5
            assert await client.call("OBJECT", "ENCODING", key) == b"embstr"
            assert "serializedlength:6" in await client.call("DEBUG", "OBJECT", key)
        assert await client.call("CLUSTER", "COUNTKEYSINSLOT", 16384) == Error("ERR Invalid slot")
        assert isinstance(await client.call("CLUSTER", "COUNTKEYSINSLOT", "x"), Error)


@trio_test
async def test_cluster_clients_are_shown_the_storage_servers() -> None:
    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        slots = await client.call("CLUSTER", "SLOTS")
        assert [[a, b] for a, b, _ in slots] == [[0, 5461], [5462, 10922], [10923, 16383]]
        assert [owner[1] for _, _, owner in slots] == [s.port for s in cluster.storages]


# --- back-pressure -----------------------------------------------------------------------------


async def _set_many(client: Client, name: str, count: int, value: bytes) -> None:
    requests: list[list[object]] = [["SET", f"{name}{n}", value] for n in range(count)]
    assert await client.call_all(requests) == ["OK"] * count


@trio_test
async def test_clients_are_held_back_while_too_much_is_under_way_to_a_server() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "UPSTREAM_BACKLOG_MAX_BYTES", 64 * 1024)
        async with run_cluster(1) as cluster:
            peak = 0
            stop = trio.Event()

            async def watch() -> None:
                nonlocal peak
                while not stop.is_set():
                    for upstream in cluster.router.upstreams.values():
                        peak = max(peak, upstream.in_flight_bytes)
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as watchers:
                watchers.start_soon(watch)
                async with trio.open_nursery() as nursery:
                    for number in range(6):
                        client = await cluster.connect()
                        nursery.start_soon(_set_many, client, f"c{number}:", 60, bytes(10_000))
                stop.set()
            assert 64 * 1024 - 20_000 < peak < 64 * 1024 + 20_000
            assert cluster.used_keys() == [360]


async def _prepare_large(cluster: Cluster) -> bytes:
    client = await cluster.connect()
    value = bytes(range(256)) * (MIB // 256)
    assert await client.call("SET", "large", value) == "OK"
    return value


@trio_test
async def test_a_client_that_does_not_read_is_held_back_and_disturbs_nobody() -> None:
    async with run_cluster(2) as cluster:
        value = await _prepare_large(cluster)
        slow, quick = await cluster.connect(), await cluster.connect()
        count = 300
        await slow.stream.send_all(encode_request([b"GET", b"large"]) * count)
        for number in range(200):
            assert await quick.call("SET", "k", number) == "OK"
            assert await quick.call("GET", "k") == b"%d" % number
        unsent = [c.outbox.pending_bytes for c in cluster.shell.reactor.connections.values()]
        assert sum(unsent) < 200 * MIB
        for _ in range(count):
            assert await slow.receive() == value


@trio_test
async def test_a_client_that_leaves_too_much_unread_is_dropped() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CLIENT_REPLIES_MAX_BYTES", 48 * MIB)
        async with run_cluster(1) as cluster:
            await _prepare_large(cluster)
            slow, quick = await cluster.connect(), await cluster.connect()
            await slow.stream.send_all(encode_request([b"GET", b"large"]) * 600)
            with trio.fail_after(10):
                while not cluster.shell.reactor.dropped:
                    await quick.call("GET", "absent")
            assert list(cluster.shell.reactor.dropped) == ["too many bytes of replies wait for it"]
            assert await quick.call("EXISTS", "large") == 1


@trio_test
async def test_the_largest_are_dropped_when_all_together_take_too_much() -> None:
    async with run_cluster(1) as cluster:
        await _prepare_large(cluster)
        clients = [await cluster.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.stream.send_all(encode_request([b"GET", b"large"]) * (number * 20 + 1))
        reactor = cluster.shell.reactor

        def unsent() -> int:
            return sum(c.outbox.pending_bytes for c in reactor.connections.values())

        with trio.fail_after(10):
            while unsent() < 45 * MIB:
                await trio.lowlevel.checkpoint()
        drop_largest(reactor, 25 * MIB)
        assert list(reactor.dropped.values()) == [1]
        assert unsent() < 25 * MIB
        assert len(await clients[1].receive_raw()) > MIB


# --- the controller ----------------------------------------------------------------------------


class FakeController:
    """Stands for the link to the controller."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.joined = True

    async def call(self, *arguments: object, timeout_s: float) -> object:
        self.calls.append(arguments)
        await trio.lowlevel.checkpoint()
        if arguments[2] == b"JOB.LIST":
            return [{b"id": b"a", b"servers": 2}]
        return b"OK"


@trio_test
async def test_job_commands_go_to_the_controller() -> None:
    async with run_cluster(1) as cluster:
        client = await cluster.connect()
        reply = await client.call("JOB.LIST")
        assert reply == Error(
            "CLUSTERDOWN The controller does not answer: the router is not joined to it"
        )
        controller = FakeController()
        cluster.router.membership = controller  # type: ignore[assignment]
        replies = await client.call_all(
            [["GET", "a"], ["JOB.LIST"], ["JOB.INFO", "a"], ["SET", "a", 1], ["JOB.RENEW"]]
        )
        assert replies[:4] == [None, [[b"id", b"a", b"servers", 2]], "OK", "OK"]
        assert replies[4] == Error("ERR wrong number of arguments for 'job.renew' command")
        context = '{"job": "default", "admin": false}'
        assert controller.calls == [
            ("MEMBER.FORWARD", context, b"JOB.LIST"),
            ("MEMBER.FORWARD", context, b"JOB.INFO", b"a"),
        ]
