"""Set commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.arguments import (
    INT64_MAX,
    parse_cursor,
    parse_int,
    parse_int_within,
)
from pocketkv.engine.commands import ONE_KEY, TWO_KEYS, command
from pocketkv.engine.errors import NOT_POSITIVE, SYNTAX, WRONG_TYPE, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.collections import COUNT_OUT_OF_RANGE, TOO_MANY_DRAWS, scan_options
from pocketkv.engine.handlers.set_algebra import lookup_set
from pocketkv.engine.notifications import GENERIC, SET
from pocketkv.engine.segments import member_cost
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.shrinking import shrunk
from pocketkv.resp.replies import Reply, SetReply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

# Arguments from which on SADD looks at what its members will cost before it adds them.
_MANY_MEMBERS: Final = 64
# SPOP of nearly all members builds the set anew from those that stay (Redis's own threshold).
_SPOP_REBUILD_FACTOR: Final = 5


def _read_set(session: Session, key: bytes) -> SetValue | None:
    value = session.db.read(key)
    if value is None or type(value) is SetValue:
        return value
    raise CommandError(WRONG_TYPE)


@command(
    "SADD",
    arity=-3,
    flags="write denyoom fast",
    group="set",
    since="1.0.0",
    complexity="O(1) for each member",
    summary="Adds members to a set, which is created if it does not exist.",
    usage="key member [member ...]",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def sadd(session: Session, request: list[bytes]) -> Reply:
    """Answers how many members are new."""
    db = session.db
    key = request[1]
    if len(request) > _MANY_MEMBERS:
        # Short members cost far more than their bytes, which are what the gate has looked at.
        require_memory(session, sum(member_cost(member) for member in request[2:]))
    integers_max = session.node.settings.set_max_intset_entries
    value = lookup_set(db, key)
    if value is None:
        value = SetValue.of(request[2:], integers_max)
        db.put(key, value)
        db.notify(SET, b"sadd", key)
        return len(value)
    before_bytes = value.size_bytes
    added = 0
    for i in range(2, len(request)):
        if value.add(request[i], integers_max):
            added += 1
    if added:
        db.modified(key, value.size_bytes - before_bytes)
        db.notify(SET, b"sadd", key)
    return added


@command(
    "SREM",
    arity=-3,
    flags="write fast",
    group="set",
    since="1.0.0",
    complexity="O(1) for each member",
    summary="Removes members from a set, and the set with its last member.",
    usage="key member [member ...]",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def srem(session: Session, request: list[bytes]) -> Reply:
    """Answers how many members there were."""
    db = session.db
    key = request[1]
    value = lookup_set(db, key)
    if value is None:
        return 0
    before_bytes = value.size_bytes
    removed = 0
    for i in range(2, len(request)):
        if value.discard(request[i]):
            removed += 1
    if removed:
        shrunk(session.db, key, value, before_bytes, SET, b"srem")
    return removed


@command(
    "SMEMBERS",
    arity=2,
    flags="readonly",
    group="set",
    since="1.0.0",
    complexity="O(N) where N is the size of the set",
    summary="All members of a set.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output_order",
)
def smembers(session: Session, request: list[bytes]) -> Reply:
    """Answers a set."""
    value = _read_set(session, request[1])
    return SetReply([] if value is None else value.members())


@command(
    "SISMEMBER",
    arity=3,
    flags="readonly fast",
    group="set",
    since="1.0.0",
    complexity="O(1)",
    summary="Whether a set has a member.",
    usage="key member",
    keys=ONE_KEY,
    key_flags="RO",
)
def sismember(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 or 1."""
    value = _read_set(session, request[1])
    return 1 if value is not None and request[2] in value else 0


