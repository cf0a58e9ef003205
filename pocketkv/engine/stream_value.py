"""The stream type: entries, and groups of consumers that share them.

What is written to a medium is a sequence of notes, the same as are kept of changes: a whole stream
is its numbers, its nodes, then each group with its consumers and deliveries. Each note says how
something is, not by how much it differs, so that one that is repeated, or late, does no harm as
long as those that came after it follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pocketkv.engine.packing import PayloadError, pack, unpack, unpack_some
from pocketkv.engine.stream_entries import (
    ADDED,
    BEGAN,
    REMOVED,
    STATE,
    TRIMMED,
    UNKNOWN_READS,
    StreamEntries,
    signed,
)
from pocketkv.engine.stream_groups import PENDING_BYTES, Consumer, Group, Pending
from pocketkv.engine.stream_node import StreamNode
from pocketkv.engine.values import Collection
from pocketkv.resp.replies import Reply

# Notes beside those of `stream_entries`: a node; a group as it is; one that is no more; the same of
# consumers; deliveries as they are; some that are no more.
_NODE: Final = b"N"
_GROUP: Final = b"G"
_GROUP_GONE: Final = b"X"
_CONSUMER: Final = b"C"
_CONSUMER_GONE: Final = b"D"
_PENDING: Final = b"P"
_SETTLED: Final = b"K"
# Of those that name a group, how many parts each has.
_OF_GROUP: Final = {_CONSUMER: 3, _CONSUMER_GONE: 2, _PENDING: 3, _SETTLED: 2}

# What a stream on a medium begins with.
_STREAM: Final = b"s"
# An id, milliseconds and a count.
_DELIVERY_BYTES: Final = 32
_ID_BYTES: Final = 16

# What is packed, built and freed at a time, each in about a millisecond.
_PIECE_BYTES: Final = 256 * 1024
_STEP_NOTES: Final = 16
_STEP_PENDING: Final = 512
_SHED_NODES: Final = 64

# Kinds of cursors: what comes next are nodes, or groups.
_AT_NODES: Final = 1
_AT_GROUPS: Final = 2


class StreamValue(StreamEntries):
    """A stream.

    Attributes:
        groups: Its groups, by name.
    """

    __slots__ = ("groups",)

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[bytes, Group] = {}

    def group_names(self) -> list[bytes]:
        """The names of all groups, in order."""
        return sorted(self.groups)

    def copy(self) -> StreamValue:
        """A stream of the same contents, to be changed on its own."""
        copied = StreamValue()
        copied.set_state(self.last_id, self.entries_added, self.max_deleted_id)
        for node in self._nodes:
            copied.adopt(node.copy())
        for name in self.groups:
            for note in self._group_notes(name, 0, len(self.groups[name].pending))[0]:
                copied.apply_change(note)
        return copied

    # --- groups --------------------------------------------------------------------------------

    def set_group(self, name: bytes, last_id: int, entries_read: int) -> None:
        """Have a group of this name, which has read so far."""
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name, last_id, entries_read)
            self.size_bytes += group.cost_bytes()
        group.last_id = last_id
        group.entries_read = entries_read
        if self.changes is not None:
            self.changes.append(_group_note(group))

    def remove_group(self, name: bytes) -> bool:
        """Remove a group with its consumers; false if there is none."""
        group = self.groups.pop(name, None)
        if group is None:
            return False
        self.size_bytes -= group.cost_bytes() + PENDING_BYTES * len(group.pending)
        for consumer in group.consumers.values():
            self.size_bytes -= consumer.cost_bytes()
        if self.changes is not None:
            self.changes.append(_GROUP_GONE + name)
        return True

    def see_consumer(self, group: Group, name: bytes, now_ms: int) -> Consumer:
        """The consumer of this name, who asks for something now, and perhaps is new."""
        consumer = group.consumers.get(name)
        if consumer is None:
            consumer = group.consumers[name] = Consumer(name, now_ms)
            self.size_bytes += consumer.cost_bytes()
        elif consumer.seen_ms == now_ms:
            return consumer
        consumer.seen_ms = now_ms
        if self.changes is not None:
            self.changes.append(_consumer_note(group, consumer))
        return consumer

    def remove_consumer(self, group: Group, name: bytes) -> int:
        """Remove a consumer; how many deliveries it had, -1 if there is none."""
        consumer = group.consumers.pop(name, None)
        if consumer is None:
            return -1
        count = len(consumer.pending)
        for entry_id in consumer.pending:
            group.pending.pop(entry_id)
        self.size_bytes -= consumer.cost_bytes() + PENDING_BYTES * count
        if self.changes is not None:
            self.changes.append(_CONSUMER_GONE + pack((group.name, name)))
        return count

    # --- deliveries ------------------------------------------------------------------------------

    def read_new(
        self, group: Group, count: int, consumer: Consumer | None, now_ms: int
    ) -> list[Reply]:
        """The next entries for a group, which has read them then.

        Args:
            group: The group.
            count: How many at most; 0: all.
            consumer: Whose deliveries they become; ``None``: they need no acknowledgement.
            now_ms: The time.
        """
        start = group.last_id
        ids = self.ids_after(start, count)
        if not ids:
            return []
        for entry_id in ids:
            if group.entries_read != UNKNOWN_READS and not self.has_gap_after(entry_id):
                group.entries_read = signed(group.entries_read + 1)
            elif self.entries_added:
                group.entries_read = signed(self.reads_until(entry_id))
        group.last_id = ids[-1]
        if consumer is not None:
            for entry_id in ids:
                self.deliver(group, entry_id, consumer, now_ms, 1)
        if self.changes is not None:
            self.changes.append(_group_note(group))
            if consumer is not None:
                self.changes += _pending_notes(group, ids)
        return self.range(ids[0], ids[-1], 0)

    def deliver(
        self, group: Group, entry_id: int, consumer: Consumer, delivered_ms: int, count: int
    ) -> None:
        """Have an entry be delivered to a consumer, whoever had it before; nothing is noted."""
        pending = group.pending.get(entry_id)
        if pending is None:
            pending = Pending(consumer, delivered_ms, count)
            group.pending.put(entry_id, pending)
            consumer.pending.put(entry_id, pending)
            self.size_bytes += PENDING_BYTES
            return
        pending.delivered_ms = delivered_ms
        pending.count = count
        if pending.consumer is not consumer:
            pending.consumer.pending.pop(entry_id)
            consumer.pending.put(entry_id, pending)
            pending.consumer = consumer

    def note_deliveries(self, group: Group, ids: list[int]) -> None:
        """Note that these entries were delivered, as they are pending now."""
        if self.changes is not None and ids:
            self.changes += _pending_notes(group, ids)

    def settle(self, group: Group, ids: list[int]) -> int:
        """Have entries be pending no more; how many were."""
        settled: list[bytes] = []
        count = 0
        for entry_id in ids:
            pending = group.pending.pop(entry_id)
            if pending is None:
                continue
            pending.consumer.pending.pop(entry_id)
            count += 1
            if self.changes is not None:
                settled.append(entry_id.to_bytes(_ID_BYTES, "big"))
        self.size_bytes -= PENDING_BYTES * count
        if self.changes is not None and settled:
            self.changes.append(_SETTLED + pack((group.name, b"".join(settled))))
        return count

    # --- for media ------------------------------------------------------------------------------

    def payload(self) -> bytes:
        """Its mark, then all notes."""
        return b"".join(self.payload_pieces())

    def payload_pieces(self) -> Iterator[bytes]:
        """Its mark, then some notes at a time."""
        cursor, piece = self.part(0, _PIECE_BYTES)
        yield piece
        while cursor:
            cursor, piece = self.part(cursor, _PIECE_BYTES)
            yield piece[len(_STREAM) :]

    @classmethod
    def of_payload(cls, payload: bytes) -> StreamValue:
        """The stream that was stored.

        Raises:
            PayloadError: It is none.
        """
        *_, made = cls.building(payload)
        assert isinstance(made, StreamValue)  # The last one is the value.
        return made

    @classmethod
    def building(cls, payload: bytes) -> Iterator[Collection | None]:
        """The stream that was stored, some notes at a time.

        Raises:
            PayloadError: It is none.
        """
        if payload[: len(_STREAM)] != _STREAM:
            raise PayloadError("not a stream")
        made = cls()
        position = len(_STREAM)
        while position < len(payload):
            notes, position = unpack_some(payload, position, _STEP_NOTES)
            for note in notes:
                made.apply_change(note)
            yield None
        yield made

    def part(self, cursor: int, size: int) -> tuple[int, bytes]:
        """The numbers and some nodes, or some groups and deliveries."""
        kind, place = cursor & 3, cursor >> 2
        notes: list[bytes] = []
        if kind == 0:
            notes.append(self.state_note())
        if kind != _AT_GROUPS:
            for i in range(self._node_of(place), len(self._nodes)):
                node = self._nodes[i]
                if size <= 0:
                    return node.first << 2 | _AT_NODES, _STREAM + pack(notes)
                # What has been sent of a node that grew since, comes as a change.
                if node.first >= place:
                    notes.append(_NODE + node.payload())
                    size -= len(notes[-1])
            place = 0
        following = self._group_part(place, size, notes)
        return following, _STREAM + pack(notes)

    def _group_part(self, place: int, size: int, notes: list[bytes]) -> int:
        """Add notes of some groups; the cursor that follows."""
        first_name, first_id = b"", 0
        if place:
            raw = place.to_bytes((place.bit_length() + 7) // 8, "big")
            first_id = int.from_bytes(raw[1 : 1 + _ID_BYTES], "big")
            first_name = raw[1 + _ID_BYTES :]
        for name in self.group_names():
            if name < first_name:
                continue
            start = first_id if name == first_name else 0
            while start >= 0:
                if size <= 0:
                    raw = b"\1" + start.to_bytes(_ID_BYTES, "big") + name
                    return int.from_bytes(raw, "big") << 2 | _AT_GROUPS
                found, start = self._group_notes(name, start, _STEP_PENDING)
                notes += found
                size -= sum(map(len, found))
        return 0

    def _group_notes(self, name: bytes, start: int, count: int) -> tuple[list[bytes], int]:
        """Notes of a group and of deliveries from an id on; the next id, -1 if that was all."""
        group = self.groups[name]
        notes: list[bytes] = []
        if start == 0:
            notes.append(_group_note(group))
            notes += [_consumer_note(group, consumer) for consumer in group.consumers.values()]
        some = group.pending.some(start, group.pending.last(), count) if group.pending else []
        notes += _pending_notes(group, [entry_id for entry_id, _ in some])
        following = some[-1][0] + 1 if len(some) == count and some else -1
        return notes, following

    def add_part(self, payload: bytes) -> None:
        """More notes."""
        if payload[: len(_STREAM)] != _STREAM:
            raise PayloadError("not a part of a stream")
        for note in unpack(payload[len(_STREAM) :]):
            self.apply_change(note)

    def shed(self) -> bool:
        """Free some nodes, or some deliveries."""
        if self._nodes:
            del self._nodes[-_SHED_NODES:]
            return True
        for name, group in self.groups.items():
            for consumer in group.consumers.values():
                # Those that the group refers to are freed with its own list.
                if consumer.pending.shed():
                    return True
            if not group.pending.shed():
                del self.groups[name]
            return True
        return False

    def apply_change(self, change: bytes) -> None:
        """Change it again as it was changed when this was noted."""
        kind, rest = change[:1], change[1:]
        if kind in (ADDED, BEGAN):
            self._add_again(change)
        elif kind == _NODE:
            self.adopt(StreamNode.of_payload(rest))
        elif kind == REMOVED:
            self._remove(int.from_bytes(rest[:_ID_BYTES], "big"))
            self.max_deleted_id = int.from_bytes(rest[_ID_BYTES:], "big")
        elif kind == TRIMMED:
            self.remove_before(int.from_bytes(rest, "big"))
        elif kind == STATE:
            numbers = rest[:16], rest[16:24], rest[24:40]
            self.set_state(*[int.from_bytes(number, "big") for number in numbers])
        else:
            self._change_groups_again(kind, rest)

    def _change_groups_again(self, kind: bytes, rest: bytes) -> None:
        if kind == _GROUP:
            last_id, reads = int.from_bytes(rest[:16], "big"), rest[16:24]
            self.set_group(rest[24:], last_id, int.from_bytes(reads, "big", signed=True))
            return
        if kind == _GROUP_GONE:
            self.remove_group(rest)
            return
        parts = unpack(rest)
        if kind not in _OF_GROUP or len(parts) != _OF_GROUP[kind]:
            raise PayloadError("not a change of a stream")
        name, *others = parts
        group = self.groups.get(name)
        if group is None:
            # It has gone since.
            return
        if kind == _CONSUMER:
            self.see_consumer(group, others[0], int.from_bytes(others[1], "big", signed=True))
        elif kind == _CONSUMER_GONE:
            self.remove_consumer(group, others[0])
        elif kind == _PENDING:
            self._deliver_again(group, others[0], others[1])
        else:
            ids = others[0]
            places = range(0, len(ids), _ID_BYTES)
            self.settle(group, [int.from_bytes(ids[i : i + _ID_BYTES], "big") for i in places])

    def _deliver_again(self, group: Group, name: bytes, deliveries: bytes) -> None:
        consumer = group.consumers.get(name)
        if consumer is None:
            return
        for i in range(0, len(deliveries), _DELIVERY_BYTES):
            entry_id = int.from_bytes(deliveries[i : i + 16], "big")
            delivered_ms = int.from_bytes(deliveries[i + 16 : i + 24], "big", signed=True)
            count = int.from_bytes(deliveries[i + 24 : i + 32], "big", signed=True)
            self.deliver(group, entry_id, consumer, delivered_ms, count)

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        super().validate()
        size = type(self)().size_bytes
        for node in self._nodes:
            size += node.size_bytes()
        for name, group in self.groups.items():
            assert name == group.name
            group.validate()
            size += group.cost_bytes() + PENDING_BYTES * len(group.pending)
            size += sum(consumer.cost_bytes() for consumer in group.consumers.values())
        assert size == self.size_bytes


# --- notes -------------------------------------------------------------------------------------


def _group_note(group: Group) -> bytes:
    return (
        _GROUP
        + group.last_id.to_bytes(16, "big")
        + group.entries_read.to_bytes(8, "big", signed=True)
        + group.name
    )


def _consumer_note(group: Group, consumer: Consumer) -> bytes:
    seen = consumer.seen_ms.to_bytes(8, "big", signed=True)
    return _CONSUMER + pack((group.name, consumer.name, seen))


def _pending_notes(group: Group, ids: list[int]) -> list[bytes]:
    """One note for each consumer that has some of these entries."""
    by_consumer: dict[bytes, list[bytes]] = {}
    for entry_id in ids:
        pending = group.pending.get(entry_id)
        assert pending is not None  # The caller has just put it there, or found it.
        by_consumer.setdefault(pending.consumer.name, []).append(
            entry_id.to_bytes(16, "big")
            + pending.delivered_ms.to_bytes(8, "big", signed=True)
            + pending.count.to_bytes(8, "big", signed=True)
        )
    return [
        _PENDING + pack((group.name, name, b"".join(deliveries)))
        for name, deliveries in by_consumer.items()
    ]
