from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.engine.extents import Extents
from pocketkv.engine.large_string import Hold, LargeString, reply_of
from pocketkv.resp.replies import FileBulk
from tests.engine.media import FakeMedium

PAGE = 4096
BLOCK = 64 * 1024


def make(pages: int = 4096, room_pages: int | None = None) -> tuple[Extents, FakeMedium]:
    medium = FakeMedium(pages, page_bytes=PAGE, room_pages=room_pages)
    return Extents(medium), medium


def string_of(extents: Extents, data: bytes) -> LargeString:
    string = LargeString(extents, [], 0)
    string.write(0, data)
    return string


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def read(bulk: FileBulk) -> bytes:
    """What a connection would send."""
    assert bulk.size == sum(part.size for part in bulk.ranges)
    return b"".join(part.read() for part in bulk.ranges)


def whole_extent(extents: Extents, pages: int) -> LargeString:
    """A string that fills one extent."""
    string = LargeString(extents, extents.allocate_backed(pages * PAGE), pages * PAGE)
    string.write(0, some_bytes(pages * PAGE))
    return string


def exhausted(string: LargeString, extents: Extents) -> None:
    """Have a string sent by copying as often as it is."""
    for _ in range(limits.EXTENT_COPIES_MAX):
        assert {part.fd for part in string.bulk().ranges} == {-1}
    extents.validate()


@pytest.fixture
def extents() -> Iterator[Extents]:
    extents, _ = make()
    yield extents
    extents.validate()


# --- reading -----------------------------------------------------------------------------------


def test_a_string_is_the_bytes_that_were_written(extents: Extents) -> None:
    data = some_bytes(100_000)
    string = string_of(extents, data)
    assert len(string) == 100_000
    assert bytes(string) == data
    assert string[5:20] == data[5:20]
    assert string[-7:] == data[-7:]
    assert string[::3] == data[::3]
    assert string.read(99_990, 100_000) == data[-10:]
    assert string.read(7, 7) == b""


