"""Commands on keys: what the comparison with Redis cannot show, and a word on the rest."""

from __future__ import annotations

import re

import pytest

from pocketkv.engine.commands import find_command
from pocketkv.engine.database import Database
from pocketkv.engine.errors import OUT_OF_MEMORY
from tests.core import plain_only
from tests.engine.harness import BLOCKED, START_MS, Client, Engine
from tests.replies import Error

# --- removing and counting ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DEL", "UNLINK"])
def test_removing_counts_what_was_there(client: Client, name: str) -> None:
    client("MSET", "a", "1", "b", "2")
    client("SADD", "c", "member")
    assert client(name, "a", "a", "c", "none") == 2
    assert client("KEYS", "*") == [b"b"]


def test_existence_is_counted_for_each_mention(engine: Engine, client: Client) -> None:
    client("SET", "a", "1")
    client("SET", "b", "1", "PX", 10)
    assert client("EXISTS", "a", "a", "b", "c") == 3
    assert client("TOUCH", "a", "a", "b", "c") == 3
    engine.advance(10)
    assert client("EXISTS", "a", "b") == 1


def test_types(client: Client) -> None:
    client("SET", "a", "1")
    client("SADD", "b", "1")
    assert client.raw("TYPE", "a") == b"+string\r\n"
    assert client("TYPE", "b") == "set"
    assert client("TYPE", "c") == "none"


# --- renaming and copying ----------------------------------------------------------------------


def test_a_renamed_key_keeps_value_and_expiry(engine: Engine, client: Client) -> None:
    client("SET", "a", "1", "PX", 1000)
    client("SET", "b", "2", "PX", 10)
    assert client("RENAME", "a", "b") == "OK"
    assert client("PTTL", "b") == 1000
    assert client("GET", "b") == b"1"
    engine.advance(1000)
    assert client("DBSIZE") == 1
    assert engine.keyspace.expire_some() is False
    assert client("GET", "b") is None


def test_renaming_in_place_of_a_key_that_expires(client: Client) -> None:
    client("SADD", "a", "member")
    client("SET", "b", "2", "PX", 10)
    client("RENAME", "a", "b")
    assert client("TTL", "b") == -1
    assert client("SMEMBERS", "b") == [b"member"]


def test_renaming_to_its_own_name(client: Client) -> None:
    client("SET", "a", "1", "EX", 100)
    assert client("RENAME", "a", "a") == "OK"
    assert client("RENAMENX", "a", "a") == 0
    assert client("TTL", "a") == 100
    assert client("RENAME", "none", "none") == Error("ERR no such key")
    assert client("RENAMENX", "none", "a") == Error("ERR no such key")


def test_copies_share_nothing_that_changes(client: Client) -> None:
    client("SET", "a", "1", "EX", 100)
    client("APPEND", "a", "2")
    client("SADD", "s", "member")
    assert client("COPY", "a", "b") == 1
    assert client("COPY", "s", "t") == 1
    client("APPEND", "a", "3")
    client("SADD", "s", "other")
    assert client("GET", "b") == b"12"
    assert client("TTL", "b") == 100
    assert client("SMEMBERS", "t") == [b"member"]
    assert client("OBJECT", "ENCODING", "b") == b"raw"


def test_copies_in_place_of_a_key(client: Client) -> None:
    client("MSET", "a", "1", "b", "2")
    client("EXPIRE", "b", 100)
    assert client("COPY", "a", "b") == 0
    assert client("COPY", "a", "b", "REPLACE") == 1
    assert client("GET", "b") == b"1"
    assert client("TTL", "b") == -1
    assert client("COPY", "none", "b", "REPLACE") == 0
    assert client("GET", "b") == b"1"


def test_copies_to_another_database(client: Client) -> None:
    client("SET", "a", "1")
    assert client("COPY", "a", "a", "DB", 3) == 1
    assert client("DBSIZE") == 1
    client.session.select(3)
    assert client("GET", "a") == b"1"
    assert client("COPY", "a", "a") == Error("ERR source and destination objects are the same")
    assert client("COPY", "a", "b", "DB", 16) == Error("ERR DB index is out of range")


def test_a_copy_must_fit_into_the_quota(client: Client) -> None:
    client("SET", "a", bytes(60_000))
    client.session.space.quota_bytes = 100_000
    assert client("COPY", "a", "b") == Error(OUT_OF_MEMORY.decode())
    assert client("EXISTS", "b") == 0


# --- expiry ------------------------------------------------------------------------------------


def test_times_to_live(engine: Engine, client: Client) -> None:
    client("SET", "key", "1")
    assert client("TTL", "key") == client("PTTL", "key") == client("EXPIRETIME", "key") == -1
    assert client("TTL", "none") == client("PEXPIRETIME", "none") == -2
    assert client("EXPIRE", "key", 100) == 1
    engine.advance(600)
    assert client("TTL", "key") == 99
    assert client("PTTL", "key") == 99_400
    assert client("EXPIRETIME", "key") == START_MS // 1000 + 100
    assert client("PEXPIRETIME", "key") == START_MS + 100_000
    assert client("PERSIST", "key") == 1
    assert client("PERSIST", "key") == 0
    assert client("PERSIST", "none") == 0
    assert client("TTL", "key") == -1


