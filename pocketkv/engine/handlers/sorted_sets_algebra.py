"""Sorted set commands over several keys: unions, intersections, differences, and their stores.

Sets are taken as well: all of their members have the score 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import canonical_integer, parse_double, parse_int
from pocketkv.engine.commands import KeySpec, command
from pocketkv.engine.errors import SYNTAX, WRONG_TYPE, CommandError
from pocketkv.engine.handlers.sorted_sets import pairs_reply, store
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NO_INPUT: Final = b"ERR at least 1 input key is needed for '%b' command"
_WEIGHT: Final = b"ERR weight value is not a float"
_LIMIT_NEGATIVE: Final = b"ERR LIMIT can't be negative"

_UNION_COMPLEXITY: Final = (
    "O(N)+O(M*log(M)) where N is the number of members of all inputs and M of the result"
)
_INTERSECTION_COMPLEXITY: Final = (
    "O(N*K)+O(M*log(M)) where N is the size of the smallest input, K the number of inputs and M "
    "the size of the result"
)
_DIFFERENCE_COMPLEXITY: Final = (
    "O(N)+O(M*log(M)) where N is the number of members of all inputs and M of the result"
)
_STORE_FLAGS: Final = "OW update @1; RO access @2 keynum 0 1 1"


# --- arguments ---------------------------------------------------------------------------------


def _counted_keys(request: list[bytes], at: int) -> list[int]:
    count = parse_int(request[at])
    if count < 1:
        raise CommandError(_NO_INPUT % request[0].lower())
    if count > len(request) - at - 1:
        raise CommandError(SYNTAX)
    return list(range(at + 1, at + 1 + count))


def _keys_to_read(request: list[bytes]) -> list[int]:
    return _counted_keys(request, 1)


def _keys_to_store(request: list[bytes]) -> list[int]:
    return [1, *_counted_keys(request, 2)]


_READS: Final = KeySpec(find=_keys_to_read)
_STORES: Final = KeySpec(1, 1, 1, _keys_to_store)


class Input:
    """One key of a command: nothing, a set or a sorted set, and what its scores are worth."""

    __slots__ = ("size", "value", "weight")

    def __init__(self, value: SortedSetValue | SetValue | None) -> None:
        self.value = value
        self.size = 0 if value is None else len(value)
        self.weight = 1.0

    def score(self, member: bytes) -> float | None:
        """A member's score; ``None`` if it is not there."""
        value = self.value
        if isinstance(value, SortedSetValue):
            return value.score(member)
        return 1.0 if value is not None and member in value else None

    def chunks(self) -> Iterator[tuple[list[float], list[bytes]]]:
        """All scores and members, some or all at a time."""
        value = self.value
        if isinstance(value, SortedSetValue):
            yield from value.chunks()
        elif value is not None:
            members = value.members()
            yield [1.0] * len(members), members

    def scores(self) -> dict[bytes, float]:
        """All scores by member."""
        found: dict[bytes, float] = {}
        for scores, members in self.chunks():
            found.update(zip(members, scores, strict=True))
        return found


def _inputs(session: Session, request: list[bytes], at: int) -> list[Input]:
    """The inputs whose number is argument `at`.

    Raises:
        CommandError: There are not so many, or one is neither a set nor a sorted set.
    """
    found = []
    for position in _counted_keys(request, at):
        value = session.db.read(request[position])
        if value is not None and not isinstance(value, SortedSetValue | SetValue):
            raise CommandError(WRONG_TYPE)
        found.append(Input(value))
    return found


def _add(score: float, other: float) -> float:
    total = score + other
    # Of infinities of both signs.
    return total if total == total else 0.0


def _lower(score: float, other: float) -> float:
    return other if other < score else score


def _higher(score: float, other: float) -> float:
    return other if other > score else score


_Aggregate = Callable[[float, float], float]
_AGGREGATES: Final[dict[bytes, _Aggregate]] = {b"SUM": _add, b"MIN": _lower, b"MAX": _higher}


