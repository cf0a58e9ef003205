"""Clients that asked for it are told of slots that move."""

from __future__ import annotations

import pytest

from pocketkv.engine.migration import Numbers, slots_migrated, slots_migrating
from pocketkv.placement import SlotMove
from tests.engine.harness import NODE_ID, OTHER_ID, Engine
from tests.replies import Error, Pushed

MOVE = SlotMove("2-0", 0, 99, NODE_ID, OTHER_ID)
REFUSAL = Error("ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.")


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.node.clustered = True
    engine.own_only([(0, 8000)])
    return engine


def test_who_asked_is_told_and_nobody_else(engine: Engine) -> None:
    client = engine.connect(protocol=3)
    other = engine.connect(protocol=3)
    assert client("CLIENT", "MAINT_NOTIFICATIONS", "ON") == "OK"
    slots_migrating(engine.node, "default", MOVE, 1)
    assert client.pushed() == Pushed([b"SMIGRATING", 1, b"0-99"])
    one = SlotMove("2-7", 7, 7, NODE_ID, OTHER_ID)
    slots_migrated(engine.node, "default", one, 2)
    assert client.pushed() == Pushed(
        [b"SMIGRATED", 2, [[b"127.0.0.1:7000", b"127.0.0.1:7001", b"7"]]]
    )
    slots_migrated(engine.node, "another", one, 3)
    assert client("CLIENT", "MAINT_NOTIFICATIONS", "OFF") == "OK"
    slots_migrated(engine.node, "default", one, 4)
    assert client.transport.take() == other.transport.take() == b""


def test_options_are_those_that_clients_send(engine: Engine) -> None:
    client = engine.connect(protocol=3)
    on = ("CLIENT", "MAINT_NOTIFICATIONS", "ON")
    assert client(*on, "moving-endpoint-type", "internal-ip") == "OK"
    for bad in ((*on, "x"), (*on, "other", "x"), ("CLIENT", "MAINT_NOTIFICATIONS", "MAYBE")):
        assert client(*bad) == Error("ERR syntax error")
    client("RESET")
    assert not client.session.wants_migrations


def test_ok_is_only_said_where_anything_will_be_told(engine: Engine) -> None:
    assert engine.connect(protocol=2)("CLIENT", "MAINT_NOTIFICATIONS", "ON") == REFUSAL
    engine.node.clustered = False
    assert engine.connect(protocol=3)("CLIENT", "MAINT_NOTIFICATIONS", "ON") == REFUSAL


def test_numbers_grow_and_those_of_two_servers_differ() -> None:
    servers = [Numbers("a" * 40), Numbers("b" * 40)]
    times_ms = [1_796_000_000_000, 1_796_000_000_000, 1_795_999_999_000, 1_796_000_000_001]
    found = [[numbers.next(now_ms) for now_ms in times_ms] for numbers in servers]
    for row in found:
        assert row == sorted(set(row))
    assert not set(found[0]) & set(found[1])
    # JavaScript knows all of them, for a century.
    assert Numbers("a").next(4_000_000_000_000) < 2**53
