"""Sorted set commands that draw members at random, or walk over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.arguments import INT64_MAX, parse_cursor, parse_int_within
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.handlers.keys_scan import ScanOptions
from pocketkv.engine.handlers.sorted_sets import pairs_reply, read_sorted_set
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.resp.encoder import format_double
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_COUNT_OUT_OF_RANGE: Final = b"ERR value is out of range, value must between -%d and %d" % (
    INT64_MAX,
    INT64_MAX,
)
_OUT_OF_RANGE: Final = b"ERR value is out of range"
_TOO_MANY_MEMBERS: Final = b"ERR value is out of range, at most %d members with repetition" % (
    limits.RANDOM_MEMBERS_MAX
)
# A listpack has a score that is an integer of up to this size as one.
_LISTPACK_INTEGER_MAX: Final = 2.0**62


@command(
    "ZRANDMEMBER",
    arity=-2,
    flags="readonly",
    group="sorted-set",
    since="6.2.0",
    complexity="O(N) where N is how many members are returned",
    summary="Random members of a sorted set.",
    usage="key [count [WITHSCORES]]",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def zrandmember(session: Session, request: list[bytes]) -> Reply:
    """Answers one member or null; with a count an array, where a negative one allows repetition."""
    randomness = session.node.keyspace.randomness
    if len(request) == 2:
        value = read_sorted_set(session, request[1])
        return None if value is None else value.random_member(randomness)
    count = parse_int_within(request[2], -INT64_MAX, INT64_MAX, _COUNT_OUT_OF_RANGE)
    with_scores = len(request) == 4 and request[3].upper() == b"WITHSCORES"
    if len(request) > 3 and not with_scores:
        raise CommandError(SYNTAX)
    if with_scores and abs(count) > INT64_MAX // 2:
        raise CommandError(_OUT_OF_RANGE)
    value = read_sorted_set(session, request[1])
    if value is None or count == 0:
        return []
    if count < -limits.RANDOM_MEMBERS_MAX:
        raise CommandError(_TOO_MANY_MEMBERS)
    if count < 0:
        members = [value.random_member(randomness) for _ in range(-count)]
    elif count >= len(value):
        members = value.members_between(0, len(value))
    else:
        members = value.sample(count, randomness)
    if not with_scores:
        return list(members)
    return pairs_reply(members, _scores_of(value, members), is_nested=session.protocol == 3)


def _scores_of(value: SortedSetValue, members: list[bytes]) -> list[float]:
    """The scores of members that are there."""
    return [score for score in map(value.score, members) if score is not None]


@command(
    "ZSCAN",
    arity=-3,
    flags="readonly",
    group="sorted-set",
    since="2.8.0",
    complexity="O(1) for each call, O(N) for a whole walk",
    summary="Walks over the members of a sorted set and their scores, some at a time.",
    usage="key cursor [MATCH pattern] [COUNT count]",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def zscan(session: Session, request: list[bytes]) -> Reply:
    """Answers the next cursor, 0 at the end, and members with scores, which are texts."""
    cursor = parse_cursor(request[2])
    # Redis looks at the key before it looks at the options.
    value = read_sorted_set(session, request[1])
    if value is None:
        return [b"0", []]
    options = ScanOptions(request, 3, with_type=False)
    cursor, members, scores = value.scan(cursor, options.count)
    is_listpack = value.encoding() == "listpack"
    found: list[Reply] = []
    for member, score in zip(members, scores, strict=True):
        if options.glob is None or options.glob.matches(member):
            found.append(member)
            found.append(_score_text(score, is_listpack=is_listpack))
    return [b"%d" % cursor, found]


def _score_text(score: float, *, is_listpack: bool) -> bytes:
    if is_listpack and abs(score) <= _LISTPACK_INTEGER_MAX and score == int(score):
        return b"%d" % int(score)
    return format_double(score)
