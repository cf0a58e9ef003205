"""Keys that go when memory is full, by Redis's policies."""

from __future__ import annotations

import pytest

from pocketkv.engine.key_eviction import NO_EVICTION, POLICIES
from tests.engine.harness import Engine
from tests.engine.stores import MemoryStore

VALUE = "x" * 1000
KEYS = 200


def filled(policy: str) -> Engine:
    """A server whose memory is full; every other key expires, the sooner the lower its number."""
    engine = Engine(memory_bytes=300_000)
    client = engine.connect()
    assert client("CONFIG", "SET", "maxmemory-policy", policy) == "OK"
    for number in range(KEYS):
        assert client("SET", f"k{number}", VALUE) == "OK"
        if number % 2:
            client("EXPIRE", f"k{number}", 1000 + number)
    return engine


def full(engine: Engine) -> list[str]:
    """Write other keys until they are more than fit; the first ones that are left."""
    client = engine.connect()
    for number in range(KEYS):
        assert client("SET", f"new{number}", VALUE) == "OK"
        assert engine.keyspace.used_bytes <= engine.keyspace.memory_bytes + 200
    engine.validate()
    return [f"k{n}" for n in range(KEYS) if client("EXISTS", f"k{n}")]


def evicted(engine: Engine) -> int:
    text = engine.connect()("INFO", "stats").decode()
    return int(text.split("evicted_keys:")[1].split("\r\n")[0])


@pytest.mark.parametrize("policy", [p for p in POLICIES if p.startswith("allkeys")])
def test_any_key_may_go(policy: str) -> None:
    engine = filled(policy)
    left = full(engine)
    assert len(left) < KEYS
    assert evicted(engine) >= KEYS - len(left)
    assert engine.connect()("CONFIG", "GET", "maxmemory-policy")[1] == policy.encode()


@pytest.mark.parametrize("policy", [p for p in POLICIES if p.startswith("volatile")])
def test_only_keys_that_expire_go(policy: str) -> None:
    engine = filled(policy)
    client = engine.connect()
    number = 0
    while client("SET", f"new{number}", VALUE) == "OK":
        number += 1
        assert number < 1000
    assert not any(client("EXISTS", f"k{n}") for n in range(1, KEYS, 2))
    assert all(client("EXISTS", f"k{n}") for n in range(0, KEYS, 2))
    assert client("SET", "new", VALUE).text.startswith("OOM")
    assert evicted(engine) == KEYS // 2


def test_the_one_that_expires_first_goes_first() -> None:
    engine = filled("volatile-ttl")
    client = engine.connect()
    before = evicted(engine)
    number = 0
    while evicted(engine) - before < 20:
        client("SET", f"new{number}", VALUE)
        number += 1
    gone = [n for n in range(1, KEYS, 2) if not client("EXISTS", f"k{n}")]
    # Of each draw the soonest: none of the last quarter is among the first twenty.
    assert max(gone) < KEYS * 3 // 4


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
def test_what_is_used_stays(policy: str) -> None:
    engine = filled(policy)
    client = engine.connect()
    hot = [f"k{n}" for n in range(0, KEYS, 10)]
    for number in range(KEYS):
        engine.advance(1000)
        for key in hot:
            client("GET", key)
        client("SET", f"new{number}", VALUE)
    left = sum(client("EXISTS", key) for key in hot)
    others = [f"k{n}" for n in range(KEYS) if n % 10]
    assert left / len(hot) > 0.8
    assert sum(client("EXISTS", key) for key in others) / len(others) < 0.7


def test_a_job_gives_up_only_its_own_keys() -> None:
    engine = filled("allkeys-random")
    other = engine.connect(job_id="other")
    for number in range(50):
        other("SET", f"other{number}", VALUE)
    full(engine)
    assert all(other("EXISTS", f"other{n}") for n in range(50))


def test_one_hears_of_what_goes() -> None:
    engine = filled("allkeys-random")
    client, listener = engine.connect(), engine.connect(protocol=3)
    client("CONFIG", "SET", "notify-keyspace-events", "Ee")
    listener("PSUBSCRIBE", "__keyevent@0__:*")
    full(engine)
    assert b"__keyevent@0__:evicted" in listener.transport.take()


def test_keys_go_when_memory_is_made_smaller() -> None:
    engine = filled("allkeys-random")
    assert engine.connect()("CONFIG", "SET", "maxmemory", "100000") == "OK"
    assert engine.keyspace.used_bytes <= 100_000
    assert engine.space.databases[0].size > 50


def test_nothing_goes_unless_it_was_asked_for() -> None:
    engine = filled("allkeys-lru")
    client = engine.connect()
    assert client("CONFIG", "SET", "maxmemory-policy", NO_EVICTION) == "OK"
    replies = [client("SET", f"new{n}", VALUE) for n in range(KEYS)]
    assert replies[-1].text.startswith("OOM")
    assert all(client("EXISTS", f"k{n}") for n in range(KEYS))


def test_how_often_a_key_is_used_is_told_by_policy() -> None:
    engine = filled("allkeys-lfu")
    client = engine.connect()
    for _ in range(9):
        client("GET", "k1")
    assert 9 <= client("OBJECT", "FREQ", "k1") <= 15
    assert client("OBJECT", "IDLETIME", "k1").text.startswith("ERR An LFU maxmemory policy is")
    client("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert client("OBJECT", "FREQ", "k1").text.startswith("ERR An LFU maxmemory policy is not")
    assert client("OBJECT", "IDLETIME", "k1") == 0


def test_restore_tells_how_often_a_key_was_used() -> None:
    engine = filled("allkeys-lfu")
    client = engine.connect()
    dump = client("DUMP", "k1")
    assert client("RESTORE", "restored", 0, dump, "FREQ", 100) == "OK"
    assert client("OBJECT", "FREQ", "restored") == 100
    client("GET", "restored")
    assert client("OBJECT", "FREQ", "restored") == 100
    client("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert client("RESTORE", "other", 0, dump, "FREQ", 200) == "OK"
    client("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    assert client("OBJECT", "FREQ", "other") <= 15


def test_where_there_is_a_medium_values_go_there_and_no_key_goes() -> None:
    client = Engine(store=MemoryStore()).connect()
    reply = client("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert reply.text.endswith("what does not fit into memory goes to this server's medium")
    assert client("CONFIG", "GET", "maxmemory-policy")[1] == b"noeviction"
