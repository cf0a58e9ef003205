"""Hashes: encodings, order, walks, media, and what they cost. Replies: see ``tests/oracle``."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pocketkv import limits
from pocketkv.engine.eviction import evict_some
from pocketkv.engine.hash_value import HashValue
from pocketkv.engine.packing import PayloadError
from tests.engine.harness import Client, Engine
from tests.engine.stores import MemoryStore
from tests.replies import Error

ENTRIES_MAX = 50
VALUE_MAX = 64


def pairs(count: int) -> list[bytes]:
    return [b"%s%d" % (kind, number) for number in range(count) for kind in (b"field:", b"value ")]


def made(count: int, entries_max: int = ENTRIES_MAX) -> HashValue:
    return HashValue.of(pairs(count), entries_max, VALUE_MAX)


# --- encodings ---------------------------------------------------------------------------------


def test_few_fields_stand_in_the_order_in_which_they_came(client: Client) -> None:
    names = [b"f%d" % (number * 7 % 300) for number in range(300)]
    for name in names:
        client("HSET", "k", name, "1")
    client("HSET", "k", names[0], "2")
    assert client("OBJECT", "ENCODING", "k") == b"listpack"
    assert client("HKEYS", "k") == names
    client("HDEL", "k", names[0])
    client("HSET", "k", names[0], "3")
    assert client("HKEYS", "k") == [*names[1:], names[0]]
    assert client("HGETALL", "k")[-2:] == [names[0], b"3"]
    assert client("HRANDFIELD", "k", 1000) == [*names[1:], names[0]]


@pytest.mark.parametrize(
    "fields",
    [["f", "v" * 65], ["f" * 65, "v"], [f"f{n // 2}" for n in range(2 * 513)]],
    ids=["value", "field", "fields"],
)
def test_many_fields_or_long_ones_make_a_hashtable_for_good(
    client: Client, fields: list[str]
) -> None:
    client("HSET", "k", *fields)
    assert client("OBJECT", "ENCODING", "k") == b"hashtable"
    client("HSET", "k", "short", "1")
    client("HDEL", "k", *fields[::2])
    assert client("OBJECT", "ENCODING", "k") == b"hashtable"
    assert client("HGETALL", "k") == [b"short", b"1"]


@pytest.mark.parametrize("name", ["listpack", "ziplist"])
def test_the_largest_listpack_is_a_setting(client: Client, name: str) -> None:
    client("CONFIG", "SET", f"hash-max-{name}-entries", 2, f"hash-max-{name}-value", 3)
    client("HSET", "k", "a", "123", "b", "2")
    client("HSET", "long", "a", "1234")
    assert client("OBJECT", "ENCODING", "k") == b"listpack"
    assert client("OBJECT", "ENCODING", "long") == b"hashtable"
    client("HINCRBY", "k", "c", 1)
    assert client("OBJECT", "ENCODING", "k") == b"hashtable"


def test_debug_describes_the_table(client: Client) -> None:
    client("HSET", "k", *pairs(10))
    assert client("DEBUG", "HTSTATS-KEY", "k").text.startswith("ERR The value stored")
    client("HSET", "k", *pairs(1000))
    described = client("DEBUG", "HTSTATS-KEY", "k").decode()
    assert described.startswith("Hash table 0 stats (main hash table):\n table size: 16\n")
    assert " number of elements: 1000\n different slots: 16\n" in described


def test_changes_are_counted(client: Client) -> None:
    def changes() -> int:
        lines = client("INFO", "persistence").decode().splitlines()
        return int(
            dict(line.split(":") for line in lines if ":" in line)["rdb_changes_since_last_save"]
        )

    before = changes()
    client("HSET", "k", "f", 1, "g", 2)
    client("HDEL", "k", "none")
    client("SETBIT", "s", 1, 0)
    client("SETBIT", "s", 1, 0)
    assert changes() == before + 2


# --- the value against a model -----------------------------------------------------------------

any_field = st.one_of(st.integers(0, 300).map(lambda n: b"f%d" % n), st.binary(max_size=3))
any_value = st.one_of(st.binary(max_size=5), st.sampled_from([b"v" * 64, b"v" * 65]))


class HashMachine(RuleBasedStateMachine):
    """A hash, one that follows its changes as a medium tells them, and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(1)
        self.model: dict[bytes, bytes] = {}
        self.value = HashValue()
        self.follow()

    def follow(self) -> None:
        self.follower = HashValue.of_payload(self.value.payload())
        self.value.changes = []

    @rule(pairs=st.lists(st.tuples(any_field, any_value), max_size=100))
    def set(self, pairs: list[tuple[bytes, bytes]]) -> None:
        for field, value in pairs:
            is_new = self.value.set(field, value, ENTRIES_MAX, VALUE_MAX)
            assert is_new == (field not in self.model)
            self.model[field] = value

    @rule(fields=st.lists(any_field, max_size=100))
    def discard(self, fields: list[bytes]) -> None:
        for field in fields:
            assert self.value.discard(field) == (field in self.model)
            self.model.pop(field, None)

    @rule(share=st.floats(0, 1))
    def discard_drawn(self, share: float) -> None:
        for _ in range(int(share * len(self.model))):
            field = self.value.random_field(self.dice)
            assert self.value.discard(field)
            del self.model[field]

    @rule()
    def copy(self) -> None:
        copied = self.value.copy()
        for field in self.value.fields()[::2]:
            self.value.discard(field)
        assert copied.pairs() == self.model
        self.value = copied
        self.follow()

    @invariant()
    def agrees(self) -> None:
        self.value.validate()
        assert self.value.pairs() == self.model
        assert len(self.value) == len(self.model)
        assert dict(zip(self.value.fields(), self.value.values(), strict=True)) == self.model
        if self.value.encoding() == "listpack":
            assert self.value.fields() == list(self.model)
        assert walk(self.value) == self.model
        sample = self.value.sample(len(self.model) // 2, self.dice)
        assert len(set(sample)) == len(self.model) // 2
        assert set(sample) <= set(self.model)

    @invariant()
    def is_followed(self) -> None:
        if self.value.changes is None:
            # Another encoding: the whole is written again.
            self.follow()
        for change in self.value.changes or ():
            self.follower.apply_change(change)
        self.value.changes = []
        self.follower.validate()
        assert self.follower.fields() == self.value.fields()
        assert self.follower.pairs() == self.model
        assert self.follower.encoding() == self.value.encoding()
        assert self.follower.size_bytes == self.value.size_bytes


HashMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=15)
TestHashMachine = HashMachine.TestCase


