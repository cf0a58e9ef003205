"""A contradiction is small, is one by itself, and names what was seen."""

from __future__ import annotations

import random

from tests.histories.linearizable import check
from tests.histories.models import StringModel, Text
from tests.histories.operations import Operation, loss
from tests.histories.shrinking import contradiction

STRING = StringModel()


def sequence(count: int, dice: random.Random) -> list[Operation]:
    """Writes and reads of two clients, one after the other."""
    found: list[Operation] = []
    for number in range(count):
        value = f"v{number}"
        at_s = float(10 * number)
        found.append(Operation("a", "SET", (value,), at_s, at_s + 5, True))
        for _ in range(dice.randrange(3)):
            begin_s = at_s + 6 + dice.random()
            found.append(Operation("b", "GET", (), begin_s, begin_s + 2, value))
    return found


def test_a_stale_read_in_a_long_history() -> None:
    history = sequence(300, random.Random(1))
    stale = Operation("b", "GET", (), 2008.7, 2008.8, "v150")
    later = sequence(400, random.Random(2))[-300:]
    found = contradiction(STRING, [*history, loss(700, 710), stale, *later])
    assert stale in found.operations
    assert len(found.operations) <= 3
    assert found.states in {(Text("v199"),), (Text("v200"),)}
    assert not check(STRING, found.operations, start=found.states).is_linearizable


def test_what_explains_a_reply_is_not_left_out() -> None:
    history = [
        Operation("a", "SET", ("x",), 0, 1, True),
        Operation("b", "SET", ("y",), 2),
        Operation("a", "GET", (), 3, 4, "x"),
        Operation("a", "GET", (), 5, 6, "y"),
        Operation("a", "GET", (), 7, 8, "x"),
    ]
    found = contradiction(STRING, history)
    assert history[-1] in found.operations
    assert not check(STRING, found.operations, start=found.states).is_linearizable
    # With that reply alone after what was under way, it would be explained.
    assert check(STRING, history[:-1]).is_linearizable
