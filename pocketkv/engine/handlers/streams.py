"""Stream commands: entries. Groups of consumers have files of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import parse_int
from pocketkv.engine.changes import tell_noted
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import NO_SUCH_KEY, SYNTAX, WRONG_TYPE, CommandError, wrong_arity
from pocketkv.engine.notifications import STREAM
from pocketkv.engine.stream_ids import (
    ID_MAX,
    format_id,
    parse_end,
    parse_id,
    parse_milliseconds,
    parse_start,
)
from pocketkv.engine.stream_node import LISTPACK_BYTES_MAX
from pocketkv.engine.stream_value import StreamValue
from pocketkv.resp.replies import NULL_ARRAY, OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

_ID_IS_ZERO: Final = b"ERR The ID specified in XADD must be greater than 0-0"
_ID_TOO_SMALL: Final = (
    b"ERR The ID specified in XADD is equal or smaller than the target stream top item"
)
_NO_MORE_IDS: Final = b"ERR The stream has exhausted the last possible ID, unable to add more items"
_TOO_LARGE: Final = b"ERR Elements are too large to be stored"
_TWO_STRATEGIES: Final = (
    b"ERR syntax error, MAXLEN and MINID options at the same time are not compatible"
)
_NEGATIVE_LENGTH: Final = b"ERR The MAXLEN argument must be >= 0."
_NEGATIVE_LIMIT: Final = b"ERR The LIMIT argument must be >= 0."
_LIMIT_ALONE: Final = (
    b"ERR syntax error, LIMIT cannot be used without specifying a trimming strategy"
)
_LIMIT_EXACT: Final = b"ERR syntax error, LIMIT cannot be used without the special ~ option"
_NO_STRATEGY: Final = b"ERR syntax error, XTRIM must be called with a trimming strategy"
_ADDED_NEGATIVE: Final = b"ERR entries_added must be positive"
_BELOW_GIVEN: Final = (
    b"ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id"
)
_BELOW_DELETED: Final = (
    b"ERR The ID specified in XSETID is smaller than current max_deleted_entry_id"
)
_BELOW_TOP: Final = b"ERR The ID specified in XSETID is smaller than the target stream top item"
_ADDED_BELOW_LENGTH: Final = (
    b"ERR The entries_added specified in XSETID is smaller than the target stream length"
)

# What approximate trimming removes at most, unless LIMIT says else: so many nodes' entries ...
_NODES_TRIMMED_MAX: Final = 100
# ... within these bounds.
_TRIMMED_DEFAULT: Final = 10_000
_TRIMMED_MAX: Final = 1_000_000


def lookup_stream(db: Database, key: bytes) -> StreamValue | None:
    """The stream at a key.

    Raises:
        CommandError: WRONGTYPE.
    """
    value = db.lookup(key)
    if value is None or type(value) is StreamValue:
        return value
    raise CommandError(WRONG_TYPE)


def read_stream(db: Database, key: bytes) -> StreamValue | None:
    """`lookup_stream` for a command that reads."""
    value = db.read(key)
    if value is None or type(value) is StreamValue:
        return value
    raise CommandError(WRONG_TYPE)


class _Trimming:
    """What XADD and XTRIM are told of trimming.

    Attributes:
        length: How many entries may be left; -1: not by length.
        boundary: The smallest id that may be left; -1: not by id.
        approximate: Whether only whole nodes are to go.
        limit: How many go at most; 0: as many as it takes.
        creates: Whether XADD makes a stream that does not exist.
    """

    __slots__ = ("approximate", "boundary", "creates", "length", "limit", "limited")

    def __init__(self) -> None:
        self.length = -1
        self.boundary = -1
        self.approximate = False
        self.limit = 0
        self.limited = False
        self.creates = True

    def parse(self, request: list[bytes], i: int, *, adds: bool) -> int:
        """Read the options; where what is none of them stands.

        Raises:
            CommandError: As Redis's words for what does not go together.
        """
        count = len(request)
        while i < count:
            option = request[i].upper()
            if option == b"MAXLEN" and i + 1 < count:
                i = self._operator(request, i)
                self.length = parse_int(request[i])
                if self.length < 0:
                    raise CommandError(_NEGATIVE_LENGTH)
            elif option == b"MINID" and i + 1 < count:
                i = self._operator(request, i)
                self.boundary = parse_id(request[i])
            elif option == b"LIMIT" and i + 1 < count:
                i += 1
                self.limit = parse_int(request[i])
                if self.limit < 0:
                    raise CommandError(_NEGATIVE_LIMIT)
                self.limited = True
            elif option == b"NOMKSTREAM" and adds:
                self.creates = False
            elif adds:
                break
            else:
                raise CommandError(SYNTAX)
            i += 1
        return i

    def _operator(self, request: list[bytes], i: int) -> int:
        """Where the threshold of MAXLEN or MINID stands, which is at `i`."""
        if self.length >= 0 or self.boundary >= 0:
            raise CommandError(_TWO_STRATEGIES)
        self.approximate = False
        if i + 2 < len(request) and request[i + 1] in (b"=", b"~"):
            self.approximate = request[i + 1] == b"~"
            return i + 2
        return i + 1

    def check(self, entries_max: int, *, adds: bool) -> None:
        """See whether all fits, and set the limit that was not given.

        Raises:
            CommandError: It does not.
        """
        trims = self.length >= 0 or self.boundary >= 0
        if self.limit and not trims:
            raise CommandError(_LIMIT_ALONE)
        if not adds and not trims:
            raise CommandError(_NO_STRATEGY)
        if self.limited:
            if not self.approximate:
                raise CommandError(_LIMIT_EXACT)
        elif self.approximate:
            limit = _NODES_TRIMMED_MAX * entries_max
            self.limit = min(limit, _TRIMMED_MAX) if limit > 0 else _TRIMMED_DEFAULT

    def apply(self, value: StreamValue) -> int:
        """Trim a stream; how many entries went."""
        if self.length >= 0:
            return value.trim_to_length(self.length, self.approximate, self.limit)
        if self.boundary >= 0:
            return value.trim_to_id(self.boundary, self.approximate, self.limit)
        return 0


@command(
    "XADD",
    arity=-5,
    flags="write denyoom fast",
    group="stream",
    since="5.0.0",
    complexity="O(1); O(N) if it trims, where N is the number of entries that go",
    summary="Adds an entry to a stream, which is created if it does not exist.",
    usage="key [NOMKSTREAM] [<MAXLEN | MINID> [= | ~] threshold [LIMIT count]] <* | id>"
    " field value [field value ...]",
    keys=ONE_KEY,
    key_flags="RW update",
    tips="nondeterministic_output",
)
def xadd(session: Session, request: list[bytes]) -> Reply:
    """Answers the entry's id; null if the stream does not exist and must not be created."""
    if request[2] == b"*":
        return _add_entry(session, request, 2, -1, None, None)
    trimming = _Trimming()
    at = trimming.parse(request, 2, adds=True)
    # Without an id, what is wrong with the options is told first.
    text = request[at] if at < len(request) else b"*"
    ms = None
    entry_id = -1
    if text != b"*":
        ms = parse_milliseconds(text)
        if ms is None:
            entry_id = parse_id(text)
    trimming.check(session.node.settings.stream_node_max_entries, adds=True)
    return _add_entry(session, request, at, entry_id, ms, trimming)


