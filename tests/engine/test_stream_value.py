"""The value of a stream by itself: against a model, and as it goes to a medium and back."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from pocketkv.engine.packing import PayloadError
from pocketkv.engine.pending_map import PendingMap
from pocketkv.engine.stream_entries import UNKNOWN_READS
from pocketkv.engine.stream_groups import Consumer, Pending
from pocketkv.engine.stream_ids import ID_MAX, format_id, make_id
from pocketkv.engine.stream_node import StreamNode
from pocketkv.engine.stream_value import StreamValue

Pairs = list[bytes]
WHO = Consumer(b"who", 0)

texts = st.one_of(st.binary(max_size=6), st.integers(-300, 70_000).map(lambda n: b"%d" % n))
pair_lists = st.one_of(
    st.tuples(st.just(b"field"), texts).map(list),
    st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
        lambda pairs: [text for pair in pairs for text in pair]
    ),
)
group_names = st.sampled_from([b"g", b"h"])
consumer_names = st.sampled_from([b"alice", b"bob"])


def contents(value: StreamValue) -> Any:
    """All that a stream is, where its nodes begin included."""
    nodes = [
        (node.first, node.last, node.deleted, len(node), node.listpack_bytes, node.fields)
        for node in value._nodes
    ]
    groups = {
        name: (
            group.last_id,
            group.entries_read,
            {consumer.name: consumer.seen_ms for consumer in group.consumers.values()},
            [
                (entry_id, pending.consumer.name, pending.delivered_ms, pending.count)
                for entry_id, pending in group.pending.some(0, ID_MAX, len(group.pending))
            ],
        )
        for name, group in value.groups.items()
    }
    numbers = (value.last_id, value.entries_added, value.max_deleted_id, len(value))
    return numbers, value.range(0, ID_MAX, 0), nodes, groups


def whole_of(value: StreamValue, size: int) -> StreamValue:
    """What is made of a stream's parts."""
    cursor, part = value.part(0, size)
    made = StreamValue.of_payload(part)
    while cursor:
        cursor, part = value.part(cursor, size)
        made.add_part(part)
    return made


