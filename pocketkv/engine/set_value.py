"""The set type: integers in a sorted array while they are few, otherwise members in segments.

A set begins as ``intset`` if its first member is a 64-bit integer, and becomes ``hashtable`` for
good when another kind of member comes or the integers are more than `set-max-intset-entries`.

A hashtable is a list of small dicts, the segments. A set that grows splits one segment after the
other (linear hashing), so no step ever takes longer than a segment: there is no pause in which a
large table is copied, a random member is found in a random segment, and a cursor is the number of
a segment, in Redis's order of reversed bits, which outlives every split and merge. A member's
segment follows from its CRC, so a cursor also means the same on every server.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final
from zlib import crc32

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.packing import PayloadError, pack, unpack, unpack_some
from pocketkv.engine.sizes import DICT_ENTRY_BYTES, bytes_object
from pocketkv.engine.values import Collection

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import Randomness
    from pocketkv.engine.regions import Evacuation, Survey

# Members per segment, on average, above which the next segment is split and below which the last
# one is merged: far apart, so that a set of a steady size does neither.
_SPLIT_ABOVE: Final = 64
_MERGE_BELOW: Final = 16
# Random draws that may miss before the segments' sizes are added up instead.
_DRAWS_MAX: Final = 64

# What is packed, built and freed at a time, each in about a millisecond.
_STEP_SEGMENTS: Final = 32
_STEP_MEMBERS: Final = 512
_SHED_SEGMENTS: Final = 256

# Attributes that are numbers, each an object if it is not small.
_NUMBERS: Final = ("size_bytes", "_size", "_split_at", "_merge_at", "_largest")
# Segments that a survey looks at.
_SURVEYED_SEGMENTS: Final = 16

# The object by itself.
_OBJECT_BYTES: Final = 112
# The object, its numbers, the list or the array.
_BASE_BYTES: Final = 200
# An empty dict, its place in the list.
_SEGMENT_BYTES: Final = 72
# Eight, and the room that an array keeps to grow.
_INTEGER_BYTES: Final = 9
# However many are configured, an array of more is not moved in one step (Redis's own bound).
_INTSET_ENTRIES_MAX: Final = 1 << 30


# What is written to media: kinds of sets, and of changes.
_INTEGERS: Final = b"i"
_MEMBERS: Final = b"m"
_ADDED: Final = b"+"
_REMOVED: Final = b"-"

# Of every intset; never changed.
_NO_SEGMENTS: Final[list[dict[bytes, None]]] = []


def member_cost(member: bytes) -> int:
    """What a member of a hashtable costs."""
    return DICT_ENTRY_BYTES + bytes_object(len(member))


class SetValue(Collection):
    """A set of byte strings.

    Args:
        first: The member that will be added first: it decides the encoding to begin with.
    """

    __slots__ = ("_integers", "_largest", "_merge_at", "_segments", "_size", "_split_at")

    type_name = "set"

    def __init__(self, first: bytes) -> None:
        super().__init__()
        self.size_bytes = _BASE_BYTES
        # Sorted; ``None`` once the members are in segments.
        self._integers: array[int] | None = array("q")
        self._segments = _NO_SEGMENTS
        self._size = 0
        self._split_at = _SPLIT_ABOVE
        self._merge_at = -1
        # No segment has more members.
        self._largest = 0
        if canonical_integer(first) is None:
            self._to_segments()

    @classmethod
    def of(cls, members: list[bytes], integers_max: int) -> SetValue:
        """A set of these members (at least one), which may repeat, added in this order."""
        made = cls(members[0])
        for member in members:
            made.add(member, integers_max)
        return made

    # --- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._size if self._integers is None else len(self._integers)

    def __contains__(self, member: bytes) -> bool:
        if self._integers is not None:
            value = canonical_integer(member)
            return value is not None and self._position(value) >= 0
        segments = self._segments
        if len(segments) == 1:
            return member in segments[0]
        return member in segments[self._segment_of(member)]

    def members(self) -> list[bytes]:
        """All members; those of an intset in ascending order."""
        if self._integers is not None:
            return [b"%d" % value for value in self._integers]
        return [member for segment in self._segments for member in segment]

    def encoding(self) -> str:
        """What OBJECT ENCODING answers."""
        return "hashtable" if self._integers is None else "intset"

    def copy(self) -> SetValue:
        """A set of the same members and encoding, to be changed on its own."""
        copied = SetValue.__new__(SetValue)
        copied.size_bytes = self.size_bytes
        copied.changes = None
        copied._integers = None if self._integers is None else self._integers[:]
        copied._segments = [segment.copy() for segment in self._segments]
        copied._size = self._size
        copied._split_at = self._split_at
        copied._merge_at = self._merge_at
        copied._largest = self._largest
        return copied

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """One step of a walk: the next cursor (0 at the end), and about `count` members.

        What is in the set from the walk's beginning to its end is met at least once.
        """
        segments = self._segments
        if self._integers is not None or len(segments) == 1:
            return 0, self.members()
        half = _power_of_two(len(segments))
        found: list[bytes] = []
        cursor &= half - 1
        while True:
            found.extend(segments[cursor])
            if cursor + half < len(segments):
                # Split off from this one, and not yet a number of its own in the walk.
                found.extend(segments[cursor + half])
            cursor = _next_reversed(cursor, half)
            if cursor == 0 or len(found) >= count:
                return cursor, found

    # --- changing ------------------------------------------------------------------------------

    def add(self, member: bytes, integers_max: int) -> bool:
        """Add a member; false if it is there. An intset keeps up to `integers_max`."""
        if self._integers is not None:
            value = canonical_integer(member)
            if value is not None:
                return self._add_integer(value, integers_max)
            self._to_segments()
        segments = self._segments
        if len(segments) == 1:
            segment = segments[0]
        else:
            segment = segments[self._segment_of(member)]
        before = len(segment)
        segment[member] = None
        if len(segment) == before:
            return False
        if self.changes is not None:
            self.changes.append(_ADDED + member)
        self._size += 1
        self.size_bytes += DICT_ENTRY_BYTES + bytes_object(len(member))
        if before >= self._largest:
            self._largest = before + 1
        if self._size > self._split_at:
            self._split()
        return True

    def discard(self, member: bytes) -> bool:
        """Remove a member; false if it is not there."""
        if self._integers is not None:
            value = canonical_integer(member)
            position = -1 if value is None else self._position(value)
            if position < 0:
                return False
            del self._integers[position]
            self.size_bytes -= _INTEGER_BYTES
            if self.changes is not None:
                self.changes.append(_REMOVED + member)
            return True
        segments = self._segments
        segment = segments[0] if len(segments) == 1 else segments[self._segment_of(member)]
        if member not in segment:
            return False
        self._remove(segment, member)
        return True

    def mark_had(self, other: SetValue, integers_max: int) -> None:
        """Have the encoding that this set would have if it had held all members of `other`."""
        if self._integers is None:
            return
        if len(other) > integers_max or any(canonical_integer(m) is None for m in other.members()):
            self._to_segments()

    # --- for media ------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """The kind of members, then the numbers or the members packed."""
        if self._integers is not None:
            return _INTEGERS + self._integers.tobytes()
        return _MEMBERS + pack(member for segment in self._segments for member in segment)

    @classmethod
    def of_payload(cls, payload: bytes) -> SetValue:
        """The set that was stored.

        Raises:
            PayloadError: It is none.
        """
        if payload[:1] == _INTEGERS and len(payload) % 8 == 1:
            rest = payload[1:]
            numbers = cls(b"0")
            numbers._integers = array("q", rest)
            numbers.size_bytes += _INTEGER_BYTES * (len(rest) // 8)
            return numbers
        *_, made = cls.building(payload)
        assert isinstance(made, SetValue)  # The last one is the value.
        return made

    def payload_pieces(self) -> Iterator[bytes]:
        """The kind, then some segments at a time."""
        if self._integers is not None:
            yield self.payload()
            return
        yield _MEMBERS
        for first in range(0, len(self._segments), _STEP_SEGMENTS):
            segments = self._segments[first : first + _STEP_SEGMENTS]
            yield pack(member for segment in segments for member in segment)

    @classmethod
    def building(cls, payload: bytes) -> Iterator[Collection | None]:
        """The set that was stored, some members at a time.

        Raises:
            PayloadError: It is none.
        """
        if payload[:1] == _INTEGERS and len(payload) % 8 == 1:
            yield cls.of_payload(payload)
            return
        if payload[:1] != _MEMBERS:
            raise PayloadError("not a set")
        made = cls(b"")
        position = 1
        while position < len(payload):
            members, position = unpack_some(payload, position, _STEP_MEMBERS)
            for member in members:
                made.add(member, 0)
            yield None
        yield made

    def shed(self) -> bool:
        """Free some segments."""
        del self._segments[-_SHED_SEGMENTS:]
        return bool(self._segments)

    def part(self, cursor: int, size: int) -> tuple[int, bytes]:
        """Some of the members; all of an intset, which is small."""
        if self._integers is not None:
            return 0, self.payload()
        mean_bytes = max(1, self.size_bytes // max(1, self._size))
        cursor, members = self.scan(cursor, max(1, size // mean_bytes))
        return cursor, _MEMBERS + pack(members)

    def add_part(self, payload: bytes) -> None:
        """More members."""
        if payload[:1] != _MEMBERS:
            raise PayloadError("not a part of a set")
        for member in unpack(payload[1:]):
            self.add(member, 0)

    def apply_change(self, change: bytes) -> None:
        """A member that was added or removed."""
        if change[:1] == _ADDED:
            self.add(change[1:], _INTSET_ENTRIES_MAX)
        else:
            self.discard(change[1:])

    # --- at random -----------------------------------------------------------------------------

    def random_member(self, randomness: Randomness) -> bytes:
        """Any member, each as likely as the others; the set is not empty."""
        if self._integers is not None:
            return b"%d" % self._integers[randomness.randrange(len(self._integers))]
        number, position = self._draw(randomness)
        return next(islice(self._segments[number], position, None))

    def pop_random(self, randomness: Randomness) -> bytes:
        """Remove and return any member; the set is not empty."""
        member = self.random_member(randomness)
        self.discard(member)
        return member

    def sample(self, count: int, randomness: Randomness) -> list[bytes]:
        """Any `count` different members; the set has at least so many."""
        size = len(self)
        if count * 3 > size:
            members = self.members()
            for i in range(count):
                other = i + randomness.randrange(size - i)
                members[i], members[other] = members[other], members[i]
            return members[:count]
        drawn: dict[bytes, None] = {}
        while len(drawn) < count:
            drawn[self.random_member(randomness)] = None
        return list(drawn)

    def _draw(self, randomness: Randomness) -> tuple[int, int]:
        """A random member as its segment's number and its position in the segment."""
        segments = self._segments
        if len(segments) == 1:
            return 0, randomness.randrange(self._size)
        for _ in range(_DRAWS_MAX):
            number = randomness.randrange(len(segments))
            position = randomness.randrange(self._largest)
            if position < len(segments[number]):
                return number, position
        # Members that were made to share a segment: no draw is likely to hit another one.
        position = randomness.randrange(self._size)
        number = 0
        while position >= len(segments[number]):
            position -= len(segments[number])
            number += 1
        return number, position

    # --- integers ------------------------------------------------------------------------------

    def _position(self, value: int) -> int:
        integers = self._integers
        assert integers is not None
        position = bisect_left(integers, value)
        return position if position < len(integers) and integers[position] == value else -1

    def _add_integer(self, value: int, integers_max: int) -> bool:
        integers = self._integers
        assert integers is not None
        position = bisect_left(integers, value)
        if position < len(integers) and integers[position] == value:
            return False
        integers.insert(position, value)
        self.size_bytes += _INTEGER_BYTES
        if self.changes is not None:
            self.changes.append(_ADDED + b"%d" % value)
        if len(integers) > integers_max or len(integers) > _INTSET_ENTRIES_MAX:
            self._to_segments()
        return True

    def _to_segments(self) -> None:
        members = self.members()
        # Whoever repeats the changes would not know when this came.
        self.changes = None
        self._integers = None
        self._segments = [{}]
        self.size_bytes = _BASE_BYTES + _SEGMENT_BYTES
        for member in members:
            self.add(member, 0)

    # --- segments ------------------------------------------------------------------------------

    def _segment_of(self, member: bytes) -> int:
        segments = self._segments
        half = _power_of_two(len(segments))
        number = crc32(member) & (2 * half - 1)
        return number if number < len(segments) else number - half

    def _remove(self, segment: dict[bytes, None], member: bytes) -> None:
        del segment[member]
        if self.changes is not None:
            self.changes.append(_REMOVED + member)
        self._size -= 1
        self.size_bytes -= member_cost(member)
        if self._size < self._merge_at:
            self._merge()

    def _split(self) -> None:
        """Give the next segment that is due half of its members to a new one."""
        segments = self._segments
        number = len(segments)
        half = _power_of_two(number)
        old = segments[number - half]
        mask = 2 * half - 1
        stay: dict[bytes, None] = {}
        moved: dict[bytes, None] = {}
        for member in old:
            if crc32(member) & mask == number:
                moved[member] = None
            else:
                stay[member] = None
        segments[number - half] = stay
        segments.append(moved)
        self._segments_changed(_SEGMENT_BYTES)

    def _merge(self) -> None:
        """Undo the last split."""
        segments = self._segments
        last = segments.pop()
        half = _power_of_two(len(segments))
        segments[len(segments) - half].update(last)
        self._segments_changed(-_SEGMENT_BYTES)

    def _segments_changed(self, grown_bytes: int) -> None:
        count = len(self._segments)
        self.size_bytes += grown_bytes
        self._split_at = count * _SPLIT_ABOVE
        self._merge_at = count * _MERGE_BELOW if count > 1 else -1
        if count & (count - 1) == 0:
            # Once per doubling or halving, so that it costs nothing per member.
            self._largest = max(len(segment) for segment in self._segments)
        else:
            merged = self._segments[count - _power_of_two(count)]
            self._largest = max(self._largest, len(merged))

    # --- where it lies in memory ---------------------------------------------------------------

    def renewed(self) -> SetValue:
        """Another object that holds the very same."""
        renewed = SetValue.__new__(SetValue)
        renewed.size_bytes = self.size_bytes
        renewed.changes = self.changes
        renewed._integers = self._integers
        renewed._segments = self._segments
        renewed._size = self._size
        renewed._split_at = self._split_at
        renewed._merge_at = self._merge_at
        renewed._largest = self._largest
        return renewed

    def survey(self, survey: Survey, weight: int) -> None:
        """Count the parts and the members of some segments."""
        survey.count(self, _OBJECT_BYTES, weight)
        if self._integers is not None:
            survey.count(self._integers, sys.getsizeof(self._integers), weight)
            return
        survey.count(self._segments, sys.getsizeof(self._segments), weight)
        step = 1 + len(self._segments) // _SURVEYED_SEGMENTS
        for segment in self._segments[::step]:
            survey.count_dict(segment, weight * step)
            for member in segment:
                survey.count_bytes(member, weight * step)

    def evacuate(self, evacuation: Evacuation, place: int) -> int:
        """Move the parts, then the members, segment by segment."""
        if place == 0 and not self._evacuate_parts(evacuation):
            return 0
        if self._integers is not None:
            return -1
        segments = self._segments
        while place < len(segments):
            if not self._evacuate_segment(evacuation, place):
                return place
            # Not before, or a large segment would never have its turn.
            evacuation.attempts -= 1 + (len(segments[place]) >> 2)
            place += 1
            if evacuation.attempts <= 0 and place < len(segments):
                return place
        return -1

    def _evacuate_segment(self, evacuation: Evacuation, number: int) -> bool:
        """Move the members of a segment, and it; false if the attempts are used up before."""
        segment = self._segments[number]
        moved: dict[bytes, bytes] = {}
        for member in segment:
            if evacuation.concerns(member):
                copy = evacuation.move_bytes(member)
                if copy is None:
                    break
                moved[member] = copy
        if moved:
            segment = {moved.get(member, member): None for member in segment}
            self._segments[number] = segment
        if evacuation.attempts <= 0:
            return False
        if evacuation.concerns_dict(segment):
            fresh = evacuation.move_dict(segment)
            if fresh is None:
                return False
            self._segments[number] = fresh
        return True

    def _evacuate_parts(self, evacuation: Evacuation) -> bool:
        """Move all but members and segments; false if the attempts are used up before."""
        for name in _NUMBERS:
            number = getattr(self, name)
            if evacuation.concerns(number):
                moved = evacuation.move_int(number)
                if moved is None:
                    return False
                setattr(self, name, moved)
        if self._integers is not None:
            integers = evacuation.move_array(self._integers)
            self._integers = self._integers if integers is None else integers
            return integers is not None
        if self._segments is not _NO_SEGMENTS and evacuation.concerns_list(self._segments):
            segments = evacuation.move_list(self._segments)
            if segments is None:
                return False
            self._segments = segments
        return True

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        if self._integers is not None:
            integers = self._integers.tolist()
            assert integers == sorted(set(integers))
            assert self.size_bytes == _BASE_BYTES + _INTEGER_BYTES * len(integers)
            return
        members = self.members()
        assert len(members) == len(set(members)) == self._size
        cost = sum(member_cost(member) for member in members)
        assert self.size_bytes == _BASE_BYTES + _SEGMENT_BYTES * len(self._segments) + cost
        assert all(len(segment) <= self._largest for segment in self._segments)
        for number, segment in enumerate(self._segments):
            assert all(self._segment_of(member) == number for member in segment)


def _power_of_two(count: int) -> int:
    """The largest power of two that is not more than `count`."""
    return 1 << (count.bit_length() - 1)


def _next_reversed(cursor: int, size: int) -> int:
    """The number below `size` whose bits, read backwards, are the next; 0 after the last one."""
    bit = size >> 1
    while bit and cursor & bit:
        cursor ^= bit
        bit >>= 1
    return cursor | bit
