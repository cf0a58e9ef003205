"""Keys that are to outlive their job: marked on one server, taken over by another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pocketkv import limits
from pocketkv.engine.cold import CHANGED_STRING, FIRST_COLLECTION, LARGE, STRING
from pocketkv.engine.errors import JOB_ENDED, CommandError
from pocketkv.engine.extents import Extents
from pocketkv.engine.marks import MARKS_DATABASE
from pocketkv.engine.replay import Replay, StoredIndex
from pocketkv.engine.set_value import SetValue
from pocketkv.slots import SLOT_COUNT
from tests.engine.harness import BLOCKED, NODE_ID, Client, Engine
from tests.engine.media import FakeMedium
from tests.engine.stores import MemoryJournal, MemoryStore
from tests.replies import Error

JOB = "sort-0123456789abcdef"
Answer = Callable[[CommandError | None], None]


class FakeController:
    """Answers at once, or when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting: list[Answer] = []
        self.error: CommandError | None = None
        self.is_slow = False

    def retaining(self, job_id: str, on_answer: Answer) -> None:
        self.asked.append(job_id)
        if self.is_slow:
            self.waiting.append(on_answer)
        else:
            on_answer(self.error)


def joined(**options: Any) -> tuple[Engine, Client, FakeController]:
    """A server in a cluster, and a client in a job."""
    engine = Engine(**options)
    controller = FakeController()
    engine.node.retaining = controller.retaining
    return engine, engine.connect(job_id=JOB), controller


def marked(engine: Engine) -> set[bytes]:
    marks = engine.keyspace.open(JOB).database(0).marks
    return set() if marks is None else set(marks.keys())


# --- marking -----------------------------------------------------------------------------------


def test_keys_that_exist_are_marked_and_counted() -> None:
    engine, client, _ = joined()
    client("MSET", "a", 1, "b", 2)
    assert client("JOB.RETAIN", "a", "nosuch", "a") == 2
    assert marked(engine) == {b"a"}
    assert engine.keyspace.open(JOB).marked_keys == 1
    engine.validate()


def test_the_controller_is_asked_once_and_before_anything_is_marked() -> None:
    engine, client, controller = joined()
    controller.is_slow = True
    client("MSET", "a", 1, "b", 2)
    assert client("JOB.RETAIN", "a") is BLOCKED
    assert marked(engine) == set()
    controller.waiting.pop()(None)
    assert client.result() == 1
    assert client("JOB.RETAIN", "b") == 1
    assert controller.asked == [JOB]


def test_what_the_controller_refuses_is_not_marked() -> None:
    engine, client, controller = joined()
    controller.error = CommandError(b"ERR no files anywhere")
    client("SET", "a", 1)
    assert client("JOB.RETAIN", "a") == Error("ERR no files anywhere")
    assert marked(engine) == set()


def test_a_job_that_ends_while_the_controller_is_asked_marks_nothing() -> None:
    engine, client, controller = joined()
    controller.is_slow = True
    client("SET", "a", 1)
    client("JOB.RETAIN", "a")
    engine.keyspace.open(JOB).read_only = True
    controller.waiting.pop()(None)
    assert client.result() == Error(JOB_ENDED.decode())
    assert marked(engine) == set()


def test_a_server_without_a_controller_retains_nothing() -> None:
    engine = Engine()
    client = engine.connect(job_id=JOB)
    assert client("JOB.RETAIN", "a") == Error(
        "ERR keys cannot be retained: this server is in no cluster"
    )


@pytest.mark.parametrize("store", [None, MemoryStore()])
def test_a_mark_stays_when_a_key_is_set_and_goes_when_it_goes(store: MemoryStore | None) -> None:
    engine, client, _ = joined(store=store)
    for take_away in (
        ["DEL", "key"],
        ["GETDEL", "key"],
        ["RENAME", "key", "other"],
        ["PEXPIREAT", "key", "1"],
        ["FLUSHALL"],
    ):
        client("SET", "key", "value")
        assert client("JOB.RETAIN", "key") == 1
        client("SET", "key", "other value")
        client("APPEND", "key", "!")
        assert marked(engine) == {b"key"}
        client(*take_away)
        assert marked(engine) == set()
        client("SET", "key", "value")
        assert marked(engine) == set()
        engine.validate()
    if store is not None:
        client("DEL", "key", "other")
        assert not store.journal(JOB).live
        assert engine.keyspace.index_bytes == 0


