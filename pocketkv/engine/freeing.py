"""What it takes to free values that nobody needs any more, in keys that are forgotten meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.cold import Cold
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.values import Entry, value_cost

if TYPE_CHECKING:
    from pocketkv.engine.cold import Journal
    from pocketkv.engine.database import Table

# 2**11 bytes are about as quick to give back as one more key is to forget.
_FREEING_SHIFT: Final = 11


def release_some(table: Table, journal: Journal, effort_max: int) -> int:
    """Free some of a table's values, and what they take on a medium; how much work it was."""
    effort = 0
    while table and effort < effort_max:
        _, value = table.popitem()
        effort += 1 + effort_of(value)
        if isinstance(value, Cold):
            journal.release(value)
    return effort


def effort_of(value: Entry) -> int:
    """What a value takes to be freed, beside what every key takes."""
    if isinstance(value, LargeString):
        # Its extents are only noted down as free here.
        return value.pieces
    if isinstance(value, Cold):
        return 0
    return value_cost(value) >> _FREEING_SHIFT
