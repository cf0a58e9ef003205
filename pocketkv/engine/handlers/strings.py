"""Strings: whole values, and numbers.

Where a request may bring a `LargeString` (``value_at``), its arguments have no type that could be
declared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketkv.engine.arguments import (
    INT64_MAX,
    INT64_MIN,
    Expiry,
    StringOptions,
    parse_int,
)
from pocketkv.engine.commands import ALL_KEYS, KEY_VALUE_PAIRS, ONE_KEY, Merge, Route, command
from pocketkv.engine.errors import (
    NOT_FLOAT,
    NOT_INTEGER,
    OVERFLOW,
    CommandError,
    wrong_arity,
)
from pocketkv.engine.large_string import LargeString, reply_of
from pocketkv.engine.long_double import add_long_doubles, format_long_double, parse_long_double
from pocketkv.engine.notifications import EXPIRED, GENERIC, STRING
from pocketkv.engine.values import Collection, Value
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session


# --- whole values ------------------------------------------------------------------------------


@command(
    "GET",
    arity=2,
    flags="readonly fast",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Returns the string that a key holds.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="string",
)
def get(session: Session, request: list[bytes]) -> Reply:
    """The value, or nil."""
    value = session.db.read_string(request[1])
    return reply_of(value) if isinstance(value, LargeString) else value


@command(
    "SET",
    arity=-3,
    flags="write denyoom",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Sets a key to a string, whatever it held, and its expiry.",
    usage="key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | "
    "PXAT unix-time-milliseconds | KEEPTTL]",
    keys=ONE_KEY,
    key_flags="RW access update variable_flags",
    categories="string",
    value_at=2,
)
def set_(session: Session, request: list[Any]) -> Reply:
    """OK; nil if NX or XX kept it from being set; with GET, the old value."""
    if len(request) == 3:
        session.db.put(request[1], request[2])
        session.db.notify(STRING, b"set", request[1])
        return OK
    options = StringOptions()
    options.parse_set(request)
    due_ms = 0
    if options.expiry is not None:
        due_ms = options.expiry.due_ms(session.node.clock.now_ms, "set")
    db = session.db
    key = request[1]
    old = reply_of(db.read_string(key)) if options.get else None
    conditional = options.only_new or options.only_existing
    if conditional and (db.find(key) is not None) is options.only_new:
        return old
    if options.keep_expiry:
        # An expiry that has passed already must not stay.
        db.find(key)
        db.put_keeping_expiry(key, request[2])
        db.notify(STRING, b"set", key)
    else:
        _put_until(db, key, request[2], due_ms)
    return old if options.get else OK


def _put_until(db: Database, key: bytes, value: Value, due_ms: int) -> None:
    """Set a key that expires at `due_ms`; 0: never."""
    if due_ms == 0:
        db.put(key, value)
        db.notify(STRING, b"set", key)
        return
    if db.space.notify_flags:
        # An old value that has expired is told of before there is a new one.
        db.find(key)
    # The old expiry is replaced in one step instead of forgotten first.
    db.put_keeping_expiry(key, value)
    db.notify(STRING, b"set", key)
    is_there = db.set_expiry(key, due_ms)
    db.notify(GENERIC, b"expire", key)
    if not is_there:
        db.notify(EXPIRED, b"expired", key)


@command(
    "SETNX",
    arity=3,
    flags="write denyoom fast",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Sets a key that does not exist.",
    usage="key value",
    keys=ONE_KEY,
    key_flags="OW insert",
    categories="string",
    value_at=2,
)
def setnx(session: Session, request: list[Any]) -> Reply:
    """1 if it was set, 0 if the key exists."""
    if session.db.find(request[1]) is not None:
        return 0
    session.db.put(request[1], request[2])
    session.db.notify(STRING, b"set", request[1])
    return 1


@command(
    "SETEX",
    arity=4,
    flags="write denyoom",
    group="string",
    since="2.0.0",
    complexity="O(1)",
    summary="Sets a key that expires after so many seconds.",
    usage="key seconds value",
    keys=ONE_KEY,
    key_flags="OW update",
    categories="string",
    value_at=3,
)
def setex(session: Session, request: list[Any]) -> Reply:
    """OK."""
    expiry = Expiry(request[2], seconds=True, absolute=False)
    due_ms = expiry.due_ms(session.node.clock.now_ms, "setex")
    _put_until(session.db, request[1], request[3], due_ms)
    return OK


@command(
    "PSETEX",
    arity=4,
    flags="write denyoom",
    group="string",
    since="2.6.0",
    complexity="O(1)",
    summary="Sets a key that expires after so many milliseconds.",
    usage="key milliseconds value",
    keys=ONE_KEY,
    key_flags="OW update",
    categories="string",
    value_at=3,
)
def psetex(session: Session, request: list[Any]) -> Reply:
    """OK."""
    expiry = Expiry(request[2], seconds=False, absolute=False)
    due_ms = expiry.due_ms(session.node.clock.now_ms, "psetex")
    _put_until(session.db, request[1], request[3], due_ms)
    return OK


@command(
    "GETEX",
    arity=-2,
    flags="write fast",
    group="string",
    since="6.2.0",
    complexity="O(1)",
    summary="Returns the string that a key holds, and changes the key's expiry.",
    usage="key [EX seconds | PX milliseconds | EXAT unix-time-seconds | "
    "PXAT unix-time-milliseconds | PERSIST]",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="string",
)
def getex(session: Session, request: list[bytes]) -> Reply:
    """The value, or nil."""
    options = StringOptions()
    options.parse_getex(request)
    db = session.db
    value = db.read_string(request[1])
    if value is None:
        return None
    # Before anything is changed: it may have to wait, and is asked for again then.
    reply = reply_of(value)
    if options.persist:
        if db.persist(request[1]):
            db.notify(GENERIC, b"persist", request[1])
    elif options.expiry is not None:
        due_ms = options.expiry.due_ms(session.node.clock.now_ms, "getex")
        is_there = db.set_expiry(request[1], due_ms)
        db.notify(GENERIC, b"expire" if is_there else b"del", request[1])
    return reply


@command(
    "GETDEL",
    arity=2,
    flags="write fast",
    group="string",
    since="6.2.0",
    complexity="O(1)",
    summary="Returns the string that a key holds, and removes the key.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RW access delete",
    categories="string",
)
def getdel(session: Session, request: list[bytes]) -> Reply:
    """The value, or nil."""
    value = session.db.read_string(request[1])
    # Before the key is removed: it may have to wait, and is asked for again then.
    reply = reply_of(value)
    if value is not None:
        session.db.remove(request[1])
        session.db.notify(GENERIC, b"del", request[1])
    return reply


@command(
    "GETSET",
    arity=3,
    flags="write denyoom fast",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Sets a key to a string and returns the string that it held.",
    usage="key value",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="string",
    value_at=2,
)
def getset(session: Session, request: list[Any]) -> Reply:
    """The old value, or nil."""
    old = reply_of(session.db.read_string(request[1]))
    session.db.put(request[1], request[2])
    session.db.notify(STRING, b"set", request[1])
    return old


# --- several keys ------------------------------------------------------------------------------


@command(
    "MGET",
    arity=-2,
    flags="readonly fast",
    group="string",
    since="1.0.0",
    complexity="O(N) where N is the number of keys",
    summary="Returns the strings that several keys hold.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RO access",
    route=Route.SPLIT,
    merge=Merge.POSITIONS,
    categories="string",
)
def mget(session: Session, request: list[bytes]) -> Reply:
    """A value for each key; nil for a key that does not exist or holds no string."""
    db = session.db
    values: list[Reply] = []
    for i in range(1, len(request)):
        value = db.read(request[i])
        values.append(None if isinstance(value, Collection) else reply_of(value))
    return values


@command(
    "MSET",
    arity=-3,
    flags="write denyoom",
    group="string",
    since="1.0.1",
    complexity="O(N) where N is the number of keys",
    summary="Sets several keys to strings.",
    usage="key value [key value ...]",
    keys=KEY_VALUE_PAIRS,
    key_flags="OW update",
    route=Route.SPLIT,
    merge=Merge.OK,
    categories="string",
    value_at=2,
    value_step=2,
)
def mset(session: Session, request: list[Any]) -> Reply:
    """OK."""
    if len(request) % 2 == 0:
        raise wrong_arity("mset")
    for i in range(1, len(request), 2):
        session.db.put(request[i], request[i + 1])
        session.db.notify(STRING, b"set", request[i])
    return OK


@command(
    "MSETNX",
    arity=-3,
    flags="write denyoom",
    group="string",
    since="1.0.1",
    complexity="O(N) where N is the number of keys",
    summary="Sets several keys to strings if none of them exists.",
    usage="key value [key value ...]",
    keys=KEY_VALUE_PAIRS,
    key_flags="OW insert",
    categories="string",
    value_at=2,
    value_step=2,
)
def msetnx(session: Session, request: list[Any]) -> Reply:
    """1 if all were set, 0 if none was."""
    if len(request) % 2 == 0:
        raise wrong_arity("msetnx")
    for i in range(1, len(request), 2):
        if session.db.find(request[i]) is not None:
            return 0
    for i in range(1, len(request), 2):
        session.db.put(request[i], request[i + 1])
        session.db.notify(STRING, b"set", request[i])
    return 1


# --- numbers -----------------------------------------------------------------------------------


def _add(session: Session, key: bytes, amount: int) -> int:
    """Add to the integer that a key holds; no key counts as 0.

    Raises:
        CommandError: WRONGTYPE, no integer, or more than 64 bits.
    """
    db = session.db
    value = db.lookup_string(key)
    if isinstance(value, LargeString):
        raise CommandError(NOT_INTEGER)
    total = amount if value is None else parse_int(value) + amount
    if not INT64_MIN <= total <= INT64_MAX:
        raise CommandError(OVERFLOW)
    db.put_keeping_expiry(key, b"%d" % total)
    db.notify(STRING, b"incrby", key)
    return total


@command(
    "INCR",
    arity=2,
    flags="write denyoom fast",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Adds one to the integer that a key holds; no key counts as 0.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="string",
)
def incr(session: Session, request: list[bytes]) -> Reply:
    """The sum."""
    return _add(session, request[1], 1)


@command(
    "DECR",
    arity=2,
    flags="write denyoom fast",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Takes one from the integer that a key holds; no key counts as 0.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="string",
)
def decr(session: Session, request: list[bytes]) -> Reply:
    """The difference."""
    return _add(session, request[1], -1)


@command(
    "INCRBY",
    arity=3,
    flags="write denyoom fast",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Adds to the integer that a key holds; no key counts as 0.",
    usage="key increment",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="string",
)
def incrby(session: Session, request: list[bytes]) -> Reply:
    """The sum."""
    return _add(session, request[1], parse_int(request[2]))


@command(
    "DECRBY",
    arity=3,
    flags="write denyoom fast",
    group="string",
    since="1.0.0",
    complexity="O(1)",
    summary="Takes from the integer that a key holds; no key counts as 0.",
    usage="key decrement",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="string",
)
def decrby(session: Session, request: list[bytes]) -> Reply:
    """The difference."""
    amount = parse_int(request[2])
    if amount == INT64_MIN:
        raise CommandError(b"ERR decrement would overflow")
    return _add(session, request[1], -amount)


@command(
    "INCRBYFLOAT",
    arity=3,
    flags="write denyoom fast",
    group="string",
    since="2.6.0",
    complexity="O(1)",
    summary="Adds to the decimal number that a key holds; no key counts as 0.",
    usage="key increment",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="string",
)
def incrbyfloat(session: Session, request: list[bytes]) -> Reply:
    """The sum, as text."""
    db = session.db
    value = db.lookup_string(request[1])
    if isinstance(value, LargeString):
        raise CommandError(NOT_FLOAT)
    number = parse_long_double(b"0" if value is None else value)
    text = format_long_double(add_long_doubles(number, parse_long_double(request[2])))
    db.put_keeping_expiry(request[1], text)
    db.notify(STRING, b"incrbyfloat", request[1])
    return text
