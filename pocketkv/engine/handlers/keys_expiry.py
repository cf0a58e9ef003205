"""When keys expire: set it, forget it, tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import INT64_MAX, INT64_MIN, c_string, parse_int
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import CommandError, invalid_expire
from pocketkv.engine.notifications import GENERIC
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NX_WITH_OTHERS: Final = b"ERR NX and XX, GT or LT options at the same time are not compatible"
_GT_WITH_LT: Final = b"ERR GT and LT options at the same time are not compatible"

# --- setting -----------------------------------------------------------------------------------

_CONDITIONS: Final = frozenset((b"NX", b"XX", b"GT", b"LT"))


def _parse_conditions(request: list[bytes]) -> set[bytes]:
    conditions = set()
    for option in request[3:]:
        condition = option.upper()
        if condition not in _CONDITIONS:
            raise CommandError(b"ERR Unsupported option %b" % c_string(option))
        conditions.add(condition)
    if b"NX" in conditions and len(conditions) > 1:
        raise CommandError(_NX_WITH_OTHERS)
    if b"GT" in conditions and b"LT" in conditions:
        raise CommandError(_GT_WITH_LT)
    return conditions


def _expire(session: Session, request: list[bytes], name: str, unit_ms: int, base_ms: int) -> int:
    """Serve the four commands that set an expiry; `base_ms` is added to the time."""
    conditions = _parse_conditions(request)
    due_ms = parse_int(request[2]) * unit_ms
    if not INT64_MIN <= due_ms <= INT64_MAX - base_ms:
        raise invalid_expire(name)
    due_ms += base_ms
    db = session.db
    if db.find(request[1]) is None:
        return 0
    if conditions and not _allow(conditions, db.expiry_ms(request[1]), due_ms):
        return 0
    is_there = db.set_expiry(request[1], due_ms)
    db.notify(GENERIC, b"expire" if is_there else b"del", request[1])
    return 1


def _allow(conditions: set[bytes], current_ms: int | None, due_ms: int) -> bool:
    """Whether an expiry may be replaced. A key without one expires later than any other."""
    if b"NX" in conditions and current_ms is not None:
        return False
    if b"XX" in conditions and current_ms is None:
        return False
    if b"GT" in conditions and (current_ms is None or due_ms <= current_ms):
        return False
    return not (b"LT" in conditions and current_ms is not None and due_ms >= current_ms)


@command(
    "EXPIRE",
    arity=-3,
    flags="write fast",
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Has a key expire in so many seconds.",
    usage="key seconds [NX | XX | GT | LT]",
    keys=ONE_KEY,
    key_flags="RW update",
    categories="keyspace",
)
def expire(session: Session, request: list[bytes]) -> Reply:
    """1 if it was set, 0 if the key does not exist or a condition forbids it."""
    return _expire(session, request, "expire", 1000, session.node.clock.now_ms)


@command(
    "PEXPIRE",
    arity=-3,
    flags="write fast",
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Has a key expire in so many milliseconds.",
    usage="key milliseconds [NX | XX | GT | LT]",
    keys=ONE_KEY,
    key_flags="RW update",
    categories="keyspace",
)
def pexpire(session: Session, request: list[bytes]) -> Reply:
    """1 if it was set, 0 if the key does not exist or a condition forbids it."""
    return _expire(session, request, "pexpire", 1, session.node.clock.now_ms)


@command(
    "EXPIREAT",
    arity=-3,
    flags="write fast",
    group="generic",
    since="1.2.0",
    complexity="O(1)",
    summary="Has a key expire at a second of the Unix epoch.",
    usage="key unix-time-seconds [NX | XX | GT | LT]",
    keys=ONE_KEY,
    key_flags="RW update",
    categories="keyspace",
)
def expireat(session: Session, request: list[bytes]) -> Reply:
    """1 if it was set, 0 if the key does not exist or a condition forbids it."""
    return _expire(session, request, "expireat", 1000, 0)


@command(
    "PEXPIREAT",
    arity=-3,
    flags="write fast",
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Has a key expire at a millisecond of the Unix epoch.",
    usage="key unix-time-milliseconds [NX | XX | GT | LT]",
    keys=ONE_KEY,
    key_flags="RW update",
    categories="keyspace",
)
def pexpireat(session: Session, request: list[bytes]) -> Reply:
    """1 if it was set, 0 if the key does not exist or a condition forbids it."""
    return _expire(session, request, "pexpireat", 1, 0)


@command(
    "PERSIST",
    arity=2,
    flags="write fast",
    group="generic",
    since="2.2.0",
    complexity="O(1)",
    summary="Forgets a key's expiry.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RW update",
    categories="keyspace",
)
def persist(session: Session, request: list[bytes]) -> Reply:
    """1 if it had one, 0 if not or if the key does not exist."""
    db = session.db
    if db.find(request[1]) is None or not db.persist(request[1]):
        return 0
    db.notify(GENERIC, b"persist", request[1])
    return 1


# --- telling -----------------------------------------------------------------------------------

_NO_KEY: Final = -2
_NO_EXPIRY: Final = -1


def _due_ms(session: Session, key: bytes) -> int:
    """When a key expires, or `_NO_KEY`, or `_NO_EXPIRY`."""
    if session.db.see(key) is None:
        return _NO_KEY
    due_ms = session.db.expiry_ms(key)
    return _NO_EXPIRY if due_ms is None else due_ms


def _left_ms(session: Session, key: bytes) -> int:
    """How long a key has to live, or `_NO_KEY`, or `_NO_EXPIRY`."""
    due_ms = _due_ms(session, key)
    return due_ms if due_ms < 0 else max(0, due_ms - session.node.clock.now_ms)


def _seconds(milliseconds: int) -> int:
    """Rounded as Redis rounds; what is negative is no time."""
    return milliseconds if milliseconds < 0 else (milliseconds + 500) // 1000


@command(
    "TTL",
    arity=2,
    flags="readonly fast",
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Tells in how many seconds a key expires.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="keyspace",
    tips="nondeterministic_output",
)
def ttl(session: Session, request: list[bytes]) -> Reply:
    """Seconds; -1 if it does not expire, -2 if it does not exist."""
    return _seconds(_left_ms(session, request[1]))


@command(
    "PTTL",
    arity=2,
    flags="readonly fast",
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Tells in how many milliseconds a key expires.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="keyspace",
    tips="nondeterministic_output",
)
def pttl(session: Session, request: list[bytes]) -> Reply:
    """Milliseconds; -1 if it does not expire, -2 if it does not exist."""
    return _left_ms(session, request[1])


@command(
    "EXPIRETIME",
    arity=2,
    flags="readonly fast",
    group="generic",
    since="7.0.0",
    complexity="O(1)",
    summary="Tells at which second of the Unix epoch a key expires.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="keyspace",
)
def expiretime(session: Session, request: list[bytes]) -> Reply:
    """The second; -1 if it does not expire, -2 if it does not exist."""
    return _seconds(_due_ms(session, request[1]))


@command(
    "PEXPIRETIME",
    arity=2,
    flags="readonly fast",
    group="generic",
    since="7.0.0",
    complexity="O(1)",
    summary="Tells at which millisecond of the Unix epoch a key expires.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="keyspace",
)
def pexpiretime(session: Session, request: list[bytes]) -> Reply:
    """The millisecond; -1 if it does not expire, -2 if it does not exist."""
    return _due_ms(session, request[1])
