"""Hash commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketkv import limits
from pocketkv.engine.arguments import (
    INT64_MAX,
    INT64_MIN,
    canonical_integer,
    parse_cursor,
    parse_int,
    parse_int_within,
)
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import (
    OVERFLOW,
    SYNTAX,
    WRONG_TYPE,
    CommandError,
    wrong_arity,
)
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.collections import COUNT_OUT_OF_RANGE, TOO_MANY_DRAWS, scan_options
from pocketkv.engine.hash_value import HashValue, pair_cost
from pocketkv.engine.long_double import add_long_doubles, format_long_double, parse_long_double
from pocketkv.engine.notifications import HASH
from pocketkv.engine.shrinking import shrunk
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

_VALUE_NOT_INTEGER: Final = b"ERR hash value is not an integer"
_VALUE_NOT_FLOAT: Final = b"ERR hash value is not a float"
_NAN_OR_INFINITE: Final = b"ERR value is NaN or Infinity"
_OUT_OF_RANGE: Final = b"ERR value is out of range"
# Arguments from which on HSET looks at what its fields will cost before it sets them.
_MANY_ARGUMENTS: Final = 64
# The same for the compiled hot path, as a C number.
_HASH: Final = HASH


def _read_hash(session: Session, key: bytes) -> HashValue | None:
    value = session.db.read(key)
    if value is None or type(value) is HashValue:
        return value
    raise CommandError(WRONG_TYPE)


def lookup_hash(db: Database, key: bytes) -> HashValue | None:
    """The hash of a key; ``None`` if the key does not exist.

    Raises:
        CommandError: WRONGTYPE.
    """
    value = db.lookup(key)
    if value is None or type(value) is HashValue:
        return value
    raise CommandError(WRONG_TYPE)


# --- setting -----------------------------------------------------------------------------------


@command(
    "HSET",
    arity=-4,
    flags="write denyoom fast",
    group="hash",
    since="2.0.0",
    complexity="O(1) for each field",
    summary="Sets fields of a hash, which is created if it does not exist.",
    usage="key field value [field value ...]",
    keys=ONE_KEY,
    key_flags="RW update",
)
def hset(session: Session, request: list[bytes]) -> Reply:
    """Answers how many fields are new."""
    if len(request) % 2:
        raise wrong_arity("hset")
    return _set_fields(session, request)


@command(
    "HMSET",
    arity=-4,
    flags="write denyoom fast",
    group="hash",
    since="2.0.0",
    complexity="O(1) for each field",
    summary="Sets fields of a hash; the older form of HSET.",
    usage="key field value [field value ...]",
    keys=ONE_KEY,
    key_flags="RW update",
)
def hmset(session: Session, request: list[bytes]) -> Reply:
    """Answers OK."""
    if len(request) % 2:
        raise wrong_arity("hmset")
    _set_fields(session, request)
    return OK


def _set_fields(session: Session, request: list[bytes]) -> int:
    """Set each field that is followed by its value; how many are new."""
    db = session.db
    key = request[1]
    value = lookup_hash(db, key)
    if len(request) > _MANY_ARGUMENTS:
        # Short values cost far more than their bytes, which are what the gate has looked at.
        costs = sum(pair_cost(request[i], request[i + 1]) for i in range(2, len(request), 2))
        require_memory(session, costs)
    settings = session.node.settings
    entries_max = settings.hash_max_listpack_entries
    value_max = settings.hash_max_listpack_value
    is_new = value is None
    if value is None:
        value = HashValue()
    before_bytes = value.size_bytes
    added = 0
    for i in range(2, len(request), 2):
        if value.set(request[i], request[i + 1], entries_max, value_max):
            added += 1
    _keep(db, key, value, before_bytes, is_new)
    db.notify(_HASH, b"hset", key)
    return added


def _keep(db: Database, key: bytes, value: HashValue, before_bytes: int, is_new: bool) -> None:
    """Have a key hold a hash that was changed, or made."""
    if is_new:
        db.put(key, value)
    else:
        db.modified(key, value.size_bytes - before_bytes)


def _set_one(
    session: Session, key: bytes, value: HashValue | None, field: bytes, to: bytes
) -> None:
    """Set one field of a hash that may have to be made."""
    settings = session.node.settings
    is_new = value is None
    if value is None:
        value = HashValue()
    before_bytes = value.size_bytes
    value.set(field, to, settings.hash_max_listpack_entries, settings.hash_max_listpack_value)
    _keep(session.db, key, value, before_bytes, is_new)


@command(
    "HSETNX",
    arity=4,
    flags="write denyoom fast",
    group="hash",
    since="2.0.0",
    complexity="O(1)",
    summary="Sets a field of a hash if the field does not exist.",
    usage="key field value",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def hsetnx(session: Session, request: list[bytes]) -> Reply:
    """Answers whether it was set."""
    key = request[1]
    value = lookup_hash(session.db, key)
    if value is not None and value.get(request[2]) is not None:
        return 0
    _set_one(session, key, value, request[2], request[3])
    session.db.notify(_HASH, b"hset", key)
    return 1


@command(
    "HINCRBY",
    arity=4,
    flags="write denyoom fast",
    group="hash",
    since="2.0.0",
    complexity="O(1)",
    summary="Adds to the integer that a field holds; no field counts as 0.",
    usage="key field increment",
    keys=ONE_KEY,
    key_flags="RW access update",
)
def hincrby(session: Session, request: list[bytes]) -> Reply:
    """The sum."""
    increment = parse_int(request[3])
    key = request[1]
    value = lookup_hash(session.db, key)
    held = None if value is None else value.get(request[2])
    number = 0 if held is None else canonical_integer(held)
    if number is None:
        raise CommandError(_VALUE_NOT_INTEGER)
    total: int = number + increment
    if not INT64_MIN <= total <= INT64_MAX:
        raise CommandError(OVERFLOW)
    _set_one(session, key, value, request[2], b"%d" % total)
    session.db.notify(_HASH, b"hincrby", key)
    return total


@command(
    "HINCRBYFLOAT",
    arity=4,
    flags="write denyoom fast",
    group="hash",
    since="2.6.0",
    complexity="O(1)",
    summary="Adds to the decimal number that a field holds; no field counts as 0.",
    usage="key field increment",
    keys=ONE_KEY,
    key_flags="RW access update",
)
def hincrbyfloat(session: Session, request: list[bytes]) -> Reply:
    """The sum, as text."""
    increment = parse_long_double(request[3])
    if increment.infinite:
        raise CommandError(_NAN_OR_INFINITE)
    key = request[1]
    value = lookup_hash(session.db, key)
    held = None if value is None else value.get(request[2])
    try:
        number = parse_long_double(b"0" if held is None else held)
    except CommandError:
        raise CommandError(_VALUE_NOT_FLOAT) from None
    text = format_long_double(add_long_doubles(number, increment))
    _set_one(session, key, value, request[2], text)
    session.db.notify(_HASH, b"hincrbyfloat", key)
    return text


@command(
    "HDEL",
    arity=-3,
    flags="write fast",
    group="hash",
    since="2.0.0",
    complexity="O(1) for each field",
    summary="Removes fields from a hash, and the hash with its last field.",
    usage="key field [field ...]",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def hdel(session: Session, request: list[bytes]) -> Reply:
    """Answers how many fields there were."""
    db = session.db
    key = request[1]
    value = lookup_hash(db, key)
    if value is None:
        return 0
    before_bytes = value.size_bytes
    removed = 0
    for i in range(2, len(request)):
        if value.discard(request[i]):
            removed += 1
    if removed:
        shrunk(db, key, value, before_bytes, _HASH, b"hdel")
    return removed


# --- reading -----------------------------------------------------------------------------------


@command(
    "HGET",
    arity=3,
    flags="readonly fast",
    group="hash",
    since="2.0.0",
    complexity="O(1)",
    summary="Returns the value of a field of a hash.",
    usage="key field",
    keys=ONE_KEY,
    key_flags="RO access",
)
def hget(session: Session, request: list[bytes]) -> Reply:
    """The value; null if the field or the key does not exist."""
    value = _read_hash(session, request[1])
    return None if value is None else value.get(request[2])


@command(
    "HMGET",
    arity=-3,
    flags="readonly fast",
    group="hash",
    since="2.0.0",
    complexity="O(1) for each field",
    summary="Returns the values of several fields of a hash.",
    usage="key field [field ...]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def hmget(session: Session, request: list[bytes]) -> Reply:
    """A value or null for each."""
    value = _read_hash(session, request[1])
    if value is None:
        return [None] * (len(request) - 2)
    return [value.get(field) for field in request[2:]]


@command(
    "HGETALL",
    arity=2,
    flags="readonly",
    group="hash",
    since="2.0.0",
    complexity="O(N) where N is the size of the hash",
    summary="Returns all fields and values of a hash.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output_order",
)
def hgetall(session: Session, request: list[bytes]) -> Reply:
    """A map."""
    value = _read_hash(session, request[1])
    pairs: dict[Any, Any] = {} if value is None else value.pairs()
    return pairs


@command(
    "HKEYS",
    arity=2,
    flags="readonly",
    group="hash",
    since="2.0.0",
    complexity="O(N) where N is the size of the hash",
    summary="Returns all fields of a hash.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output_order",
)
def hkeys(session: Session, request: list[bytes]) -> Reply:
    """An array."""
    value = _read_hash(session, request[1])
    fields: list[Any] = [] if value is None else value.fields()
    return fields


@command(
    "HVALS",
    arity=2,
    flags="readonly",
    group="hash",
    since="2.0.0",
    complexity="O(N) where N is the size of the hash",
    summary="Returns all values of a hash.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output_order",
)
def hvals(session: Session, request: list[bytes]) -> Reply:
    """An array."""
    value = _read_hash(session, request[1])
    values: list[Any] = [] if value is None else value.values()
    return values


@command(
    "HLEN",
    arity=2,
    flags="readonly fast",
    group="hash",
    since="2.0.0",
    complexity="O(1)",
    summary="The number of fields of a hash.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO",
)
def hlen(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 for a key that does not exist."""
    value = _read_hash(session, request[1])
    return 0 if value is None else len(value)


