"""Clients that wait for elements of lists: who gets which, and when none."""

from __future__ import annotations

import errno
from typing import cast

import pytest

from pocketkv.engine.database import Database
from pocketkv.engine.eviction import evict_some
from pocketkv.engine.keyspace import DEFAULT_JOB
from pocketkv.engine.long_runs import LongRun
from pocketkv.engine.notifications import GENERIC, LIST
from pocketkv.engine.replay import Replay
from tests.engine.harness import BLOCKED, Client, Engine
from tests.engine.stores import MemoryStore
from tests.replies import Error


def connect(engine: Engine, count: int) -> list[Client]:
    return [engine.connect() for _ in range(count)]


# --- who gets what -----------------------------------------------------------------------------


def test_the_one_who_waits_longest_is_served_first(engine: Engine) -> None:
    first, second, third, other = connect(engine, 4)
    assert first("BLPOP", "b", "a", 0) is BLOCKED
    assert second("BRPOP", "a", 0) is BLOCKED
    assert third("BLMPOP", 0, 2, "c", "a", "LEFT", "COUNT", 5) is BLOCKED
    assert other("RPUSH", "a", 1, 2, 3, 4) == 4
    assert first.result() == [b"a", b"1"]
    assert second.result() == [b"a", b"4"]
    assert third.result() == [b"a", [b"2", b"3"]]
    assert other("EXISTS", "a") == 0
    assert engine.space.observer is None


def test_those_that_get_nothing_go_on_waiting_in_their_order(engine: Engine) -> None:
    *waiting, other = connect(engine, 6)
    for client in waiting:
        assert client("BLPOP", "a", 0) is BLOCKED
    other("RPUSH", "a", 0, 1)
    assert [client.result() for client in waiting[:2]] == [[b"a", b"0"], [b"a", b"1"]]
    assert all(client.result() is BLOCKED for client in waiting[2:])
    assert waiting[0]("BLPOP", "a", 0) is BLOCKED
    other("RPUSH", "a", 2, 3, 4, 5)
    assert [client.result()[1] for client in [*waiting[2:], waiting[0]]] == [b"2", b"3", b"4", b"5"]


def test_keys_are_tried_in_the_command_s_order_at_first(engine: Engine) -> None:
    client, other = connect(engine, 2)
    other("RPUSH", "b", 1)
    other("RPUSH", "c", 2)
    assert client("BLPOP", "a", "c", "b", 0) == [b"c", b"2"]
    assert client("BLPOP", "a", "c", "b", 0) == [b"b", b"1"]


def test_the_key_that_came_to_be_first_is_served_first(engine: Engine) -> None:
    client, other = connect(engine, 2)
    other("SADD", "a", "x")
    assert client("BLPOP", "c", "b", 0) is BLOCKED
    # As one transaction would.
    other.session.denies_blocking = True
    other("SADD", "c", "x")
    other("RPUSH", "b", 1)
    other("DEL", "c")
    other("RPUSH", "c", 2)
    other.session.denies_blocking = False
    other("PING")
    assert client.result() == [b"b", b"1"]


def test_what_a_transaction_takes_back_nobody_gets(engine: Engine) -> None:
    client, other = connect(engine, 2)
    assert client("BLPOP", "a", 0) is BLOCKED
    other.session.denies_blocking = True
    other("RPUSH", "a", 1)
    assert client.result() is BLOCKED
    other("LPOP", "a")
    other.session.denies_blocking = False
    other("PING")
    assert client.result() is BLOCKED
    other("RPUSH", "a", 2)
    assert client.result() == [b"a", b"2"]


def test_between_two_slices_of_a_script_nobody_is_served(engine: Engine) -> None:
    client, script = connect(engine, 2)
    other = engine.connect(job_id="other")
    assert client("BLPOP", "a", 0) is BLOCKED
    script.session.denies_blocking = True
    script("RPUSH", "a", "x")
    # It has been left, and is to go on.
    engine.node.long_runs["default"] = cast("LongRun", None)
    other("SET", "a", 1)
    engine.node.settle_waiters()
    assert client.result() is BLOCKED
    del engine.node.long_runs["default"]
    engine.node.settle_waiters()
    assert client.result() == [b"a", b"x"]


