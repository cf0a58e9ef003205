"""The database by itself: accounting, expiry, and the schedule behind it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.engine.database import Database
from pocketkv.engine.keyspace import Clock, JobSpace, Keyspace
from pocketkv.engine.scan import random_key
from pocketkv.engine.sizes import key_cost
from pocketkv.engine.validation import validate_database, validate_space
from pocketkv.engine.values import Value, value_cost
from pocketkv.slots import SLOT_COUNT, key_slot

START_MS = 1_700_000_000_000


def make_space() -> JobSpace:
    """A job that owns all slots."""
    keyspace = Keyspace(limits.GIB, Clock(START_MS), random.Random(1))
    space = keyspace.open("job")
    space.own_everything()
    return space


def make_database() -> Database:
    return make_space().database(0)


def move_clock(db: Database, milliseconds: int) -> None:
    db.clock.set(db.clock.now_ms + milliseconds)


# --- keys --------------------------------------------------------------------------------------


def test_what_is_put_is_found_and_accounted() -> None:
    db = make_database()
    db.put(b"key", b"value")
    assert db.lookup(b"key") == b"value"
    assert b"key" in db
    used_bytes = key_cost(b"key") + value_cost(b"value")
    assert (db.size, db.space.used_bytes) == (1, used_bytes)
    assert db.space.keyspace.used_bytes == used_bytes
    db.put(b"key", b"x" * 100)
    assert db.space.used_bytes == key_cost(b"key") + value_cost(b"x" * 100)
    assert db.remove(b"key")
    assert not db.remove(b"key")
    assert (db.size, db.space.used_bytes, db.space.keyspace.used_bytes) == (0, 0, 0)
    validate_database(db)


def test_taking_gives_the_value_itself() -> None:
    db = make_database()
    value = b"value" * 100
    db.put(b"key", value)
    assert db.take(b"key") is value
    assert db.take(b"key") is None
    validate_database(db)


def test_slots_are_apart() -> None:
    db = make_database()
    for key in (b"{a}1", b"{a}2", b"b"):
        db.put(key, b"")
    assert sorted(db.keys_in_slot(key_slot(b"a"))) == [b"{a}1", b"{a}2"]
    assert db.next_occupied(0) == min(key_slot(b"a"), key_slot(b"b"))
    assert db.next_occupied(SLOT_COUNT - 1) == -1
    assert db.drop_some(key_slot(b"a"), 1) == 1
    assert db.drop_some(key_slot(b"a"), 9) == 1
    assert db.drop_some(key_slot(b"a"), 9) == 0
    assert list(db.iter_keys()) == [b"b"]
    validate_space(db.space)


def test_clearing_one_database_leaves_the_others() -> None:
    space = make_space()
    for index in (0, 1):
        space.database(index).put(b"key", b"value" * 10)
        space.database(index).set_expiry(b"key", START_MS + 10)
    space.database(0).clear()
    validate_space(space)
    assert space.database(0).size == 0
    assert space.database(1).size == 1
    assert space.expiring == {space.database(1)}
    space.database(1).clear()
    validate_space(space)
    assert space.used_bytes == 0


def test_random_keys_are_any_key_that_is_there() -> None:
    db = make_database()
    dice = random.Random(2)
    assert random_key(db, dice) is None
    for i in range(20):
        db.put(b"%d" % i, b"")
        db.set_expiry(b"%d" % i, START_MS + (10 if i % 2 else 1000))
    move_clock(db, 10)
    assert {random_key(db, dice) for _ in range(2000)} == {b"%d" % i for i in range(0, 20, 2)}
    move_clock(db, 1000)
    assert random_key(db, dice) is None
    assert db.size == 0


def test_a_peek_does_not_count_as_use() -> None:
    db = make_database()
    db.put(b"key", b"value")
    move_clock(db, 5000)
    assert db.peek(b"key") == b"value"
    assert db.idle_s(b"key") == 5
    assert db.space.stats.hits == 1
    db.read(b"key")
    assert db.idle_s(b"key") == 0


# --- expiry ------------------------------------------------------------------------------------


def test_an_expired_key_is_gone_when_it_is_asked_for() -> None:
    db = make_database()
    db.put(b"key", b"value")
    db.set_expiry(b"key", START_MS + 10)
    move_clock(db, 10)
    assert db.lookup(b"key") is None
    assert db.size == 0
    assert db.expiry_ms(b"key") is None
    validate_database(db)


def test_expired_keys_are_removed_without_being_asked_for() -> None:
    space = make_space()
    db = space.database(0)
    for i in range(1000):
        db.put(b"%d" % i, b"value")
        db.set_expiry(b"%d" % i, START_MS + i)
    move_clock(db, 500)
    while space.keyspace.expire_some():
        validate_database(db)
    assert sorted(db.iter_keys()) == sorted(b"%d" % i for i in range(501, 1000))
    assert db.size == 499
    move_clock(db, 1000)
    while space.keyspace.expire_some():
        pass
    assert (db.size, space.used_bytes, space.expiring) == (0, 0, set())
    assert space.stats.expired == 1000


def test_a_slice_of_expiry_is_short() -> None:
    space = make_space()
    db = space.database(0)
    for i in range(1000):
        db.put(b"%d" % i, b"value")
        db.set_expiry(b"%d" % i, START_MS + 10)
    move_clock(db, 1000)
    assert space.keyspace.expire_some()
    assert db.size == 1000 - limits.EXPIRE_KEYS_PER_SLICE
    validate_database(db)


def test_an_expiry_can_be_moved_both_ways() -> None:
    space = make_space()
    db = space.database(0)
    for key in (b"sooner", b"later", b"never"):
        db.put(key, b"value")
        db.set_expiry(key, START_MS + 5000)
    db.set_expiry(b"sooner", START_MS + 1000)
    db.set_expiry(b"later", START_MS + 9000)
    assert db.persist(b"never")
    assert not db.persist(b"never")
    validate_database(db)
    move_clock(db, 6000)
    space.keyspace.expire_some()
    assert sorted(db.iter_keys()) == [b"later", b"never"]
    move_clock(db, 6000)
    space.keyspace.expire_some()
    assert list(db.iter_keys()) == [b"never"]
    validate_database(db)


def test_locks_that_are_released_leave_nothing_behind() -> None:
    # Set with a far expiry and removed at once, over and over, at different times.
    db = make_database()
    for i in range(20_000):
        db.put(b"lock:%d" % (i % 7), b"holder")
        db.set_expiry(b"lock:%d" % (i % 7), db.clock.now_ms + 86_400_000)
        db.remove(b"lock:%d" % (i % 7))
        move_clock(db, 50)
    assert db.space.used_bytes == 0
    assert not db.schedule
    validate_database(db)
    assert not db.space.keyspace.expire_some()
    assert db.space.expiring == set()


def test_a_key_that_is_refreshed_is_scheduled_once_and_by_one_object() -> None:
    db = make_database()
    db.put(b"session", b"value")
    first = bytes(bytearray(b"session"))
    db.set_expiry(first, db.clock.now_ms + 3_600_000)
    for _ in range(2000):
        db.set_expiry(bytes(bytearray(b"session")), db.clock.now_ms + 3_600_000)
        move_clock(db, 50)
    assert len(db.schedule) == 1
    assert [key for key in db.expires[key_slot(b"session")] if key is first] == [first]
    move_clock(db, 3_600_000)
    assert [key for key in db.schedule.due(db.clock.now_ms, 2) if key is first] == [first]
    validate_database(db)


# --- anything in any order ---------------------------------------------------------------------

KEYS = [b"a", b"b", b"{a}2", b"c" * 50]
VALUES: list[Value] = [b"", b"x", b"y" * 100]

actions = st.one_of(
    st.tuples(st.sampled_from(["put", "keep"]), st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.tuples(st.just("expire"), st.sampled_from(KEYS), st.integers(-10, 3000)),
    st.tuples(st.sampled_from(["persist", "remove", "take", "grow"]), st.sampled_from(KEYS)),
    st.tuples(st.just("wait"), st.integers(0, 1000)),
    st.tuples(st.sampled_from(["clear", "expire_due"])),
)


@given(st.lists(actions, max_size=60))
def test_accounts_and_schedule_agree_with_the_keys(steps: list[tuple[object, ...]]) -> None:
    db = make_database()
    for step in steps:
        act(db, *step)
        validate_space(db.space)
        assert db.space.keyspace.used_bytes == db.space.used_bytes
    db.clear()
    assert db.space.used_bytes == 0


def act(db: Database, name: object, *arguments: object) -> None:
    """Do one step."""
    if name == "wait":
        assert isinstance(arguments[0], int)
        move_clock(db, arguments[0])
    elif name == "clear":
        db.clear()
    elif name == "expire_due":
        db.expire_due(3)
    else:
        key = arguments[0]
        assert isinstance(key, bytes)
        change(db, str(name), key, *arguments[1:])


def change(db: Database, name: str, key: bytes, *arguments: object) -> None:
    """Do one step that concerns a key."""
    argument = arguments[0] if arguments else None
    if name == "put" and isinstance(argument, bytes):
        db.put(key, argument)
        assert db.expiry_ms(key) is None
    elif name == "keep" and isinstance(argument, bytes):
        db.lookup(key)
        db.put_keeping_expiry(key, argument)
    elif name == "expire" and isinstance(argument, int):
        if key in db:
            db.set_expiry(key, db.clock.now_ms + argument)
            assert (key in db) == (argument > 0)
    elif name == "persist":
        db.persist(key)
    elif name == "remove":
        db.remove(key)
        assert key not in db
    elif name == "take":
        db.take(key)
        assert key not in db
    else:
        value = db.lookup(key)
        if value is not None:
            db.put_keeping_expiry(key, bytearray(b"grown"))