def test_a_job_that_has_ended_is_only_read() -> None:
    engine, client, _ = joined()
    client("SET", "a", 1)
    engine.keyspace.open(JOB).read_only = True
    for write in (
        ["SET", "a", 2],
        ["DEL", "a"],
        ["FLUSHALL"],
        ["GETDEL", "a"],
        ["JOB.RETAIN", "a"],
    ):
        assert client(*write) == Error(JOB_ENDED.decode())
    assert client("GET", "a") == b"1"
    # That goes for the job alone.
    assert engine.connect()("SET", "a", 2) == "OK"


# --- on a durable medium -----------------------------------------------------------------------


def restarted(engine: Engine) -> Engine:
    """A server that finds what another one had committed."""
    old = engine.keyspace.store
    assert isinstance(old, MemoryStore)
    store = MemoryStore()
    again = Engine(store=store, now_ms=engine.clock.now_ms)
    Replay(again.keyspace.open(JOB)).run(store.replay(JOB, old.journal(JOB)))
    return again


def live_records(engine: Engine) -> int:
    assert isinstance(engine.keyspace.store, MemoryStore)
    return len(engine.keyspace.store.journal(JOB).live)


def test_marks_are_found_again() -> None:
    engine, client, _ = joined(store=MemoryStore())
    client("MSET", "a", 1, "b", 2, "c", 3)
    client("SADD", "set", "x")
    client("JOB.RETAIN", "a", "b", "set")
    client("DEL", "b")
    again = restarted(engine)
    assert marked(again) == {b"a", b"set"}
    assert again.keyspace.open(JOB).databases.keys() == {0}
    again.validate()
    assert live_records(again) == 5
    client = again.connect(job_id=JOB)
    client("DEL", "a", "c", "set")
    assert live_records(again) == 0
    assert marked(restarted(again)) == set()


def test_marks_go_with_their_database() -> None:
    engine, client, _ = joined(store=MemoryStore())
    client("MSET", "a", 1, "b", 2)
    client("JOB.RETAIN", "a")
    client("SELECT", 1)
    client("SET", "a", 1)
    client("JOB.RETAIN", "a")
    client("FLUSHDB")
    client("SET", "a", 1)
    again = restarted(engine)
    space = again.keyspace.open(JOB)
    assert marked(again) == {b"a"}
    assert not space.database(1).marks


def test_a_mark_may_be_told_before_its_key() -> None:
    """The store may have moved the key's record behind it."""
    source = MemoryStore()
    journal = source.journal(JOB)
    journal.put(MARKS_DATABASE, b"a", STRING, b"", 0)
    journal.put(0, b"a", STRING, b"1", 0)
    # Moved once more, and still in its old place as well.
    journal.put(MARKS_DATABASE, b"a", STRING, b"", 0)
    source.commit()
    store = MemoryStore()
    engine = Engine(store=store)
    Replay(engine.keyspace.open(JOB)).run(store.replay(JOB, journal))
    assert marked(engine) == {b"a"}
    assert live_records(engine) == 2
    engine.validate()


def test_the_store_knows_which_records_of_marks_are_needed() -> None:
    engine, client, _ = joined(store=MemoryStore())
    client("SET", "a", 1)
    client("JOB.RETAIN", "a")
    index = StoredIndex()
    index.keyspace = engine.keyspace
    journal = engine.keyspace.store.journal(JOB)  # type: ignore[union-attr]
    assert isinstance(journal, MemoryJournal)
    record = index.record_of(JOB, MARKS_DATABASE, b"a")
    assert record in journal.live
    assert index.exists(JOB, MARKS_DATABASE, b"a")
    assert index.due_ms(JOB, MARKS_DATABASE, b"a") == 0
    client("DEL", "a")
    assert index.record_of(JOB, MARKS_DATABASE, b"a") is None
    assert not index.exists(JOB, MARKS_DATABASE, b"a")
    assert not index.exists(JOB, MARKS_DATABASE + 7, b"a")


# --- taking over -------------------------------------------------------------------------------


def target(**options: Any) -> tuple[Engine, Client]:
    """The server that is to keep what the job retained, and another server's connection to it."""
    engine = Engine(**options)
    engine.own_only([], job_id=JOB)
    placement = engine.topology.placements[JOB]
    engine.topology.set_placement(replace(placement, read_only=True, retire_to=NODE_ID))
    client = engine.connect(job_id=JOB, proxied=True)
    client.session.space.read_only = True
    client.session.space.own(bytes(SLOT_COUNT))
    return engine, client