def test_a_key_is_there_until_its_time_comes(engine: Engine, client: Client) -> None:
    client("SET", "key", "1")
    assert client("PEXPIRE", "key", 10) == 1
    engine.advance(9)
    assert client("GET", "key") == b"1"
    assert client("PTTL", "key") == 1
    engine.advance(1)
    assert client("GET", "key") is None
    assert engine.space.stats.expired == 1


@pytest.mark.parametrize(
    ("name", "time"), [("EXPIRE", 0), ("PEXPIRE", -5), ("EXPIREAT", 1), ("PEXPIREAT", START_MS)]
)
def test_a_time_that_is_past_removes_the_key(client: Client, name: str, time: int) -> None:
    client("SET", "key", "1")
    assert client(name, "key", time) == 1
    assert client("DBSIZE") == 0
    assert client(name, "key", time) == 0


@pytest.mark.parametrize(
    ("current", "condition", "seconds", "set_"),
    [
        (None, "NX", 100, 1),
        (None, "XX", 100, 0),
        (None, "GT", 100, 0),
        (None, "LT", 100, 1),
        (50, "NX", 100, 0),
        (50, "XX", 100, 1),
        (50, "GT", 100, 1),
        (50, "GT", 50, 0),
        (50, "GT", 20, 0),
        (50, "LT", 100, 0),
        (50, "LT", 50, 0),
        (50, "LT", 20, 1),
        (None, "XX LT", 20, 0),
        (50, "XX GT", 100, 1),
    ],
)
def test_conditions(
    client: Client, current: int | None, condition: str, seconds: int, set_: int
) -> None:
    client("SET", "key", "1", *(["EX", current] if current else []))
    assert client("EXPIRE", "key", seconds, *condition.split()) == set_
    assert client("TTL", "key") == (seconds if set_ else current or -1)


@pytest.mark.parametrize("options", ["NX XX", "NX GT", "NX LT", "GT LT", "no"])
def test_conditions_that_do_not_go_together(client: Client, options: str) -> None:
    client("SET", "key", "1")
    reply = client("EXPIRE", "key", 100, *options.split())
    assert isinstance(reply, Error)
    assert re.search("not compatible|Unsupported option no", reply.text)
    assert client("TTL", "key") == -1


@pytest.mark.parametrize("name", ["EXPIRE", "PEXPIRE", "EXPIREAT"])
def test_times_beyond_64_bits_name_the_command(client: Client, name: str) -> None:
    expected = Error(f"ERR invalid expire time in '{name.lower()}' command")
    assert client(name, "none", 2**63 - 1) == expected
    assert client("PEXPIREAT", "none", 2**63 - 1) == 0


# --- how a value is kept -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoding", "refcount"),
    [
        (b"0", b"int", 2**31 - 1),
        (b"9999", b"int", 2**31 - 1),
        (b"10000", b"int", 1),
        (b"-1", b"int", 1),
        (b"%d" % -(2**63), b"int", 1),
        (b"%d" % 2**63, b"embstr", 1),
        (b"01", b"embstr", 1),
        (b"", b"embstr", 1),
        (b"x" * 44, b"embstr", 1),
        (b"x" * 45, b"raw", 1),
    ],
)
def test_encodings(client: Client, value: bytes, encoding: bytes, refcount: int) -> None:
    client("SET", "key", value)
    assert client("OBJECT", "ENCODING", "key") == encoding
    assert client("OBJECT", "REFCOUNT", "key") == refcount


def test_a_value_that_was_changed_in_place_is_raw(client: Client) -> None:
    client("APPEND", "key", "1")
    assert client("OBJECT", "ENCODING", "key") == b"int"
    client("APPEND", "key", "")
    assert client("OBJECT", "ENCODING", "key") == b"raw"
    client("INCR", "key")
    assert client("OBJECT", "ENCODING", "key") == b"int"


def test_looking_at_a_key_is_not_using_it(engine: Engine, client: Client) -> None:
    client("SET", "key", "1")
    engine.advance(5000)
    for request in ("TYPE key", "TTL key", "EXISTS key", "OBJECT ENCODING key", "DEBUG OBJECT key"):
        client(*request.split())
        assert client("OBJECT", "IDLETIME", "key") == 5
    client("TOUCH", "key")
    assert client("OBJECT", "IDLETIME", "key") == 0
    assert client("OBJECT", "IDLETIME", "none") is None


def test_object_knows_no_frequency(client: Client) -> None:
    client("SET", "key", "1")
    assert isinstance(client("OBJECT", "FREQ", "key"), Error)
    assert client("OBJECT", "FREQ", "none") is None
    assert client("OBJECT") == Error("ERR wrong number of arguments for 'object' command")
    expected = Error("ERR wrong number of arguments for 'object|encoding' command")
    assert client("object", "encoding") == expected


