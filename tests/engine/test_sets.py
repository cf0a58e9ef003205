"""Sets: encodings, random members, walks, and what they cost. Replies: see ``tests/oracle``."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pocketkv import limits
from pocketkv.engine.set_value import SetValue
from tests.engine.harness import Client, Engine
from tests.replies import Error

INTSET_MAX = 512


def texts(count: int) -> list[bytes]:
    return [b"member:%d" % number for number in range(count)]


def walk(value: SetValue, count: int = 10) -> list[bytes]:
    """All that a walk meets, from beginning to end."""
    cursor, found = value.scan(0, count)
    while cursor:
        cursor, more = value.scan(cursor, count)
        found += more
    return found


# --- encodings ---------------------------------------------------------------------------------


def test_integers_are_an_intset_in_ascending_order(client: Client) -> None:
    client("SADD", "k", 3, -7, 2**63 - 1, -(2**63), 0)
    assert client("OBJECT", "ENCODING", "k") == b"intset"
    assert [int(m) for m in client("SMEMBERS", "k")] == [-(2**63), -7, 0, 3, 2**63 - 1]


@pytest.mark.parametrize("member", ["07", "+1", "-0", "", " 1", "1.0", "x", str(2**63)])
def test_what_only_looks_like_an_integer_makes_a_hashtable(client: Client, member: str) -> None:
    client("SADD", "k", 1, member)
    assert client("OBJECT", "ENCODING", "k") == b"hashtable"
    assert sorted(client("SMEMBERS", "k")) == sorted([b"1", member.encode()])


def test_a_set_stays_a_hashtable(client: Client) -> None:
    client("SADD", "k", *range(INTSET_MAX))
    assert client("OBJECT", "ENCODING", "k") == b"intset"
    client("SADD", "k", INTSET_MAX)
    assert client("OBJECT", "ENCODING", "k") == b"hashtable"
    client("SREM", "k", *range(10, INTSET_MAX + 1))
    assert client("OBJECT", "ENCODING", "k") == b"hashtable"
    assert client("SCARD", "k") == 10


def test_the_largest_intset_is_a_setting(client: Client) -> None:
    client("CONFIG", "SET", "set-max-intset-entries", 2)
    client("SADD", "k", 1, 2)
    assert client("OBJECT", "ENCODING", "k") == b"intset"
    client("SADD", "k", 3)
    assert client("OBJECT", "ENCODING", "k") == b"hashtable"


@pytest.mark.parametrize(
    ("store", "encoding"),
    [("SINTERSTORE", b"intset"), ("SDIFFSTORE", b"intset"), ("SUNIONSTORE", b"hashtable")],
)
def test_a_result_has_the_encoding_of_its_members(
    client: Client, store: str, encoding: bytes
) -> None:
    client("SADD", "a", 1, 2, 3, "x")
    client("SADD", "b", *([1, 2] if store != "SDIFFSTORE" else ["x"]))
    client(store, "c", "a", "b")
    assert client("OBJECT", "ENCODING", "c") == encoding


# --- the value against a model -----------------------------------------------------------------

few = st.integers(0, 400)
any_member = st.one_of(
    few.map(lambda n: b"%d" % n), few.map(lambda n: b"m%d" % n), st.binary(max_size=3)
)


class SetMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(1)
        self.value: SetValue | None = None
        self.model: set[bytes] = set()

    @rule(members=st.lists(any_member, min_size=1, max_size=200))
    def add(self, members: list[bytes]) -> None:
        for member in members:
            if self.value is None:
                self.value = SetValue(member)
            assert self.value.add(member, 50) == (member not in self.model)
            self.model.add(member)

    @precondition(lambda self: self.value)
    @rule(members=st.lists(any_member, max_size=100))
    def discard(self, members: list[bytes]) -> None:
        assert self.value is not None
        for member in members:
            assert self.value.discard(member) == (member in self.model)
            self.model.discard(member)

    @precondition(lambda self: self.value)
    @rule(share=st.floats(0, 1))
    def pop(self, share: float) -> None:
        assert self.value is not None
        for _ in range(int(share * len(self.model))):
            member = self.value.pop_random(self.dice)
            assert member in self.model
            self.model.remove(member)

    @precondition(lambda self: self.value)
    @rule()
    def copy(self) -> None:
        assert self.value is not None
        copied = self.value.copy()
        for member in self.value.members()[::2]:
            self.value.discard(member)
        assert set(copied.members()) == self.model
        self.value = copied

    @invariant()
    def agrees(self) -> None:
        if self.value is None:
            return
        self.value.validate()
        assert set(self.value.members()) == self.model
        assert len(self.value) == len(self.model)
        assert set(walk(self.value)) == self.model
        count = len(self.model) // 2
        sample = self.value.sample(count, self.dice)
        assert len(set(sample)) == count
        assert set(sample) <= self.model


SetMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=15)
TestSetMachine = SetMachine.TestCase


# --- walks -------------------------------------------------------------------------------------


@given(
    start=st.integers(1, 600),
    changes=st.lists(st.tuples(st.booleans(), st.integers(0, 800)), max_size=30),
)
def test_a_walk_meets_all_that_stays(start: int, changes: list[tuple[bool, int]]) -> None:
    lasting = texts(start)
    passing = [b"passing:%d" % number for number in range(800)]
    value = SetValue.of(lasting + passing[:400], INTSET_MAX)
    cursor, met = value.scan(0, 10)
    steps = iter(changes)
    while cursor:
        is_growing, up_to = next(steps, (True, 0))
        for member in passing[:up_to]:
            if is_growing:
                value.add(member, INTSET_MAX)
            else:
                value.discard(member)
        cursor, more = value.scan(cursor, 10)
        met += more
    assert set(lasting) <= set(met)


def test_a_step_returns_about_as_many_as_are_asked_for(client: Client) -> None:
    client("SADD", "k", *texts(5000))
    cursor, found = client("SSCAN", "k", 0, "COUNT", 300)
    assert cursor != b"0"
    assert 300 <= len(found) <= 600


def test_a_cursor_of_a_larger_set_ends_or_goes_on(client: Client) -> None:
    client("SADD", "k", *texts(300))
    for cursor in (1, 7, 2**32, 2**64 - 1):
        following, found = client("SSCAN", "k", cursor)
        assert following.isdigit()
        assert set(found) <= set(texts(300))


def test_a_walk_can_be_filtered(client: Client) -> None:
    client("SADD", "k", *texts(1000))
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, more = client("SSCAN", "k", cursor, "MATCH", "member:*77")
        found += more
        if cursor == b"0":
            break
    assert sorted(found) == sorted(m for m in texts(1000) if m.endswith(b"77"))


# --- at random ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 64, 300, 1000])
def test_every_member_is_as_likely(size: int) -> None:
    value = SetValue.of(texts(size), INTSET_MAX)
    dice = random.Random(size)
    counts = Counter(value.random_member(dice) for _ in range(size * 100))
    assert len(counts) == size
    # Chi-square with size - 1 degrees of freedom; five standard deviations above its mean.
    chi_square = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_square < size + 5 * (2 * size) ** 0.5


def test_random_members_are_found_although_one_segment_has_nearly_all() -> None:
    value = SetValue.of(texts(1000), INTSET_MAX)
    assert value._members is not None
    segments = value._members.segments
    for segment in segments[1:]:
        for member in list(segment)[1:]:
            value.discard(member)
    dice = random.Random(1)
    assert {value.random_member(dice) for _ in range(3000)} == set(value.members())


def test_spop_takes_all_members_in_some_order(client: Client) -> None:
    client("SADD", "k", *texts(700))
    popped = [client("SPOP", "k") for _ in range(300)] + client("SPOP", "k", 250)
    popped += client("SPOP", "k", 145)
    assert client("SCARD", "k") == 5
    popped += client("SPOP", "k", 100)
    assert sorted(popped) == sorted(texts(700))
    assert popped != texts(700)
    assert client("EXISTS", "k") == 0


def test_spop_of_nearly_all_members_keeps_the_expiry(client: Client) -> None:
    client("SADD", "k", *texts(100))
    client("EXPIRE", "k", 1000)
    assert len(client("SPOP", "k", 99)) == 99
    assert client("TTL", "k") == 1000
    assert client("SCARD", "k") == 1


@pytest.mark.parametrize("count", [1, 3, 40, 99, 100, 101])
def test_srandmember_draws_different_members(client: Client, count: int) -> None:
    client("SADD", "k", *texts(100))
    drawn = client("SRANDMEMBER", "k", count)
    assert len(drawn) == len(set(drawn)) == min(count, 100)
    assert client("SCARD", "k") == 100


def test_srandmember_with_repetition(client: Client) -> None:
    client("SADD", "k", "a", "b")
    drawn = client("SRANDMEMBER", "k", -50)
    assert len(drawn) == 50
    assert set(drawn) == {b"a", b"b"}


def test_too_many_repetitions_are_refused_before_any_is_drawn(client: Client) -> None:
    client("SADD", "k", "a")
    reply = client("SRANDMEMBER", "k", -limits.RANDOM_MEMBERS_MAX - 1)
    assert isinstance(reply, Error)
    assert reply.text.startswith("ERR value is out of range")


# --- memory ------------------------------------------------------------------------------------


def test_what_a_set_costs_is_given_back(engine: Engine, client: Client) -> None:
    client("SADD", "k", *range(100))
    client("SADD", "other", *texts(500))
    client("SUNIONSTORE", "k", "k", "other")
    client("SMOVE", "other", "third", "member:1")
    engine.validate()
    assert engine.space.used_bytes > 500 * 50
    for key in ("k", "other", "third"):
        while client("SPOP", key) is not None:
            pass
    assert engine.space.used_bytes == 0


def test_members_are_counted_against_the_quota(engine: Engine, client: Client) -> None:
    engine.space.quota_bytes = 10_000
    replies = [client("SADD", "k", f"member:{number}") for number in range(1000)]
    refused = [reply for reply in replies if isinstance(reply, Error)]
    assert refused
    assert refused[0].text == "OOM command not allowed when used memory > 'maxmemory'."
    assert engine.space.used_bytes <= 10_000 + 100
    # What frees memory is not refused.
    assert client("SREM", "k", "member:1") == 1


@pytest.mark.parametrize(
    "request_",
    [
        ["SADD", "k", *range(1000, 2000)],
        ["SADD", "new", *"abcdefghij" * 100],
        ["SUNIONSTORE", "k", "a"],
    ],
)
def test_what_would_cost_much_more_than_its_bytes_is_refused_as_a_whole(
    engine: Engine, client: Client, request_: list[object]
) -> None:
    client("SADD", "a", *texts(100))
    client("SADD", "k", "x")
    engine.space.quota_bytes = before = engine.space.used_bytes + 8000
    assert isinstance(client(*request_), Error)
    assert engine.space.used_bytes == before - 8000
    assert client("SMEMBERS", "k") == [b"x"]
