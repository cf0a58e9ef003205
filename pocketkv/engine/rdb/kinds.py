"""The first byte of a dump: which type it is of, and in which form."""

from __future__ import annotations

from typing import Final

STRING: Final = 0
LIST: Final = 1
SET: Final = 2
# With scores as text.
OLD_SORTED_SET: Final = 3
HASH: Final = 4
SORTED_SET: Final = 5
HASH_ZIPMAP: Final = 9
LIST_ZIPLIST: Final = 10
SET_INTEGERS: Final = 11
SORTED_SET_ZIPLIST: Final = 12
HASH_ZIPLIST: Final = 13
# Of ziplists.
OLD_QUICKLIST: Final = 14
# Of before Redis 7.
OLD_STREAM: Final = 15
HASH_LISTPACK: Final = 16
SORTED_SET_LISTPACK: Final = 17
QUICKLIST: Final = 18
STREAM: Final = 19
# Redis 7.2 writes these.
SET_LISTPACK: Final = 20
NEWER_STREAM: Final = 21

# Of an intset: the bytes of each number, and how many there are.
INTSET_WIDTHS: Final = {2: "h", 4: "i", 8: "q"}
# Nodes of a quicklist: one element, or a listpack of them.
PLAIN_NODE: Final = 1
PACKED_NODE: Final = 2
