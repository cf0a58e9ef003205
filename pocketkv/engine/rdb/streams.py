"""Streams, as Redis writes them: nodes of entries, numbers, then the groups.

A node is the ID of its first entry and a listpack. That begins with how many entries the node has,
how many of them are deleted, and the fields of the first entry, which most entries have too; then
come the entries: flags, how far the ID is from the node's, fields unless they are those, values,
and how many elements that was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pocketkv.engine.arguments import UINT64_MAX, canonical_integer
from pocketkv.engine.rdb import kinds
from pocketkv.engine.rdb.content import (
    ConsumerContent,
    GroupContent,
    PendingEntry,
    StreamContent,
    StreamId,
)
from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.listpack import element_bytes, elements, packed
from pocketkv.engine.rdb.reader import Reader
from pocketkv.engine.rdb.writer import Writer

_DELETED: Final = 1
_SAME_FIELDS: Final = 2
_ID_BYTES: Final = 16
_ITEM_BYTES: Final = 200
_NODE_BYTES_MAX: Final = 1 << 30
_ZERO: Final = StreamId(0, 0)
_LISTPACK_BYTES: Final = 7


# --- writing -----------------------------------------------------------------------------------


def write_stream(
    writer: Writer, stream: StreamContent, *, node_bytes_max: int, node_entries_max: int
) -> None:
    """Write a stream, its type first.

    Args:
        writer: Where to.
        stream: The stream.
        node_bytes_max: Redis's stream-node-max-bytes; 0: no limit.
        node_entries_max: Redis's stream-node-max-entries; 0: no limit.
    """
    writer.byte(kinds.STREAM)
    if not 0 < node_bytes_max < _NODE_BYTES_MAX:
        node_bytes_max = _NODE_BYTES_MAX
    nodes = _nodes(stream.entries, node_bytes_max, node_entries_max)
    writer.length(len(nodes))
    for node in nodes:
        writer.string(_id_bytes(node.first))
        writer.string(node.blob())
    first_id = stream.entries[0][0] if stream.entries else _ZERO
    writer.length(len(stream.entries))
    for stream_id in (stream.last_id, first_id, stream.max_deleted_id):
        _write_id(writer, stream_id)
    writer.length(stream.entries_added)
    writer.length(len(stream.groups))
    for group in stream.groups:
        _write_group(writer, group)


class _Node:
    """Entries that are written together.

    Args:
        first: The ID of the first one.
        fields: Its fields.
    """

    __slots__ = ("_body_bytes", "_elements", "_entries", "_fields", "_master", "count", "first")

    def __init__(self, first: StreamId, fields: list[bytes]) -> None:
        self.first = first
        self.count = 0
        self._fields = fields
        self._master = [b"%d" % len(fields), *fields, b"0"]
        self._elements = 2 + len(self._master)
        self._entries: list[bytes] = []
        self._body_bytes = sum(len(element_bytes(part)) for part in self._master)

    @property
    def size(self) -> int:
        """The bytes of the listpack."""
        counts = len(element_bytes(self.count)) + len(element_bytes(0))
        return _LISTPACK_BYTES + counts + self._body_bytes

    def add(self, stream_id: StreamId, pairs: list[bytes]) -> None:
        """One more entry."""
        fields = pairs[::2]
        same = fields == self._fields
        entry: list[bytes | int] = [
            _SAME_FIELDS if same else 0,
            _signed(stream_id.milliseconds - self.first.milliseconds),
            _signed(stream_id.sequence - self.first.sequence),
        ]
        if same:
            entry += pairs[1::2]
        else:
            entry += (len(fields), *pairs)
        entry.append(len(entry))
        encoded = b"".join(map(element_bytes, entry))
        self._entries.append(encoded)
        self._body_bytes += len(encoded)
        self._elements += len(entry)
        self.count += 1

    def blob(self) -> bytes:
        """The listpack."""
        head: list[bytes | int] = [self.count, 0, *self._master]
        parts = map(element_bytes, head)
        return packed([*parts, *self._entries], self._elements)


def _signed(number: int) -> int:
    """A difference of two numbers of 64 bits, as C has it."""
    number &= UINT64_MAX
    return number - (1 << 64) if number >> 63 else number


def _nodes(
    entries: list[tuple[StreamId, list[bytes]]], bytes_max: int, entries_max: int
) -> list[_Node]:
    nodes: list[_Node] = []
    for stream_id, pairs in entries:
        node = nodes[-1] if nodes else None
        if (
            node is None
            or node.size + sum(map(len, pairs)) >= bytes_max
            or 0 < entries_max <= node.count
        ):
            node = _Node(stream_id, pairs[::2])
            nodes.append(node)
        node.add(stream_id, pairs)
    return nodes


def _id_bytes(stream_id: StreamId) -> bytes:
    return stream_id.milliseconds.to_bytes(8, "big") + stream_id.sequence.to_bytes(8, "big")


def _write_id(writer: Writer, stream_id: StreamId) -> None:
    writer.length(stream_id.milliseconds)
    writer.length(stream_id.sequence)


def _write_group(writer: Writer, group: GroupContent) -> None:
    writer.string(group.name)
    _write_id(writer, group.last_id)
    writer.length(group.entries_read & UINT64_MAX)
    writer.length(len(group.pending))
    for stream_id, pending in sorted(group.pending.items()):
        writer.parts.append(_id_bytes(stream_id))
        writer.milliseconds(pending.delivered_ms)
        writer.length(pending.deliveries)
    writer.length(len(group.consumers))
    for consumer in group.consumers:
        writer.string(consumer.name)
        writer.milliseconds(consumer.seen_ms)
        writer.length(len(consumer.pending))
        writer.parts += map(_id_bytes, consumer.pending)


# --- reading -----------------------------------------------------------------------------------


def stream_reader(kind: int) -> Callable[[Reader], StreamContent]:
    """What reads streams in one of their three forms, behind the type."""

    def read(reader: Reader) -> StreamContent:
        return _read_stream(reader, kind)

    return read


def _read_stream(reader: Reader, kind: int) -> StreamContent:
    entries: list[tuple[StreamId, list[bytes]]] = []
    for _ in range(_count(reader)):
        key = reader.string()
        if len(key) != _ID_BYTES:
            raise RdbError("a node without an ID")
        _read_node(_id_of(key), elements(reader.string(), reader), entries)
        reader.count(_ITEM_BYTES)
    length = reader.length()
    last_id = _read_id(reader)
    if length != len(entries) or (entries and entries[-1][0] > last_id):
        raise RdbError("not the entries that were announced")
    if any(entries[i][0] >= entries[i + 1][0] for i in range(len(entries) - 1)):
        raise RdbError("entries in no order")
    stream = StreamContent(entries, last_id, _ZERO, length)
    if kind != kinds.OLD_STREAM:
        # The first ID follows from the entries.
        _read_id(reader)
        stream.max_deleted_id = _read_id(reader)
        stream.entries_added = reader.length()
    names = set()
    for _ in range(_count(reader)):
        group = _read_group(reader, kind, stream)
        names.add(group.name)
        stream.groups.append(group)
    if len(names) != len(stream.groups):
        raise RdbError("a group twice")
    return stream


def _count(reader: Reader) -> int:
    """How many parts follow, which may be none."""
    count = reader.length()
    if count > reader.left:
        raise RdbError("more parts than bytes")
    return count


def _id_of(key: bytes) -> StreamId:
    return StreamId(int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big"))


def _read_id(reader: Reader) -> StreamId:
    return StreamId(reader.length(), reader.length())


class _Elements:
    """The elements of a node, to be taken one by one."""

    __slots__ = ("_parts", "position")

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts
        self.position = 0

    def __bool__(self) -> bool:
        return self.position < len(self._parts)

    def take(self, count: int) -> list[bytes]:
        """So many elements."""
        start = self.position
        if not 0 <= count <= len(self._parts) - start:
            raise RdbError("an entry is cut off")
        self.position = start + count
        return self._parts[start : start + count]

    def number(self) -> int:
        """An integer."""
        number = canonical_integer(self.take(1)[0])
        if number is None:
            raise RdbError("no number")
        return number


def _read_node(
    first: StreamId, parts: list[bytes], entries: list[tuple[StreamId, list[bytes]]]
) -> None:
    """Append what a node has to the entries."""
    rest = _Elements(parts)
    live = rest.number()
    deleted = rest.number()
    master = rest.take(rest.number())
    if rest.number() != 0:
        raise RdbError("a node without a beginning")
    before = len(entries)
    gone = 0
    while rest:
        start = rest.position
        flags = rest.number()
        milliseconds = (first.milliseconds + rest.number()) & UINT64_MAX
        sequence = (first.sequence + rest.number()) & UINT64_MAX
        if flags & _SAME_FIELDS:
            values = rest.take(len(master))
            pairs = [part for pair in zip(master, values, strict=True) for part in pair]
        else:
            pairs = rest.take(2 * rest.number())
        if rest.number() != rest.position - start - 1:
            raise RdbError("an entry with a wrong end")
        if flags & _DELETED:
            gone += 1
        elif pairs:
            entries.append((StreamId(milliseconds, sequence), pairs))
        else:
            raise RdbError("an entry without fields")
    if live != len(entries) - before or deleted != gone:
        raise RdbError("a wrong number of entries")


def _read_group(reader: Reader, kind: int, stream: StreamContent) -> GroupContent:
    name = reader.string()
    last_id = _read_id(reader)
    if kind == kinds.OLD_STREAM:
        entries_read = _estimated_reads(stream, last_id)
    else:
        entries_read = _signed(reader.length())
    group = GroupContent(name, last_id, entries_read)
    count = _count(reader)
    for _ in range(count):
        stream_id = _id_of(reader.bytes_(_ID_BYTES))
        group.pending[stream_id] = PendingEntry(reader.milliseconds(), reader.length())
        reader.count(_ITEM_BYTES)
    if len(group.pending) != count:
        raise RdbError("an entry pending twice")
    owned: set[StreamId] = set()
    names = set()
    for _ in range(_count(reader)):
        consumer = _read_consumer(reader, kind)
        group.consumers.append(consumer)
        names.add(consumer.name)
        count -= len(consumer.pending)
        owned.update(consumer.pending)
    if len(names) != len(group.consumers):
        raise RdbError("a consumer twice")
    if count or owned != set(group.pending):
        raise RdbError("a pending entry that is not one consumer's")
    return group


def _read_consumer(reader: Reader, kind: int) -> ConsumerContent:
    name = reader.string()
    seen_ms = active_ms = reader.milliseconds()
    if kind == kinds.NEWER_STREAM:
        active_ms = reader.milliseconds()
    consumer = ConsumerContent(name, seen_ms, active_ms)
    reader.count(_ITEM_BYTES)
    for _ in range(_count(reader)):
        consumer.pending.append(_id_of(reader.bytes_(_ID_BYTES)))
        reader.count(_ITEM_BYTES)
    consumer.pending.sort()
    return consumer


def _estimated_reads(stream: StreamContent, last_id: StreamId) -> int:
    """How many entries a group of before Redis 7 was given, if that follows from its last one."""
    entries = stream.entries
    if not entries or last_id == stream.last_id:
        return len(entries)
    if last_id < entries[0][0]:
        return 0
    return 1 if last_id == entries[0][0] else -1