def test_a_chain_of_moves_is_served_in_one_step(engine: Engine) -> None:
    first, second, third, other = connect(engine, 4)
    assert first("BLMOVE", "a", "b", "LEFT", "RIGHT", 0) is BLOCKED
    assert second("BRPOPLPUSH", "b", "c", 0) is BLOCKED
    assert third("BLPOP", "c", 0) is BLOCKED
    other("RPUSH", "a", "x")
    assert first.result() == b"x"
    assert second.result() == b"x"
    assert third.result() == [b"c", b"x"]
    assert other("DBSIZE") == 0


def test_two_who_move_to_each_other_do_so_once(engine: Engine) -> None:
    first, second, other = connect(engine, 3)
    assert first("BLMOVE", "a", "b", "LEFT", "LEFT", 0) is BLOCKED
    assert second("BLMOVE", "b", "a", "LEFT", "LEFT", 0) is BLOCKED
    other("RPUSH", "a", "x")
    assert (first.result(), second.result()) == (b"x", b"x")
    assert other("LRANGE", "a", 0, -1) == [b"x"]


def test_a_move_to_the_same_list(engine: Engine) -> None:
    client, other = connect(engine, 2)
    assert client("BLMOVE", "a", "a", "LEFT", "RIGHT", 0) is BLOCKED
    other("RPUSH", "a", 1, 2, 3)
    assert client.result() == b"1"
    assert other("LRANGE", "a", 0, -1) == [b"2", b"3", b"1"]


def test_a_destination_of_another_type_takes_nothing(engine: Engine) -> None:
    first, second, other = connect(engine, 3)
    assert first("BLMOVE", "a", "b", "LEFT", "LEFT", 0) is BLOCKED
    assert second("BLPOP", "a", 0) is BLOCKED
    other("SET", "b", "string")
    other("RPUSH", "a", "x")
    assert first.result().text.startswith("WRONGTYPE")
    assert second.result() == [b"a", b"x"]


def test_a_key_of_another_type_leaves_them_waiting(engine: Engine) -> None:
    client, other = connect(engine, 2)
    assert client("BLPOP", "a", 0) is BLOCKED
    other("SET", "a", "string")
    other("DEL", "a")
    other("SADD", "a", "member")
    assert client.result() is BLOCKED
    other("DEL", "a")
    other("RPUSH", "new", "x")
    other("RENAME", "new", "a")
    assert client.result() == [b"a", b"x"]


@pytest.mark.parametrize("made_by", ["RPUSHX", "LINSERT", "COPY", "LMOVE"])
def test_whatever_makes_an_element_is_seen(engine: Engine, made_by: str) -> None:
    client, other = connect(engine, 2)
    other("RPUSH", "src", "x")
    assert client("BLPOP", "a", 0) is BLOCKED
    if made_by == "COPY":
        other("COPY", "src", "a")
        assert client.result() == [b"a", b"x"]
    elif made_by == "LMOVE":
        other("LMOVE", "src", "a", "LEFT", "LEFT")
        assert client.result() == [b"a", b"x"]
    else:
        arguments = ["BEFORE", "x"] if made_by == "LINSERT" else []
        assert other(made_by, "a", *arguments, "y") == 0
        assert client.result() is BLOCKED


# --- the ends of a wait ------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "request_",
    [
        "BLPOP a 1.5",
        "BRPOP a 1.5",
        "BLMOVE a b LEFT LEFT 1.5",
        "BRPOPLPUSH a b 1.5",
        "BLMPOP 1.5 1 a LEFT",
    ],
)
def test_a_wait_ends_in_time(engine: Engine, request_: str, protocol: int) -> None:
    client = engine.connect(protocol=protocol)
    assert client(*request_.split()) is BLOCKED
    engine.advance(1499)
    assert client.result() is BLOCKED
    engine.advance(1)
    assert client.deferred is not None
    assert client.transport.take() == (b"*-1\r\n" if protocol == 2 else b"_\r\n")
    assert client("RPUSH", "a", "x") == 1
    assert client("LLEN", "a") == 1
    assert engine.node.blocked_clients == 0


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        ("BLPOP a 0", b"*-1\r\n"),
        ("BRPOP a 0", b"*-1\r\n"),
        ("BLMPOP 0 1 a LEFT", b"*-1\r\n"),
        ("BLMOVE a b LEFT LEFT 0", b"$-1\r\n"),
        ("BRPOPLPUSH a b 0", b"$-1\r\n"),
    ],
)
def test_nobody_waits_in_a_transaction(client: Client, request_: str, reply: bytes) -> None:
    client.session.denies_blocking = True
    assert client.raw(*request_.split()) == reply


