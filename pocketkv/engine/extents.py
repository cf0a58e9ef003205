"""Where large values live: ranges of a medium, in whole pages, handed out and taken back.

A page of the medium is in one of four states:

    used    part of an `Extent`, which somebody holds; of its pages the first so many are backed
    warm    free, and backed: it may be written at once, so it is what is handed out first
    spent   free, but its bytes may still be on their way out of the system's own buffers (see
            `Extent.is_sent`): it is punched before it is used for anything else
    cold    free, and not backed: it takes no room on the medium, and must be given some before
            it is written

Free ranges are found by size class, so that every operation takes the same short time however many
there are: each power of two has 16 classes, a bit tells which of them are empty, and within one
the range that was freed last comes first, since its bytes are likeliest to be in the processor's
cache. A request takes one range wherever one is large enough, and several where none is.

An `Extent` goes back by itself when the last reference to it does. Nothing here does I/O: what the
system is asked for, it is asked by the `Medium`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

# Ranges of one size class that are looked at before one of a larger class is taken: their sizes
# differ by up to a sixteenth, so the first may be too small.
_TRIES: Final = 8
# Warm ranges are joined to a chain if each is no smaller than this part of the whole ...
_CHAIN_PARTS: Final = 16
# ... and than so many pages: smaller ones cost more calls than new pages cost to make.
_CHAIN_PAGES_MIN: Final = 16


class Medium(Protocol):
    """A file with holes.

    Attributes:
        fd: What `sendfile` takes.
        page_bytes: The least that can be backed or punched.
        capacity_bytes: Its size, a multiple of `page_bytes`; most of it may be a hole.
    """

    fd: int
    page_bytes: int
    capacity_bytes: int

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes of a range, to be read, and written where it is backed."""
        ...

    def back(self, offset: int, size: int) -> bool:
        """Give a range room, so that it can be written; false, and no change, if there is none."""
        ...

    def fill(self, offset: int, size: int) -> bool:
        """`back` for a worker, which others need not wait for."""
        ...

    def punch(self, offset: int, size: int) -> None:
        """Give a range's room back to the system. Bytes on their way out stay as they were."""
        ...


class Extent:
    """A range of the medium that is in use.

    Attributes:
        start, pages: Where it is.
        backed_pages: How many of its pages, from the first on, can be written.
        holds: Replies under way that refer to it: until they are sent, it must not be written.
        copied_bytes: How much of it was sent by copying it.
        is_sent: Whether it was sent by reference. The system's buffers then refer to its pages for
            as long as the other side leaves them unread, so it is never written again.
        is_shared: Whether several strings have it, so that none of them may write it.
    """

    __slots__ = (
        "backed_pages",
        "copied_bytes",
        "extents",
        "holds",
        "is_sent",
        "is_shared",
        "pages",
        "start",
    )

    def __init__(self, extents: Extents, start: int, pages: int, backed_pages: int) -> None:
        self.extents = extents
        self.start = start
        self.pages = pages
        self.backed_pages = backed_pages
        self.holds = 0
        self.copied_bytes = 0
        self.is_sent = False
        self.is_shared = False

    def __del__(self) -> None:
        self.extents.take_back(self, 0)

    def offset(self) -> int:
        """Where it begins in the medium, in bytes."""
        return self.start * self.extents.page_bytes

    def size_bytes(self) -> int:
        """Its length."""
        return self.pages * self.extents.page_bytes

    def backed_bytes(self) -> int:
        """How much of it, from its beginning, can be written."""
        return self.backed_pages * self.extents.page_bytes

    def is_writable(self) -> bool:
        """Whether bytes of it that somebody has seen may be changed where they stand."""
        return not (self.holds or self.is_sent or self.is_shared)

    def view(self, offset: int, size: int) -> memoryview:
        """A part of its bytes."""
        return self.extents.medium.view(self.start * self.extents.page_bytes + offset, size)


