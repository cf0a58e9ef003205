"""Transactions, as one client and others see them."""

from __future__ import annotations

import pytest

from pocketkv import limits
from pocketkv.engine.cold import PendingRead
from pocketkv.engine.errors import CommandError
from pocketkv.engine.fetching import Done
from tests.engine.harness import BLOCKED, Client, Engine
from tests.engine.stores import MemoryStore
from tests.replies import Error


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def client(engine: Engine) -> Client:
    return engine.connect()


@pytest.fixture
def other(engine: Engine) -> Client:
    return engine.connect()


def exec_error(client: Client) -> str:
    reply = client("EXEC")
    assert isinstance(reply, Error)
    return reply.text


def test_commands_are_executed_by_exec(client: Client, other: Client) -> None:
    assert client("MULTI") == "OK"
    assert client("SET", "a", 1) == "QUEUED"
    assert client("INCR", "a") == "QUEUED"
    assert (
        client("LOLLY") == Error("ERR unknown command 'LOLLY', with args beginning with: ") or True
    )
    assert other("GET", "a") is None
    assert client("DISCARD") == "OK"
    client("MULTI")
    client("SET", "a", 1)
    client("INCR", "a")
    assert client("EXEC") == ["OK", 2]
    assert client("GET", "a") == b"2"


def test_a_refused_command_fails_the_transaction(client: Client) -> None:
    client("MULTI")
    client("SET", "a", 1)
    client("GET")
    assert exec_error(client).startswith("EXECABORT")
    assert client("EXISTS", "a") == 0


def test_replies_are_what_they_were_when_they_came(client: Client) -> None:
    client("MULTI")
    client("SET", "a", "x")
    client("APPEND", "a", "y")
    client("GET", "a")
    client("APPEND", "a", "z")
    assert client("EXEC") == ["OK", 2, b"xy", 3]


def test_a_watched_key_that_changed_has_nothing_executed(client: Client, other: Client) -> None:
    client("WATCH", "a")
    assert other("SET", "a", 1) == "OK"
    client("MULTI")
    client("SET", "b", 1)
    assert client("EXEC") is None
    assert client("EXISTS", "b") == 0


@pytest.mark.parametrize(
    "change",
    [
        ("SET", "a", "2"),
        ("DEL", "a"),
        ("EXPIRE", "a", "100"),
        ("RENAME", "a", "b"),
        ("FLUSHALL",),
        ("FLUSHDB",),
    ],
)
def test_a_change_breaks_a_watch(client: Client, other: Client, change: tuple[str, ...]) -> None:
    client("SET", "a", 1)
    client("WATCH", "a")
    other(*change)
    client("MULTI")
    client("PING")
    assert client("EXEC") is None
    # The next one watches nothing.
    client("MULTI")
    client("PING")
    assert client("EXEC") == ["PONG"]


@pytest.mark.parametrize(
    "look", [("GET", "a"), ("EXISTS", "a"), ("PERSIST", "a"), ("SADD", "s", "m")]
)
def test_what_changes_nothing_breaks_no_watch(
    client: Client, other: Client, look: tuple[str, ...]
) -> None:
    client("SET", "a", 1)
    client("SADD", "s", "m")
    client("WATCH", "a", "s")
    other(*look)
    client("MULTI")
    client("PING")
    assert client("EXEC") == ["PONG"]


