"""Lists: the value against a model, media, and what they cost. Replies: see ``tests/oracle``."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Generator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pocketkv.engine.list_chunks import index_of, positions_from_end, positions_of
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.packing import PayloadError
from pocketkv.engine.payloads import code_of, collection
from pocketkv.engine.transfer import Piece, pieces_of
from tests.engine.harness import Client, Engine
from tests.replies import Error


def texts(count: int) -> list[bytes]:
    return [b"item:%d" % number for number in range(count)]


# --- the value against a model -----------------------------------------------------------------

# Few different ones, so that some are found.
any_item = st.one_of(st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=20))
few_items = st.lists(any_item, min_size=1, max_size=5)
# More than a chunk has.
many_items = st.integers(1, 700).map(lambda count: [b"%d" % (n % 50) for n in range(count)])
places = st.floats(0, 1)


class ListMachine(RuleBasedStateMachine):
    """A list, a plain one, and two that hear of changes only."""

    def __init__(self) -> None:
        super().__init__()
        self.value = ListValue()
        self.model: list[bytes] = []
        self.value.changes = []
        self.replica = ListValue()
        # What is being sent: what it was, what came of it, where it goes on.
        self.sending: tuple[list[bytes], ListValue | None, int] | None = None

    def place(self, place: float) -> int:
        return min(int(place * len(self.model)), len(self.model) - 1)

    @rule(
        items=st.one_of(many_items, st.lists(any_item, min_size=1, max_size=5)), left=st.booleans()
    )
    def push(self, items: list[bytes], left: bool) -> None:
        for item in items:
            if left:
                self.value.push_left(item)
                self.model.insert(0, item)
            else:
                self.value.push_right(item)
                self.model.append(item)

    @precondition(lambda self: self.model)
    @rule(share=places, left=st.booleans())
    def pop(self, share: float, left: bool) -> None:
        for _ in range(1 + self.place(share)):
            if left:
                assert self.value.pop_left() == self.model.pop(0)
            else:
                assert self.value.pop_right() == self.model.pop()

    @precondition(lambda self: self.model)
    @rule(place=places, item=any_item)
    def replace(self, place: float, item: bytes) -> None:
        index = self.place(place)
        self.value.replace(index, item)
        self.model[index] = item

    @rule(spots=st.lists(places, max_size=150), item=any_item)
    def insert(self, spots: list[float], item: bytes) -> None:
        for place in spots:
            index = round(place * len(self.model))
            self.value.insert(index, item)
            self.model.insert(index, item)

    @precondition(lambda self: self.model)
    @rule(place=places, count=st.sampled_from([0, 1, -1, 3, -3, 1000]))
    def remove(self, place: float, count: int) -> None:
        item = self.model[self.place(place)]
        left = abs(count) or len(self.model)
        kept = []
        for other in reversed(self.model) if count < 0 else self.model:
            if other == item and left:
                left -= 1
            else:
                kept.append(other)
        removed = self.value.remove(item, count)
        assert removed == len(self.model) - len(kept)
        self.model = kept[::-1] if count < 0 else kept

    @rule(start=places, share=places)
    def trim(self, start: float, share: float) -> None:
        first = int(start * len(self.model))
        count = round(share * (len(self.model) - first))
        self.value.trim(first, count)
        self.model = self.model[first : first + count]

    @rule()
    def copy(self) -> None:
        copied = self.value.copy()
        copied.changes = self.value.changes
        self.value.changes = None
        self.value.push_left(b"not in the copy")
        self.value = copied
        self.sending = None

    @rule()
    def renew(self) -> None:
        self.value = self.value.renewed()

    @rule()
    def repeat_changes(self) -> None:
        changes, self.value.changes = self.value.changes, []
        assert changes is not None
        for change in changes:
            self.replica.apply_change(change)
        self.replica.validate()
        assert self.replica.items() == self.model

    @rule(size=st.integers(1, 3000))
    def send_part(self, size: int) -> None:
        was, made, cursor = self.sending or (list(self.model), None, 0)
        if made is None:
            self.frozen = self.value.freeze()
        cursor, part = self.value.part_of(self.frozen, cursor, size)
        if made is None:
            made = ListValue.of_payload(part)
        else:
            made.add_part(part)
        self.sending = (was, made, cursor) if cursor else None
        if not cursor:
            made.validate()
            assert made.items() == was
            self.value.thaw(self.frozen)

    @rule()
    def stop_sending(self) -> None:
        if self.sending is not None:
            self.value.thaw(self.frozen)
            self.sending = None

    @invariant()
    def agrees(self) -> None:
        value, model = self.value, self.model
        value.validate()
        assert len(value) == len(model)
        assert value.items() == model
        for index in range(0, len(model), 37):
            assert value.get(index) == model[index]
            for count in (60, 400):
                within = min(count, len(model) - index)
                assert value.items_from(index, within) == model[index : index + count]

    @invariant()
    def finds(self) -> None:
        chunks = self.value.chunks()
        for item in [*self.model[:1], *self.model[-1:], b"missing"]:
            at = [index for index, other in enumerate(self.model) if other == item]
            assert index_of(chunks, item) == (at[0] if at else -1)
            assert positions_of(chunks, item, 1, 10**9, 10**9) == at
            assert positions_of(chunks, item, 2, 3, 10**9) == at[1:4]
            assert positions_of(chunks, item, 1, 10**9, 150) == [i for i in at if i < 150]
            assert positions_from_end(chunks, item, 1, 10**9, 10**9) == at[::-1]
            late = [i for i in at[-2::-1] if i >= len(self.model) - 150]
            assert positions_from_end(chunks, item, 2, 10, 150) == late[:10]


ListMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=20)
TestListMachine = ListMachine.TestCase


@given(st.lists(st.one_of(any_item, st.just(b"x" * 70_000)), max_size=600))
@settings(max_examples=30)
def test_what_is_stored_is_what_was(items: list[bytes]) -> None:
    value = ListValue.of(items)
    payload = value.payload()
    assert b"".join(value.payload_pieces()) == payload
    made = collection(code_of(value), payload)
    assert isinstance(made, ListValue)
    made.validate()
    assert made.items() == items
    assert made.size_bytes == value.size_bytes


@pytest.mark.parametrize("payload", [b"", b"m", b"l\x01", b"l\x05\0\0\0abc"])
def test_what_is_no_list_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        ListValue.of_payload(payload)


@pytest.mark.parametrize("change", [b"[", b"]", b"=0:x", b"+1:x", b"t0:1"])
def test_a_change_to_another_list_is_refused(change: bytes) -> None:
    with pytest.raises(PayloadError):
        ListValue().apply_change(change)


def test_a_large_list_is_built_and_written_in_small_steps() -> None:
    value = ListValue.of(texts(50_000))
    pieces = list(value.payload_pieces())
    assert max(map(len, pieces)) < 64 * 1024
    steps = list(ListValue.building(b"".join(pieces)))
    assert len(steps) > 20
    assert all(step is None for step in steps[:-1])
    large = ListValue.of([b"x" * 100_000] * 100)
    assert max(map(len, large.payload_pieces())) < 1024 * 1024
    assert len(list(ListValue.building(large.payload()))) > 10


def test_a_large_list_is_freed_in_small_steps() -> None:
    value = ListValue.of(texts(50_000))
    steps = 1
    while value.shed():
        steps += 1
    assert 4 < steps < 50
    large = ListValue.of([b"%d" % n + b"x" * 100_000 for n in range(1000)])
    steps = 1
    while large.shed():
        steps += 1
    assert steps == 8


def test_a_list_is_sent_as_it_was_when_that_began() -> None:
    value = ListValue.of(texts(5000))
    pieces = pieces_of(value)
    first = next(pieces)
    for _ in range(3000):
        value.pop_left()
        value.replace(0, b"other")
    value.insert(500, b"inserted")
    made = ListValue.of_payload(first[3])
    for piece in pieces:
        made.add_part(piece[3])
    assert made.items() == texts(5000)
    assert len(value) == 2001


def test_a_list_whose_sending_was_given_up_holds_nothing_on() -> None:
    value = ListValue.of([b"%d" % n + b"x" * 1000 for n in range(1000)])
    pieces = cast("Generator[Piece, None, None]", pieces_of(value))
    next(pieces)
    item = value.get(500)
    value.trim(0, 1)
    held = sys.getrefcount(item)
    pieces.close()
    assert sys.getrefcount(item) == held - 1


# --- memory ------------------------------------------------------------------------------------


# Lengths that are not rounded up by the allocator, which tracemalloc does not know of.
@pytest.mark.parametrize(("count", "length"), [(1, 15), (100, 15), (20_000, 15), (5000, 303)])
def test_a_list_takes_what_it_says(count: int, length: int) -> None:
    tracemalloc.start()
    lists = []
    repeat = max(1, 20_000 // count)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(repeat):
        value = ListValue()
        for number in range(count):
            value.push_right(b"%*d" % (length, number))
        lists.append(value)
    taken = tracemalloc.get_traced_memory()[0] - before - sys.getsizeof(lists)
    tracemalloc.stop()
    said = sum(value.size_bytes for value in lists)
    assert 0.85 < taken / said < 1.15


def test_what_a_list_costs_is_given_back(engine: Engine, client: Client) -> None:
    client("RPUSH", "k", *texts(300))
    client("LPUSH", "k", *texts(300))
    client("LINSERT", "k", "BEFORE", "item:7", "x" * 1000)
    client("LSET", "k", 5, "y" * 2000)
    client("LMOVE", "k", "other", "LEFT", "RIGHT")
    client("LTRIM", "k", 3, -100)
    client("LREM", "k", 0, "item:9")
    engine.validate()
    assert engine.space.used_bytes > 300 * 50
    for key in ("k", "other"):
        while client("RPOP", key) is not None:
            pass
    assert engine.space.used_bytes == 0


def test_elements_are_counted_against_the_quota(engine: Engine, client: Client) -> None:
    engine.space.quota_bytes = 10_000
    replies = [client("RPUSH", "k", f"item:{number}") for number in range(1000)]
    refused = [reply for reply in replies if isinstance(reply, Error)]
    assert refused[0].text == "OOM command not allowed when used memory > 'maxmemory'."
    assert engine.space.used_bytes <= 10_000 + 100
    # What frees memory is not refused.
    assert client("LPOP", "k") == b"item:0"


def test_many_short_elements_are_refused_as_a_whole(engine: Engine, client: Client) -> None:
    engine.space.quota_bytes = 8000
    assert isinstance(client("RPUSH", "k", *"abcdefghij" * 100), Error)
    assert client("EXISTS", "k") == 0


@pytest.mark.parametrize(
    "request_", [["LTRIM", "k", 0, 10], ["LTRIM", "k", 1, 0], ["DEL", "k"], ["SET", "k", "x"]]
)
def test_what_goes_of_a_large_list_is_freed_in_the_background(
    engine: Engine, client: Client, request_: list[Any]
) -> None:
    for _ in range(20):
        client("RPUSH", "k", *texts(1000))
    assert client(*request_) in ("OK", 1)
    assert len(engine.keyspace.shedding) == 1
    assert engine.space.used_bytes < 2000
    steps = 1
    while engine.keyspace.free_some(1):
        steps += 1
    assert steps > 2
    assert not engine.keyspace.shedding
