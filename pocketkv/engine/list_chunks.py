"""The elements of a list, as it keeps them: in chunks. What they cost, and where one stands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from pocketkv.engine.sizes import bytes_object

if TYPE_CHECKING:
    from pocketkv.engine.regions import Evacuation, Survey

ITEM_BYTES: Final = 8
"""A place in a chunk."""

# Chunks that have no more than this together become one, after something was removed.
_MERGED_ITEMS_MAX: Final = 64
# Of many chunks, so many are looked at to tell about all of them.
_SAMPLED_CHUNKS: Final = 16
# The same for the compiled hot path, as a C number.
_ITEM_BYTES: Final = ITEM_BYTES


def item_cost(item: bytes) -> int:
    """What an element costs."""
    return _ITEM_BYTES + bytes_object(len(item))


def cost_of(items: list[bytes]) -> int:
    """What elements cost together."""
    cost = _ITEM_BYTES * len(items)
    for item in items:
        cost += bytes_object(len(item))
    return cost


def rough_cost(chunks: list[list[bytes]]) -> int:
    """About what the elements of all chunks cost."""
    step = 1 + len(chunks) // _SAMPLED_CHUNKS
    return step * sum([cost_of(chunk) for chunk in chunks[::step]])


def index_of(chunks: list[list[bytes]], item: bytes) -> int:
    """Where an element stands first; -1: nowhere."""
    before = 0
    for chunk in chunks:
        if item in chunk:
            return before + chunk.index(item)
        before += len(chunk)
    return -1


def positions_of(
    chunks: list[list[bytes]], item: bytes, rank: int, count: int, length_max: int
) -> list[int]:
    """Where an element stands, in ascending order.

    Args:
        chunks: All elements.
        item: The one.
        rank: From which occurrence on, 1 for the first.
        count: How many at most.
        length_max: How many elements are looked at at most.
    """
    found: list[int] = []
    before = 0
    for chunk in chunks:
        if item in chunk:
            for position, other in enumerate(chunk, before):
                if position >= length_max:
                    return found
                if other != item:
                    continue
                if rank > 1:
                    rank -= 1
                    continue
                found.append(position)
                if len(found) == count:
                    return found
        before += len(chunk)
        if before >= length_max:
            break
    return found


def positions_from_end(
    chunks: list[list[bytes]], item: bytes, rank: int, count: int, length_max: int
) -> list[int]:
    """`positions_of`, but from the end backwards."""
    found: list[int] = []
    position = sum(map(len, chunks))
    end = max(0, position - length_max)
    for chunk in reversed(chunks):
        if item not in chunk:
            position -= len(chunk)
        else:
            for other in reversed(chunk):
                position -= 1
                if position < end:
                    return found
                if other != item:
                    continue
                if rank > 1:
                    rank -= 1
                    continue
                found.append(position)
                if len(found) == count:
                    return found
        if position <= end:
            break
    return found


def without(chunk: list[bytes], item: bytes, count: int, backwards: bool) -> list[bytes]:
    """A chunk without up to `count` occurrences of an element, the last ones if `backwards`."""
    if chunk.count(item) <= count:
        return [other for other in chunk if other != item]
    kept = chunk[::-1] if backwards else chunk[:]
    for _ in range(count):
        kept.remove(item)
    return kept[::-1] if backwards else kept


def take_some(
    chunks: list[list[bytes]], number: int, place: int, items_max: int, size: int
) -> tuple[list[bytes], int, int]:
    """Elements from a place on, about `size` bytes but at least one; and the place behind them."""
    items: list[bytes] = []
    while number < len(chunks):
        chunk = chunks[number]
        while place < len(chunk):
            if size <= 0 or len(items) == items_max:
                return items, number, place
            item = chunk[place]
            items.append(item)
            size -= len(item) + _ITEM_BYTES
            place += 1
        number += 1
        place = 0
    return items, number, place


def merged(chunks: list[list[bytes]]) -> list[list[bytes]]:
    """Chunks without empty ones, of which small ones are joined; none of them changes."""
    joined: list[list[bytes]] = []
    for chunk in chunks:
        if not chunk:
            continue
        if joined and len(joined[-1]) + len(chunk) <= _MERGED_ITEMS_MAX:
            joined[-1] = joined[-1] + chunk
        else:
            joined.append(chunk)
    return joined


def survey_chunks(chunks: list[list[bytes]], survey: Survey, weight: int) -> None:
    """Count chunks and elements, or those of some chunks."""
    step = 1 + len(chunks) // _SAMPLED_CHUNKS
    for chunk in chunks[::step]:
        survey.count(chunk, sys.getsizeof(chunk), weight * step)
        for item in chunk:
            survey.count_bytes(item, weight * step)


def evacuated(chunk: list[bytes], evacuation: Evacuation) -> list[bytes] | None:
    """A chunk that lies elsewhere, with its elements; ``None`` if the attempts are used up before.

    It is the same one if only elements were in the way.
    """
    for position, item in enumerate(chunk):
        if evacuation.concerns(item):
            copy = evacuation.move_bytes(item)
            if copy is None:
                return None
            chunk[position] = copy
    return evacuation.move_list(chunk) if evacuation.concerns_list(chunk) else chunk
