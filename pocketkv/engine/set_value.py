"""The set type: integers in a sorted array while they are few, otherwise members in segments.

A set begins as ``intset`` if its first member is a 64-bit integer, and becomes ``hashtable`` for
good when another kind of member comes or the integers are more than `set-max-intset-entries`. A
hashtable is a `SegmentMap`, which grows without a pause.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.packing import PayloadError, pack, unpack, unpack_some
from pocketkv.engine.segments import SegmentMap, move_numbers, sample
from pocketkv.engine.values import Collection

if TYPE_CHECKING:
    from pocketkv.engine.randomness import Randomness
    from pocketkv.engine.regions import Evacuation, Survey

# What is built at a time, in about a millisecond.
_STEP_MEMBERS: Final = 512

# The object, and the number that it holds.
_OBJECT_BYTES: Final = 64
_BASE_BYTES: Final = 96
# An empty array.
_ARRAY_BYTES: Final = 80
# Eight, and the room that an array keeps to grow.
_INTEGER_BYTES: Final = 9
# However many are configured, an array of more is not moved in one step (Redis's own bound).
_INTSET_ENTRIES_MAX: Final = 1 << 30

# What is written to media: kinds of sets, and of changes.
_INTEGERS: Final = b"i"
_MEMBERS: Final = b"m"
_ADDED: Final = b"+"
_REMOVED: Final = b"-"


class SetValue(Collection):
    """A set of byte strings.

    Args:
        first: The member that will be added first: it decides the encoding to begin with.
    """

    __slots__ = ("_integers", "_members")

    type_name = "set"

    def __init__(self, first: bytes) -> None:
        super().__init__()
        # One of the two: sorted integers, or members.
        self._integers: array[int] | None = None
        self._members: SegmentMap | None = None
        if canonical_integer(first) is None:
            self._members = SegmentMap()
            self.size_bytes = _BASE_BYTES + self._members.size_bytes
        else:
            self._integers = array("q")
            self.size_bytes = _BASE_BYTES + _ARRAY_BYTES

    @classmethod
    def of(cls, members: list[bytes], integers_max: int) -> SetValue:
        """A set of these members (at least one), which may repeat, added in this order."""
        made = cls(members[0])
        for member in members:
            made.add(member, integers_max)
        return made

    # --- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._members is not None:
            return self._members.size
        return len(self._array())

    def __contains__(self, member: bytes) -> bool:
        if self._members is not None:
            return member in self._members
        value = canonical_integer(member)
        return value is not None and self._position(value) >= 0

    def members(self) -> list[bytes]:
        """All members; those of an intset in ascending order."""
        if self._members is not None:
            return self._members.members()
        return [b"%d" % value for value in self._array()]

    def encoding(self) -> str:
        """What OBJECT ENCODING answers."""
        return "intset" if self._members is None else "hashtable"

    def copy(self) -> SetValue:
        """A set of the same members and encoding, to be changed on its own."""
        copied = SetValue.__new__(SetValue)
        copied.size_bytes = self.size_bytes
        copied.changes = None
        copied._integers = None if self._integers is None else self._integers[:]
        copied._members = None if self._members is None else self._members.copy()
        return copied

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """One step of a walk: the next cursor (0 at the end), and about `count` members.

        What is in the set from the walk's beginning to its end is met at least once.
        """
        if self._members is None:
            return 0, self.members()
        cursor, segments = self._members.walk(cursor, count)
        return cursor, [member for segment in segments for member in segment]

    # --- changing ------------------------------------------------------------------------------

    def add(self, member: bytes, integers_max: int) -> bool:
        """Add a member; false if it is there. An intset keeps up to `integers_max`."""
        members = self._members
        if members is None:
            value = canonical_integer(member)
            if value is not None:
                return self._add_integer(value, integers_max)
            members = self._to_segments()
        if not members.add(member):
            return False
        if self.changes is not None:
            self.changes.append(_ADDED + member)
        self.size_bytes = _BASE_BYTES + members.size_bytes
        return True

    def discard(self, member: bytes) -> bool:
        """Remove a member; false if it is not there."""
        members = self._members
        if members is None:
            value = canonical_integer(member)
            position = -1 if value is None else self._position(value)
            if position < 0:
                return False
            del self._array()[position]
            self.size_bytes -= _INTEGER_BYTES
        elif members.discard(member):
            self.size_bytes = _BASE_BYTES + members.size_bytes
        else:
            return False
        if self.changes is not None:
            self.changes.append(_REMOVED + member)
        return True

    def mark_had(self, other: SetValue, integers_max: int) -> None:
        """Have the encoding that this set would have if it had held all members of `other`."""
        if self._members is not None:
            return
        if len(other) > integers_max or any(canonical_integer(m) is None for m in other.members()):
            self._to_segments()

    # --- for media ------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """The kind of members, then the numbers or the members packed."""
        if self._members is None:
            return _INTEGERS + self._array().tobytes()
        return _MEMBERS + pack(self._members)

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
        if self._members is None:
            yield self.payload()
            return
        yield _MEMBERS
        for segments in self._members.batches():
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
        return self._members is not None and self._members.shed()

    def part(self, cursor: int, size: int) -> tuple[int, bytes]:
        """Some of the members; all of an intset, which is small."""
        if self._members is None:
            return 0, self.payload()
        mean_bytes = max(1, self.size_bytes // max(1, self._members.size))
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
        if self._members is not None:
            return self._members.random_member(randomness)
        integers = self._array()
        return b"%d" % integers[randomness.randrange(len(integers))]

    def pop_random(self, randomness: Randomness) -> bytes:
        """Remove and return any member; the set is not empty."""
        members = self._members
        if members is None:
            member = self.random_member(randomness)
            self.discard(member)
            return member
        member = members.pop_random(randomness)
        self.size_bytes = _BASE_BYTES + members.size_bytes
        if self.changes is not None:
            self.changes.append(_REMOVED + member)
        return member

    def sample(self, count: int, randomness: Randomness) -> list[bytes]:
        """Any `count` different members; the set has at least so many."""
        if self._members is not None:
            return self._members.sample(count, randomness)
        return sample(self.members(), count, randomness)

    # --- integers ------------------------------------------------------------------------------

    def _array(self) -> array[int]:
        """The integers of an intset."""
        integers = self._integers
        assert integers is not None
        return integers

    def _position(self, value: int) -> int:
        integers = self._array()
        position = bisect_left(integers, value)
        return position if position < len(integers) and integers[position] == value else -1

    def _add_integer(self, value: int, integers_max: int) -> bool:
        integers = self._array()
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

    def _to_segments(self) -> SegmentMap:
        """Have the members of an intset in segments."""
        # Whoever repeats the changes would not know when this came.
        self.changes = None
        members = SegmentMap()
        for value in self._array():
            members.add(b"%d" % value)
        self._integers = None
        self._members = members
        self.size_bytes = _BASE_BYTES + members.size_bytes
        return members

    # --- where it lies in memory ---------------------------------------------------------------

    def renewed(self) -> SetValue:
        """Another object that holds the very same."""
        renewed = SetValue.__new__(SetValue)
        renewed.size_bytes = self.size_bytes
        renewed.changes = self.changes
        renewed._integers = self._integers
        renewed._members = self._members
        return renewed

    def survey(self, survey: Survey, weight: int) -> None:
        """Count the parts and the members of some segments."""
        survey.count(self, _OBJECT_BYTES, weight)
        if self._members is not None:
            self._members.survey(survey, weight)
        else:
            survey.count(self._integers, sys.getsizeof(self._integers), weight)

    def evacuate(self, evacuation: Evacuation, place: int) -> int:
        """Move the parts, then the members, segment by segment."""
        if place == 0 and not self._evacuate_parts(evacuation):
            return 0
        return -1 if self._members is None else self._members.evacuate(evacuation, place)

    def _evacuate_parts(self, evacuation: Evacuation) -> bool:
        """Move all but members and segments; false if the attempts are used up before."""
        if not move_numbers(self, ("size_bytes",), evacuation):
            return False
        if self._members is None:
            integers = evacuation.move_array(self._array())
            self._integers = self._integers if integers is None else integers
            return integers is not None
        self._members, is_done = self._members.moved(evacuation)
        return is_done

    def table(self) -> SegmentMap | None:
        """The table of a hashtable."""
        return self._members

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        if self._members is None:
            integers = self._array().tolist()
            assert integers == sorted(set(integers))
            assert self.size_bytes == _BASE_BYTES + _ARRAY_BYTES + _INTEGER_BYTES * len(integers)
            return
        assert self._integers is None
        self._members.validate()
        assert self.size_bytes == _BASE_BYTES + self._members.size_bytes
