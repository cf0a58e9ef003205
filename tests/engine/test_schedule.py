"""The schedule of expiring keys by itself: buckets that are split, merged and emptied."""

from __future__ import annotations

import random
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine.regions import Evacuation
from pocketkv.engine.schedule import Schedule
from pocketkv.slots import key_slot

NOW_MS = 1_700_000_000_000


class NoAddresses:
    """All entries and items lie nowhere."""

    def of_entries(self, table: dict[Any, Any]) -> int:
        return 0

    def of_items(self, items: list[Any]) -> int:
        return 0


class Kept:
    """A schedule with the due times that a database would keep."""

    def __init__(self) -> None:
        self.expires: dict[int, dict[bytes, int]] = {}
        self.schedule = Schedule(self.expires)

    def set(self, key: bytes, due_ms: int) -> None:
        """Have a key expire."""
        expires = self.expires.setdefault(key_slot(key), {})
        old_ms = expires.get(key)
        expires[key] = due_ms
        if old_ms is not None:
            key = self.schedule.remove(key, old_ms)
        self.schedule.add(key, due_ms)

    def forget(self, key: bytes) -> None:
        """Have a key not expire any more."""
        self.schedule.remove(key, self.expires[key_slot(key)].pop(key))

    def expire(self, now_ms: int, keys_max: int) -> list[bytes]:
        """Remove all that is due, in the order in which it is."""
        gone = []
        while keys := self.schedule.due(now_ms, keys_max):
            assert len(keys) <= keys_max
            for key in keys:
                self.forget(key)
            gone += keys
        return gone


def test_keys_expire_at_their_millisecond_and_not_before() -> None:
    kept = Kept()
    dice = random.Random(4)
    dues = {b"%d" % i: NOW_MS + dice.randrange(1, 5000) for i in range(10_000)}
    for key, due_ms in dues.items():
        kept.set(key, due_ms)
    kept.schedule.validate()
    for now_ms in range(NOW_MS, NOW_MS + 5001, 250):
        gone = kept.expire(now_ms, 200)
        assert all(now_ms - 250 < dues[key] <= now_ms for key in gone)
        kept.schedule.validate()
    assert not kept.schedule


def test_any_number_of_keys_may_be_due_at_once() -> None:
    kept = Kept()
    for i in range(5000):
        kept.set(b"%d" % i, NOW_MS + 77)
    kept.set(b"sooner", NOW_MS + 76)
    kept.set(b"later", NOW_MS + 78)
    kept.schedule.validate()
    assert kept.expire(NOW_MS + 75, 100) == []
    assert kept.expire(NOW_MS + 76, 100) == [b"sooner"]
    assert len(kept.expire(NOW_MS + 77, 100)) == 5000
    assert kept.expire(NOW_MS + 100, 100) == [b"later"]
    assert not kept.schedule


def test_no_bucket_without_keys_stays_behind() -> None:
    kept = Kept()
    for i in range(600):
        kept.set(b"%d" % i, NOW_MS + 77)
    for i in range(600):
        kept.forget(b"%d" % i)
    assert not kept.schedule
    assert kept.schedule.due(NOW_MS + 100, 10) == []


def test_looking_in_vain_is_not_repeated() -> None:
    kept = Kept()
    kept.set(b"first", NOW_MS)
    kept.set(b"second", NOW_MS + 1000)
    kept.forget(b"first")
    assert kept.schedule.due(NOW_MS + 500, 10) == []
    # The bucket now says when it is worth another look.
    assert kept.schedule._starts == [NOW_MS + 1000]


def test_compacting_leaves_as_much_room_as_there_are_keys() -> None:
    kept = Kept()
    dice = random.Random(5)
    dues = {b"%d" % i: NOW_MS + dice.randrange(1, 1_000_000) for i in range(20_000)}
    for key, due_ms in dues.items():
        kept.set(key, due_ms)
    for i in range(20_000):
        if i % 20:
            kept.forget(b"%d" % i)
    before_bytes = sum(map(sys.getsizeof, kept.schedule._buckets))
    evacuation = Evacuation([], NoAddresses())
    number = 0
    while number >= 0:
        evacuation.attempts = 20
        number = kept.schedule.evacuate(evacuation, number)
        kept.schedule.validate()
    after_bytes = sum(map(sys.getsizeof, kept.schedule._buckets))
    assert after_bytes < before_bytes / 10
    assert len(kept.schedule) == 1000
    assert len(kept.expire(NOW_MS + 1_000_000, 100)) == 1000


KEYS = [b"%d" % i for i in range(2000)]

steps = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 2000), st.integers(1, 40), st.integers(1, 3000)),
    st.tuples(st.just("forget"), st.integers(0, 2000), st.integers(1, 40), st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.just(0), st.integers(0, 500)),
    st.tuples(st.just("compact"), st.integers(0, 5), st.just(0), st.just(0)),
    st.tuples(st.just("renew"), st.integers(0, 2000), st.integers(1, 40), st.just(0)),
)


@given(st.lists(steps, max_size=40), st.integers(0, 3))
def test_like_a_sorted_list(steps: list[tuple[str, int, int, int]], width: int) -> None:
    """Whole ranges of keys are set and forgotten, so that buckets are split and emptied."""
    kept = Kept()
    model: dict[bytes, int] = {}
    now_ms = NOW_MS
    for name, first, count, argument in steps:
        chosen = KEYS[first : first + count * 20]
        if name == "set":
            for i, key in enumerate(chosen):
                model[key] = now_ms + argument + i * width
                kept.set(key, model[key])
        elif name == "wait":
            now_ms += argument
            gone = kept.expire(now_ms, 50)
            assert sorted(gone) == sorted(key for key, due in model.items() if due <= now_ms)
            model = {key: due for key, due in model.items() if due > now_ms}
        elif name == "compact":
            evacuation = Evacuation([], NoAddresses())
            evacuation.attempts = 1000
            kept.schedule.evacuate(evacuation, first)
        else:
            for key in [key for key in chosen if key in model]:
                if name == "forget":
                    kept.forget(key)
                    del model[key]
                else:
                    kept.schedule.renew(bytes(bytearray(key)), model[key])
        kept.schedule.validate()
        assert bool(kept.schedule) == bool(model)
