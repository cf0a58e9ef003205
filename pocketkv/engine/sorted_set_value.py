"""The sorted set type: what each member's score is, and all in the order of their scores.

It is ``listpack`` while it is small, as far as clients are told, and then ``skiplist`` for good.
Members are in a map that grows without a pause (`segments`), which tells scores, and in an order
by scores (`ranking`), which tells ranks; both hold the same objects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.engine.packing import PayloadError, pack, unpack, unpack_some
from pocketkv.engine.ranking import PAIR_BYTES, Ranking
from pocketkv.engine.segments import SegmentMap, member_cost, move_numbers
from pocketkv.engine.values import Collection

if TYPE_CHECKING:
    from pocketkv.engine.randomness import Randomness
    from pocketkv.engine.regions import Evacuation, Survey

# What `put` did.
SAME: Final = 0
ADDED: Final = 1
CHANGED: Final = 2

# The object by itself.
_OBJECT_BYTES: Final = 64

# Places of an evacuation from here on are segments, those before are chunks.
_SEGMENTS_PLACE: Final = 1 << 40

# What is unpacked at a time, in about a millisecond.
_STEP_MEMBERS: Final = 256

# What is written to media: encodings, and changes. A pair is its score, then its member.
_LISTPACK: Final = b"l"
_SKIPLIST: Final = b"s"
_PUT: Final = b"+"
_REMOVED: Final = b"-"
_CONVERTED: Final = b"s"
_SCORE: Final = struct.Struct("<d")


def pair_cost(member: bytes) -> int:
    """What a member with its score costs."""
    return member_cost(member) + PAIR_BYTES


def _pack_pairs(scores: list[float], members: list[bytes]) -> bytes:
    return pack(
        [_SCORE.pack(score) + member for score, member in zip(scores, members, strict=True)]
    )


def _unpack_score(item: bytes) -> float:
    if len(item) < _SCORE.size:
        raise PayloadError("no score")
    score: float = _SCORE.unpack_from(item)[0]
    if score != score:
        raise PayloadError("a score that is no number")
    return score


class SortedSetValue(Collection):
    """Members with scores, none of which is NaN.

    Ranks count from the lowest score on.

    Args:
        is_listpack: Whether it is small so far.
    """

    __slots__ = ("_is_listpack", "_ranking", "_scores")

    type_name = "zset"

    def __init__(self, *, is_listpack: bool) -> None:
        super().__init__()
        self._is_listpack = is_listpack
        self._scores = SegmentMap()
        self._ranking = Ranking()
        self._changed_size()

    @classmethod
    def of(cls, scores: dict[bytes, float], entries_max: int, value_max: int) -> SortedSetValue:
        """A sorted set of these members.

        Args:
            scores: By member.
            entries_max: How many members a listpack has at most.
            value_max: How long they are at most.
        """
        is_listpack = len(scores) <= entries_max and max(map(len, scores), default=0) <= value_max
        made = cls(is_listpack=is_listpack)
        if is_listpack:
            scores = {member: score + 0.0 for member, score in scores.items()}
        made._fill(sorted(zip(scores.values(), scores, strict=True)))
        return made

    def _fill(self, pairs: list[tuple[float, bytes]]) -> None:
        """Have these pairs, which are in order."""
        for score, member in pairs:
            self._scores.put(member, score)
        self._ranking.fill([score for score, _ in pairs], [member for _, member in pairs])
        self._changed_size()

    # --- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._ranking.size

    def __contains__(self, member: bytes) -> bool:
        return self._scores.get(member) is not None

    def score(self, member: bytes) -> float | None:
        """A member's score; ``None`` if it is not there."""
        score: float | None = self._scores.get(member)
        return score

    def rank(self, member: bytes) -> int:
        """How many members come before this one; -1 if it is not there."""
        score = self._scores.get(member)
        return -1 if score is None else self._ranking.rank(score, member)

    def rank_of_score(self, score: float, is_after: bool) -> int:
        """How many members have a lower score; with `is_after`, how many have no higher one."""
        return self._ranking.rank_of_score(score, is_after)

    def rank_of_member(self, member: bytes, is_after: bool) -> int:
        """`rank_of_score` by members, if all have one score; otherwise the answer is any."""
        return self._ranking.rank_of_member(member, is_after)

    def members_between(self, start: int, stop: int) -> list[bytes]:
        """The members from rank `start` to before `stop`, both within its length."""
        return self._ranking.members_between(start, stop)

    def scores_between(self, start: int, stop: int) -> list[float]:
        """The scores of `members_between`."""
        return self._ranking.scores_between(start, stop)

    def chunks(self) -> Iterator[tuple[list[float], list[bytes]]]:
        """All scores and members in order, some hundred at a time; to be read only."""
        return self._ranking.chunks()

    def encoding(self) -> str:
        """What OBJECT ENCODING answers."""
        return "listpack" if self._is_listpack else "skiplist"

    def copy(self) -> SortedSetValue:
        """A sorted set of the same members and encoding, to be changed on its own."""
        copied = SortedSetValue(is_listpack=self._is_listpack)
        copied._scores = self._scores.copy()
        copied._ranking = self._ranking.copy()
        copied.size_bytes = self.size_bytes
        return copied

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes], list[float]]:
        """One step of a walk: the next cursor (0 at the end), about `count` members, their scores.

        What is in the set from the walk's beginning to its end is met at least once; a listpack
        is met as a whole, in order.
        """
        if self._is_listpack:
            size = len(self)
            return 0, self.members_between(0, size), self.scores_between(0, size)
        cursor, segments = self._scores.walk(cursor, count)
        members: list[bytes] = []
        scores: list[float] = []
        for segment in segments:
            members.extend(segment)
            scores.extend(segment.values())
        return cursor, members, scores

    def random_member(self, randomness: Randomness) -> bytes:
        """Any member, each as likely as the others; the set is not empty."""
        return self._scores.random_member(randomness)

    def sample(self, count: int, randomness: Randomness) -> list[bytes]:
        """Any `count` different members; the set has at least so many."""
        return self._scores.sample(count, randomness)

    # --- changing ------------------------------------------------------------------------------

    def _changed_size(self) -> None:
        self.size_bytes = _OBJECT_BYTES + self._scores.size_bytes + self._ranking.size_bytes

    def put(self, member: bytes, score: float, entries_max: int, value_max: int) -> int:
        """Give a member a score; `ADDED`, `CHANGED`, or `SAME` if it had that.

        Args:
            member: Is added if it is not there.
            score: Not NaN.
            entries_max: How many members a listpack has at most.
            value_max: How long they are at most.
        """
        if (
            self._is_listpack
            and (self._ranking.size >= entries_max or len(member) > value_max)
            and self._scores.get(member) is None
        ):
            self.convert()
        return self._put(member, score)

    def _put(self, member: bytes, score: float) -> int:
        if self._is_listpack and score == 0:
            # A listpack keeps integers as such, and they have one zero.
            score = 0.0
        # The member stays the same object in both, and so must the score be.
        old = self._scores.put(member, score)
        if old is None:
            self._ranking.add(score, member)
            done = ADDED
        elif old == score:
            self._scores.put(member, old)
            return SAME
        else:
            self._ranking.move(old, score, member)
            done = CHANGED
        self._changed_size()
        if self.changes is not None:
            self.changes.append(_PUT + _SCORE.pack(score) + member)
        return done

    def convert(self) -> None:
        """Be a skiplist from now on."""
        if not self._is_listpack:
            return
        self._is_listpack = False
        if self.changes is not None:
            self.changes.append(_CONVERTED)

    def remove(self, member: bytes) -> bool:
        """Remove a member; false if it is not there."""
        score = self._scores.take(member)
        if score is None:
            return False
        self._ranking.remove(score, member)
        self._removed(member)
        return True

    def pop_first(self) -> tuple[bytes, float]:
        """Remove the member with the lowest score, and give both; the set is not empty."""
        member = self._ranking.pop_first()
        score: float = self._scores.take(member)
        self._removed(member)
        return member, score

    def pop_last(self) -> tuple[bytes, float]:
        """Remove the member with the highest score, and give both; the set is not empty."""
        member = self._ranking.pop_last()
        score: float = self._scores.take(member)
        self._removed(member)
        return member, score

    def _removed(self, member: bytes) -> None:
        self._changed_size()
        if self.changes is not None:
            self.changes.append(_REMOVED + member)

    def remove_between(self, start: int, stop: int) -> None:
        """Remove the members from rank `start` to before `stop`, both within its length."""
        for member in self._ranking.remove_between(start, stop):
            self._scores.take(member)
            if self.changes is not None:
                self.changes.append(_REMOVED + member)
        self._changed_size()

    # --- for media ------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """The encoding, then the pairs in order."""
        return b"".join(self.payload_pieces())

    def payload_pieces(self) -> Iterator[bytes]:
        """The encoding, then a chunk of pairs at a time."""
        yield _LISTPACK if self._is_listpack else _SKIPLIST
        for scores, members in self.chunks():
            yield _pack_pairs(scores, members)

    @classmethod
    def of_payload(cls, payload: bytes) -> SortedSetValue:
        """The sorted set that was stored.

        Raises:
            PayloadError: It is none.
        """
        *_, made = cls.building(payload)
        assert isinstance(made, SortedSetValue)  # The last one is the value.
        return made

    @classmethod
    def building(cls, payload: bytes) -> Iterator[Collection | None]:
        """The sorted set that was stored, some members at a time.

        Raises:
            PayloadError: It is none.
        """
        if payload[:1] not in (_LISTPACK, _SKIPLIST):
            raise PayloadError("not a sorted set")
        made = cls(is_listpack=payload[:1] == _LISTPACK)
        position = 1
        while position < len(payload):
            items, position = unpack_some(payload, position, _STEP_MEMBERS)
            made._take_in(items)
            yield None
        yield made

    def _take_in(self, items: list[bytes]) -> None:
        for item in items:
            self._put(item[_SCORE.size :], _unpack_score(item))

    def part(self, cursor: int, size: int) -> tuple[int, bytes]:
        """Some of the members; all of a listpack, which is small."""
        if self._is_listpack:
            return 0, self.payload()
        if not self._scores.segments:
            # It was freed meanwhile.
            return 0, _SKIPLIST
        mean_bytes = max(1, self.size_bytes // max(1, len(self)))
        cursor, members, scores = self.scan(cursor, max(1, size // mean_bytes))
        return cursor, _SKIPLIST + _pack_pairs(scores, members)

    def add_part(self, payload: bytes) -> None:
        """More members."""
        if payload[:1] != _SKIPLIST:
            raise PayloadError("not a part of a sorted set")
        self._take_in(unpack(payload[1:]))

    def apply_change(self, change: bytes) -> None:
        """A member that was given a score or removed, or the end of the listpack."""
        kind = change[:1]
        if kind == _PUT:
            self._take_in([change[1:]])
        elif kind == _REMOVED:
            self.remove(change[1:])
        else:
            self.convert()

    def shed(self) -> bool:
        """Free some of the map, then some of the order."""
        return self._scores.shed() or self._ranking.shed()

    # --- where it lies in memory ---------------------------------------------------------------

    def renewed(self) -> SortedSetValue:
        """Another object that holds the very same."""
        renewed = SortedSetValue.__new__(SortedSetValue)
        renewed.size_bytes = self.size_bytes
        renewed.changes = self.changes
        renewed._is_listpack = self._is_listpack
        renewed._scores = self._scores
        renewed._ranking = self._ranking
        return renewed

    def survey(self, survey: Survey, weight: int) -> None:
        """Count the parts, and some members with their scores."""
        survey.count(self, _OBJECT_BYTES, weight)
        self._scores.survey(survey, weight)
        self._ranking.survey(survey, weight)

    def evacuate(self, evacuation: Evacuation, place: int) -> int:
        """Move the parts, then scores and members chunk by chunk, then the map's segments."""
        if place == 0:
            self._scores, is_done = self._scores.moved(evacuation)
            if is_done:
                self._ranking, is_done = self._ranking.moved(evacuation)
            if not (is_done and move_numbers(self, ("size_bytes",), evacuation)):
                return 0
        if place < _SEGMENTS_PLACE:
            place = self._ranking.evacuate(self._scores, evacuation, place)
            if place >= 0:
                return place
            place = _SEGMENTS_PLACE
        place = self._scores.evacuate(evacuation, place - _SEGMENTS_PLACE)
        return place if place < 0 else place + _SEGMENTS_PLACE

    def table(self) -> SegmentMap | None:
        """The table of a skiplist's members."""
        return None if self._is_listpack else self._scores

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        self._scores.validate()
        self._ranking.validate()
        held: dict[int, float] = {}
        for scores, members in self.chunks():
            for score, member in zip(scores, members, strict=True):
                assert self._scores.get(member) is score
                held[id(member)] = score
        assert all(id(member) in held for member in self._scores)
        assert len(held) == len(self) == len(self._scores)
        size_bytes = _OBJECT_BYTES + self._scores.size_bytes + self._ranking.size_bytes
        assert self.size_bytes == size_bytes
