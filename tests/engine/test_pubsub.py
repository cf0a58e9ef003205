"""Pub/sub on one server, without sockets."""

from __future__ import annotations

import pytest

from pocketkv.engine.pubsub import Kind
from pocketkv.resp.replies import Deferred
from tests.engine.harness import Client, Engine
from tests.replies import decode, split_replies


def take(client: Client) -> list[object]:
    """What was sent to a client since it was last asked for."""
    return [decode(raw) for raw in split_replies(client.transport.take())]


def test_a_message_reaches_subscribers_of_the_channel_and_of_patterns(engine: Engine) -> None:
    first, second, publisher = engine.connect(), engine.connect(protocol=3), engine.connect()
    first.raw("SUBSCRIBE", "news")
    second.raw("PSUBSCRIBE", "n*", "other")
    assert publisher("PUBLISH", "news", "hello") == 2
    assert take(first) == [[b"message", b"news", b"hello"]]
    assert take(second) == [[b"pmessage", b"n*", b"news", b"hello"]]
    assert publisher("PUBLISH", "nothing", "x") == 1
    assert take(first) == []
    take(second)
    assert second.raw("PUNSUBSCRIBE", "n*").startswith(b">3\r\n$12\r\npunsubscribe")
    assert publisher("PUBLISH", "nothing", "x") == 0


def test_nothing_crosses_jobs(engine: Engine) -> None:
    mine, theirs = engine.connect(job_id="mine"), engine.connect(job_id="theirs")
    mine.raw("SUBSCRIBE", "news")
    mine.raw("PSUBSCRIBE", "*")
    assert theirs("PUBLISH", "news", "x") == 0
    assert take(mine) == []
    assert theirs("PUBSUB", "CHANNELS") == []


def test_a_client_that_enters_another_job_is_told_nothing_of_the_first(engine: Engine) -> None:
    client, publisher = engine.connect(protocol=3, job_id="one"), engine.connect(job_id="one")
    client.raw("SUBSCRIBE", "news")
    client.raw("AUTH", "default", "any")
    assert publisher("PUBLISH", "news", "x") == 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_who_goes_away_has_subscribed_to_nothing(engine: Engine, how: str) -> None:
    client, other = engine.connect(), engine.connect()
    client.raw("SUBSCRIBE", "a")
    client.raw("PSUBSCRIBE", "b*")
    client.raw("SSUBSCRIBE", "c")
    if how == "close":
        client.disconnect()
    else:
        assert client("RESET") == "RESET"
        assert client("PING") == "PONG"
    assert other("PUBLISH", "a", "x") == 0
    assert other("SPUBLISH", "c", "x") == 0
    assert other("PUBSUB", "NUMPAT") == 0
    assert other("PUBSUB", "NUMSUB", "a") == [b"a", 0]
    pubsub = engine.space.pubsub
    assert pubsub is not None
    assert not any(pubsub.subscribers)


def test_a_subscriber_is_told_even_without_replies(engine: Engine) -> None:
    client = engine.connect()
    client.raw("CLIENT", "REPLY", "OFF")
    assert client.raw("SUBSCRIBE", "a").startswith(b"*3\r\n$9\r\nsubscribe")


def test_a_large_message_is_encoded_once_per_protocol(engine: Engine) -> None:
    message = b"x" * 1_000_000
    clients = [engine.connect(protocol=2 + i % 2) for i in range(6)]
    for client in clients:
        client.raw("SUBSCRIBE", "a")
    engine.connect()("PUBLISH", "a", message)
    segments = [client.transport.outbox.pieces()[0].obj for client in clients]
    assert segments[0] is segments[2] is segments[4]
    assert segments[1] is segments[3] is segments[5]
    assert all(client.transport.take().endswith(message + b"\r\n") for client in clients)


# --- sharded channels --------------------------------------------------------------------------


def test_a_sharded_channel_is_its_slots(engine: Engine) -> None:
    client, publisher = engine.connect(), engine.connect()
    assert client("SSUBSCRIBE", "{foo}a") == [b"ssubscribe", b"{foo}a", 1]
    assert publisher("SPUBLISH", "{foo}a", "x") == 1
    assert publisher("PUBLISH", "{foo}a", "x") == 0
    assert take(client) == [[b"smessage", b"{foo}a", b"x"]]
    engine.own_only([(0, 100)])
    assert publisher("SPUBLISH", "{foo}a", "x").text.startswith("MOVED 12182 ")
    assert client("SSUBSCRIBE", "{foo}b").text.startswith("MOVED 12182 ")