def test_a_client_can_be_unblocked(engine: Engine) -> None:
    first, second, other = connect(engine, 3)
    assert first("BLPOP", "a", 0) is BLOCKED
    assert second("BLMOVE", "a", "b", "LEFT", "LEFT", 0) is BLOCKED
    assert other("CLIENT", "UNBLOCK", first.session.id) == 1
    assert first.transport.take() == b"*-1\r\n"
    assert other("CLIENT", "UNBLOCK", second.session.id, "ERROR") == 1
    assert second.result().text.startswith("UNBLOCKED")
    other("RPUSH", "a", "x")
    assert other("LRANGE", "a", 0, -1) == [b"x"]


def test_one_who_has_gone_takes_nothing(engine: Engine) -> None:
    first, second, third, other = connect(engine, 4)
    for client in (first, second, third):
        assert client("BLPOP", "a", 0) is BLOCKED
    first.disconnect()
    # Nobody has noticed so far.
    second.transport.closed = True
    other("RPUSH", "a", "x")
    assert third.result() == [b"a", b"x"]
    assert engine.node.blocked_clients == 0


def test_whose_slot_has_gone_is_sent_on(engine: Engine) -> None:
    client, other = connect(engine, 2)
    # Slots 15495 and 3300.
    assert client("BLPOP", "a", 0) is BLOCKED
    assert other("BLPOP", "b", 0) is BLOCKED
    engine.own_only([(0, 10_000)])
    engine.space.observer.left(engine.space, 10_001, 16_383)  # type: ignore[union-attr]
    engine.node.settle_waiters()
    assert client.result().text == "MOVED 15495 127.0.0.1:7001"
    assert other.result() is BLOCKED


# --- events ------------------------------------------------------------------------------------


class Heard:
    """Notes events."""

    def __init__(self) -> None:
        self.events: list[tuple[bytes, bytes]] = []

    def notify(self, database: Database, kind: int, event: bytes, key: bytes) -> None:
        self.events.append((event, key))


def test_events_come_in_redis_s_order(engine: Engine) -> None:
    client, other = connect(engine, 2)
    heard = engine.space.notifier = Heard()
    engine.space.notify_flags = LIST | GENERIC
    assert client("BLPOP", "a", 0) is BLOCKED
    other("RPUSH", "a", "x")
    assert heard.events == [(b"rpush", b"a"), (b"lpop", b"a"), (b"del", b"a")]
    heard.events.clear()
    assert client("BLMOVE", "a", "b", "RIGHT", "LEFT", 0) is BLOCKED
    other("LPUSH", "a", "x")
    assert heard.events == [(b"lpush", b"a"), (b"lpush", b"b"), (b"rpop", b"a"), (b"del", b"a")]


# --- on a durable store ------------------------------------------------------------------------


def stored(store: MemoryStore) -> Engine:
    return Engine(store=store)


def test_who_waits_is_answered_when_what_it_took_is_written() -> None:
    store = MemoryStore()
    engine = stored(store)
    client, other = connect(engine, 2)
    assert client("BLMOVE", "a", "b", "LEFT", "LEFT", 0) is BLOCKED
    store.error = OSError(errno.EIO, "broken")
    pushed = other("RPUSH", "a", "x")
    assert isinstance(pushed, Error)
    assert pushed.text.startswith("IOERR")
    # An error, and not an element that may be lost.
    assert client.result().text.startswith("IOERR")
    store.error = None
    assert other("RPUSH", "c", "y") == 1
    assert other("LRANGE", "b", 0, -1) == [b"x"]
    engine.validate()


def test_an_element_is_taken_once_from_a_store() -> None:
    store = MemoryStore(is_slow=True)
    engine = stored(store)
    first, second, other = connect(engine, 3)
    other("RPUSH", "b", *range(500))
    while evict_some(engine.keyspace, 1 << 30, 1 << 30):
        pass
    assert first("BLMOVE", "a", "b", "LEFT", "LEFT", 0) is BLOCKED
    assert second("BLPOP", "a", 0) is BLOCKED
    # The destination has to be read first.
    other("RPUSH", "a", "x", "y")
    assert first.result() == b"x"
    assert second.result() == [b"a", b"y"]
    assert other("LINDEX", "b", 0) == b"x"
    engine.validate()
    new_store = MemoryStore()
    again = stored(new_store)
    Replay(again.space).run(new_store.replay(DEFAULT_JOB, store.journal(DEFAULT_JOB)))
    reader = again.connect()
    assert reader("LLEN", "b") == 501
    assert reader("EXISTS", "a") == 0
