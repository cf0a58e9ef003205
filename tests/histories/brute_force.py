"""The checker's oracle: every order there is, tried one after the other, without any cleverness."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations, permutations
from typing import Any

from tests.histories.models import Model
from tests.histories.operations import Operation


def is_linearizable(model: Model, operations: Sequence[Operation]) -> bool:
    """Return whether some order of the certain operations and some of the others can be."""
    certain = [operation for operation in operations if operation.is_certain]
    others = [operation for operation in operations if not operation.is_certain]
    subsets = chain.from_iterable(combinations(others, size) for size in range(len(others) + 1))
    return any(
        _keeps_time(order) and _is_possible(model, model.initial, order)
        for subset in subsets
        for order in permutations((*certain, *subset))
    )


def _keeps_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.end_s < earlier.begin_s
        for number, earlier in enumerate(order)
        for later in order[number + 1 :]
    )


def _is_possible(model: Model, state: Any, order: Sequence[Operation]) -> bool:
    if not order:
        return True
    return any(_is_possible(model, after, order[1:]) for after in model.step(state, order[0]))
