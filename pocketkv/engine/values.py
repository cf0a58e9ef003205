"""What a key may hold.

A string is a ``bytes``, or a ``bytearray`` once it was changed in place (APPEND, SETRANGE), so
that appending stays cheap; a large one may be a `LargeString`, which is no object of its bytes.
Every other type is a `Collection`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pocketkv.engine.cold import Cold
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.sizes import bytes_object

if TYPE_CHECKING:
    from pocketkv.engine.regions import Evacuation, Survey
    from pocketkv.engine.segments import SegmentMap


# A collection that takes more is freed in the background, in parts.
SHED_BYTES_MIN: Final = 256 * 1024


class Collection:
    """Base of all values with elements.

    Attributes:
        size_bytes: What the elements cost, kept up to date by each change (see `sizes`).
        change_bytes: On a medium, all of it is written anew when there are more changes than one
            for so many of its bytes: fewer make changes cheaper, and a cold value dearer to read.
        changes: What was changed since it was last written to a medium, in the type's own words;
            ``None``: nobody keeps account of it, so that only the whole value can be written.
    """

    __slots__ = ("changes", "size_bytes")

    type_name = "none"
    change_bytes = 64 * 1024

    def __init__(self) -> None:
        self.size_bytes = 0
        self.changes: list[bytes] | None = None

    def __len__(self) -> int:
        raise NotImplementedError  # An interface: every type counts its own elements.

    def encoding(self) -> str:
        """What OBJECT ENCODING answers."""
        raise NotImplementedError  # An interface: every type has its own encodings.

    def copy(self) -> Collection:
        """A value that shares nothing that changes with this one."""
        raise NotImplementedError  # An interface: every type copies its own elements.

    def table(self) -> SegmentMap | None:
        """The table that the elements are in; ``None``: they are in no such."""
        return None

    def validate(self) -> None:
        """Check what must always hold; tests call it."""

    # --- for media ------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """The whole value, to be stored."""
        raise NotImplementedError  # An interface: every type has its own form.

    @classmethod
    def of_payload(cls, payload: bytes) -> Collection:
        """The value that was stored.

        Raises:
            PayloadError: It is none of this type.
        """
        raise NotImplementedError  # An interface: every type has its own form.

    def part(self, cursor: int, size: int) -> tuple[int, bytes]:
        """A part of the value, by itself a payload of about so many bytes; small ones are whole.

        Args:
            cursor: 0 to begin, or what the last call returned.
            size: How long it should be.

        Returns:
            The next cursor, 0 at the end, and the payload. What is in the value from the first
            call to the last one is met at least once.
        """
        return 0, self.payload()

    def freeze(self) -> list[Any] | None:
        """What `part_of` makes parts of, until `thaw`; ``None``: of the value as it is by then.

        What is not frozen may change between parts, as `part` tells.
        """
        return None

    def part_of(self, frozen: list[Any] | None, cursor: int, size: int) -> tuple[int, bytes]:
        """`part`, of what was frozen."""
        return self.part(cursor, size)

    def thaw(self, frozen: list[Any]) -> None:
        """Nobody asks for parts of what was frozen any more."""

    def add_part(self, payload: bytes) -> None:
        """Take in another part of the value that this was made of the first part of.

        Raises:
            PayloadError: It is none.
        """
        raise NotImplementedError  # An interface: only a type that makes parts knows them.

    def payload_pieces(self) -> Iterator[bytes]:
        """`payload` in pieces, each made in about a millisecond.

        If the value is changed before the last one was made, they are of no use.
        """
        yield self.payload()

    @classmethod
    def building(cls, payload: bytes) -> Iterator[Collection | None]:
        """`of_payload` in steps of about a millisecond: ``None`` for each, and at last the value.

        Raises:
            PayloadError: As `of_payload`.
        """
        yield cls.of_payload(payload)

    def shed(self) -> bool:
        """Free some of what a value holds that nobody needs; false if the rest may go at once.

        Whoever asked for parts of it may still ask for more; they may then say nothing.
        """
        return False

    def apply_change(self, change: bytes) -> None:
        """Change it again as it was changed when this stood in `changes`."""
        raise NotImplementedError  # An interface: only a type that notes changes knows them.

    # --- for defragmentation: a type that does nothing about it stays where it is --------------

    def renewed(self) -> Collection | None:
        """An object that takes this one's place, with all that it holds; ``None``: it cannot."""
        return None

    def survey(self, survey: Survey, weight: int) -> None:
        """Count what can be moved, or a sample if it is much."""

    def evacuate(self, evacuation: Evacuation, place: int) -> int:
        """Move what it holds out of regions that are left, and make anew what has too much room.

        Args:
            evacuation: Whose attempts this uses up.
            place: 0, then what the last call returned; the value may have changed meanwhile.

        Returns:
            Where to go on once there are new attempts, or -1 if everything is done.
        """
        return -1


String: TypeAlias = "bytes | bytearray | LargeString"
Value: TypeAlias = "String | Collection"
# What a table holds for a key.
Entry: TypeAlias = "Value | Cold"


def value_cost(value: Entry) -> int:
    """Memory of a value, without its key; of one that is not in memory, what its `Cold` says."""
    if type(value) is bytes:
        return bytes_object(len(value))
    if isinstance(value, Collection):
        return value.size_bytes
    if isinstance(value, LargeString):
        return value.size_bytes
    if isinstance(value, Cold):
        return value.cost_bytes
    # A bytearray keeps some room to grow.
    return 64 + len(value) + (len(value) >> 3)


def type_name(value: Value) -> str:
    """What TYPE answers."""
    return value.type_name if isinstance(value, Collection) else "string"