def _add_entry(
    session: Session,
    request: list[bytes],
    at: int,
    entry_id: int,
    ms: int | None,
    trimming: _Trimming | None,
) -> Reply:
    """Add the entry whose fields stand behind argument `at`, with an id, or one to be made."""
    count = len(request) - at
    if count < 3 or count % 2 == 0:
        raise wrong_arity("xadd")
    if entry_id == 0:
        raise CommandError(_ID_IS_ZERO)
    db = session.db
    key = request[1]
    value = lookup_stream(db, key)
    if value is None and trimming is not None and not trimming.creates:
        return None
    stream = StreamValue() if value is None else value
    if entry_id < 0:
        entry_id = _next_id(stream, session.node.clock.now_ms, ms)
    elif stream.last_id == ID_MAX:
        raise CommandError(_NO_MORE_IDS)
    if entry_id <= stream.last_id:
        raise CommandError(_ID_TOO_SMALL)
    pairs = request[at + 1 :]
    _check_size(pairs)
    settings = session.node.settings
    before_bytes = stream.size_bytes
    stream.append(entry_id, pairs, settings.stream_node_max_entries, settings.stream_node_max_bytes)
    trimmed = trimming is not None and trimming.apply(stream) > 0
    if value is None:
        db.put(key, stream)
    else:
        db.modified(key, stream.size_bytes - before_bytes)
    db.notify(STREAM, b"xadd", key)
    if trimmed:
        db.notify(STREAM, b"xtrim", key)
    return format_id(entry_id)


def _next_id(stream: StreamValue, now_ms: int, ms: int | None) -> int:
    """The id of an entry that is added now, or at a time that was given.

    Raises:
        CommandError: There is none left.
    """
    last_id = stream.last_id
    if last_id == ID_MAX:
        raise CommandError(_NO_MORE_IDS)
    following = last_id + 1
    if ms is None:
        return max(now_ms << 64, following)
    if ms != last_id >> 64:
        return ms << 64
    if following >> 64 != ms:
        raise CommandError(_ID_TOO_SMALL)
    return following


def _check_size(pairs: list[bytes]) -> None:
    size = 0
    for text in pairs:
        size += len(text)
    if size > LISTPACK_BYTES_MAX:
        raise CommandError(_TOO_LARGE)


