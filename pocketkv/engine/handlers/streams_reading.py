"""XREAD and XREADGROUP: entries of several streams, those that come later included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import c_string, parse_int
from pocketkv.engine.changes import tell_noted
from pocketkv.engine.commands import KeySpec, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.streams import read_stream
from pocketkv.engine.notifications import STREAM
from pocketkv.engine.stream_entries import signed
from pocketkv.engine.stream_groups import PENDING_BYTES, Consumer, Group
from pocketkv.engine.stream_ids import ID_MAX, format_id, parse_id
from pocketkv.engine.stream_value import StreamValue
from pocketkv.engine.waiters import wait_for_keys
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import NULL_ARRAY, PENDING, Encoded, ErrorReply, Marker, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_TIMEOUT_NOT_INTEGER: Final = b"ERR timeout is not an integer or out of range"
_TIMEOUT_NEGATIVE: Final = b"ERR timeout is negative"
_BLOCK_IN_SCRIPT: Final = b"ERR %b command is not allowed with BLOCK option from scripts"
_GROUP_IN_XREAD: Final = (
    b"ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead."
)
_NOACK_IN_XREAD: Final = (
    b"ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead."
)
_NO_GROUP_OPTION: Final = b"ERR Missing GROUP option for XREADGROUP"
# Redis names XREAD in both commands.
_UNBALANCED: Final = (
    b"ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
)
_LAST_IN_GROUP: Final = (
    b"ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of "
    b"this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID "
    b"would just return an empty result set."
)
_NEW_WITHOUT_GROUP: Final = (
    b"ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> "
    b"<consumer> option."
)
_NO_GROUP: Final = (
    b"NOGROUP No such key '%b' or consumer group '%b' in XREADGROUP with GROUP option"
)
_GROUP_GONE: Final = b"NOGROUP the consumer group this client was blocked on no longer exists"
_STREAM_GONE: Final = b"UNBLOCKED the stream key no longer exists"

# Words before STREAMS, with how many arguments each has.
_WORDS: Final = {b"BLOCK": 1, b"COUNT": 1, b"GROUP": 2, b"NOACK": 0}
# Nobody waits for longer, and added to the time of day this is still a time.
_BLOCK_MS_MAX: Final = 10**15
# More new deliveries than these are looked at whether there is memory for them.
_MANY_DELIVERIES: Final = 64


def _keys_found(request: list[bytes]) -> list[int]:
    """The positions of the keys, which follow STREAMS and are half of what does."""
    i = 1
    while i < len(request):
        word = request[i].upper()
        if word == b"STREAMS":
            count = len(request) - i - 1
            if count == 0 or count % 2:
                break
            return list(range(i + 1, i + 1 + count // 2))
        if word not in _WORDS:
            break
        i += 1 + _WORDS[word]
    # What is wrong is told in the command's own words.
    _Reading().parse(request, in_group=request[0].upper() == b"XREADGROUP")
    raise CommandError(SYNTAX)


class _Reading:
    """What was asked for.

    Attributes:
        keys: The streams.
        texts: What stands for each as id.
        count: How many entries of each at most; 0: all.
        block_ms: How long to wait; 0: for ever, -1: not at all.
        group, consumer: Of XREADGROUP.
        needs_ack: Whether what is delivered must be acknowledged.
    """

    __slots__ = ("block_ms", "consumer", "count", "group", "keys", "needs_ack", "texts")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.texts: list[bytes] = []
        self.count = 0
        self.block_ms = -1
        self.group: bytes | None = None
        self.consumer = b""
        self.needs_ack = True

    def parse(self, request: list[bytes], *, in_group: bool, in_script: bool = False) -> None:
        """Read all arguments but the ids.

        Raises:
            CommandError: They are not as they should be.
        """
        last = len(request) - 1
        i = 1
        while i <= last:
            option = request[i].upper()
            if option == b"BLOCK" and i < last:
                if in_script:
                    raise CommandError(_BLOCK_IN_SCRIPT % c_string(request[0]))
                i += 1
                self.block_ms = min(parse_int(request[i], _TIMEOUT_NOT_INTEGER), _BLOCK_MS_MAX)
                if self.block_ms < 0:
                    raise CommandError(_TIMEOUT_NEGATIVE)
            elif option == b"COUNT" and i < last:
                i += 1
                self.count = max(0, parse_int(request[i]))
            elif option == b"STREAMS" and i < last:
                self._parse_streams(request, i + 1)
                break
            elif option == b"GROUP" and i + 1 < last:
                if not in_group:
                    raise CommandError(_GROUP_IN_XREAD)
                self.group, self.consumer = request[i + 1], request[i + 2]
                i += 2
            elif option == b"NOACK":
                if not in_group:
                    raise CommandError(_NOACK_IN_XREAD)
                self.needs_ack = False
            else:
                raise CommandError(SYNTAX)
            i += 1
        if not self.keys:
            raise CommandError(SYNTAX)
        if in_group and self.group is None:
            raise CommandError(_NO_GROUP_OPTION)

    def _parse_streams(self, request: list[bytes], first: int) -> None:
        count = len(request) - first
        if count % 2:
            raise CommandError(_UNBALANCED)
        self.keys = request[first : first + count // 2]
        self.texts = request[first + count // 2 :]


def _reply(session: Session, found: list[tuple[bytes, list[Reply]]]) -> Reply:
    """Streams with their entries: pairs in RESP2, a map in RESP3."""
    if session.protocol == 2:
        return [[key, entries] for key, entries in found]
    by_key: dict[bytes, Reply] = dict(found)
    if len(by_key) == len(found):
        return by_key
    # A stream that was named twice is there twice, which no dict has.
    parts = [b"%%%d\r\n" % len(found)]
    for key, entries in found:
        parts += (encode_reply(key, 3), encode_reply(entries, 3))
    return Encoded(b"".join(parts))


@command(
    "XREAD",
    arity=-4,
    flags="readonly blocking",
    group="stream",
    since="5.0.0",
    complexity="O(log N + M) for each stream of N nodes of which M entries are returned",
    summary="Entries of streams behind the given ids, waiting for them if need be.",
    usage="[COUNT count] [BLOCK milliseconds] STREAMS <key [key ...] id [id ...]>",
    keys=KeySpec(find=_keys_found),
    key_flags="RO access @STREAMS:1 -1 1 2",
)
def xread(session: Session, request: list[bytes]) -> Reply:
    """Answers streams with entries; null if there are none, or none came in time."""
    reading = _Reading()
    reading.parse(request, in_group=False, in_script=session.in_script)
    db = session.db
    streams: list[StreamValue | None] = []
    ids: list[int] = []
    for i in range(len(reading.keys)):
        stream = read_stream(db, reading.keys[i])
        streams.append(stream)
        text = reading.texts[i]
        if text == b"$":
            ids.append(0 if stream is None else stream.last_id)
        elif text == b">":
            raise CommandError(_NEW_WITHOUT_GROUP)
        else:
            ids.append(parse_id(text))
    found: list[tuple[bytes, list[Reply]]] = []
    for i in range(len(ids)):
        stream = streams[i]
        if stream is not None and stream.top_id() > ids[i]:
            found.append((reading.keys[i], stream.range(ids[i] + 1, ID_MAX, reading.count)))
    if found:
        return _reply(session, found)
    if reading.block_ms < 0:
        return NULL_ARRAY
    return _wait_to_read(session, request, reading, ids)


def _wait_to_read(
    session: Session, request: list[bytes], reading: _Reading, ids: list[int]
) -> Reply:
    # Of a stream that was named twice, the first id counts.
    behind = dict(zip(reversed(reading.keys), reversed(ids), strict=True))

    def attempt(key: bytes) -> Reply | Marker:
        stream = session.db.lookup(key)
        if type(stream) is not StreamValue or stream.appended_id() <= behind[key]:
            return PENDING
        entries = stream.range(behind[key] + 1, ID_MAX, reading.count)
        return _reply(session, [(key, entries)])

    # Whoever repeats the request means what comes from now on.
    first = len(request) - len(ids)
    repeated = request[:first] + [format_id(entry_id) for entry_id in ids]
    return wait_for_keys(
        session,
        repeated,
        reading.keys,
        attempt,
        timeout_ms=reading.block_ms,
        timeout_reply=NULL_ARRAY,
    )


@command(
    "XREADGROUP",
    arity=-7,
    flags="write blocking",
    group="stream",
    since="5.0.0",
    complexity="O(log N + M) for each stream of N nodes of which M entries are returned",
    summary="Entries that no other consumer of a group has got, or those that this one has.",
    usage="GROUP <group consumer> [COUNT count] [BLOCK milliseconds] [NOACK]"
    " STREAMS <key [key ...] id [id ...]>",
    keys=KeySpec(find=_keys_found),
    key_flags="RO access @STREAMS:4 -1 1 2",
)
def xreadgroup(session: Session, request: list[bytes]) -> Reply:
    """Answers streams with entries; null if there are none, or none came in time."""
    reading = _Reading()
    reading.parse(request, in_group=True, in_script=session.in_script)
    assert reading.group is not None  # It was parsed.
    db = session.db
    groups: list[tuple[StreamValue, Group]] = []
    ids: list[int] = []
    for i in range(len(reading.keys)):
        key = reading.keys[i]
        stream = read_stream(db, key)
        group = None if stream is None else stream.groups.get(reading.group)
        if stream is None or group is None:
            raise CommandError(_NO_GROUP % (c_string(key), c_string(reading.group)))
        groups.append((stream, group))
        text = reading.texts[i]
        if text == b"$":
            raise CommandError(_LAST_IN_GROUP)
        ids.append(ID_MAX if text == b">" else parse_id(text))
    _require_room(session, reading, groups, ids)
    found: list[tuple[bytes, list[Reply]]] = []
    for i in range(len(ids)):
        stream, group = groups[i]
        if ids[i] != ID_MAX:
            entries = _read_history(session, reading, reading.keys[i], stream, group, ids[i])
            found.append((reading.keys[i], entries))
        elif stream.top_id() > group.last_id:
            entries = _read_new(session, reading, reading.keys[i], stream, group)
            found.append((reading.keys[i], entries))
    if found:
        return _reply(session, found)
    if reading.block_ms < 0:
        return NULL_ARRAY
    return _wait_in_group(session, request, reading)


def _require_room(
    session: Session, reading: _Reading, groups: list[tuple[StreamValue, Group]], ids: list[int]
) -> None:
    """Refuse to deliver very much where there is no memory to remember it."""
    if not reading.needs_ack:
        return
    deliveries = 0
    for i in range(len(ids)):
        stream, group = groups[i]
        if ids[i] == ID_MAX and stream.last_id > group.last_id:
            deliveries += min(reading.count or len(stream), len(stream))
    if deliveries > _MANY_DELIVERIES:
        require_memory(session, PENDING_BYTES * deliveries)


def _seen(
    session: Session, reading: _Reading, key: bytes, stream: StreamValue, group: Group
) -> Consumer:
    """The consumer who asks; told of if it is new."""
    count = len(group.consumers)
    consumer = stream.see_consumer(group, reading.consumer, session.node.clock.now_ms)
    if len(group.consumers) != count:
        session.db.notify(STREAM, b"xgroup-createconsumer", key)
    return consumer


def _read_new(
    session: Session, reading: _Reading, key: bytes, stream: StreamValue, group: Group
) -> list[Reply]:
    """Deliver what comes next in a group."""
    before_bytes = stream.size_bytes
    consumer = _seen(session, reading, key, stream, group)
    receiver = consumer if reading.needs_ack else None
    entries = stream.read_new(group, reading.count, receiver, session.node.clock.now_ms)
    tell_noted(session.db, key, stream.size_bytes - before_bytes)
    return entries


def _read_history(
    session: Session,
    reading: _Reading,
    key: bytes,
    stream: StreamValue,
    group: Group,
    behind: int,
) -> list[Reply]:
    """What a consumer has got and not acknowledged; that counts as one more delivery."""
    before_bytes = stream.size_bytes
    now_ms = session.node.clock.now_ms
    consumer = _seen(session, reading, key, stream, group)
    count = reading.count or len(consumer.pending)
    entries: list[Reply] = []
    again: list[int] = []
    for entry_id, pending in consumer.pending.some(behind + 1, ID_MAX, count):
        entry = stream.entry(entry_id)
        if entry is None:
            entries.append([format_id(entry_id), NULL_ARRAY])
            continue
        pending.delivered_ms = now_ms
        pending.count = signed(pending.count + 1)
        again.append(entry_id)
        entries.append(entry)
    stream.note_deliveries(group, again)
    tell_noted(session.db, key, stream.size_bytes - before_bytes)
    return entries


def _wait_in_group(session: Session, request: list[bytes], reading: _Reading) -> Reply:
    name = reading.group
    assert name is not None  # It was parsed.

    def attempt(key: bytes) -> Reply | Marker:
        stream = session.db.lookup(key)
        if type(stream) is not StreamValue:
            return ErrorReply(_STREAM_GONE)
        group = stream.groups.get(name)
        if group is None:
            return ErrorReply(_GROUP_GONE)
        if stream.appended_id() <= group.last_id:
            return PENDING
        return _reply(session, [(key, _read_new(session, reading, key, stream, group))])

    return wait_for_keys(
        session,
        request,
        reading.keys,
        attempt,
        timeout_ms=reading.block_ms,
        timeout_reply=NULL_ARRAY,
    )
