"""List commands that concern one list and never wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import INT64_MAX, INT64_MIN, parse_int
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import (
    INDEX_OUT_OF_RANGE,
    NO_SUCH_KEY,
    NOT_POSITIVE,
    SYNTAX,
    WRONG_TYPE,
    CommandError,
    wrong_arity,
)
from pocketkv.engine.gate import require_memory
from pocketkv.engine.list_chunks import index_of, item_cost, positions_from_end, positions_of
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.notifications import GENERIC, LIST
from pocketkv.engine.shrinking import shrunk
from pocketkv.resp.replies import NULL_ARRAY, OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

# Arguments from which on a push looks at what its elements will cost before it adds them.
_MANY_ITEMS: Final = 64
# The same for the compiled hot path, as C numbers.
_LIST: Final = LIST
_GENERIC: Final = GENERIC
_RANK_ZERO: Final = (
    b"ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use "
    b"negative to start from the end of the list"
)
_COUNT_NEGATIVE: Final = b"ERR COUNT can't be negative"
_MAXLEN_NEGATIVE: Final = b"ERR MAXLEN can't be negative"


def lookup_list(db: Database, key: bytes) -> ListValue | None:
    """The list of a key that may be changed; ``None`` if the key does not exist.

    Raises:
        CommandError: WRONGTYPE.
    """
    value = db.lookup(key)
    if value is None or type(value) is ListValue:
        return value
    raise CommandError(WRONG_TYPE)


def _read_list(session: Session, key: bytes) -> ListValue | None:
    value = session.db.read(key)
    if value is None or type(value) is ListValue:
        return value
    raise CommandError(WRONG_TYPE)


# --- pushing -----------------------------------------------------------------------------------


@command(
    "LPUSH",
    arity=-3,
    flags="write denyoom fast",
    group="list",
    since="1.0.0",
    complexity="O(1) for each element",
    summary="Adds elements at the beginning of a list, which is created if it does not exist.",
    usage="key element [element ...]",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def lpush(session: Session, request: list[bytes]) -> Reply:
    """Answers how many elements the list has then."""
    return _push(session, request, True, False)


@command(
    "RPUSH",
    arity=-3,
    flags="write denyoom fast",
    group="list",
    since="1.0.0",
    complexity="O(1) for each element",
    summary="Adds elements at the end of a list, which is created if it does not exist.",
    usage="key element [element ...]",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def rpush(session: Session, request: list[bytes]) -> Reply:
    """Answers how many elements the list has then."""
    return _push(session, request, False, False)


@command(
    "LPUSHX",
    arity=-3,
    flags="write denyoom fast",
    group="list",
    since="2.2.0",
    complexity="O(1) for each element",
    summary="Adds elements at the beginning of a list, if it exists.",
    usage="key element [element ...]",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def lpushx(session: Session, request: list[bytes]) -> Reply:
    """Answers how many elements the list has then."""
    return _push(session, request, True, True)


@command(
    "RPUSHX",
    arity=-3,
    flags="write denyoom fast",
    group="list",
    since="2.2.0",
    complexity="O(1) for each element",
    summary="Adds elements at the end of a list, if it exists.",
    usage="key element [element ...]",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def rpushx(session: Session, request: list[bytes]) -> Reply:
    """Answers how many elements the list has then."""
    return _push(session, request, False, True)


def _push(session: Session, request: list[bytes], left: bool, only_existing: bool) -> Reply:
    db = session.db
    key = request[1]
    if len(request) > _MANY_ITEMS:
        # Short elements cost far more than their bytes, which are what the gate has looked at.
        require_memory(session, sum([item_cost(item) for item in request[2:]]))
    value: ListValue | None = lookup_list(db, key)
    is_new = value is None
    if value is None:
        if only_existing:
            return 0
        value = ListValue()
    before_bytes = value.size_bytes
    for i in range(2, len(request)):
        if left:
            value.push_left(request[i])
        else:
            value.push_right(request[i])
    if is_new:
        db.put(key, value)
    else:
        db.modified(key, value.size_bytes - before_bytes)
    db.notify(_LIST, b"lpush" if left else b"rpush", key)
    return len(value)


@command(
    "LINSERT",
    arity=5,
    flags="write denyoom",
    group="list",
    since="2.2.0",
    complexity="O(N) where N is the number of elements before the pivot",
    summary="Inserts an element before or after another one.",
    usage="key <BEFORE | AFTER> pivot element",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def linsert(session: Session, request: list[bytes]) -> Reply:
    """Answers how many elements the list has then; -1 if the pivot is not in it."""
    where = request[2].upper()
    if where not in (b"BEFORE", b"AFTER"):
        raise CommandError(SYNTAX)
    db = session.db
    key = request[1]
    value: ListValue | None = lookup_list(db, key)
    if value is None:
        return 0
    index = index_of(value.chunks(), request[3])
    if index < 0:
        return -1
    before_bytes = value.size_bytes
    value.insert(index + 1 if where == b"AFTER" else index, request[4])
    db.modified(key, value.size_bytes - before_bytes)
    db.notify(_LIST, b"linsert", key)
    return len(value)


@command(
    "LSET",
    arity=4,
    flags="write denyoom",
    group="list",
    since="1.0.0",
    complexity="O(N) where N is the length of the list",
    summary="Puts an element in place of another one.",
    usage="key index element",
    keys=ONE_KEY,
    key_flags="RW update",
)
def lset(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    db = session.db
    key = request[1]
    value: ListValue | None = lookup_list(db, key)
    if value is None:
        raise CommandError(NO_SUCH_KEY)
    index = parse_int(request[2])
    if index < 0:
        index += len(value)
    if not 0 <= index < len(value):
        raise CommandError(INDEX_OUT_OF_RANGE)
    before_bytes = value.size_bytes
    value.replace(index, request[3])
    db.modified(key, value.size_bytes - before_bytes)
    db.notify(_LIST, b"lset", key)
    return OK


# --- popping -----------------------------------------------------------------------------------


@command(
    "LPOP",
    arity=-2,
    flags="write fast",
    group="list",
    since="1.0.0",
    complexity="O(N) where N is the number of elements that are removed",
    summary="Removes the first elements of a list and returns them.",
    usage="key [count]",
    keys=ONE_KEY,
    key_flags="RW access delete",
)
def lpop(session: Session, request: list[bytes]) -> Reply:
    """Answers one element or null, with a count an array."""
    return _pop(session, request, True)


@command(
    "RPOP",
    arity=-2,
    flags="write fast",
    group="list",
    since="1.0.0",
    complexity="O(N) where N is the number of elements that are removed",
    summary="Removes the last elements of a list and returns them.",
    usage="key [count]",
    keys=ONE_KEY,
    key_flags="RW access delete",
)
def rpop(session: Session, request: list[bytes]) -> Reply:
    """Answers one element or null, with a count an array, the last element first."""
    return _pop(session, request, False)


def _pop(session: Session, request: list[bytes], left: bool) -> Reply:
    if len(request) > 3:
        raise wrong_arity("lpop" if left else "rpop")
    count = -1
    if len(request) == 3:
        count = parse_int(request[2], NOT_POSITIVE)
        if count < 0:
            raise CommandError(NOT_POSITIVE)
    db = session.db
    key = request[1]
    value: ListValue | None = lookup_list(db, key)
    if value is None:
        return None if count < 0 else NULL_ARRAY
    if count < 0:
        return pop_one(db, key, value, left)
    return pop_many(db, key, value, left, count) if count else []


def pop_one(db: Database, key: bytes, value: ListValue, left: bool) -> bytes:
    """Remove and return an element of a list that is not empty."""
    before_bytes = value.size_bytes
    item = value.pop_left() if left else value.pop_right()
    shrunk(db, key, value, before_bytes, _LIST, b"lpop" if left else b"rpop")
    return item


def pop_many(db: Database, key: bytes, value: ListValue, left: bool, count: int) -> list[Reply]:
    """Remove and return up to `count` elements, at least one, of a list that is not empty."""
    before_bytes = value.size_bytes
    count = min(count, len(value))
    if left:
        popped: list[Reply] = [value.pop_left() for _ in range(count)]
    else:
        popped = [value.pop_right() for _ in range(count)]
    shrunk(db, key, value, before_bytes, _LIST, b"lpop" if left else b"rpop")
    return popped


@command(
    "LREM",
    arity=4,
    flags="write",
    group="list",
    since="1.0.0",
    complexity="O(N) where N is the length of the list",
    summary="Removes elements that are equal to one that is given.",
    usage="key count element",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def lrem(session: Session, request: list[bytes]) -> Reply:
    """Answers how many were removed."""
    count = parse_int(request[2])
    db = session.db
    key = request[1]
    value: ListValue | None = lookup_list(db, key)
    if value is None:
        return 0
    before_bytes = value.size_bytes
    gone = value.remove(request[3], count)
    if gone:
        shrunk(db, key, value, before_bytes, _LIST, b"lrem")
    return gone


@command(
    "LTRIM",
    arity=4,
    flags="write",
    group="list",
    since="1.0.0",
    complexity="O(N) where N is the number of elements that are removed",
    summary="Removes all elements of a list but those of a range.",
    usage="key start stop",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def ltrim(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    start, stop = parse_int(request[2]), parse_int(request[3])
    db = session.db
    key = request[1]
    value: ListValue | None = lookup_list(db, key)
    if value is None:
        return OK
    before_bytes = value.size_bytes
    start, count = _within(start, stop, len(value))
    dropped = value.trim(start, count)
    if dropped is not None:
        session.node.keyspace.shedding.append(dropped)
    shrunk(db, key, value, before_bytes, _LIST, b"ltrim")
    return OK


# --- reading -----------------------------------------------------------------------------------


@command(
    "LLEN",
    arity=2,
    flags="readonly fast",
    group="list",
    since="1.0.0",
    complexity="O(1)",
    summary="The number of elements of a list.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO",
)
def llen(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 for a key that does not exist."""
    value: ListValue | None = _read_list(session, request[1])
    return 0 if value is None else len(value)