# --- walks -------------------------------------------------------------------------------------


def walk(value: HashValue, count: int = 10) -> dict[bytes, bytes]:
    """All that a walk meets, from beginning to end."""
    cursor, found = value.scan(0, count)
    while cursor:
        cursor, more = value.scan(cursor, count)
        found |= more
    return found


@given(
    start=st.integers(1, 600),
    changes=st.lists(st.tuples(st.booleans(), st.integers(0, 800)), max_size=30),
)
def test_a_walk_meets_all_that_stays(start: int, changes: list[tuple[bool, int]]) -> None:
    value = made(start)
    passing = [b"passing:%d" % number for number in range(800)]
    cursor, met = value.scan(0, 10)
    steps = iter(changes)
    while cursor:
        is_growing, up_to = next(steps, (True, 0))
        for field in passing[:up_to]:
            if is_growing:
                value.set(field, b"", ENTRIES_MAX, VALUE_MAX)
            else:
                value.discard(field)
        cursor, more = value.scan(cursor, 10)
        met |= more
    assert made(start).pairs().items() <= met.items()


def test_a_walk_can_be_filtered(client: Client) -> None:
    client("HSET", "k", *pairs(1000))
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, more = client("HSCAN", "k", cursor, "MATCH", "field:*77", "COUNT", 50)
        found += more
        if cursor == b"0":
            break
    assert sorted(found[::2]) == sorted(f for f in pairs(1000)[::2] if f.endswith(b"77"))
    assert all(v == b"value " + f[6:] for f, v in zip(found[::2], found[1::2], strict=True))


# --- at random ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 64, 300])
@pytest.mark.parametrize("entries_max", [0, 512])
def test_every_field_is_as_likely(size: int, entries_max: int) -> None:
    value = made(size, entries_max)
    dice = random.Random(size)
    counts = Counter(value.random_fields(size * 50, dice))
    counts += Counter(value.random_field(dice) for _ in range(size * 50))
    assert len(counts) == size
    # Chi-square with size - 1 degrees of freedom; five standard deviations above its mean.
    chi_square = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_square < size + 5 * (2 * size) ** 0.5


