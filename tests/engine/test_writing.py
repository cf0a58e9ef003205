"""Huge collections are written whole in steps, while they are used."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from pocketkv.engine import shelf as shelf_module
from pocketkv.engine import writing as writing_module
from pocketkv.engine.cold import CHANGE, PART, PARTED, Cold
from pocketkv.engine.eviction import evict_some
from pocketkv.engine.keyspace import DEFAULT_JOB
from pocketkv.engine.replay import Replay, StoredIndex
from pocketkv.engine.values import Collection
from tests.engine.harness import Client, Engine
from tests.engine.stores import MemoryJournal, MemoryStore, Record, write_some

KINDS = ("set", "list", "hash", "zset", "stream")
ROUNDS = 40


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections of a few hundred elements take many parts."""
    for module in (shelf_module, writing_module):
        monkeypatch.setattr(module, "PARTED_BYTES", 2000)
    monkeypatch.setattr(writing_module, "PART_BYTES", 1500)


def make(kind: str, count: int) -> list[list[object]]:
    """Commands that make a collection of so many elements at `k`."""
    numbers = range(count)
    if kind == "set":
        return [["SADD", "k", *(f"member:{n}" for n in numbers)]]
    if kind == "list":
        return [["RPUSH", "k", *(f"item:{n}" for n in numbers)]]
    if kind == "hash":
        return [["HSET", "k", *(part for n in numbers for part in (f"field:{n}", n))]]
    if kind == "zset":
        return [["ZADD", "k", *(part for n in numbers for part in (n, f"member:{n}"))]]
    entries: list[list[object]] = [["XADD", "k", f"{n + 1}-1", "field", n] for n in numbers]
    reading = ["XREADGROUP", "GROUP", "g", "c", "COUNT", count // 2, "STREAMS", "k", ">"]
    return [*entries, ["XGROUP", "CREATE", "k", "g", "0"], reading]


class Changes:
    """Changes to a collection, drawn at random."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.random = random.Random(seed)
        self.number = 100_000

    def draw(self, count: int) -> list[object]:
        self.number += 1
        some, new, kind = self.random.randrange(count), self.number, self.random.randrange(4)
        commands: dict[str, list[list[object]]] = {
            "set": [["SADD", "k", f"new:{new}"], ["SREM", "k", f"member:{some}"]],
            "list": [
                [self.random.choice(["LPUSH", "RPUSH"]), "k", f"new:{new}"],
                [self.random.choice(["LPOP", "RPOP"]), "k"],
                ["LSET", "k", some // 3, f"set:{new}"],
                ["LINSERT", "k", "BEFORE", f"item:{some}", f"new:{new}"],
            ],
            "hash": [
                ["HSET", "k", f"field:{some}", new],
                ["HDEL", "k", f"field:{some}"],
                ["HSET", "k", f"new:{new}", 1],
            ],
            "zset": [
                ["ZADD", "k", new, f"member:{some}"],
                ["ZREM", "k", f"member:{some}"],
                ["ZINCRBY", "k", -some, f"member:{some // 2}"],
            ],
            "stream": [
                ["XADD", "k", f"{new}-1", "field", new],
                ["XDEL", "k", f"{some + 1}-1"],
                ["XACK", "k", "g", f"{some // 2 + 1}-1"],
                ["XREADGROUP", "GROUP", "g", f"c{some % 3}", "COUNT", 3, "STREAMS", "k", ">"],
            ],
        }
        mine = commands[self.kind]
        return mine[kind % len(mine)]


def content(client: Client) -> Any:
    """All that is at `k`, and when it expires."""
    kind = client("TYPE", "k")
    due = client("PEXPIRETIME", "k")
    if kind == "set":
        return due, sorted(client("SMEMBERS", "k"))
    if kind == "list":
        return due, client("LRANGE", "k", 0, -1)
    if kind == "hash":
        pairs = client("HGETALL", "k")
        return due, sorted(zip(pairs[::2], pairs[1::2], strict=True))
    if kind == "zset":
        return due, client("ZRANGE", "k", 0, -1, "WITHSCORES")
    if kind == "stream":
        return due, client("XRANGE", "k", "-", "+"), client("XPENDING", "k", "g", "-", "+", 10_000)
    return due, kind, client("GET", "k") if kind == "string" else None


def journal_of(engine: Engine) -> MemoryJournal:
    assert isinstance(engine.keyspace.store, MemoryStore)
    return engine.keyspace.store.journal(DEFAULT_JOB)


def restarted(engine: Engine, records: list[Record]) -> Engine:
    """A server that finds just these records, and needs no other than it holds."""
    source = MemoryJournal(MemoryStore())
    source.records, source.committed = records, len(records)
    store = MemoryStore()
    again = Engine(store=store, now_ms=engine.clock.now_ms)
    Replay(again.space).run(store.replay(DEFAULT_JOB, source))
    check_records(again)
    again.validate()
    return again


def check_records(engine: Engine) -> None:
    """What the journal is to keep is what somebody knows."""
    known: set[Cold] = set()
    for db in engine.space.databases.values():
        assert db.shelf is not None
        entries = [entry for _, table in db.slot_tables() for entry in table.values()]
        known |= {entry for entry in entries if isinstance(entry, Cold)}
        known |= {record for chain in db.shelf.chains.values() for record in chain}
        known |= {record for one in db.shelf.writings.values() for record in one.records}
    assert journal_of(engine).live == known


def begin(client: Client) -> None:
    """Have what is at `k` be written whole."""
    shelf = client.db.shelf
    assert shelf is not None
    shelf.begin_writing(b"k")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("small_parts")
def test_a_collection_is_whole_at_every_record(kind: str, seed: int) -> None:
    """Whenever the server is killed: the next one finds what was acknowledged."""
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    for command in make(kind, 300):
        client(*command)
    changes = Changes(kind, seed)
    draws = random.Random(seed)
    journal = journal_of(engine)
    states = [(len(journal.records), content(client))]
    for _ in range(ROUNDS):
        begin(client)
        for _ in range(draws.randrange(3)):
            client(*changes.draw(300))
            states.append((len(journal.records), content(client)))
        if draws.randrange(10) == 0:
            client("PEXPIRE", "k", 10**7 + draws.randrange(100))
            states.append((len(journal.records), content(client)))
        if draws.randrange(20) == 0:
            client.db.exchange(b"k", *renewed(client))
        write_some(engine.keyspace, draws.randrange(3))
        engine.node.commit()
        check_records(engine)
        engine.validate()
    write_some(engine.keyspace)
    engine.node.commit()
    ends = [number for number, record in enumerate(journal.records) if record.kind & PARTED]
    assert len(ends) > 2
    boundaries = dict(states)
    state = states[0][1]
    for cut in range(states[0][0], len(journal.records) + 1):
        state = boundaries.get(cut, state)
        last = journal.records[cut - 1]
        if cut in boundaries or last.kind != CHANGE:
            again = restarted(engine, journal.records[:cut])
            assert content(again.connect()) == state, cut


def renewed(client: Client) -> tuple[Collection, Collection]:
    """A value, and the object that takes its place when memory is tidied."""
    value = client.db.find_stored(b"k")
    assert isinstance(value, Collection)
    return value, value.renewed() or value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.usefixtures("small_parts")
def test_whatever_takes_it_away_ends_its_writing(kind: str, steps: int) -> None:
    for take_away in (
        ["DEL", "k"],
        ["UNLINK", "k"],
        ["SET", "k", "other"],
        ["RENAME", "k", "other"],
        ["MOVE", "k", "1"],
        ["COPY", "other", "k", "REPLACE"],
        ["PEXPIREAT", "k", "1"],
        ["FLUSHDB"],
        ["FLUSHALL"],
    ):
        engine = Engine(store=MemoryStore())
        client = engine.connect()
        client("SADD", "other", *range(5))
        for command in make(kind, 1500 if kind == "hash" else 300):
            client(*command)
        begin(client)
        assert write_some(engine.keyspace, steps) == steps
        client(*take_away)
        assert client.db.shelf is not None
        assert not client.db.shelf.writings
        write_some(engine.keyspace)
        engine.node.commit()
        assert not engine.keyspace.writings
        if take_away[0] != "FLUSHALL":
            # (That gives up all that the job has.)
            while engine.keyspace.free_some(1000):
                pass
            check_records(engine)
        journal = journal_of(engine)
        again = restarted(engine, journal.records[: journal.committed]).connect()
        for index in (0, 1):
            for one in (client, again):
                one("SELECT", index)
            assert content(again) == content(client)
            assert again("DBSIZE") == client("DBSIZE")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_parts")
def test_it_goes_elsewhere_when_its_place_is_collected(kind: str) -> None:
    """In steps, wherever it is, and whatever happens to it meanwhile."""
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    index = StoredIndex()
    index.keyspace = engine.keyspace
    for command in make(kind, 300):
        client(*command)
    changes = Changes(kind, 1)
    draws = random.Random(2)
    shelf = client.db.shelf
    assert shelf is not None
    journal = journal_of(engine)
    carried = 0
    for _ in range(ROUNDS):
        state = content(client)
        if draws.randrange(2):
            write_some(engine.keyspace)
            while evict_some(engine.keyspace, 1 << 30, 1 << 30):
                pass
        is_cold = isinstance(client.db.find_stored(b"k"), Cold)
        before = set(shelf.chains[b"k"])
        index.rewrite(DEFAULT_JOB, 0, b"k", journal, now=False)
        assert b"k" in shelf.writings
        assert index.record_of(DEFAULT_JOB, 0, b"k") is None
        write_some(engine.keyspace, draws.randrange(4))
        if draws.randrange(2):
            client(*changes.draw(300))
            state = content(client)
        steps = write_some(engine.keyspace)
        carried += is_cold and steps > 0
        engine.node.commit()
        assert b"k" not in shelf.writings
        # Changes that came meanwhile are none of those that were before.
        assert not before & set(shelf.chains[b"k"])
        check_records(engine)
        again = restarted(engine, journal.records[: journal.committed])
        assert content(again.connect()) == state
        assert content(client) == state
    assert carried


@pytest.mark.usefixtures("small_parts")
def test_it_begins_anew_if_its_parts_have_to_leave_their_place() -> None:
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    for command in make("set", 300):
        client(*command)
    index = StoredIndex()
    index.keyspace = engine.keyspace
    begin(client)
    write_some(engine.keyspace, 2)
    shelf = client.db.shelf
    assert shelf is not None
    parts = set(shelf.writings[b"k"].records)
    index.rewrite(DEFAULT_JOB, 0, b"k", journal_of(engine), now=False)
    write_some(engine.keyspace)
    assert parts
    assert not parts & set(shelf.chains[b"k"])
    check_records(engine)


@pytest.mark.usefixtures("small_parts")
def test_it_waits_for_room_and_may_leave_memory_then() -> None:
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    for command in make("hash", 1500):
        client(*command)
    state = content(client)
    journal = journal_of(engine)
    begin(client)
    write_some(engine.keyspace, 1)
    # It is not left in the midst of it ...
    assert evict_some(engine.keyspace, 1 << 30, 1 << 30) == 0
    assert engine.keyspace.residents
    journal.has_room = False
    assert write_some(engine.keyspace) == 0
    # ... unless that does not go on.
    assert evict_some(engine.keyspace, 1 << 30, 1 << 30) > 0
    assert client.db.shelf is not None
    assert not client.db.shelf.writings
    check_records(engine)
    journal.has_room = True
    assert content(client) == state


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_writes_more_than_a_part(kind: str) -> None:
    """However large the collection is."""
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    for command in make(kind, 40_000 if kind != "stream" else 15_000):
        client(*command)
    value = client.db.find_stored(b"k")
    assert isinstance(value, Collection)
    journal = journal_of(engine)
    begin(client)
    steps = 0
    while True:
        before = len(journal.records)
        if not write_some(engine.keyspace, 1):
            break
        steps += 1
        written = journal.records[before:]
        assert [record.kind for record in written[:1]] == [PART]
        assert len(written) <= 2
        # A node of a stream, or a chunk of a list, may be added to what is enough.
        assert sum(len(record.payload) for record in written) < 2 * writing_module.PART_BYTES
    assert steps > value.size_bytes // writing_module.PART_BYTES // 4
    assert client.db.shelf is not None
    assert len(client.db.shelf.chains[b"k"]) == 1 + steps


@pytest.mark.parametrize("damage", ["part lost", "part of another", "part twice", "end alone"])
@pytest.mark.usefixtures("small_parts")
def test_parts_that_are_not_what_the_end_tells(damage: str) -> None:
    """What was before is there, or the key is an error; it is never something else."""
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    for command in make("list", 300):
        client(*command)
    state = content(client)
    begin(client)
    write_some(engine.keyspace)
    engine.node.commit()
    records = journal_of(engine).records
    for has_former in (True, False):
        for broken in broken_by(damage, records, has_former=has_former):
            again = restarted(engine, broken).connect()
            if has_former and damage != "part of another":
                assert content(again) == state
            else:
                assert again("LRANGE", "k", 0, -1).text.startswith("IOERR")
                assert again("SET", "k", "new") == "OK"
                check_records(again.engine)


def broken_by(damage: str, records: list[Record], *, has_former: bool) -> Iterator[list[Record]]:
    """Records of a value that was written whole twice, the second time not as it should be."""
    ends = [number for number, record in enumerate(records) if record.kind & PARTED]
    assert len(ends) == 2
    former, later = records[: ends[0] + 1], records[ends[0] + 1 :]
    before = former if has_former else []
    for number in range(len(later) - 1):
        if damage == "part lost":
            yield before + later[:number] + later[number + 1 :]
        elif damage == "part twice":
            yield before + later[: number + 1] + later[number:]
        elif damage == "part of another":
            other = later[(number + 1) % (len(later) - 1)]
            yield before + later[:number] + [other] + later[number + 1 :]
    if damage == "end alone":
        yield before + later[-1:]
