"""What a key is, one operation after the other: a string, with expiry, and a set.

A model says which states a key may be in after an operation that was seen to give a result: none
if the result cannot be, several if it depends on what nobody saw (which member SPOP took, whether
a deadline had passed). A result that is `UNKNOWN` could have been any.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import combinations
from typing import Any, NamedTuple, Protocol

from tests.histories.operations import LOST, UNKNOWN, Operation

# A server's clock is read some time before the command is executed, in whole milliseconds, and its
# wall clock may be slewed against ours.
CLOCK_SLACK_S = 0.02
NOT_A_NUMBER = "ERR value is not an integer or out of range"


class Model(Protocol):
    """What the checker must know of a kind of key; states can be hashed."""

    @property
    def initial(self) -> Hashable:
        """The state of a key that nobody has touched, or that was lost."""

    def step(self, state: Any, operation: Operation) -> Iterable[Hashable]:
        """Return the states after `operation`, as far as its result can be."""


class Text(NamedTuple):
    """A string that is there.

    Its deadline is between two times, since only the times around the command that set it are
    known; without one, both are None.
    """

    value: str
    earliest_s: float | None = None
    latest_s: float | None = None


class StringModel:
    """SET (NX, PX), GET, GETDEL, DEL, EXISTS, INCR, APPEND, PEXPIRE and PERSIST."""

    initial: Text | None = None

    def step(self, state: Text | None, operation: Operation) -> Iterator[Text | None]:
        """Return the states after `operation`."""
        if operation.name == LOST:
            yield None
            return
        execute = _COMMANDS[operation.name]
        for held in _views(state, operation):
            result, after = execute(held, operation)
            if operation.result is UNKNOWN or operation.result == result:
                yield after


def _views(state: Text | None, operation: Operation) -> Iterator[Text | None]:
    """Yield what `operation` may find: what is there, or nothing if its time may have come."""
    if state is None or state.earliest_s is None or state.latest_s is None:
        yield state
        return
    if operation.begin_s <= state.latest_s + CLOCK_SLACK_S:
        yield state
    if operation.end_s >= state.earliest_s - CLOCK_SLACK_S:
        yield None


_After = tuple[Any, Text | None]


def _set(held: Text | None, operation: Operation) -> _After:
    value, *options = operation.arguments
    if "NX" in options and held is not None:
        return None, held
    if "PX" in options:
        return True, _expiring(value, options[options.index("PX") + 1], operation)
    return True, Text(value)


def _expiring(value: str, lifetime_ms: int, operation: Operation) -> Text:
    lifetime_s = lifetime_ms / 1000
    return Text(value, operation.begin_s + lifetime_s, operation.end_s + lifetime_s)


def _get(held: Text | None, _operation: Operation) -> _After:
    return None if held is None else held.value, held


def _getdel(held: Text | None, _operation: Operation) -> _After:
    return None if held is None else held.value, None


def _del(held: Text | None, _operation: Operation) -> _After:
    return int(held is not None), None


def _exists(held: Text | None, _operation: Operation) -> _After:
    return int(held is not None), held


def _incr(held: Text | None, _operation: Operation) -> _After:
    if held is None:
        return 1, Text("1")
    if not held.value.isdecimal():
        return NOT_A_NUMBER, held
    number = int(held.value) + 1
    return number, held._replace(value=str(number))


def _append(held: Text | None, operation: Operation) -> _After:
    before = Text("") if held is None else held
    after = before._replace(value=before.value + operation.arguments[0])
    return len(after.value), after


def _pexpire(held: Text | None, operation: Operation) -> _After:
    if held is None:
        return 0, None
    return 1, _expiring(held.value, operation.arguments[0], operation)


def _persist(held: Text | None, _operation: Operation) -> _After:
    if held is None or held.earliest_s is None:
        return 0, held
    return 1, Text(held.value)


_COMMANDS: dict[str, Callable[[Text | None, Operation], _After]] = {
    "SET": _set,
    "GET": _get,
    "GETDEL": _getdel,
    "DEL": _del,
    "EXISTS": _exists,
    "INCR": _incr,
    "APPEND": _append,
    "PEXPIRE": _pexpire,
    "PERSIST": _persist,
}


class SetModel:
    """SADD, SREM, SPOP, SMEMBERS, SCARD, SISMEMBER and DEL; no set and an empty set are one."""

    initial: frozenset[str] = frozenset()

    def step(self, state: frozenset[str], operation: Operation) -> Iterator[frozenset[str]]:
        """Return the states after `operation`."""
        if operation.name == LOST:
            yield frozenset()
        elif operation.name == "SPOP":
            yield from _spop(state, operation)
        else:
            result, after = _on_set(state, operation)
            if operation.result is UNKNOWN or operation.result == result:
                yield after


def _on_set(state: frozenset[str], operation: Operation) -> tuple[Any, frozenset[str]]:
    named = frozenset(operation.arguments)
    match operation.name:
        case "SADD":
            return len(named - state), state | named
        case "SREM":
            return len(named & state), state - named
        case "DEL":
            return int(bool(state)), frozenset()
        case "SMEMBERS":
            return state, state
        case "SCARD":
            return len(state), state
        case "SISMEMBER":
            return int(named <= state), state
    raise KeyError(operation.name)


def _spop(state: frozenset[str], operation: Operation) -> Iterator[frozenset[str]]:
    """Yield what may be left: what was taken is known only if the reply is."""
    popped, count = operation.result, 1
    if operation.arguments:
        (count,) = operation.arguments
    elif popped is not UNKNOWN:
        popped = frozenset() if popped is None else frozenset((popped,))
    size = min(count, len(state))
    if popped is not UNKNOWN:
        if len(popped) == size and popped <= state:
            yield state - popped
        return
    for taken in combinations(sorted(state), size):
        yield state - frozenset(taken)
