"""Whether there is an order of a key's operations that explains everything that clients saw.

The order must keep real time: what had ended before another began comes first. This is the search
of Wing and Gong (1993) with Lowe's memory of configurations that lead nowhere (2017), as Porcupine
has it, for one key at a time, since a history of many keys has an order if each key's has.

Operations without a known result may have happened or not. They are tried only after the others,
and a configuration is given up if one like it was seen that used fewer of them: whatever can be
reached with them spent can be reached with them at hand. So they do not double the work each.
What changes nothing, as a read that is right, is put in its place as soon as it can be.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.histories.models import Model
from tests.histories.operations import Operation

CONFIGURATIONS_MAX: Final = 2_000_000
"""How many configurations are looked at before a history is given up as too hard."""


class TooHardError(Exception):
    """The search would take too long; nothing is known."""


class Configuration(NamedTuple):
    """A part of the history that has been put in order.

    All certain operations before `first` are in it, and those after it whose bit is in `mask`
    (bit 0 is `first`'s); of the uncertain ones those whose bit is in `used`. `latest_s` is when
    the last of all these began: the order has come at least so far.
    """

    first: int
    mask: int
    state: Hashable
    used: int
    latest_s: float


@dataclass(frozen=True)
class Verdict:
    """What came of a search.

    Attributes:
        is_linearizable: Whether there is an order.
        configurations: How many were looked at.
        states: The states that the key may be in at the end; only one of them unless all were
            asked for.
        stuck_at: Of the longest order that was found, the operations of which none can be next.
    """

    is_linearizable: bool
    configurations: int
    states: tuple[Hashable, ...] = ()
    stuck_at: tuple[Operation, ...] = ()


class _Search:
    def __init__(self, model: Model, operations: Iterable[Operation]) -> None:
        self._model = model
        ordered = sorted(operations, key=lambda operation: operation.begin_s)
        self.certain = [operation for operation in ordered if operation.is_certain]
        self._uncertain = [operation for operation in ordered if not operation.is_certain]
        self._twins = self._find_twins()
        self._begins_s = [one.begin_s for one in self._uncertain]
        self._ends_s = [one.end_s for one in self._uncertain if math.isfinite(one.end_s)]
        # What was looked at, by all but `used`.
        self._seen: dict[tuple[int, int, Hashable], list[int]] = {}

    def _find_twins(self) -> list[int]:
        """Return for each uncertain operation the bits of earlier ones that do the same.

        It is not needed while one of them is at hand, which could take effect instead.
        """
        found: list[int] = []
        earlier: dict[tuple[object, ...], int] = {}
        for number, operation in enumerate(self._uncertain):
            kind = (operation.name, operation.arguments)
            is_endless = math.isinf(operation.end_s)
            found.append(earlier.get(kind, 0) if is_endless else 0)
            if is_endless:
                earlier[kind] = earlier.get(kind, 0) | 1 << number
        return found

    def is_new(self, configuration: Configuration) -> bool:
        """Note a configuration, unless there was one that is at least as good."""
        first, mask, state, used, _ = configuration
        seen = self._seen.setdefault((first, mask, state), [])
        if any(other & ~used == 0 for other in seen):
            return False
        seen[:] = [other for other in seen if used & ~other]
        seen.append(used)
        return True

    def following(self, now: Configuration) -> Iterator[Configuration]:
        """Yield the configurations with one operation more, the likeliest first."""
        numbers, deadline_s = self.next_certain(now)
        # What was answered first has most probably happened first.
        numbers.sort(key=lambda number: self.certain[number].end_s)
        following: list[tuple[int, list[Hashable]]] = []
        for number in numbers:
            states = list(self._model.step(now.state, self.certain[number]))
            if states == [now.state] and self._is_free(self.certain[number], now.latest_s):
                yield self._with(now, number, now.state)
                return
            following.append((number, states))
        for number, states in following:
            for state in states:
                yield self._with(now, number, state)
        yield from self._with_uncertain(now, deadline_s)

    def _is_free(self, operation: Operation, latest_s: float) -> bool:
        """Whether an operation that changes nothing costs nothing, if it comes next.

        Then no other order need be tried: from one that has it later, it can be moved here.
        Except if a loss is at hand that is over before it began, and could not follow it.
        """
        return not any(latest_s <= end_s < operation.begin_s for end_s in self._ends_s)

    def _with(self, now: Configuration, number: int, state: Hashable) -> Configuration:
        latest_s = max(now.latest_s, self.certain[number].begin_s)
        first, mask = now.first, now.mask | 1 << number - now.first
        while mask & 1:
            first, mask = first + 1, mask >> 1
        return Configuration(first, mask, state, now.used, latest_s)

    def _with_uncertain(self, now: Configuration, deadline_s: float) -> Iterator[Configuration]:
        # A request that was executed at all was so most probably soon after it was sent.
        for number in range(bisect_right(self._begins_s, deadline_s) - 1, -1, -1):
            operation = self._uncertain[number]
            if now.used >> number & 1 or self._twins[number] & ~now.used:
                continue
            if operation.end_s < now.latest_s:
                continue
            latest_s = max(now.latest_s, operation.begin_s)
            used = now.used | 1 << number
            for state in self._model.step(now.state, operation):
                if state != now.state:
                    yield Configuration(now.first, now.mask, state, used, latest_s)

    def next_certain(self, now: Configuration) -> tuple[list[int], float]:
        """Return the certain operations that may be next, and until when the next must begin."""
        certain, numbers = self.certain, []
        deadline_s = math.inf
        for number in range(now.first, len(certain)):
            operation = certain[number]
            if operation.begin_s > deadline_s:
                break
            if not now.mask >> number - now.first & 1:
                numbers.append(number)
                deadline_s = min(deadline_s, operation.end_s)
        return numbers, deadline_s


def check(
    model: Model,
    operations: Iterable[Operation],
    *,
    start: Sequence[Hashable] | None = None,
    all_states: bool = False,
    configurations_max: int = CONFIGURATIONS_MAX,
) -> Verdict:
    """Look for an order of one key's operations that the model allows.

    Args:
        model: What the key is.
        operations: The history, in any order; those without a known result are optional.
        start: The states that the key may be in before; the model's initial one by default.
        all_states: Go on after an order was found, for all states that the key may end in.
        configurations_max: When to give up.

    Raises:
        TooHardError: So many configurations were not enough.
    """
    search = _Search(model, operations)
    total, count = len(search.certain), 0
    states: dict[Hashable, None] = {}
    begin = [
        Configuration(0, 0, state, 0, -math.inf)
        for state in ((model.initial,) if start is None else start)
    ]
    farthest, farthest_done = begin[0], -1
    stack = [iter(begin)]
    while stack:
        now = next(stack[-1], None)
        if now is None:
            stack.pop()
            continue
        if not search.is_new(now):
            continue
        count += 1
        if count > configurations_max:
            raise TooHardError(f"{count} configurations of {total} operations")
        done = now.first + now.mask.bit_count()
        if done > farthest_done:
            farthest, farthest_done = now, done
        if done == total:
            states[now.state] = None
            if not all_states:
                break
        stack.append(search.following(now))
    if states:
        return Verdict(True, count, tuple(states))
    numbers, _ = search.next_certain(farthest)
    return Verdict(False, count, stuck_at=tuple(search.certain[number] for number in numbers))
