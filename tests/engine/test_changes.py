"""Who is told of changes: of each one, and of nothing that is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pocketkv.engine.blocking import block
from pocketkv.engine.database import Database
from pocketkv.engine.gate import run
from pocketkv.engine.keyspace import DEFAULT_JOB, JobSpace
from pocketkv.engine.moving import Hold
from pocketkv.engine.session import Session
from pocketkv.placement import PlacementMap, SlotRange
from pocketkv.resp.replies import ErrorReply
from pocketkv.slots import SLOT_COUNT, key_slot
from tests.engine.harness import BLOCKED, OTHER_ID, Engine
from tests.engine.stores import MemoryStore
from tests.replies import Error

LAST_SLOT = SLOT_COUNT - 1


class Noting:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def changed(self, database: Database, key: bytes, slot: int) -> None:
        assert slot == key_slot(key)
        self.told.append((database.index, key.decode()))

    def noted(self, database: Database, key: bytes, slot: int) -> None:
        assert slot == key_slot(key)
        self.told.append((database.index, key.decode(), "noted"))

    def expiry_changed(self, database: Database, key: bytes, slot: int) -> None:
        assert slot == key_slot(key)
        self.told.append((database.index, key.decode(), "expiry"))

    def cleared(self, database: Database) -> None:
        self.told.append((database.index, "cleared"))

    def left(self, space: JobSpace, start: int, end: int) -> None:
        self.told.append((start, end))

    def take(self) -> list[object]:
        told, self.told = self.told, []
        return told


@pytest.mark.parametrize("with_store", [False, True])
def test_every_change_is_told(with_store: bool) -> None:
    engine = Engine(store=MemoryStore() if with_store else None)
    client = engine.connect()
    noting = Noting()
    engine.space.observe(noting)
    for request, told in (
        (["SET", "a", 1], [(0, "a")]),
        (["APPEND", "a", 1], [(0, "a")]),
        (["GET", "a"], []),
        (["PEXPIRE", "a", 1000], [(0, "a", "expiry")]),
        (["PERSIST", "a"], [(0, "a", "expiry")]),
        (["PERSIST", "a"], []),
        (["SADD", "s", 1, 2], [(0, "s")]),
        (["SREM", "s", 1], [(0, "s")]),
        (["SREM", "s", 1], []),
        (["SREM", "s", 2], [(0, "s")]),
        (["DEL", "a", "nosuch"], [(0, "a")]),
        (["SELECT", 2], []),
        (["SET", "b", 1, "PX", 10], [(2, "b"), (2, "b", "expiry")]),
        (["RENAME", "b", "{b}2"], [(2, "b"), (2, "{b}2"), (2, "{b}2", "expiry")]),
    ):
        client(*request)
        # Twice is no harm: SREM changes a set, and removes it if it is empty.
        assert list(dict.fromkeys(noting.take())) == told, request
    engine.advance(10)
    engine.keyspace.expire_some()
    assert noting.take() == [(2, "{b}2")]
    client("SET", "b", 1)
    noting.take()
    client("FLUSHDB")
    assert (2, "cleared") in noting.take()
    engine.space.unobserve(noting)
    client("SET", "b", 1)
    assert noting.take() == []
    engine.validate()


def test_several_are_told_and_new_databases_too() -> None:
    engine = Engine()
    client = engine.connect()
    notes = [Noting(), Noting(), Noting()]
    for noting in notes:
        engine.space.observe(noting)
    client("SELECT", 5)
    client("SET", "a", 1)
    assert [noting.take() for noting in notes] == [[(5, "a")]] * 3
    engine.space.unobserve(notes[1])
    client("SET", "a", 2)
    assert [noting.take() for noting in notes] == [[(5, "a")], [], [(5, "a")]]
    engine.space.unobserve(notes[0])
    engine.space.unobserve(notes[2])
    assert client.db.observer is None
    assert engine.space.observer is None


class Waiting(Noting):
    """What a blocking command does when the slots of its key go: it is executed once more."""

    def __init__(self, session: Session, request: list[bytes]) -> None:
        super().__init__()
        self._session = session
        self._request = request
        self.blocked = block(session, timeout_ms=0, timeout_reply=None)
        session.space.observe(self)

    def left(self, space: JobSpace, start: int, end: int) -> None:
        super().left(space, start, end)
        self.blocked.finish(run(self._session, self._request))


def test_whoever_waits_for_keys_hears_that_their_slots_went() -> None:
    engine = Engine()
    engine.own_only([(0, 99)])
    engine.own_only([(0, LAST_SLOT)])
    session = engine.connect().session
    waiting = Waiting(session, [b"GET", b"a"])
    hold = Hold(engine.space, 0, LAST_SLOT)
    assert not waiting.blocked.deferred.done
    # As the map says by now.
    engine.topology.set_placement(gone(engine))
    engine.space.give(0, LAST_SLOT, given=False)
    hold.release()
    assert engine.space.observer is waiting
    engine.space.observer.left(engine.space, 0, LAST_SLOT)
    assert waiting.told == [(0, LAST_SLOT)]
    reply = waiting.blocked.deferred.reply
    assert isinstance(reply, ErrorReply)
    assert reply.text == b"MOVED %d 127.0.0.1:7001" % key_slot(b"a")
    assert session.blocked is None


def gone(engine: Engine) -> PlacementMap:
    """The map of the job after all of it went to the other server."""
    placement = engine.topology.placements[DEFAULT_JOB]
    return replace(placement, ranges=(SlotRange(0, LAST_SLOT, OTHER_ID),))


def test_only_held_slots_are_held() -> None:
    engine = Engine()
    here, there = key_slot(b"a"), key_slot(b"b")
    client, other = engine.connect(), engine.connect()
    hold = Hold(engine.space, here, here)
    assert client("SET", "b", 1) == "OK"
    assert here != there
    assert other("SET", "a", 1) is BLOCKED
    third = engine.connect()
    # Some of its keys are held, so all of it is.
    assert third("MSET", "b", 2, "a", 2) is BLOCKED
    fourth = engine.connect()
    assert fourth("DBSIZE") is BLOCKED
    hold.refuse(b"CLUSTERDOWN nobody knows")
    assert other.result() == Error("CLUSTERDOWN nobody knows")
    assert engine.connect()("GET", "a") == Error("CLUSTERDOWN nobody knows")
    hold.release()
    assert engine.connect()("GET", "b") == b"1"
    assert engine.space.owns_all
