"""Stream commands: what needs a clock, memory, a medium, or other clients."""

from __future__ import annotations

import pytest

from pocketkv.engine import notifications
from pocketkv.engine.cold import Cold
from pocketkv.engine.database import Database
from pocketkv.engine.eviction import evict_some
from pocketkv.engine.stream_ids import format_id, parse_id
from pocketkv.engine.stream_value import StreamValue
from tests.engine.harness import BLOCKED, START_MS, Client, Engine
from tests.engine.stores import MemoryStore, write_some
from tests.replies import Error

UINT64_MAX = 2**64 - 1


def entry(entry_id: str, *texts: str) -> list[object]:
    return [entry_id.encode(), [text.encode() for text in texts]]


def error_of(reply: object) -> str:
    assert isinstance(reply, Error), reply
    return reply.text


# --- ids ---------------------------------------------------------------------------------------


def test_ids_are_made_of_the_clock(engine: Engine, client: Client) -> None:
    assert client("XADD", "k", "*", "f", "v") == b"%d-0" % START_MS
    assert client("XADD", "k", "*", "f", "v") == b"%d-1" % START_MS
    engine.advance(5)
    assert client("XADD", "k", "*", "f", "v") == b"%d-0" % (START_MS + 5)
    assert client("XADD", "k", f"{START_MS + 9}-7", "f", "v") == b"%d-7" % (START_MS + 9)
    # Never smaller than before, though the clock is behind.
    assert client("XADD", "k", "*", "f", "v") == b"%d-8" % (START_MS + 9)
    assert client("XLEN", "k") == 5


def test_a_sequence_that_is_used_up_goes_on_with_the_next_millisecond(client: Client) -> None:
    far_ms = START_MS * 2
    client("XADD", "k", f"{far_ms}-{UINT64_MAX}", "f", "v")
    assert client("XADD", "k", "*", "f", "v") == b"%d-0" % (far_ms + 1)
    client("XADD", "k", f"{UINT64_MAX}-{UINT64_MAX}", "f", "v")
    assert "exhausted" in error_of(client("XADD", "k", "*", "f", "v"))


@pytest.mark.parametrize("text", ["0-0", "1-1", "5-18446744073709551615", f"{UINT64_MAX}-0"])
def test_an_id_is_written_as_it_was_read(text: str) -> None:
    assert format_id(parse_id(text.encode())) == text.encode()


# --- trimming ----------------------------------------------------------------------------------


def test_a_stream_keeps_its_length(client: Client) -> None:
    for number in range(1, 500):
        client("XADD", "k", "MAXLEN", 10, f"{number}-0", "f", "v")
    assert client("XLEN", "k") == 10
    assert client("XRANGE", "k", "-", "+", "COUNT", 1) == [entry("490-0", "f", "v")]


def test_approximate_trimming_leaves_whole_nodes(client: Client) -> None:
    for number in range(1, 1001):
        client("XADD", "k", f"{number}-0", "f", "v")
    assert client("XTRIM", "k", "MAXLEN", "~", 950) == 0
    assert client("XTRIM", "k", "MAXLEN", "~", 850) == 100
    assert client("XTRIM", "k", "MAXLEN", "~", 0, "LIMIT", 250) == 200
    assert client("XTRIM", "k", "MINID", "~", "650-0") == 300
    assert client("XTRIM", "k", "MINID", "650-0") == 49
    assert client("XLEN", "k") == 351


def test_an_empty_stream_stays(client: Client) -> None:
    client("XADD", "k", "1-1", "f", "v")
    client("XDEL", "k", "1-1")
    assert client("EXISTS", "k") == 1
    assert client("XLEN", "k") == 0
    assert "equal or smaller" in error_of(client("XADD", "k", "1-1", "f", "v"))


# --- groups ------------------------------------------------------------------------------------