def test_hits_and_misses_are_counted(engine: Engine, client: Client) -> None:
    client("SET", "key", "1")
    for request in ("GET key", "EXISTS key", "TTL key", "GET none", "TYPE none", "DEL none"):
        client(*request.split())
    assert (engine.space.stats.hits, engine.space.stats.misses) == (3, 2)


# --- DEBUG -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3, 63, 64, 100_000])
def test_the_serialized_length_tells_a_string_s_size(client: Client, size: int) -> None:
    client("SET", "key", b"1" * size)
    line = client("DEBUG", "OBJECT", "key")
    figures = dict(word.split(":", 1) for word in line.replace("Value at", "at").split())
    assert int(figures["serializedlength"]) - 1 == size
    assert set(figures) == {
        *("at", "refcount", "encoding", "serializedlength", "lru", "lru_seconds_idle")
    }
    assert client("DEBUG", "OBJECT", "none") == Error("ERR no such key")


def test_a_digest_tells_whether_anything_changed(client: Client) -> None:
    assert client("DEBUG", "DIGEST") == "0" * 40
    client("MSET", "a", "1", "b", "2")
    client("SADD", "c", "x", "y")
    before = client("DEBUG", "DIGEST")
    client("DEL", "b")
    assert client("DEBUG", "DIGEST") != before
    client("SET", "b", "2")
    assert client("DEBUG", "DIGEST") == before
    client("EXPIRE", "b", 100)
    assert client("DEBUG", "DIGEST") != before


def test_sleeping_keeps_nobody_else_from_working(engine: Engine, client: Client) -> None:
    other = engine.connect()
    assert client("DEBUG", "SLEEP", "1.5") is BLOCKED
    assert other("SET", "key", "1") == "OK"
    engine.advance(1499)
    assert client.result() is BLOCKED
    engine.advance(1)
    assert client.result() == "OK"
    assert client("GET", "key") == b"1"


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "0.0001", "nan"])
def test_not_sleeping(client: Client, seconds: str) -> None:
    assert client("DEBUG", "SLEEP", seconds) == "OK"


def test_sleeping_for_ever(engine: Engine, client: Client) -> None:
    assert client("DEBUG", "SLEEP", "inf") is BLOCKED
    client.disconnect()
    assert engine.node.timers.next_ms() is None


def test_a_job_may_keep_its_expired_keys(engine: Engine, client: Client) -> None:
    other = engine.connect(job_id="other")
    assert client("DEBUG", "SET-ACTIVE-EXPIRE", "0") == "OK"
    for one in (client, other):
        one("SET", "key", "1", "PX", 10)
    engine.advance(1000)
    engine.keyspace.expire_some()
    assert client("DBSIZE") == 1
    assert other("DBSIZE") == 0
    client("DEBUG", "SET-ACTIVE-EXPIRE", "1")
    engine.keyspace.expire_some()
    assert client("DBSIZE") == 0


def test_debug_without_a_key_has_none_to_be_routed_by(client: Client) -> None:
    for name in ("OBJECT", "DIGEST-VALUE"):
        command = find_command([b"DEBUG", name.encode()])
        assert not command.single_key
        assert command.keys.positions([b"DEBUG", name.encode()]) == []
    expected = "ERR unknown subcommand or wrong number of arguments for 'OBJECT'. Try DEBUG HELP."
    assert client("DEBUG", "OBJECT") == Error(expected)
    assert client("DEBUG", "DIGEST-VALUE") == []


def test_debug_answers_what_it_is_asked_for(client: Client, client3: Client) -> None:
    assert client("DEBUG", "ERROR", "HELLO x") == Error("HELLO x")
    assert client("DEBUG", "RELOAD") == "OK"
    assert client("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "100b") == "OK"
    assert isinstance(client("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "x"), Error)
    expected = "ERR unknown subcommand or wrong number of arguments for 'segfault'. Try DEBUG HELP."
    assert client("DEBUG", "segfault") == Error(expected)
    assert client("DEBUG", "HELP")[0].startswith("DEBUG <subcommand>")
    assert client3("DEBUG", "PROTOCOL", "map") == {0: False, 1: True, 2: False}


# --- removing all ------------------------------------------------------------------------------


@plain_only
def test_flushing_does_not_look_at_the_keys(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in (0, 1):
        client.session.select(index)
        client("MSET", *[part for k in range(1000) for part in (k, "value")])
    with monkeypatch.context() as patch:
        patch.delattr(Database, "count_bytes")
        assert client("FLUSHALL") == "OK"
    assert engine.space.used_bytes == 0
    assert client("DBSIZE") == 0
    assert engine.keyspace.free_some(500)
    while engine.keyspace.free_some(500):
        pass
    assert not engine.keyspace.discarded
