"""XINFO: what there is to know of a stream, its groups and their consumers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import parse_int
from pocketkv.engine.commands import KeySpec, command, not_callable
from pocketkv.engine.errors import NO_SUCH_KEY, CommandError, wrong_subcommand
from pocketkv.engine.handlers.streams import read_stream
from pocketkv.engine.handlers.streams_groups import find_group
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.stream_entries import UNKNOWN_READS, signed
from pocketkv.engine.stream_groups import Consumer, Group
from pocketkv.engine.stream_ids import ID_MAX, format_id
from pocketkv.engine.stream_value import StreamValue
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_SECOND_KEY: Final = KeySpec(2, 2, 1)
# How much of everything FULL shows, unless COUNT says else.
_FULL_COUNT: Final = 10
# With the two names and the key: FULL, and FULL COUNT count.
_FULL_ARGUMENTS: Final = (4, 6)

command(
    "XINFO",
    arity=-2,
    flags="",
    group="stream",
    since="5.0.0",
    complexity="Depends on the subcommand.",
    summary="Tells of streams and their groups.",
)(not_callable)


def _read(session: Session, key: bytes) -> StreamValue:
    value = read_stream(session.db, key)
    if value is None:
        raise CommandError(NO_SUCH_KEY)
    return value


def _lag(value: StreamValue, group: Group) -> Reply:
    """How many entries a group has not read yet; null if that cannot be told."""
    if value.entries_added == 0:
        return 0
    reads = group.entries_read
    if reads == UNKNOWN_READS or value.has_gap_after(group.last_id):
        reads = value.reads_until(group.last_id)
        if reads == UNKNOWN_READS:
            return None
    return signed(value.entries_added - reads)


def _entries_read(group: Group) -> Reply:
    return None if group.entries_read == UNKNOWN_READS else group.entries_read


@command(
    "XINFO|STREAM",
    arity=-3,
    flags="readonly",
    group="stream",
    since="5.0.0",
    complexity="O(1)",
    summary="Tells of a stream; in full, with entries, groups and what is pending.",
    usage="key [FULL [COUNT count]]",
    keys=_SECOND_KEY,
    key_flags="RO access",
)
def xinfo_stream(session: Session, request: list[bytes]) -> Reply:
    """A map."""
    value = _read(session, request[2])
    reply: dict[bytes, Reply] = {
        b"length": len(value),
        b"radix-tree-keys": value.tree_keys(),
        b"radix-tree-nodes": value.tree_nodes(),
        b"last-generated-id": format_id(value.last_id),
        b"max-deleted-entry-id": format_id(value.max_deleted_id),
        b"entries-added": signed(value.entries_added),
        b"recorded-first-entry-id": format_id(value.first_id()),
    }
    if len(request) == 3:
        first, last = value.range(0, ID_MAX, 1), value.range_reversed(0, ID_MAX, 1)
        reply[b"groups"] = len(value.groups)
        reply[b"first-entry"] = first[0] if first else None
        reply[b"last-entry"] = last[0] if last else None
        return reply
    count = _full_count(request)
    reply[b"entries"] = value.range(0, ID_MAX, count)
    names = value.group_names()
    reply[b"groups"] = [_full_group(value, value.groups[name], count) for name in names]
    return reply


def _full_count(request: list[bytes]) -> int:
    """How much of everything FULL is to show; 0: all."""
    if len(request) not in _FULL_ARGUMENTS or request[3].upper() != b"FULL":
        raise wrong_subcommand("xinfo", request[1])
    if len(request) == 4:
        return _FULL_COUNT
    if request[4].upper() != b"COUNT":
        raise wrong_subcommand("xinfo", request[1])
    count = parse_int(request[5])
    return _FULL_COUNT if count < 0 else count


def _full_group(value: StreamValue, group: Group, count: int) -> Reply:
    pending: list[Reply] = []
    for entry_id, delivery in group.pending.some(0, ID_MAX, count or len(group.pending)):
        pending.append(
            [
                format_id(entry_id),
                delivery.consumer.name,
                delivery.delivered_ms,
                delivery.count,
            ]
        )
    consumers = [_full_consumer(group.consumers[name], count) for name in group.consumer_names()]
    return {
        b"name": group.name,
        b"last-delivered-id": format_id(group.last_id),
        b"entries-read": _entries_read(group),
        b"lag": _lag(value, group),
        b"pel-count": len(group.pending),
        b"pending": pending,
        b"consumers": consumers,
    }


def _full_consumer(consumer: Consumer, count: int) -> Reply:
    pending: list[Reply] = []
    for entry_id, delivery in consumer.pending.some(0, ID_MAX, count or len(consumer.pending)):
        pending.append([format_id(entry_id), delivery.delivered_ms, delivery.count])
    return {
        b"name": consumer.name,
        b"seen-time": consumer.seen_ms,
        b"pel-count": len(consumer.pending),
        b"pending": pending,
    }


@command(
    "XINFO|GROUPS",
    arity=3,
    flags="readonly",
    group="stream",
    since="5.0.0",
    complexity="O(N) where N is the number of groups",
    summary="Tells of the groups of a stream.",
    usage="key",
    keys=_SECOND_KEY,
    key_flags="RO access",
)
def xinfo_groups(session: Session, request: list[bytes]) -> Reply:
    """A map for each."""
    value = _read(session, request[2])
    found: list[Reply] = []
    for name in value.group_names():
        group = value.groups[name]
        found.append(
            {
                b"name": name,
                b"consumers": len(group.consumers),
                b"pending": len(group.pending),
                b"last-delivered-id": format_id(group.last_id),
                b"entries-read": _entries_read(group),
                b"lag": _lag(value, group),
            }
        )
    return found


@command(
    "XINFO|CONSUMERS",
    arity=4,
    flags="readonly",
    group="stream",
    since="5.0.0",
    complexity="O(N) where N is the number of consumers",
    summary="Tells of the consumers of a group.",
    usage="key groupname",
    keys=_SECOND_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def xinfo_consumers(session: Session, request: list[bytes]) -> Reply:
    """A map for each."""
    value = _read(session, request[2])
    group = find_group(value, request[2], request[3])
    now_ms = session.node.clock.now_ms
    found: list[Reply] = []
    for name in group.consumer_names():
        consumer = group.consumers[name]
        found.append(
            {
                b"name": name,
                b"pending": len(consumer.pending),
                b"idle": max(0, now_ms - consumer.seen_ms),
            }
        )
    return found


@command(
    "XINFO|HELP",
    arity=2,
    flags="loading stale",
    group="stream",
    since="5.0.0",
    complexity="O(1)",
    summary="Tells what subcommands there are.",
)
def xinfo_help(session: Session, request: list[bytes]) -> Reply:
    """The lines that redis-cli shows."""
    return help_lines(b"xinfo")
