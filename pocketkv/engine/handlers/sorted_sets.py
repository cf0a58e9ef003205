"""Sorted set commands about single members, and what all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import parse_double
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import SYNTAX, WRONG_TYPE, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.notifications import GENERIC, SORTED_SET
from pocketkv.engine.shrinking import shrunk
from pocketkv.engine.sorted_set_value import ADDED, CHANGED, SortedSetValue, pair_cost
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NAN: Final = b"ERR resulting score is not a number (NaN)"
_NX_AND_XX: Final = b"ERR XX and NX options at the same time are not compatible"
_NX_GT_LT: Final = b"ERR GT, LT, and/or NX options at the same time are not compatible"
_ONE_INCREMENT: Final = b"ERR INCR option supports a single increment-element pair"

# Arguments from which on ZADD looks at what its members will cost before it adds them.
_MANY_MEMBERS: Final = 64

# The options of ZADD, as bits.
NX: Final = 1
XX: Final = 2
GT: Final = 4
LT: Final = 8
CH: Final = 16
INCR: Final = 32
_OPTIONS: Final = {b"NX": NX, b"XX": XX, b"GT": GT, b"LT": LT, b"CH": CH, b"INCR": INCR}
# Those for which it matters what a member's score is.
_CONDITIONAL: Final = NX | XX | GT | LT | INCR
# The same for the compiled hot path, as C numbers.
_ADDED: Final = ADDED
_CHANGED: Final = CHANGED
_SORTED_SET: Final = SORTED_SET


def lookup_sorted_set(session: Session, key: bytes) -> SortedSetValue | None:
    """The sorted set of a key that a command may change; ``None`` if the key does not exist.

    Raises:
        CommandError: WRONGTYPE.
    """
    value = session.db.lookup(key)
    if value is None or type(value) is SortedSetValue:
        return value
    raise CommandError(WRONG_TYPE)


def read_sorted_set(session: Session, key: bytes) -> SortedSetValue | None:
    """`lookup_sorted_set` for a command that reads."""
    value = session.db.read(key)
    if value is None or type(value) is SortedSetValue:
        return value
    raise CommandError(WRONG_TYPE)


def store(session: Session, key: bytes, scores: dict[bytes, float], event: bytes) -> Reply:
    """Replace a key by a sorted set of these members, if there are any; how many there are."""
    db = session.db
    if not scores:
        if db.remove(key):
            db.notify(GENERIC, b"del", key)
        return 0
    settings = session.node.settings
    value = SortedSetValue.of(
        scores, settings.zset_max_listpack_entries, settings.zset_max_listpack_value
    )
    require_memory(session, value.size_bytes)
    db.put(key, value)
    db.notify(SORTED_SET, event, key)
    return len(value)


def pairs_reply(members: list[bytes], scores: list[float], *, is_nested: bool) -> list[Reply]:
    """Members with their scores: each two an array, or all in one."""
    if is_nested:
        return [[member, score] for member, score in zip(members, scores, strict=True)]
    flat: list[Reply] = [None] * (2 * len(members))
    flat[::2] = members
    flat[1::2] = scores
    return flat


# --- adding ------------------------------------------------------------------------------------


@command(
    "ZADD",
    arity=-4,
    flags="write denyoom fast",
    group="sorted-set",
    since="1.2.0",
    complexity="O(log(N)) for each member, where N is the size of the sorted set",
    summary="Adds members to a sorted set, or gives them other scores.",
    usage="key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]",
    keys=ONE_KEY,
    key_flags="RW update",
)
def zadd(session: Session, request: list[bytes]) -> Reply:
    """Answers how many members are new (CH: or changed); with INCR the score, or null."""
    options = 0
    first = 2
    count = len(request)
    while first < count:
        option = _OPTIONS.get(request[first].upper())
        if option is None:
            break
        options |= option
        first += 1
    pairs = count - first
    if pairs == 0 or pairs % 2:
        raise CommandError(SYNTAX)
    if options:
        _check_options(options, pairs)
    return add_scores(session, request, first, options)


def _check_options(options: int, pairs: int) -> None:
    if options & NX and options & XX:
        raise CommandError(_NX_AND_XX)
    if bool(options & NX) + bool(options & GT) + bool(options & LT) > 1:
        raise CommandError(_NX_GT_LT)
    if options & INCR and pairs > 2:
        raise CommandError(_ONE_INCREMENT)


@command(
    "ZINCRBY",
    arity=4,
    flags="write denyoom fast",
    group="sorted-set",
    since="1.2.0",
    complexity="O(log(N)) where N is the size of the sorted set",
    summary="Adds a number to the score of a member, which is 0 if it is not there.",
    usage="key increment member",
    keys=ONE_KEY,
    key_flags="RW access update",
)
def zincrby(session: Session, request: list[bytes]) -> Reply:
    """Answers the new score."""
    return add_scores(session, request, 2, INCR)


def add_scores(session: Session, request: list[bytes], first: int, options: int) -> Reply:
    """ZADD, the scores and members of which begin at argument `first`."""
    scores = [parse_double(request[i]) for i in range(first, len(request), 2)]
    return put_scores(session, request[1], scores, request[first + 1 :: 2], options)


def put_scores(
    session: Session, key: bytes, scores: list[float], members: list[bytes], options: int
) -> Reply:
    """Give members scores, as ZADD with these options does, and answer as it does."""
    db = session.db
    settings = session.node.settings
    entries_max = settings.zset_max_listpack_entries
    value_max = settings.zset_max_listpack_value
    if len(members) > _MANY_MEMBERS:
        # Short members cost far more than their bytes, which are what the gate has looked at.
        require_memory(session, sum(map(pair_cost, members)))
    value = lookup_sorted_set(session, key)
    is_new = value is None
    if value is None:
        if options & XX:
            return None if options & INCR else 0
        value = SortedSetValue(is_listpack=entries_max > 0)
    before_bytes = value.size_bytes
    added = 0
    changed = 0
    answer: Reply = None
    is_conditional = bool(options & _CONDITIONAL)
    for i in range(len(members)):
        member = members[i]
        score = scores[i]
        if is_conditional:
            wanted = _new_score(value.score(member), score, options)
            if wanted is None:
                continue
            score = answer = wanted
        done = value.put(member, score, entries_max, value_max)
        if done == _ADDED:
            added += 1
        elif done == _CHANGED:
            changed += 1
    if is_new:
        db.put(key, value)
    elif added or changed:
        db.modified(key, value.size_bytes - before_bytes)
    if added or changed:
        db.notify(_SORTED_SET, b"zincr" if options & INCR else b"zadd", key)
    if options & INCR:
        return answer
    return added + changed if options & CH else added


def _new_score(old: float | None, score: float, options: int) -> float | None:
    """The score that a member gets; ``None`` if the options want it left alone."""
    if old is None:
        return None if options & XX else score
    if options & NX:
        return None
    if options & INCR:
        score = old + score
        if score != score:
            raise CommandError(_NAN)
    if (options & GT and score <= old) or (options & LT and score >= old):
        return None
    return score


@command(
    "ZREM",
    arity=-3,
    flags="write fast",
    group="sorted-set",
    since="1.2.0",
    complexity="O(log(N)) for each member, where N is the size of the sorted set",
    summary="Removes members from a sorted set, and the set with its last member.",
    usage="key member [member ...]",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def zrem(session: Session, request: list[bytes]) -> Reply:
    """Answers how many members there were."""
    key = request[1]
    value: SortedSetValue | None = lookup_sorted_set(session, key)
    if value is None:
        return 0
    before_bytes = value.size_bytes
    removed = 0
    for i in range(2, len(request)):
        if value.remove(request[i]):
            removed += 1
    if removed:
        shrunk(session.db, key, value, before_bytes, SORTED_SET, b"zrem")
    return removed


# --- asking ------------------------------------------------------------------------------------


@command(
    "ZCARD",
    arity=2,
    flags="readonly fast",
    group="sorted-set",
    since="1.2.0",
    complexity="O(1)",
    summary="The number of members of a sorted set.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO",
)
def zcard(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 for a key that does not exist."""
    value: SortedSetValue | None = read_sorted_set(session, request[1])
    return 0 if value is None else len(value)


