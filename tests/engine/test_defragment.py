"""Defragmentation by itself, and in between commands: nothing changes but where things lie."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from pocketkv.engine import defragment, regions
from pocketkv.engine.defragment import Defragmenter
from pocketkv.engine.hash_value import HashValue
from pocketkv.engine.regions import Survey
from pocketkv.engine.segments import SegmentMap
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.sizes import dict_bytes
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.serving.memory import CPythonAddresses
from pocketkv.slots import key_slot
from tests.engine.harness import START_MS, Engine

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = CPythonAddresses()
# So small that some of a few objects lie in regions that are left, and some do not.
SHIFT = 8


def leave_odd_regions(monkeypatch: pytest.MonkeyPatch, odd: int = 1) -> None:
    """Have every second of very small regions left, however full they are."""

    def sparse(survey: Survey) -> list[int]:
        known = {*survey.small, *survey.large}
        return [region for region in known if region % 2 == odd]

    for module in (regions, defragment):
        monkeypatch.setattr(module, "REGION_SHIFT", SHIFT)
    monkeypatch.setattr(Survey, "sparse_regions", sparse)
    # The program's regions would be nearly all others.
    monkeypatch.setattr(defragment, "lasting_regions", frozenset)


def no_trimming() -> None:
    """Stands for the C library."""


def lies_in(held: set[int], address: int) -> bool:
    return (address >> SHIFT) in held


class Watched(Defragmenter):
    """Looks, when everything was moved, whether it was."""

    left: tuple[int, ...] = ()

    def _release(self) -> Any:
        self.left = tuple(self._evacuation.held)
        return super()._release()


def run(defragmenter: Defragmenter, effort: int = 100) -> int:
    """A whole pass; the number of its slices."""
    defragmenter.begin()
    slices = 1
    while defragmenter.step(effort):
        slices += 1
        assert slices < 1_000_000
    assert not defragmenter.running
    return slices


def fill(engine: Engine, keys: int) -> dict[bytes, object]:
    """Keys of all kinds, half of which are deleted again; gives what is left."""
    client = engine.connect()
    dice = random.Random(6)
    kept: dict[bytes, object] = {}
    for i in range(keys):
        key = b"key:%08d" % i
        if i % 10 == 0:
            members = {b"member:%d" % dice.randrange(500) for _ in range(dice.randrange(1, 300))}
            client("SADD", key, *members)
            kept[key] = members
        elif i % 10 == 1:
            client("SADD", key, *range(i % 200))
            kept[key] = {b"%d" % n for n in range(i % 200)}
        elif i % 10 == 3:
            pairs = {b"field:%d" % n: b"value:%d" % n for n in range(i % (600 if i % 4 else 70))}
            if pairs:
                client("HSET", key, *chain(*pairs.items()))
            kept[key] = pairs
        elif i % 10 == 4:
            count = 1200 if i == 4 else dice.choice([1, 5, 150])
            scores = {b"member:%d" % dice.randrange(2000): dice.random() for _ in range(count)}
            client("ZADD", key, *(part for pair in scores.items() for part in pair[::-1]))
            kept[key] = scores
        elif i % 10 == 2:
            client("APPEND", key, b"x" * (i % 1000))
            client("APPEND", key, b"y")
            kept[key] = b"x" * (i % 1000) + b"y"
        else:
            value = dice.randbytes(dice.choice([0, 1, 20, 100, 700, 3000]))
            client("SET", key, value)
            kept[key] = value
        if i % 3 == 0:
            client("PEXPIRE", key, 10_000 + dice.randrange(100_000))
    for key in [key for key in kept if dice.random() < 0.5]:
        client("DEL", key)
        del kept[key]
    return {key: value for key, value in kept.items() if value not in (set(), {})}


def contents(engine: Engine) -> dict[bytes, object]:
    """What is stored."""
    client = engine.connect()
    found: dict[bytes, object] = {}
    for key in client("KEYS", "*"):
        if client("TYPE", key) == "set":
            found[key] = set(client("SMEMBERS", key))
        elif client("TYPE", key) == "hash":
            flat = client("HGETALL", key)
            found[key] = dict(zip(flat[::2], flat[1::2], strict=True))
        elif client("TYPE", key) == "zset":
            parts = client("ZRANGE", key, 0, -1, "WITHSCORES")
            found[key] = dict(zip(parts[::2], map(float, parts[1::2]), strict=True))
        else:
            found[key] = client("GET", key)
    return found


# --- one pass ----------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("effort", [1, 50, 100_000])
def test_everything_is_moved_and_equal(
    monkeypatch: pytest.MonkeyPatch, odd: int, effort: int
) -> None:
    leave_odd_regions(monkeypatch, odd)
    engine = Engine()
    kept = fill(engine, 40 if effort == 1 else 1000)
    assert contents(engine) == kept
    db = engine.space.database(0)
    dues = {key: db.expiry_ms(key) for key in kept}
    defragmenter = Watched(engine.keyspace, ADDRESSES, no_trimming)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        held = set(defragmenter.left)
        assert held
        for slot, table in db.slot_tables():
            assert dict_bytes(len(table)) >= table.__sizeof__()
            assert not lies_in(held, ADDRESSES.of_entries(table))
            for key, value in table.items():
                assert not lies_in(held, id(key))
                assert not lies_in(held, id(value)) or value == b""
                if isinstance(value, SetValue):
                    check_set(held, value)
                if isinstance(value, HashValue):
                    check_hash(held, value)
                if isinstance(value, SortedSetValue):
                    check_sorted_set(held, value)
            for key, due_ms in db.expires.get(slot, {}).items():
                assert not lies_in(held, id(key))
                assert not lies_in(held, id(due_ms))

    monkeypatch.setattr(defragmenter, "_give_back", check, raising=False)
    defragmenter.begin()
    slices = 0
    while not defragmenter.left:
        assert defragmenter.step(effort)
        slices += 1
        if slices % 30 == 0:
            engine.validate()
    check()
    while defragmenter.step(effort):
        slices += 1
        if slices % 30 == 0:
            engine.validate()
    engine.validate()
    assert contents(engine) == kept
    assert {key: db.expiry_ms(key) for key in kept} == dues
    assert defragmenter.moved_objects > len(kept) / 2


def check_set(held: set[int], value: SetValue) -> None:
    """No part of a set lies where it should not."""
    if value._integers is not None:
        assert not lies_in(held, id(value._integers))
        assert not lies_in(held, value._integers.buffer_info()[0])
        return
    assert value._members is not None
    check_segments(held, value._members)


def check_hash(held: set[int], value: HashValue) -> None:
    """No part of a hash lies where it should not."""
    if value._table is not None:
        check_segments(held, value._table)
    else:
        assert value._listpack is not None
        check_segment(held, value._listpack)


def check_sorted_set(held: set[int], value: SortedSetValue) -> None:
    """No part of a sorted set lies where it should not."""
    value.validate()
    check_segments(held, value._scores)
    ranking = value._ranking
    assert not lies_in(held, id(ranking))
    for chunks in (ranking._scores, ranking._members):
        assert not lies_in(held, id(chunks))
        assert not lies_in(held, ADDRESSES.of_items(chunks))
        for chunk in chunks:
            assert not lies_in(held, id(chunk))
            assert not lies_in(held, ADDRESSES.of_items(chunk))
            assert not any(lies_in(held, id(item)) for item in chunk)


def check_segments(held: set[int], members: SegmentMap) -> None:
    """No part of a map lies where it should not."""
    assert not lies_in(held, id(members))
    assert not lies_in(held, id(members.segments))
    assert not lies_in(held, ADDRESSES.of_items(members.segments))
    for segment in members.segments:
        check_segment(held, segment)


def check_segment(held: set[int], segment: dict[bytes, Any]) -> None:
    """No part of a dict of members lies where it should not."""
    assert not lies_in(held, id(segment))
    assert not lies_in(held, ADDRESSES.of_entries(segment))
    for member, value in segment.items():
        assert not lies_in(held, id(member))
        assert type(value) is not bytes or not lies_in(held, id(value))


def fill_and_defragment() -> None:
    engine = Engine()
    client = engine.connect()
    for i in range(1000):
        client("SET", f"key:{i}", "value")
    defragmenter = Defragmenter(engine.keyspace, ADDRESSES, no_trimming)
    run(defragmenter)
    assert defragmenter.passes == 1
    # Only dicts that grew: none has more room than it needs.
    assert defragmenter.moved_objects == 0


def test_nothing_to_gain_moves_nothing() -> None:
    # In a process of its own: other tests leave regions behind them that are used in part.
    code = f"from {__name__} import fill_and_defragment; fill_and_defragment()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_dicts_become_as_small_as_they_can_be() -> None:
    engine = Engine()
    client = engine.connect()
    for i in range(2000):
        client("SET", b"{slot}%d" % i, b"value")
        client("PEXPIRE", b"{slot}%d" % i, 100_000 + i)
        client("SADD", "{slot}set", b"member:%d" % i)
    for i in range(2000):
        if i % 20:
            client("DEL", b"{slot}%d" % i)
            client("SREM", "{slot}set", b"member:%d" % i)
    run(Defragmenter(engine.keyspace, ADDRESSES, no_trimming))
    db = engine.space.database(0)
    (slot, table), *others = db.slot_tables()
    assert not others
    value = table[b"{slot}set"]
    assert isinstance(value, SetValue)
    assert value._members is not None
    compacts: list[dict[bytes, Any]] = [table, db.expires[slot]]
    for compact in [*compacts, *value._members.segments, *db.schedule._buckets]:
        assert dict_bytes(len(compact)) >= compact.__sizeof__()
    engine.validate()


def test_a_large_slot_is_moved_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_odd_regions(monkeypatch)
    engine = Engine()
    client = engine.connect()
    for i in range(5000):
        client("SET", b"{slot}%d" % i, b"value:%d" % i)
        if i % 2:
            client("PEXPIRE", b"{slot}%d" % i, 100_000 + i)
    defragmenter = Watched(engine.keyspace, ADDRESSES, no_trimming)
    defragmenter.begin()
    changed = 0
    while not defragmenter.left:
        assert defragmenter.step(200)
        engine.validate()
        # Somebody adds and removes meanwhile.
        client("DEL", b"{slot}%d" % changed)
        client("SET", b"{slot}new:%d" % changed, b"new")
        changed += 1
    assert changed > 20
    held = set(defragmenter.left)
    db = engine.space.database(0)
    ((_, table),) = db.slot_tables()
    old = {key: value for key, value in table.items() if b"new" not in key}
    assert len(old) == 5000 - changed
    assert not any(lies_in(held, id(key)) for key in old)
    assert not any(lies_in(held, id(value)) for value in old.values())
    while defragmenter.step(200):
        pass
    assert contents(engine) == {
        **{b"{slot}%d" % i: b"value:%d" % i for i in range(changed, 5000)},
        **{b"{slot}new:%d" % i: b"new" for i in range(changed)},
    }


def test_a_reply_keeps_what_it_refers_to(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_odd_regions(monkeypatch)
    engine = Engine()
    client = engine.connect()
    values = {b"key:%d" % i: b"%d" % i * 5000 for i in range(20)}
    for key, value in values.items():
        client("SET", key, value)
    for key in values:
        client.execute([b"GET", key])
    run(Defragmenter(engine.keyspace, ADDRESSES, no_trimming))
    client.execute([b"FLUSHALL"])
    replies = [b"$%d\r\n%b\r\n" % (len(value), value) for value in values.values()]
    assert client.transport.take() == b"".join(replies) + b"+OK\r\n"


def test_a_key_that_expires_stays_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_odd_regions(monkeypatch)
    engine = Engine()
    client = engine.connect()
    for i in range(500):
        client("SET", b"key:%d" % i, b"value", "PX", 1000 + i)
    run(Defragmenter(engine.keyspace, ADDRESSES, no_trimming))
    db = engine.space.database(0)
    for slot, table in db.slot_tables():
        objects = {key: key for key in table}
        assert all(key is objects[key] for key in db.expires[slot])
    engine.advance(10_000)
    scheduled = db.schedule.due(engine.clock.now_ms, 500)
    objects = {key: key for _, table in db.slot_tables() for key in table}
    assert scheduled
    assert all(key is objects[key] for key in scheduled)


def test_a_walk_goes_on_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_odd_regions(monkeypatch)
    engine = Engine()
    client = engine.connect()
    keys = {b"{slot}%d" % i for i in range(500)}
    for key in keys:
        client("SET", key, "value")
    defragmenter = Defragmenter(engine.keyspace, ADDRESSES, no_trimming)
    cursor, found = client("SCAN", 0, "COUNT", 50)
    db = engine.space.database(0)
    assert len(db.scans.orders) == 1
    while cursor != b"0":
        order = next(iter(db.scans.orders.values()))
        if not defragmenter.running:
            defragmenter.begin()
        defragmenter.step(100)
        assert next(iter(db.scans.orders.values())) is order, "sorting it again takes long"
        cursor, more = client("SCAN", cursor, "COUNT", 50)
        found += more
    assert sorted(found) == sorted(keys)


def test_a_pass_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_odd_regions(monkeypatch)
    engine = Engine()
    kept = fill(engine, 1000)
    defragmenter = Watched(engine.keyspace, ADDRESSES, no_trimming)
    defragmenter.begin()
    for _ in range(100):
        assert defragmenter.step(20)
    defragmenter.stop()
    slices = 0
    while defragmenter.step(1000):
        slices += 1
    assert slices < 100
    assert not defragmenter._evacuation.held
    engine.validate()
    assert contents(engine) == kept


def test_what_is_dropped_meanwhile_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_odd_regions(monkeypatch)
    for steps in range(0, 400, 7):
        engine = Engine()
        fill(engine, 60)
        defragmenter = Defragmenter(engine.keyspace, ADDRESSES, no_trimming)
        defragmenter.begin()
        for _ in range(steps):
            defragmenter.step(5)
        if steps % 2:
            engine.keyspace.drop("default")
            engine.space.own_everything()
        else:
            engine.connect()("FLUSHALL")
        while defragmenter.step(1000):
            pass
        engine.validate()
        assert engine.keyspace.used_bytes == 0


# --- between commands --------------------------------------------------------------------------

NAMES = [b"a", b"b", b"{a}1", b"{a}2", b"c" * 40, b"key:1", b"key:2", b""]
VALUES = [b"", b"x", b"value" * 10, b"large" * 200]
names = st.sampled_from(NAMES)


class Machine(RuleBasedStateMachine):
    """Commands in any order between slices of passes, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        leave_odd_regions(self.patch)
        self.engine = Engine()
        self.client = self.engine.connect()
        self.defragmenter = Defragmenter(self.engine.keyspace, ADDRESSES, no_trimming)
        self.model: dict[bytes, Any] = {}
        self.due: dict[bytes, int] = {}

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(count=st.integers(0, 30))
    def many(self, count: int) -> None:
        for i in range(count):
            self.put(b"{a}many:%d" % i, b"value" * 10)

    def expire(self) -> None:
        now_ms = self.engine.clock.now_ms
        for key in [key for key, due_ms in self.due.items() if due_ms <= now_ms]:
            del self.due[key], self.model[key]

    @rule(key=names, value=st.sampled_from(VALUES))
    def put(self, key: bytes, value: bytes) -> None:
        assert self.client("SET", key, value) == "OK"
        self.model[key] = value
        self.due.pop(key, None)

    @rule(key=names)
    def delete(self, key: bytes) -> None:
        assert self.client("DEL", key) == int(key in self.model)
        self.model.pop(key, None)
        self.due.pop(key, None)

    @rule(key=names, milliseconds=st.integers(1, 3000))
    def set_expiry(self, key: bytes, milliseconds: int) -> None:
        assert self.client("PEXPIRE", key, milliseconds) == int(key in self.model)
        if key in self.model:
            self.due[key] = self.engine.clock.now_ms + milliseconds

    @rule(key=names)
    def append(self, key: bytes) -> None:
        if isinstance(self.model.get(key, b""), bytes):
            self.client("APPEND", key, b"more" * 30)
            self.model[key] = self.model.get(key, b"") + b"more" * 30

    @rule(key=names, numbers=st.frozensets(st.integers(0, 400), min_size=1, max_size=200))
    def add(self, key: bytes, numbers: frozenset[int]) -> None:
        members = self.model.get(key, frozenset())
        if isinstance(members, frozenset):
            added = [b"m%d" % number if number % 3 else b"%d" % number for number in numbers]
            self.client("SADD", key, *added)
            self.model[key] = members.union(added)

    @rule(key=names, part=st.floats(0, 1))
    def remove(self, key: bytes, part: float) -> None:
        members = self.model.get(key)
        if isinstance(members, frozenset):
            gone = sorted(members)[: max(1, int(part * len(members)))]
            assert self.client("SREM", key, *gone) == len(gone)
            self.model[key] = members.difference(gone)
            if not self.model[key]:
                del self.model[key]
                self.due.pop(key, None)

    @rule(milliseconds=st.integers(1, 1000))
    def wait(self, milliseconds: int) -> None:
        self.engine.advance(milliseconds)
        self.expire()

    @rule()
    def flush(self) -> None:
        self.client("FLUSHALL")
        self.model.clear()
        self.due.clear()

    @rule()
    def begin(self) -> None:
        # How long a pass takes depends on where things lie, so this may be asked for at any time.
        if not self.defragmenter.running:
            self.defragmenter.begin()

    @rule(effort=st.sampled_from([1, 10, 100]), slices=st.integers(1, 20))
    def step(self, effort: int, slices: int) -> None:
        for _ in range(slices):
            self.defragmenter.step(effort)
            self.engine.validate()

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        self.engine.validate()
        db = self.engine.space.database(0)
        now_ms = self.engine.clock.now_ms
        assert set(db.iter_keys()) == set(self.model)
        for key, value in self.model.items():
            stored = db.table(key_slot(key))[key]
            if isinstance(value, frozenset):
                assert isinstance(stored, SetValue)
                assert frozenset(stored.members()) == value
            else:
                assert stored == value
            assert db.expiry_ms(key) == self.due.get(key)
            assert self.due.get(key, now_ms + 1) > now_ms


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestMachine = Machine.TestCase


def test_the_clock_of_the_machine_starts_late_enough() -> None:
    assert START_MS > 1 << 30, "due times are objects of their own, not small numbers"
