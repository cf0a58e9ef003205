"""Sorted set commands that take members away from an end, and those that wait for some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from pocketkv.engine.arguments import canonical_integer, parse_int
from pocketkv.engine.blocking import parse_timeout_s
from pocketkv.engine.commands import ONE_KEY, KeySpec, command
from pocketkv.engine.errors import NOT_POSITIVE, SYNTAX, CommandError
from pocketkv.engine.handlers.sorted_sets import lookup_sorted_set, pairs_reply
from pocketkv.engine.notifications import SORTED_SET
from pocketkv.engine.shrinking import shrunk
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.engine.waiters import wait_for_keys
from pocketkv.resp.replies import NULL_ARRAY, PENDING, Marker, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NUMKEYS: Final = b"ERR numkeys should be greater than 0"
_COUNT: Final = b"ERR count should be greater than 0"
_KEYS_BEFORE_TIMEOUT: Final = KeySpec(1, -2, 1)
_ENDS: Final = {b"MIN": False, b"MAX": True}


def _pop(
    session: Session, key: bytes, value: SortedSetValue, count: int, *, from_max: bool
) -> tuple[list[bytes], list[float]]:
    """Remove up to `count` members from an end: they and their scores, the outermost first."""
    before_bytes = value.size_bytes
    if count == 1:
        member, score = value.pop_last() if from_max else value.pop_first()
        members, scores = [member], [score]
    else:
        size = len(value)
        count = min(count, size)
        start = size - count if from_max else 0
        members = value.members_between(start, start + count)
        scores = value.scores_between(start, start + count)
        value.remove_between(start, start + count)
        if from_max:
            members.reverse()
            scores.reverse()
    shrunk(session.db, key, value, before_bytes, SORTED_SET, b"zpopmax" if from_max else b"zpopmin")
    return members, scores


# --- from one key ------------------------------------------------------------------------------


@command(
    "ZPOPMIN",
    arity=-2,
    flags="write fast",
    group="sorted-set",
    since="5.0.0",
    complexity="O(log(N)*M) where N is the size of the sorted set and M how many are removed",
    summary="Removes the members with the lowest scores from a sorted set and returns them.",
    usage="key [count]",
    keys=ONE_KEY,
    key_flags="RW access delete",
)
def zpopmin(session: Session, request: list[bytes]) -> Reply:
    """Answers members and scores."""
    if len(request) == 2:
        return _pop_outermost(session, request[1], False)
    return _pop_from_one(session, request, from_max=False)


@command(
    "ZPOPMAX",
    arity=-2,
    flags="write fast",
    group="sorted-set",
    since="5.0.0",
    complexity="O(log(N)*M) where N is the size of the sorted set and M how many are removed",
    summary="Removes the members with the highest scores from a sorted set and returns them.",
    usage="key [count]",
    keys=ONE_KEY,
    key_flags="RW access delete",
)
def zpopmax(session: Session, request: list[bytes]) -> Reply:
    """Answers members and scores."""
    if len(request) == 2:
        return _pop_outermost(session, request[1], True)
    return _pop_from_one(session, request, from_max=True)


def _pop_outermost(session: Session, key: bytes, from_max: bool) -> Reply:
    """Remove one member from an end: it and its score, or nothing."""
    value: SortedSetValue | None = lookup_sorted_set(session, key)
    if value is None:
        return []
    before_bytes = value.size_bytes
    if from_max:
        popped = value.pop_last()
        shrunk(session.db, key, value, before_bytes, SORTED_SET, b"zpopmax")
    else:
        popped = value.pop_first()
        shrunk(session.db, key, value, before_bytes, SORTED_SET, b"zpopmin")
    return popped


def _pop_from_one(session: Session, request: list[bytes], *, from_max: bool) -> Reply:
    if len(request) > 3:
        raise CommandError(SYNTAX)
    count = parse_int(request[2], NOT_POSITIVE)
    if count < 0:
        raise CommandError(NOT_POSITIVE)
    value: SortedSetValue | None = lookup_sorted_set(session, request[1])
    if value is None or count == 0:
        return []
    members, scores = _pop(session, request[1], value, count, from_max=from_max)
    return pairs_reply(members, scores, is_nested=session.protocol == 3)


# --- from the first of several keys ------------------------------------------------------------


def _counted_keys(request: list[bytes], at: int) -> list[int]:
    """The positions of keys whose number is argument `at`.

    Raises:
        CommandError: It is no number, less than 1, or there are not so many.
    """
    count = canonical_integer(request[at])
    if count is None or count < 1:
        raise CommandError(_NUMKEYS)
    if count > len(request) - at - 2:
        raise CommandError(SYNTAX)
    return list(range(at + 1, at + 1 + count))


def _keys_of_zmpop(request: list[bytes]) -> list[int]:
    return _counted_keys(request, 1)


def _keys_of_bzmpop(request: list[bytes]) -> list[int]:
    return _counted_keys(request, 2)


def _pop_options(request: list[bytes], first: int) -> tuple[bool, int]:
    """What follows the keys: whether to take from the highest score on, and how many."""
    from_max = _ENDS.get(request[first].upper())
    if from_max is None:
        raise CommandError(SYNTAX)
    if len(request) == first + 1:
        return from_max, 1
    if len(request) != first + 3 or request[first + 1].upper() != b"COUNT":
        _refuse_count(request, first + 1)
    count = canonical_integer(request[first + 2])
    if count is None or count < 1:
        raise CommandError(_COUNT)
    return from_max, count


def _refuse_count(request: list[bytes], first: int) -> NoReturn:
    """Refuse arguments that are not just a count: a count that is none is complained of first."""
    if request[first].upper() == b"COUNT" and first + 1 < len(request):
        count = canonical_integer(request[first + 1])
        if count is None or count < 1:
            raise CommandError(_COUNT)
    raise CommandError(SYNTAX)


@command(
    "ZMPOP",
    arity=-4,
    flags="write",
    group="sorted-set",
    since="7.0.0",
    complexity="O(K)+O(M*log(N)) where K is the number of keys, N the size of the sorted set and M "
    "how many members are removed",
    summary="Removes members from an end of the first sorted set that has any and returns them.",
    usage="numkeys key [key ...] <MIN | MAX> [COUNT count]",
    keys=KeySpec(find=_keys_of_zmpop),
    key_flags="RW access delete @1 keynum 0 1 1",
)
def zmpop(session: Session, request: list[bytes]) -> Reply:
    """Answers the key, and members with their scores, or null."""
    keys = [request[position] for position in _keys_of_zmpop(request)]
    from_max, count = _pop_options(request, 2 + len(keys))
    return _pop_from_first(session, keys, from_max=from_max, count=count)


def _pop_from_first(session: Session, keys: list[bytes], *, from_max: bool, count: int) -> Reply:
    for key in keys:
        value = lookup_sorted_set(session, key)
        if value is not None:
            members, scores = _pop(session, key, value, count, from_max=from_max)
            return [key, pairs_reply(members, scores, is_nested=True)]
    return NULL_ARRAY


# --- waiting -----------------------------------------------------------------------------------


@command(
    "BZPOPMIN",
    arity=-3,
    flags="write noscript blocking fast",
    group="sorted-set",
    since="5.0.0",
    complexity="O(log(N)) where N is the size of the sorted set",
    summary="Removes the member with the lowest score from the first sorted set that has any, "
    "and waits for one if none has.",
    usage="key [key ...] timeout",
    keys=_KEYS_BEFORE_TIMEOUT,
    key_flags="RW access delete",
)
def bzpopmin(session: Session, request: list[bytes]) -> Reply:
    """Answers the key, the member and its score, or null when the time is up."""
    return _wait_for_one(session, request, from_max=False)


@command(
    "BZPOPMAX",
    arity=-3,
    flags="write noscript blocking fast",
    group="sorted-set",
    since="5.0.0",
    complexity="O(log(N)) where N is the size of the sorted set",
    summary="Removes the member with the highest score from the first sorted set that has any, "
    "and waits for one if none has.",
    usage="key [key ...] timeout",
    keys=_KEYS_BEFORE_TIMEOUT,
    key_flags="RW access delete",
)
def bzpopmax(session: Session, request: list[bytes]) -> Reply:
    """Answers the key, the member and its score, or null when the time is up."""
    return _wait_for_one(session, request, from_max=True)


def _wait_for_one(session: Session, request: list[bytes], *, from_max: bool) -> Reply:
    timeout_ms = parse_timeout_s(request[-1])
    keys = request[1:-1]
    for key in keys:
        value = lookup_sorted_set(session, key)
        if value is not None:
            return _pop_one(session, key, value, from_max=from_max)
    waiting = _Waiting(session, from_max=from_max, count=0)
    return wait_for_keys(
        session,
        request,
        keys,
        waiting.attempt,
        takes=SortedSetValue,
        timeout_ms=timeout_ms,
        timeout_reply=NULL_ARRAY,
    )


def _pop_one(session: Session, key: bytes, value: SortedSetValue, *, from_max: bool) -> Reply:
    members, scores = _pop(session, key, value, 1, from_max=from_max)
    return [key, members[0], scores[0]]


@command(
    "BZMPOP",
    arity=-5,
    flags="write blocking",
    group="sorted-set",
    since="7.0.0",
    complexity="O(K)+O(M*log(N)) where K is the number of keys, N the size of the sorted set and M "
    "how many members are removed",
    summary="Removes members from an end of the first sorted set that has any, and waits for some "
    "if none has.",
    usage="timeout numkeys key [key ...] <MIN | MAX> [COUNT count]",
    keys=KeySpec(find=_keys_of_bzmpop),
    key_flags="RW access delete @2 keynum 0 1 1",
)
def bzmpop(session: Session, request: list[bytes]) -> Reply:
    """Answers the key, and members with their scores, or null when the time is up."""
    keys = [request[position] for position in _keys_of_bzmpop(request)]
    from_max, count = _pop_options(request, 3 + len(keys))
    timeout_ms = parse_timeout_s(request[1])
    popped = _pop_from_first(session, keys, from_max=from_max, count=count)
    if popped is not NULL_ARRAY:
        return popped
    waiting = _Waiting(session, from_max=from_max, count=count)
    return wait_for_keys(
        session,
        request,
        keys,
        waiting.attempt,
        takes=SortedSetValue,
        timeout_ms=timeout_ms,
        timeout_reply=NULL_ARRAY,
    )


class _Waiting:
    """What a client that waits will take: `count` members, or one by itself (0)."""

    __slots__ = ("_count", "_from_max", "_session")

    def __init__(self, session: Session, *, from_max: bool, count: int) -> None:
        self._session = session
        self._from_max = from_max
        self._count = count

    def attempt(self, key: bytes) -> Reply | Marker:
        """Take it, if the key is a sorted set by now."""
        value = self._session.db.lookup(key)
        if type(value) is not SortedSetValue:
            return PENDING
        if not self._count:
            return _pop_one(self._session, key, value, from_max=self._from_max)
        return _pop_from_first(self._session, [key], from_max=self._from_max, count=self._count)
