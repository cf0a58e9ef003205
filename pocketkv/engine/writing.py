"""Writing huge collections whole, a part at a time, while they are used.

A collection that has many changes on its medium is written anew (`Rewriting`). What is in it from
the first part to the last one is in some part, and what is changed meanwhile is written as a change
as ever, behind the old whole; so both the old whole with all changes, and the parts with those
since they were begun, are the value. Which of the two counts is decided by one record, the end of
the parts. One that is not in memory is copied as it is, record by record (`Carrying`).

Whatever takes the value away, or makes it another, ends the writing, and the parts are given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketkv.engine.chains import Chain, of_parts, sum_of
from pocketkv.engine.cold import CARRIED, CHANGE, FIRST_COLLECTION, PART, PARTED, Cold
from pocketkv.engine.payloads import code_of
from pocketkv.engine.values import Collection
from pocketkv.limits import KIB

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import Keyspace
    from pocketkv.engine.shelf import Shelf

PARTED_BYTES: Final = 256 * KIB
"""A collection that takes more memory is written in parts."""

PART_BYTES: Final = 64 * KIB
"""Memory of what is written as one part, about."""

# A value is written whole instead of as one more change, when it has so many (a large one: more, as
# its type and its medium say) ...
_CHANGES_MAX: Final = 32
# ... or when it is no larger than this, or than its changes.
_WHOLE_BYTES_MAX: Final = 512
# So many changes are added up each time.
_COUNTED_RECORDS: Final = 512
_GROUPS: Final = 1 << 62


class Writing:
    """A collection that is being written whole.

    Args:
        shelf: Where it is kept.
        key: Its key.

    Attributes:
        records: What was written of it so far.
        is_over: It is written, or will not be.
        again: All of it is to be written once more, since some of it must leave its place.
        is_stuck: There was no room for the last step.
    """

    def __init__(self, shelf: Shelf, key: bytes) -> None:
        self.shelf = shelf
        self.key = key
        self.records: list[Cold] = []
        self.is_over = False
        self.again = False
        self.is_stuck = False
        self._sums = bytearray()
        # Tells its records from those of another attempt.
        self._group = 1 + shelf.keyspace.randomness.randrange(_GROUPS)
        # How many records of the chain are from before it began.
        self._begun = -1

    def source(self) -> Cold | None:
        """What has to be read for the next step."""
        return None

    def step(self, payload: bytes | None = None) -> bool:
        """Write a part; false if there is no room for it.

        Args:
            payload: What was read of `source`.
        """
        raise NotImplementedError  # An interface: what is written comes from different places.

    def end(self, *, release: bool = True) -> None:
        """Leave it: what was written is of no use.

        Args:
            release: Whether it has to be given back.
        """
        if self._close() and release:
            for record in self.records:
                self.shelf.journal.release(record)
            self.records = []

    def stands_in(self, place: object) -> bool:
        """Whether something of it was written to a place."""
        return any(record.place is place for record in self.records)

    def _close(self) -> bool:
        if self.is_over:
            return False
        self.is_over = True
        self.shelf.writings.pop(self.key, None)
        return True

    def _has_room(self, size: int) -> bool:
        # An element more than a part is to have, and the end, find room as well.
        self.is_stuck = not self.shelf.journal.reserve(2 * size)
        return not self.is_stuck

    def _write(self, kind: int, payload: bytes) -> None:
        shelf = self.shelf
        record = shelf.journal.part(shelf.db.number, self.key, kind, payload, self._group)
        self.records.append(record)
        self._sums += sum_of(payload)

    def _finish(self, code: int) -> Chain:
        """Have the parts be the value, with the changes since."""
        shelf, key = self.shelf, self.key
        due_ms = shelf.db.expiry_ms(key) or 0
        end = shelf.journal.put(shelf.db.number, key, code | PARTED, bytes(self._sums), due_ms)
        chain = shelf.chains.get(key, Chain([]))
        for record in chain[: self._begun]:
            shelf.journal.release(record)
        made = of_parts(end, self.records, chain[self._begun :])
        shelf.chains[key] = made
        self._close()
        return made


class Rewriting(Writing):
    """One that is in memory."""

    def __init__(self, shelf: Shelf, key: bytes) -> None:
        super().__init__(shelf, key)
        self._cursor = 0
        # The value when it was begun, and what of it the parts are made of, if it may not change.
        self._value: Collection | None = None
        self._frozen: list[Any] | None = None

    def step(self, payload: bytes | None = None) -> bool:
        """Write a part of what is in it."""
        shelf = self.shelf
        if not self._has_room(PART_BYTES):
            return False
        # What is not written as a change yet must be none of one that comes after the parts.
        shelf.write_changes()
        value = shelf.db.find_stored(self.key)
        if not self.is_over:
            assert isinstance(value, Collection)  # Whatever takes it away ends this.
            self.write_part(value)
        return True

    def write_all(self, value: Collection) -> None:
        """Write all of it at once; it has no chain, or one that does not lead to what it is."""
        while not self.is_over:
            self.write_part(value)

    def write_part(self, value: Collection) -> None:
        """Write the next part, and the end behind the last one."""
        if self._begun < 0:
            self._begun = len(self.shelf.chains.get(self.key, ()))
            self._value = value
            self._frozen = value.freeze()
        self._cursor, payload = value.part_of(self._frozen, self._cursor, PART_BYTES)
        self._write(PART, payload)
        if not self._cursor:
            self._finish(code_of(value))
            if self.again:
                self.shelf.begin_writing(self.key)

    def _close(self) -> bool:
        if not super()._close():
            return False
        if self._value is not None and self._frozen is not None:
            # It may be another key's by now.
            self._value.thaw(self._frozen)
        self._value = self._frozen = None
        return True


class Carrying(Writing):
    """One that is not in memory, whose records are written again as they are."""

    def __init__(self, shelf: Shelf, key: bytes) -> None:
        super().__init__(shelf, key)
        # If there is an end of parts, it is made anew.
        chain = shelf.chains[key]
        self._sources = chain[1 if chain[0].kind & PARTED else 0 :]

    def source(self) -> Cold | None:
        """The next record."""
        return self._sources[len(self.records)]

    def step(self, payload: bytes | None = None) -> bool:
        """Write a record again."""
        assert payload is not None  # There is always a source.
        if not self._has_room(len(payload)):
            return False
        kind = self._sources[len(self.records)].kind
        self._write(CARRIED if kind in (CARRIED, CHANGE) else PART, payload)
        if len(self.records) == len(self._sources):
            self._conclude()
        return True

    def _conclude(self) -> None:
        shelf, key = self.shelf, self.key
        old = shelf.chains[key][0]
        self._begun = len(shelf.chains[key])
        chain = self._finish(old.kind & ~PARTED)
        shelf.db.exchange(key, old, chain[0])
        if self.again:
            shelf.begin_writing(key)


def next_writing(keyspace: Keyspace) -> Writing | None:
    """What is to be written next; of several, each has its turn."""
    writings = keyspace.writings
    while writings:
        writing = writings.pop(0)
        if not writing.is_over:
            writings.append(writing)
            return writing
    return None


def is_whole_due(chain: Chain, value: Collection, changes: list[bytes], change_bytes: int) -> bool:
    """Whether a value is better written whole than with one change more.

    Args:
        chain: What there is of it.
        value: The value.
        changes: What that would have.
        change_bytes: What its medium says (see `Store`).
    """
    size = sum(map(len, changes)) + 4 * len(changes)
    if chain.changes < _COUNTED_RECORDS or chain.changes % _COUNTED_RECORDS == 0:
        # Of many, not with each one more.
        size += sum(record.record_bytes for record in chain[chain.whole :])
    changes_max = max(_CHANGES_MAX, value.size_bytes // min(value.change_bytes, change_bytes))
    is_small = value.size_bytes <= _WHOLE_BYTES_MAX
    return is_small or chain.changes >= changes_max or size >= value.size_bytes


def leaves_later(shelf: Shelf, key: bytes, place: object) -> bool:
    """Have what is in a place of a huge value be written elsewhere in steps.

    Returns:
        False: it is no such, and has to be written whole now.
    """
    writing = shelf.writings.get(key)
    if writing is not None:
        # What was before it began is given back at its end.
        writing.again = writing.again or writing.stands_in(place)
        return True
    chain = shelf.chains.get(key, Chain([]))
    if not any(record.place is place for record in chain):
        return True
    entry = shelf.db.find_stored(key)
    size = sum(record.length for record in chain)
    if isinstance(entry, Collection):
        size = entry.size_bytes
    if size <= PARTED_BYTES or chain[0].kind < FIRST_COLLECTION:
        return False
    shelf.begin_writing(key)
    return True
