"""A medium without a file, for tests: it knows what is backed, and what was written to a hole."""

from __future__ import annotations


class FakeMedium:
    """Bytes in memory that behave as a file with holes does.

    Attributes:
        room_pages: How many pages can be backed at a time; ``None``: as many as there are.
        backed: One byte per page, 1 where it is backed.
        punches: What was punched, as first page and number of pages.
    """

    fd = 99
    page_bytes = 64

    def __init__(self, pages: int, *, page_bytes: int = 64, room_pages: int | None = None) -> None:
        self.page_bytes = page_bytes
        self.capacity_bytes = pages * page_bytes
        self.room_pages = room_pages
        self.backed = bytearray(pages)
        self.punches: list[tuple[int, int]] = []
        self._bytes = bytearray(self.capacity_bytes)

    def view(self, offset: int, size: int) -> memoryview:
        """A range's bytes; those of a hole may not be looked at, since nobody may write there."""
        first = offset // self.page_bytes
        last = -(-(offset + size) // self.page_bytes)
        assert 0 <= offset <= offset + size <= self.capacity_bytes
        assert 0 not in self.backed[first:last], "a hole"
        return memoryview(self._bytes)[offset : offset + size]

    def back(self, offset: int, size: int) -> bool:
        """Back a range."""
        first, pages = self._pages(offset, size)
        assert 1 not in self.backed[first : first + pages], "backed already"
        if self.room_pages is not None and sum(self.backed) + pages > self.room_pages:
            return False
        self.backed[first : first + pages] = b"\x01" * pages
        return True

    def fill(self, offset: int, size: int) -> bool:
        """The same."""
        return self.back(offset, size)

    def punch(self, offset: int, size: int) -> None:
        """Make a range a hole."""
        first, pages = self._pages(offset, size)
        assert 0 not in self.backed[first : first + pages], "a hole already"
        self.backed[first : first + pages] = bytes(pages)
        self._bytes[offset : offset + size] = bytes(size)
        self.punches.append((first, pages))

    def _pages(self, offset: int, size: int) -> tuple[int, int]:
        assert size > 0
        assert offset % self.page_bytes == 0
        assert size % self.page_bytes == 0
        assert offset + size <= self.capacity_bytes
        return offset // self.page_bytes, size // self.page_bytes