class Options:
    """What follows the inputs.

    Args:
        inputs: Get their weights.
        first: Where the options begin.
        has_weights: Whether WEIGHTS and AGGREGATE are options.
        has_scores: Whether WITHSCORES is one.

    Raises:
        CommandError: Unknown, or without its arguments.
    """

    __slots__ = ("aggregate", "with_scores")

    def __init__(
        self,
        request: list[bytes],
        inputs: list[Input],
        first: int,
        *,
        has_weights: bool,
        has_scores: bool,
    ) -> None:
        self.aggregate: _Aggregate = _add
        self.with_scores = False
        i = first
        while i < len(request):
            option = request[i].upper()
            if has_weights and option == b"WEIGHTS" and i + len(inputs) < len(request):
                for given in inputs:
                    i += 1
                    given.weight = parse_double(request[i], _WEIGHT)
            elif has_weights and option == b"AGGREGATE" and i + 1 < len(request):
                i += 1
                aggregate = _AGGREGATES.get(request[i].upper())
                if aggregate is None:
                    raise CommandError(SYNTAX)
                self.aggregate = aggregate
            elif has_scores and option == b"WITHSCORES":
                self.with_scores = True
            else:
                raise CommandError(SYNTAX)
            i += 1


# --- the operations ----------------------------------------------------------------------------


def _size(given: Input) -> int:
    return given.size


def _weighted(score: float, weight: float) -> float:
    weighted = score * weight
    # Of an infinity and zero.
    return weighted if weighted == weighted else 0.0


def union(inputs: list[Input], aggregate: _Aggregate) -> dict[bytes, float]:
    """The members that any input has. As in Redis, the smallest one comes first in sums."""
    found: dict[bytes, float] = {}
    for given in sorted(inputs, key=_size):
        weight = given.weight
        for scores, members in given.chunks():
            for i in range(len(members)):
                score = _weighted(scores[i], weight)
                member = members[i]
                known = found.get(member)
                found[member] = score if known is None else aggregate(known, score)
    return found


def intersection(inputs: list[Input], aggregate: _Aggregate) -> dict[bytes, float]:
    """The members that all inputs have."""
    smallest, *others = sorted(inputs, key=_size)
    found: dict[bytes, float] = {}
    for scores, members in smallest.chunks():
        for i in range(len(members)):
            member = members[i]
            total = _weighted(scores[i], smallest.weight)
            for other in others:
                score = other.score(member)
                if score is None:
                    break
                total = aggregate(total, score * other.weight)
            else:
                found[member] = total
    return found


def _count_common(inputs: list[Input], limit: int) -> int:
    """How many members all inputs have; with a limit, no more than so many."""
    smallest, *others = sorted(inputs, key=_size)
    count = 0
    for _, members in smallest.chunks():
        for member in members:
            for other in others:
                if other.score(member) is None:
                    break
            else:
                count += 1
                if count == limit:
                    return count
    return count


def difference(inputs: list[Input]) -> dict[bytes, float]:
    """The members that the first input has and no other has."""
    first, *others = inputs
    if any(other.value is first.value for other in others):
        return {}
    if first.size * len(others) > sum(map(_size, others)):
        found = first.scores()
        for other in others:
            for _, members in other.chunks():
                for member in members:
                    found.pop(member, None)
        return found
    found = {}
    for scores, members in first.chunks():
        for i in range(len(members)):
            for other in others:
                if other.score(members[i]) is not None:
                    break
            else:
                found[members[i]] = scores[i]
    return found


def _reply(session: Session, found: dict[bytes, float], *, with_scores: bool) -> Reply:
    """Members in the order of their scores."""
    pairs = sorted(zip(found.values(), found, strict=True))
    members = [member for _, member in pairs]
    if not with_scores:
        return list(members)
    scores = [score for score, _ in pairs]
    return pairs_reply(members, scores, is_nested=session.protocol == 3)


# --- commands ----------------------------------------------------------------------------------


@command(
    "ZUNION",
    arity=-3,
    flags="readonly",
    group="sorted-set",
    since="6.2.0",
    complexity=_UNION_COMPLEXITY,
    summary="The members that any of several sorted sets has.",
    usage="numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] "
    "[WITHSCORES]",
    keys=_READS,
    key_flags="RO access @1 keynum 0 1 1",
)
def zunion(session: Session, request: list[bytes]) -> Reply:
    """Answers them by score, perhaps with their scores."""
    inputs = _inputs(session, request, 1)
    options = Options(request, inputs, 2 + len(inputs), has_weights=True, has_scores=True)
    found = union(inputs, options.aggregate)
    return _reply(session, found, with_scores=options.with_scores)


