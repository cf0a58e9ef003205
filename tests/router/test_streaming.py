"""Long replies pass through a router as they arrive: right to the byte, or the client is gone."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import trio_test

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from tests.replies import Error
from tests.router.support import Client, Cluster, run_cluster, to_bytes
from tests.router.test_failures import ILL, WELL, FakeStorage, run_with_fake, until


@pytest.fixture(autouse=True)
def no_early_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is played here has only the connections that are asked for."""
    monkeypatch.setattr(limits, "EARLY_SPARE_LANE_MAX", 0)


KIB = 1024
MIB = 1024 * KIB
SIZES = (
    limits.STREAMED_REPLY_BYTES - 20,
    limits.STREAMED_REPLY_BYTES,
    limits.STREAMED_REPLY_BYTES + 1,
    limits.RECEIVE_LARGE_BYTES - 1,
    limits.RECEIVE_LARGE_BYTES + limits.RECEIVE_BYTES,
    3 * MIB + 7,
)


def value_of(size: int) -> bytes:
    """Bytes that are at no two places alike."""
    return random.Random(size).randbytes(size)


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


async def receive_exactly(client: Client, size: int, piece_bytes: int = MIB) -> bytes:
    """So many bytes, taken in pieces of a size."""
    received = bytearray()
    with trio.fail_after(20):
        while len(received) < size:
            data = await client.stream.receive_some(min(piece_bytes, size - len(received)))
            assert data, f"the connection ended after {len(received)} of {size} bytes"
            received += data
    return bytes(received)


async def receive_to_end(client: Client) -> bytes:
    """All that comes until the connection ends, however it does."""
    received = bytearray()
    with trio.fail_after(20):
        try:
            async for data in client.stream:
                received += data
        except trio.BrokenResourceError:
            pass  # Cut off is an end as well.
    return bytes(received)


async def send_raw(client: Client, *requests: Sequence[object]) -> None:
    await client.stream.send_all(
        b"".join(encode_request([to_bytes(a) for a in r]) for r in requests)
    )


async def store(cluster: Cluster, **values: bytes) -> None:
    client = await cluster.connect()
    for key, value in values.items():
        assert await client.call("SET", key, value) == "OK"


def shrink_buffers(client: Client) -> None:
    """Have the kernel hold little for a client that does not read."""
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)


# --- whole and right ---------------------------------------------------------------------------


@pytest.mark.parametrize("has_pipe", [True, False])
def test_replies_of_every_size_are_right_for_clients_of_every_speed(has_pipe: bool) -> None:
    async def main() -> None:
        async with run_cluster(2) as cluster:
            values = {f"v{size}": value_of(size) for size in SIZES}
            await store(cluster, **values)
            relay = cluster.router.relay
            assert relay.pipe_bytes == MIB
            if not has_pipe:
                relay.close()
            for piece_bytes in (MIB, 10_000):
                client = await cluster.connect()
                shrink_buffers(client)
                await send_raw(client, *(["GET", key] for key in values), ["PING"])
                for value in values.values():
                    expected = bulk(value)
                    assert await receive_exactly(client, len(expected), piece_bytes) == expected
                assert await receive_exactly(client, 7) == b"+PONG\r\n"

    trio.run(main)


@pytest.mark.parametrize("servers", [1, 3])
def test_pipelines_of_small_and_long_replies_keep_their_order(servers: int) -> None:
    async def main() -> None:
        async with run_cluster(servers) as cluster:
            large, larger = value_of(200 * KIB), value_of(MIB + 1)
            await store(cluster, large=large, larger=larger, small=b"x")
            requests: list[list[object]] = []
            expected: list[object] = []
            for number in range(12):
                key = f"k{number}"
                requests += [["GET", "large"], ["SET", key, number], ["GET", "small"], ["GET", key]]
                expected += [large, "OK", b"x", b"%d" % number]
                requests += [["GET", "larger"], ["MGET", "small", "large", "absent", "larger"]]
                expected += [larger, [b"x", large, None, larger]]
                requests += [["PING", "here"], ["INCR", "small"], ["GETRANGE", "larger", 5, 99_999]]
                expected += [b"here", Error("ERR value is not an integer or out of range")]
                expected += [larger[5:100_000]]
            client = await cluster.connect()
            assert await client.call_all(requests) == expected

    trio.run(main)


