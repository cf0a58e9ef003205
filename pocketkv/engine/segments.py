"""A map of byte strings that grows and shrinks without a pause, for large collections.

It is a list of small dicts, the segments. A map that grows splits one segment after the other
(linear hashing), so no step ever takes longer than a segment: there is no pause in which a large
table is copied, a random member is found in a random segment, and a cursor is the number of a
segment, in Redis's order of reversed bits, which outlives every split and merge. A member's
segment follows from its CRC, so a cursor also means the same on every server.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from pocketkv.engine.sizes import DICT_ENTRY_BYTES, bytes_object

if TYPE_CHECKING:
    from pocketkv.engine.randomness import Randomness
    from pocketkv.engine.regions import Evacuation, Survey

# Members per segment, on average, above which the next segment is split and below which the last
# one is merged: far apart, so that a map of a steady size does neither.
_SPLIT_ABOVE: Final = 64
_MERGE_BELOW: Final = 16
# Random draws that may miss before the segments' sizes are added up instead.
_DRAWS_MAX: Final = 64

# What is packed and freed at a time, each in about a millisecond.
_STEP_SEGMENTS: Final = 32
_SHED_SEGMENTS: Final = 256

# Attributes that are numbers, each an object if it is not small and this is not compiled.
_NUMBERS: Final = ("size_bytes", "size", "_split_at", "_merge_at", "_largest")
# Segments that a survey looks at.
_SURVEYED_SEGMENTS: Final = 16

# The object by itself.
_OBJECT_BYTES: Final = 80
# The object, its numbers, the list.
_BASE_BYTES: Final = 184
# An empty dict, its place in the list.
_SEGMENT_BYTES: Final = 72


def member_cost(member: bytes) -> int:
    """What a member costs, without its value."""
    return DICT_ENTRY_BYTES + bytes_object(len(member))


class SegmentMap:
    """Byte strings and what each stands for: in a map all have a value, or none has.

    Attributes:
        segments: The dicts that hold all; to be read only.
        size: How many members there are.
        size_bytes: What all this costs, without the members' values.
    """

    __slots__ = ("_largest", "_merge_at", "_split_at", "segments", "size", "size_bytes")

    def __init__(self) -> None:
        self.segments: list[dict[bytes, Any]] = [{}]
        self.size = 0
        self.size_bytes = _BASE_BYTES + _SEGMENT_BYTES
        self._split_at = _SPLIT_ABOVE
        self._merge_at = -1
        # No segment has more members.
        self._largest = 0

    def copy(self) -> SegmentMap:
        """A map of the same members and values, to be changed on its own."""
        copied = self.renewed()
        copied.segments = [segment.copy() for segment in self.segments]
        return copied

    # --- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.size

    def __contains__(self, member: bytes) -> bool:
        return member in self._segment(member)

    def get(self, member: bytes) -> Any:
        """What a member stands for; ``None`` if it is not there."""
        return self._segment(member).get(member)

    def __iter__(self) -> Iterator[bytes]:
        for segment in self.segments:
            yield from segment

    def members(self) -> list[bytes]:
        """All members, in no order."""
        return [member for segment in self.segments for member in segment]

    def items(self) -> list[tuple[bytes, Any]]:
        """All members and what they stand for, in no order."""
        return [item for segment in self.segments for item in segment.items()]

    def batches(self) -> Iterator[list[dict[bytes, Any]]]:
        """All segments, as many at a time as are packed in about a millisecond."""
        for first in range(0, len(self.segments), _STEP_SEGMENTS):
            yield self.segments[first : first + _STEP_SEGMENTS]

    def walk(self, cursor: int, count: int) -> tuple[int, list[dict[bytes, Any]]]:
        """One step of a walk: the next cursor (0 at the end), segments of about `count` members.

        What is in the map from the walk's beginning to its end is met at least once.
        """
        segments = self.segments
        if not segments:
            # All of it was shed.
            return 0, []
        half = _power_of_two(len(segments))
        found: list[dict[bytes, Any]] = []
        cursor &= half - 1
        while True:
            found.append(segments[cursor])
            count -= len(segments[cursor])
            if cursor + half < len(segments):
                # Split off from this one, and not yet a number of its own in the walk.
                found.append(segments[cursor + half])
                count -= len(segments[cursor + half])
            cursor = _next_reversed(cursor, half)
            if cursor == 0 or count <= 0:
                return cursor, found

    # --- changing ------------------------------------------------------------------------------

    def add(self, member: bytes) -> bool:
        """Have a member that stands for nothing; false if it is there."""
        segment = self._segment(member)
        before = len(segment)
        segment[member] = None
        if len(segment) == before:
            return False
        self._added(member, before)
        return True

    def put(self, member: bytes, value: Any) -> Any:
        """Have a member stand for a value; the one before, or ``None`` if it was not there."""
        segment = self._segment(member)
        before = len(segment)
        old = segment.get(member)
        segment[member] = value
        if old is None:
            self._added(member, before)
        return old

    def _added(self, member: bytes, before: int) -> None:
        """Account for a member of a segment that had so many before."""
        self.size += 1
        self.size_bytes += DICT_ENTRY_BYTES + bytes_object(len(member))
        if before >= self._largest:
            self._largest = before + 1
        if self.size > self._split_at:
            self._split()

    def discard(self, member: bytes) -> bool:
        """Remove a member; false if it is not there."""
        segment = self._segment(member)
        if member not in segment:
            return False
        self._remove(segment, member)
        return True

    def take(self, member: bytes) -> Any:
        """Remove a member; what it stood for, or ``None`` if it was not there."""
        segment = self._segment(member)
        value = segment.get(member)
        if value is not None:
            self._remove(segment, member)
        return value

    def _remove(self, segment: dict[bytes, Any], member: bytes) -> None:
        del segment[member]
        self.size -= 1
        self.size_bytes -= DICT_ENTRY_BYTES + bytes_object(len(member))
        if self.size < self._merge_at:
            self._merge()

    def shed(self) -> bool:
        """Free some segments of a map that nobody needs; whether there are more."""
        del self.segments[-_SHED_SEGMENTS:]
        return bool(self.segments)

    def figures(self) -> dict[str, int]:
        """How the members are spread, for people."""
        sizes = [len(segment) for segment in self.segments]
        return {
            "table size": len(sizes),
            "number of elements": self.size,
            "different slots": len(sizes) - sizes.count(0),
            "max chain length": max(sizes),
        }

    # --- at random -----------------------------------------------------------------------------

    def random_member(self, randomness: Randomness) -> bytes:
        """Any member, each as likely as the others; the map is not empty."""
        number, position = self._draw(randomness)
        return next(islice(self.segments[number], position, None))

    def pop_random(self, randomness: Randomness) -> bytes:
        """Remove and return any member; the map is not empty."""
        number, position = self._draw(randomness)
        segment = self.segments[number]
        member = next(islice(segment, position, None))
        self._remove(segment, member)
        return member

    def sample(self, count: int, randomness: Randomness) -> list[bytes]:
        """Any `count` different members; the map has at least so many."""
        if count * 3 > self.size:
            return sample(self.members(), count, randomness)
        drawn: dict[bytes, None] = {}
        while len(drawn) < count:
            drawn[self.random_member(randomness)] = None
        return list(drawn)

    def _draw(self, randomness: Randomness) -> tuple[int, int]:
        """A random member as its segment's number and its position in the segment."""
        segments = self.segments
        count = len(segments)
        if count == 1:
            return 0, randomness.randrange(self.size)
        for _ in range(_DRAWS_MAX):
            # One draw for both: it is what takes longest.
            drawn = randomness.randrange(count * self._largest)
            number = drawn % count
            position = drawn // count
            if position < len(segments[number]):
                return number, position
        # Members that were made to share a segment: no draw is likely to hit another one.
        position = randomness.randrange(self.size)
        number = 0
        while position >= len(segments[number]):
            position -= len(segments[number])
            number += 1
        return number, position

    # --- segments ------------------------------------------------------------------------------

    def _segment(self, member: bytes) -> dict[bytes, Any]:
        """The segment where a member is, or would be."""
        segments = self.segments
        count = len(segments)
        if count == 1:
            return segments[0]
        half = _power_of_two(count)
        number = crc32(member) & (2 * half - 1)
        return segments[number if number < count else number - half]

    def _split(self) -> None:
        """Give the next segment that is due half of its members to a new one."""
        segments = self.segments
        number = len(segments)
        half = _power_of_two(number)
        old = segments[number - half]
        mask = 2 * half - 1
        stay: dict[bytes, Any] = {}
        moved: dict[bytes, Any] = {}
        for member, value in old.items():
            if crc32(member) & mask == number:
                moved[member] = value
            else:
                stay[member] = value
        segments[number - half] = stay
        segments.append(moved)
        self._segments_changed(_SEGMENT_BYTES)

    def _merge(self) -> None:
        """Undo the last split."""
        segments = self.segments
        last = segments.pop()
        segments[len(segments) - _power_of_two(len(segments))].update(last)
        self._segments_changed(-_SEGMENT_BYTES)

    def _segments_changed(self, grown_bytes: int) -> None:
        count = len(self.segments)
        self.size_bytes += grown_bytes
        self._split_at = count * _SPLIT_ABOVE
        self._merge_at = count * _MERGE_BELOW if count > 1 else -1
        if count & (count - 1) == 0:
            # Once per doubling or halving, so that it costs nothing per member.
            self._largest = max(map(len, self.segments))
        else:
            merged = self.segments[count - _power_of_two(count)]
            self._largest = max(self._largest, len(merged))

    # --- where it lies in memory ---------------------------------------------------------------

    def renewed(self) -> SegmentMap:
        """Another object that holds the very same."""
        renewed = SegmentMap.__new__(SegmentMap)
        renewed.segments = self.segments
        renewed.size = self.size
        renewed.size_bytes = self.size_bytes
        renewed._split_at = self._split_at
        renewed._merge_at = self._merge_at
        renewed._largest = self._largest
        return renewed

    def survey(self, survey: Survey, weight: int) -> None:
        """Count the parts, and the members and values of some segments."""
        survey.count(self, _OBJECT_BYTES, weight)
        segments = self.segments
        survey.count(segments, sys.getsizeof(segments), weight)
        step = 1 + len(segments) // _SURVEYED_SEGMENTS
        for segment in segments[::step]:
            survey_dict(segment, survey, weight * step)

    def moved(self, evacuation: Evacuation) -> tuple[SegmentMap, bool]:
        """Move all but the segments and their contents.

        Returns:
            What takes this one's place (it, or another object), and whether everything is done,
            before the attempts are used up.
        """
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
        if evacuation.concerns_list(moved.segments):
            segments = evacuation.move_list(moved.segments)
            if segments is None:
                return moved, False
            moved.segments = segments
        return moved, True

    def evacuate(self, evacuation: Evacuation, place: int) -> int:
        """Move the members, and the values that are byte strings, segment by segment.

        Returns:
            Where to go on once there are new attempts (`place` counts segments), or -1 at the end.
        """
        segments = self.segments
        while place < len(segments):
            moved = evacuate_dict(segments[place], evacuation)
            segments[place] = moved[0]
            if not moved[1]:
                return place
            # Not before, or a large segment would never have its turn.
            evacuation.attempts -= 1 + (len(segments[place]) >> 2)
            place += 1
            if evacuation.attempts <= 0 and place < len(segments):
                return place
        return -1

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        members = self.members()
        assert len(members) == len(set(members)) == self.size
        cost = sum(member_cost(member) for member in members)
        assert self.size_bytes == _BASE_BYTES + _SEGMENT_BYTES * len(self.segments) + cost
        assert all(len(segment) <= self._largest for segment in self.segments)
        for member in members:
            assert member in self


