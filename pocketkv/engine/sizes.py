"""What a key and its value cost in memory, as it is accounted to their job.

The figures are CPython 3.11's on 64 bits: an object's own size rounded up to the allocator's 16
bytes, and its entry in a dict at an average fill. The process's RSS must agree with their sum.
"""

from __future__ import annotations

from typing import Final

# A bytes object without its contents (`sys.getsizeof(b"")`).
BYTES_OBJECT_BYTES: Final = 33
# A float.
FLOAT_OBJECT_BYTES: Final = 24
# An entry of a dict: hash, key and value pointer, its share of the index and of free entries.
DICT_ENTRY_BYTES: Final = 44
# An entry of a set at an average fill: hash and pointer.
SET_ENTRY_BYTES: Final = 32
# An expiry: an entry, the int object, and the place in the schedule.
EXPIRY_BYTES: Final = DICT_ENTRY_BYTES + 32 + SET_ENTRY_BYTES

# The same for the compiled hot path, as C numbers.
_BYTES_OBJECT_BYTES: Final = BYTES_OBJECT_BYTES
_DICT_ENTRY_BYTES: Final = DICT_ENTRY_BYTES


def bytes_object(length: int) -> int:
    """Memory of a bytes object of `length`."""
    return (_BYTES_OBJECT_BYTES + length + 15) & ~15


def key_cost(key: bytes) -> int:
    """Memory of a key in its table, without its value."""
    return _DICT_ENTRY_BYTES + ((_BYTES_OBJECT_BYTES + len(key) + 15) & ~15)


def allocated_bytes(size_bytes: int) -> int:
    """What an object of this size takes: CPython serves up to 512 bytes, then the C library."""
    return (size_bytes + 15) & ~15 if size_bytes <= 512 else (size_bytes + 23) & ~15


def dict_bytes(entries: int) -> int:
    """The size of a dict that was made for so many entries, as `sys.getsizeof` tells it."""
    if not entries:
        return 64
    slots = 8
    while slots * 2 // 3 < entries:
        slots *= 2
    index_bytes = 1 if slots < 256 else 2 if slots < 65536 else 4
    return 96 + index_bytes * slots + 24 * (slots * 2 // 3)