@trio_test
async def test_aggregates_pass_in_both_protocols() -> None:
    async with run_cluster(2) as cluster:
        client = await cluster.connect()
        members = {f"member {number} {'x' * (number % 50)}".encode() for number in range(20_000)}
        await client.call("SADD", "set", *members)
        large = {value_of(size) for size in range(90 * KIB, 130 * KIB, 5 * KIB)}
        await client.call("SADD", "large", *large)
        for protocol in (2, 3):
            await client.call("HELLO", protocol)
            assert set(await client.call("SMEMBERS", "set")) == members
            assert set(await client.call("SMEMBERS", "large")) == large
            found: list[bytes] = []
            cursor = b"0"
            while not found or cursor != b"0":
                cursor, some = await client.call("SSCAN", "set", cursor, "COUNT", 9000)
                found += some
            assert set(found) == members


@trio_test
async def test_what_is_passed_on_may_be_longer_than_what_may_be_held() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REPLY_BYTES_MAX", MIB)
        async with run_cluster(2) as cluster:
            client = await cluster.connect()
            members = {value_of(size) for size in range(100 * KIB, 130 * KIB, KIB)}
            for member in members:
                await client.call("SADD", "set", member)
            assert set(await client.call("SMEMBERS", "set")) == members
            # These are made one of by the router, and so held.
            for key in (WELL, ILL):
                await client.call("SET", key, value_of(700 * KIB))
            reply = await client.call("MGET", WELL, ILL, WELL, ILL)
            assert reply.text.endswith("too big reply")
            assert await client.call("GET", WELL) == value_of(700 * KIB)


@trio_test
async def test_a_long_reply_that_is_not_wanted_is_not_sent() -> None:
    async with run_cluster(1) as cluster:
        await store(cluster, large=value_of(2 * MIB))
        client = await cluster.connect()
        await send_raw(client, ["CLIENT", "REPLY", "SKIP"], ["GET", "large"], ["GET", "absent"])
        assert await receive_exactly(client, 5) == b"$-1\r\n"
        await send_raw(client, ["CLIENT", "REPLY", "OFF"], ["GET", "large"], ["GET", "large"])
        await send_raw(client, ["CLIENT", "REPLY", "ON"], ["GET", "absent"])
        assert await receive_exactly(client, 10) == b"+OK\r\n$-1\r\n"


@trio_test
async def test_a_long_reply_waits_for_the_ones_before_it() -> None:
    with everybody_on_one_lane():
        async with run_with_fake(lambda request: b"") as (cluster, fake, client):
            value = value_of(2 * MIB)
            assert await client.call("SET", WELL, value) == "OK"
            await send_raw(client, ["GET", ILL], ["GET", WELL], ["PING"])
            await until(lambda: fake.requests)
            # All of it has come to the router, where it is held.
            connection = one_client_with_replies(cluster)
            await until(lambda: connection.unsent_reply_bytes > 2 * MIB)
            assert connection.outbox.pending_bytes == 0
            with trio.move_on_after(0.01):
                await client.stream.receive_some(1)
                raise AssertionError("a reply has overtaken another")
            fake.answer = lambda request: b"+first\r\n+second\r\n"
            other = await cluster.connect()
            await send_raw(other, ["GET", ILL])
            expected = b"+first\r\n" + bulk(value) + b"+PONG\r\n"
            assert await receive_exactly(client, len(expected)) == expected
            assert await receive_exactly(other, 9) == b"+second\r\n"


