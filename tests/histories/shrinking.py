"""The smallest part of a history that still has no order, for people to read.

Nothing is left out that could have explained what was seen: a part is taken from a moment at which
nothing was under way, with the states that the key may have had then, to the first reply that
cannot be; and of this, reads are left out as long as the others suffice to contradict.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from tests.histories.linearizable import TooHardError, check
from tests.histories.models import Model
from tests.histories.operations import UNKNOWN, Operation

# One step of making it smaller may look at no more than that; else the part stays larger.
CONFIGURATIONS_MAX = 100_000
CUTS_MAX = 200
_READS = frozenset(("GET", "EXISTS", "SMEMBERS", "SCARD", "SISMEMBER"))


@dataclass(frozen=True)
class Contradiction:
    """Operations for which there is no order, whichever of the states came before."""

    states: tuple[Hashable, ...]
    operations: tuple[Operation, ...]


def contradiction(model: Model, operations: Sequence[Operation]) -> Contradiction:
    """Return a small contradiction of a history that `check` has found to have no order."""
    begun = _until(operations, _first_impossible_s(model, operations))
    states, part = _since_last_rest(model, begun)
    for operation in part:
        if operation.name in _READS:
            fewer = [one for one in part if one is not operation]
            if not _is_possible(model, fewer, states):
                part = fewer
    return Contradiction(states, tuple(part))


def _is_possible(model: Model, operations: Sequence[Operation], states: Sequence[Hashable]) -> bool:
    try:
        return check(
            model, operations, start=states, configurations_max=CONFIGURATIONS_MAX
        ).is_linearizable
    except TooHardError:
        return True  # Not shown to be a contradiction.


def _until(operations: Sequence[Operation], time_s: float) -> list[Operation]:
    """Return what was known at a time: what had not ended then has no result."""
    return [
        operation
        if operation.end_s <= time_s or not operation.is_certain
        else replace(operation, end_s=math.inf, result=UNKNOWN)
        for operation in operations
        if operation.begin_s <= time_s
    ]


def _first_impossible_s(model: Model, operations: Sequence[Operation]) -> float:
    """Return when the first reply came that no order explains."""
    ends_s = sorted(operation.end_s for operation in operations if operation.is_certain)
    low, high = 0, len(ends_s) - 1
    while low < high:
        middle = (low + high) // 2
        if _is_possible(model, _until(operations, ends_s[middle]), (model.initial,)):
            low = middle + 1
        else:
            high = middle
    return ends_s[low]


def _since_last_rest(
    model: Model, operations: Sequence[Operation]
) -> tuple[tuple[Hashable, ...], list[Operation]]:
    """Return the part since the last moment of rest that contradicts, and the states then."""
    ordered = sorted(operations, key=lambda operation: operation.begin_s)
    rests: list[int] = []
    busy_until_s = -math.inf
    for number, operation in enumerate(ordered):
        if operation.begin_s > busy_until_s:
            rests.append(number)
        if operation.is_certain:
            busy_until_s = max(busy_until_s, operation.end_s)
    for number in reversed(rests[-CUTS_MAX:]):
        before, after = ordered[:number], ordered[number:]
        try:
            states = check(
                model, before, all_states=True, configurations_max=CONFIGURATIONS_MAX
            ).states
        except TooHardError:
            continue
        # What may still happen later stays.
        rest_s = ordered[number].begin_s
        after = [one for one in before if not one.is_certain and one.end_s >= rest_s] + after
        if states and not _is_possible(model, after, states):
            return states, after
    return (model.initial,), ordered