@given(st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_part_of_a_chain_can_be_read(data: st.DataObject) -> None:
    extents, _ = make()
    pages = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    chain = [extents.allocate_backed(n * PAGE)[0] for n in pages]
    size = sum(pages) * PAGE - data.draw(st.integers(0, PAGE - 1))
    whole = some_bytes(sum(pages) * PAGE)
    position = 0
    for extent in chain:
        extent.view(0, extent.size_bytes())[:] = whole[position : position + extent.size_bytes()]
        position += extent.size_bytes()
    string = LargeString(extents, chain, size)
    string.validate()
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    assert string.read(start, stop) == whole[start:stop]
    assert read(string.part_bulk(start, stop)) == whole[start:stop]


def test_a_reply_refers_to_the_medium() -> None:
    extents, _ = make()
    string = string_of(extents, some_bytes(200_000))
    first, *rest = string.part_bulk(10_000, 150_000).ranges
    assert rest == []
    assert (first.offset, first.size) == (10_000, 140_000)
    assert isinstance(first.owner, Hold)


def test_other_strings_are_their_own_reply(extents: Extents) -> None:
    assert reply_of(None) is None
    assert reply_of(b"small") == b"small"
    assert reply_of(bytearray(b"small")) == b"small"
    assert isinstance(reply_of(string_of(extents, bytes(70_000))), FileBulk)


def test_what_is_read_again_and_again_is_sent_by_reference(extents: Extents) -> None:
    string = whole_extent(extents, 64)
    exhausted(string, extents)
    assert {part.fd for part in string.bulk().ranges} == {FakeMedium.fd}
    # But for parts so short that it would not pay.
    short = limits.EXTENT_REFERENCE_BYTES_MIN - 1
    assert {part.fd for part in string.part_bulk(0, short).ranges} == {-1}
    assert {part.fd for part in string.part_bulk(0, short + 1).ranges} == {FakeMedium.fd}


def test_a_short_string_is_always_copied(extents: Extents) -> None:
    string = whole_extent(extents, 31)
    for _ in range(5):
        exhausted(string, extents)
    pages = extents.used_pages
    del string
    assert (extents.warm_pages, extents.spent_pages) == (pages, 0)


# --- going back --------------------------------------------------------------------------------


def test_a_string_goes_back_with_its_last_reference(extents: Extents) -> None:
    string = string_of(extents, some_bytes(100_000))
    used = extents.used_pages
    reply = string.bulk()
    del string
    assert extents.used_pages == used
    parts = reply.ranges
    del reply
    assert extents.used_pages == used
    parts.clear()
    assert extents.used_pages == 0
    assert (extents.warm_pages, extents.spent_pages) == (used, 0)


def test_what_was_sent_by_reference_is_spent(extents: Extents) -> None:
    string = whole_extent(extents, 40)
    exhausted(string, extents)
    string.bulk()
    del string
    assert (extents.warm_pages, extents.spent_pages) == (0, 40)


# --- growing -----------------------------------------------------------------------------------


def test_growing_copies_nothing_that_is_there(extents: Extents) -> None:
    string = string_of(extents, some_bytes(70_000))
    other = string_of(extents, b"in the way")
    expected = bytearray(bytes(string))
    for number in range(300):
        piece = some_bytes(1000, number)
        before = [(r.offset, r.size) for r in string.bulk().ranges]
        string.write(len(string), piece)
        expected += piece
        after = [(r.offset, r.size) for r in string.bulk().ranges]
        assert [place[0] for place in after[: len(before)]] == [place[0] for place in before]
    assert bytes(string) == expected
    assert string.pieces < 12
    string.validate()
    assert bytes(other) == b"in the way"


def test_room_to_grow_is_a_small_part_of_a_string(extents: Extents) -> None:
    for size, most in ((70_000, 1.3), (300_000, 1.3), (4_000_000, 1.09)):
        string = string_of(extents, some_bytes(size))
        assert string.size_bytes < most * size


def test_another_string_is_appended_without_copying_it(extents: Extents) -> None:
    string = string_of(extents, some_bytes(70_001, 1))
    other = string_of(extents, some_bytes(80_001, 2))
    places = {part.offset for part in other.bulk().ranges}
    used = extents.used_pages
    string.write(70_001, other)
    assert bytes(string) == some_bytes(70_001, 1) + some_bytes(80_001, 2)
    assert places <= {part.offset for part in string.bulk().ranges}
    # The first one gave back the room that it had to grow.
    assert extents.used_pages < used
    assert len(other) == 0
    string.validate()
    string.write(len(string), b"more")
    assert string[-8:] == some_bytes(80_001, 2)[-4:] + b"more"


def test_a_gap_is_filled_with_zeros(extents: Extents) -> None:
    # What was there before must not be seen.
    string_of(extents, b"\xff" * 900_000)
    string = string_of(extents, b"\xff" * 70_000)
    string.write(600_000, b"end")
    assert bytes(string) == b"\xff" * 70_000 + bytes(530_000) + b"end"
    string.write(800_000, string_of(extents, b"\xee" * 70_000))
    assert bytes(string)[600_000:] == b"end" + bytes(199_997) + b"\xee" * 70_000
    string.validate()


def test_without_room_nothing_changes() -> None:
    extents, medium = make(room_pages=40)
    string = string_of(extents, some_bytes(70_000))
    for size in (200_000, 100_000_000):
        with pytest.raises(CommandError, match="OOM"):
            string.write(70_000, bytes(size))
        with pytest.raises(CommandError, match="OOM"):
            string.write(70_000 + size, b"x")
        with pytest.raises(CommandError, match="OOM"):
            string.write(60_000, bytes(size))
    assert bytes(string) == some_bytes(70_000)
    string.validate()
    extents.validate()
    # There is room for the bytes, though not for more that may follow.
    string.write(70_000, bytes(90_000))
    assert sum(medium.backed) <= 40
    assert len(string) == 160_000


# --- changing what others need -----------------------------------------------------------------


def test_bytes_are_changed_where_they_stand(extents: Extents) -> None:
    string = string_of(extents, some_bytes(300_000))
    used = extents.used_pages
    string.write(100_000, b"changed")
    assert (
        string[99_999:100_008]
        == some_bytes(300_000)[99_999:100_000] + b"changed" + (some_bytes(300_000)[100_007:100_008])
    )
    assert extents.used_pages == used
    assert string.pieces == 1


def test_a_reply_under_way_does_not_change(extents: Extents) -> None:
    data = some_bytes(1_000_000)
    string = string_of(extents, data)
    reply = string.bulk()
    string.write(200_000, b"changed")
    string.write(0, b"beginning")
    string.write(999_990, b"more than the end")
    string.write(len(string), b"appended")
    assert read(reply) == data
    expected = bytearray(data)
    expected[200_000:200_007] = b"changed"
    expected[0:9] = b"beginning"
    expected[999_990:] = b"more than the end"
    assert bytes(string) == expected + b"appended"
    # Only blocks were copied, and all of it is accounted for.
    assert string.size_bytes < len(data) + 5 * BLOCK + limits.MIB // 8
    string.validate()
    del reply
    # What was copied is its own, and is changed where it stands.
    used = extents.used_pages
    string.write(200_003, b"again")
    assert extents.used_pages == used


def test_what_was_sent_by_reference_does_not_change(extents: Extents) -> None:
    string = whole_extent(extents, 64)
    exhausted(string, extents)
    (part,) = string.bulk().ranges
    offset = part.offset
    del part
    # The system may still have its pages.
    string.write(100, b"changed")
    assert bytes(extents.medium.view(offset + 100, 7)) == some_bytes(64 * PAGE)[100:107]
    assert string[100:107] == b"changed"
    string.validate()


def test_a_copy_shares_until_one_of_the_two_changes(extents: Extents) -> None:
    data = some_bytes(400_000)
    string = string_of(extents, data)
    used = extents.used_pages
    twin = string.copy()
    # Neither can grow into the room behind the last byte.
    assert extents.used_pages == -(-400_000 // PAGE) < used
    assert twin.size_bytes == string.size_bytes
    string.write(300_000, b"one")
    twin.write(300_000, b"two")
    string.write(400_000, b"first")
    twin.write(400_000, b"second")
    assert string[299_999:300_004] == data[299_999:300_000] + b"one" + data[300_003:300_004]
    assert twin[299_999:300_004] == data[299_999:300_000] + b"two" + data[300_003:300_004]
    assert string[-10:] == data[-5:] + b"first"
    assert twin[-10:] == data[-4:] + b"second"
    string.validate()
    twin.validate()
    del string
    twin.validate()
    del twin
    assert extents.used_pages == 0


def test_without_room_for_a_copy_nothing_changes() -> None:
    extents, _ = make(room_pages=40)
    string = string_of(extents, some_bytes(100_000))
    reply = string.bulk()
    spare = extents.allocate_backed(8 * PAGE)
    with pytest.raises(CommandError, match="OOM"):
        string.write(10, b"x")
    assert bytes(string) == read(reply) == some_bytes(100_000)
    assert spare
    extents.validate()
    string.validate()


# --- a model -----------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Any sequence of operations on some strings and replies, against bytearrays."""

    def __init__(self) -> None:
        super().__init__()
        self.strings: list[tuple[LargeString, bytearray]] = []
        self.replies: list[tuple[FileBulk, bytes]] = []
        self.seed = 0

    @initialize(pages=st.integers(40, 2000), room=st.one_of(st.none(), st.integers(20, 2000)))
    def begin(self, pages: int, room: int | None) -> None:
        self.extents, self.medium = make(pages, room)

    def bytes_of(self, size: int) -> bytes:
        self.seed += 1
        return some_bytes(size, self.seed)

    @rule(size=st.integers(1, 300_000))
    def create(self, size: int) -> None:
        data = self.bytes_of(size)
        try:
            self.strings.append((string_of(self.extents, data), bytearray(data)))
        except CommandError:
            pass

    def draw(self, data: st.DataObject) -> tuple[LargeString, bytearray]:
        return self.strings[data.draw(st.integers(0, len(self.strings) - 1))]

    @precondition(lambda self: self.strings)
    @rule(data=st.data(), size=st.integers(1, 200_000), large=st.booleans(), gap=st.booleans())
    def write(self, data: st.DataObject, size: int, large: bool, gap: bool) -> None:
        string, model = self.draw(data)
        end = len(model)
        offset = data.draw(st.integers(0, end) if gap else st.integers(end, end + 100_000))
        part = self.bytes_of(size)
        try:
            string.write(offset, string_of(self.extents, part) if large else part)
        except CommandError:
            assert bytes(string) == model
            return
        if offset > end:
            model += bytes(offset - end)
        model[offset : offset + size] = part

    @precondition(lambda self: self.strings)
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        string, model = self.draw(data)
        if len(self.strings) < 8:
            self.strings.append((string.copy(), bytearray(model)))

    @precondition(lambda self: self.strings)
    @rule(data=st.data(), times=st.sampled_from([1, 1, limits.EXTENT_COPIES_MAX + 1]))
    def reply(self, data: st.DataObject, times: int) -> None:
        string, model = self.draw(data)
        start = data.draw(st.integers(0, len(model)))
        stop = data.draw(st.integers(start, len(model)))
        for _ in range(times):
            self.replies.append((string.part_bulk(start, stop), bytes(model[start:stop])))

    @precondition(lambda self: self.replies)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        bulk, expected = self.replies.pop(data.draw(st.integers(0, len(self.replies) - 1)))
        assert read(bulk) == expected

    @precondition(lambda self: self.strings)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.strings[data.draw(st.integers(0, len(self.strings) - 1))]

    @rule(pages=st.integers(1, 200))
    def trim(self, pages: int) -> None:
        self.extents.punch_spent(pages)
        self.extents.punch_warm(pages)

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        for string, model in self.strings:
            assert len(string) == len(model)
            string.validate()
            pages_bytes = self.extents.used_pages * PAGE
            assert string.size_bytes <= pages_bytes + 256 + 224 * string.pieces
        if self.strings:
            string, model = self.strings[self.seed % len(self.strings)]
            assert bytes(string) == model
        if hasattr(self, "extents"):
            self.extents.validate()

    def teardown(self) -> None:
        for bulk, expected in self.replies:
            assert read(bulk) == expected
        for string, model in self.strings:
            assert bytes(string) == model
        self.strings.clear()
        self.replies.clear()
        del self.extents, self.medium


TestMachine = pytest.mark.filterwarnings("ignore:Generating overly large repr")(Machine.TestCase)
TestMachine.settings = settings(
    max_examples=60, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow]
)
