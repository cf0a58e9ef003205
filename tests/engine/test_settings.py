"""CONFIG: what settings show, and what changing them does. Error texts: see ``tests/oracle``."""

from __future__ import annotations

import pytest

from pocketkv import limits
from pocketkv.engine.quotas import grant
from tests.engine.harness import Client, Engine
from tests.replies import Error


def get(client: Client, name: str) -> str:
    (_, value) = client("CONFIG", "GET", name)
    return str(value.decode())


def test_maxmemory_is_what_the_job_may_use(engine: Engine, client: Client) -> None:
    assert get(client, "maxmemory") == str(limits.GIB)
    engine.space.quota_bytes = 5000
    assert get(client, "maxmemory") == "5000"


def test_maxmemory_at_a_router_is_that_of_all_servers(engine: Engine) -> None:
    router = Engine(role="router", memory_bytes=0)
    assert get(router.connect(), "maxmemory") == str(limits.GIB)
    router.own_only([(0, 99)])
    assert get(router.connect(), "maxmemory") == str(2 * limits.GIB)
    assert get(router.connect(job_id="unknown-0123456789abcdef"), "maxmemory") == "0"


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_maxmemory_of_a_server_by_itself_can_be_changed(engine: Engine, client: Client) -> None:
    client("SET", "k", "x" * 1000)
    assert client("CONFIG", "SET", "maxmemory", "1kb") == "OK"
    assert client("SET", "k2", "x").text.startswith("OOM")
    assert client("CONFIG", "SET", "maxmemory", "0") == "OK"
    assert get(client, "maxmemory") == "0"
    assert client("SET", "k2", "x") == "OK"


def test_in_a_cluster_maxmemory_is_the_job_s_own(engine: Engine) -> None:
    engine.node.clustered = True
    client = engine.connect()
    granted = get(client, "maxmemory")
    server_bytes = engine.node.keyspace.memory_bytes
    assert client("CONFIG", "SET", "maxmemory", "2kb") == "OK"
    assert get(client, "maxmemory") == "2048"
    assert engine.node.keyspace.memory_bytes == server_bytes
    assert client("SET", "k", "x" * 4000).text.startswith("OOM")
    # It is for all of the job's servers: half of the slots, half of the memory.
    engine.own_only([(0, 8191)])
    grant(engine.space, None)
    assert get(client, "maxmemory") == "1024"
    # What the map grants is never exceeded.
    assert client("CONFIG", "SET", "maxmemory", "1000gb") == "OK"
    assert get(client, "maxmemory") == granted
    assert client("CONFIG", "SET", "maxmemory", "0") == "OK"
    assert get(client, "maxmemory") == granted


def test_the_largest_request_and_percentages(engine: Engine, client: Client) -> None:
    assert client("CONFIG", "SET", "client-query-buffer-limit", "2mb") == "OK"
    assert get(client, "client-query-buffer-limit") == str(2 * limits.MIB)
    assert engine.node.request_bytes_max == 2 * limits.MIB
    reply = client("CONFIG", "SET", "maxmemory-clients", "200%")
    assert reply.text.endswith("percentage argument must be less or equal to 100")
    assert client("CONFIG", "SET", "maxmemory-clients", "20%") == "OK"
    reply = client("CONFIG", "SET", "timeout", 9, "port", 1)
    assert "'port') - Unable to listen on this port" in reply.text
    assert get(client, "timeout") == "0"


def test_all_or_nothing_is_changed(client: Client) -> None:
    reply = client("CONFIG", "SET", "timeout", 7, "list-compress-depth", "x")
    assert isinstance(reply, Error)
    assert get(client, "timeout") == "0"
    assert client("CONFIG", "SET", "timeout", 7, "list-compress-depth", 3) == "OK"
    assert (get(client, "timeout"), get(client, "list-compress-depth")) == ("7", "3")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("save", ""),
        ("appendonly", "no"),
        ("maxmemory-policy", "noeviction"),
        ("replica-read-only", "yes"),
        ("requirepass", ""),
        ("notify-keyspace-events", ""),
        ("latency-tracking", "YES"),
    ],
)
def test_what_is_fixed_may_be_set_to_what_it_is(client: Client, name: str, value: str) -> None:
    assert client("CONFIG", "SET", name, value) == "OK"
    assert get(client, name) == value.lower()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "1"),
        ("databases", "17"),
        ("cluster-enabled", "yes"),
    ],
)
def test_what_nothing_would_obey_cannot_be_set(client: Client, name: str, value: str) -> None:
    before = get(client, name)
    reply = client("CONFIG", "SET", name, value)
    assert reply.text.startswith(
        f"ERR CONFIG SET failed (possibly related to argument '{name}') - "
    )
    assert get(client, name) == before


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("save", "60 1 300  10", "60 1 300 10"),
        ("appendonly", "YES", "yes"),
        ("repl-backlog-size", "2mb", "2097152"),
        ("slave-priority", "7", "7"),
    ],
)
def test_what_is_not_there_may_be_set_and_is_shown(
    client: Client, name: str, value: str, shown: str
) -> None:
    assert client("CONFIG", "SET", name, value) == "OK"
    assert get(client, name) == shown