@command(
    "XLEN",
    arity=2,
    flags="readonly fast",
    group="stream",
    since="5.0.0",
    complexity="O(1)",
    summary="The number of entries of a stream.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO",
)
def xlen(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 for a key that does not exist."""
    value = read_stream(session.db, request[1])
    return 0 if value is None else len(value)


def _range_count(request: list[bytes]) -> int:
    """How many entries XRANGE is to answer at most; -1: all."""
    count = -1
    for i in range(4, len(request), 2):
        if request[i].upper() != b"COUNT" or i + 1 == len(request):
            raise CommandError(SYNTAX)
        count = max(0, parse_int(request[i + 1]))
    return count


@command(
    "XRANGE",
    arity=-4,
    flags="readonly",
    group="stream",
    since="5.0.0",
    complexity="O(N) where N is the number of entries that are returned",
    summary="The entries of a stream whose ids are within a range.",
    usage="key start end [COUNT count]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def xrange(session: Session, request: list[bytes]) -> Reply:
    """Answers an id, and fields and values, of each."""
    start = parse_start(request[2])
    end = parse_end(request[3])
    count = _range_count(request)
    value = read_stream(session.db, request[1])
    if value is None:
        return []
    if count == 0:
        return NULL_ARRAY
    return value.range(start, end, max(0, count))


@command(
    "XREVRANGE",
    arity=-4,
    flags="readonly",
    group="stream",
    since="5.0.0",
    complexity="O(N) where N is the number of entries that are returned",
    summary="The entries of a stream whose ids are within a range, the last one first.",
    usage="key end start [COUNT count]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def xrevrange(session: Session, request: list[bytes]) -> Reply:
    """As XRANGE, in reverse."""
    start = parse_start(request[3])
    end = parse_end(request[2])
    count = _range_count(request)
    value = read_stream(session.db, request[1])
    if value is None:
        return []
    if count == 0:
        return NULL_ARRAY
    return value.range_reversed(start, end, max(0, count))


@command(
    "XDEL",
    arity=-3,
    flags="write fast",
    group="stream",
    since="5.0.0",
    complexity="O(log N) for each entry",
    summary="Removes entries from a stream, which stays, even if it is empty.",
    usage="key id [id ...]",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def xdel(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there were."""
    db = session.db
    key = request[1]
    value = lookup_stream(db, key)
    if value is None:
        return 0
    ids = [parse_id(text) for text in request[2:]]
    before_bytes = value.size_bytes
    removed = 0
    for entry_id in ids:
        if value.remove(entry_id):
            removed += 1
    if removed:
        db.modified(key, value.size_bytes - before_bytes)
        db.notify(STREAM, b"xdel", key)
    return removed


@command(
    "XTRIM",
    arity=-4,
    flags="write",
    group="stream",
    since="5.0.0",
    complexity="O(N) where N is the number of entries that go",
    summary="Removes the first entries of a stream, down to a length or to an id.",
    usage="key <<MAXLEN | MINID> [= | ~] threshold [LIMIT count]>",
    keys=ONE_KEY,
    key_flags="RW delete",
    tips="nondeterministic_output",
)
def xtrim(session: Session, request: list[bytes]) -> Reply:
    """Answers how many entries went."""
    trimming = _Trimming()
    trimming.parse(request, 2, adds=False)
    trimming.check(session.node.settings.stream_node_max_entries, adds=False)
    db = session.db
    key = request[1]
    value = lookup_stream(db, key)
    if value is None:
        return 0
    before_bytes = value.size_bytes
    removed = trimming.apply(value)
    if value.size_bytes != before_bytes:
        db.modified(key, value.size_bytes - before_bytes)
    if removed:
        db.notify(STREAM, b"xtrim", key)
    return removed


@command(
    "XSETID",
    arity=-3,
    flags="write denyoom fast",
    group="stream",
    since="5.0.0",
    complexity="O(1)",
    summary="Sets the last id of a stream, and how many entries it is said to have had.",
    usage="key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]",
    keys=ONE_KEY,
    key_flags="RW update",
)
def xsetid(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    last_id = parse_id(request[2])
    entries_added = -1
    max_deleted_id = 0
    for i in range(3, len(request), 2):
        option = request[i].upper()
        if option == b"ENTRIESADDED" and i + 1 < len(request):
            entries_added = parse_int(request[i + 1])
            if entries_added < 0:
                raise CommandError(_ADDED_NEGATIVE)
        elif option == b"MAXDELETEDID" and i + 1 < len(request):
            max_deleted_id = parse_id(request[i + 1])
            if last_id < max_deleted_id:
                raise CommandError(_BELOW_GIVEN)
        else:
            raise CommandError(SYNTAX)
    db = session.db
    key = request[1]
    value = lookup_stream(db, key)
    if value is None:
        raise CommandError(NO_SUCH_KEY)
    if last_id < value.max_deleted_id:
        raise CommandError(_BELOW_DELETED)
    if len(value):
        if last_id < value.top_id():
            raise CommandError(_BELOW_TOP)
        if 0 <= entries_added < len(value):
            raise CommandError(_ADDED_BELOW_LENGTH)
    if entries_added < 0:
        entries_added = value.entries_added
    value.set_state(last_id, entries_added, max_deleted_id or value.max_deleted_id)
    tell_noted(db, key, 0)
    db.notify(STREAM, b"xsetid", key)
    return OK