def test_idle_times_pass(engine: Engine, client: Client) -> None:
    client("XADD", "k", "1-1", "f", "v")
    client("XGROUP", "CREATE", "k", "g", 0)
    client("XREADGROUP", "GROUP", "g", "alice", "STREAMS", "k", ">")
    engine.advance(500)
    assert client("XPENDING", "k", "g", "-", "+", 10) == [[b"1-1", b"alice", 500, 1]]
    assert client("XPENDING", "k", "g", "IDLE", 501, "-", "+", 10) == []
    assert client("XCLAIM", "k", "g", "bob", 501, "1-1") == []
    assert client("XAUTOCLAIM", "k", "g", "bob", 501, 0) == [b"0-0", [], []]
    # Who got nothing is not there.
    assert len(client("XINFO", "CONSUMERS", "k", "g")) == 1
    assert client("XCLAIM", "k", "g", "bob", 500, "1-1") == [entry("1-1", "f", "v")]
    assert client("XPENDING", "k", "g", "-", "+", 10) == [[b"1-1", b"bob", 0, 2]]
    engine.advance(100)
    assert client("XCLAIM", "k", "g", "bob", 0, "1-1", "IDLE", 40, "RETRYCOUNT", 9) != []
    assert client("XPENDING", "k", "g", "-", "+", 10) == [[b"1-1", b"bob", 40, 9]]
    assert [b"alice", 600] in [
        [consumer[1], consumer[5]] for consumer in client("XINFO", "CONSUMERS", "k", "g")
    ]


def test_what_was_removed_is_told_of_once(client: Client) -> None:
    for number in (1, 2, 3):
        client("XADD", "k", f"{number}-0", "f", "v")
    client("XGROUP", "CREATE", "k", "g", 0)
    client("XREADGROUP", "GROUP", "g", "a", "STREAMS", "k", ">")
    client("XDEL", "k", "2-0")
    history = client("XREADGROUP", "GROUP", "g", "a", "STREAMS", "k", 0)
    assert history[0][1][1] == [b"2-0", None]
    claimed = client("XAUTOCLAIM", "k", "g", "b", 0, "-", "COUNT", 2, "JUSTID")
    assert claimed == [b"3-0", [b"1-0"], [b"2-0"]]
    assert client("XAUTOCLAIM", "k", "g", "b", 0, "3-0", "JUSTID") == [b"0-0", [b"3-0"], []]


def test_a_map_may_have_a_stream_twice(client3: Client) -> None:
    client3("XADD", "k", "1-1", "f", "v")
    raw = client3.raw("XREAD", "STREAMS", "k", "k", 0, 0)
    assert raw.startswith(b"%2\r\n$1\r\nk\r\n")
    assert raw.count(b"$1\r\nk\r\n") == 2
    assert client3("XREAD", "STREAMS", "k", 0) == {b"k": [entry("1-1", "f", "v")]}


def test_a_delivery_that_finds_no_memory_is_refused_before_any_is_made(
    engine: Engine, client: Client
) -> None:
    for number in range(1, 200):
        client("XADD", "k", f"{number}-0", "f", "v")
    client("XGROUP", "CREATE", "k", "g", 0)
    engine.space.quota_bytes = engine.space.used_bytes + 5000
    refused = client("XREADGROUP", "GROUP", "g", "a", "STREAMS", "k", ">")
    assert error_of(refused).startswith("OOM")
    assert client("XPENDING", "k", "g") == [0, None, None, None]
    few = client("XREADGROUP", "GROUP", "g", "a", "COUNT", 10, "STREAMS", "k", ">")
    assert len(few[0][1]) == 10
    rest = client("XREADGROUP", "GROUP", "g", "a", "NOACK", "STREAMS", "k", ">")
    assert len(rest[0][1]) == 189


def test_what_a_stream_costs_is_given_back(engine: Engine, client: Client) -> None:
    for number in range(1, 300):
        client("XADD", "k", f"{number}-0", "f", "v" * number)
    client("XGROUP", "CREATE", "k", "g", 0)
    client("XREADGROUP", "GROUP", "g", "a", "STREAMS", "k", ">")
    client("XACK", "k", "g", "1-0", "2-0")
    client("XDEL", "k", "7-0", "8-0")
    client("COPY", "k", "other")
    client("XGROUP", "DELCONSUMER", "k", "g", "a")
    client("XTRIM", "k", "MAXLEN", 0)
    engine.validate()
    client("DEL", "k", "other")
    assert engine.space.used_bytes == 0