@command(
    "LINDEX",
    arity=3,
    flags="readonly",
    group="list",
    since="1.0.0",
    complexity="O(N) where N is the number of elements between the index and the nearer end",
    summary="An element of a list, by its index.",
    usage="key index",
    keys=ONE_KEY,
    key_flags="RO access",
)
def lindex(session: Session, request: list[bytes]) -> Reply:
    """Answers the element, or null if there is none."""
    value: ListValue | None = _read_list(session, request[1])
    if value is None:
        return None
    index = parse_int(request[2])
    if index < 0:
        index += len(value)
    return value.get(index) if 0 <= index < len(value) else None


@command(
    "LRANGE",
    arity=4,
    flags="readonly",
    group="list",
    since="1.0.0",
    complexity="O(S+N) where S is the distance of the range from the nearer end and N its length",
    summary="The elements of a range of a list.",
    usage="key start stop",
    keys=ONE_KEY,
    key_flags="RO access",
)
def lrange(session: Session, request: list[bytes]) -> Reply:
    """Answers an array."""
    start, stop = parse_int(request[2]), parse_int(request[3])
    value: ListValue | None = _read_list(session, request[1])
    if value is None:
        return []
    start, count = _within(start, stop, len(value))
    return value.items_from(start, count)  # type: ignore[return-value]  # bytes are replies


