"""Gives freed memory back to the system.

CPython and the C library keep what is freed for their own later use. A job that ends must free
its memory to the *system*, so large blocks are mapped one by one (and unmapped when freed), and
the C library is asked to trim the rest. A router has no use for that: it wants the same memory
again at once.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# Setting it fixes it: left alone, glibc raises the threshold to 32 MiB as blocks are freed, and
# values of that size then fragment the heap.
_MAPPED_FROM_BYTES: Final = 128 * 1024
# The largest that glibc takes; what is kept for later use is then limited by the other one.
_REUSED_UP_TO_BYTES: Final = 32 * 1024 * 1024
_KEPT_BYTES: Final = 64 * 1024 * 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# Looked up once: each time, ctypes makes objects that stay for a while, and one that is made while
# memory is given back keeps a whole stretch of it.
_C_LIBRARY: Final = ctypes.CDLL(None)
_mallopt: Final = getattr(_C_LIBRARY, "mallopt", None)
_malloc_trim: Final = getattr(_C_LIBRARY, "malloc_trim", None)
# Of the pointer to a dict's entries in the dict, after reference count, type, number of entries
# and version; and of that to a list's items, after reference count, type and number of items.
_ENTRIES_OFFSET: Final = 32
_ITEMS_OFFSET: Final = 24


def configure_allocator() -> bool:
    """Have large blocks mapped one by one; false where the C library cannot (musl)."""
    return _set_options(
        (_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES),
        (_M_TRIM_THRESHOLD, 4 * _MAPPED_FROM_BYTES),
        # One heap: worker threads must not keep free memory of their own.
        (_M_ARENA_MAX, 1),
    )


def keep_freed_memory() -> bool:
    """Have large blocks use again what was freed lately; false where the C library cannot.

    For a process through which large values only pass: to have each of them mapped anew, and
    filled with zeros by the system, costs as much as to receive it.
    """
    return _set_options((_M_MMAP_THRESHOLD, _REUSED_UP_TO_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES))


def _set_options(*options: tuple[int, int]) -> bool:
    if _mallopt is None:
        return False
    return all(_mallopt(option, value) == 1 for option, value in options)


def release_free_memory() -> bool:
    """Return unused memory to the system; false where the C library cannot.

    It takes the longer the more there is to return, up to some 100 ms for a gigabyte.
    """
    if _malloc_trim is None:
        return False
    _malloc_trim(0)
    return True


def resident_bytes() -> int:
    """This process's memory, but for what is a file's; quick enough to be asked often."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - ten times a second
        fields = file.read().split()
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


class CPythonAddresses:
    """Where in memory things lie that are no objects (`pocketkv.engine.regions.Addresses`).

    What this Python does not tell is taken to lie where the object does that it belongs to.
    """

    def __init__(self) -> None:
        self._tells_entries = _tells_entries()
        self._tells_items = _tells_items()

    def of_entries(self, table: dict[Any, Any]) -> int:
        """A dict's table of entries."""
        return _pointer(table, _ENTRIES_OFFSET) if self._tells_entries else id(table)

    def of_items(self, items: list[Any]) -> int:
        """A list's array of items."""
        return _pointer(items, _ITEMS_OFFSET) if self._tells_items else id(items)


def _pointer(item: object, offset: int) -> int:
    """A pointer that stands in an object."""
    return ctypes.c_size_t.from_address(id(item) + offset).value


def _tells_entries() -> bool:
    """Whether the pointer is where it is taken to be: all empty dicts share their no entries."""
    if sys.implementation.name != "cpython" or dict.__basicsize__ < _ENTRIES_OFFSET + 8:
        return False
    used, emptied = dict.fromkeys(range(100)), dict.fromkeys(range(100))
    emptied.clear()
    no_entries = _pointer({}, _ENTRIES_OFFSET)
    return _pointer(emptied, _ENTRIES_OFFSET) == no_entries != _pointer(used, _ENTRIES_OFFSET)


def _tells_items() -> bool:
    """The same of lists: an empty one has no array."""
    if sys.implementation.name != "cpython" or list.__basicsize__ < _ITEMS_OFFSET + 8:
        return False
    return _pointer([], _ITEMS_OFFSET) == 0 != _pointer([None], _ITEMS_OFFSET)
