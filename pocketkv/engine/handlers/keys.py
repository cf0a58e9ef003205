"""Keys, whatever they hold: remove, count, rename, copy, and look at how they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.arguments import canonical_integer, parse_int32
from pocketkv.engine.commands import (
    ALL_KEYS,
    ONE_KEY,
    TWO_KEYS,
    KeySpec,
    Merge,
    Route,
    command,
    not_callable,
)
from pocketkv.engine.errors import DB_OUT_OF_RANGE, NO_SUCH_KEY, SYNTAX, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.notifications import GENERIC, NEW
from pocketkv.engine.payloads import type_of
from pocketkv.engine.values import Collection, Value, value_cost
from pocketkv.resp.replies import OK, Reply, Simple

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

SAME_OBJECT: Final = b"ERR source and destination objects are the same"
NO_LFU: Final = (
    b"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that "
    b"when switching between policies at runtime LRU and LFU data will take some time to adjust."
)
LFU: Final = (
    b"ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when "
    b"switching between policies at runtime LRU and LFU data will take some time to adjust."
)
# Redis keeps these numbers once for all keys, and shows this count of references.
_SHARED_INTEGERS: Final = 10_000
_SHARED_REFCOUNT: Final = 2**31 - 1
# Redis keeps a string of no more bytes than this in one piece with its head.
_EMBEDDED_BYTES_MAX: Final = 44


# --- removing and counting ---------------------------------------------------------------------


@command(
    "DEL",
    arity=-2,
    flags="write",
    group="generic",
    since="1.0.0",
    complexity="O(N) where N is the number of keys and of the elements in them",
    summary="Removes keys.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RM delete",
    route=Route.SPLIT,
    merge=Merge.SUM,
    categories="keyspace",
)
@command(
    "UNLINK",
    arity=-2,
    flags="write fast",
    group="generic",
    since="4.0.0",
    complexity="O(N) where N is the number of keys and of the elements in them",
    summary="Removes keys, as DEL does.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RM delete",
    route=Route.SPLIT,
    merge=Merge.SUM,
    categories="keyspace",
)
def del_(session: Session, request: list[bytes]) -> Reply:
    """How many existed."""
    removed = 0
    for i in range(1, len(request)):
        if session.db.remove(request[i]):
            removed += 1
            session.db.notify(GENERIC, b"del", request[i])
    return removed


@command(
    "EXISTS",
    arity=-2,
    flags="readonly fast",
    group="generic",
    since="1.0.0",
    complexity="O(N) where N is the number of keys",
    summary="Counts which of the keys exist.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RO",
    route=Route.SPLIT,
    merge=Merge.SUM,
    categories="keyspace",
)
def exists(session: Session, request: list[bytes]) -> Reply:
    """How many exist; a key that is given twice counts twice."""
    found = 0
    for i in range(1, len(request)):
        if session.db.see(request[i]) is not None:
            found += 1
    return found


@command(
    "TOUCH",
    arity=-2,
    flags="readonly fast",
    group="generic",
    since="3.2.1",
    complexity="O(N) where N is the number of keys",
    summary="Counts which of the keys exist, and marks them as used now.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RO",
    route=Route.SPLIT,
    merge=Merge.SUM,
    categories="keyspace",
)
def touch(session: Session, request: list[bytes]) -> Reply:
    """How many exist; a key that is given twice counts twice."""
    found = 0
    for i in range(1, len(request)):
        if session.db.touch(request[i]):
            found += 1
    return found


@command(
    "TYPE",
    arity=2,
    flags="readonly fast",
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Tells what kind of value a key holds.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO",
    categories="keyspace",
)
def type_(session: Session, request: list[bytes]) -> Reply:
    """Its name; ``none`` if the key does not exist."""
    value = session.db.see(request[1])
    return Simple(b"none" if value is None else type_of(value).encode())


# --- renaming and copying ----------------------------------------------------------------------


@command(
    "RENAME",
    arity=3,
    flags="write",
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Gives a key another name, in place of a key that has it.",
    usage="key newkey",
    keys=TWO_KEYS,
    key_flags="RW access delete @1; OW update @2",
    categories="keyspace",
)
def rename(session: Session, request: list[bytes]) -> Reply:
    """OK, or an error if the key does not exist."""
    db = session.db
    if db.lookup(request[1]) is None:
        raise CommandError(NO_SUCH_KEY)
    if request[1] != request[2]:
        _rename(db, request[1], request[2])
    return OK


@command(
    "RENAMENX",
    arity=3,
    flags="write fast",
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Gives a key another name that no key has.",
    usage="key newkey",
    keys=TWO_KEYS,
    key_flags="RW access delete @1; OW insert @2",
    categories="keyspace",
)
def renamenx(session: Session, request: list[bytes]) -> Reply:
    """1 if it was renamed, 0 if there is a key of that name."""
    db = session.db
    if db.lookup(request[1]) is None:
        raise CommandError(NO_SUCH_KEY)
    if db.find(request[2]) is not None:
        return 0
    _rename(db, request[1], request[2])
    return 1


def _rename(db: Database, key: bytes, new_key: bytes) -> None:
    """Move a key that exists, with its expiry, to another name."""
    due_ms = db.expiry_ms(key)
    value = db.take(key)
    assert value is not None  # The callers have looked it up.
    _put_anew(db, new_key, value)
    if due_ms is not None:
        db.set_expiry(new_key, due_ms)
    db.notify(GENERIC, b"rename_from", key)
    db.notify(GENERIC, b"rename_to", new_key)


def _put_anew(db: Database, key: bytes, value: Value) -> None:
    """Set a key that counts as new, as in Redis, even if there was one of that name."""
    if db.space.notify_flags & NEW and db.find(key) is not None:
        db.notify(NEW, b"new", key)
    db.put(key, value)


@command(
    "COPY",
    arity=-3,
    flags="write denyoom",
    group="generic",
    since="6.2.0",
    complexity="O(N) where N is the number of elements; O(1) for a string that was never changed",
    summary="Copies a key's value and expiry to another key.",
    usage="source destination [DB destination-db] [REPLACE]",
    keys=TWO_KEYS,
    key_flags="RO access @1; OW update @2",
    categories="keyspace",
)
def copy(session: Session, request: list[bytes]) -> Reply:
    """1 if it was copied, 0 if the source does not exist or the destination does."""
    source = session.db
    target = source
    replace = False
    i = 3
    while i < len(request):
        option = request[i].upper()
        if option == b"REPLACE":
            replace = True
        elif option == b"DB" and i + 1 < len(request):
            i += 1
            index = parse_int32(request[i])
            if not 0 <= index < limits.DATABASES:
                raise CommandError(DB_OUT_OF_RANGE)
            target = session.space.database(index)
        else:
            raise CommandError(SYNTAX)
        i += 1
    if target is source and request[1] == request[2]:
        raise CommandError(SAME_OBJECT)
    value = source.read(request[1])
    if value is None or (target.find(request[2]) is not None and not replace):
        return 0
    # A short request may make a copy of a large value.
    require_memory(session, value_cost(value))
    due_ms = source.expiry_ms(request[1])
    _put_anew(target, request[2], _copied(value))
    if due_ms is not None:
        target.set_expiry(request[2], due_ms)
    target.notify(GENERIC, b"copy_to", request[2])
    return 1


def _copied(value: Value) -> Value:
    """A value that shares nothing with `value` that may change."""
    if isinstance(value, Collection):
        return value.copy()
    if isinstance(value, LargeString):
        return value.copy()
    return bytearray(value) if isinstance(value, bytearray) else value


# --- how a value is kept -----------------------------------------------------------------------


def encoding_of(value: Value) -> str:
    """What OBJECT ENCODING answers: how Redis would keep the value."""
    if isinstance(value, Collection):
        return value.encoding()
    if isinstance(value, bytearray | LargeString):
        return "raw"
    if canonical_integer(value) is not None:
        return "int"
    return "embstr" if len(value) <= _EMBEDDED_BYTES_MAX else "raw"


def refcount_of(value: Value) -> int:
    """What OBJECT REFCOUNT answers: how many references Redis would have."""
    if isinstance(value, bytes):
        number = canonical_integer(value)
        if number is not None and 0 <= number < _SHARED_INTEGERS:
            return _SHARED_REFCOUNT
    return 1


_OBJECT_KEY: Final = KeySpec(2, 2, 1)

command(
    "OBJECT",
    arity=-2,
    flags="",
    group="generic",
    since="2.2.3",
    complexity="Depends on the subcommand.",
    summary="Looks at how a key's value is kept.",
)(not_callable)


@command(
    "OBJECT|ENCODING",
    arity=3,
    flags="readonly",
    group="generic",
    since="2.2.3",
    complexity="O(1)",
    summary="Tells in which form Redis would keep a key's value.",
    usage="key",
    keys=_OBJECT_KEY,
    key_flags="RO",
    categories="keyspace",
    tips="nondeterministic_output",
)
def object_encoding(session: Session, request: list[bytes]) -> Reply:
    """The name of the form, or nil."""
    value = session.db.peek(request[2])
    return None if value is None else encoding_of(value).encode()


@command(
    "OBJECT|REFCOUNT",
    arity=3,
    flags="readonly",
    group="generic",
    since="2.2.3",
    complexity="O(1)",
    summary="Tells how often Redis would refer to a key's value.",
    usage="key",
    keys=_OBJECT_KEY,
    key_flags="RO",
    categories="keyspace",
    tips="nondeterministic_output",
)
def object_refcount(session: Session, request: list[bytes]) -> Reply:
    """A number, or nil."""
    value = session.db.peek(request[2])
    return None if value is None else refcount_of(value)


@command(
    "OBJECT|IDLETIME",
    arity=3,
    flags="readonly",
    group="generic",
    since="2.2.3",
    complexity="O(1)",
    summary="Tells for how long a key, and all others of its slot, was not used.",
    usage="key",
    keys=_OBJECT_KEY,
    key_flags="RO",
    categories="keyspace",
    tips="nondeterministic_output",
)
def object_idletime(session: Session, request: list[bytes]) -> Reply:
    """Seconds, or nil."""
    value = session.db.glimpse(request[2])
    if value is None:
        return None
    eviction = session.node.keyspace.eviction
    if eviction is not None and eviction.counts_uses:
        raise CommandError(LFU)
    return session.db.idle_s(request[2])


@command(
    "OBJECT|FREQ",
    arity=3,
    flags="readonly",
    group="generic",
    since="4.0.0",
    complexity="O(1)",
    summary="Tells how often a key is used, where that is counted.",
    usage="key",
    keys=_OBJECT_KEY,
    key_flags="RO",
    categories="keyspace",
    tips="nondeterministic_output",
)
def object_freq(session: Session, request: list[bytes]) -> Reply:
    """An estimate from 0 to 15 (255 after RESTORE FREQ), or nil if the key does not exist."""
    db = session.db
    if db.glimpse(request[2]) is None:
        return None
    eviction = session.node.keyspace.eviction
    if eviction is None or not eviction.counts_uses or db.uses is None:
        raise CommandError(NO_LFU)
    return db.uses.estimate(request[2], db.salt)


@command(
    "OBJECT|HELP",
    arity=2,
    flags="loading stale",
    group="generic",
    since="6.2.0",
    complexity="O(1)",
    summary="Tells what subcommands there are.",
    categories="keyspace",
)
def object_help(session: Session, request: list[bytes]) -> Reply:
    """The lines that redis-cli shows."""
    return help_lines(b"object")
