"""DUMP and RESTORE on every medium; tests/oracle/test_dumps.py compares them with Redis."""

from __future__ import annotations

import pytest

from pocketkv.engine.extents import Extents
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.rdb.dumps import dump_set, dump_string
from tests.engine.harness import START_MS, Client, Engine
from tests.engine.media import FakeMedium
from tests.replies import Error


def test_a_value_comes_back_under_another_name(client: Client) -> None:
    client("SET", "text", "some text, some text, some text")
    client("SADD", "numbers", 1, 2, 3)
    client("SADD", "words", "a", "b")
    for key in ("text", "numbers", "words"):
        assert client("RESTORE", "copy:" + key, 0, client("DUMP", key)) == "OK"
        assert client("TYPE", "copy:" + key) == client("TYPE", key)
        ours, theirs = client("DEBUG", "DIGEST-VALUE", key, "copy:" + key)
        assert ours == theirs
    assert client("OBJECT", "ENCODING", "copy:numbers") == b"intset"


def test_an_expiry_is_no_part_of_a_dump_but_may_be_given(client: Client) -> None:
    client("SET", "key", "value", "PX", 5000)
    payload = client("DUMP", "key")
    client("RESTORE", "never", 0, payload)
    client("RESTORE", "relative", 700, payload)
    client("RESTORE", "absolute", START_MS + 900, payload, "ABSTTL")
    assert [client("PTTL", key) for key in ("never", "relative", "absolute")] == [-1, 700, 900]


def test_a_key_is_replaced_only_if_asked_for(client: Client) -> None:
    client("SET", "key", "old", "PX", 5000)
    payload = dump_string(b"new")
    assert client("RESTORE", "key", 0, payload) == Error("BUSYKEY Target key name already exists.")
    assert client("GET", "key") == b"old"
    assert client("RESTORE", "key", 0, payload, "REPLACE") == "OK"
    assert client("GET", "key") == b"new"
    assert client("PTTL", "key") == -1


def test_what_has_expired_already_leaves_nothing(client: Client) -> None:
    client("SET", "key", "old")
    payload = dump_string(b"new")
    assert client("RESTORE", "key", 1, payload, "ABSTTL", "REPLACE") == "OK"
    assert client("EXISTS", "key") == 0


def test_how_long_a_key_was_idle_can_be_given(engine: Engine) -> None:
    client = engine.connect()
    assert client("RESTORE", "key", 0, dump_string(b"x"), "IDLETIME", 1000) == "OK"
    assert client("OBJECT", "IDLETIME", "key") == 1000
    # It is known by slot: what is told of one key must not be believed of another one.
    client("SET", "{slot}a", "x")
    client("RESTORE", "{slot}b", 0, dump_string(b"x"), "IDLETIME", 1000)
    assert client("OBJECT", "IDLETIME", "{slot}a") == 0


def test_damaged_dumps_change_nothing(client: Client) -> None:
    client("SET", "key", "old")
    payload = dump_string(b"a string of more than twenty bytes, more than twenty bytes")
    for position in range(len(payload)):
        damaged = payload[:position] + bytes((payload[position] ^ 1,)) + payload[position + 1 :]
        assert client("RESTORE", "key", 0, damaged, "REPLACE") == Error(
            "ERR DUMP payload version or checksum are wrong"
        )
    assert client("GET", "key") == b"old"


def test_a_large_string_is_kept_like_any_other() -> None:
    engine = Engine(extents=Extents(FakeMedium(64 * 256, page_bytes=4096)))
    client = engine.connect()
    text = b"0123456789abcdef" * 20_000
    client("SET", "key", text)
    assert isinstance(client.db.lookup(b"key"), LargeString)
    payload = client("DUMP", "key")
    assert client("RESTORE", "copy", 0, payload) == "OK"
    assert isinstance(client.db.lookup(b"copy"), LargeString)
    assert client("GET", "copy") == text
    engine.validate()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(dump_string(bytes(60_000)), id="a string of zeros"),
        pytest.param(dump_set([b"%d:" % i for i in range(3000)]), id="many short members"),
    ],
)
def test_what_a_short_dump_makes_must_fit_into_the_quota(payload: bytes) -> None:
    engine = Engine()
    client = engine.connect()
    engine.space.quota_bytes = 50_000
    assert len(payload) < 40_000
    reply = client("RESTORE", "key", 0, payload)
    assert isinstance(reply, Error)
    assert reply.text.startswith("OOM")
    assert client("EXISTS", "key") == 0
    engine.validate()


def test_migrate_says_what_to_do_instead(client: Client) -> None:
    client("SET", "key", "value")
    reply = client("MIGRATE", "127.0.0.1", 6379, "key", 0, 1000)
    assert isinstance(reply, Error)
    assert "RESTORE" in reply.text
    keys = client("COMMAND", "GETKEYS", "MIGRATE", "host", 1, "", 0, 9, "COPY", "KEYS", "a", "b")
    assert keys == [b"a", b"b"]
