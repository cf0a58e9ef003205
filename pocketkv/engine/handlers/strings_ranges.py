"""Strings: parts of them.

A value is changed in place by APPEND and SETRANGE, which is why those turn it into a ``bytearray``
first, or a large one into a `LargeString`. Where a request may bring one of those (``value_at``),
its arguments have no type that could be declared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketkv import limits
from pocketkv.engine.arguments import parse_int
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import OFFSET_OUT_OF_RANGE, STRING_TOO_LONG, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.large_string import LargeString, require_first
from pocketkv.engine.notifications import STRING
from pocketkv.engine.values import String, value_cost
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session


@command(
    "STRLEN",
    arity=2,
    flags="readonly fast",
    group="string",
    since="2.2.0",
    complexity="O(1)",
    summary="Returns the length of the string that a key holds.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO",
    categories="string",
)
def strlen(session: Session, request: list[bytes]) -> Reply:
    """Its bytes; 0 if the key does not exist."""
    value = session.db.read_string(request[1])
    return 0 if value is None else len(value)


@command(
    "GETRANGE",
    arity=4,
    flags="readonly",
    group="string",
    since="2.4.0",
    complexity="O(N) where N is the number of bytes returned",
    summary="Returns a part of the string that a key holds.",
    usage="key start end",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="string",
)
@command(
    "SUBSTR",
    arity=4,
    flags="readonly",
    group="string",
    since="1.0.0",
    complexity="O(N) where N is the number of bytes returned",
    summary="Returns a part of the string that a key holds; the older name of GETRANGE.",
    usage="key start end",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="string",
)
def getrange(session: Session, request: list[bytes]) -> Reply:
    """The bytes from start to end, both included; negative ones count from the end."""
    start = parse_int(request[2])
    end = parse_int(request[3])
    value = session.db.read_string(request[1])
    if value is None:
        return b""
    size = len(value)
    if start < 0 and end < 0 and start > end:
        return b""
    if start < 0:
        start = max(0, size + start)
    if end < 0:
        end = max(0, size + end)
    stop = min(end + 1, size)
    if isinstance(value, LargeString) and stop - start >= limits.EXTENT_BYTES_MIN:
        require_first(value, start, stop)
        return value.part_bulk(start, stop)
    if isinstance(value, LargeString):
        value.require(start, stop)
    return bytes(value[start:stop])


@command(
    "APPEND",
    arity=3,
    flags="write denyoom fast",
    group="string",
    since="2.0.0",
    complexity="O(1) for each byte that is appended, averaged over many calls",
    summary="Appends to the string that a key holds, or sets it.",
    usage="key value",
    keys=ONE_KEY,
    key_flags="RW insert",
    categories="string",
    value_at=2,
)
def append(session: Session, request: list[Any]) -> Reply:
    """The new length."""
    db = session.db
    key = request[1]
    value = db.lookup_string(key)
    if value is None:
        db.put(key, request[2])
        db.notify(STRING, b"append", key)
        return len(request[2])
    size = len(value) + len(request[2])
    _check_length(session, size)
    if size >= limits.EXTENT_BYTES_MIN and session.node.keyspace.keeps_large:
        size = _write_large(session, key, value, len(value), request[2])
    else:
        changeable = changeable_string(db, key, value)
        cost_bytes = value_cost(changeable)
        changeable += request[2]
        keep(db, key, changeable, cost_bytes)
    db.notify(STRING, b"append", key)
    return size


@command(
    "SETRANGE",
    arity=4,
    flags="write denyoom",
    group="string",
    since="2.2.0",
    complexity="O(1) for each byte that is written, averaged over many calls",
    summary="Overwrites a part of the string that a key holds; zero bytes fill a gap.",
    usage="key offset value",
    keys=ONE_KEY,
    key_flags="RW update",
    categories="string",
    value_at=3,
)
def setrange(session: Session, request: list[Any]) -> Reply:
    """The new length."""
    offset = parse_int(request[2])
    if offset < 0:
        raise CommandError(OFFSET_OUT_OF_RANGE)
    db = session.db
    key = request[1]
    part = request[3]
    value = db.lookup_string(key)
    size = 0 if value is None else len(value)
    if not part:
        return size
    size = overwrite(session, key, value, offset, part)
    db.notify(STRING, b"setrange", key)
    return size


def overwrite(
    session: Session, key: bytes, value: String | None, offset: int, part: bytes | LargeString
) -> int:
    """Write a part, of at least a byte, of the string that a key holds; its new length.

    Raises:
        CommandError: It would be too long, or there is no memory.
        NoRoom: There may be memory soon.
    """
    db = session.db
    size = 0 if value is None else len(value)
    end = offset + len(part)
    _check_length(session, end)
    keyspace = session.node.keyspace
    is_large = max(end, size) >= limits.EXTENT_BYTES_MIN and keyspace.keeps_large
    store = keyspace.store
    if end > size and not (is_large and store is not None and store.durable):
        # A short request may make a long value; in a file, a gap takes no room.
        require_memory(session, end - size)
    if is_large:
        return _write_large(session, key, value, offset, part)
    return _write_small(db, key, value, offset, bytes(part))


def _write_small(db: Database, key: bytes, value: String | None, offset: int, part: bytes) -> int:
    """Write a part of a string that is kept in memory; its length."""
    changeable = changeable_string(db, key, b"" if value is None else value)
    cost_bytes = value_cost(changeable)
    if offset > len(changeable):
        changeable += bytes(offset - len(changeable))
    changeable[offset : offset + len(part)] = part
    keep(db, key, changeable, cost_bytes)
    return len(changeable)


def length_max(session: Session) -> int:
    """The longest string that a key may hold."""
    return max(session.node.bulk_bytes_max, session.node.value_bytes_max)


def _check_length(session: Session, length: int) -> None:
    if length > length_max(session):
        raise CommandError(STRING_TOO_LONG)


def _write_large(
    session: Session, key: bytes, value: String | None, offset: int, part: bytes | LargeString
) -> int:
    """Write a part of a string that is kept in extents from now on; its length."""
    db = session.db
    if isinstance(value, LargeString):
        cost_bytes = value.size_bytes
        try:
            value.write(offset, part)
        finally:
            # It may have got room that it then did not need.
            db.modified(key, value.size_bytes - cost_bytes)
        return len(value)
    string = session.node.keyspace.new_string(session.job_id)
    assert string is not None  # The callers have looked.
    if value is not None:
        string.write(0, value)
    string.write(offset, part)
    db.put_keeping_expiry(key, string)
    return len(string)


def changeable_string(db: Database, key: bytes, value: String) -> bytearray:
    """A key's string as it can be changed in place; copied the first time."""
    if isinstance(value, bytearray):
        return value
    changeable = bytearray(bytes(value))
    if db.shelf is None:
        db.put_keeping_expiry(key, changeable)
    return changeable


def keep(db: Database, key: bytes, changeable: bytearray, cost_bytes: int) -> None:
    """Have a key hold a string that was changed in place, and cost so much before."""
    if db.find_stored(key) is changeable:
        db.modified(key, value_cost(changeable) - cost_bytes)
    else:
        db.put_keeping_expiry(key, changeable)