def test_events_are_told_in_order(engine: Engine, client: Client) -> None:
    told: list[tuple[bytes, bytes]] = []

    class Listener:
        def notify(self, database: Database, kind: int, event: bytes, key: bytes) -> None:
            assert kind == notifications.STREAM
            told.append((event, key))

    engine.space.notifier = Listener()
    engine.space.notify_flags = notifications.STREAM
    for line in (
        "XADD k 1-1 f v",
        "XADD k MAXLEN 1 1-2 f v",
        "XGROUP CREATE k g 0",
        "XREADGROUP GROUP g a STREAMS k >",
        "XGROUP CREATECONSUMER k g b",
        "XCLAIM k g c 0 1-2",
        "XACK k g 1-2",
        "XGROUP DELCONSUMER k g b",
        "XGROUP SETID k g 0",
        "XGROUP DESTROY k g",
        "XSETID k 5-0",
        "XTRIM k MAXLEN 5",
        "XDEL k 9-9",
        "XDEL k 1-2",
    ):
        client(*line.split())
    assert b" ".join(event for event, _ in told).decode().split() == [
        *("xadd", "xadd", "xtrim", "xgroup-create", "xgroup-createconsumer"),
        *("xgroup-createconsumer", "xgroup-createconsumer", "xgroup-delconsumer"),
        *("xgroup-setid", "xgroup-destroy", "xsetid", "xdel"),
    ]
    assert {key for _, key in told} == {b"k"}


# --- waiting -----------------------------------------------------------------------------------


def test_an_entry_is_read_by_all_who_wait(engine: Engine) -> None:
    readers = [engine.connect(protocol=protocol) for protocol in (2, 3, 2)]
    other = engine.connect()
    other("XADD", "k", "1-1", "f", "old")
    for reader in readers:
        assert reader("XREAD", "BLOCK", 0, "STREAMS", "other", "k", "$", "$") is BLOCKED
    other("XADD", "k", "2-2", "f", "new")
    new = [entry("2-2", "f", "new")]
    assert [reader.result() for reader in readers] == [[[b"k", new]], {b"k": new}, [[b"k", new]]]
    assert engine.space.observer is None


def test_a_wait_begins_where_the_stream_ended(engine: Engine) -> None:
    reader, other = engine.connect(), engine.connect()
    assert reader("XREAD", "BLOCK", 0, "STREAMS", "k", "$") is BLOCKED
    other("SET", "k", "no stream")
    other("DEL", "k")
    assert reader.result() is BLOCKED
    other("XADD", "k", "0-1", "f", "v")
    assert reader.result() == [[b"k", [entry("0-1", "f", "v")]]]


def test_who_waits_in_a_group_is_served_in_turn(engine: Engine) -> None:
    first, second, other = engine.connect(), engine.connect(), engine.connect()
    other("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    waiting = ("XREADGROUP", "GROUP", "g")
    assert first(*waiting, "a", "BLOCK", 0, "STREAMS", "k", ">") is BLOCKED
    assert second(*waiting, "b", "BLOCK", 0, "NOACK", "STREAMS", "k", ">") is BLOCKED
    other("XADD", "k", "1-1", "f", "v")
    assert first.result() == [[b"k", [entry("1-1", "f", "v")]]]
    assert second.result() is BLOCKED
    other("XADD", "k", "1-2", "f", "v")
    assert second.result() == [[b"k", [entry("1-2", "f", "v")]]]
    assert other("XPENDING", "k", "g") == [1, b"1-1", b"1-1", [[b"a", b"1"]]]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ("DEL k", "UNBLOCKED the stream key no longer exists"),
        ("SET k x", "UNBLOCKED the stream key no longer exists"),
        ("RENAME k other", "UNBLOCKED the stream key no longer exists"),
        ("FLUSHALL", "UNBLOCKED the stream key no longer exists"),
        ("XGROUP DESTROY k g", "NOGROUP the consumer group this client was blocked on no longer"),
    ],
)
def test_who_waits_in_a_group_hears_of_its_end(engine: Engine, request_: str, text: str) -> None:
    member, reader, other = engine.connect(), engine.connect(), engine.connect()
    other("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    assert member("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "k", ">") is BLOCKED
    assert reader("XREAD", "BLOCK", 0, "STREAMS", "k", "$") is BLOCKED
    other(*request_.split())
    assert error_of(member.result()).startswith(text)
    assert f"errorstat_{text.split(maxsplit=1)[0]}:count=1" in other("INFO", "errorstats").decode()
    assert "failed_calls=1" in other("INFO", "commandstats").decode()
    assert reader.result() is BLOCKED
    reader.disconnect()


def test_a_key_that_expires_ends_the_wait_in_its_group(engine: Engine) -> None:
    member, other = engine.connect(), engine.connect()
    other("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    assert member("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "k", ">") is BLOCKED
    other("PEXPIRE", "k", 100)
    engine.advance(200)
    engine.keyspace.expire_some()
    engine.node.settle_waiters()
    assert error_of(member.result()).startswith("UNBLOCKED")