@command(
    "SMISMEMBER",
    arity=-3,
    flags="readonly fast",
    group="set",
    since="6.2.0",
    complexity="O(1) for each member",
    summary="Which of several members a set has.",
    usage="key member [member ...]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def smismember(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 or 1 for each."""
    value = _read_set(session, request[1])
    if value is None:
        return [0] * (len(request) - 2)
    return [1 if member in value else 0 for member in request[2:]]


@command(
    "SCARD",
    arity=2,
    flags="readonly fast",
    group="set",
    since="1.0.0",
    complexity="O(1)",
    summary="The number of members of a set.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO",
)
def scard(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 for a key that does not exist."""
    value = _read_set(session, request[1])
    return 0 if value is None else len(value)


@command(
    "SMOVE",
    arity=4,
    flags="write fast",
    group="set",
    since="1.0.0",
    complexity="O(1)",
    summary="Moves a member from one set to another.",
    usage="source destination member",
    keys=TWO_KEYS,
    key_flags="RW access delete @1; RW insert @2",
)
def smove(session: Session, request: list[bytes]) -> Reply:
    """Answers whether there was something to move."""
    db = session.db
    source_key, target_key, member = request[1], request[2], request[3]
    source = lookup_set(db, source_key)
    if source is None:
        return 0
    target = lookup_set(db, target_key)
    if source is target:
        return 1 if member in source else 0
    before_bytes = source.size_bytes
    if not source.discard(member):
        return 0
    shrunk(session.db, source_key, source, before_bytes, SET, b"srem")
    integers_max = session.node.settings.set_max_intset_entries
    if target is None:
        db.put(target_key, SetValue.of([member], integers_max))
        db.notify(SET, b"sadd", target_key)
        return 1
    before_bytes = target.size_bytes
    if target.add(member, integers_max):
        db.modified(target_key, target.size_bytes - before_bytes)
        db.notify(SET, b"sadd", target_key)
    return 1


# --- at random ---------------------------------------------------------------------------------


@command(
    "SPOP",
    arity=-2,
    flags="write fast",
    group="set",
    since="1.0.0",
    complexity="O(1) for each member that is removed",
    summary="Removes random members from a set and returns them.",
    usage="key [count]",
    keys=ONE_KEY,
    key_flags="RW access delete",
    tips="nondeterministic_output",
)
def spop(session: Session, request: list[bytes]) -> Reply:
    """Answers one member or null, with a count a set."""
    if len(request) > 3:
        raise CommandError(SYNTAX)
    if len(request) == 3:
        return _spop_many(session, request)
    key = request[1]
    value = lookup_set(session.db, key)
    if value is None:
        return None
    before_bytes = value.size_bytes
    member = value.pop_random(session.node.keyspace.randomness)
    shrunk(session.db, key, value, before_bytes, SET, b"spop")
    return member


def _spop_many(session: Session, request: list[bytes]) -> Reply:
    db = session.db
    key = request[1]
    count = parse_int(request[2], NOT_POSITIVE)
    if count < 0:
        raise CommandError(NOT_POSITIVE)
    value = lookup_set(db, key)
    if value is None or count == 0:
        return SetReply([])
    size = len(value)
    if count >= size:
        db.remove(key)
        db.notify(SET, b"spop", key)
        db.notify(GENERIC, b"del", key)
        return SetReply(value.members())
    randomness = session.node.keyspace.randomness
    if (size - count) * _SPOP_REBUILD_FACTOR > count:
        before_bytes = value.size_bytes
        popped = [value.pop_random(randomness) for _ in range(count)]
        db.modified(key, value.size_bytes - before_bytes)
        db.notify(SET, b"spop", key)
        return SetReply(popped)
    staying = dict.fromkeys(value.sample(size - count, randomness))
    rest = SetValue.of(list(staying), session.node.settings.set_max_intset_entries)
    db.put_keeping_expiry(key, rest)
    db.notify(SET, b"spop", key)
    return SetReply([member for member in value.members() if member not in staying])


@command(
    "SRANDMEMBER",
    arity=-2,
    flags="readonly",
    group="set",
    since="1.0.0",
    complexity="O(N) where N is the absolute value of count",
    summary="Random members of a set.",
    usage="key [count]",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def srandmember(session: Session, request: list[bytes]) -> Reply:
    """Answers one member or null; with a count an array, where a negative one allows repetition."""
    if len(request) > 3:
        raise CommandError(SYNTAX)
    count = 1
    if len(request) == 3:
        count = parse_int_within(request[2], -INT64_MAX, INT64_MAX, COUNT_OUT_OF_RANGE)
    value = _read_set(session, request[1])
    randomness = session.node.keyspace.randomness
    if len(request) == 2:
        return None if value is None else value.random_member(randomness)
    if value is None or count == 0:
        return []
    if count < -limits.RANDOM_MEMBERS_MAX:
        raise CommandError(TOO_MANY_DRAWS)
    if count < 0:
        return [value.random_member(randomness) for _ in range(-count)]
    if count >= len(value):
        return list(value.members())
    return list(value.sample(count, randomness))


# --- walking -----------------------------------------------------------------------------------


@command(
    "SSCAN",
    arity=-3,
    flags="readonly",
    group="set",
    since="2.8.0",
    complexity="O(1) for each call, O(N) for a whole walk",
    summary="Walks over the members of a set, some at a time.",
    usage="key cursor [MATCH pattern] [COUNT count]",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def sscan(session: Session, request: list[bytes]) -> Reply:
    """Answers the next cursor, 0 at the end, and members."""
    cursor = parse_cursor(request[2])
    # Redis looks at the key before it looks at the options.
    value = _read_set(session, request[1])
    if value is None:
        return [b"0", []]
    pattern, count = scan_options(request)
    cursor, found = value.scan(cursor, count)
    if pattern is not None:
        found = [member for member in found if pattern.matches(member)]
    return [b"%d" % cursor, list(found)]