@pytest.mark.parametrize("size", [100, 1000])
def test_fields_are_drawn_with_their_values(engine: Engine, size: int) -> None:
    client = engine.connect(protocol=3)
    client("HSET", "k", *pairs(size))
    everything = client("HGETALL", "k")
    for count in (1, 50, 99, -300):
        drawn = client("HRANDFIELD", "k", count, "WITHVALUES")
        assert len(drawn) == abs(count)
        assert all(everything[field] == value for field, value in drawn)
    flat = engine.connect(protocol=2)("HRANDFIELD", "k", 7, "WITHVALUES")
    assert len(flat) == 14
    assert all(everything[flat[i]] == flat[i + 1] for i in range(0, 14, 2))


def test_too_many_repetitions_are_refused_before_any_is_drawn(client: Client) -> None:
    client("HSET", "k", "a", "1")
    reply = client("HRANDFIELD", "k", -limits.RANDOM_MEMBERS_MAX - 1)
    assert isinstance(reply, Error)
    assert reply.text.startswith("ERR value is out of range")


# --- media -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 50, 51, 3000])
def test_a_hash_is_stored_in_pieces_and_parts(size: int) -> None:
    value = made(size)
    payload = value.payload()
    assert b"".join(value.payload_pieces()) == payload
    stored = HashValue.of_payload(payload)
    stored.validate()
    assert stored.encoding() == value.encoding()
    assert list(stored.pairs().items()) == list(value.pairs().items())
    cursor, part = value.part(0, 1000)
    copied = HashValue.of_payload(part)
    while cursor:
        cursor, part = value.part(cursor, 1000)
        assert len(part) < 10_000
        copied.add_part(part)
    copied.validate()
    assert copied.pairs() == value.pairs()
    assert copied.encoding() == value.encoding()


@pytest.mark.parametrize(
    "payload", [b"", b"x", b"l\1", b"l\1\0\0\0a", b"h\1\0\0\0a", b"h\1\0\0\0a\2\0\0\0b"]
)
def test_what_is_no_hash_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        HashValue.of_payload(payload)


def test_a_large_hash_is_freed_in_steps() -> None:
    value = made(30_000)
    steps = 1
    while value.shed():
        steps += 1
    assert steps > 1


def evict_everything(engine: Engine) -> None:
    while evict_some(engine.keyspace, 1 << 30, 1 << 30):
        pass


def test_hashes_are_moved_out_of_memory_and_back() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client = engine.connect()
    expected: dict[str, dict[bytes, bytes]] = {"small": {}, "large": {}}
    for number in range(800):
        for key in ("small", "large")[number >= 100 :]:
            client("HSET", key, f"f{number}", number)
            expected[key][b"f%d" % number] = b"%d" % number
        if number % 50 == 0:
            client("HDEL", "large", f"f{number - 1}")
            expected["large"].pop(b"f%d" % (number - 1), None)
            evict_everything(engine)
    evict_everything(engine)
    for key, fields in expected.items():
        flat = client("HGETALL", key)
        assert dict(zip(flat[::2], flat[1::2], strict=True)) == fields
    engine.validate()


# --- memory ------------------------------------------------------------------------------------


def test_what_a_hash_costs_is_given_back(engine: Engine, client: Client) -> None:
    client("HSET", "small", *pairs(20))
    client("HSET", "large", *pairs(2000))
    client("HSET", "small", "field:1", "longer than before")
    client("HINCRBYFLOAT", "small", "n", "1.5")
    client("HSETNX", "large", "n", "x" * 1000)
    engine.validate()
    assert engine.space.used_bytes > 2000 * 100
    client("HSET", "large", "n", "")
    engine.validate()
    for key in ("small", "large"):
        while field := client("HRANDFIELD", key):
            client("HDEL", key, field)
    assert engine.space.used_bytes == 0


@pytest.mark.parametrize(
    "request_", [["HSET", "k", *pairs(500)], ["HMSET", "new", *[*"abcdefghij"] * 100]]
)
def test_what_would_cost_much_more_than_its_bytes_is_refused_as_a_whole(
    engine: Engine, client: Client, request_: list[object]
) -> None:
    client("HSET", "k", "a", "1")
    before = engine.space.used_bytes
    engine.space.quota_bytes = before + 12_000
    assert isinstance(client(*request_), Error)
    assert engine.space.used_bytes == before
    assert client("HGETALL", "k") == [b"a", b"1"]