def _within(start: int, stop: int, length: int) -> tuple[int, int]:
    """Where a range begins that is given as Redis gives ranges, and how long it is."""
    if start < 0:
        start = max(0, start + length)
    if stop < 0:
        stop += length
    if start > stop or start >= length:
        return 0, 0
    return start, min(stop, length - 1) - start + 1


@command(
    "LPOS",
    arity=-3,
    flags="readonly",
    group="list",
    since="6.0.6",
    complexity="O(N) where N is the number of elements that are looked at",
    summary="Where an element stands in a list.",
    usage="key element [RANK rank] [COUNT num-matches] [MAXLEN len]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def lpos(session: Session, request: list[bytes]) -> Reply:
    """Answers an index or null, with COUNT an array of indices."""
    rank, count, length_max = 1, -1, 0
    for i in range(3, len(request), 2):
        option = request[i].upper()
        if i + 1 == len(request):
            raise CommandError(SYNTAX)
        if option == b"RANK":
            rank = parse_int(request[i + 1])
            if rank == 0:
                raise CommandError(_RANK_ZERO)
        elif option == b"COUNT":
            count = _parse_positive(request[i + 1], _COUNT_NEGATIVE)
        elif option == b"MAXLEN":
            length_max = _parse_positive(request[i + 1], _MAXLEN_NEGATIVE)
        else:
            raise CommandError(SYNTAX)
    value: ListValue | None = _read_list(session, request[1])
    if value is None:
        return None if count < 0 else []
    matches_max = 1 if count < 0 else count or INT64_MAX
    looks_max = length_max or INT64_MAX
    if rank > 0:
        found = positions_of(value.chunks(), request[2], rank, matches_max, looks_max)
    else:
        # Redis negates the smallest number, which C cannot, and then takes it for 1.
        rank = 1 if rank == INT64_MIN else -rank
        found = positions_from_end(value.chunks(), request[2], rank, matches_max, looks_max)
    if count < 0:
        return found[0] if found else None
    return found  # type: ignore[return-value]  # integers are replies


def _parse_positive(text: bytes, error: bytes) -> int:
    number = parse_int(text, error)
    if number < 0:
        raise CommandError(error)
    return number
