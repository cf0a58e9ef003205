"""The hash type: fields in one dict while they are few and small, otherwise in segments.

A hash begins as what Redis calls ``listpack``: its fields stand in the order in which they came. It
becomes ``hashtable`` for good when it has more fields than `hash-max-listpack-entries`, or a field
or value is longer than `hash-max-listpack-value`. A hashtable is a `SegmentMap`, which grows
without a pause.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.engine.packing import PayloadError, pack, unpack_some
from pocketkv.engine.segments import SegmentMap, evacuate_dict, move_numbers, sample, survey_dict
from pocketkv.engine.sizes import bytes_object
from pocketkv.engine.values import Collection

if TYPE_CHECKING:
    from pocketkv.engine.randomness import Randomness
    from pocketkv.engine.regions import Evacuation, Survey

# Fields and values that are built at a time, in about a millisecond.
_STEP_ITEMS: Final = 512

# The object, and the numbers that it holds.
_OBJECT_BYTES: Final = 72
_BASE_BYTES: Final = 144
# A dict of up to five entries, and each entry of a larger one, at an average fill.
_SMALL_DICT_BYTES: Final = 240
_SMALL_DICT_ENTRIES: Final = 5
_ENTRY_BYTES: Final = 46

# What is written to media: kinds of hashes, and of changes.
_LISTPACK: Final = b"l"
_HASHTABLE: Final = b"h"
_SET: Final = b"+"
_REMOVED: Final = b"-"
# Of the length of a field, before the field and its value.
_LENGTH_BYTES: Final = 4


def pair_cost(field: bytes, value: bytes) -> int:
    """What a field and its value cost."""
    return _ENTRY_BYTES + bytes_object(len(field)) + bytes_object(len(value))


class HashValue(Collection):
    """Fields, each with a value: byte strings."""

    __slots__ = ("_held_bytes", "_listpack", "_table")

    type_name = "hash"

    def __init__(self) -> None:
        super().__init__()
        # One of the two.
        self._listpack: dict[bytes, bytes] | None = {}
        self._table: SegmentMap | None = None
        # What fields and values cost, but for fields in the table, which counts them itself.
        self._held_bytes = 0
        self.size_bytes = _BASE_BYTES + _SMALL_DICT_BYTES

    @classmethod
    def of(cls, items: Iterable[bytes], entries_max: int, value_max: int) -> HashValue:
        """A hash of fields, each followed by its value, set in this order."""
        made = cls()
        pairs = iter(items)
        for field, value in zip(pairs, pairs, strict=True):
            made.set(field, value, entries_max, value_max)
        return made

    # --- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._table is not None:
            return self._table.size
        return len(self._few())

    def get(self, field: bytes) -> bytes | None:
        """The value of a field; ``None`` if it is not there."""
        if self._table is not None:
            value: bytes | None = self._table.get(field)
            return value
        return self._few().get(field)

    def fields(self) -> list[bytes]:
        """All fields; those of a listpack in the order in which they came."""
        return list(self._few()) if self._table is None else self._table.members()

    def values(self) -> list[bytes]:
        """The values, in the order of `fields`."""
        if self._table is None:
            return list(self._few().values())
        return [value for segment in self._table.segments for value in segment.values()]

    def pairs(self) -> dict[bytes, bytes]:
        """All fields with their values, in a dict of its own."""
        return _merged([self._few()] if self._table is None else self._table.segments)

    def encoding(self) -> str:
        """What OBJECT ENCODING answers."""
        return "listpack" if self._table is None else "hashtable"

    def copy(self) -> HashValue:
        """A hash of the same fields, values and encoding, to be changed on its own."""
        copied = self.renewed()
        copied.changes = None
        copied._listpack = None if self._listpack is None else self._listpack.copy()
        copied._table = None if self._table is None else self._table.copy()
        return copied

    def scan(self, cursor: int, count: int) -> tuple[int, dict[bytes, bytes]]:
        """One step of a walk: the next cursor (0 at the end), and about `count` pairs.

        What is in the hash from the walk's beginning to its end is met at least once.
        """
        if self._table is None:
            return 0, self.pairs()
        cursor, segments = self._table.walk(cursor, count)
        return cursor, _merged(segments)

    # --- changing ------------------------------------------------------------------------------

    def set(self, field: bytes, value: bytes, entries_max: int, value_max: int) -> bool:
        """Have a field a value; whether the field is new.

        A listpack has up to `entries_max` fields; the longest field or value has `value_max` bytes.
        """
        if self._listpack is None or len(field) > value_max or len(value) > value_max:
            return self._set_in_table(field, value)
        listpack = self._listpack
        old = listpack.get(field)
        listpack[field] = value
        if self.changes is not None:
            self._note_set(field, value)
        held_bytes = bytes_object(len(value))
        if old is None:
            held_bytes += bytes_object(len(field))
            if len(listpack) > _SMALL_DICT_ENTRIES:
                self.size_bytes += _dict_growth(len(listpack))
        else:
            held_bytes -= bytes_object(len(old))
        self._held_bytes += held_bytes
        self.size_bytes += held_bytes
        if len(listpack) > entries_max:
            self.to_table()
        return old is None

    def _set_in_table(self, field: bytes, value: bytes) -> bool:
        table = self._table
        if table is None:
            table = self.to_table()
        if self.changes is not None:
            self._note_set(field, value)
        old: bytes | None = table.put(field, value)
        self._held_bytes += bytes_object(len(value))
        if old is not None:
            self._held_bytes -= bytes_object(len(old))
        self.size_bytes = _BASE_BYTES + self._held_bytes + table.size_bytes
        return old is None

    def _note_set(self, field: bytes, value: bytes) -> None:
        assert self.changes is not None  # The callers have looked.
        length = len(field).to_bytes(_LENGTH_BYTES, "little")
        self.changes.append(b"%b%b%b%b" % (_SET, length, field, value))

    def discard(self, field: bytes) -> bool:
        """Remove a field; false if it is not there."""
        if self._table is not None:
            old: bytes | None = self._table.take(field)
            if old is None:
                return False
            self._held_bytes -= bytes_object(len(old))
            self.size_bytes = _BASE_BYTES + self._held_bytes + self._table.size_bytes
        else:
            listpack = self._few()
            old = listpack.pop(field, None)
            if old is None:
                return False
            held_bytes = bytes_object(len(old)) + bytes_object(len(field))
            self._held_bytes -= held_bytes
            self.size_bytes -= held_bytes
            if len(listpack) >= _SMALL_DICT_ENTRIES:
                self.size_bytes -= _dict_growth(len(listpack) + 1)
        if self.changes is not None:
            self.changes.append(_REMOVED + field)
        return True

    def _few(self) -> dict[bytes, bytes]:
        """The fields and values of a listpack."""
        listpack = self._listpack
        assert listpack is not None
        return listpack

    def to_table(self) -> SegmentMap:
        """Have the fields of a listpack in segments."""
        # Whoever repeats the changes would not know when this came.
        self.changes = None
        table = SegmentMap()
        self._held_bytes = 0
        for field, value in self._few().items():
            table.put(field, value)
            self._held_bytes += bytes_object(len(value))
        self._listpack = None
        self._table = table
        self.size_bytes = _BASE_BYTES + self._held_bytes + table.size_bytes
        return table

    # --- for media ------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """The kind, then each field and its value packed."""
        return b"".join(self.payload_pieces())

    @classmethod
    def of_payload(cls, payload: bytes) -> HashValue:
        """The hash that was stored.

        Raises:
            PayloadError: It is none.
        """
        *_, made = cls.building(payload)
        assert isinstance(made, HashValue)  # The last one is the value.
        return made

    def payload_pieces(self) -> Iterator[bytes]:
        """The kind, then some segments at a time."""
        if self._table is None:
            yield _LISTPACK + _packed([self._few()])
            return
        yield _HASHTABLE
        for segments in self._table.batches():
            yield _packed(segments)

    @classmethod
    def building(cls, payload: bytes) -> Iterator[Collection | None]:
        """The hash that was stored, some fields at a time.

        Raises:
            PayloadError: It is none.
        """
        if payload[:1] not in (_LISTPACK, _HASHTABLE):
            raise PayloadError("not a hash")
        made = cls()
        if payload[:1] == _HASHTABLE:
            made.to_table()
        position = 1
        while position < len(payload):
            position = made._set_some(payload, position, _STEP_ITEMS)
            yield None
        yield made

    def _set_some(self, payload: bytes, position: int, items_max: int) -> int:
        """Set packed fields from a position on, in the encoding that it has."""
        items, position = unpack_some(payload, position, items_max)
        if len(items) % 2:
            raise PayloadError("a field has no value")
        for i in range(0, len(items), 2):
            self.set(items[i], items[i + 1], sys.maxsize, sys.maxsize)
        return position

    def shed(self) -> bool:
        """Free some segments."""
        return self._table is not None and self._table.shed()

    def part(self, cursor: int, size: int) -> tuple[int, bytes]:
        """Some of the fields; all of a listpack, which is small."""
        if self._table is None:
            return 0, self.payload()
        mean_bytes = max(1, self.size_bytes // max(1, self._table.size))
        cursor, segments = self._table.walk(cursor, max(1, size // mean_bytes))
        return cursor, _HASHTABLE + _packed(segments)

    def add_part(self, payload: bytes) -> None:
        """More fields."""
        if payload[:1] != _HASHTABLE:
            raise PayloadError("not a part of a hash")
        self._set_some(payload, 1, len(payload))

    def apply_change(self, change: bytes) -> None:
        """A field that was set or removed."""
        if change[:1] == _REMOVED:
            self.discard(change[1:])
            return
        start = 1 + _LENGTH_BYTES
        end = start + int.from_bytes(change[1:start], "little")
        self.set(change[start:end], change[end:], sys.maxsize, sys.maxsize)

    # --- at random -----------------------------------------------------------------------------

    def random_field(self, randomness: Randomness) -> bytes:
        """Any field, each as likely as the others; the hash is not empty."""
        if self._table is not None:
            return self._table.random_member(randomness)
        fields = list(self._few())
        return fields[randomness.randrange(len(fields))]

    def random_fields(self, count: int, randomness: Randomness) -> list[bytes]:
        """Any fields, so many, of which some may be the same; the hash is not empty."""
        if self._table is not None:
            table = self._table
            return [table.random_member(randomness) for _ in range(count)]
        fields = list(self._few())
        return [fields[randomness.randrange(len(fields))] for _ in range(count)]

    def sample(self, count: int, randomness: Randomness) -> list[bytes]:
        """Any `count` different fields; the hash has at least so many."""
        if self._table is not None:
            return self._table.sample(count, randomness)
        return sample(self.fields(), count, randomness)

    # --- where it lies in memory ---------------------------------------------------------------

    def renewed(self) -> HashValue:
        """Another object that holds the very same."""
        renewed = HashValue.__new__(HashValue)
        renewed.size_bytes = self.size_bytes
        renewed.changes = self.changes
        renewed._held_bytes = self._held_bytes
        renewed._listpack = self._listpack
        renewed._table = self._table
        return renewed

    def survey(self, survey: Survey, weight: int) -> None:
        """Count the parts, and fields and values, of a table those of some segments."""
        survey.count(self, _OBJECT_BYTES, weight)
        if self._table is not None:
            self._table.survey(survey, weight)
        else:
            survey_dict(self._few(), survey, weight)

    def evacuate(self, evacuation: Evacuation, place: int) -> int:
        """Move the parts, then fields and values, segment by segment."""
        if place == 0 and not move_numbers(self, ("size_bytes", "_held_bytes"), evacuation):
            return 0
        if self._table is None:
            self._listpack, is_done = evacuate_dict(self._few(), evacuation)
            if is_done:
                evacuation.attempts -= 1 + (len(self._listpack) >> 2)
            return -1 if is_done else 0
        if place == 0:
            self._table, is_done = self._table.moved(evacuation)
            if not is_done:
                return 0
        return self._table.evacuate(evacuation, place)

    def table(self) -> SegmentMap | None:
        """The table of a hashtable."""
        return self._table

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        if self._table is not None:
            assert self._listpack is None
            self._table.validate()
            held_bytes = sum(bytes_object(len(value)) for value in self.values())
            assert self._held_bytes == held_bytes
            assert self.size_bytes == _BASE_BYTES + held_bytes + self._table.size_bytes
            return
        few = self._few()
        held_bytes = sum(bytes_object(len(f)) + bytes_object(len(v)) for f, v in few.items())
        assert self._held_bytes == held_bytes
        dict_bytes = max(_SMALL_DICT_BYTES, _ENTRY_BYTES * len(few))
        assert self.size_bytes == _BASE_BYTES + dict_bytes + held_bytes


def _dict_growth(entries: int) -> int:
    """What a dict costs more with so many entries than with one less; they are more than five."""
    if entries == _SMALL_DICT_ENTRIES + 1:
        return _ENTRY_BYTES * entries - _SMALL_DICT_BYTES
    return _ENTRY_BYTES


def _merged(segments: list[dict[bytes, bytes]]) -> dict[bytes, bytes]:
    merged: dict[bytes, bytes] = {}
    for segment in segments:
        merged.update(segment)
    return merged


def _packed(segments: list[dict[bytes, bytes]]) -> bytes:
    return pack(item for segment in segments for pair in segment.items() for item in pair)