def sample(members: list[bytes], count: int, randomness: Randomness) -> list[bytes]:
    """Any `count` of the members, each at most once; the list is changed."""
    size = len(members)
    for i in range(count):
        other = i + randomness.randrange(size - i)
        members[i], members[other] = members[other], members[i]
    return members[:count]


def survey_dict(segment: dict[bytes, Any], survey: Survey, weight: int) -> None:
    """Count a dict, its members, and the values that are byte strings."""
    survey.count_dict(segment, weight)
    for member, value in segment.items():
        survey.count_bytes(member, weight)
        if type(value) is bytes:
            survey.count_bytes(value, weight)


def evacuate_dict(
    segment: dict[bytes, Any], evacuation: Evacuation
) -> tuple[dict[bytes, Any], bool]:
    """Move a dict, its members, and the values that are byte strings.

    Returns:
        The dict that takes its place, and whether everything is done, before the attempts are
        used up.
    """
    members: dict[bytes, bytes] = {}
    for member, value in segment.items():
        if evacuation.concerns(member):
            copy = evacuation.move_bytes(member)
            if copy is None:
                break
            members[member] = copy
        if type(value) is bytes and evacuation.concerns(value):
            copy = evacuation.move_bytes(value)
            if copy is None:
                break
            segment[member] = copy
    if members:
        segment = {members.get(member, member): value for member, value in segment.items()}
    if evacuation.attempts <= 0:
        return segment, False
    if evacuation.concerns_dict(segment):
        fresh = evacuation.move_dict(segment)
        return (segment, False) if fresh is None else (fresh, True)
    return segment, True


def move_numbers(holder: Any, names: tuple[str, ...], evacuation: Evacuation) -> bool:
    """Move attributes that are numbers; false if the attempts are used up before."""
    for name in names:
        number = getattr(holder, name)
        if number is not getattr(holder, name):
            # A compiled class holds no objects for its numbers: they are made when asked for.
            continue
        if evacuation.concerns(number):
            moved = evacuation.move_int(number)
            if moved is None:
                return False
            setattr(holder, name, moved)
    return True


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
