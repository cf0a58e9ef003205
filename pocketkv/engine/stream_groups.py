"""Consumer groups of a stream: who was given which entries, and has not said that it is done.

These objects are changed by `StreamValue` only, which accounts for what they cost and notes what
has changed.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine.pending_map import PendingMap
from pocketkv.engine.sizes import DICT_ENTRY_BYTES, bytes_object
from pocketkv.engine.stream_entries import UNKNOWN_READS

# The objects and their numbers, without their names.
_GROUP_BYTES: Final = 360
_CONSUMER_BYTES: Final = 260
# A delivery with its time and id, and its places in the two lists.
PENDING_BYTES: Final = 144


class Pending:
    """An entry that was delivered and is not acknowledged.

    Attributes:
        consumer: Who has it.
        delivered_ms: When it was delivered last.
        count: How often it was delivered.
    """

    __slots__ = ("consumer", "count", "delivered_ms")

    def __init__(self, consumer: Consumer, delivered_ms: int, count: int) -> None:
        self.consumer = consumer
        self.delivered_ms = delivered_ms
        self.count = count


class Consumer:
    """A member of a group.

    Attributes:
        name: Its name.
        seen_ms: When it last asked for something.
        pending: Its deliveries, by id.
    """

    __slots__ = ("name", "pending", "seen_ms")

    def __init__(self, name: bytes, seen_ms: int) -> None:
        self.name = name
        self.seen_ms = seen_ms
        self.pending: PendingMap = PendingMap()

    def cost_bytes(self) -> int:
        """What it costs, without its deliveries."""
        return _CONSUMER_BYTES + DICT_ENTRY_BYTES + bytes_object(len(self.name))


class Group:
    """A group of consumers.

    Attributes:
        name: Its name.
        last_id: The id that was delivered last.
        entries_read: How many entries it has read; `UNKNOWN_READS`: that is not known.
        pending: Deliveries to all of its consumers, by id.
        consumers: By name.
    """

    __slots__ = ("consumers", "entries_read", "last_id", "name", "pending")

    def __init__(self, name: bytes, last_id: int, entries_read: int = UNKNOWN_READS) -> None:
        self.name = name
        self.last_id = last_id
        self.entries_read = entries_read
        self.pending: PendingMap = PendingMap()
        self.consumers: dict[bytes, Consumer] = {}

    def cost_bytes(self) -> int:
        """What it costs, without its consumers and deliveries."""
        return _GROUP_BYTES + DICT_ENTRY_BYTES + bytes_object(len(self.name))

    def consumer_names(self) -> list[bytes]:
        """The names of all consumers, in order."""
        return sorted(self.consumers)

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        self.pending.validate()
        count = 0
        for name, consumer in self.consumers.items():
            assert name == consumer.name
            consumer.pending.validate()
            count += len(consumer.pending)
            for entry_id in consumer.pending:
                pending = self.pending.get(entry_id)
                assert pending is consumer.pending.get(entry_id)
                assert pending is not None
                assert pending.consumer is consumer
        assert count == len(self.pending)
