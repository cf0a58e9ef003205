"""GETs that wait for a string: what they answer once it is read, whatever happened meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkv.engine.errors import CommandError
from tests.engine.harness import Engine
from tests.engine.stores import MemoryStore


class Held:
    """An engine whose cold reads are answered when a test says so."""

    def __init__(self) -> None:
        self.engine = Engine(store=MemoryStore(is_slow=True))
        self.waiting: list[Any] = []
        self.engine.node.fetcher = lambda reads, done: self.waiting.append((reads, done))
        self.client, self.other = self.engine.connect(), self.engine.connect()
        self.other("SET", "key", "value")
        # One that had to be read comes first: from then on it is looked for where it would be.
        self.client("GET", "key")
        self.answer()
        assert self.client.result() == b"value"

    def ask(self) -> None:
        """Begin a GET that has to wait."""
        self.client("GET", "key")
        assert len(self.waiting) == 1

    def answer(self, result: bytes | CommandError | None = None) -> None:
        """Have what is waited for read."""
        [(reads, done)] = self.waiting
        self.waiting.clear()
        done([read.read() for read in reads] if result is None else [result])

    def counts(self) -> tuple[int, int, int]:
        """Calls of GET, hits and misses so far."""
        stats = self.engine.space.stats
        return self.engine.node.command_stats["get"].calls, stats.hits, stats.misses


def test_a_get_that_waited_counts_once() -> None:
    held = Held()
    calls, hits, misses = held.counts()
    held.ask()
    held.answer()
    assert held.client.result() == b"value"
    assert held.counts() == (calls + 1, hits + 1, misses)
    assert held.client.db.shelf is not None
    assert not held.client.db.shelf.fetched


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("SET", "key", "new"), b"new"),
        (("APPEND", "key", "+"), b"value+"),
        (("DEL", "key"), None),
        (("FLUSHALL",), None),
        (("PEXPIRE", "key", "10"), None),
        (("EXPIRE", "key", "1000"), b"value"),
        (("SET", "other", "x"), b"value"),
    ],
)
def test_a_get_sees_what_was_changed_while_it_waited(
    change: tuple[str, ...], expected: bytes | None
) -> None:
    held = Held()
    held.ask()
    old = held.waiting.pop()
    held.other(*change)
    if held.waiting:
        # The change had to read it as well.
        held.answer()
    held.waiting.append(old)
    held.engine.advance(20)
    held.answer(b"value")
    if held.waiting:
        # It is another record now.
        held.answer()
    assert held.client.result() == expected


def test_a_get_of_what_became_a_set_while_it_waited() -> None:
    held = Held()
    held.ask()
    held.other("DEL", "key")
    held.other("SADD", "key", "member")
    held.answer(b"value")
    assert held.client.result().text.startswith("WRONGTYPE")


def test_a_get_whose_value_cannot_be_read() -> None:
    held = Held()
    held.ask()
    held.answer(CommandError(b"IOERR damaged"))
    assert held.client.result().text == "IOERR damaged"


def test_a_client_that_is_minded_is_minded_after_it_has_waited() -> None:
    held = Held()
    held.client("CLIENT", "NO-TOUCH", "ON")
    held.engine.advance(50_000)
    held.ask()
    held.answer()
    assert held.client.result() == b"value"
    assert held.client.db.idle_s(b"key") >= 50
