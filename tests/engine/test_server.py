"""SLOWLOG, LATENCY, MEMORY, and what an ephemeral server refuses. Replies: ``tests/oracle``."""

from __future__ import annotations

import pytest

from pocketkv.engine import handlers
from pocketkv.engine.commands import COMMANDS
from tests.engine.harness import START_MS, Client, Engine
from tests.replies import Error

__all__ = ["handlers"]

JOB = "other-0123456789abcdef"


def test_time_is_the_clock_s(client: Client) -> None:
    client.engine.advance(123)
    assert client("TIME") == [b"%d" % (START_MS // 1000), b"123000"]
    assert client("LASTSAVE") == START_MS // 1000


@pytest.mark.parametrize(
    "request_",
    [
        "SHUTDOWN",
        "SHUTDOWN NOSAVE",
        "REPLICAOF 10.0.0.1 6379",
        "SLAVEOF 10.0.0.1 6379",
        "FAILOVER TO a 1",
        "CONFIG REWRITE",
    ],
)
def test_what_cannot_be_kept_is_not_promised(engine: Engine, client: Client, request_: str) -> None:
    engine.node.admin_password = b""
    reply = client(*request_.split())
    assert isinstance(reply, Error)
    assert reply.text.startswith("ERR ")


@pytest.mark.parametrize(
    "request_",
    ["JOB.REGISTER name", "JOB.LIST", "JOB.INFO id", "TIER.LIST", "SERVER.DRAIN id"],
)
def test_job_commands_name_the_router(client: Client, request_: str) -> None:
    assert "router" in client(*request_.split()).text


def test_keys_of_the_job_that_never_ends_are_not_retained(client: Client) -> None:
    assert client("JOB.RETAIN", "key").text.startswith("ERR the job 'default' never ends")


@pytest.mark.parametrize("container", ["client", "config", "memory", "slowlog", "latency"])
def test_help_has_two_lines_for_each_subcommand(client: Client, container: str) -> None:
    first, *lines = client(container, "HELP")
    assert first.startswith(f"{container.upper()} <subcommand> ")
    assert len(lines) == 2 * len(COMMANDS[container.encode()].subcommands)


# --- the slow log ------------------------------------------------------------------------------


def test_slow_calls_are_shown_newest_first(engine: Engine, client: Client) -> None:
    client("CLIENT", "SETNAME", "me")
    client("CONFIG", "SET", "slowlog-log-slower-than", 0)
    client("SET", "k", "x" * 200)
    client("DEL", *range(50))
    second, first = client("SLOWLOG", "GET", 2)
    assert second[0] == first[0] + 1
    assert second[1:3] == [START_MS // 1000, 1]
    assert len(second[3]) == 32
    assert second[3][-1] == b"... (20 more arguments)"
    assert first[3] == [b"SET", b"k", b"x" * 128 + b"... (72 more bytes)"]
    assert first[4:] == [b"127.0.0.1:50000", b"me"]
    assert len(client("SLOWLOG", "GET", -1)) == client("SLOWLOG", "LEN") - 1


def test_a_job_sees_and_forgets_its_own_slow_calls(engine: Engine, client: Client) -> None:
    other = engine.connect(job_id=JOB)
    client("CONFIG", "SET", "slowlog-log-slower-than", 0)
    other("SET", "secret", "value")
    client("SET", "k", "v")
    assert all(b"secret" not in call[3] for call in client("SLOWLOG", "GET", -1))
    client("SLOWLOG", "RESET")
    assert [call[3] for call in other("SLOWLOG", "GET")] == [[b"SET", b"secret", b"value"]]


def test_passwords_are_not_logged(engine: Engine, client: Client) -> None:
    client("CONFIG", "SET", "slowlog-log-slower-than", 0)
    client("AUTH", "default", "password")
    client("HELLO", 2, "AUTH", "default", "password")
    shown = [argument for call in client("SLOWLOG", "GET", -1) for argument in call[3]]
    assert b"password" not in shown


# --- latency -----------------------------------------------------------------------------------


def test_a_histogram_counts_calls_up_to_a_time(client3: Client) -> None:
    for _ in range(3):
        client3("GET", "k")
    client3("CONFIG", "GET", "timeout")
    shown = client3("LATENCY", "HISTOGRAM", "get", "CONFIG", "nosuch", "set")
    assert shown == {
        b"get": {b"calls": 3, b"histogram_usec": {1: 3}},
        b"config|get": {b"calls": 1, b"histogram_usec": {1: 1}},
    }
    assert client3("LATENCY", "HISTOGRAM").keys() >= {b"get", b"config|get"}
    assert b"get 1" in client3("LATENCY", "DOCTOR").text


# --- memory ------------------------------------------------------------------------------------


def test_a_key_costs_what_is_accounted_for_it(engine: Engine, client: Client) -> None:
    for key, request in {
        "s": ("SET", "s", "x" * 100),
        "i": ("SADD", "i", 1, 2, 3),
        "h": ("SADD", "h", "a", "b"),
        "e": ("SET", "e", "x", "EX", 100),
    }.items():
        before = engine.space.used_bytes
        client(*request)
        assert client("MEMORY", "USAGE", key) == engine.space.used_bytes - before
    assert client("MEMORY", "USAGE", "nosuch") is None


def test_memory_figures_are_the_job_s(engine: Engine, client3: Client) -> None:
    engine.connect(job_id=JOB)("SET", "k", "x" * 10_000)
    client3("SET", "k", "v")
    stats = client3("MEMORY", "STATS")
    assert stats[b"keys.count"] == 1
    assert stats[b"dataset.bytes"] == engine.space.used_bytes
    assert stats[b"dataset.percentage"] == 100.0
    assert b"db.0" in stats
    doctor = client3("MEMORY", "DOCTOR").text
    assert b"nothing to be concerned about" in doctor


def test_the_doctor_tells_of_refused_writes(engine: Engine, client: Client) -> None:
    engine.space.quota_bytes = 100
    client("SET", "k", "x" * 30)
    assert b"will soon be refused" in client("MEMORY", "DOCTOR")
    client("SET", "k", "x" * 1000)
    assert b"refused so far: 1" in client("MEMORY", "DOCTOR")


def test_who_waits_for_a_save_in_the_background_does_not_wait_for_ever(client: Client) -> None:
    before_s = client("LASTSAVE")
    client.engine.advance(3000)
    assert client("BGSAVE") == "Background saving started"
    assert client("LASTSAVE") == before_s + 3
    assert client("BGREWRITEAOF") == "Background append only file rewriting started"


def test_save_answers_as_redis_and_lastsave_tells_of_it(client: Client) -> None:
    before_s = client("LASTSAVE")
    client.engine.advance(3000)
    assert client("SAVE") == "OK"
    assert client("LASTSAVE") == before_s + 3


@pytest.mark.parametrize(
    "request_",
    [
        "CLUSTER RESET HARD",
        "CLUSTER ADDSLOTS 1",
        "CLUSTER SETSLOT 1 NODE x",
        "CLUSTER MEET 10.0.0.1 6379",
        "CLUSTER FAILOVER",
        "MODULE LOAD x",
        "SYNC",
        "PSYNC ? -1",
    ],
)
def test_what_cannot_make_sense_is_refused_with_the_reason(client: Client, request_: str) -> None:
    reply = client(*request_.split())
    assert isinstance(reply, Error)
    assert "unknown" not in reply.text


def test_a_node_has_no_replicas(client: Client) -> None:
    own = client("CLUSTER", "MYID").decode()
    assert client("CLUSTER", "MYSHARDID") == own.encode()
    assert client("CLUSTER", "REPLICAS", own) == []
    assert client("CLUSTER", "SLAVES", own) == []
    assert client("CLUSTER", "COUNT-FAILURE-REPORTS", own) == 0
    assert client("CLUSTER", "REPLICAS", "x") == Error("ERR Unknown node x")


def test_no_file_is_waited_for(client: Client) -> None:
    assert client("WAITAOF", 0, 0, 0) == [0, 0]
    assert client("WAITAOF", 1, 0, 0) == Error(
        "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."
    )
    assert client("WAITAOF", 2, 0, 0) == Error("ERR value is not an integer or out of range")


def test_debug_listpack_tells_who_would_have_one(client: Client) -> None:
    client("HSET", "h", "a", "b")
    client("SET", "s", "x")
    assert client("DEBUG", "LISTPACK", "h") == "Listpack structure printed on stdout"
    assert client("DEBUG", "LISTPACK", "s") == Error("ERR Not a listpack encoded object.")
    assert client("DEBUG", "LISTPACK", "none") == Error("ERR no such key")
    assert client("DEBUG", "PAUSE-CRON", 1) == "OK"
