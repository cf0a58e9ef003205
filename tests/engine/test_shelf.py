"""Values on a medium: written before they are acknowledged, found again, moved out."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pocketkv.engine.cold import CHANGE, FIRST_COLLECTION, PART, Cold
from pocketkv.engine.eviction import evict_some, memory_bytes
from pocketkv.engine.keyspace import DEFAULT_JOB
from pocketkv.engine.replay import Replay, StoredIndex
from pocketkv.engine.set_value import SetValue
from tests.engine.harness import BLOCKED, Client, Engine
from tests.engine.stores import MemoryJournal, MemoryStore, write_some


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def engine(store: MemoryStore) -> Engine:
    return Engine(store=store)


@pytest.fixture
def client(engine: Engine) -> Client:
    return engine.connect()


def restarted(engine: Engine) -> Engine:
    """A server that finds what another one had committed."""
    old = engine.keyspace.store
    assert isinstance(old, MemoryStore)
    store = MemoryStore(is_slow=old.is_slow)
    again = Engine(store=store, now_ms=engine.clock.now_ms)
    Replay(again.space).run(store.replay(DEFAULT_JOB, old.journal(DEFAULT_JOB)))
    return again


def journal_of(engine: Engine) -> MemoryJournal:
    assert isinstance(engine.keyspace.store, MemoryStore)
    return engine.keyspace.store.journal(DEFAULT_JOB)


def test_a_string_is_not_in_memory(engine: Engine, client: Client) -> None:
    client("SET", "key", "value" * 100)
    assert isinstance(client.db.find_stored(b"key"), Cold)
    assert client("GET", "key") == b"value" * 100
    assert isinstance(client.db.find_stored(b"key"), Cold)
    assert client("STRLEN", "key") == 500


def test_what_is_on_the_medium_is_not_in_memory(engine: Engine, client: Client) -> None:
    for number in range(20):
        client("SET", f"string:{number}", "x" * 50_000)
    keyspace = engine.keyspace
    assert keyspace.used_bytes > 1_000_000
    index_bytes = memory_bytes(keyspace)
    assert index_bytes == keyspace.index_bytes < 10_000
    # More than are looked at, of different sizes.
    for number in range(2000):
        client(
            "SADD", f"set:{number}", *[b"member:%d" % member for member in range(number % 7 + 1)]
        )
    sets_bytes = sum(
        value.size_bytes
        for _, table in client.db.slot_tables()
        for value in table.values()
        if isinstance(value, SetValue)
    )
    held_bytes = memory_bytes(keyspace) - keyspace.index_bytes
    assert sets_bytes * 0.9 < held_bytes < sets_bytes * 1.1
    while evict_some(keyspace, 1 << 30, 1 << 30):
        pass
    assert memory_bytes(keyspace) == keyspace.index_bytes


def test_whatever_takes_a_key_away_releases_its_record(engine: Engine, client: Client) -> None:
    journal = journal_of(engine)
    for take_away in (
        ["DEL", "key"],
        ["GETDEL", "key"],
        ["SET", "key", "other"],
        ["RENAME", "other", "key"],
        ["PEXPIREAT", "key", "1"],
        ["SADD", "key2", "x"],
    ):
        client("SET", "key", "value")
        client("SET", "other", "value")
        client(*take_away)
        live = {entry for _, table in client.db.slot_tables() for entry in table.values()}
        assert client.db.shelf is not None
        live |= {record for chain in client.db.shelf.chains.values() for record in chain}
        assert journal.live == {record for record in live if isinstance(record, Cold)}
    client("FLUSHALL")
    assert not journal_of(engine).live
    engine.validate()


def test_a_collection_that_was_left_with_changes_is_released_once(
    engine: Engine, client: Client
) -> None:
    members = huge_set(client, engine)
    assert client("SREM", "huge", *sorted(members)[:2]) == 2
    for take_away in (["SET", "huge", "string"], ["DEL", "huge"]):
        evict_all(engine)
        client(*take_away)
        journal = journal_of(engine)
        entries = [client.db.find_stored(b"huge")]
        assert journal.live == {entry for entry in entries if isinstance(entry, Cold)}


def test_one_database_of_several_is_emptied(engine: Engine, client: Client) -> None:
    client("SET", "key", "0")
    client("SELECT", "1")
    client("SET", "key", "1")
    client("SADD", "set", *range(10))
    client("FLUSHDB")
    assert client("DBSIZE") == 0
    while engine.keyspace.free_some(3):
        pass
    assert len(journal_of(engine).live) == 1
    again = restarted(engine).connect()
    assert again("GET", "key") == b"0"
    again("SELECT", "1")
    assert again("DBSIZE") == 0


def test_what_cannot_be_written_is_not_acknowledged(
    engine: Engine, client: Client, store: MemoryStore
) -> None:
    client("SET", "key", "old")
    store.error = OSError(errno.EIO, "Input/output error")
    assert (
        client("SET", "key", "new").text == "IOERR the medium takes no writes: Input/output error"
    )
    assert client("GET", "key") == b"new"
    # From now on nothing is changed in the first place.
    assert client("SET", "key", "newer").text.startswith("IOERR")
    store.error = OSError(errno.ENOSPC, "No space left on device")
    assert client("DEL", "key").text.startswith("OOM")
    assert client("GET", "key") == b"new"
    assert restarted(engine).connect()("GET", "key") == b"old"
    store.error = None
    assert client("SET", "key", "newest") == "OK"
    assert restarted(engine).connect()("GET", "key") == b"newest"


def test_no_room_is_told_before_anything_changes(engine: Engine, client: Client) -> None:
    client("SET", "key", "old")
    journal_of(engine).has_room = False
    assert client("SET", "key", "new").text.startswith("OOM")
    assert client("GET", "key") == b"old"
    assert client("DEL", "key") == 1


def test_the_index_has_a_bound() -> None:
    engine = Engine(store=MemoryStore(), memory_bytes=200_000)
    client = engine.connect()
    replies = [client("SET", f"key:{number}", "x") for number in range(3000)]
    refused = [reply for reply in replies if reply != "OK"]
    assert 1000 < len(replies) - len(refused) < 2500
    assert all(reply.text.startswith("OOM") for reply in refused)
    client("DEL", "key:0", "key:1", "key:2")
    assert client("SET", "k", "x") == "OK"


def test_a_damaged_value_is_an_error_on_its_key_only(
    engine: Engine, client: Client, store: MemoryStore
) -> None:
    client("MSET", "good", "1", "bad", "2")
    entry = client.db.find_stored(b"bad")
    assert isinstance(entry, Cold)
    store.damaged.add(entry)
    for store.is_slow in (False, True):
        assert client("GET", "bad").text == "IOERR damaged"
        assert client("MGET", "good", "bad").text == "IOERR damaged"
        assert client("GET", "good") == b"1"
        assert client("EXISTS", "good", "bad") == 2
    assert client("SET", "bad", "3") == "OK"
    assert client("GET", "bad") == b"3"


def test_a_collection_is_loaded_and_left_again(engine: Engine, client: Client) -> None:
    members = {b"member:%d" % number for number in range(1000)}
    client("SADD", "set", *members)
    assert isinstance(client.db.find_stored(b"set"), SetValue)
    before = engine.keyspace.used_bytes
    # It was used since it was last looked at, so it gets another turn.
    assert evict_some(engine.keyspace, 1, 1 << 20) > 30_000
    assert isinstance(client.db.find_stored(b"set"), Cold)
    assert engine.keyspace.used_bytes < before
    assert evict_some(engine.keyspace, 1, 1 << 20) == 0
    for is_slow in (False, True):
        assert isinstance(engine.keyspace.store, MemoryStore)
        engine.keyspace.store.is_slow = is_slow
        assert set(client("SMEMBERS", "set")) == members
        assert client("SADD", "set", "member:1", f"new:{is_slow}") == 1
        members.add(b"new:%b" % str(is_slow).encode())
        evict_some(engine.keyspace, 1, 1 << 20)
        engine.validate()
    assert set(restarted(engine).connect()("SMEMBERS", "set")) == members


def test_what_is_used_again_and_again_stays(engine: Engine, client: Client) -> None:
    for number in range(20):
        client("SADD", f"cold:{number}", "member")
    client("SADD", "hot", "member")
    for _ in range(10):
        client("SISMEMBER", "hot", "member")
        assert evict_some(engine.keyspace, 1, 1 << 20) > 0
    assert isinstance(client.db.find_stored(b"hot"), SetValue)


def test_small_changes_of_a_large_set_are_written_as_changes(
    engine: Engine, client: Client
) -> None:
    client("SADD", "set", *range(1000), "x")
    journal = journal_of(engine)
    for number in range(500):
        client("SADD", "set", f"new:{number}")
        client("SREM", "set", number)
    written = sum(len(record.payload) for record in journal.records)
    assert written < 500 * 40 + 20 * 12_000
    assert client.db.shelf is not None
    assert len(client.db.shelf.chains[b"set"]) < 40
    assert restarted(engine).connect()("SCARD", "set") == 1001


def test_a_write_with_several_keys_changes_nothing_before_it_has_them() -> None:
    store = MemoryStore(is_slow=True)
    engine = Engine(store=store)
    client = engine.connect()
    client("SADD", "{t}a", "1", "x")
    client("SADD", "{t}b", "2", "x")
    evict_some(engine.keyspace, 1 << 20, 1 << 20)
    evict_some(engine.keyspace, 1 << 20, 1 << 20)
    assert client("SMOVE", "{t}a", "{t}b", "1") == 1
    assert client("SINTERSTORE", "{t}c", "{t}a", "{t}b") == 1
    assert set(client("SUNION", "{t}a", "{t}b", "{t}c")) == {b"1", b"2", b"x"}
    assert all(not db.shelf.fetched for db in engine.space.databases.values() if db.shelf)


def test_nothing_that_was_at_hand_for_a_command_is_kept_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(store=MemoryStore())
    client = engine.connect()
    real = MemoryJournal.read_now
    for is_odd_slow in (False, True):

        def read_now(journal: MemoryJournal, cold: Cold, slow: bool = is_odd_slow) -> bytes | None:
            return None if slow and cold.offset % 2 else real(journal, cold)

        monkeypatch.setattr(MemoryJournal, "read_now", read_now)
        client("MSET", *(f"{{t}}{number}" for number in range(20)))
        client("SADD", "{t}a", "1", "x")
        client("SADD", "{t}b", "2", "x")
        evict_some(engine.keyspace, 1 << 20, 1 << 20)
        assert client("MGET", "{t}0", "{t}2", "{t}4") == [b"{t}1", b"{t}3", b"{t}5"]
        assert client("COPY", "{t}0", "{t}new", "REPLACE") == 1
        assert client("RENAME", "{t}2", "{t}renamed") == "OK"
        assert client("SMOVE", "{t}a", "{t}b", "1") == 1
        assert client("SMOVE", "{t}a", "{t}0", "x").text.startswith("WRONGTYPE")
        damaged = client.db.find_stored(b"{t}8")
        assert isinstance(engine.keyspace.store, MemoryStore)
        assert isinstance(damaged, Cold)
        engine.keyspace.store.damaged.add(damaged)
        assert client("COPY", "{t}0", "{t}8", "REPLACE").text.startswith("IOERR")
        assert client.db.shelf is not None
        assert not client.db.shelf.fetched
        client("FLUSHALL")


def test_a_client_that_goes_away_leaves_nothing() -> None:
    store = MemoryStore(is_slow=True)
    engine = Engine(store=store)
    waiting: list[Any] = []
    engine.node.fetcher = lambda reads, done: waiting.append((reads, done))
    client = engine.connect()
    client("SET", "key", "value")
    client("GET", "key")
    [(reads, done)] = waiting
    client.disconnect()
    done([read.read() for read in reads])
    assert client.db.shelf is not None
    assert not client.db.shelf.fetched


def test_a_value_that_was_replaced_while_it_was_read_is_the_new_one() -> None:
    store = MemoryStore(is_slow=True)
    engine = Engine(store=store)
    waiting: list[Any] = []
    engine.node.fetcher = lambda reads, done: waiting.append((reads, done))
    client, other = engine.connect(), engine.connect()
    client("SET", "key", "old")
    client("GET", "key")
    [(_, done)] = waiting
    other("DEL", "key")
    done([b"old"])
    assert client.result() is None


@pytest.mark.parametrize("change_bytes", [4096, 64 * 1024])
def test_a_huge_set_is_written_whole_once_for_many_changes(change_bytes: int) -> None:
    """For as many as its medium is said to read as quickly as it writes all of it."""
    store = MemoryStore()
    store.change_bytes = change_bytes
    engine = Engine(store=store)
    client = engine.connect()
    for at in range(0, 20_000, 1000):
        client("SADD", "huge", *(f"{number}:" + "m" * 40 for number in range(at, at + 1000)))
    value = client.db.find_stored(b"huge")
    assert isinstance(value, SetValue)
    assert client.db.shelf is not None
    client.db.shelf.rewrite(b"huge")
    records = store.journals[DEFAULT_JOB].records
    before = len(records)
    changes_max = value.size_bytes // change_bytes
    for number in range(3 * changes_max + 3):
        client("SADD", "huge", f"one more {number}")
        engine.node.commit()
        write_some(engine.keyspace)
    kinds = [record.kind for record in records[before:]]
    whole = [kind for kind in kinds if kind >= FIRST_COLLECTION and kind < CHANGE]
    assert 1 <= len(whole) <= 3
    assert kinds.count(CHANGE) == 3 * changes_max + 3
    assert kinds.count(CHANGE) + kinds.count(PART) + len(whole) == len(kinds)


NAMES = st.sampled_from([b"a", b"b", b"{a}c", b"d"])
VALUES = st.binary(max_size=50)


class Machine(RuleBasedStateMachine):
    """The same commands to a server in memory and to one with a store, which is restarted."""

    @initialize(is_slow=st.booleans())
    def begin(self, is_slow: bool) -> None:
        self.memory = Engine()
        self.stored = Engine(store=MemoryStore(is_slow=is_slow))
        self.clients = [self.memory.connect(), self.stored.connect()]

    def both(self, *request: object) -> None:
        expected, got = (client.raw(*request) for client in self.clients)
        if request[0] == "SMEMBERS":
            expected, got = (bytes(sorted(reply)) for reply in (expected, got))
        assert got == expected

    @rule(
        key=NAMES, value=VALUES, options=st.sampled_from([(), ("PX", 500), ("KEEPTTL",), ("NX",)])
    )
    def set(self, key: bytes, value: bytes, options: tuple[object, ...]) -> None:
        self.both("SET", key, value, *options)

    @rule(key=NAMES, value=VALUES, offset=st.integers(0, 60))
    def change(self, key: bytes, value: bytes, offset: int) -> None:
        self.both("APPEND", key, value)
        self.both("SETRANGE", key, offset, value)

    @rule(key=NAMES, members=st.lists(st.integers(0, 200) | st.binary(max_size=3), min_size=1))
    def add(self, key: bytes, members: list[object]) -> None:
        self.both("SADD", key, *members)

    @rule(key=NAMES, members=st.lists(st.integers(0, 200), min_size=1))
    def remove(self, key: bytes, members: list[object]) -> None:
        self.both("SREM", key, *members)

    @rule(key=NAMES, other=NAMES, name=st.sampled_from(["RENAME", "COPY", "SDIFFSTORE"]))
    def move(self, key: bytes, other: bytes, name: str) -> None:
        self.both(name, key, other)

    @rule(key=NAMES, name=st.sampled_from(["DEL", "PERSIST", "INCR", "GETDEL", "TTL", "TYPE"]))
    def short(self, key: bytes, name: str) -> None:
        self.both(name, key)

    @rule(key=NAMES, due_ms=st.integers(-10, 1000))
    def expire(self, key: bytes, due_ms: int) -> None:
        self.both("PEXPIRE", key, due_ms)

    @rule(name=st.sampled_from(["FLUSHDB", "FLUSHALL"]))
    def flush(self, name: str) -> None:
        self.both(name)

    @rule(index=st.sampled_from([0, 1]))
    def select(self, index: int) -> None:
        self.both("SELECT", index)

    @rule(milliseconds=st.integers(1, 400))
    def wait(self, milliseconds: int) -> None:
        for engine in (self.memory, self.stored):
            engine.advance(milliseconds)

    @rule(effort=st.sampled_from([1, 1 << 20]))
    def evict(self, effort: int) -> None:
        evict_some(self.stored.keyspace, 1 << 20, effort)

    @rule()
    def rewrite(self) -> None:
        index = StoredIndex()
        index.keyspace = self.stored.keyspace
        for number, db in self.stored.space.databases.items():
            for key in list(db.iter_keys()):
                record = index.record_of(DEFAULT_JOB, number, key)
                if record is None:
                    place = journal_of(self.stored)
                    index.rewrite(DEFAULT_JOB, number, key, place, now=True)
                    assert index.record_of(DEFAULT_JOB, number, key) is not None

    @rule(index=st.sampled_from([0, 1]))
    def restart(self, index: int) -> None:
        self.stored.node.commit()
        self.stored = restarted(self.stored)
        self.clients[1] = self.stored.connect()
        self.both("SELECT", index)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "stored"):
            return
        for key in (b"a", b"b", b"{a}c", b"d"):
            kinds = [client("TYPE", key) for client in self.clients]
            assert kinds[0] == kinds[1]
            if kinds[0] == "set":
                members = [sorted(client("SMEMBERS", key)) for client in self.clients]
                assert members[0] == members[1]
                self.both("OBJECT", "ENCODING", key)
            elif kinds[0] == "string":
                self.both("GET", key)
                self.both("OBJECT", "ENCODING", key)
            self.both("PTTL", key)
        self.stored.validate()


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestMachine = Machine.TestCase


def test_a_scan_meets_every_key_wherever_its_value_is() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client = engine.connect()
    dice = random.Random(1)
    for number in range(300):
        client("SET", f"s:{number}", "x") if dice.random() < 0.5 else client(
            "SADD", f"t:{number}", 1
        )
    evict_some(engine.keyspace, 1 << 30, 1 << 30)
    found, cursor = [], b"0"
    while True:
        cursor, keys = client("SCAN", cursor, "TYPE", "set")
        found += keys
        if cursor == b"0":
            break
    assert sorted(found) == sorted(client("KEYS", "t:*"))
    assert client("DBSIZE") == 300
    assert client("RANDOMKEY") is not None


def huge_set(client: Client, engine: Engine) -> set[bytes]:
    """A set that takes many steps to be made, with changes that are written beside it."""
    members = {b"member:%d" % number for number in range(20_000)}
    client("SADD", "huge", *members)
    engine.keyspace.commit()
    for number in range(100):
        client("SREM", "huge", b"member:%d" % number)
        client("SADD", "huge", b"new:%d" % number)
        engine.keyspace.commit()
        members.discard(b"member:%d" % number)
        members.add(b"new:%d" % number)
    return members


def evict_all(engine: Engine) -> None:
    while evict_some(engine.keyspace, 1 << 30, 1 << 30):
        pass


def test_a_huge_set_leaves_memory_without_being_written_anew(
    engine: Engine, client: Client
) -> None:
    members = huge_set(client, engine)
    records = len(journal_of(engine).records)
    evict_all(engine)
    assert isinstance(client.db.find_stored(b"huge"), Cold)
    assert len(journal_of(engine).records) == records
    # Nor is it freed at once.
    parts = 0
    while engine.keyspace.free_some(1):
        parts += 1
    assert parts > 0
    assert not engine.keyspace.shedding
    assert set(client("SMEMBERS", "huge")) == members
    engine.validate()
    evict_all(engine)
    assert set(restarted(engine).connect()("SMEMBERS", "huge")) == members


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_huge_set_is_made_in_steps_between_other_commands(*, is_slow: bool) -> None:
    engine = Engine(store=MemoryStore(is_slow=is_slow))
    client, other = engine.connect(), engine.connect()
    members = huge_set(client, engine)
    evict_all(engine)
    waiting: list[tuple[Iterator[None], Callable[[], None]]] = []
    engine.node.stepper = lambda steps, done: waiting.append((steps, done))
    assert client("SCARD", "huge") is BLOCKED
    ((steps, done),) = waiting
    for _ in range(20):
        # Others are served meanwhile.
        assert next(steps, "none") is None
        assert other("SET", "hot", "value") == "OK"
    # Even if they change the very key; what was begun is ended for them.
    engine.node.stepper = None
    assert other("SREM", "huge", "new:0") == 1
    assert next(steps, "none") == "none"
    done()
    assert client.result() == len(members) - 1
    engine.validate()
    shelf = client.db.shelf
    assert shelf is not None
    assert not shelf.fetched


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_huge_set_that_several_wait_for_is_made_once(*, is_slow: bool) -> None:
    engine = Engine(store=MemoryStore(is_slow=is_slow))
    clients = [engine.connect() for _ in range(3)]
    members = huge_set(clients[0], engine)
    waiting: list[tuple[Iterator[None], Callable[[], None]]] = []
    engine.node.stepper = lambda steps, done: waiting.append((steps, done))

    def steps_for(count: int) -> int:
        """How many steps are taken in turns until so many clients have their reply."""
        evict_all(engine)
        for client in clients[:count]:
            assert client("SCARD", "huge") is BLOCKED
        taken = 0
        while waiting:
            steps, done = waiting.pop(0)
            if next(steps, "none") == "none":
                done()
            else:
                taken += 1
                waiting.append((steps, done))
        assert [client.result() for client in clients[:count]] == [len(members)] * count
        return taken

    alone = steps_for(1)
    assert alone > 20
    assert steps_for(3) == alone
    engine.validate()
    shelf = clients[0].db.shelf
    assert shelf is not None
    assert not shelf.fetched
    assert not shelf.assemblies
