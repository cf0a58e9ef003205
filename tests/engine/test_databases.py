"""MOVE and SWAPDB, on every medium, and with all that looks on."""

from __future__ import annotations

import pytest

from pocketkv.engine.replay import Replay
from tests.engine.harness import START_MS, Client, Engine
from tests.engine.stores import MemoryStore
from tests.replies import Error

INVALID_FIRST = Error("ERR invalid first DB index")
INVALID_SECOND = Error("ERR invalid second DB index")
OUT_OF_RANGE = Error("ERR DB index is out of range")


# --- MOVE --------------------------------------------------------------------------------------


def test_a_key_is_moved_with_its_expiry(client: Client) -> None:
    client("SET", "key", "value", "PX", 5000)
    client("SADD", "set", "a", "b")
    assert client("MOVE", "key", 1) == 1
    assert client("MOVE", "set", 1) == 1
    assert client("DBSIZE") == 0
    client("SELECT", 1)
    assert client("GET", "key") == b"value"
    assert client("PTTL", "key") == 5000
    assert sorted(client("SMEMBERS", "set")) == [b"a", b"b"]


def test_a_key_is_not_moved_over_another(client: Client) -> None:
    client("SET", "key", "here")
    client("SELECT", 3)
    client("SET", "key", "there")
    client("SELECT", 0)
    assert client("MOVE", "key", 3) == 0
    assert client("MOVE", "nosuch", 3) == 0
    assert client("GET", "key") == b"here"


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ("0", "ERR source and destination objects are the same"),
        ("16", "ERR DB index is out of range"),
        ("-1", "ERR DB index is out of range"),
        ("x", "ERR value is not an integer or out of range"),
    ],
)
def test_where_a_key_cannot_be_moved(client: Client, index: str, error: str) -> None:
    assert client("MOVE", "key", index) == Error(error)


# --- SWAPDB ------------------------------------------------------------------------------------


def fill(client: Client) -> None:
    client("SET", "text", "zero", "PX", 5000)
    client("SADD", "set", "a", "b", "c")
    client("SELECT", 1)
    client("SET", "text", "one")
    client("SADD", "numbers", 1, 2, 3)
    client("SELECT", 0)


def shown(client: Client) -> list[object]:
    """What database 0 and 1 have."""
    found: list[object] = []
    for index in (0, 1):
        client("SELECT", index)
        found.append(
            [
                client("GET", "text"),
                client("PTTL", "text"),
                sorted(client("SMEMBERS", "set")),
                sorted(client("SMEMBERS", "numbers")),
                client("DBSIZE"),
            ]
        )
    client("SELECT", 0)
    return found


ZERO = [b"zero", 5000, [b"a", b"b", b"c"], [], 2]
ONE = [b"one", -1, [], [b"1", b"2", b"3"], 2]


def test_two_databases_exchange_their_keys(engine: Engine) -> None:
    client, other = engine.connect(), engine.connect()
    fill(client)
    other("SELECT", 1)
    assert client("SWAPDB", 0, 1) == "OK"
    # Everybody stays where he is.
    assert other("GET", "text") == b"zero"
    assert client("GET", "text") == b"one"
    assert shown(client) == [ONE, ZERO]
    client("SADD", "numbers", 4)
    client("SWAPDB", 1, 0)
    assert shown(client) == [ZERO, [b"one", -1, [], [b"1", b"2", b"3", b"4"], 2]]
    assert client("SWAPDB", 5, 5) == "OK"


def test_keys_expire_where_they_have_gone(engine: Engine) -> None:
    client = engine.connect()
    client("SET", "key", "value", "PX", 1000)
    client("SWAPDB", 0, 7)
    engine.advance(1000)
    while engine.keyspace.expire_some():
        pass
    assert client("DBSIZE") == 0
    client("SELECT", 7)
    assert client("DBSIZE") == 0


@pytest.mark.parametrize(
    ("first", "second", "reply"),
    [
        ("x", "y", INVALID_FIRST),
        ("0", "y", INVALID_SECOND),
        ("99999999999", "0", INVALID_FIRST),
        ("0", "1.5", INVALID_SECOND),
        ("0", "16", OUT_OF_RANGE),
        ("-1", "0", OUT_OF_RANGE),
    ],
)
def test_what_is_no_database(client: Client, first: str, second: str, reply: Error) -> None:
    assert client("SWAPDB", first, second) == reply


class Watcher:
    def __init__(self) -> None:
        self.cleared_with: list[tuple[int, int]] = []

    def changed(self, database: object, key: bytes, slot: int) -> None:
        raise AssertionError("no key changes by itself")

    noted = expiry_changed = changed

    def cleared(self, database: object) -> None:
        self.cleared_with.append((database.index, database.size))  # type: ignore[attr-defined]

    def left(self, space: object, start: int, end: int) -> None:
        raise AssertionError("no slot leaves")


def test_whoever_looks_on_is_told_of_all_keys_before_and_after() -> None:
    engine = Engine()
    client = engine.connect()
    client("SET", "key", "value")
    watcher = Watcher()
    engine.space.observe(watcher)
    client("SWAPDB", 0, 1)
    assert sorted(watcher.cleared_with) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def restarted(engine: Engine) -> Engine:
    """A server that finds what another one has on its medium."""
    assert isinstance(engine.keyspace.store, MemoryStore)
    store = MemoryStore()
    again = Engine(store=store, now_ms=START_MS)
    source = engine.keyspace.store.journal("default")
    Replay(again.space).run(store.replay("default", source))
    again.validate()
    return again


def test_a_restart_finds_them_swapped() -> None:
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    fill(client)
    client.db.mark(b"text")
    client("PING")
    for swaps in range(3):
        client = restarted(engine).connect()
        assert shown(client) == ([ONE, ZERO] if swaps % 2 else [ZERO, ONE])
        engine = client.engine
        client("SWAPDB", 0, 1)
        client("SADD", "new", "x")
        client("DEL", "new")
        engine.validate()
    # Three in a circle, and one that had no keys.
    client("SWAPDB", 0, 1)
    client("SWAPDB", 0, 1)
    client("SWAPDB", 1, 2)
    client("SWAPDB", 2, 15)
    client = restarted(client.engine).connect()
    client("SELECT", 15)
    assert client("GET", "text") == b"zero"
    marks = client.db.marks
    assert marks is not None
    assert b"text" in marks
    client("FLUSHALL")
    client("SELECT", 0)
    client("SET", "key", "value")
    client = restarted(client.engine).connect()
    assert client("GET", "key") == b"value"


def test_one_database_is_flushed_after_a_swap() -> None:
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    fill(client)
    client("SWAPDB", 0, 1)
    client("FLUSHDB")
    assert shown(restarted(engine).connect()) == [[None, -2, [], [], 0], ZERO]


def test_a_value_that_is_moved_out_of_memory_is_found_after_a_swap() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client = engine.connect()
    fill(client)
    client("SWAPDB", 0, 1)
    for shelf, key in list(engine.keyspace.residents):
        assert shelf.db.find_stored(key) is not None
    assert shown(client) == [ONE, ZERO]
    engine.validate()
