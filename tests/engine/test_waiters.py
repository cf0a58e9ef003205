"""Clients that wait for keys, with a command of the test's own that takes a string away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pocketkv.engine.commands import ALL_KEYS, COMMANDS, command
from pocketkv.engine.session import Session
from pocketkv.engine.waiters import wait_for_keys
from pocketkv.resp.replies import PENDING, Marker, Reply
from tests.engine.harness import BLOCKED, Client, Engine


@pytest.fixture(autouse=True)
def await_command() -> Iterator[None]:
    """AWAIT key ...: the first of these strings, which is removed; waits up to a second."""

    @command(
        "AWAIT",
        arity=-2,
        flags="write blocking",
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Takes a string.",
        usage="key [key ...]",
        keys=ALL_KEYS,
        key_flags="RW access delete",
    )
    def handler(session: Session, request: list[bytes]) -> Reply:
        def attempt(key: bytes) -> Reply | Marker:
            value = session.db.lookup_string(key)
            if value is None:
                return PENDING
            session.db.remove(key)
            return [key, bytes(value)]

        for key in request[1:]:
            reply = attempt(key)
            if reply is not PENDING:
                return reply
        return wait_for_keys(
            session, request, request[1:], attempt, timeout_ms=1000, timeout_reply=None
        )

    yield
    for name in (b"AWAIT", b"await"):
        del COMMANDS[name]


def test_one_who_waits_gets_what_comes(engine: Engine) -> None:
    waiter, other = engine.connect(), engine.connect()
    assert waiter("AWAIT", "a", "b") is BLOCKED
    assert other("SET", "c", "1") == "OK"
    assert waiter.result() is BLOCKED
    assert other("SET", "b", "2") == "OK"
    assert waiter.result() == [b"b", b"2"]
    assert other("EXISTS", "b") == 0
    assert engine.space.observer is None


def test_who_came_first_is_served_first(engine: Engine) -> None:
    first, second, other = engine.connect(), engine.connect(), engine.connect()
    assert first("AWAIT", "a") is BLOCKED
    assert second("AWAIT", "b", "a") is BLOCKED
    other("SET", "a", "1")
    assert first.result() == [b"a", b"1"]
    assert second.result() is BLOCKED
    other("SET", "a", "2")
    assert second.result() == [b"a", b"2"]


def test_a_wait_ends_in_time(engine: Engine) -> None:
    waiter, other = engine.connect(), engine.connect()
    assert waiter("AWAIT", "a") is BLOCKED
    engine.advance(1000)
    assert waiter.result() is None
    other("SET", "a", "1")
    assert other("GET", "a") == b"1"


def test_one_who_is_gone_takes_nothing(engine: Engine) -> None:
    waiter, other = engine.connect(), engine.connect()
    assert waiter("AWAIT", "a") is BLOCKED
    waiter.disconnect()
    other("SET", "a", "1")
    assert other("GET", "a") == b"1"


def test_other_databases_do_not_count(engine: Engine) -> None:
    waiter, other = engine.connect(), engine.connect()
    assert waiter("AWAIT", "a") is BLOCKED
    other("SELECT", "1")
    other("SET", "a", "1")
    assert waiter.result() is BLOCKED


def test_an_error_is_an_answer(engine: Engine) -> None:
    waiter, other = engine.connect(), engine.connect()
    assert waiter("AWAIT", "a") is BLOCKED
    other("SADD", "a", "1")
    assert waiter.result().text.startswith("WRONGTYPE")


def test_nobody_waits_where_that_is_denied(client: Client) -> None:
    client.session.denies_blocking = True
    assert client("AWAIT", "a") is None