class StreamMachine(RuleBasedStateMachine):
    """A stream, a naive model of it, and another that only hears of its changes."""

    @initialize(entries_max=st.sampled_from([1, 3, 100]), bytes_max=st.sampled_from([60, 4096]))
    def begin(self, entries_max: int, bytes_max: int) -> None:
        self.limits = entries_max, bytes_max
        self.value = StreamValue()
        self.value.changes = []
        self.twin = StreamValue()
        self.entries: dict[int, Pairs] = {}
        self.pending: dict[bytes, dict[int, bytes]] = {}
        self.now_ms = 1000

    @rule(step=st.sampled_from([1, 2, 200, 1 << 64, 3 << 64, (1 << 64) - 1]), pairs=pair_lists)
    def append(self, step: int, pairs: Pairs) -> None:
        entry_id = self.value.last_id + step
        self.value.append(entry_id, pairs, *self.limits)
        self.entries[entry_id] = pairs

    @rule(count=st.integers(1, 30))
    def append_many(self, count: int) -> None:
        for number in range(count):
            self.append(1, [b"field", b"%d" % number])

    @rule(share=st.floats(0, 1))
    def remove(self, share: float) -> None:
        ids = list(self.entries) or [5]
        entry_id = ids[int(share * (len(ids) - 1))]
        assert self.value.remove(entry_id) == (entry_id in self.entries)
        self.entries.pop(entry_id, None)

    @rule(left=st.integers(0, 40), approximate=st.booleans())
    def trim_to_length(self, left: int, approximate: bool) -> None:
        removed = self.value.trim_to_length(left, approximate, 0)
        self._forget_first(removed)
        assert len(self.entries) <= left or approximate or removed == 0

    @rule(share=st.floats(0, 1), approximate=st.booleans())
    def trim_to_id(self, share: float, approximate: bool) -> None:
        ids = list(self.entries) or [5]
        boundary = ids[int(share * (len(ids) - 1))]
        self._forget_first(self.value.trim_to_id(boundary, approximate, 0))
        assert approximate or not self.entries or min(self.entries) >= boundary

    def _forget_first(self, count: int) -> None:
        for entry_id in list(self.entries)[:count]:
            del self.entries[entry_id]

    @rule(added=st.integers(0, 1000))
    def set_state(self, added: int) -> None:
        self.value.set_state(self.value.last_id + 3, added, self.value.max_deleted_id)

    @rule(name=group_names, share=st.floats(0, 1))
    def set_group(self, name: bytes, share: float) -> None:
        self.value.set_group(name, int(share * self.value.last_id), UNKNOWN_READS)
        self.pending.setdefault(name, {})

    @rule(name=group_names)
    def remove_group(self, name: bytes) -> None:
        assert self.value.remove_group(name) == (name in self.pending)
        self.pending.pop(name, None)

    @rule(name=group_names, who=consumer_names, count=st.integers(0, 5), needs_ack=st.booleans())
    def read(self, name: bytes, who: bytes, count: int, needs_ack: bool) -> None:
        group = self.value.groups.get(name)
        if group is None:
            return
        self.now_ms += 7
        expected = [i for i in self.entries if i > group.last_id][: count or None]
        consumer = self.value.see_consumer(group, who, self.now_ms)
        receiver = consumer if needs_ack else None
        found = self.value.read_new(group, count, receiver, self.now_ms)
        assert found == [[format_id(i), self.entries[i]] for i in expected]
        if needs_ack:
            self.pending[name].update(dict.fromkeys(expected, who))

    @rule(name=group_names, share=st.floats(0, 1))
    def settle(self, name: bytes, share: float) -> None:
        group = self.value.groups.get(name)
        if group is None:
            return
        pending = self.pending[name]
        ids = sorted(pending)[: int(share * len(pending))]
        assert self.value.settle(group, [*ids, 5]) == len(ids) + (5 in pending and 5 not in ids)
        for entry_id in [*ids, 5]:
            pending.pop(entry_id, None)

    @rule(name=group_names, who=consumer_names)
    def remove_consumer(self, name: bytes, who: bytes) -> None:
        group = self.value.groups.get(name)
        if group is None:
            return
        self.value.remove_consumer(group, who)
        rest = {i: owner for i, owner in self.pending[name].items() if owner != who}
        self.pending[name] = rest

    @rule()
    def take_changes(self) -> None:
        changes = self.value.changes
        assert changes is not None
        self.value.changes = []
        for change in changes:
            self.twin.apply_change(change)
        self.twin.validate()
        assert contents(self.twin) == contents(self.value)

    @rule(size=st.sampled_from([1, 100, 1 << 20]))
    def store(self, size: int) -> None:
        for made in (
            StreamValue.of_payload(self.value.payload()),
            whole_of(self.value, size),
            self.value.copy(),
        ):
            made.validate()
            assert contents(made) == contents(self.value)

    @rule(start=st.floats(0, 1), end=st.floats(0, 1), count=st.integers(0, 5))
    def ranges(self, start: float, end: float, count: int) -> None:
        low, high = int(start * self.value.last_id), int(end * self.value.last_id)
        expected = [[format_id(i), p] for i, p in self.entries.items() if low <= i <= high]
        assert self.value.range(low, high, count) == expected[: count or None]
        expected.reverse()
        assert self.value.range_reversed(low, high, count) == expected[: count or None]

    @invariant()
    def agrees(self) -> None:
        value = self.value
        value.validate()
        assert len(value) == len(self.entries)
        assert value.first_id() == min(self.entries, default=0)
        assert value.top_id() == max(self.entries, default=0)
        assert all(entry_id in value for entry_id in self.entries)
        for name, pending in self.pending.items():
            held = value.groups[name].pending
            found = held.some(0, ID_MAX, len(held))
            assert {i: delivery.consumer.name for i, delivery in found} == pending


StreamMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestStreamMachine = StreamMachine.TestCase


# --- a stream that moves while it is used ------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 8)),
        st.tuples(st.just("remove"), st.integers(0, 200)),
        st.tuples(st.just("trim"), st.integers(0, 60)),
        st.tuples(st.just("read"), st.integers(1, 20)),
        st.tuples(st.just("settle"), st.integers(0, 200)),
        st.tuples(st.just("set_group"), st.integers(0, 200)),
        st.tuples(st.just("remove_group"), st.integers(0, 1)),
        st.tuples(st.just("remove_consumer"), st.integers(0, 1)),
    ),
    max_size=40,
)


def change(value: StreamValue, kind: str, number: int) -> None:
    group = value.groups.get(b"g")
    if kind == "append":
        for _ in range(number):
            value.append(value.last_id + 1, [b"f", b"%d" % number], 5, 4096)
    elif kind == "remove":
        value.remove(number)
    elif kind == "trim":
        value.trim_to_length(number, False, 0)
    elif kind == "set_group":
        value.set_group(b"g", number, number)
    elif kind == "remove_group":
        value.remove_group(b"g")
    elif group is not None and kind == "read":
        consumer = value.see_consumer(group, b"c%d" % (number % 2), number)
        value.read_new(group, number, consumer, number)
    elif group is not None and kind == "settle":
        value.settle(group, [number, number + 1])
    elif group is not None:
        value.remove_consumer(group, b"c%d" % number)