@command(
    "ZUNIONSTORE",
    arity=-4,
    flags="write denyoom",
    group="sorted-set",
    since="2.0.0",
    complexity=_UNION_COMPLEXITY,
    summary="Stores the members that any of several sorted sets has.",
    usage="destination numkeys key [key ...] [WEIGHTS weight [weight ...]] "
    "[AGGREGATE <SUM | MIN | MAX>]",
    keys=_STORES,
    key_flags=_STORE_FLAGS,
)
def zunionstore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    inputs = _inputs(session, request, 2)
    options = Options(request, inputs, 3 + len(inputs), has_weights=True, has_scores=False)
    return store(session, request[1], union(inputs, options.aggregate), b"zunionstore")


@command(
    "ZINTER",
    arity=-3,
    flags="readonly",
    group="sorted-set",
    since="6.2.0",
    complexity=_INTERSECTION_COMPLEXITY,
    summary="The members that several sorted sets have in common.",
    usage="numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] "
    "[WITHSCORES]",
    keys=_READS,
    key_flags="RO access @1 keynum 0 1 1",
)
def zinter(session: Session, request: list[bytes]) -> Reply:
    """Answers them by score, perhaps with their scores."""
    inputs = _inputs(session, request, 1)
    options = Options(request, inputs, 2 + len(inputs), has_weights=True, has_scores=True)
    found = intersection(inputs, options.aggregate)
    return _reply(session, found, with_scores=options.with_scores)


@command(
    "ZINTERSTORE",
    arity=-4,
    flags="write denyoom",
    group="sorted-set",
    since="2.0.0",
    complexity=_INTERSECTION_COMPLEXITY,
    summary="Stores the members that several sorted sets have in common.",
    usage="destination numkeys key [key ...] [WEIGHTS weight [weight ...]] "
    "[AGGREGATE <SUM | MIN | MAX>]",
    keys=_STORES,
    key_flags=_STORE_FLAGS,
)
def zinterstore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    inputs = _inputs(session, request, 2)
    options = Options(request, inputs, 3 + len(inputs), has_weights=True, has_scores=False)
    return store(session, request[1], intersection(inputs, options.aggregate), b"zinterstore")


@command(
    "ZINTERCARD",
    arity=-3,
    flags="readonly",
    group="sorted-set",
    since="7.0.0",
    complexity="O(N*K) where N is the size of the smallest input and K the number of inputs",
    summary="How many members several sorted sets have in common.",
    usage="numkeys key [key ...] [LIMIT limit]",
    keys=_READS,
    key_flags="RO access @1 keynum 0 1 1",
)
def zintercard(session: Session, request: list[bytes]) -> Reply:
    """Answers their number, or the limit if there are more."""
    inputs = _inputs(session, request, 1)
    limit = 0
    for i in range(2 + len(inputs), len(request), 2):
        if request[i].upper() != b"LIMIT" or i + 1 == len(request):
            raise CommandError(SYNTAX)
        number = canonical_integer(request[i + 1])
        if number is None or number < 0:
            raise CommandError(_LIMIT_NEGATIVE)
        limit = number
    return _count_common(inputs, limit)


@command(
    "ZDIFF",
    arity=-3,
    flags="readonly",
    group="sorted-set",
    since="6.2.0",
    complexity=_DIFFERENCE_COMPLEXITY,
    summary="The members that the first of several sorted sets has and no other has.",
    usage="numkeys key [key ...] [WITHSCORES]",
    keys=_READS,
    key_flags="RO access @1 keynum 0 1 1",
)
def zdiff(session: Session, request: list[bytes]) -> Reply:
    """Answers them by score, perhaps with their scores."""
    inputs = _inputs(session, request, 1)
    options = Options(request, inputs, 2 + len(inputs), has_weights=False, has_scores=True)
    return _reply(session, difference(inputs), with_scores=options.with_scores)


@command(
    "ZDIFFSTORE",
    arity=-4,
    flags="write denyoom",
    group="sorted-set",
    since="6.2.0",
    complexity=_DIFFERENCE_COMPLEXITY,
    summary="Stores the members that the first of several sorted sets has and no other has.",
    usage="destination numkeys key [key ...]",
    keys=_STORES,
    key_flags=_STORE_FLAGS,
)
def zdiffstore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    inputs = _inputs(session, request, 2)
    # Redis reads no options here, and finds any to be one argument too many.
    Options(request, inputs, 3 + len(inputs), has_weights=False, has_scores=False)
    return store(session, request[1], difference(inputs), b"zdiffstore")