def test_values_are_shown_by_pattern_once(client3: Client) -> None:
    shown = client3("CONFIG", "GET", "SLOWLOG*", "slowlog-max-len", "proto*len", "timeout")
    assert shown == {
        b"slowlog-log-slower-than": b"10000",
        b"slowlog-max-len": b"128",
        b"proto-max-bulk-len": b"%d" % limits.BULK_BYTES_MAX,
        b"timeout": b"0",
    }


def test_every_setting_can_be_read(client3: Client) -> None:
    shown = client3("CONFIG", "GET", "*")
    assert len(shown) > 35
    for name, value in shown.items():
        assert client3("CONFIG", "GET", name) == {name: value}


def test_every_setting_can_be_set_to_its_value_or_is_immutable(client3: Client) -> None:
    for name, value in client3("CONFIG", "GET", "*").items():
        reply = client3("CONFIG", "SET", name, value)
        assert reply == "OK" or reply.text.endswith("can't set immutable config")


def test_the_largest_argument_is_told_to_connections(engine: Engine) -> None:
    client, restricted = engine.connect(), engine.connect()
    restricted.session.authenticated = False
    restricted.session.limit_input()
    client("CONFIG", "SET", "proto-max-bulk-len", "2mb")
    assert client.transport.bulk_bytes_max == 2 * limits.MIB
    assert restricted.transport.restricted
    assert engine.connect().transport.bulk_bytes_max == 2 * limits.MIB


def is_closed(client: Client) -> bool:
    return client.transport.closed


def test_idle_clients_are_closed(engine: Engine) -> None:
    client, busy, blocked = engine.connect(), engine.connect(), engine.connect()
    busy("CONFIG", "SET", "timeout", 10)
    blocked("WAIT", 1, 0)
    for _ in range(5):
        busy("PING")
        engine.advance(2000)
    assert not is_closed(client)
    busy("PING")
    engine.advance(1000)
    assert is_closed(client)
    assert not is_closed(busy)
    assert not is_closed(blocked)
    busy("CONFIG", "SET", "timeout", 0)
    engine.advance(100_000)
    assert not is_closed(busy)
    assert engine.node.timers.next_ms() is None


def test_the_slow_log_follows_its_settings(engine: Engine, client: Client) -> None:
    client("CONFIG", "SET", "slowlog-log-slower-than", 0, "slowlog-max-len", 2)
    for number in range(5):
        client("SET", f"k{number}", 1)
    # Every command takes a microsecond here.
    assert client("SLOWLOG", "LEN") == 2
    client("CONFIG", "SET", "slowlog-max-len", 0)
    assert client("SLOWLOG", "LEN") == 0
    client("CONFIG", "SET", "slowlog-log-slower-than", -1, "slowlog-max-len", 9)
    client("GET", "k")
    assert client("SLOWLOG", "LEN") == 0


def test_counts_begin_anew(engine: Engine, client: Client) -> None:
    client("GET", "k")
    client("nosuch")
    assert client("CONFIG", "RESETSTAT") == "OK"
    text = client("INFO", "everything").decode()
    assert "keyspace_misses:0" in text
    assert "cmdstat_get" not in text
    assert "errorstat_ERR" not in text


def test_a_job_has_its_events_in_keys_lives_told_as_it_likes() -> None:
    engine = Engine(secret=b"s" * 32)
    engine.node.admin_password = b"password"
    mine, theirs = engine.connect(job_id="mine"), engine.connect(job_id="theirs")
    assert mine("CONFIG", "SET", "notify-keyspace-events", "EKA") == "OK"
    assert get(mine, "notify-keyspace-events") == "AKE"
    assert get(theirs, "notify-keyspace-events") == ""
    refused = mine("CONFIG", "SET", "notify-keyspace-events", "", "timeout", "1")
    assert refused.text.startswith("NOPERM")
    assert get(mine, "notify-keyspace-events") == "AKE"


def test_what_nothing_obeys_is_remembered(client: Client) -> None:
    assert get(client, "appendonly") == "no"
    assert client("CONFIG", "SET", "appendonly", "YES", "hz", "50") == "OK"
    assert get(client, "appendonly") == "yes"
    assert get(client, "hz") == "50"
    assert isinstance(client("CONFIG", "SET", "appendonly", "maybe"), Error)
    assert isinstance(client("CONFIG", "SET", "appendfsync", "yes"), Error)
    assert isinstance(client("CONFIG", "SET", "hz", "x"), Error)
    assert b"aof_enabled:0\r\n" in client("INFO", "persistence")


def test_subscribers_may_leave_as_much_unread_as_the_setting_says(client: Client) -> None:
    client("SUBSCRIBE", "a")
    other = client.engine.connect()
    name = "client-output-buffer-limit"
    assert other("CONFIG", "SET", name, "pubsub 1mb 512kb 10 normal 0 0 0") == "OK"
    assert get(other, name).endswith("pubsub 1048576 524288 10")
    assert client.transport.unread_bytes_max == limits.MIB
    other("SUBSCRIBE", "b")
    assert other.transport.unread_bytes_max == limits.MIB
    third = client.engine.connect()
    assert isinstance(third("CONFIG", "SET", name, "pubsub 1mb"), Error)
    assert isinstance(third("CONFIG", "SET", name, "nosuch 0 0 0"), Error)
