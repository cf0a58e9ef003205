"""Sorted set commands on ranges of ranks, scores or members."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv.engine.arguments import c_double, parse_int
from pocketkv.engine.commands import ONE_KEY, TWO_KEYS, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.handlers.sorted_sets import (
    lookup_sorted_set,
    pairs_reply,
    read_sorted_set,
    store,
)
from pocketkv.engine.notifications import SORTED_SET
from pocketkv.engine.shrinking import shrunk
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NOT_SCORES: Final = b"ERR min or max is not a float"
_NOT_MEMBERS: Final = b"ERR min or max not valid string range item"
_LIMIT_OF_RANKS: Final = (
    b"ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
)
_SCORES_OF_MEMBERS: Final = b"ERR syntax error, WITHSCORES not supported in combination with BYLEX"

_RANGE_COMPLEXITY: Final = (
    "O(log(N)+M) where N is the size of the sorted set and M how many members are returned"
)
_REMOVAL_COMPLEXITY: Final = (
    "O(log(N)+M) where N is the size of the sorted set and M how many members are removed"
)

# --- bounds ------------------------------------------------------------------------------------

# What tells the ranks that are meant, once the sorted set is there.
Span: TypeAlias = "Callable[[SortedSetValue], range]"


class RankSpan:
    """From one rank to another, both included; negative ones count from the end.

    Args:
        first, last: As they were given.
        is_reversed: Whether they count from the highest score on.

    Raises:
        CommandError: They are no integers.
    """

    __slots__ = ("is_reversed", "start", "stop")

    def __init__(self, first: bytes, last: bytes, *, is_reversed: bool = False) -> None:
        self.start = parse_int(first)
        self.stop = parse_int(last)
        self.is_reversed = is_reversed

    def ranks(self, value: SortedSetValue) -> range:
        """The ranks from the lowest score on."""
        size = len(value)
        start = max(0, self.start + size if self.start < 0 else self.start)
        stop = self.stop + size if self.stop < 0 else self.stop
        stop = min(size, stop + 1)
        if start >= stop:
            return range(0)
        return range(size - stop, size - start) if self.is_reversed else range(start, stop)


class ScoreSpan:
    """From one score to another; a bound after ``(`` is left out.

    Raises:
        CommandError: They are no numbers.
    """

    __slots__ = ("high", "includes_high", "includes_low", "low")

    def __init__(self, low: bytes, high: bytes) -> None:
        self.low, self.includes_low = _score_bound(low)
        self.high, self.includes_high = _score_bound(high)

    def ranks(self, value: SortedSetValue) -> range:
        """The ranks from the lowest score on."""
        start = value.rank_of_score(self.low, not self.includes_low)
        return range(start, value.rank_of_score(self.high, self.includes_high))


def _score_bound(text: bytes) -> tuple[float, bool]:
    is_included = text[:1] != b"("
    score = c_double(text if is_included else text[1:])
    if score is None:
        raise CommandError(_NOT_SCORES)
    return score, is_included


class MemberSpan:
    """From one member to another: ``[member``, ``(member`` (left out), ``-`` or ``+``.

    Raises:
        CommandError: They are none of these.
    """

    __slots__ = ("_high", "_low")

    def __init__(self, low: bytes, high: bytes) -> None:
        for text in (low, high):
            mark = text[:1]
            if mark not in (b"[", b"(") and text.split(b"\0", 1)[0] not in (b"-", b"+"):
                raise CommandError(_NOT_MEMBERS)
        self._low = low
        self._high = high

    def ranks(self, value: SortedSetValue) -> range:
        """The ranks from the lowest score on, if all have the same score."""
        return range(
            _member_bound(value, self._low, is_low=True),
            _member_bound(value, self._high, is_low=False),
        )


def _member_bound(value: SortedSetValue, text: bytes, *, is_low: bool) -> int:
    """The rank where members begin that are not below a bound, or that are above it."""
    mark = text[:1]
    if mark == b"-":
        return 0
    if mark == b"+":
        return len(value)
    return value.rank_of_member(text[1:], (mark == b"(") is is_low)


# --- counting and removing ---------------------------------------------------------------------


@command(
    "ZCOUNT",
    arity=4,
    flags="readonly fast",
    group="sorted-set",
    since="2.0.0",
    complexity="O(log(N)) where N is the size of the sorted set",
    summary="How many members of a sorted set have scores within a range.",
    usage="key min max",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zcount(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 for a key that does not exist."""
    span = ScoreSpan(request[2], request[3])
    value = read_sorted_set(session, request[1])
    return 0 if value is None else len(span.ranks(value))


@command(
    "ZLEXCOUNT",
    arity=4,
    flags="readonly fast",
    group="sorted-set",
    since="2.8.9",
    complexity="O(log(N)) where N is the size of the sorted set",
    summary="How many members of a sorted set, all with one score, are within a range.",
    usage="key min max",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zlexcount(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 for a key that does not exist."""
    span = MemberSpan(request[2], request[3])
    value = read_sorted_set(session, request[1])
    return 0 if value is None else len(span.ranks(value))


@command(
    "ZREMRANGEBYRANK",
    arity=4,
    flags="write",
    group="sorted-set",
    since="2.0.0",
    complexity=_REMOVAL_COMPLEXITY,
    summary="Removes the members of a sorted set that are within a range of ranks.",
    usage="key start stop",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def zremrangebyrank(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there were."""
    span = RankSpan(request[2], request[3])
    return _remove(session, request[1], span, b"zremrangebyrank")


@command(
    "ZREMRANGEBYSCORE",
    arity=4,
    flags="write",
    group="sorted-set",
    since="1.2.0",
    complexity=_REMOVAL_COMPLEXITY,
    summary="Removes the members of a sorted set that have scores within a range.",
    usage="key min max",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def zremrangebyscore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there were."""
    span = ScoreSpan(request[2], request[3])
    return _remove(session, request[1], span, b"zremrangebyscore")


@command(
    "ZREMRANGEBYLEX",
    arity=4,
    flags="write",
    group="sorted-set",
    since="2.8.9",
    complexity=_REMOVAL_COMPLEXITY,
    summary="Removes the members of a sorted set, all with one score, that are within a range.",
    usage="key min max",
    keys=ONE_KEY,
    key_flags="RW delete",
)
def zremrangebylex(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there were."""
    span = MemberSpan(request[2], request[3])
    return _remove(session, request[1], span, b"zremrangebylex")


def _remove(
    session: Session, key: bytes, span: RankSpan | ScoreSpan | MemberSpan, event: bytes
) -> Reply:
    value = lookup_sorted_set(session, key)
    if value is None:
        return 0
    ranks = span.ranks(value)
    if ranks:
        before_bytes = value.size_bytes
        value.remove_between(ranks.start, ranks.stop)
        shrunk(session.db, key, value, before_bytes, SORTED_SET, event)
    return len(ranks)


# --- reading -----------------------------------------------------------------------------------

# What a range is of.
_ANY: Final = 0
_RANKS: Final = 1
_SCORES: Final = 2
_MEMBERS: Final = 3


class Range:
    """A range as the options of ZRANGE and its kin describe it.

    Args:
        request: The request.
        first: Which argument the first bound is.
        kind: What it is of, unless options say so.
        is_reversed: Whether the highest score comes first; ``None``: options say so.
        stores: Whether it is stored, so that nobody can ask for scores.

    Attributes:
        with_scores: Whether scores are asked for.

    Raises:
        CommandError: Options that are unknown or not together, bounds of another kind.
    """

    __slots__ = ("_count", "_offset", "_span", "is_reversed", "with_scores")

    def __init__(
        self,
        request: list[bytes],
        first: int,
        *,
        kind: int = _ANY,
        is_reversed: bool | None = None,
        stores: bool = False,
    ) -> None:
        self.with_scores = False
        self._offset = 0
        self._count = -1
        self.is_reversed = bool(is_reversed)
        takes_kind = kind == _ANY
        takes_direction = is_reversed is None
        i = first + 2
        while i < len(request):
            option = request[i].upper()
            if option == b"WITHSCORES" and not stores:
                self.with_scores = True
            elif option == b"LIMIT" and i + 2 < len(request):
                self._offset = parse_int(request[i + 1])
                self._count = parse_int(request[i + 2])
                i += 2
            elif option == b"REV" and takes_direction and not self.is_reversed:
                self.is_reversed = True
            elif option == b"BYLEX" and takes_kind and kind == _ANY:
                kind = _MEMBERS
            elif option == b"BYSCORE" and takes_kind and kind == _ANY:
                kind = _SCORES
            else:
                raise CommandError(SYNTAX)
            i += 1
        self._span = self._bounds(kind or _RANKS, request[first], request[first + 1])

    def _bounds(self, kind: int, first: bytes, last: bytes) -> RankSpan | ScoreSpan | MemberSpan:
        if kind == _RANKS:
            if self._count != -1:
                raise CommandError(_LIMIT_OF_RANKS)
            self._offset = 0
            return RankSpan(first, last, is_reversed=self.is_reversed)
        if kind == _MEMBERS and self.with_scores:
            raise CommandError(_SCORES_OF_MEMBERS)
        low, high = (last, first) if self.is_reversed else (first, last)
        return ScoreSpan(low, high) if kind == _SCORES else MemberSpan(low, high)

    def ranks(self, value: SortedSetValue) -> range:
        """The ranks that are meant, from the lowest score on."""
        ranks = self._span.ranks(value)
        if self._offset < 0:
            return range(0)
        start = ranks.start
        stop = max(start, ranks.stop)
        if self.is_reversed:
            stop = max(start, stop - self._offset)
            return (
                ranks
                if self._count < 0 and not self._offset
                else range(max(start, stop - self._count) if self._count >= 0 else start, stop)
            )
        start = min(stop, start + self._offset)
        return range(start, min(stop, start + self._count) if self._count >= 0 else stop)


def _reply(session: Session, key: bytes, wanted: Range) -> Reply:
    """What is asked for of a sorted set."""
    value = read_sorted_set(session, key)
    if value is None:
        return []
    ranks = wanted.ranks(value)
    members = value.members_between(ranks.start, ranks.stop)
    if wanted.is_reversed:
        members.reverse()
    if not wanted.with_scores:
        # A list of members is a list of replies, and may be long.
        return members  # type: ignore[return-value]
    scores = value.scores_between(ranks.start, ranks.stop)
    if wanted.is_reversed:
        scores.reverse()
    return pairs_reply(members, scores, is_nested=session.protocol == 3)


@command(
    "ZRANGE",
    arity=-4,
    flags="readonly",
    group="sorted-set",
    since="1.2.0",
    complexity=_RANGE_COMPLEXITY,
    summary="The members of a sorted set within a range of ranks, scores, or members.",
    usage="key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrange(session: Session, request: list[bytes]) -> Reply:
    """Answers them in order, perhaps with their scores."""
    return _reply(session, request[1], Range(request, 2))


@command(
    "ZRANGESTORE",
    arity=-5,
    flags="write denyoom",
    group="sorted-set",
    since="6.2.0",
    complexity="O(log(N)+M) where N is the size of the sorted set and M how many are stored",
    summary="Stores the members of a sorted set within a range of ranks, scores, or members.",
    usage="destination source min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]",
    keys=TWO_KEYS,
    key_flags="OW update @1; RO access @2",
)
def zrangestore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    wanted = Range(request, 3, stores=True)
    value = read_sorted_set(session, request[2])
    scores: dict[bytes, float] = {}
    if value is not None:
        ranks = wanted.ranks(value)
        members = value.members_between(ranks.start, ranks.stop)
        scores = dict(zip(members, value.scores_between(ranks.start, ranks.stop), strict=True))
    return store(session, request[1], scores, b"zrangestore")


@command(
    "ZREVRANGE",
    arity=-4,
    flags="readonly",
    group="sorted-set",
    since="1.2.0",
    complexity=_RANGE_COMPLEXITY,
    summary="The members of a sorted set within a range of ranks, from the highest score on.",
    usage="key start stop [WITHSCORES]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrevrange(session: Session, request: list[bytes]) -> Reply:
    """Answers them in order, perhaps with their scores."""
    return _reply(session, request[1], Range(request, 2, kind=_RANKS, is_reversed=True))


@command(
    "ZRANGEBYSCORE",
    arity=-4,
    flags="readonly",
    group="sorted-set",
    since="1.0.5",
    complexity=_RANGE_COMPLEXITY,
    summary="The members of a sorted set that have scores within a range.",
    usage="key min max [WITHSCORES] [LIMIT offset count]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrangebyscore(session: Session, request: list[bytes]) -> Reply:
    """Answers them in order, perhaps with their scores."""
    return _reply(session, request[1], Range(request, 2, kind=_SCORES, is_reversed=False))


@command(
    "ZREVRANGEBYSCORE",
    arity=-4,
    flags="readonly",
    group="sorted-set",
    since="2.2.0",
    complexity=_RANGE_COMPLEXITY,
    summary="The members of a sorted set that have scores within a range, highest first.",
    usage="key max min [WITHSCORES] [LIMIT offset count]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrevrangebyscore(session: Session, request: list[bytes]) -> Reply:
    """Answers them in order, perhaps with their scores."""
    return _reply(session, request[1], Range(request, 2, kind=_SCORES, is_reversed=True))


@command(
    "ZRANGEBYLEX",
    arity=-4,
    flags="readonly",
    group="sorted-set",
    since="2.8.9",
    complexity=_RANGE_COMPLEXITY,
    summary="The members of a sorted set, all with one score, that are within a range.",
    usage="key min max [LIMIT offset count]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrangebylex(session: Session, request: list[bytes]) -> Reply:
    """Answers them in order."""
    return _reply(session, request[1], Range(request, 2, kind=_MEMBERS, is_reversed=False))


@command(
    "ZREVRANGEBYLEX",
    arity=-4,
    flags="readonly",
    group="sorted-set",
    since="2.8.9",
    complexity=_RANGE_COMPLEXITY,
    summary="The members of a sorted set, all with one score, that are within a range, last first.",
    usage="key max min [LIMIT offset count]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def zrevrangebylex(session: Session, request: list[bytes]) -> Reply:
    """Answers them in order."""
    return _reply(session, request[1], Range(request, 2, kind=_MEMBERS, is_reversed=True))
