"""Sorted sets: the value against a model, its encodings, walks, costs and payloads.

Replies: see ``tests/oracle``.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pocketkv import limits
from pocketkv.engine.notifications import GENERIC, SORTED_SET
from pocketkv.engine.packing import PayloadError
from pocketkv.engine.sorted_set_value import ADDED, CHANGED, SAME, SortedSetValue
from tests.engine.harness import Client, Engine
from tests.replies import Error

ENTRIES_MAX = 128
VALUE_MAX = 64


def made_of(scores: dict[bytes, float]) -> SortedSetValue:
    return SortedSetValue.of(scores, ENTRIES_MAX, VALUE_MAX)


def many(count: int) -> dict[bytes, float]:
    return {b"member:%d" % number: float(number * 7919 % count) for number in range(count)}


def pairs_of(value: SortedSetValue) -> list[tuple[float, bytes]]:
    return [
        pair for scores, members in value.chunks() for pair in zip(scores, members, strict=True)
    ]


def walk(value: SortedSetValue, count: int = 10) -> list[bytes]:
    """All members that a walk meets, from beginning to end."""
    cursor, found, _ = value.scan(0, count)
    while cursor:
        cursor, more, _ = value.scan(cursor, count)
        found = found + more
    return found


# --- the value against a model -----------------------------------------------------------------

some_scores = st.one_of(
    st.integers(0, 30).map(float), st.floats(allow_nan=False), st.sampled_from([0.0, -0.0])
)
some_members = st.integers(0, 3000).map(lambda number: b"m%d" % number)
batches = st.one_of(
    st.lists(st.tuples(some_members, some_scores), max_size=50),
    # Many at once: in order, backwards, and of one score.
    st.tuples(st.integers(0, 2000), st.integers(1, 1500), st.sampled_from([1, -1, 0])).map(
        lambda drawn: [(b"m%d" % (drawn[0] + i), float(drawn[2] * i)) for i in range(drawn[1])]
    ),
)


class SortedSetMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(1)
        self.value = SortedSetValue(is_listpack=True)
        self.model: dict[bytes, float] = {}

    def ordered(self) -> list[tuple[float, bytes]]:
        return sorted((score, member) for member, score in self.model.items())

    @rule(batch=batches)
    def put(self, batch: list[tuple[bytes, float]]) -> None:
        for member, score in batch:
            old = self.model.get(member)
            done = self.value.put(member, score, ENTRIES_MAX, VALUE_MAX)
            assert done == (ADDED if old is None else SAME if old == score else CHANGED)
            self.model[member] = score

    @rule(members=st.lists(some_members, max_size=100))
    def remove(self, members: list[bytes]) -> None:
        for member in members:
            assert self.value.remove(member) == (member in self.model)
            self.model.pop(member, None)

    @precondition(lambda self: self.model)
    @rule(share=st.floats(0, 1), from_max=st.booleans())
    def pop(self, share: float, from_max: bool) -> None:
        ordered = self.ordered()
        for _ in range(int(share * len(ordered))):
            member, score = self.value.pop_last() if from_max else self.value.pop_first()
            assert (score, member) == ordered.pop(-1 if from_max else 0)
            del self.model[member]

    @rule(start=st.floats(0, 1), share=st.floats(0, 1))
    def remove_between(self, start: float, share: float) -> None:
        ordered = self.ordered()
        first = int(start * len(ordered))
        last = first + int(share * (len(ordered) - first))
        self.value.remove_between(first, last)
        for _, member in ordered[first:last]:
            del self.model[member]

    @rule()
    def copy(self) -> None:
        copied = self.value.copy()
        for member in list(self.model)[::2]:
            self.value.remove(member)
        self.value = copied

    @rule()
    def store(self) -> None:
        self.value = SortedSetValue.of_payload(self.value.payload())

    @rule(start=st.floats(0, 1), count=st.integers(0, 1000), score=some_scores)
    def read(self, start: float, count: int, score: float) -> None:
        ordered = self.ordered()
        first = int(start * len(ordered))
        last = min(len(ordered), first + count)
        members = [member for _, member in ordered[first:last]]
        assert self.value.members_between(first, last) == members
        assert self.value.scores_between(first, last) == [s for s, _ in ordered[first:last]]
        for rank, member in enumerate(members[:5], first):
            assert self.value.rank(member) == rank
            assert self.value.score(member) == self.model[member]
        below = bisect_left(ordered, (score, b""))
        assert self.value.rank_of_score(score, False) == below
        as_high = sum(other <= score for other, _ in ordered)
        assert self.value.rank_of_score(score, True) == as_high

    @invariant()
    def agrees(self) -> None:
        self.value.validate()
        assert pairs_of(self.value) == self.ordered()
        assert len(self.value) == len(self.model)
        assert set(walk(self.value)) == set(self.model)
        assert self.value.score(b"nobody") is None
        assert self.value.rank(b"nobody") == -1
        if len(self.model) > ENTRIES_MAX:
            assert self.value.encoding() == "skiplist"


SortedSetMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None
)
TestSortedSetMachine = SortedSetMachine.TestCase


@pytest.mark.parametrize("after", [False, True])
def test_members_of_one_score_are_found_by_name(after: bool) -> None:
    value = made_of(dict.fromkeys([b"%05d" % (2 * number) for number in range(3000)], 1.0))
    for number in (-1, 0, 1, 2, 1023, 1024, 1025, 5997, 5998, 5999):
        expected = (number + 2) // 2 if after and number % 2 == 0 else (number + 1) // 2
        member = b"%05d" % number if number >= 0 else b""
        assert value.rank_of_member(member, after) == expected


# --- media -------------------------------------------------------------------------------------


@given(
    start=st.integers(1, 400),
    batch=st.lists(st.tuples(st.booleans(), some_members, some_scores), max_size=300),
)
def test_repeated_changes_make_the_same(start: int, batch: list[tuple[bool, bytes, float]]) -> None:
    value = made_of({b"m%d" % number: 1.0 for number in range(start)})
    other = SortedSetValue.of_payload(value.payload())
    value.changes = []
    for is_put, member, score in batch:
        if is_put:
            value.put(member, score, ENTRIES_MAX, VALUE_MAX)
        else:
            value.remove(member)
    value.remove_between(0, len(value) // 3)
    for change in value.changes:
        other.apply_change(change)
    other.validate()
    assert pairs_of(other) == pairs_of(value)
    assert other.encoding() == value.encoding()


@pytest.mark.parametrize("count", [1, 128, 129, 5000])
def test_parts_make_the_whole(count: int) -> None:
    value = made_of(many(count))
    cursor, payload = value.part(0, 2000)
    made = SortedSetValue.of_payload(payload)
    while cursor:
        cursor, payload = value.part(cursor, 2000)
        assert len(payload) < 20_000
        made.add_part(payload)
    assert pairs_of(made) == pairs_of(value)
    assert made.encoding() == value.encoding()


def test_a_large_one_is_packed_built_and_freed_in_steps() -> None:
    value = made_of(many(20_000))
    pieces = list(value.payload_pieces())
    assert max(map(len, pieces)) < 20_000
    steps = list(SortedSetValue.building(b"".join(pieces)))
    assert len(steps) > 50
    made = steps[-1]
    assert isinstance(made, SortedSetValue)
    assert pairs_of(made) == pairs_of(value)
    shed = 1
    while made.shed():
        shed += 1
        made.part(5, 1000)
    assert made.part(5, 1000) == (0, b"s")
    assert shed > 3


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"s\x01",
        b"s\x05\0\0\0abcd",
        b"s\x04\0\0\0abcd",
        b"s\x08\0\0\0\0\0\0\0\0\0\xf8\x7f",
    ],
)
def test_what_is_no_sorted_set_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        SortedSetValue.of_payload(payload)


# --- encodings ---------------------------------------------------------------------------------


def test_it_is_a_listpack_while_it_is_small(client: Client) -> None:
    client("ZADD", "k", *(part for n in range(ENTRIES_MAX) for part in (n, f"m{n}")))
    assert client("OBJECT", "ENCODING", "k") == b"listpack"
    client("ZADD", "k", 1, "one more")
    assert client("OBJECT", "ENCODING", "k") == b"skiplist"
    client("ZREMRANGEBYRANK", "k", 2, -1)
    assert client("OBJECT", "ENCODING", "k") == b"skiplist"
    client("ZUNIONSTORE", "k", 1, "k")
    assert client("OBJECT", "ENCODING", "k") == b"listpack"
    client("ZADD", "k", 1, "x" * (VALUE_MAX + 1))
    assert client("OBJECT", "ENCODING", "k") == b"skiplist"


@pytest.mark.parametrize("name", ["zset-max-listpack-entries", "zset-max-ziplist-entries"])
def test_the_largest_listpack_is_a_setting(client: Client, name: str) -> None:
    client("CONFIG", "SET", name, 1)
    client("ZADD", "k", 1, "a")
    assert client("OBJECT", "ENCODING", "k") == b"listpack"
    client("ZADD", "k", 2, "b")
    assert client("OBJECT", "ENCODING", "k") == b"skiplist"
    client("CONFIG", "SET", name, 0)
    client("ZADD", "other", 1, "a")
    assert client("OBJECT", "ENCODING", "other") == b"skiplist"


def test_zero_has_a_sign_in_a_skiplist_only(client: Client) -> None:
    client("ZADD", "k", "-0", "m")
    assert client("ZSCORE", "k", "m") == b"0"
    client("CONFIG", "SET", "zset-max-listpack-entries", 0)
    client("ZADD", "other", "-0", "m")
    assert client("ZSCORE", "other", "m") == b"-0"


# --- walks and random members ------------------------------------------------------------------


def test_a_walk_meets_all_that_stays(client: Client) -> None:
    client("ZADD", "k", *(part for n in range(3000) for part in (n, f"m{n}")))
    cursor, found = client("ZSCAN", "k", 0)
    met = dict(zip(found[::2], found[1::2], strict=True))
    removed = 0
    while cursor != b"0":
        if removed < 1500:
            client("ZPOPMAX", "k", 10)
            removed += 10
        cursor, found = client("ZSCAN", "k", cursor, "COUNT", 20)
        met.update(zip(found[::2], found[1::2], strict=True))
    assert {b"m%d" % n: b"%d" % n for n in range(1500)}.items() <= met.items()


def test_every_member_is_as_likely(client: Client) -> None:
    client("ZADD", "k", *(part for n in range(300) for part in (n % 3, f"m{n}")))
    counts = Counter(client("ZRANDMEMBER", "k", -30_000))
    assert len(counts) == 300
    # Chi-square with 299 degrees of freedom; five standard deviations above its mean.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 300 + 5 * 600**0.5


def test_random_members_have_their_own_scores(client: Client) -> None:
    client("ZADD", "k", *(part for n in range(200) for part in (n, f"m{n}")))
    drawn = client("ZRANDMEMBER", "k", 50, "WITHSCORES")
    assert len(set(drawn[::2])) == 50
    assert all(
        b"m" + score == member for member, score in zip(drawn[::2], drawn[1::2], strict=True)
    )
    reply = client("ZRANDMEMBER", "k", -limits.RANDOM_MEMBERS_MAX - 1)
    assert isinstance(reply, Error)
    reply = client("ZRANDMEMBER", "k", -(2**62), "WITHSCORES")
    assert reply.text == "ERR value is out of range"


# --- memory ------------------------------------------------------------------------------------


def test_what_a_sorted_set_costs_is_given_back(engine: Engine, client: Client) -> None:
    client("ZADD", "k", *(part for n in range(1000) for part in (n, f"m{n}")))
    client("ZUNIONSTORE", "other", 2, "k", "k")
    client("GEOADD", "places", 13.3, 38.1, "Palermo")
    engine.validate()
    assert engine.space.used_bytes > 2000 * 100
    client("ZPOPMIN", "k", 500)
    client("ZREMRANGEBYSCORE", "k", "-inf", 700)
    client("ZPOPMAX", "k", 5000)
    client("ZREM", "places", "Palermo")
    client("ZDIFFSTORE", "other", 2, "other", "other")
    assert engine.space.used_bytes == 0


@pytest.mark.parametrize(
    "request_",
    [
        ["ZADD", "k", *(part for n in range(1000) for part in (n, n))],
        ["ZUNIONSTORE", "k", 1, "a"],
        ["ZRANGESTORE", "k", "a", 0, -1],
    ],
)
def test_what_would_cost_much_more_than_its_bytes_is_refused_as_a_whole(
    engine: Engine, client: Client, request_: list[object]
) -> None:
    client("ZADD", "a", *(part for n in range(1000) for part in (n, n)))
    client("ZADD", "k", 1, "x")
    engine.space.quota_bytes = before = engine.space.used_bytes + 20_000
    assert isinstance(client(*request_), Error)
    assert engine.space.used_bytes == before - 20_000
    assert client("ZRANGE", "k", 0, -1) == [b"x"]


# --- events ------------------------------------------------------------------------------------


class Heard:
    """Keeps the events that it is told of."""

    def __init__(self, engine: Engine) -> None:
        self.events: list[tuple[str, str]] = []
        engine.space.notify_flags = SORTED_SET | GENERIC
        engine.space.notifier = self

    def notify(self, database: object, kind: int, event: bytes, key: bytes) -> None:
        self.events.append((event.decode(), key.decode()))

    def take(self) -> list[tuple[str, str]]:
        events, self.events = self.events, []
        return events


@pytest.mark.parametrize(
    ("request_", "events"),
    [
        ("ZADD k 1 a", []),
        ("ZADD k 2 a", ["zadd k"]),
        ("ZADD k XX 2 b", []),
        ("ZADD k INCR 2 b", ["zincr k"]),
        ("ZINCRBY k 0 a", []),
        ("ZREM k a", ["zrem k", "del k"]),
        ("ZREM k b", []),
        ("ZPOPMIN k", ["zpopmin k", "del k"]),
        ("ZPOPMAX k 0", []),
        ("ZMPOP 2 none k MAX", ["zpopmax k", "del k"]),
        ("BZPOPMIN k 0", ["zpopmin k", "del k"]),
        ("ZREMRANGEBYSCORE k 1 1", ["zremrangebyscore k", "del k"]),
        ("ZREMRANGEBYRANK k 1 1", []),
        ("ZREMRANGEBYLEX k - +", ["zremrangebylex k", "del k"]),
        ("ZUNIONSTORE d 1 k", ["zunionstore d"]),
        ("ZINTERSTORE k 2 k none", ["del k"]),
        ("ZDIFFSTORE d 2 k k", []),
        ("ZRANGESTORE d k 0 -1", ["zrangestore d"]),
        ("GEOADD k 1 1 b", ["zadd k"]),
        ("GEOSEARCHSTORE d k FROMMEMBER a BYRADIUS 1 m", ["geosearchstore d"]),
        ("GEORADIUSBYMEMBER k a 1 m STORE d", ["georadiusstore d"]),
    ],
)
def test_events_are_told(engine: Engine, client: Client, request_: str, events: list[str]) -> None:
    client("ZADD", "k", 1, "a")
    heard = Heard(engine)
    assert not isinstance(client(*request_.split()), Error)
    assert [" ".join(event) for event in heard.take()] == events
