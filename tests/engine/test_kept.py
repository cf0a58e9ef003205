"""Keys that outlived their job: read from elsewhere, by the engine alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pocketkv.engine.cold import FIRST_COLLECTION, LARGE, STRING, Cold, NotResident
from pocketkv.engine.errors import CommandError
from pocketkv.engine.keyspace import Keyspace
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.shelf import StoredRead
from tests.engine.harness import Client, Engine
from tests.engine.stores import MemoryStore

VALUES = {b"a": (STRING, b"value"), b"empty": (STRING, b"")}


class KeptJournal:
    """What is elsewhere, by the place of each value; counts what is read."""

    def __init__(self) -> None:
        self.reads = 0
        self.released = 0

    def read_now(self, cold: Cold) -> bytes | None:
        return None

    def try_read(self, cold: Cold) -> bytes | None:
        return None

    def read(self, cold: Cold) -> bytes:
        self.reads += 1
        if cold.place is None:
            raise CommandError(b"IOERR it is away")
        payload: bytes = cold.place
        return payload

    def large(self, cold: Cold) -> LargeString:
        raise NotResident([])

    def release(self, cold: Cold) -> None:
        self.released += 1

    def reserve(self, size: int) -> bool:
        return False

    def put(self, db: int, key: bytes, kind: int, payload: bytes, due_ms: int) -> Cold:
        raise AssertionError("nothing is written")

    def change(self, db: int, key: bytes, payload: bytes) -> Cold:
        raise AssertionError("nothing is written")

    def part(self, db: int, key: bytes, kind: int, payload: bytes, group: int) -> Cold:
        raise AssertionError("nothing is written")

    def delete(self, db: int, key: bytes) -> None:
        raise AssertionError("nothing is written")

    def expire(self, db: int, key: bytes, due_ms: int) -> None:
        raise AssertionError("nothing is written")

    def clear(self, db: int) -> None:
        raise AssertionError("nothing is written")


class Kept:
    durable = False

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.one = KeptJournal()

    def journal(self, job_id: str) -> KeptJournal:
        return self.one

    def drop(self, job_id: str) -> None:
        self.dropped.append(job_id)


def stub(kind: int, payload: bytes | None) -> Cold:
    size = 0 if payload is None else len(payload)
    cold = Cold(kind, size, payload, 0, size)
    cold.cost_bytes = 256
    return cold


def fetch(reads: list[StoredRead], done: object) -> None:
    """Read at once, as a thread would."""
    results: list[bytes | CommandError] = []
    for read in reads:
        try:
            results.append(read.read())
        except CommandError as error:
            results.append(error)
    done(results)  # type: ignore[operator]


@pytest.fixture(params=["memory", "files"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A job that is elsewhere, on a server of either kind."""
    engine = Engine(store=MemoryStore()) if request.param == "files" else Engine()
    engine.node.fetcher = fetch  # type: ignore[assignment]
    engine.connect()("SET", "before", "x")
    kept = Kept()
    space = engine.space
    other = engine.connect()
    other("SADD", "set", "x", "y")
    members = other.db.find_stored(b"set")
    assert isinstance(members, SetValue)
    stored = members.payload()
    other("DEL", "set")
    space.move_to(kept)
    space.read_only = True
    for key, (kind, payload) in {**VALUES, b"set": (FIRST_COLLECTION, stored)}.items():
        space.database(0).restore(key, stub(kind, payload), 0)
    space.database(0).restore(b"away", stub(STRING, None), 0)
    yield engine
    engine.validate()


@pytest.fixture
def client(engine: Engine) -> Client:
    return engine.connect()


def kept_of(engine: Engine) -> Kept:
    kept = engine.space.kept
    assert isinstance(kept, Kept)
    return kept


def test_values_are_read_each_time_and_do_not_stay(engine: Engine, client: Client) -> None:
    for _ in range(2):
        assert client("GET", "a") == b"value"
        assert client("GET", "empty") == b""
        assert client("SCARD", "set") == 2
        assert client("MGET", "a", "empty", "nosuch") == [b"value", b"", None]
    assert kept_of(engine).one.reads >= 10
    assert isinstance(client.db.find_stored(b"a"), Cold)
    assert isinstance(client.db.find_stored(b"set"), Cold)
    assert engine.keyspace.residents == {}
    shelf = client.db.shelf
    assert shelf is not None
    assert shelf.fetched == {}


def test_what_was_there_before_is_gone(engine: Engine, client: Client) -> None:
    assert client("EXISTS", "before") == 0
    assert client("DBSIZE") == 4


def test_what_needs_no_value_reads_none(engine: Engine, client: Client) -> None:
    assert client("EXISTS", "a", "away") == 2
    assert client("TYPE", "set") == "set"
    assert client("TTL", "a") == -1
    assert kept_of(engine).one.reads == 0


def test_what_cannot_be_read_is_an_error_on_its_key(engine: Engine, client: Client) -> None:
    assert "IOERR it is away" in str(client("GET", "away"))
    assert client("GET", "a") == b"value"


def test_nothing_is_changed(engine: Engine, client: Client) -> None:
    for command in (("SET", "a", "x"), ("DEL", "a"), ("SADD", "set", "z"), ("FLUSHALL",)):
        assert "this job has ended" in str(client(*command))
    assert client("GET", "a") == b"value"


def test_a_key_whose_time_has_come_is_forgotten_here(engine: Engine, client: Client) -> None:
    now_ms = engine.clock.now_ms
    engine.space.database(0).restore(b"short", stub(STRING, b"x"), now_ms + 100)
    assert client("GET", "short") == b"x"
    engine.advance(200)
    assert client("GET", "short") is None
    assert engine.space.stats.expired == 1


def test_others_are_kept_where_they_were(engine: Engine) -> None:
    other = engine.keyspace.open("other")
    assert other.kept is None
    other.own_everything()
    other.database(0).put(b"key", b"value")
    assert other.database(0).value_of(b"key", other.database(0).find(b"key")) == b"value"  # type: ignore[arg-type]


def test_it_is_left_and_forgotten(engine: Engine, client: Client) -> None:
    kept = kept_of(engine)
    engine.space.move_to(None)
    engine.space.read_only = False
    assert kept.dropped == ["default"]
    assert client("DBSIZE") == 0
    assert client("SET", "a", "new") == "OK"
    assert client("GET", "a") == b"new"
    assert kept.one.reads == 0


def test_what_would_keep_everybody_waiting_is_refused(engine: Engine, client: Client) -> None:
    entry = client.db.find_stored(b"a")
    assert entry is not None
    with pytest.raises(CommandError, match="does not read what a job has retained"):
        client.db.value_of(b"a", entry)


def test_a_large_string_is_not_read_ahead(engine: Engine, client: Client) -> None:
    client.db.restore(b"large", stub(LARGE, b"x" * 100_000), 0)
    shelf = client.db.shelf
    entry = client.db.find_stored(b"large")
    assert shelf is not None
    assert isinstance(entry, Cold)
    assert shelf.missing(b"large", entry, []) == []
    with pytest.raises(NotResident):
        shelf.load(b"large", entry)


def test_a_job_that_ends_is_forgotten(engine: Engine) -> None:
    kept = kept_of(engine)
    keyspace: Keyspace = engine.keyspace
    keyspace.drop("default")
    assert kept.dropped == ["default"]
    assert keyspace.used_bytes == 0
    engine.keyspace.open("default").own_everything()