def test_who_has_subscribed_to_a_slot_that_leaves_is_told(engine: Engine) -> None:
    client = engine.connect()
    client.raw("SSUBSCRIBE", "{foo}a", "{bar}a", "{foo}b")
    engine.own_only([(0, 12181)])  # {bar} is slot 5061
    pubsub = engine.space.pubsub
    assert pubsub is not None
    pubsub.drop_foreign()
    assert take(client) == [
        [b"sunsubscribe", b"{foo}a", 2],
        [b"sunsubscribe", b"{foo}b", 1],
    ]
    assert engine.connect()("PUBSUB", "SHARDCHANNELS") == [b"{bar}a"]


def test_where_the_job_has_no_slots_nobody_can_subscribe(engine: Engine) -> None:
    client = engine.connect()
    client.raw("SUBSCRIBE", "a")
    engine.own_only([])
    assert engine.connect()("SUBSCRIBE", "a").text.startswith("CLUSTERDOWN")
    pubsub = engine.space.pubsub
    assert pubsub is not None
    pubsub.dismiss()
    assert client.transport.closing


# --- routers and other servers -----------------------------------------------------------------


def test_a_router_listens_for_many_and_is_told_once(engine: Engine) -> None:
    router = engine.connect(protocol=3, proxied=True)
    client, publisher = engine.connect(), engine.connect()
    assert router("POCKETKV.LISTEN", "CHANNEL", "a", "3") == "OK"
    assert router("POCKETKV.LISTEN", "PATTERN", "*", "2") == "OK"
    client.raw("SUBSCRIBE", "a")
    assert publisher("PUBLISH", "a", "x") == 6
    assert take(router) == [[b"message", b"a", b"x"], [b"pmessage", b"*", b"a", b"x"]]
    assert take(client) == [[b"message", b"a", b"x"]]
    assert router("POCKETKV.PUBSUB", "NUMSUB", "a", "b") == [[1, 3], [0, 0]]
    assert router("POCKETKV.PUBSUB", "PATTERNS") == [b"*"]
    # It hears of it from the server on which it was published.
    assert router("POCKETKV.PUBLISH", "default", "a", "x") == 1
    assert router("POCKETKV.PUBLISH", "nosuch", "a", "x") == 0
    assert take(router) == []
    assert router("POCKETKV.LISTEN", "CHANNEL", "a", "0") == "OK"
    assert router("POCKETKV.LISTEN", "CHANNEL", "a", "0") == "OK"
    assert publisher("PUBLISH", "a", "x") == 3


@pytest.mark.parametrize(
    "request_",
    ["POCKETKV.PUBLISH default a b", "POCKETKV.LISTEN CHANNEL a 1", "POCKETKV.PUBSUB PATTERNS"],
)
def test_what_is_said_between_servers_no_client_may_say(engine: Engine, request_: str) -> None:
    assert engine.connect()(*request_.split()).text.startswith("NOPERM")


class Elsewhere:
    """Other servers, as a plane has them."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.answer = Deferred()

    def forward(self, space: object, channel: bytes, message: bytes) -> Deferred:
        self.told.append((channel, message))
        return self.answer

    def changed(self, space: object, kind: Kind, name: bytes, count: int) -> Deferred:
        self.told.append((kind, name, count))
        return self.answer


def test_publish_answers_when_other_servers_have(engine: Engine) -> None:
    engine.node.forwarder = elsewhere = Elsewhere()
    client, publisher = engine.connect(), engine.connect()
    client.raw("SUBSCRIBE", "a")
    assert publisher.raw("PUBLISH", "a", "x") == b""
    assert take(client) == [[b"message", b"a", b"x"]]
    elsewhere.answer.complete(4)
    assert publisher.result() == 5
    assert elsewhere.told == [(b"a", b"x")]


def test_in_a_transaction_all_are_counted_and_in_a_script_those_of_this_server(
    engine: Engine,
) -> None:
    engine.node.forwarder = elsewhere = Elsewhere()
    client, publisher = engine.connect(), engine.connect()
    client.raw("SUBSCRIBE", "a")
    assert publisher("EVAL", "return redis.call('PUBLISH', 'a', 'x')", 0) == 1
    publisher("MULTI")
    publisher("PUBLISH", "a", "y")
    publisher("PING")
    assert publisher.raw("EXEC") == b""
    elsewhere.answer.complete(4)
    assert publisher.result() == [5, "PONG"]


def test_at_a_router_a_subscription_is_confirmed_when_it_is_in_force(engine: Engine) -> None:
    engine.node.listening = elsewhere = Elsewhere()
    client = engine.connect()
    assert client.raw("SUBSCRIBE", "a", "b") == b""
    assert elsewhere.told == [(Kind.CHANNEL, b"a", 1), (Kind.CHANNEL, b"b", 1)]
    elsewhere.answer.complete(0)
    assert take(client) == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]
    client.disconnect()
    assert elsewhere.told[2:] == [(Kind.CHANNEL, b"a", 0), (Kind.CHANNEL, b"b", 0)]