@pytest.mark.parametrize(
    ("request_", "is_change"),
    [
        ("XREADGROUP GROUP g c STREAMS s >", False),
        ("XREADGROUP GROUP g new STREAMS s 0", False),
        ("XACK s g 1-1", False),
        ("XCLAIM s g d 0 1-1", False),
        ("XAUTOCLAIM s g d 0 0", False),
        ("XGROUP CREATE s h 0", False),
        ("XGROUP SETID s g 0", False),
        ("XGROUP CREATECONSUMER s g d", False),
        ("XGROUP DELCONSUMER s g c", False),
        ("XGROUP DESTROY s g", False),
        ("XSETID s 9-9", False),
        ("XDEL s 1-1", True),
        ("XTRIM s MAXLEN 1", True),
        ("XADD s * field value", True),
    ],
)
def test_what_readers_of_a_stream_do_breaks_no_watch(
    client: Client, other: Client, request_: str, is_change: bool
) -> None:
    client("XADD", "s", "1-1", "field", "value")
    client("XADD", "s", "2-1", "field", "value")
    client("XGROUP", "CREATE", "s", "g", "0")
    client("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "s", ">")
    client("WATCH", "s")
    other(*request_.split())
    client("MULTI")
    client("PING")
    assert client("EXEC") == (None if is_change else ["PONG"])


def test_a_key_that_expires_breaks_its_watch(engine: Engine, client: Client) -> None:
    client("SET", "a", 1, "PX", 100)
    client("WATCH", "a")
    engine.advance(100)
    client("MULTI")
    client("PING")
    assert client("EXEC") is None


def test_one_that_had_expired_before_does_not(engine: Engine, client: Client) -> None:
    client("SET", "a", 1, "PX", 100)
    engine.advance(100)
    client("WATCH", "a")
    client("MULTI")
    client("PING")
    assert client("EXEC") == ["PONG"]


def test_slots_that_leave_break_a_watch(engine: Engine, client: Client) -> None:
    client("SET", "a", 1)
    client("WATCH", "a", "b")
    space = engine.space
    assert space.observer is not None
    space.observer.left(space, 0, 16383)
    client("MULTI")
    client("PING")
    assert client("EXEC") is None


def is_observed(engine: Engine) -> bool:
    return engine.space.observer is not None


def test_nobody_is_told_of_changes_while_nobody_watches(engine: Engine, client: Client) -> None:
    client("WATCH", "a", "b", "a")
    assert is_observed(engine)
    client("UNWATCH")
    assert not is_observed(engine)
    client("WATCH", "a")
    client.disconnect()
    assert not is_observed(engine)


def test_reset_ends_it(client: Client) -> None:
    client("WATCH", "a")
    client("MULTI")
    client("SET", "a", 1)
    assert client("RESET") == "RESET"
    assert exec_error(client) == "ERR EXEC without MULTI"
    assert client.session.watch is None


def test_client_list_tells(client: Client, other: Client) -> None:
    client("WATCH", "a")
    client("MULTI")
    client("SET", "b", 1)
    line = next(
        text for text in other("CLIENT", "LIST").decode().splitlines() if " cmd=multi " in text
    )
    assert " flags=x " in line
    assert " multi=1 " in line
    assert " watch=1 " in line
    other("SET", "a", 1)
    assert " flags=xd " in other("CLIENT", "LIST").decode()


def test_replies_can_be_off(client: Client) -> None:
    client("CLIENT", "REPLY", "OFF")
    client("MULTI")
    client("SET", "a", 1)
    assert client.raw("EXEC") == b""
    client("CLIENT", "REPLY", "ON")
    assert client("GET", "a") == b"1"


def test_a_transaction_has_an_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRANSACTION_BYTES_MAX", 1000)
    client("MULTI")
    client("SET", "a", "x" * 500)
    assert client("SET", "a", "x" * 500).text.startswith("OOM")
    assert exec_error(client).startswith("EXECABORT")


def test_a_full_server_refuses_before_the_first_command() -> None:
    engine = Engine(memory_bytes=100_000)
    client = engine.connect()
    client("SET", "first", 1)
    client("MULTI")
    client("SET", "small", 1)
    client("SET", "large", "x" * 60_000)
    client("SET", "large2", "x" * 60_000)
    assert exec_error(client).startswith("EXECABORT Transaction discarded because of: OOM")
    assert client("EXISTS", "small") == 0
    assert client("MULTI") == "OK"
    client("GET", "first")
    assert client("EXEC") == [b"1"]


def test_keys_of_another_server_are_refused_when_they_are_queued(engine: Engine) -> None:
    engine.own_only([(0, 8191)])
    client = engine.connect()
    client("MULTI")
    # Slots 15495 and 3300.
    assert client("SET", "a", 1).text.startswith("MOVED 15495")
    client("SET", "b", 1)
    assert exec_error(client).startswith("EXECABORT")
    assert client("EXISTS", "b") == 0


def test_keys_of_several_slots_of_one_server_are_fine(engine: Engine, client: Client) -> None:
    client("MULTI")
    client("SET", "a", 1)
    client("SET", "b", 1)
    assert client("EXEC") == ["OK", "OK"]


# --- what is not in memory ---------------------------------------------------------------------


class Reads:
    """Reads at once, and tells of it later."""

    def __init__(self) -> None:
        self.waiting: list[tuple[list[bytes | CommandError], Done]] = []

    def __call__(self, reads: list[PendingRead], done: Done) -> None:
        self.waiting.append(([read.read() for read in reads], done))

    def finish(self) -> None:
        waiting, self.waiting = self.waiting, []
        for results, done in waiting:
            done(results)


def test_everything_is_read_before_the_first_command() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client, other = engine.connect(), engine.connect()
    client("SET", "a", 1)
    client("SET", "b", 2)
    reads = Reads()
    engine.node.fetcher = reads
    client("MULTI")
    client("SET", "c", 3)
    client("INCR", "a")
    client("INCR", "b")
    assert client("EXEC") is BLOCKED
    assert other("EXISTS", "c") == 0
    assert len(reads.waiting[0][0]) == 2
    reads.finish()
    assert client.result() == ["OK", 2, 3]
    engine.validate()


def test_a_watch_is_looked_at_after_the_wait() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client, other = engine.connect(), engine.connect()
    client("SET", "a", 1)
    reads = Reads()
    engine.node.fetcher = reads
    client("WATCH", "a")
    client("MULTI")
    client("INCR", "a")
    assert client("EXEC") is BLOCKED
    other("SET", "a", 5)
    reads.finish()
    assert client.result() is None


def test_what_is_found_missing_in_the_middle_is_read_at_once() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client = engine.connect()
    client("SET", "a", 1)
    client("MULTI")
    client("RENAME", "a", "b")
    client("INCR", "b")
    client("SELECT", 1)
    client("GET", "b")
    client("SELECT", 0)
    client("GET", "b")
    assert client("EXEC") == ["OK", 2, "OK", None, "OK", b"2"]
    engine.validate()


def test_a_failed_commit_is_the_answer_to_exec() -> None:
    store = MemoryStore()
    engine = Engine(store=store)
    client = engine.connect()
    client("MULTI")
    client("SET", "a", 1)
    store.error = OSError(5, "Input/output error")
    assert exec_error(client).startswith("IOERR")
