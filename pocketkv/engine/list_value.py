"""The list type: elements in chunks of a bounded size.

Both ends are pushed to and popped from in constant time. Chunks between the first and the last one
are full as long as nothing was inserted or removed in the middle, so that the chunk of an index
is known at once; afterwards it is looked for chunk by chunk, from the nearer end.

No step takes long because the list is: it is freed, written, built and sent in pieces. While it is
being sent, it may change: what is sent is the list as it was in the beginning, since a chunk of it
is copied before it changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.engine.list_chunks import (
    cost_of,
    evacuated,
    item_cost,
    merged,
    rough_cost,
    survey_chunks,
    take_some,
    without,
)
from pocketkv.engine.packing import PayloadError, pack, unpack, unpack_some
from pocketkv.engine.sizes import bytes_object
from pocketkv.engine.values import Collection

if TYPE_CHECKING:
    from pocketkv.engine.regions import Evacuation, Survey

# Elements of a full chunk, as a power of two; a list of so many has no room left over.
_CHUNK_SHIFT: Final = 7
_CHUNK_ITEMS: Final = 1 << _CHUNK_SHIFT
_CHUNK_MASK: Final = _CHUNK_ITEMS - 1

# What is packed, built and freed at a time, each in about a millisecond.
_STEP_ITEMS: Final = 2048
_STEP_BYTES: Final = 512 * 1024
_SHED_BYTES: Final = 4 * 1024 * 1024
_SHED_CHUNKS: Final = 64
# What LTRIM drops is freed at once if it is no more.
_DROPPED_CHUNKS_MAX: Final = 16

# The object by itself.
_OBJECT_BYTES: Final = 112
# The object, its numbers, the list of chunks.
_BASE_BYTES: Final = 192
# A list, the room that it keeps to grow, its place among the chunks.
_CHUNK_BYTES: Final = 104

# What is written to media: the kind of value, and changes. Numbers are decimal.
_LIST: Final = b"l"
_PUSHED_LEFT: Final = b"<"
_PUSHED_RIGHT: Final = b">"
_POPPED_LEFT: Final = b"["
_POPPED_RIGHT: Final = b"]"
_SET: Final = b"="
_INSERTED: Final = b"+"
_REMOVED: Final = b"-"
_TRIMMED: Final = b"t"

# Stands in places before the first chunk; never changed.
_NO_CHUNK: Final[list[bytes]] = []


class ListValue(Collection):
    """A list of byte strings, empty at first. Indices count from 0 and are within the list."""

    __slots__ = ("_chunks", "_first", "_frozen", "_last", "_regular", "_room", "_size")

    type_name = "list"

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = _BASE_BYTES + _CHUNK_BYTES
        self._size = 0
        # No chunk is empty, unless it is the only one.
        self._first: list[bytes] = []
        # The same object as the first one, if there is one chunk.
        self._last = self._first
        self._chunks = [self._first]
        # Places before the first chunk, so that adding one in front moves none.
        self._room = 0
        # Whether all chunks but the first and the last one are full.
        self._regular = True
        # The chunks as they were when somebody began to send or write them; none of these changes.
        self._frozen: list[list[list[bytes]]] = []

    @classmethod
    def of(cls, items: list[bytes]) -> ListValue:
        """A list of these elements."""
        made = cls()
        for item in items:
            made.push_right(item)
        return made

    # --- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._size

    def encoding(self) -> str:
        """What OBJECT ENCODING answers: in Redis 7.0 a list has no other."""
        return "quicklist"

    def get(self, index: int) -> bytes:
        """The element at an index."""
        if index < len(self._first):
            return self._first[index]
        number, position = self._locate(index)
        return self._chunks[number][position]

    def items_from(self, start: int, count: int) -> list[bytes]:
        """So many elements from an index on; the list has them."""
        if count <= 0:
            return []
        if start + count <= len(self._first):
            return self._first[start : start + count]
        number, position = self._locate(start)
        chunks = self._chunks
        found = chunks[number][position : position + count]
        while len(found) < count:
            number += 1
            chunk = chunks[number]
            missing = count - len(found)
            found += chunk if len(chunk) <= missing else chunk[:missing]
        return found

    def items(self) -> list[bytes]:
        """All elements."""
        return self.items_from(0, self._size)

    def chunks(self) -> list[list[bytes]]:
        """All elements, as they are kept; to be looked at only."""
        return self._chunks[self._room :] if self._room else self._chunks

    def copy(self) -> ListValue:
        """A list of the same elements, to be changed on its own."""
        copied = ListValue()
        copied.size_bytes = self.size_bytes
        copied._size = self._size
        copied._chunks = [chunk[:] for chunk in self._chunks[self._room :]]
        copied._regular = self._regular
        copied._find_ends()
        return copied

    # --- the ends ------------------------------------------------------------------------------

    def push_left(self, item: bytes) -> None:
        """Add an element before all others."""
        if len(self._first) == _CHUNK_ITEMS:
            self._add_first()
        self._first.insert(0, item)
        self._size += 1
        self.size_bytes += item_cost(item)
        if self.changes is not None:
            self.changes.append(_PUSHED_LEFT + item)

    def push_right(self, item: bytes) -> None:
        """Add an element behind all others."""
        if len(self._last) == _CHUNK_ITEMS:
            self._add_last()
        self._last.append(item)
        self._size += 1
        self.size_bytes += item_cost(item)
        if self.changes is not None:
            self.changes.append(_PUSHED_RIGHT + item)

    def pop_left(self) -> bytes:
        """Remove and return the first element; there is one."""
        item = self._first.pop(0)
        self._size -= 1
        self.size_bytes -= item_cost(item)
        if self.changes is not None:
            self.changes.append(_POPPED_LEFT)
        if not self._first and self._size:
            self._drop_first()
        return item

    def pop_right(self) -> bytes:
        """Remove and return the last element; there is one."""
        item = self._last.pop()
        self._size -= 1
        self.size_bytes -= item_cost(item)
        if self.changes is not None:
            self.changes.append(_POPPED_RIGHT)
        if not self._last and self._size:
            self._drop_last()
        return item

    def _add_first(self) -> None:
        chunks = self._chunks
        if self._room == 0:
            self._room = 1 + (len(chunks) >> 1)
            chunks[:0] = [_NO_CHUNK] * self._room
        self._room -= 1
        self._first = chunks[self._room] = []
        self.size_bytes += _CHUNK_BYTES

    def _add_last(self) -> None:
        self._last = []
        self._chunks.append(self._last)
        self.size_bytes += _CHUNK_BYTES

    def _drop_first(self) -> None:
        """Leave the first chunk, which is empty now; there are others."""
        chunks = self._chunks
        chunks[self._room] = _NO_CHUNK
        self._room += 1
        self._left_chunk()
        if self._frozen and len(chunks) - self._room > 1:
            chunks[self._room] = chunks[self._room][:]
        self._first = chunks[self._room]

    def _drop_last(self) -> None:
        """Leave the last chunk, which is empty now; there are others."""
        chunks = self._chunks
        chunks.pop()
        self._left_chunk()
        if self._frozen and len(chunks) - self._room > 1:
            chunks[-1] = chunks[-1][:]
        self._last = chunks[-1]

    def _left_chunk(self) -> None:
        """There is one chunk less."""
        self.size_bytes -= _CHUNK_BYTES
        chunks = self._chunks
        if self._room * 2 > len(chunks):
            del chunks[: self._room]
            self._room = 0
        if len(chunks) - self._room <= 2:
            self._regular = True

    # --- anywhere ------------------------------------------------------------------------------

    def replace(self, index: int, item: bytes) -> None:
        """Put an element in place of another."""
        number, position = self._locate(index)
        chunk = self._own(number)
        self.size_bytes += bytes_object(len(item)) - bytes_object(len(chunk[position]))
        chunk[position] = item
        if self.changes is not None:
            self.changes.append(b"%b%d:%b" % (_SET, index, item))

    def insert(self, index: int, item: bytes) -> None:
        """Put an element before the one at an index, or at the end."""
        if index == self._size:
            self.push_right(item)
            return
        if index == 0:
            self.push_left(item)
            return
        number, position = self._locate(index)
        chunk = self._own(number)
        chunk.insert(position, item)
        if len(chunk) > _CHUNK_ITEMS:
            half = _CHUNK_ITEMS // 2
            self._chunks[number : number + 1] = [chunk[:half], chunk[half:]]
            self.size_bytes += _CHUNK_BYTES
            self._regular = False
            self._find_ends()
        self._size += 1
        self.size_bytes += item_cost(item)
        if self.changes is not None:
            self.changes.append(b"%b%d:%b" % (_INSERTED, index, item))

    def remove(self, item: bytes, count: int) -> int:
        """Remove occurrences of an element: the first `count`, the last if negative, all if 0.

        How many were removed.
        """
        left = abs(count) or self._size
        chunks = self._chunks
        backwards = count < 0
        numbers = range(self._room, len(chunks))
        touched: list[int] = []
        before = self._size
        for number in reversed(numbers) if backwards else numbers:
            chunk = chunks[number]
            if item not in chunk:
                continue
            kept = without(chunk, item, left, backwards)
            removed = len(chunk) - len(kept)
            left -= removed
            self._size -= removed
            chunks[number] = kept
            touched.append(number)
            if left == 0:
                break
        if not touched:
            return 0
        removed = before - self._size
        self.size_bytes -= removed * item_cost(item)
        if self.changes is not None:
            self.changes.append(b"%b%d:%b" % (_REMOVED, count, item))
        if max(touched) > self._room and min(touched) < len(chunks) - 1:
            self._regular = False
        # With their neighbours, which may have become small before.
        self._merge(min(touched) - 1, max(touched) + 2)
        return removed

    def trim(self, start: int, count: int) -> Collection | None:
        """Leave only so many elements from an index on; `start + count` is within the list.

        Returns:
            What was dropped, if that takes long to be freed, to be shed.
        """
        if count == self._size:
            return None
        if self.changes is not None:
            self.changes.append(b"%b%d:%d" % (_TRIMMED, start, count))
        if count == 0:
            dropped = self._chunks[self._room :]
            self._start_over([[]])
            return _to_shed(dropped)
        first, skipped = self._locate(start)
        last, end = self._locate(start + count - 1)
        chunks = self._chunks
        kept = chunks[first : last + 1]
        dropped = chunks[self._room : first] + chunks[last + 1 :]
        cut = [kept[0][:skipped], kept[-1][end + 1 :]]
        kept[-1] = kept[-1][: end + 1]
        kept[0] = kept[0][skipped:]
        # Of what stays and what goes, the less is looked at.
        if count * 2 < self._size:
            size_bytes = _BASE_BYTES + _CHUNK_BYTES * len(kept) + sum(map(cost_of, kept))
        else:
            size_bytes = self.size_bytes - _CHUNK_BYTES * len(dropped)
            size_bytes -= sum(map(cost_of, dropped + cut))
        regular = self._regular
        self._start_over(kept)
        self._size = count
        self._regular = regular or len(kept) <= 2
        self.size_bytes = size_bytes
        return _to_shed(dropped)

    def _start_over(self, chunks: list[list[bytes]]) -> None:
        """Have other chunks; their number of elements and cost are the caller's to tell."""
        self._chunks = chunks
        self._room = 0
        self._regular = True
        self._size = 0
        self.size_bytes = _BASE_BYTES + _CHUNK_BYTES
        self._find_ends()

    def _find_ends(self) -> None:
        """Know the first and the last chunk, which are changed in place."""
        chunks = self._chunks
        if self._frozen:
            chunks[self._room] = chunks[self._room][:]
            if len(chunks) - self._room > 1:
                chunks[-1] = chunks[-1][:]
        self._first = chunks[self._room]
        self._last = chunks[-1]
        if len(chunks) - self._room <= 2:
            self._regular = True

    def _own(self, number: int) -> list[bytes]:
        """A chunk, to be changed."""
        chunk = self._chunks[number]
        if not self._frozen or chunk is self._first or chunk is self._last:
            return chunk
        chunk = self._chunks[number] = chunk[:]
        return chunk

    def _merge(self, start: int, stop: int) -> None:
        """Of some chunks by number, leave out empty ones and join small ones."""
        before = len(self._chunks) - self._room
        start = max(start, self._room)
        self._chunks[start:stop] = merged(self._chunks[start:stop])
        del self._chunks[: self._room]
        self._room = 0
        if not self._chunks:
            self._chunks.append([])
        self.size_bytes += _CHUNK_BYTES * (len(self._chunks) - before)
        self._find_ends()

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of an element's chunk, and its place there."""
        number = self._room
        if index < len(self._first):
            return number, index
        if self._regular:
            index -= len(self._first)
            return number + 1 + (index >> _CHUNK_SHIFT), index & _CHUNK_MASK
        chunks = self._chunks
        if index * 2 < self._size:
            while index >= len(chunks[number]):
                index -= len(chunks[number])
                number += 1
            return number, index
        number = len(chunks) - 1
        from_end = self._size - index
        while from_end > len(chunks[number]):
            from_end -= len(chunks[number])
            number -= 1
        return number, len(chunks[number]) - from_end

    # --- for media ------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """The kind of value, then the elements packed."""
        return b"".join(self.payload_pieces())

    @classmethod
    def of_payload(cls, payload: bytes) -> ListValue:
        """The list that was stored.

        Raises:
            PayloadError: It is none.
        """
        *_, made = cls.building(payload)
        assert isinstance(made, ListValue)  # The last one is the value.
        return made

    def payload_pieces(self) -> Iterator[bytes]:
        """The kind, then some elements at a time."""
        yield _LIST
        chunks = self.chunks()
        number = place = 0
        while number < len(chunks):
            items, number, place = take_some(chunks, number, place, _STEP_ITEMS, _STEP_BYTES)
            yield pack(items)

    @classmethod
    def building(cls, payload: bytes) -> Iterator[Collection | None]:
        """The list that was stored, some elements at a time.

        Raises:
            PayloadError: It is none.
        """
        if payload[:1] != _LIST:
            raise PayloadError("not a list")
        made = cls()
        position = 1
        while position < len(payload):
            items, position = unpack_some(payload, position, _STEP_ITEMS, _STEP_BYTES)
            for item in items:
                made.push_right(item)
            yield None
        yield made

    def shed(self) -> bool:
        """Free some chunks."""
        chunks = self._chunks
        # What is being sent of it stays.
        self._first = self._last = _NO_CHUNK
        mean_bytes = self.size_bytes // max(1, len(chunks))
        del chunks[-max(1, min(_SHED_CHUNKS, _SHED_BYTES // mean_bytes)) :]
        self.size_bytes = mean_bytes * len(chunks)
        return bool(chunks)

    def freeze(self) -> list[list[bytes]]:
        """The chunks; from now on they are copied before they change."""
        frozen = self.chunks()[:]
        self._frozen.append(frozen)
        self._find_ends()
        return frozen

    def part_of(
        self, frozen: list[list[bytes]] | None, cursor: int, size: int
    ) -> tuple[int, bytes]:
        """Some elements of the list as it was when it was frozen."""
        assert frozen is not None  # The parts begin with the first.
        number, place = cursor >> (_CHUNK_SHIFT + 1), cursor & (2 * _CHUNK_ITEMS - 1)
        items, number, place = take_some(frozen, number, place, len(frozen) * _CHUNK_ITEMS, size)
        if number == len(frozen):
            return 0, _LIST + pack(items)
        return (number << (_CHUNK_SHIFT + 1)) + place, _LIST + pack(items)

    def thaw(self, frozen: list[list[bytes]]) -> None:
        """Some chunks may change again, if nobody else has them."""
        for index, other in enumerate(self._frozen):
            if other is frozen:
                del self._frozen[index]
                return

    def add_part(self, payload: bytes) -> None:
        """More elements, behind those that came before."""
        if payload[:1] != _LIST:
            raise PayloadError("not a part of a list")
        for item in unpack(payload[1:]):
            self.push_right(item)

    def apply_change(self, change: bytes) -> None:
        """Elements that were pushed, popped, set, inserted, removed, or trimmed."""
        kind, rest = change[:1], change[1:]
        if kind == _PUSHED_LEFT:
            self.push_left(rest)
        elif kind == _PUSHED_RIGHT:
            self.push_right(rest)
        elif kind in (_POPPED_LEFT, _POPPED_RIGHT):
            if not self._size:
                raise PayloadError("a change to another list")
            if kind == _POPPED_LEFT:
                self.pop_left()
            else:
                self.pop_right()
        else:
            self._apply_inner(kind, rest)

    def _apply_inner(self, kind: bytes, rest: bytes) -> None:
        digits, _, item = rest.partition(b":")
        number = int(digits)
        if kind == _REMOVED:
            self.remove(item, number)
        elif kind == _TRIMMED and number + int(item) <= self._size:
            self.trim(number, int(item))
        elif kind == _SET and number < self._size:
            self.replace(number, item)
        elif kind == _INSERTED and number <= self._size:
            self.insert(number, item)
        else:
            raise PayloadError("a change to another list")

    # --- where it lies in memory ---------------------------------------------------------------

    def renewed(self) -> ListValue:
        """Another object that holds the very same."""
        renewed = ListValue.__new__(ListValue)
        renewed.size_bytes = self.size_bytes
        renewed.changes = self.changes
        renewed._chunks = self._chunks
        renewed._first = self._first
        renewed._last = self._last
        renewed._room = self._room
        renewed._size = self._size
        renewed._regular = self._regular
        # So that who sends parts of this one goes on with what was.
        renewed._frozen = self._frozen
        return renewed

    def survey(self, survey: Survey, weight: int) -> None:
        """Count the parts and the elements of some chunks."""
        survey.count(self, _OBJECT_BYTES, weight)
        survey.count(self._chunks, sys.getsizeof(self._chunks), weight)
        survey_chunks(self.chunks(), survey, weight)

    def evacuate(self, evacuation: Evacuation, place: int) -> int:
        """Move the list of chunks, then the elements, chunk by chunk."""
        if place == 0 and evacuation.concerns_list(self._chunks):
            chunks = evacuation.move_list(self._chunks)
            if chunks is None:
                return 0
            self._chunks = chunks
        while place < len(self._chunks) - self._room:
            if not self._evacuate_chunk(evacuation, self._room + place):
                return place
            # Not before, or a large chunk would never have its turn.
            evacuation.attempts -= 1 + (len(self._chunks[self._room + place]) >> 2)
            place += 1
            if evacuation.attempts <= 0 and place < len(self._chunks) - self._room:
                return place
        return -1

    def _evacuate_chunk(self, evacuation: Evacuation, number: int) -> bool:
        """Move the elements of a chunk, and it; false if the attempts are used up before."""
        chunk = self._chunks[number]
        fresh = evacuated(chunk, evacuation)
        if fresh is None:
            return False
        if fresh is not chunk:
            self._chunks[number] = fresh
            if chunk is self._first:
                self._first = fresh
            if chunk is self._last:
                self._last = fresh
        return True

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        chunks = self.chunks()
        assert chunks
        assert self._first is chunks[0]
        assert self._last is chunks[-1]
        assert all(chunk is _NO_CHUNK for chunk in self._chunks[: self._room])
        assert not _NO_CHUNK
        assert len(chunks) == 1 or all(chunks)
        assert all(len(chunk) <= _CHUNK_ITEMS for chunk in chunks)
        assert sum(map(len, chunks)) == self._size
        if self._regular:
            assert all(len(chunk) == _CHUNK_ITEMS for chunk in chunks[1:-1])
        assert self._room * 2 <= len(self._chunks)
        cost = sum(_CHUNK_BYTES + cost_of(chunk) for chunk in chunks)
        assert self.size_bytes == _BASE_BYTES + cost


def _to_shed(chunks: list[list[bytes]]) -> ListValue | None:
    """A list to be freed in steps and nothing else; ``None`` if that is not worth the while."""
    if len(chunks) <= _DROPPED_CHUNKS_MAX:
        return None
    dropped = ListValue()
    dropped._chunks = chunks
    dropped.size_bytes = rough_cost(chunks)
    return dropped
