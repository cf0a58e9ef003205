"""The checker: histories that have an order and some that have none, and every order as oracle."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.histories import brute_force
from tests.histories.linearizable import TooHardError, check
from tests.histories.models import Model, SetModel, StringModel, Text
from tests.histories.operations import UNKNOWN, Operation, loss

STRING, SET = StringModel(), SetModel()


def done(begin_s: float, end_s: float, text: str, result: Any) -> Operation:
    """An operation with a reply, its command written as in a terminal."""
    name, *arguments = text.split()
    values = tuple(int(word) if word.isdecimal() else word for word in arguments)
    noted = frozenset(result) if isinstance(result, set) else result
    return Operation("c", name, values, begin_s, end_s, noted)


def unknown(begin_s: float, text: str) -> Operation:
    """An operation whose reply never came."""
    name, *arguments = text.split()
    return Operation("c", name, tuple(arguments), begin_s)


def is_fine(*operations: Operation, model: Model = STRING) -> bool:
    return check(model, operations).is_linearizable


# --- strings -----------------------------------------------------------------------------------


def test_what_comes_one_after_the_other() -> None:
    assert is_fine()
    assert is_fine(
        done(0, 1, "GET", None),
        done(2, 3, "SET a", True),
        done(4, 5, "SET b NX", None),
        done(6, 7, "APPEND c", 2),
        done(8, 9, "GETDEL", "ac"),
        done(10, 11, "DEL", 0),
        done(12, 13, "INCR", 1),
        done(14, 15, "INCR", 2),
        done(16, 17, "EXISTS", 1),
        done(18, 19, "DEL", 1),
        done(20, 21, "SET d NX", True),
        done(22, 23, "GET", "d"),
    )


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("GET", "b"),
        ("GET", None),
        ("DEL", 0),
        ("SET b NX", True),
        ("APPEND x", 1),
        ("EXISTS", 0),
        ("GETDEL", None),
        ("INCR", 1),
    ],
)
def test_a_reply_that_cannot_be(text: str, result: Any) -> None:
    assert not is_fine(done(0, 1, "SET a", True), done(2, 3, text, result))


def test_what_goes_on_at_once_may_be_in_any_order() -> None:
    both = (done(0, 10, "SET a", True), done(0, 10, "SET b", True))
    for value in ("a", "b"):
        assert is_fine(*both, done(11, 12, "GET", value))
    assert not is_fine(*both, done(11, 12, "GET", "a"), done(13, 14, "GET", "b"))


def test_a_stale_read() -> None:
    writes = (done(0, 1, "SET a", True), done(2, 3, "SET b", True))
    assert not is_fine(*writes, done(4, 5, "GET", "a"))
    # But while b is being written, one reader may see it before another sees a: never after.
    writes = (done(0, 1, "SET a", True), done(2, 9, "SET b", True))
    assert is_fine(*writes, done(3, 4, "GET", "a"), done(5, 6, "GET", "b"))
    assert not is_fine(*writes, done(3, 4, "GET", "b"), done(5, 6, "GET", "a"))


def test_a_lost_update() -> None:
    assert not is_fine(done(0, 5, "INCR", 1), done(1, 6, "INCR", 1))
    assert not is_fine(done(0, 1, "SET a", True), done(2, 3, "APPEND b", 2), done(4, 5, "GET", "a"))


def test_a_key_that_comes_back() -> None:
    begin = (done(0, 1, "SET a", True), done(2, 3, "DEL", 1), done(4, 5, "GET", None))
    assert is_fine(*begin)
    assert not is_fine(*begin, done(6, 7, "GET", "a"))


def test_a_write_that_two_clients_won() -> None:
    assert not is_fine(done(0, 5, "SET a NX", True), done(1, 6, "SET b NX", True))
    assert not is_fine(
        done(0, 1, "SET a", True), done(2, 5, "GETDEL", "a"), done(3, 6, "GETDEL", "a")
    )


# --- what nobody knows -------------------------------------------------------------------------


def test_a_request_without_a_reply_may_happen_or_not_and_late() -> None:
    begin = (done(0, 1, "SET a", True), unknown(2, "SET b"))
    assert is_fine(*begin, done(3, 4, "GET", "a"))
    assert is_fine(*begin, done(3, 4, "GET", "b"))
    assert is_fine(*begin, done(3, 4, "GET", "a"), done(1000, 1001, "GET", "b"))
    # Once, and not before it was sent.
    assert not is_fine(*begin, done(3, 4, "GET", "b"), done(5, 6, "GET", "a"))
    assert not is_fine(
        *begin, done(3, 4, "GET", "b"), done(5, 6, "SET c", True), done(7, 8, "GET", "b")
    )
    assert not is_fine(done(0, 1, "GET", "b"), unknown(2, "SET b"))


def test_twins_without_a_reply_each_happen_once() -> None:
    two = (unknown(0, "INCR"), unknown(5, "INCR"))
    assert is_fine(*two, done(6, 7, "GET", "2"))
    assert is_fine(*two, done(6, 7, "INCR", 3))
    assert not is_fine(*two, done(6, 7, "GET", "3"))
    assert not is_fine(*two, done(1, 2, "GET", "2"))


def test_a_key_may_be_lost_when_its_server_dies_and_at_no_other_time() -> None:
    begin = (done(0, 1, "SET a", True), loss(5, 6))
    assert is_fine(*begin, done(7, 8, "GET", None))
    assert is_fine(*begin, done(7, 8, "GET", "a"))
    assert is_fine(*begin, done(4, 5.5, "GET", None))
    assert not is_fine(*begin, done(2, 3, "GET", None))
    # It was there after the death: then it was not lost by it.
    assert not is_fine(*begin, done(7, 8, "GET", "a"), done(9, 10, "GET", None))
    # What was written later is not lost either.
    assert not is_fine(*begin, done(7, 8, "SET b", True), done(9, 10, "GET", None))


def test_a_loss_does_not_bring_back_an_older_value() -> None:
    begin = (done(0, 1, "SET a", True), done(2, 3, "SET b", True), loss(5, 6))
    assert is_fine(*begin, done(7, 8, "GET", "b"))
    assert not is_fine(*begin, done(7, 8, "GET", "a"))
    assert not is_fine(*begin, done(7, 8, "GET", None), done(9, 10, "GET", "b"))


# --- expiry ------------------------------------------------------------------------------------


def test_a_key_expires_at_its_time() -> None:
    begin = done(10, 10.1, "SET a PX 500", True)
    assert is_fine(begin, done(10.3, 10.4, "GET", "a"), done(10.7, 10.8, "GET", None))
    assert is_fine(begin, done(10.55, 10.58, "GET", None))
    assert is_fine(begin, done(10.55, 10.58, "GET", "a"))
    assert not is_fine(begin, done(10.2, 10.3, "GET", None))
    assert not is_fine(begin, done(10.8, 10.9, "GET", "a"))
    assert not is_fine(begin, done(10.5, 10.55, "GET", None), done(10.56, 10.57, "GET", "a"))


def test_what_becomes_of_an_expiry() -> None:
    begin = done(10, 10.1, "SET a PX 500", True)
    # A new value has none; one that was changed keeps it.
    assert is_fine(begin, done(10.2, 10.3, "SET b", True), done(20, 21, "GET", "b"))
    assert not is_fine(begin, done(10.2, 10.3, "SET b", True), done(20, 21, "GET", None))
    assert is_fine(begin, done(10.2, 10.3, "APPEND b", 2), done(20, 21, "GET", None))
    assert is_fine(begin, done(10.2, 10.3, "PERSIST", 1), done(20, 21, "GET", "a"))
    assert is_fine(begin, done(10.2, 10.3, "PEXPIRE 2000", 1), done(11, 12, "GET", "a"))
    assert not is_fine(begin, done(10.2, 10.3, "PEXPIRE 2000", 1), done(13, 14, "GET", "a"))
    assert is_fine(begin, done(11, 12, "SET b NX", True), done(20, 21, "DEL", 1))
    assert not is_fine(begin, done(11, 12, "SET b NX", None))


# --- sets --------------------------------------------------------------------------------------


def test_sets() -> None:
    begin = (done(0, 1, "SADD a b", 2), done(2, 3, "SADD b c", 1), done(4, 5, "SREM a x", 1))
    for text, result in [("SMEMBERS", {"b", "c"}), ("SCARD", 2), ("SISMEMBER a", 0), ("DEL", 1)]:
        assert is_fine(*begin, done(6, 7, text, result), model=SET)
    for text, result in [("SMEMBERS", {"a"}), ("SCARD", 3), ("SISMEMBER b", 0), ("DEL", 0)]:
        assert not is_fine(*begin, done(6, 7, text, result), model=SET)


def test_spop_gives_each_member_once() -> None:
    begin = done(0, 1, "SADD a b", 2)
    assert is_fine(begin, done(2, 5, "SPOP", "a"), done(3, 6, "SPOP", "b"), model=SET)
    assert not is_fine(begin, done(2, 5, "SPOP", "a"), done(3, 6, "SPOP", "a"), model=SET)
    assert not is_fine(begin, done(2, 3, "SPOP", None), model=SET)
    assert is_fine(begin, done(2, 3, "SPOP 3", {"a", "b"}), model=SET)
    # Nobody knows which one, until somebody looks.
    silent = Operation("c", "SPOP", (), 2, result=UNKNOWN)
    for left in ({"a"}, {"b"}, {"a", "b"}):
        assert is_fine(begin, silent, done(3, 4, "SMEMBERS", left), model=SET)
    assert not is_fine(begin, silent, done(3, 4, "SMEMBERS", set()), model=SET)
    assert not is_fine(
        begin, silent, done(3, 4, "SMEMBERS", {"a"}), done(5, 6, "SMEMBERS", {"b"}), model=SET
    )


# --- the oracle --------------------------------------------------------------------------------

STRING_REQUESTS: list[tuple[tuple[Any, ...], list[Any]]] = [
    (("SET", "a"), [True]),
    (("SET", "b"), [True]),
    (("SET", "1", "NX"), [True, None]),
    (("SET", "c", "PX", 3000), [True]),
    (("GET",), [None, "a", "b", "1", "c", "2", "a1"]),
    (("DEL",), [0, 1]),
    (("GETDEL",), [None, "a", "c"]),
    (("INCR",), [1, 2]),
    (("APPEND", "1"), [1, 2, 3]),
]
SET_REQUESTS: list[tuple[tuple[Any, ...], list[Any]]] = [
    (("SADD", "a"), [0, 1]),
    (("SADD", "a", "b"), [0, 1, 2]),
    (("SREM", "a"), [0, 1]),
    (("SPOP",), [None, "a", "b"]),
    (("SMEMBERS",), [frozenset(), frozenset("a"), frozenset("b"), frozenset("ab")]),
    (("SCARD",), [0, 1, 2]),
]


@st.composite
def histories(
    draw: st.DrawFn, requests: list[tuple[tuple[Any, ...], list[Any]]]
) -> list[Operation]:
    """Up to six operations at any times, with replies that may be right."""
    found: list[Operation] = []
    for _ in range(draw(st.integers(1, 6))):
        (name, *arguments), results = draw(st.sampled_from(requests))
        begin_s = draw(st.integers(0, 8))
        end_s = begin_s + draw(st.integers(0, 4)) + 0.5
        kind = draw(st.sampled_from(["done"] * 6 + ["unknown", "loss"]))
        if kind == "done":
            result = draw(st.sampled_from(results))
            found.append(Operation("c", name, tuple(arguments), begin_s, end_s, result))
        elif kind == "unknown":
            found.append(Operation("c", name, tuple(arguments), begin_s))
        else:
            found.append(loss(begin_s, end_s))
    return found


@settings(max_examples=600, deadline=None)
@given(histories(STRING_REQUESTS))
def test_strings_are_judged_as_by_trying_every_order(history: list[Operation]) -> None:
    assert is_fine(*history) == brute_force.is_linearizable(STRING, history)


@settings(max_examples=600, deadline=None)
@given(histories(SET_REQUESTS))
def test_sets_are_judged_as_by_trying_every_order(history: list[Operation]) -> None:
    assert is_fine(*history, model=SET) == brute_force.is_linearizable(SET, history)


@settings(max_examples=200, deadline=None)
@given(histories(STRING_REQUESTS))
def test_all_states_are_those_that_a_last_read_may_see(history: list[Operation]) -> None:
    states = check(STRING, history, all_states=True).states
    assert bool(states) == is_fine(*history)
    for state in states:
        # A read at the end may see each; but what expires may be gone by then.
        if not isinstance(state, Text) or state.latest_s is None:
            value = state.value if isinstance(state, Text) else None
            assert is_fine(*history, Operation("c", "GET", (), 13, 14, value))


# --- size --------------------------------------------------------------------------------------


def recorded(dice: random.Random, count: int, unknowns: int) -> list[Operation]:
    """What eight clients see of a string: a right history, with some replies lost."""
    value: str | None = None
    found: list[Operation] = []
    for number in range(count):
        at_s = float(number)
        begin_s, end_s = at_s - 4 * dice.random(), at_s + 4 * dice.random()
        name = dice.choice(["SET", "GET", "DEL", "APPEND", "GET"])
        result: Any
        if name == "SET":
            value, result = f"{number};", True
        elif name == "APPEND":
            value = (value or "") + f"{number};"
            result = len(value)
        elif name == "DEL":
            result, value = int(value is not None), None
        else:
            result = value
        arguments = (f"{number};",) if name in {"SET", "APPEND"} else ()
        found.append(Operation("c", name, arguments, begin_s, end_s, result))
    for number in dice.sample(range(count), unknowns):
        operation = found[number]
        found[number] = Operation("c", operation.name, operation.arguments, operation.begin_s)
    return found


def test_thousands_of_operations_of_one_key_take_a_moment() -> None:
    history = recorded(random.Random(7), 5_000, 40)
    started_s = time.process_time()
    verdict = check(STRING, history)
    assert verdict.is_linearizable
    assert verdict.configurations < 100_000
    assert time.process_time() - started_s < 30


def test_one_wrong_reply_in_thousands_is_found() -> None:
    history = recorded(random.Random(8), 3_000, 20)
    number = next(
        n for n in range(2_000, 3_000) if history[n].name == "GET" and history[n].is_certain
    )
    wrong = Operation("c", "GET", (), history[number].begin_s, history[number].end_s, "wrong")
    history[number] = wrong
    verdict = check(STRING, history)
    assert not verdict.is_linearizable
    assert wrong in verdict.stuck_at


def test_a_search_that_would_not_end_is_given_up() -> None:
    many = [unknown(number, f"APPEND {number}") for number in range(14)]
    with pytest.raises(TooHardError):
        check(STRING, [*many, done(50, 51, "GET", "x")], configurations_max=1_000)
