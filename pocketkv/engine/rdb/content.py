"""What dumps are made of and become: values of every type as plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


@dataclass(slots=True)
class ListContent:
    """A list's elements, from left to right."""

    elements: list[bytes]


@dataclass(slots=True)
class SetContent:
    """A set's members, each once; those of integers in ascending order."""

    members: list[bytes]


@dataclass(slots=True)
class HashContent:
    """A hash's fields and their values, in its order."""

    pairs: dict[bytes, bytes]


@dataclass(slots=True)
class SortedSetContent:
    """A sorted set's members and their scores, none of which is no number."""

    scores: dict[bytes, float]


class StreamId(NamedTuple):
    """The ID of an entry: a time, and a number within it."""

    milliseconds: int
    sequence: int


@dataclass(slots=True)
class PendingEntry:
    """An entry that was delivered to a consumer and not acknowledged.

    Attributes:
        delivered_ms: When it was delivered last.
        deliveries: How often.
    """

    delivered_ms: int
    deliveries: int


@dataclass(slots=True)
class ConsumerContent:
    """A consumer of a group.

    Attributes:
        seen_ms: When it was last heard of.
        active_ms: When it last got an entry; -1: never.
        pending: What was delivered to it, in ascending order.
    """

    name: bytes
    seen_ms: int
    active_ms: int
    pending: list[StreamId] = field(default_factory=list)


@dataclass(slots=True)
class GroupContent:
    """A consumer group.

    Attributes:
        entries_read: How many entries it was given so far; -1: that is not known.
        pending: All that is not acknowledged; each belongs to one of the consumers.
    """

    name: bytes
    last_id: StreamId
    entries_read: int
    pending: dict[StreamId, PendingEntry] = field(default_factory=dict)
    consumers: list[ConsumerContent] = field(default_factory=list)


@dataclass(slots=True)
class StreamContent:
    """A stream.

    Attributes:
        entries: ID, and fields and values in turn, in ascending order.
        last_id: The highest ID that it ever had.
        max_deleted_id: The highest one that was deleted.
        entries_added: How many entries it ever had.
    """

    entries: list[tuple[StreamId, list[bytes]]]
    last_id: StreamId
    max_deleted_id: StreamId
    entries_added: int
    groups: list[GroupContent] = field(default_factory=list)


Content: TypeAlias = (
    "bytes | ListContent | SetContent | HashContent | SortedSetContent | StreamContent"
)