def with_extents() -> Extents:
    return Extents(FakeMedium(4096, page_bytes=4096))


def test_values_of_every_kind_are_taken_many_at_a_time() -> None:
    engine, client = target(store=MemoryStore())
    later = engine.clock.now_ms + 5000
    members = SetValue.of_payload(SetValue(b"x").payload())
    members.add(b"x", 0)
    reply = client(
        *("POCKETKV.ADOPT", 0, "a", STRING, later, 1, 0, "1"),
        *(3, "b", CHANGED_STRING, 0, 2, 0, "22"),
        *(0, "s", FIRST_COLLECTION, 0, len(members.payload()), 0, members.payload()),
        *(0, "late", STRING, engine.clock.now_ms, 1, 0, "1"),
        *(0, "empty", STRING, 0, 0, 0, ""),
    )
    assert reply == 5
    assert marked(engine) == {b"a", b"s", b"empty"}
    # They are not its own to show before its map says so.
    assert client("GET", "a").text.startswith("MOVED")
    client.session.space.own_everything()
    assert client("GET", "a") == b"1"
    assert client("PEXPIRETIME", "a") == later
    assert client("SMEMBERS", "s") == [b"x"]
    assert client("EXISTS", "late") == 0
    assert client("GET", "empty") == b""
    client("SELECT", 3)
    assert client("GET", "b") == b"22"
    engine.validate()
    assert marked(restarted(engine)) == {b"a", b"s", b"empty"}


def test_a_large_string_is_written_piece_by_piece_and_a_second_time_from_the_start() -> None:
    engine, client = target(extents=with_extents())
    value = bytes(range(256)) * 1000
    total, step = len(value), 100_000

    def adopt(offset: int) -> Any:
        return client(
            "POCKETKV.ADOPT", 0, "k", LARGE, 0, total, offset, value[offset : offset + step]
        )

    assert adopt(0) == adopt(step) == 1
    assert adopt(0) == 1
    assert adopt(2 * step) == Error("ERR a piece does not follow the one before it")
    assert adopt(step) == adopt(2 * step) == 1
    client.session.space.own_everything()
    assert client("GET", "k") == value
    assert marked(engine) == {b"k"}
    engine.validate()


def test_what_is_kept_in_memory_is_put_together_before_it_is_a_value() -> None:
    _, client = target()
    value = SetValue(b"m")
    for number in range(500):
        value.add(b"member %d" % number, 0)
    cursor, first = value.part(0, 4000)
    assert cursor
    piece = ("POCKETKV.ADOPT", 0, "s", FIRST_COLLECTION, 0)
    assert client(*piece, 0, 0, first) == 1
    assert client(*piece, 0, len(first) + 1, first).text.startswith("ERR a piece")
    assert client(*piece, 0, 0, first) == 1
    sent = len(first)
    while cursor:
        cursor, part = value.part(cursor, 4000)
        assert client(*piece, 0 if cursor else sent + len(part), sent, part) == 1
        sent += len(part)
    assert not client.session.space.adopting
    client.session.space.own_everything()
    assert client("SCARD", "s") == 500
    damaged = client("POCKETKV.ADOPT", 0, "s", FIRST_COLLECTION, 0, 1, 0, "?")
    assert damaged == Error("ERR the pieces make no value")
    assert client("SCARD", "s") == 500


def test_only_servers_of_the_cluster_are_taken_from_and_only_by_whom_the_map_names() -> None:
    engine, client = target()
    request = ("POCKETKV.ADOPT", 0, "a", STRING, 0, 1, 0, "1")
    stranger = engine.connect(job_id=JOB)
    assert stranger(*request).text.startswith("NOPERM")
    assert client(*request) == 1
    placement = engine.topology.placements[JOB]
    for other in ("b" * 40, None):
        engine.topology.set_placement(replace(placement, retire_to=other))
        assert client(*request).text.startswith("NOPERM")
    assert client("POCKETKV.ADOPT", 0, "a", STRING).text.startswith("ERR wrong number")


def test_a_full_server_says_so() -> None:
    store = MemoryStore()
    _, client = target(store=store)
    store.journal(JOB).has_room = False
    reply = client("POCKETKV.ADOPT", 0, "a", STRING, 0, limits.MIB, 0, bytes(limits.MIB))
    assert reply.text.startswith("OOM")