def test_nothing_came_in_time(engine: Engine) -> None:
    reader, member = engine.connect(), engine.connect(protocol=3)
    member("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    assert reader("XREAD", "BLOCK", 100, "STREAMS", "k", "$") is BLOCKED
    assert member("XREADGROUP", "GROUP", "g", "a", "BLOCK", 99, "STREAMS", "k", ">") is BLOCKED
    engine.advance(99)
    assert member.transport.take() == b"_\r\n"
    assert reader.result() is BLOCKED
    engine.advance(1)
    assert reader.transport.take() == b"*-1\r\n"
    # Who only waited has not become a consumer.
    assert member("XINFO", "CONSUMERS", "k", "g") == []


def test_nobody_waits_for_what_was_delivered_before(engine: Engine, client: Client) -> None:
    client("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    answer = client("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "k", 0)
    assert answer == [[b"k", []]]


def test_nobody_waits_where_that_is_denied(client: Client) -> None:
    client("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    client.session.denies_blocking = True
    assert client("XREAD", "BLOCK", 0, "STREAMS", "k", "$") is None
    assert client("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "k", ">") is None


@pytest.mark.parametrize("name", ["xread", "XREADGROUP GROUP g a"])
def test_scripts_do_not_wait(client: Client, name: str) -> None:
    client.session.in_script = True
    answer = client(*name.split(), "BLOCK", 0, "STREAMS", "k", 0)
    expected = (
        f"ERR {name.split(maxsplit=1)[0]} command is not allowed with BLOCK option from scripts"
    )
    assert error_of(answer) == expected


def test_one_who_is_gone_gets_no_delivery(engine: Engine) -> None:
    gone, other = engine.connect(), engine.connect()
    other("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    assert gone("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "k", ">") is BLOCKED
    gone.disconnect()
    other("XADD", "k", "1-1", "f", "v")
    assert other("XPENDING", "k", "g") == [0, None, None, None]


def test_groups_wait_for_streams_that_left_memory() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    member, other = engine.connect(), engine.connect()
    other("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    assert member("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "k", ">") is BLOCKED
    while evict_some(engine.keyspace, 1 << 30, 1 << 30):
        pass
    other("XADD", "k", "1-1", "f", "v")
    assert member.result() == [[b"k", [entry("1-1", "f", "v")]]]
    engine.validate()


# --- on a medium -------------------------------------------------------------------------------


def test_a_change_does_not_write_the_whole_stream() -> None:
    store = MemoryStore()
    engine = Engine(store=store)
    client = engine.connect()
    for number in range(1, 2001):
        client("XADD", "k", f"{number}-0", "f", "v" * 100)
    client("XGROUP", "CREATE", "k", "g", 0)
    shelf = client.db.shelf
    assert shelf is not None
    shelf.rewrite(b"k")
    changes: list[Cold] = []
    for request in (
        ("XADD", "k", "9000-0", "f", "v"),
        ("XREADGROUP", "GROUP", "g", "a", "COUNT", 3, "STREAMS", "k", ">"),
        ("XACK", "k", "g", "1-0"),
        ("XDEL", "k", "5-0"),
        ("XTRIM", "k", "MAXLEN", 1900),
        ("XCLAIM", "k", "g", "b", 0, "2-0", "3-0"),
        ("XGROUP", "CREATECONSUMER", "k", "g", "c"),
    ):
        assert not isinstance(client(*request), Error)
        chain = shelf.chains[b"k"]
        changes = chain[chain.whole :]
        assert sum(record.length for record in chain[: chain.whole]) > 200_000
        assert sum(change.length for change in changes) < 2000
    assert len(changes) == 7


def test_a_stream_that_grows_is_seldom_written_whole() -> None:
    store = MemoryStore()
    engine = Engine(store=store)
    client = engine.connect()
    for number in range(1, 6001):
        client("XADD", "k", f"{number}-0", "f", "v" * 500)
        write_some(engine.keyspace)
    value = client.db.find_stored(b"k")
    assert isinstance(value, StreamValue)
    written = sum(len(record.payload) for record in store.journal("default").records)
    assert value.size_bytes > 3_000_000
    # A whole one for each page that it had grown by would be a hundred times as much.
    assert written < 15 * value.size_bytes