@contextlib.contextmanager
def everybody_on_one_lane() -> Iterator[None]:
    """Whoever asks a server asks on the same connection, whatever it moves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "BULKY_REQUESTS", 0)
        yield


def one_client_with_replies(cluster: Cluster) -> Any:
    waiting = [
        session.transport
        for session in cluster.router.node.sessions.values()
        if session.transport.outstanding  # type: ignore[attr-defined]
    ]
    assert len(waiting) == 1
    return waiting[0]


@pytest.mark.parametrize("size", [limits.STREAMED_REPLY_BYTES, 200 * KIB])
@pytest.mark.parametrize("missing", [1, 2, 3, 1000])
def test_a_reply_may_pause_anywhere(size: int, missing: int) -> None:
    async def main() -> None:
        reply = bulk(value_of(size))
        answers = [reply[-missing:] + b"+next\r\n", reply[:-missing]]
        with everybody_on_one_lane():
            async with run_with_fake(lambda request: answers.pop()) as (cluster, _, client):
                await send_raw(client, ["GET", ILL])
                # CR and LF are passed on together.
                begun = len(reply) - max(missing, 2)
                assert await receive_exactly(client, begun) == reply[:begun]
                other = await cluster.connect()
                await send_raw(other, ["GET", ILL])
                assert await receive_exactly(client, len(reply) - begun) == reply[begun:]
                assert await other.receive() == "next"

    trio.run(main)


# --- several clients on one lane ---------------------------------------------------------------


@trio_test
async def test_a_slow_client_holds_up_nobody_on_its_lane() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "UPSTREAM_LANES", 2)
        async with run_cluster(1) as cluster:
            value = value_of(8 * MIB)
            await store(cluster, large=value, small=b"x")
            slow = await cluster.connect()
            shrink_buffers(slow)
            quick = [await cluster.connect() for _ in range(3)]
            # By now they are known to move large values, and share a lane.
            for client in (slow, *quick):
                assert await client.call("GET", "large") == value
            await send_raw(slow, *[["GET", "large"]] * 3)
            assert await receive_exactly(slow, 100) == bulk(value)[:100]
            for client in quick:
                for _ in range(3):
                    assert await client.call("GET", "large") == value
                    assert await client.call("GET", "small") == b"x"
            (upstream,) = cluster.router.upstreams.values()
            assert {key[3] for key in upstream.lanes} == {0, 1}
            rest = bulk(value)[100:] + bulk(value) * 2
            assert await receive_exactly(slow, len(rest)) == rest


@trio_test
async def test_a_client_that_leaves_within_a_reply_harms_nobody_on_its_lane() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "UPSTREAM_LANES", 2)
        async with run_cluster(1) as cluster:
            value = value_of(8 * MIB)
            await store(cluster, large=value)
            for _ in range(3):
                leaving, staying = await cluster.connect(), await cluster.connect()
                for client in (leaving, staying):
                    shrink_buffers(client)
                    assert await client.call("STRLEN", "large") == len(value)
                await send_raw(leaving, ["GET", "large"], ["GET", "large"])
                await send_raw(staying, ["GET", "large"], ["INCR", "n"])
                assert await receive_exactly(leaving, 100) == bulk(value)[:100]
                await leaving.aclose()
                assert await staying.receive() == value
                assert isinstance(await staying.receive(), int)
            assert cluster.router.counters.upstream_errors == 0
            assert [u.in_flight_bytes for u in cluster.router.upstreams.values()] == [0]


@trio_test
async def test_who_moves_large_values_leaves_the_lane_of_the_others_in_order() -> None:
    async with run_cluster(1) as cluster:
        await store(cluster, large=value_of(100 * KIB))
        client = await cluster.connect()
        requests: list[list[object]] = []
        expected: list[object] = []
        count = 0
        for round_ in range(6):
            requests += [["GET", "large"], ["SET", "large2", value_of(80 * KIB)]]
            expected += [value_of(100 * KIB), "OK"]
            for _ in range(limits.BULKY_REQUESTS + round_):
                count += 1
                requests.append(["INCR", "n"])
                expected.append(count)
        for start in range(0, len(requests), 7):
            assert await client.call_all(requests[start : start + 7]) == expected[start : start + 7]
        assert await client.call_all(requests[:1]) == expected[:1]
        (upstream,) = cluster.router.upstreams.values()
        assert {key[3] for key in upstream.lanes} > {0}


# --- cut off -----------------------------------------------------------------------------------


def cut_after(part: bytes) -> Callable[[list[bytes]], bytes | None]:
    """A server that sends a part of a reply, and goes away at the next request."""
    sent = [part]

    def answer(request: list[bytes]) -> bytes | None:
        return sent.pop() if sent else None

    return answer


@pytest.mark.parametrize("missing", [1, 2, 3, 100 * KIB])
def test_a_client_with_a_part_of_a_reply_is_sent_away(missing: int) -> None:
    async def main() -> None:
        value = value_of(300 * KIB)
        part = bulk(value)[:-missing]
        async with run_with_fake(cut_after(part)) as (cluster, fake, client):
            await send_raw(client, ["PING"], ["GET", ILL])
            begun = b"+PONG\r\n" + part
            # What was received of a bulk's end is kept until it is known to be one.
            assert await receive_exactly(client, len(begun) - 2) == begun[:-2]
            other = await cluster.connect()
            await send_raw(other, ["GET", ILL])
            rest = await receive_to_end(client)
            assert begun.startswith(begun[:-2] + rest)
            assert list(cluster.shell.reactor.dropped) == ["the server went away within a reply"]
            # It was asked before nothing of its own came: it is asked for again.
            fake.answer = lambda request: b"+again\r\n"
            assert (await other.receive_raw()) in (b"+again\r\n", b"")
            third = await cluster.connect()
            assert await third.call("GET", WELL) is None
            assert all(u.in_flight_bytes == 0 for u in cluster.router.upstreams.values())

    trio.run(main)


@trio_test
async def test_a_reply_of_which_the_client_has_nothing_is_asked_for_again() -> None:
    value = value_of(300 * KIB)
    async with run_with_fake(lambda request: b"") as (cluster, fake, client):
        fake.answer = lambda request: bulk(value)[: 200 * KIB]
        # The first one is never answered, so the second is held.
        release = trio.Event()
        cluster.router.membership = Waits(release)  # type: ignore[assignment]
        await send_raw(client, ["JOB.LIST"])
        await send_raw(client, ["GET", ILL])
        release.set()
        assert await receive_exactly(client, 4) == b"*0\r\n"
        begun = await receive_exactly(client, 200 * KIB)
        assert begun == bulk(value)[: 200 * KIB]
        fake.answer = lambda request: None
        other = await cluster.connect()
        await send_raw(other, ["GET", ILL])
        assert await receive_to_end(client) == b""


class Waits:
    """Stands for a controller that answers when it is told to."""

    joined = True

    def __init__(self, release: trio.Event) -> None:
        self._release = release

    async def call(self, *arguments: object, timeout_s: float) -> object:
        await self._release.wait()
        return []


@trio_test
async def test_a_held_part_of_a_reply_is_forgotten_when_it_is_asked_for_again() -> None:
    value = value_of(300 * KIB)
    with everybody_on_one_lane():
        async with run_cluster(2) as cluster, trio.open_nursery() as nursery:
            first, second = FakeStorage(lambda request: b""), FakeStorage(lambda request: b"")
            for number, fake in enumerate((first, second)):
                fake.greet = greeter(f"{number}" * 40)
                listeners = await nursery.start(trio.serve_tcp, fake.serve, 0)
                cluster.storages[number].port = listeners[0].socket.getsockname()[1]
            cluster.tell_router(cluster.plan({0: 1.0, 1: 1.0}))
            client, other = await cluster.connect(), await cluster.connect()
            second.answer = lambda request: bulk(value)[: 200 * KIB]
            await send_raw(client, ["GET", WELL], ["GET", ILL])
            await until(lambda: first.requests and second.requests)
            connection = one_client_with_replies(cluster)
            await until(lambda: connection.unsent_reply_bytes >= 200 * KIB)
            second.answer = lambda request: None if second.connections == 1 else bulk(value)
            await send_raw(other, ["GET", ILL])
            assert await other.receive() == value
            first.answer = lambda request: b"+one\r\n+two\r\n"
            await send_raw(other, ["GET", WELL])
            assert await client.receive() == "one"
            assert await client.receive() == value
            assert await other.receive() == "two"
            nursery.cancel_scope.cancel()


def greeter(server_id: str) -> Callable[[list[bytes]], bytes | None]:
    nonce = f"{server_id}:1:1".encode()
    return lambda request: bulk(nonce) if request == [b"POCKETKV.PROXY"] else b"+OK\r\n"


@pytest.mark.parametrize("end", [b"xx", b"\r\r", b"\n\n"])
def test_a_bulk_without_its_end_is_no_reply(end: bytes) -> None:
    async def main() -> None:
        value = value_of(limits.RECEIVE_LARGE_BYTES + 10)
        reply = bulk(value)[:-2] + end + b"+OK\r\n"
        async with run_with_fake(lambda request: reply) as (cluster, _, client):
            await send_raw(client, ["GET", ILL], ["GET", ILL])
            received = await receive_to_end(client)
            assert bulk(value)[:-2].startswith(received)
            assert list(cluster.shell.reactor.dropped) == ["the server went away within a reply"]

    trio.run(main)


async def call_when_up(client: Client, *request: str) -> object:
    """The reply when the lanes that were broken last have been noticed and made anew."""
    with trio.fail_after(30):
        while True:
            reply = await client.call(*request)
            if not (isinstance(reply, Error) and reply.text.startswith("CLUSTERDOWN")):
                return reply
            await trio.sleep(0.01)


@pytest.mark.parametrize("seed", range(3))
def test_whenever_connections_break_nobody_is_given_wrong_bytes(seed: int) -> None:
    dice = random.Random(seed)
    values = {f"v{size}": value_of(size) for size in (10, 70 * KIB, 300 * KIB, 9 * MIB)}

    async def break_lanes(cluster: Cluster, stop: trio.Event) -> None:
        while not stop.is_set():
            for _ in range(dice.randrange(200)):
                await trio.lowlevel.checkpoint()
            reactor = dice.choice(cluster.storages).shell.reactor
            for connection in list(reactor.connections.values()):
                if dice.random() < 0.5:
                    connection.close()

    async def read(cluster: Cluster, seen: dict[str, int]) -> None:
        for attempt in range(500):
            if attempt >= 12 and seen["value"] and seen["cut off"]:
                return
            client = await cluster.connect()
            if dice.random() < 0.5:
                shrink_buffers(client)
            keys = dice.choices(list(values), k=6)
            await send_raw(client, *(["GET", key] for key in keys))
            for key in keys:
                raw = await client.receive_raw()
                if raw == b"":
                    # Cut off: what came of this reply must have been right so far.
                    assert bulk(values[key]).startswith(client.unread)
                    seen["cut off"] += 1
                    break
                kind = "error" if raw.startswith(b"-") else "value"
                seen[kind] += 1
                assert kind == "error" or raw == bulk(values[key])
            await client.aclose()

    async def main() -> None:
        async with run_cluster(2) as cluster:
            await store(cluster, **values)
            seen = {"cut off": 0, "error": 0, "value": 0}
            stop = trio.Event()
            async with trio.open_nursery() as breakers:
                breakers.start_soon(break_lanes, cluster, stop)
                async with trio.open_nursery() as readers:
                    for _ in range(4):
                        readers.start_soon(read, cluster, seen)
                stop.set()
            assert seen["value"] > 0
            assert seen["cut off"] > 0
            client = await cluster.connect()
            for key, value in values.items():
                assert await call_when_up(client, "GET", key) == value
            assert all(u.in_flight_bytes == 0 for u in cluster.router.upstreams.values())

    trio.run(main)


@trio_test
async def test_an_error_in_the_place_of_a_long_reply_is_an_error() -> None:
    text = "ERR " + "x" * (limits.STREAMED_REPLY_BYTES - 1000)
    async with run_with_fake(lambda request: b"-%b\r\n" % text.encode()) as (cluster, _, client):
        assert await client.call("GET", ILL) == Error(text)
        assert cluster.router.node.error_stats == {"ERR": 1}


# --- requests ----------------------------------------------------------------------------------


@trio_test
async def test_requests_go_on_as_they_came_however_they_were_cut() -> None:
    async with run_with_fake(lambda request: b"+OK\r\n") as (_, fake, client):
        requests = [
            [b"SET", ILL.encode(), bytes(range(256))],
            [b"set", ILL.encode(), b"$5\r\n*1\r\n"],
            [b"GeT", ILL.encode()],
            [b"SET", ILL.encode(), value_of(20 * KIB)],
            [b"SET", ILL.encode(), value_of(300 * KIB)],
            [b"APPEND", ILL.encode(), b""],
        ]
        data = b"*0\r\n" + b"".join(map(encode_request, requests))
        # Also as a person types it.
        data += f"set {ILL} 'a b'\r\n".encode()
        expected = [*requests, [b"set", ILL.encode(), b"a b"]]
        for step in (1 << 20, 70_001, 1000):
            fake.requests.clear()
            for start in range(0, len(data), step):
                await client.stream.send_all(data[start : start + step])
                if step == 1000:
                    await trio.lowlevel.checkpoint()
            for _ in expected:
                assert await client.receive() == "OK"
            assert fake.requests == expected


@trio_test
async def test_what_a_pause_has_held_is_what_was_asked() -> None:
    async with run_cluster(1) as cluster:
        client, other = await cluster.connect(), await cluster.connect()
        assert await other.call("CLIENT", "PAUSE", 60_000, "WRITE") == "OK"
        await send_raw(client, ["SET", "k", "held"], ["SET", "k", "behind"], ["GET", "k"])
        await until(lambda: cluster.router.node.pauses["default"].held)
        assert await other.call("CLIENT", "UNPAUSE") == "OK"
        assert [await client.receive() for _ in range(3)] == ["OK", "OK", b"behind"]
