from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pocketkv.engine.extents import Extent, Extents, FreeRanges, class_of
from tests.engine.media import FakeMedium

PAGE = FakeMedium.page_bytes


def make(pages: int = 1000, room_pages: int | None = None) -> tuple[Extents, FakeMedium]:
    medium = FakeMedium(pages, room_pages=room_pages)
    return Extents(medium), medium


def backed(extents: Extents, pages: int) -> list[Extent]:
    chain = extents.allocate_backed(pages * PAGE)
    assert sum(extent.pages for extent in chain) == pages
    return chain


def places(chain: list[Extent]) -> list[tuple[int, int]]:
    return [(extent.start, extent.pages) for extent in chain]


# --- size classes ------------------------------------------------------------------------------


@given(st.integers(1, 2**40))
def test_a_class_holds_sizes_that_differ_by_a_sixteenth_at_most(pages: int) -> None:
    size_class = class_of(pages)
    assert class_of(pages + 1) in (size_class, size_class + 1)
    assert class_of(pages + max(1, pages // 16)) > size_class or pages < 16
    assert class_of(2 * pages) - size_class <= 16 or pages < 16


@given(st.lists(st.integers(1, 5000), min_size=1), st.integers(1, 5000))
def test_what_is_found_is_large_enough_and_not_much_larger(sizes: list[int], wanted: int) -> None:
    ranges = FreeRanges()
    start = 0
    for size in sizes:
        ranges.add(start, size)
        start += size + 1
    found = ranges.find(wanted)
    own = class_of(wanted)
    larger = [class_of(size) for size in sizes if class_of(size) > own]
    if found >= 0:
        assert wanted <= ranges.sizes[found]
        assert class_of(ranges.sizes[found]) in (own, min(larger, default=own))
    else:
        # Only one that is hardly large enough may have been missed.
        assert not larger
        assert len(sizes) > 8 or all(size < wanted for size in sizes)
    ranges.validate()


def test_the_smallest_class_that_fits_is_taken() -> None:
    ranges = FreeRanges()
    for start, size in ((0, 300), (400, 40), (500, 90), (700, 200)):
        ranges.add(start, size)
    found = {1: 400, 40: 400, 41: 500, 90: 500, 150: 700, 250: 0, 301: -1}
    assert {wanted: ranges.find(wanted) for wanted in found} == found


# --- handing out -------------------------------------------------------------------------------


def test_a_new_medium_is_one_cold_range() -> None:
    extents, medium = make()
    (extent,) = extents.allocate(3 * PAGE - 5)
    assert (extent.start, extent.pages, extent.backed_pages) == (0, 3, 0)
    assert sum(medium.backed) == 0
    assert extents.back(extent, 2)
    assert extent.backed_pages == 2
    assert list(medium.backed[:4]) == [1, 1, 0, 0]
    assert extent.backed_bytes() == 2 * PAGE
    extents.validate()


def test_what_goes_back_is_warm_and_handed_out_again_first() -> None:
    extents, medium = make()
    chain = backed(extents, 20)
    keep = backed(extents, 1)
    del chain
    assert extents.warm_pages == 20
    (again,) = extents.allocate(20 * PAGE)
    assert (again.start, again.backed_pages) == (0, 20)
    assert medium.punches == []
    assert keep
    extents.validate()


def test_of_equal_ranges_the_one_freed_last_comes_first() -> None:
    extents, _ = make()
    chains = [backed(extents, 10) for _ in range(6)]
    starts = [chain[0].start for chain in chains]
    for index in (0, 4, 2):
        chains[index] = []
    assert [extents.allocate(10 * PAGE)[0].start for _ in range(1)] == [starts[2]]
    taken = [extents.allocate(10 * PAGE) for _ in range(3)]
    assert [chain[0].start for chain in taken] == [starts[2], starts[4], starts[0]]


def test_what_was_never_backed_goes_back_cold() -> None:
    extents, _ = make()
    (extent,) = extents.allocate(10 * PAGE)
    assert extents.back(extent, 4)
    del extent
    assert extents.warm_pages == 4
    assert extents.figures().used_bytes == 0
    extents.validate()


def test_neighbours_of_one_state_are_joined() -> None:
    extents, _ = make()
    chains = [backed(extents, 10) for _ in range(5)]
    keep = chains.pop()
    for index in (1, 3, 0, 2):
        chains[index] = []
        extents.validate()
    (joined,) = extents.allocate(40 * PAGE)
    assert (joined.start, joined.pages) == (0, 40)
    assert keep


def test_warm_ranges_make_a_chain_rather_than_new_pages() -> None:
    extents, medium = make()
    chains = [backed(extents, 20) for _ in range(8)]
    for index in (1, 3, 5):
        chains[index] = []
    before = sum(medium.backed)
    chain = backed(extents, 55)
    assert sorted(extent.pages for extent in chain) == [15, 20, 20]
    assert sum(medium.backed) == before
    extents.validate()


def test_warm_crumbs_do_not_make_a_chain_while_there_is_better() -> None:
    extents, _ = make()
    chains = [backed(extents, 2) for _ in range(40)]
    for index in range(0, 40, 2):
        chains[index] = []
    chain = extents.allocate(30 * PAGE)
    assert [(extent.pages, extent.backed_pages) for extent in chain] == [(30, 0)]


def test_a_full_medium_is_used_to_the_last_page() -> None:
    extents, _ = make(40)
    chains = [backed(extents, 2) for _ in range(20)]
    assert extents.allocate(1) == []
    for index in range(0, 20, 2):
        chains[index] = []
    chain = backed(extents, 20)
    assert len(chain) == 10
    assert extents.allocate(1) == []
    extents.validate()


def test_more_than_there_is_takes_nothing() -> None:
    extents, _ = make(40)
    keep = backed(extents, 10)
    assert extents.allocate(31 * PAGE) == []
    assert extents.figures().used_bytes == 10 * PAGE
    assert len(backed(extents, 30)) == 1
    assert keep
    extents.validate()


def test_without_room_on_the_medium_nothing_is_backed() -> None:
    extents, medium = make(100, room_pages=15)
    keep = backed(extents, 10)
    assert extents.allocate_backed(6 * PAGE) == []
    (extent,) = extents.allocate(6 * PAGE)
    assert not extents.back(extent, 6)
    assert extents.back(extent, 5)
    assert sum(medium.backed) == 15
    assert keep
    extents.validate()


# --- growing and shrinking ---------------------------------------------------------------------


def test_an_extent_grows_into_what_comes_after_it() -> None:
    extents, medium = make()
    (first,) = backed(extents, 10)
    (second,) = backed(extents, 10)
    assert not extents.extend(first, 1)
    del second
    # First into warm pages, then into cold ones.
    assert extents.extend(first, 10)
    assert extents.extend(first, 5)
    assert places([first]) == [(0, 25)]
    assert first.backed_pages == 25
    assert sum(medium.backed) == 25
    extents.validate()


def test_an_extent_that_is_not_backed_does_not_grow() -> None:
    extents, _ = make()
    (extent,) = extents.allocate(10 * PAGE)
    assert not extents.extend(extent, 1)


def test_an_extent_does_not_grow_where_there_is_no_room() -> None:
    extents, _ = make(100, room_pages=12)
    (extent,) = backed(extents, 10)
    assert not extents.extend(extent, 3)
    assert extents.extend(extent, 2)
    extents.validate()


def test_the_end_of_an_extent_goes_back() -> None:
    extents, _ = make()
    (extent,) = extents.allocate(10 * PAGE)
    extents.back(extent, 6)
    extents.take_back(extent, 7)
    assert (extent.pages, extent.backed_pages, extents.warm_pages) == (7, 6, 0)
    extents.take_back(extent, 4)
    assert (extent.pages, extent.backed_pages, extents.warm_pages) == (4, 4, 2)
    extents.take_back(extent, 4)
    extents.take_back(extent, 9)
    assert extent.pages == 4
    extents.validate()


# --- giving back -------------------------------------------------------------------------------


def test_what_was_sent_by_reference_is_punched_before_it_is_used_again() -> None:
    extents, medium = make(10)
    (extent,) = backed(extents, 10)
    extent.is_sent = True
    del extent
    assert (extents.warm_pages, extents.spent_pages) == (0, 10)
    # There is nothing else, so it is done at once.
    (again,) = extents.allocate(3 * PAGE)
    assert medium.punches == [(0, 10)]
    assert again.backed_pages == 0
    extents.validate()


def test_spent_pages_are_left_alone_while_there_are_others() -> None:
    extents, medium = make(30)
    (extent,) = backed(extents, 10)
    extent.is_sent = True
    del extent
    (other,) = extents.allocate(5 * PAGE)
    assert other.start == 10
    assert medium.punches == []
    assert extents.punch_spent(4) == 4
    assert extents.punch_spent(100) == 6
    assert extents.punch_spent(100) == 0
    assert medium.punches == [(0, 4), (4, 6)]
    assert extents.figures().punched_bytes == 10 * PAGE
    extents.validate()


def test_what_was_warm_for_longest_is_punched_first() -> None:
    extents, medium = make()
    chains = [backed(extents, 10) for _ in range(6)]
    for index in (4, 0, 2):
        chains[index] = []
    assert extents.punch_warm(15) == 15
    assert medium.punches == [(40, 10), (0, 5)]
    assert extents.warm_pages == 15
    extents.validate()


def test_the_least_that_was_warm_is_remembered() -> None:
    extents, _ = make()
    chains = [backed(extents, 10) for _ in range(4)]
    keep = chains.pop()
    chains.clear()
    extents.warm_low_pages = extents.warm_pages
    held = backed(extents, 25)
    held.clear()
    assert (extents.warm_pages, extents.warm_low_pages) == (30, 5)
    assert keep


# --- a model -----------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Any sequence of operations, against a list of who has which page."""

    def __init__(self) -> None:
        super().__init__()
        self.chains: list[list[Extent]] = []

    @initialize(pages=st.integers(1, 300), room=st.one_of(st.none(), st.integers(0, 300)))
    def begin(self, pages: int, room: int | None) -> None:
        self.extents, self.medium = make(pages, room)
        self.pages = pages

    @rule(pages=st.integers(1, 120), at_once=st.booleans())
    def allocate(self, pages: int, at_once: bool) -> None:
        figures = self.extents.figures()
        size = pages * PAGE
        chain = self.extents.allocate_backed(size) if at_once else self.extents.allocate(size)
        if chain:
            assert sum(extent.pages for extent in chain) == pages
            self.chains.append(chain)
        elif not at_once:
            handed_out_bytes = figures.used_bytes + figures.reserved_bytes
            assert self.pages - handed_out_bytes // PAGE < pages

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.chains[data.draw(st.integers(0, len(self.chains) - 1))]

    def _draw(self, data: st.DataObject) -> Extent:
        chain = self.chains[data.draw(st.integers(0, len(self.chains) - 1))]
        return chain[data.draw(st.integers(0, len(chain) - 1))]

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), pages=st.integers(0, 60))
    def take_back(self, data: st.DataObject, pages: int) -> None:
        extent = self._draw(data)
        before = extent.pages
        self.extents.take_back(extent, pages)
        assert extent.pages == min(before, pages)

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), pages=st.integers(1, 60))
    def extend(self, data: st.DataObject, pages: int) -> None:
        extent = self._draw(data)
        before = extent.pages
        grown = self.extents.extend(extent, pages)
        assert extent.pages == before + pages * grown

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), pages=st.integers(0, 120))
    def back(self, data: st.DataObject, pages: int) -> None:
        extent = self._draw(data)
        wanted = min(pages, extent.pages)
        if self.extents.back(extent, wanted):
            assert extent.backed_pages >= wanted

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        self._draw(data).is_sent = True

    @rule(pages=st.integers(0, 50), spent=st.booleans())
    def punch(self, pages: int, spent: bool) -> None:
        before = self.extents.spent_pages if spent else self.extents.warm_pages
        punch = self.extents.punch_spent if spent else self.extents.punch_warm
        assert punch(pages) == min(before, pages)

    @invariant()
    def nobody_shares_a_page(self) -> None:
        if not hasattr(self, "extents"):
            return
        self.extents.validate()
        owners = bytearray(self.pages)
        backed_pages = 0
        for extent in (extent for chain in self.chains for extent in chain):
            for page in range(extent.start, extent.start + extent.pages):
                assert not owners[page]
                owners[page] = 1
                assert self.medium.backed[page] == (page < extent.start + extent.backed_pages)
            backed_pages += extent.backed_pages
        assert sum(owners) == self.extents.used_pages
        assert self.extents.reserved_pages == self.extents.used_pages - backed_pages
        free_pages = self.extents.warm_pages + self.extents.spent_pages
        assert sum(self.medium.backed) == backed_pages + free_pages

    def teardown(self) -> None:
        self.chains.clear()
        if hasattr(self, "extents"):
            self.extents.validate()
            assert self.extents.used_pages == 0


TestMachine = pytest.mark.filterwarnings("ignore:Generating overly large repr")(Machine.TestCase)
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)