class FreeRanges:
    """Free ranges of one state: by start, by end, and by size class.

    Attributes:
        sizes: Pages by start, in the order in which the ranges were freed.
        pages: Of all together.
    """

    __slots__ = ("_classes", "_ends", "_occupied", "pages", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.pages = 0
        self._ends: dict[int, int] = {}
        # Starts by class, in the order in which they were freed; and a bit for each class.
        self._classes: dict[int, dict[int, None]] = {}
        self._occupied = 0

    def add(self, start: int, pages: int) -> None:
        """Add a range, joined with those that it touches."""
        before = self._ends.get(start)
        if before is not None:
            pages += self._remove(before)
            start = before
        if start + pages in self.sizes:
            pages += self._remove(start + pages)
        self._insert(start, pages)

    def take(self, start: int, pages: int) -> None:
        """Take the first so many pages of the range that begins at `start`."""
        size = self._remove(start)
        if size > pages:
            self._insert(start + pages, size - pages)

    def find(self, pages: int) -> int:
        """The start of a range of at least so many pages, and not many more; -1: there is none.

        One that is hardly large enough may be missed where there are many of its class.
        """
        size_class = class_of(pages)
        if self._occupied >> size_class & 1:
            tries = _TRIES
            for start in reversed(self._classes[size_class]):
                if self.sizes[start] >= pages:
                    return start
                tries -= 1
                if tries == 0:
                    break
        above = self._occupied >> (size_class + 1)
        if above == 0:
            return -1
        return next(reversed(self._classes[size_class + (above & -above).bit_length()]))

    def largest(self) -> int:
        """The start of a range of the largest class; -1: there is none."""
        if self._occupied == 0:
            return -1
        return next(reversed(self._classes[self._occupied.bit_length() - 1]))

    def oldest(self) -> int:
        """The start of the range that was freed first; -1: there is none."""
        return next(iter(self.sizes), -1)

    def _insert(self, start: int, pages: int) -> None:
        self.sizes[start] = pages
        self._ends[start + pages] = start
        self.pages += pages
        size_class = class_of(pages)
        starts = self._classes.get(size_class)
        if starts is None:
            starts = self._classes[size_class] = {}
        if not starts:
            self._occupied |= 1 << size_class
        starts[start] = None

    def _remove(self, start: int) -> int:
        """Remove a range; its pages."""
        pages = self.sizes.pop(start)
        del self._ends[start + pages]
        self.pages -= pages
        size_class = class_of(pages)
        starts = self._classes[size_class]
        del starts[start]
        if not starts:
            self._occupied ^= 1 << size_class
        return pages

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        assert self.pages == sum(self.sizes.values())
        assert all(pages > 0 for pages in self.sizes.values())
        assert self._ends == {start + pages: start for start, pages in self.sizes.items()}
        # Two that touch would have been joined.
        assert not self._ends.keys() & self.sizes.keys()
        by_class = {c: set(starts) for c, starts in self._classes.items() if starts}
        expected: dict[int, set[int]] = {}
        for start, pages in self.sizes.items():
            expected.setdefault(class_of(pages), set()).add(start)
        assert by_class == expected
        assert self._occupied == sum(1 << size_class for size_class in by_class)


def class_of(pages: int) -> int:
    """The size class of a range: its own up to 31 pages, then 16 for each power of two."""
    shift = pages.bit_length() - 5
    return pages if shift <= 0 else (shift << 4) + (pages >> shift)


@dataclass(frozen=True, slots=True)
class ExtentFigures:
    """How the medium is used, in bytes.

    Attributes:
        used_bytes: Handed out, and backed.
        reserved_bytes: Handed out, and not backed: this takes addresses and no room.
        warm_bytes: Free, and kept for use.
        spent_bytes: Free, and to be punched.
        punched_bytes: Given back to the system so far.
    """

    used_bytes: int
    reserved_bytes: int
    warm_bytes: int
    spent_bytes: int
    punched_bytes: int


NO_EXTENTS: Final = ExtentFigures(0, 0, 0, 0, 0)


class Extents:
    """All extents of one medium.

    Attributes:
        page_bytes: The medium's.
        used_pages: Handed out.
        reserved_pages: Those of them that are not backed.
        allocations: How often something was asked for.
        warm_low_pages: The least that was warm since somebody last set it.
    """

    __slots__ = (
        "_capacity_pages",
        "_cold",
        "_punched_pages",
        "_spent",
        "_warm",
        "allocations",
        "medium",
        "page_bytes",
        "reserved_pages",
        "used_pages",
        "warm_low_pages",
    )

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.page_bytes = medium.page_bytes
        self._capacity_pages = medium.capacity_bytes // medium.page_bytes
        self._warm = FreeRanges()
        self._spent = FreeRanges()
        self._cold = FreeRanges()
        if self._capacity_pages:
            self._cold.add(0, self._capacity_pages)
        self._punched_pages = 0
        self.used_pages = 0
        self.reserved_pages = 0
        self.allocations = 0
        self.warm_low_pages = 0

    @property
    def warm_pages(self) -> int:
        """Free pages that are backed and may be used at once."""
        return self._warm.pages

    @property
    def spent_pages(self) -> int:
        """Free pages that are to be punched."""
        return self._spent.pages

    def figures(self) -> ExtentFigures:
        """How the medium is used."""
        page_bytes = self.page_bytes
        return ExtentFigures(
            used_bytes=(self.used_pages - self.reserved_pages) * page_bytes,
            reserved_bytes=self.reserved_pages * page_bytes,
            warm_bytes=self._warm.pages * page_bytes,
            spent_bytes=self._spent.pages * page_bytes,
            punched_bytes=self._punched_pages * page_bytes,
        )

    # --- handing out ---------------------------------------------------------------------------

    def allocate(self, size: int) -> list[Extent]:
        """Extents for `size` bytes, in whole pages, as few as possible; none if there is no room.

        They are warm as far as warm ranges will do. What of them is not backed must be, by `back`,
        before it is written.
        """
        self.allocations += 1
        pages = -(-size // self.page_bytes)
        start = self._warm.find(pages)
        if start >= 0:
            return [self._take_warm(start, pages)]
        chain: list[Extent] = []
        least = max(_CHAIN_PAGES_MIN, -(-pages // _CHAIN_PARTS))
        missing = self._chain_warm(pages, least, chain)
        missing = self._chain_cold(missing, chain)
        missing = self._chain_warm(missing, 1, chain)
        if missing and self._spent.pages >= missing:
            # Rather late than never: this is what `punch_spent` would soon have done.
            self.punch_spent(self._spent.pages)
            missing = self._chain_cold(missing, chain)
        # A chain that is dropped goes back.
        return [] if missing else chain

    def allocate_backed(self, size: int) -> list[Extent]:
        """`allocate`, all of it backed."""
        chain = self.allocate(size)
        for extent in chain:
            if not self.back(extent, extent.pages):
                return []
        return chain

    def _chain_warm(self, missing: int, least: int, chain: list[Extent]) -> int:
        """Add warm ranges of at least so many pages to a chain; how many pages are still missing.

        A rest that is smaller than `least` is taken from wherever it fits.
        """
        warm = self._warm
        while missing and warm.pages:
            start = warm.find(missing)
            if start < 0:
                start = warm.largest()
                if warm.sizes[start] < least:
                    break
            pages = min(missing, warm.sizes[start])
            chain.append(self._take_warm(start, pages))
            missing -= pages
        return missing

    def _chain_cold(self, missing: int, chain: list[Extent]) -> int:
        """Add cold ranges to a chain; how many pages are still missing."""
        cold = self._cold
        while missing and cold.pages:
            start = cold.find(missing)
            if start < 0:
                start = cold.largest()
            pages = min(missing, cold.sizes[start])
            cold.take(start, pages)
            self.used_pages += pages
            self.reserved_pages += pages
            chain.append(Extent(self, start, pages, 0))
            missing -= pages
        return missing

    def _take_warm(self, start: int, pages: int) -> Extent:
        warm = self._warm
        warm.take(start, pages)
        if warm.pages < self.warm_low_pages:
            self.warm_low_pages = warm.pages
        self.used_pages += pages
        return Extent(self, start, pages, pages)

    def back(self, extent: Extent, pages: int) -> bool:
        """Have the first so many pages of an extent backed; false if there is no room for it."""
        first = extent.backed_pages
        if pages <= first:
            return True
        page_bytes = self.page_bytes
        offset = (extent.start + first) * page_bytes
        if not self.medium.back(offset, (pages - first) * page_bytes):
            return False
        extent.backed_pages = pages
        self.reserved_pages -= pages - first
        return True

    def note_backed(self, extent: Extent) -> None:
        """A worker has had all of an extent backed (`Medium.fill`)."""
        self.reserved_pages -= extent.pages - extent.backed_pages
        extent.backed_pages = extent.pages

    def extend(self, extent: Extent, pages: int) -> bool:
        """Make a backed extent longer where it is, if what comes after it is free."""
        self.allocations += 1
        end = extent.start + extent.pages
        if extent.backed_pages < extent.pages:
            return False
        if self._warm.sizes.get(end, 0) >= pages:
            self._warm.take(end, pages)
            self.warm_low_pages = min(self.warm_low_pages, self._warm.pages)
        elif self._cold.sizes.get(end, 0) >= pages:
            if not self.medium.back(end * self.page_bytes, pages * self.page_bytes):
                return False
            self._cold.take(end, pages)
        else:
            return False
        self.used_pages += pages
        extent.pages += pages
        extent.backed_pages += pages
        return True

    # --- taking back ---------------------------------------------------------------------------

    def take_back(self, extent: Extent, pages: int) -> None:
        """Take back all of an extent but its first so many pages."""
        freed = extent.pages - pages
        if freed <= 0:
            return
        self.used_pages -= freed
        first = extent.start + pages
        backed = extent.backed_pages - pages
        if backed > 0:
            (self._spent if extent.is_sent else self._warm).add(first, backed)
            extent.backed_pages = pages
        else:
            backed = 0
        if freed > backed:
            self._cold.add(first + backed, freed - backed)
            self.reserved_pages -= freed - backed
        extent.pages = pages

    def punch_spent(self, pages_max: int) -> int:
        """Give spent pages back to the system, at most so many; how many it were."""
        return self._punch(self._spent, pages_max)

    def punch_warm(self, pages_max: int) -> int:
        """Give the warm pages back that were free for longest, at most so many; how many."""
        punched = self._punch(self._warm, pages_max)
        self.warm_low_pages = min(self.warm_low_pages, self._warm.pages)
        return punched

    def _punch(self, ranges: FreeRanges, pages_max: int) -> int:
        left = pages_max
        while left > 0 and ranges.pages:
            start = ranges.oldest()
            pages = min(left, ranges.sizes[start])
            self.medium.punch(start * self.page_bytes, pages * self.page_bytes)
            ranges.take(start, pages)
            self._cold.add(start, pages)
            left -= pages
        punched = pages_max - left
        self._punched_pages += punched
        return punched

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        states = (self._warm, self._spent, self._cold)
        end = 0
        for ranges in states:
            ranges.validate()
        for start, pages in sorted(pair for ranges in states for pair in ranges.sizes.items()):
            assert start >= end, "two free ranges overlap"
            end = start + pages
        assert end <= self._capacity_pages
        assert self.used_pages + sum(r.pages for r in states) == self._capacity_pages
        assert 0 <= self.warm_low_pages <= self._warm.pages