@command(
    "ZSCORE",
    arity=3,
    flags="readonly fast",
    group="sorted-set",
    since="1.2.0",
    complexity="O(1)",
    summary="The score of a member of a sorted set.",
    usage="key member",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zscore(session: Session, request: list[bytes]) -> Reply:
    """Answers a double or null."""
    value: SortedSetValue | None = read_sorted_set(session, request[1])
    return None if value is None else value.score(request[2])


@command(
    "ZMSCORE",
    arity=-3,
    flags="readonly fast",
    group="sorted-set",
    since="6.2.0",
    complexity="O(1) for each member",
    summary="The scores of several members of a sorted set.",
    usage="key member [member ...]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zmscore(session: Session, request: list[bytes]) -> Reply:
    """Answers a double or null for each."""
    value: SortedSetValue | None = read_sorted_set(session, request[1])
    if value is None:
        return [None] * (len(request) - 2)
    return [value.score(member) for member in request[2:]]


@command(
    "ZRANK",
    arity=3,
    flags="readonly fast",
    group="sorted-set",
    since="2.0.0",
    complexity="O(log(N)) where N is the size of the sorted set",
    summary="How many members of a sorted set come before one, from the lowest score on.",
    usage="key member",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrank(session: Session, request: list[bytes]) -> Reply:
    """Answers null if it is not there."""
    value: SortedSetValue | None = read_sorted_set(session, request[1])
    rank = -1 if value is None else value.rank(request[2])
    return None if rank < 0 else rank


@command(
    "ZREVRANK",
    arity=3,
    flags="readonly fast",
    group="sorted-set",
    since="2.0.0",
    complexity="O(log(N)) where N is the size of the sorted set",
    summary="How many members of a sorted set come before one, from the highest score on.",
    usage="key member",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrevrank(session: Session, request: list[bytes]) -> Reply:
    """Answers null if it is not there."""
    value: SortedSetValue | None = read_sorted_set(session, request[1])
    if value is None:
        return None
    rank = value.rank(request[2])
    return None if rank < 0 else len(value) - 1 - rank
