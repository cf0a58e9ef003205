"""Pairs of a score and a member in order, with their ranks: what a sorted set is sorted by.

The pairs are in chunks of a few hundred: a list of scores, and a list of the members that have
them. Finding a place takes a binary search over the chunks' last scores, which stand side by side,
and one within a chunk. Putting something there moves a part of two short arrays, so no step takes
longer than a chunk. Ranks
come from an index of the chunks' sizes (a Fenwick tree), which is made when a rank is first asked
for, kept up to date by each change, and made anew after chunks were split or merged.

A position is a number: the chunk's, and the offset in it in the lowest bits.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from pocketkv.engine.segments import move_numbers
from pocketkv.engine.sizes import FLOAT_OBJECT_BYTES

if TYPE_CHECKING:
    from pocketkv.engine.regions import Evacuation, Survey
    from pocketkv.engine.segments import SegmentMap

# Pairs of a chunk: above the first it is split, below the second it is merged with a neighbour if
# both together have no more than the third, so that chunks of a steady size do neither.
_CHUNK_MAX: Final = 512
_CHUNK_MIN: Final = 128
_MERGED_MAX: Final = 384

_OFFSET_BITS: Final = 10
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1

# Chunks that are freed at a time, in about a millisecond, and those that a survey looks at.
_SHED_CHUNKS: Final = 16
_SURVEYED_CHUNKS: Final = 8

# Of so many chunks the last scores are moved; those of more are a region of memory by themselves.
_TOPS_MOVED_MAX: Final = 4096

# The object by itself, and its attributes that are numbers.
_OBJECT_BYTES: Final = 80
_NUMBERS: Final = ("size", "size_bytes")
# The object, its numbers, its two lists of chunks.
_BASE_BYTES: Final = 384
# Two lists, their places in the lists of chunks, a last score.
_CHUNK_BYTES: Final = 172
# A float, and two places in a chunk, with the room that lists keep to grow.
PAIR_BYTES: Final = 32 + 18
# The same for the compiled hot path, as a C number.
_PAIR_BYTES: Final = PAIR_BYTES

_Item = TypeVar("_Item")


class Ranking:
    """Pairs in ascending order: by score, those of one score by member.

    The same float should be the score here and wherever else it is kept, since it then costs
    memory once.

    Attributes:
        size: How many pairs there are.
        size_bytes: What they cost, without the members.
    """

    __slots__ = ("_index", "_members", "_scores", "_tops", "size", "size_bytes")

    def __init__(self) -> None:
        # There is always a chunk, and none is empty unless it is the only one.
        self._scores: list[list[float]] = [[]]
        self._members: list[list[bytes]] = [[]]
        # A Fenwick tree of the chunks' sizes, its first number unused; ``None``: to be made.
        self._index: array[int] | None = None
        # The last score of each chunk, and room for more; ``None`` while there is one chunk.
        self._tops: array[float] | None = None
        self.size = 0
        self.size_bytes = _BASE_BYTES + _CHUNK_BYTES

    def copy(self) -> Ranking:
        """The same pairs, to be changed on their own."""
        copied = Ranking()
        copied._scores = [scores[:] for scores in self._scores]
        copied._members = [members[:] for members in self._members]
        copied._make_tops()
        copied.size = self.size
        copied.size_bytes = self.size_bytes
        return copied

    # --- finding -------------------------------------------------------------------------------

    def _find(self, score: float, member: bytes) -> int:
        """The position of the first pair that is not less than this one."""
        low = 0
        high = len(self._scores) - 1
        tops = self._tops
        while low < high:
            assert tops is not None  # There are several chunks.
            middle = (low + high) >> 1
            other = tops[middle]
            if other < score:
                low = middle + 1
            elif other > score:
                high = middle
            else:
                members = self._members[middle]
                if members[-1] < member:
                    low = middle + 1
                else:
                    high = middle
        scores = self._scores[low]
        members = self._members[low]
        start = 0
        end = len(scores)
        while start < end:
            middle = (start + end) >> 1
            other = scores[middle]
            if other < score:
                start = middle + 1
            elif other > score or not members[middle] < member:
                end = middle
            else:
                start = middle + 1
        return low << _OFFSET_BITS | start

    def rank(self, score: float, member: bytes) -> int:
        """How many pairs are less than this one."""
        return self._rank_of(self._find(score, member))

    def rank_of_score(self, score: float, is_after: bool) -> int:
        """How many pairs have a lower score; with `is_after`, how many have no higher one."""
        low = 0
        high = len(self._scores) - 1
        tops = self._tops
        while low < high:
            assert tops is not None  # There are several chunks.
            middle = (low + high) >> 1
            other = tops[middle]
            if other < score or (is_after and other == score):
                low = middle + 1
            else:
                high = middle
        scores = self._scores[low]
        start = 0
        end = len(scores)
        while start < end:
            middle = (start + end) >> 1
            other = scores[middle]
            if other < score or (is_after and other == score):
                start = middle + 1
            else:
                end = middle
        return self._rank_of(low << _OFFSET_BITS | start)

    def rank_of_member(self, member: bytes, is_after: bool) -> int:
        """`rank_of_score` by members, if all have one score; otherwise the answer is any."""
        low = 0
        high = len(self._members) - 1
        while low < high:
            middle = (low + high) >> 1
            other = self._members[middle][-1]
            if other < member or (is_after and other == member):
                low = middle + 1
            else:
                high = middle
        members = self._members[low]
        start = 0
        end = len(members)
        while start < end:
            middle = (start + end) >> 1
            other = members[middle]
            if other < member or (is_after and other == member):
                start = middle + 1
            else:
                end = middle
        return self._rank_of(low << _OFFSET_BITS | start)

    # --- ranks ---------------------------------------------------------------------------------

    def _rank_of(self, position: int) -> int:
        chunk = position >> _OFFSET_BITS
        rank = position & _OFFSET_MASK
        if chunk == 0:
            return rank
        if self._index is None:
            self._make_index()
        index = self._index
        assert index is not None
        while chunk > 0:
            rank += index[chunk]
            chunk &= chunk - 1
        return rank

    def _position_of(self, rank: int) -> int:
        """The position of a rank that is less than `size`."""
        first = len(self._scores[0])
        if rank < first:
            return rank
        if self._index is None:
            self._make_index()
        index = self._index
        assert index is not None
        count = len(self._scores)
        chunk = 0
        step = 1
        while step * 2 <= count:
            step *= 2
        while step:
            following = chunk + step
            if following <= count and index[following] <= rank:
                chunk = following
                rank -= index[following]
            step >>= 1
        return chunk << _OFFSET_BITS | rank

    def _make_index(self) -> None:
        count = len(self._scores)
        index = array("q", bytes(8 * (count + 1)))
        self._index = index
        self._sum_up(count)

    def _sum_up(self, count: int) -> None:
        """Fill the index of so many chunks."""
        index = self._index
        assert index is not None
        for number in range(1, count + 1):
            index[number] += len(self._scores[number - 1])
            above = number + (number & -number)
            if above <= count:
                index[above] += index[number]

    def _count(self, chunk: int, change: int) -> None:
        """A chunk got one more or one less."""
        index = self._index
        if index is None:
            return
        count = len(self._scores)
        number = chunk + 1
        while number <= count:
            index[number] += change
            number += number & -number

    # --- last scores ---------------------------------------------------------------------------

    def _make_tops(self) -> None:
        """Note the last score of each chunk, and reserve room for some more."""
        count = len(self._scores)
        if count == 1:
            self._tops = None
            return
        tops = array("d", bytes(8 * (count + (count >> 2) + 2)))
        self._tops = tops
        for number in range(count):
            tops[number] = self._scores[number][-1]

    def _set_top(self, chunk: int) -> None:
        """The end of a chunk, which is not empty, has changed."""
        if self._tops is not None:
            self._tops[chunk] = self._scores[chunk][-1]

    def _move_tops(self, chunk: int, more: int) -> None:
        """So many chunks came in before this one, which is where it is now; negative: went."""
        count = len(self._scores)
        tops = self._tops
        if tops is None or count > len(tops):
            self._make_tops()
        elif more > 0:
            for number in range(count - 1, chunk - 1, -1):
                tops[number] = tops[number - more]
        else:
            for number in range(chunk, count):
                tops[number] = tops[number - more]

    # --- changing ------------------------------------------------------------------------------

    def add(self, score: float, member: bytes) -> None:
        """Add a pair that is not there."""
        position = self._find(score, member)
        chunk = position >> _OFFSET_BITS
        offset = position & _OFFSET_MASK
        scores = self._scores[chunk]
        members = self._members[chunk]
        self.size += 1
        self.size_bytes += _PAIR_BYTES
        if len(scores) < _CHUNK_MAX:
            scores.insert(offset, score)
            members.insert(offset, member)
            self._count(chunk, 1)
            if offset == len(scores) - 1:
                self._set_top(chunk)
        elif offset == len(scores) and chunk + 1 == len(self._scores):
            # In ascending order, as times come: no chunk stays half full.
            self._scores.append([score])
            self._members.append([member])
            self._chunks_changed(1)
            self._move_tops(chunk + 2, 1)
            self._set_top(chunk + 1)
        else:
            scores.insert(offset, score)
            members.insert(offset, member)
            self._split(chunk)

    def remove(self, score: float, member: bytes) -> bytes:
        """Remove a pair that is there; the very member that was held."""
        position = self._find(score, member)
        return self._remove_at(position >> _OFFSET_BITS, position & _OFFSET_MASK)

    def move(self, old: float, score: float, member: bytes) -> None:
        """Give a member that is there another score."""
        position = self._find(old, member)
        chunk = position >> _OFFSET_BITS
        offset = position & _OFFSET_MASK
        scores = self._scores[chunk]
        if 0 < offset < len(scores) - 1 and scores[offset - 1] < score < scores[offset + 1]:
            scores[offset] = score
            return
        self.add(score, self._remove_at(chunk, offset))

    def pop_first(self) -> bytes:
        """Remove the least pair; its member."""
        return self._remove_at(0, 0)

    def pop_last(self) -> bytes:
        """Remove the greatest pair; its member."""
        chunk = len(self._scores) - 1
        return self._remove_at(chunk, len(self._scores[chunk]) - 1)

    def _remove_at(self, chunk: int, offset: int) -> bytes:
        scores = self._scores[chunk]
        members = self._members[chunk]
        member = members[offset]
        del scores[offset]
        del members[offset]
        self.size -= 1
        self.size_bytes -= _PAIR_BYTES
        self._count(chunk, -1)
        if offset == len(scores) > 0:
            self._set_top(chunk)
        if len(scores) < _CHUNK_MIN and len(self._scores) > 1:
            self._shrunk(chunk)
        return member

    def _shrunk(self, chunk: int) -> None:
        """Drop a chunk that is empty, merge one that is small with a neighbour that is not full."""
        size = len(self._scores[chunk])
        if size == 0:
            del self._scores[chunk]
            del self._members[chunk]
            self._chunks_changed(-1)
            self._move_tops(chunk, -1)
            return
        first = chunk if chunk + 1 < len(self._scores) else chunk - 1
        if len(self._scores[first]) + len(self._scores[first + 1]) > _MERGED_MAX:
            return
        self._scores[first].extend(self._scores.pop(first + 1))
        self._members[first].extend(self._members.pop(first + 1))
        self._chunks_changed(-1)
        self._move_tops(first + 1, -1)
        self._set_top(first)

    def _split(self, chunk: int) -> None:
        scores = self._scores[chunk]
        members = self._members[chunk]
        half = len(scores) >> 1
        # Both anew, so that neither keeps room for what went to the other.
        self._scores[chunk] = scores[:half]
        self._members[chunk] = members[:half]
        self._scores.insert(chunk + 1, scores[half:])
        self._members.insert(chunk + 1, members[half:])
        self._chunks_changed(1)
        self._move_tops(chunk + 1, 1)
        self._set_top(chunk)
        self._set_top(chunk + 1)

    def _chunks_changed(self, more: int) -> None:
        self._index = None
        self.size_bytes += more * _CHUNK_BYTES

    def remove_between(self, start: int, stop: int) -> list[bytes]:
        """Remove the pairs from rank `start` to before `stop`; their members."""
        if start >= stop:
            return []
        position = self._position_of(start)
        chunk = position >> _OFFSET_BITS
        offset = position & _OFFSET_MASK
        count = stop - start
        removed = self._cut(chunk, offset, offset + count)
        following = chunk + 1
        while len(removed) < count and len(removed) + len(self._members[following]) <= count:
            removed += self._members[following]
            following += 1
        gone = following - chunk - 1
        del self._scores[chunk + 1 : following]
        del self._members[chunk + 1 : following]
        if len(removed) < count:
            removed += self._cut(chunk + 1, 0, count - len(removed))
        self.size -= count
        self.size_bytes -= count * _PAIR_BYTES
        self._chunks_changed(-gone)
        self._move_tops(chunk + 1, -gone)
        if self._scores[chunk]:
            self._set_top(chunk)
        if len(self._scores[chunk]) < _CHUNK_MIN and len(self._scores) > 1:
            self._shrunk(chunk)
        return removed

    def _cut(self, chunk: int, start: int, end: int) -> list[bytes]:
        """Take a part out of a chunk, from offset to offset; its members."""
        members = self._members[chunk]
        removed = members[start:end]
        del members[start:end]
        del self._scores[chunk][start:end]
        return removed

    def fill(self, scores: list[float], members: list[bytes]) -> None:
        """Have these pairs, which are in order, and no others."""
        half = _CHUNK_MAX // 2
        firsts = range(0, max(1, len(scores)), half)
        self._scores = [scores[first : first + half] for first in firsts]
        self._members = [members[first : first + half] for first in firsts]
        self._index = None
        self._make_tops()
        self.size = len(scores)
        self.size_bytes = _BASE_BYTES + len(firsts) * _CHUNK_BYTES + self.size * _PAIR_BYTES

    # --- reading -------------------------------------------------------------------------------

    def members_between(self, start: int, stop: int) -> list[bytes]:
        """The members from rank `start` to before `stop`, both within `size`."""
        return self._between(self._members, start, stop)

    def scores_between(self, start: int, stop: int) -> list[float]:
        """The scores of `members_between`."""
        return self._between(self._scores, start, stop)

    def _between(self, chunks: list[list[_Item]], start: int, stop: int) -> list[_Item]:
        if start >= stop:
            return []
        position = self._position_of(start)
        chunk = position >> _OFFSET_BITS
        offset = position & _OFFSET_MASK
        items = chunks[chunk]
        found = items[offset : offset + stop - start]
        missing = stop - start - len(found)
        while missing > 0:
            chunk += 1
            items = chunks[chunk]
            if len(items) <= missing:
                found += items
            else:
                found += items[:missing]
            missing -= len(items)
        return found

    def chunks(self) -> Iterator[tuple[list[float], list[bytes]]]:
        """All scores and members in order, some hundred at a time; to be read only."""
        return zip(self._scores, self._members, strict=True)

    # --- memory --------------------------------------------------------------------------------

    def shed(self) -> bool:
        """Free some of what nobody needs any more; whether there is more."""
        del self._scores[-_SHED_CHUNKS:]
        del self._members[-_SHED_CHUNKS:]
        return bool(self._scores)

    def survey(self, survey: Survey, weight: int) -> None:
        """Count the parts, and the scores of some chunks; the members are counted elsewhere."""
        survey.count(self, _OBJECT_BYTES, weight)
        survey.count(self._scores, sys.getsizeof(self._scores), weight)
        survey.count(self._members, sys.getsizeof(self._members), weight)
        step = 1 + len(self._scores) // _SURVEYED_CHUNKS
        for number in range(0, len(self._scores), step):
            scores = self._scores[number]
            members = self._members[number]
            survey.count(scores, sys.getsizeof(scores), weight * step)
            survey.count(members, sys.getsizeof(members), weight * step)
            for score in scores:
                survey.count(score, FLOAT_OBJECT_BYTES, weight * step)

    def renewed(self) -> Ranking:
        """Another object that holds the very same."""
        renewed = Ranking.__new__(Ranking)
        renewed._scores = self._scores
        renewed._members = self._members
        renewed._index = None
        renewed._tops = self._tops
        renewed.size = self.size
        renewed.size_bytes = self.size_bytes
        return renewed

    def moved(self, evacuation: Evacuation) -> tuple[Ranking, bool]:
        """Move all but the chunks and their contents.

        Returns:
            What takes this one's place (it, or another object), and whether everything is done,
            before the attempts are used up.
        """
        self._index = None
        if len(self._scores) <= _TOPS_MOVED_MAX:
            self._make_tops()
        moved = self
        while evacuation.concerns(moved):
            if evacuation.attempts <= 0:
                return self, False
            evacuation.attempts -= 1
            moved = self.renewed()
            if not evacuation.refuses(moved):
                evacuation.moved(self, _OBJECT_BYTES)
                break
        if not move_numbers(moved, _NUMBERS, evacuation):
            return moved, False
        if evacuation.concerns_list(moved._scores):
            scores = evacuation.move_list(moved._scores)
            if scores is None:
                return moved, False
            moved._scores = scores
        if evacuation.concerns_list(moved._members):
            members = evacuation.move_list(moved._members)
            if members is None:
                return moved, False
            moved._members = members
        return moved, True

    def evacuate(self, held: SegmentMap, evacuation: Evacuation, place: int) -> int:
        """Move scores and members, here and in the map that holds the same ones, then the chunks.

        Returns:
            Where to go on once there are new attempts (`place` counts chunks), or -1 at the end.
        """
        while place < len(self._scores):
            if not self._evacuate_pairs(place, held, evacuation):
                return place
            if not self._evacuate_chunk(place, evacuation):
                return place
            # Not before, or a large chunk would never have its turn.
            evacuation.attempts -= 1 + (len(self._scores[place]) >> 2)
            place += 1
            if evacuation.attempts <= 0 and place < len(self._scores):
                return place
        return -1

    def _evacuate_pairs(self, chunk: int, held: SegmentMap, evacuation: Evacuation) -> bool:
        """Move the pairs of a chunk; false if the attempts are used up before."""
        scores = self._scores[chunk]
        members = self._members[chunk]
        for offset in range(len(scores)):
            score = scores[offset]
            member = members[offset]
            if evacuation.concerns(score):
                fresh = evacuation.move_float(score)
                if fresh is None:
                    return False
                scores[offset] = fresh
                held.put(member, fresh)
            if evacuation.concerns(member):
                copy = evacuation.move_bytes(member)
                if copy is None:
                    return False
                members[offset] = copy
                held.put(copy, held.take(member))
        return True

    def _evacuate_chunk(self, chunk: int, evacuation: Evacuation) -> bool:
        """Move the lists of a chunk; false if the attempts are used up before."""
        if evacuation.concerns_list(self._scores[chunk]):
            scores = evacuation.move_list(self._scores[chunk])
            if scores is None:
                return False
            self._scores[chunk] = scores
        if evacuation.concerns_list(self._members[chunk]):
            members = evacuation.move_list(self._members[chunk])
            if members is None:
                return False
            self._members[chunk] = members
        return True

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        if len(self._scores) > 1:
            assert self._tops is not None
            tops = list(self._tops[: len(self._scores)])
            assert tops == [scores[-1] for scores in self._scores]
        pairs = [
            pair for scores, members in self.chunks() for pair in zip(scores, members, strict=True)
        ]
        assert pairs == sorted(pairs)
        assert len(pairs) == self.size
        assert all(self._scores) or len(self._scores) == 1
        assert all(len(scores) <= _CHUNK_MAX for scores in self._scores)
        chunks_bytes = len(self._scores) * _CHUNK_BYTES
        assert self.size_bytes == _BASE_BYTES + chunks_bytes + self.size * _PAIR_BYTES
        for rank in range(0, self.size, 97):
            score, member = pairs[rank]
            assert self.rank(score, member) == rank
            assert self.members_between(rank, rank + 1) == [member]
