"""Stream commands: groups of consumers, and what they have acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import c_string, parse_int
from pocketkv.engine.changes import tell_noted
from pocketkv.engine.commands import ONE_KEY, KeySpec, command, not_callable
from pocketkv.engine.errors import CommandError, wrong_subcommand
from pocketkv.engine.handlers.streams import lookup_stream, read_stream
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.notifications import STREAM
from pocketkv.engine.stream_entries import UNKNOWN_READS
from pocketkv.engine.stream_groups import Group
from pocketkv.engine.stream_ids import parse_id
from pocketkv.engine.stream_value import StreamValue
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_SECOND_KEY: Final = KeySpec(2, 2, 1)
_NO_STREAM: Final = (
    b"ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to "
    b"use the MKSTREAM option to create an empty stream automatically."
)
_BUSY_GROUP: Final = b"BUSYGROUP Consumer Group name already exists"
_NO_GROUP: Final = b"NOGROUP No such consumer group '%b' for key name '%b'"
_READS_NEGATIVE: Final = b"ERR value for ENTRIESREAD must be positive or -1"

# With the two names.
_CREATE_ARGUMENTS_MAX: Final = 8
_SETID_ARGUMENTS: Final = (5, 7)

command(
    "XGROUP",
    arity=-2,
    flags="",
    group="stream",
    since="5.0.0",
    complexity="Depends on the subcommand.",
    summary="Manages groups of consumers.",
)(not_callable)


def find_group(value: StreamValue, key: bytes, name: bytes) -> Group:
    """A group of a stream.

    Raises:
        CommandError: NOGROUP.
    """
    group = value.groups.get(name)
    if group is None:
        raise CommandError(_NO_GROUP % (c_string(name), c_string(key)))
    return group


def _lookup(session: Session, key: bytes) -> StreamValue:
    value = lookup_stream(session.db, key)
    if value is None:
        raise CommandError(_NO_STREAM)
    return value


def _parse_reads(request: list[bytes], *, creates: bool) -> tuple[int, bool]:
    """What ENTRIESREAD and MKSTREAM say."""
    reads = UNKNOWN_READS
    makes = False
    i = 5
    while i < len(request):
        option = request[i].upper()
        if option == b"MKSTREAM" and creates:
            makes = True
        elif option == b"ENTRIESREAD" and i + 1 < len(request):
            i += 1
            reads = parse_int(request[i])
            if reads < UNKNOWN_READS:
                raise CommandError(_READS_NEGATIVE)
        else:
            raise wrong_subcommand("xgroup", request[1])
        i += 1
    return reads, makes


@command(
    "XGROUP|CREATE",
    arity=-5,
    flags="write denyoom",
    group="stream",
    since="5.0.0",
    complexity="O(1)",
    summary="Makes a group that reads what comes behind an id.",
    usage="key groupname <id | $> [MKSTREAM] [ENTRIESREAD entries-read]",
    keys=_SECOND_KEY,
    key_flags="RW insert",
)
def xgroup_create(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    reads, makes = _parse_reads(request, creates=True)
    db = session.db
    key, name = request[2], request[3]
    value = lookup_stream(db, key)
    if value is None and not makes:
        raise CommandError(_NO_STREAM)
    if len(request) > _CREATE_ARGUMENTS_MAX:
        raise wrong_subcommand("xgroup", request[1])
    if request[4] == b"$":
        last_id = 0 if value is None else value.last_id
    else:
        last_id = parse_id(request[4])
    stream = StreamValue() if value is None else value
    if name in stream.groups:
        raise CommandError(_BUSY_GROUP)
    before_bytes = stream.size_bytes
    stream.set_group(name, last_id, reads)
    if value is None:
        db.put(key, stream)
    else:
        tell_noted(db, key, stream.size_bytes - before_bytes)
    db.notify(STREAM, b"xgroup-create", key)
    return OK


@command(
    "XGROUP|SETID",
    arity=-5,
    flags="write",
    group="stream",
    since="5.0.0",
    complexity="O(1)",
    summary="Says behind which id a group goes on reading.",
    usage="key groupname <id | $> [ENTRIESREAD entries-read]",
    keys=_SECOND_KEY,
    key_flags="RW update",
)
def xgroup_setid(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    reads, _ = _parse_reads(request, creates=False)
    db = session.db
    key, name = request[2], request[3]
    value = _lookup(session, key)
    find_group(value, key, name)
    if len(request) not in _SETID_ARGUMENTS:
        raise wrong_subcommand("xgroup", request[1])
    last_id = value.last_id if request[4] == b"$" else parse_id(request[4], strict=False)
    value.set_group(name, last_id, reads)
    tell_noted(db, key, 0)
    db.notify(STREAM, b"xgroup-setid", key)
    return OK


@command(
    "XGROUP|DESTROY",
    arity=4,
    flags="write",
    group="stream",
    since="5.0.0",
    complexity="O(N) where N is the number of the group's consumers",
    summary="Removes a group.",
    usage="key groupname",
    keys=_SECOND_KEY,
    key_flags="RW delete",
)
def xgroup_destroy(session: Session, request: list[bytes]) -> Reply:
    """Answers whether there was one."""
    db = session.db
    key = request[2]
    value = _lookup(session, key)
    before_bytes = value.size_bytes
    if not value.remove_group(request[3]):
        return 0
    tell_noted(db, key, value.size_bytes - before_bytes)
    db.notify(STREAM, b"xgroup-destroy", key)
    return 1


@command(
    "XGROUP|CREATECONSUMER",
    arity=5,
    flags="write denyoom",
    group="stream",
    since="6.2.0",
    complexity="O(1)",
    summary="Makes a consumer in a group.",
    usage="key groupname consumername",
    keys=_SECOND_KEY,
    key_flags="RW insert",
)
def xgroup_createconsumer(session: Session, request: list[bytes]) -> Reply:
    """Answers whether it is new."""
    db = session.db
    key = request[2]
    value = _lookup(session, key)
    group = find_group(value, key, request[3])
    if request[4] in group.consumers:
        return 0
    before_bytes = value.size_bytes
    value.see_consumer(group, request[4], session.node.clock.now_ms)
    tell_noted(db, key, value.size_bytes - before_bytes)
    db.notify(STREAM, b"xgroup-createconsumer", key)
    return 1


@command(
    "XGROUP|DELCONSUMER",
    arity=5,
    flags="write",
    group="stream",
    since="5.0.0",
    complexity="O(N log M) where the consumer has N of the group's M deliveries",
    summary="Removes a consumer, and what was delivered to it, from a group.",
    usage="key groupname consumername",
    keys=_SECOND_KEY,
    key_flags="RW delete",
)
def xgroup_delconsumer(session: Session, request: list[bytes]) -> Reply:
    """Answers how many deliveries it had not acknowledged."""
    db = session.db
    key = request[2]
    value = _lookup(session, key)
    group = find_group(value, key, request[3])
    before_bytes = value.size_bytes
    pending = value.remove_consumer(group, request[4])
    if pending < 0:
        return 0
    tell_noted(db, key, value.size_bytes - before_bytes)
    db.notify(STREAM, b"xgroup-delconsumer", key)
    return pending


@command(
    "XGROUP|HELP",
    arity=2,
    flags="loading stale",
    group="stream",
    since="5.0.0",
    complexity="O(1)",
    summary="Tells what subcommands there are.",
)
def xgroup_help(session: Session, request: list[bytes]) -> Reply:
    """The lines that redis-cli shows."""
    return help_lines(b"xgroup")


@command(
    "XACK",
    arity=-4,
    flags="write fast",
    group="stream",
    since="5.0.0",
    complexity="O(log N) for each entry",
    summary="Acknowledges entries, which are pending no more.",
    usage="key group id [id ...]",
    keys=ONE_KEY,
    key_flags="RW update",
)
def xack(session: Session, request: list[bytes]) -> Reply:
    """Answers how many were pending."""
    db = session.db
    key = request[1]
    value = read_stream(db, key)
    group = None if value is None else value.groups.get(request[2])
    if value is None or group is None:
        return 0
    ids = [parse_id(text) for text in request[3:]]
    before_bytes = value.size_bytes
    settled = value.settle(group, ids)
    if settled:
        tell_noted(db, key, value.size_bytes - before_bytes)
    return settled
