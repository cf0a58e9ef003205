"""Values as dumps and back: which type becomes which of Redis's forms, under a node's settings."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pocketkv.engine.arguments import UINT64_MAX, canonical_integer
from pocketkv.engine.hash_value import HashValue
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.rdb.content import (
    ConsumerContent,
    Content,
    GroupContent,
    HashContent,
    ListContent,
    PendingEntry,
    SetContent,
    SortedSetContent,
    StreamContent,
    StreamId,
)
from pocketkv.engine.rdb.dumps import (
    dump_hash,
    dump_integers,
    dump_list,
    dump_set,
    dump_sorted_set,
    dump_stream,
    dump_string,
)
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.engine.stream_groups import Group
from pocketkv.engine.stream_ids import ID_MAX, make_id
from pocketkv.engine.stream_value import StreamValue
from pocketkv.engine.values import Collection, Value

if TYPE_CHECKING:
    from pocketkv.engine.settings import Settings


def dump_value(value: Value, settings: Settings) -> bytes:
    """What DUMP answers of a value.

    Raises:
        NotResident: It cannot be had without waiting.
    """
    if isinstance(value, Collection):
        return _DUMPERS[type(value)](value, settings)
    if isinstance(value, LargeString):
        value.require(0, len(value))
    return dump_string(bytes(value))


def make_value(content: Content, settings: Settings) -> Value:
    """The value that a dump's content is; a string that is large is still bytes."""
    if isinstance(content, bytes):
        return content
    made: Value = _MAKERS[type(content)](content, settings)
    return made


# --- lists -------------------------------------------------------------------------------------


def _dump_list(value: ListValue, settings: Settings) -> bytes:
    return dump_list(value.items(), settings.list_max_listpack_size)


def _make_list(content: ListContent, settings: Settings) -> ListValue:
    return ListValue.of(content.elements)


# --- sets --------------------------------------------------------------------------------------


def _dump_set(value: SetValue, settings: Settings) -> bytes:
    members = value.members()
    if value.encoding() == "intset":
        return dump_integers(array("q", map(int, members)))
    return dump_set(members)


def _make_set(content: SetContent, settings: Settings) -> SetValue:
    members = content.members
    integers_max = settings.set_max_intset_entries
    if len(members) > integers_max:
        # Redis goes by their number first; and this does not move integers one by one.
        integers_max = 0
    elif any(canonical_integer(member) is None for member in members):
        integers_max = 0
    return SetValue.of(members, integers_max)


# --- hashes ------------------------------------------------------------------------------------


def _dump_hash(value: HashValue, settings: Settings) -> bytes:
    compact = value.encoding() == "listpack"
    return dump_hash(value.pairs().items(), len(value), compact=compact)


def _make_hash(content: HashContent, settings: Settings) -> HashValue:
    return HashValue.of(
        (part for pair in content.pairs.items() for part in pair),
        settings.hash_max_listpack_entries,
        settings.hash_max_listpack_value,
    )


# --- sorted sets -------------------------------------------------------------------------------


def _dump_sorted_set(value: SortedSetValue, settings: Settings) -> bytes:
    scores = [
        (member, score)
        for scores, members in value.chunks()
        for member, score in zip(members, scores, strict=True)
    ]
    return dump_sorted_set(scores, compact=value.encoding() == "listpack")


def _make_sorted_set(content: SortedSetContent, settings: Settings) -> SortedSetValue:
    return SortedSetValue.of(
        content.scores, settings.zset_max_listpack_entries, settings.zset_max_listpack_value
    )


# --- streams -----------------------------------------------------------------------------------


def _id(number: int) -> StreamId:
    return StreamId(number >> 64, number & UINT64_MAX)


def _dump_stream(value: StreamValue, settings: Settings) -> bytes:
    content = StreamContent(
        entries=[(_id(entry_id), texts) for entry_id, texts in value.entries()],
        last_id=_id(value.last_id),
        max_deleted_id=_id(value.max_deleted_id),
        entries_added=value.entries_added,
        groups=[_group_content(value.groups[name]) for name in value.group_names()],
    )
    return dump_stream(
        content,
        node_bytes_max=settings.stream_node_max_bytes,
        node_entries_max=settings.stream_node_max_entries,
    )


def _group_content(group: Group) -> GroupContent:
    content = GroupContent(group.name, _id(group.last_id), group.entries_read)
    for entry_id, pending in group.pending.some(0, ID_MAX, len(group.pending)):
        content.pending[_id(entry_id)] = PendingEntry(pending.delivered_ms, pending.count)
    for name in group.consumer_names():
        consumer = group.consumers[name]
        ids = [_id(entry_id) for entry_id in consumer.pending]
        content.consumers.append(ConsumerContent(name, consumer.seen_ms, consumer.seen_ms, ids))
    return content


def _make_stream(content: StreamContent, settings: Settings) -> StreamValue:
    made = StreamValue()
    for stream_id, pairs in content.entries:
        made.append(
            make_id(*stream_id),
            pairs,
            settings.stream_node_max_entries,
            settings.stream_node_max_bytes,
        )
    made.set_state(
        make_id(*content.last_id), content.entries_added, make_id(*content.max_deleted_id)
    )
    for group in content.groups:
        made.set_group(group.name, make_id(*group.last_id), group.entries_read)
        of_group = made.groups[group.name]
        for consumer in group.consumers:
            of_consumer = made.see_consumer(of_group, consumer.name, consumer.seen_ms)
            for stream_id in consumer.pending:
                pending = group.pending[stream_id]
                made.deliver(
                    of_group,
                    make_id(*stream_id),
                    of_consumer,
                    pending.delivered_ms,
                    pending.deliveries,
                )
    return made


# --- all of them -------------------------------------------------------------------------------

_DUMPERS: Final[dict[type[Collection], Callable[[Any, Settings], bytes]]] = {
    HashValue: _dump_hash,
    ListValue: _dump_list,
    SetValue: _dump_set,
    SortedSetValue: _dump_sorted_set,
    StreamValue: _dump_stream,
}
_MAKERS: Final[dict[type[Any], Callable[[Any, Settings], Value]]] = {
    HashContent: _make_hash,
    ListContent: _make_list,
    SetContent: _make_set,
    SortedSetContent: _make_sorted_set,
    StreamContent: _make_stream,
}