@command(
    "HEXISTS",
    arity=3,
    flags="readonly fast",
    group="hash",
    since="2.0.0",
    complexity="O(1)",
    summary="Whether a hash has a field.",
    usage="key field",
    keys=ONE_KEY,
    key_flags="RO",
)
def hexists(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 or 1."""
    value = _read_hash(session, request[1])
    return 0 if value is None or value.get(request[2]) is None else 1


@command(
    "HSTRLEN",
    arity=3,
    flags="readonly fast",
    group="hash",
    since="3.2.0",
    complexity="O(1)",
    summary="The length of the value of a field of a hash.",
    usage="key field",
    keys=ONE_KEY,
    key_flags="RO",
)
def hstrlen(session: Session, request: list[bytes]) -> Reply:
    """Its bytes; 0 if the field or the key does not exist."""
    value = _read_hash(session, request[1])
    held = None if value is None else value.get(request[2])
    return 0 if held is None else len(held)


# --- at random ---------------------------------------------------------------------------------


@command(
    "HRANDFIELD",
    arity=-2,
    flags="readonly",
    group="hash",
    since="6.2.0",
    complexity="O(N) where N is the number of fields that are returned",
    summary="Random fields of a hash.",
    usage="key [count [WITHVALUES]]",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def hrandfield(session: Session, request: list[bytes]) -> Reply:
    """Answers one field or null; with a count an array, where a negative one allows repetition."""
    randomness = session.node.keyspace.randomness
    if len(request) == 2:
        value = _read_hash(session, request[1])
        return None if value is None else value.random_field(randomness)
    count = parse_int_within(request[2], -INT64_MAX, INT64_MAX, COUNT_OUT_OF_RANGE)
    with_values = len(request) == 4
    if len(request) > 4 or (with_values and request[3].upper() != b"WITHVALUES"):
        raise CommandError(SYNTAX)
    if with_values and not -(INT64_MAX // 2) <= count <= INT64_MAX // 2:
        raise CommandError(_OUT_OF_RANGE)
    value = _read_hash(session, request[1])
    if value is None or count == 0:
        return []
    if count < -limits.RANDOM_MEMBERS_MAX:
        raise CommandError(TOO_MANY_DRAWS)
    if count < 0:
        fields = value.random_fields(-count, randomness)
    elif count >= len(value):
        fields = value.fields()
    else:
        fields = value.sample(count, randomness)
    return _with_values(session, value, fields) if with_values else list(fields)


def _with_values(session: Session, value: HashValue, fields: list[bytes]) -> Reply:
    """Fields and their values: pairs in RESP3, one after the other before that."""
    if session.protocol == 3:
        return [[field, value.get(field)] for field in fields]
    flat: list[Reply] = []
    for field in fields:
        flat.append(field)
        flat.append(value.get(field))
    return flat


# --- walking -----------------------------------------------------------------------------------


@command(
    "HSCAN",
    arity=-3,
    flags="readonly",
    group="hash",
    since="2.8.0",
    complexity="O(1) for each call, O(N) for a whole walk",
    summary="Walks over the fields of a hash, some at a time.",
    usage="key cursor [MATCH pattern] [COUNT count]",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def hscan(session: Session, request: list[bytes]) -> Reply:
    """Answers the next cursor, 0 at the end, and fields, each followed by its value."""
    cursor = parse_cursor(request[2])
    # Redis looks at the key before it looks at the options.
    value = _read_hash(session, request[1])
    if value is None:
        return [b"0", []]
    pattern, count = scan_options(request)
    cursor, found = value.scan(cursor, count)
    flat: list[Reply] = []
    for field, held in found.items():
        if pattern is None or pattern.matches(field):
            flat.append(field)
            flat.append(held)
    return [b"%d" % cursor, flat]