@given(before=steps, between=steps, size=st.sampled_from([1, 150, 600]))
@settings(max_examples=200)
def test_parts_and_the_changes_meanwhile_make_the_same(
    before: list[tuple[str, int]], between: list[tuple[str, int]], size: int
) -> None:
    value = StreamValue()
    for step in [("append", 60), ("set_group", 0), ("read", 30), *before]:
        change(value, *step)
    value.changes = []
    rest = iter(between)
    cursor, part = value.part(0, size)
    made = StreamValue.of_payload(part)
    while cursor:
        for step in [step for step, _ in zip(rest, range(2), strict=False)]:
            change(value, *step)
        cursor, part = value.part(cursor, size)
        made.add_part(part)
    for step in rest:
        change(value, *step)
    for note in value.changes:
        made.apply_change(note)
    made.validate()
    found, expected = contents(made), contents(value)
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert found[3] == expected[3]


@pytest.mark.parametrize("payload", [b"", b"x", b"s\1", b"s\5\0\0\0Nabcd", b"s\1\0\0\0?"])
def test_what_is_no_stream_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        StreamValue.of_payload(payload)


def test_a_huge_stream_is_made_and_freed_in_steps() -> None:
    value = StreamValue()
    value.set_group(b"g", 0, 0)
    for number in range(1, 20_001):
        value.append(number, [b"f", b"v" * 100], 100, 4096)
    group = value.groups[b"g"]
    value.read_new(group, 0, value.see_consumer(group, b"c", 1), 1)
    pieces = list(value.payload_pieces())
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 1 << 19
    made = list(StreamValue.building(b"".join(pieces)))
    assert len(made) > 30
    twin = made.pop()
    assert isinstance(twin, StreamValue)
    assert contents(twin) == contents(value)
    steps = 0
    while twin.shed():
        steps += 1
    assert steps > 50


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "size", "distinct"),
    [(20_000, 10, False), (20_000, 100, False), (2000, 5000, False), (5000, 50, True)],
)
def test_what_entries_cost_is_what_they_take(entries: int, size: int, distinct: bool) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = StreamValue()
        for number in range(entries):
            field = b"field%d" % number if distinct else b"f" * 5
            value.append(make_id(1_700_000_000_000 + number, 0), [field, bytes(size)], 100, 4096)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.85 * taken < value.size_bytes < 1.15 * taken


def test_what_deliveries_cost_is_what_they_take() -> None:
    value = StreamValue()
    for number in range(20_000):
        value.append(make_id(1_700_000_000_000 + number, 0), [b"f", b"v"], 100, 4096)
    entries_bytes = value.size_bytes
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value.set_group(b"g", 0, 0)
        group = value.groups[b"g"]
        for number in range(200):
            consumer = value.see_consumer(group, b"consumer:%d" % number, 1_700_000_000_000)
            value.read_new(group, 100, consumer, 1_700_000_000_000 + number)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(group.pending) == 20_000
    assert 0.85 * taken < value.size_bytes - entries_bytes < 1.15 * taken


# --- the map of deliveries ----------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["put", "pop", "clear"]), st.integers(0, 2000)), max_size=40)
)
def test_a_map_is_kept_in_order(changes: list[tuple[str, int]]) -> None:
    found: PendingMap = PendingMap()
    model: dict[int, Pending] = {}
    for kind, number in changes:
        if kind == "put":
            for key in range(number, number + 200, 1 + number % 3):
                found.put(key, pending := Pending(WHO, number, 1))
                model[key] = pending
        elif kind == "pop":
            for key in range(number, number + 300):
                assert found.pop(key) == model.pop(key, None)
        else:
            for key in list(model)[::2]:
                assert found.pop(key) == model.pop(key)
        found.validate()
        assert len(found) == len(model)
        assert found.some(0, 3000, 9999) == sorted(model.items())
        assert (
            found.some(number, number + 9, 4)
            == [(key, model[key]) for key in range(number, number + 10) if key in model][:4]
        )
        assert [found.get(key) for key in range(number, number + 5)] == [
            model.get(key) for key in range(number, number + 5)
        ]
        if model:
            assert (found.first(), found.last()) == (min(model), max(model))


def test_a_node_counts_what_was_deleted() -> None:
    node = StreamNode(1, (b"f",))
    for number in range(1, 4):
        node.add(number, [b"f", b"v"])
    node.remove(1)
    assert node.is_full(0, 3, 0)
    assert not node.is_full(0, 4, 0)
