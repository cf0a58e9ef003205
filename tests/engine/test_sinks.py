from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pocketkv import limits
from pocketkv.engine.commands import all_commands
from pocketkv.engine.extents import Extents
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.sinks import COPY_LARGE
from pocketkv.engine.trimming import Trimmer
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.replies import Deferred
from tests.engine.harness import Client, Engine
from tests.engine.media import FakeMedium

PAGE = 4096
MIB = limits.MIB
OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def large_engine(memory_bytes: int = 64 * MIB, room_pages: int | None = None) -> Engine:
    medium = FakeMedium(32 * 256, page_bytes=PAGE, room_pages=room_pages)
    return Engine(memory_bytes=memory_bytes, extents=Extents(medium))


def extents_of(engine: Engine) -> Extents:
    assert engine.keyspace.extents is not None
    return engine.keyspace.extents


def medium_of(engine: Engine) -> FakeMedium:
    medium = extents_of(engine).medium
    assert isinstance(medium, FakeMedium)
    return medium


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A server that keeps large strings in extents."""
    engine = large_engine()
    yield engine
    engine.validate()
    # Nobody is in the middle of a request.
    assert engine.keyspace.incoming_bytes == 0
    engine.space.clear()
    while engine.keyspace.free_some(1000):
        pass
    assert extents_of(engine).used_pages == 0


@pytest.fixture
def client(engine: Engine) -> Client:
    """A connection to it."""
    return engine.connect()


def head(*arguments: bytes, size: int) -> bytes:
    """A request up to the beginning of its last argument, of that size."""
    whole = encode_request([*arguments, b""])
    return whole.removesuffix(b"$0\r\n\r\n") + b"$%d\r\n" % size


# --- where strings go --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [limits.EXTENT_BYTES_MIN + 1, 70_000, MIB, 3 * MIB + 17])
def test_a_large_string_is_kept_in_extents(client: Client, size: int) -> None:
    data = data_of(size)
    assert client.raw("SET", "key", data) == b"+OK\r\n"
    value = client.db.lookup(b"key")
    assert isinstance(value, LargeString)
    assert value.pieces == 1
    assert client.raw("GET", "key") == b"$%d\r\n%b\r\n" % (size, data)
    assert client("STRLEN", "key") == size
    cost = client("MEMORY", "USAGE", "key")
    assert size < cost < size + PAGE + 1024


def test_a_smaller_string_is_kept_in_memory(client: Client) -> None:
    client("SET", "key", bytes(limits.EXTENT_BYTES_MIN - 1))
    assert isinstance(client.db.lookup(b"key"), bytes)


def test_without_extents_all_strings_are_kept_in_memory() -> None:
    client = Engine().connect()
    data = data_of(MIB)
    client("SET", "key", data)
    assert isinstance(client.db.lookup(b"key"), bytes)
    client("APPEND", "key", data)
    client("SETRANGE", "key", 7, data)
    assert client("GET", "key") == data[:7] + data + data[7:]


LARGE = data_of(100_000, 7)
WRITES: list[tuple[list[object], dict[str, bytes]]] = [
    (["SET", "a", LARGE], {"a": LARGE}),
    (["set", "a", LARGE, "EX", "100"], {"a": LARGE}),
    (["SETNX", "a", LARGE], {"a": LARGE}),
    (["SETEX", "a", "100", LARGE], {"a": LARGE}),
    (["PSETEX", "a", "100000", LARGE], {"a": LARGE}),
    (["GETSET", "a", LARGE], {"a": LARGE}),
    (["MSET", "a", LARGE, "{a}", "small", "{a}b", LARGE[::-1]], {"a": LARGE, "{a}b": LARGE[::-1]}),
    (["MSETNX", "a", LARGE, "{a}b", LARGE[::-1]], {"a": LARGE, "{a}b": LARGE[::-1]}),
    (["APPEND", "a", LARGE], {"a": LARGE}),
    (["SETRANGE", "a", "3", LARGE], {"a": bytes(3) + LARGE}),
]


@pytest.mark.parametrize(("request_", "expected"), WRITES, ids=lambda case: str(case)[:20])
def test_every_command_that_sets_a_string(
    client: Client, request_: list[object], expected: dict[str, bytes]
) -> None:
    client(*request_)
    for key, value in expected.items():
        assert isinstance(client.db.lookup(key.encode()), LargeString)
        assert client.raw("GET", key) == b"$%d\r\n%b\r\n" % (len(value), value)


def test_the_commands_that_take_large_strings_are_refused_without_memory() -> None:
    takers = {command.name: command for command in all_commands() if command.value_at}
    # What is moved here is refused by other rules.
    del takers[COPY_LARGE]
    assert takers.keys() == {str(case[0][0]).lower() for case in WRITES}
    assert all(command.denies_oom for command in takers.values())


def test_other_large_arguments_are_bytes(client: Client) -> None:
    key = data_of(100_000)
    assert client.raw("SET", key, "x") == b"+OK\r\n"
    assert client.raw("GET", key) == b"$1\r\nx\r\n"
    assert client.raw("ECHO", key) == b"$100000\r\n%b\r\n" % key
    assert client.raw("NOSUCH", "a", key).startswith(b"-ERR unknown command 'NOSUCH'")
    assert client.raw("SET", "a", "x", key) == b"-ERR syntax error\r\n"
    assert client.raw(key, "a").startswith(b"-ERR unknown command")


def test_what_is_refused_or_not_stored_goes_back(engine: Engine, client: Client) -> None:
    client("SET", "a", "1")
    for request in (
        ["SETNX", "a", LARGE],
        ["SET", "a", LARGE, "NX"],
        ["SET", "b", LARGE, "XX"],
        ["SET", "a", LARGE, "EX", "nonsense"],
        ["SETEX", "a", "-1", LARGE],
        ["MSETNX", "a", LARGE, "b", LARGE],
        ["MSET", "a", LARGE, "b"],
        ["SETRANGE", "a", "-1", LARGE],
        ["SETRANGE", "a", "x", LARGE],
    ):
        client(*request)
        assert extents_of(engine).used_pages == 0, request
    assert client("GET", "a") == b"1"


# --- reading and changing ----------------------------------------------------------------------


def test_parts_are_read_without_copying_them_all(client: Client) -> None:
    data = data_of(MIB)
    client("SET", "a", data)
    for start, end in (
        (0, -1),
        (5, 9),
        (-10, -1),
        (100, 900_000),
        (0, MIB * 2),
        (MIB, MIB),
        (9, 3),
    ):
        stop = end + 1 if end >= 0 else MIB + end + 1
        expected = data[start if start >= 0 else MIB + start : stop]
        assert client("GETRANGE", "a", start, end) == expected, (start, end)
        assert client("SUBSTR", "a", start, end) == expected


def test_the_old_string_is_the_reply(engine: Engine, client: Client) -> None:
    client("SET", "a", LARGE)
    assert client("SET", "a", LARGE[::-1], "GET") == LARGE
    assert client("GETSET", "a", "small") == LARGE[::-1]
    client("SET", "a", LARGE)
    assert client("GETEX", "a", "EX", "10") == LARGE
    assert client("TTL", "a") == 10
    assert client("MGET", "a", "nothing", "a") == [LARGE, None, LARGE]
    assert client("GETDEL", "a") == LARGE
    assert extents_of(engine).used_pages == 0


def test_a_small_string_grows_large(engine: Engine, client: Client) -> None:
    expected = b""
    for number in range(200):
        part = data_of(997, number)
        expected += part
        assert client("APPEND", "a", part) == len(expected)
        assert client("STRLEN", "a") == len(expected)
    value = client.db.lookup(b"a")
    assert isinstance(value, LargeString)
    value.validate()
    assert client("GET", "a") == expected
    engine.validate()
    client("SETRANGE", "b", 100_000, "x")
    assert client("GET", "b") == bytes(100_000) + b"x"
    assert isinstance(client.db.lookup(b"b"), LargeString)


def test_growing_keeps_expiry_and_accounts_for_itself(engine: Engine, client: Client) -> None:
    client("SET", "a", LARGE, "EX", "100")
    client("APPEND", "a", LARGE)
    client("APPEND", "a", "small")
    client("SETRANGE", "a", 50_000, LARGE)
    engine.validate()
    expected = LARGE[:50_000] + LARGE + LARGE[50_000:] + b"small"
    assert client("GET", "a") == expected
    assert client("TTL", "a") == 100


def test_a_reply_that_waits_is_what_the_string_was(engine: Engine, client: Client) -> None:
    other = engine.connect()
    client("SET", "a", LARGE)
    client.receive(encode_request([b"GET", b"a"]))
    client.receive(encode_request([b"GETRANGE", b"a", b"10", b"90000"]))
    other("SETRANGE", "a", 20, "changed")
    other("APPEND", "a", "more")
    assert other("GET", "a") == LARGE[:20] + b"changed" + LARGE[27:] + b"more"
    other("SET", "a", data_of(100_000, 8))
    other("DEL", "a")
    other("SET", "b", data_of(100_000, 9))
    expected = b"$100000\r\n%b\r\n$89991\r\n%b\r\n" % (LARGE, LARGE[10:90_001])
    assert client.transport.take() == expected


def test_copies_and_renames(engine: Engine, client: Client) -> None:
    client("SET", "a", LARGE)
    assert client("COPY", "a", "{a}b") == 1
    assert client("RENAME", "a", "{a}c") == "OK"
    client("APPEND", "{a}b", "!")
    client("SETRANGE", "{a}c", 0, "?")
    assert client("GET", "{a}b") == LARGE + b"!"
    assert client("GET", "{a}c") == b"?" + LARGE[1:]
    engine.validate()


def test_what_only_small_strings_can_do(client: Client) -> None:
    client("SET", "a", b"1" * 70_000)
    assert client.raw("INCR", "a") == b"-ERR value is not an integer or out of range\r\n"
    assert client.raw("INCRBYFLOAT", "a", "1") == b"-ERR value is not a valid float\r\n"
    assert client("OBJECT", "ENCODING", "a") == b"raw"
    assert client("OBJECT", "REFCOUNT", "a") == 1
    assert client("TYPE", "a") == "string"
    assert client.raw("SADD", "a", "x").startswith(b"-WRONGTYPE")
    client("SET", "{a}b", b"1" * 5)
    assert client("LCS", "a", "{a}b") == b"1" * 5
    assert "serializedlength:70001" in client("DEBUG", "OBJECT", "a")
    client("SET", "{a}c", b"1" * 60_000)
    client("APPEND", "{a}c", b"1" * 10_000)
    digests = client("DEBUG", "DIGEST-VALUE", "a", "{a}c")
    assert digests[0] == digests[1]


def test_the_slow_log_shortens_a_large_string(engine: Engine, client: Client) -> None:
    engine.node.slow_log.threshold_us = 0
    engine.node.slow_log.threshold_us = 0
    client("SET", "a", LARGE)
    (call,) = [c for c in engine.node.slow_log.entries if c.arguments[0] == b"SET"]
    assert call.arguments[2] == LARGE[:128] + b"... (99872 more bytes)"


# --- receiving ---------------------------------------------------------------------------------


def test_memory_follows_what_was_received(engine: Engine, client: Client) -> None:
    size = 20 * MIB
    client.receive(head(b"SET", b"a", size=size))
    assert sum(medium_of(engine).backed) == 0
    assert engine.keyspace.incoming_bytes == 0
    received = 0
    for count in (1, 1000, 100_000, MIB, 2 * MIB, 5 * MIB):
        client.receive(bytes(count))
        received += count
        assert engine.space.incoming_bytes == received
        backed_bytes = sum(medium_of(engine).backed) * PAGE
        assert received <= backed_bytes <= 2 * received + limits.EXTENT_FIRST_BYTES
    client.receive(bytes(size - received) + b"\r\n")
    assert client.transport.take() == b"+OK\r\n"
    assert engine.space.incoming_bytes == 0
    value = client.db.lookup(b"a")
    assert isinstance(value, LargeString)
    assert value.pieces == 1


def test_a_client_that_goes_away_leaves_nothing(engine: Engine, client: Client) -> None:
    client.receive(head(b"SET", b"a", size=2 * MIB) + bytes(MIB))
    assert extents_of(engine).used_pages == 512
    client.disconnect()
    assert extents_of(engine).used_pages == 0
    assert engine.keyspace.incoming_bytes == 0
    # The same between two arguments of one request.
    client = engine.connect()
    whole = encode_request([b"MSET", b"a", bytes(MIB), b"b", bytes(MIB)])
    client.receive(whole[: MIB + 100])
    assert MIB < engine.keyspace.incoming_bytes < MIB + 100
    client.disconnect()
    assert extents_of(engine).used_pages == 0
    assert engine.keyspace.incoming_bytes == 0


def test_a_client_that_stops_loses_what_it_does_not_use(engine: Engine, client: Client) -> None:
    trimmer = Trimmer(engine.keyspace, extents_of(engine))
    size = 8 * MIB
    data = data_of(size)
    client.receive(head(b"SET", b"a", size=size) + data[: MIB + 5])
    trimmer.step(0.0)
    # It has just sent something.
    assert extents_of(engine).used_pages == size // PAGE
    trimmer.step(10.0)
    assert extents_of(engine).used_pages == MIB // PAGE + 1
    # One that sends a little now and then gets little.
    client.receive(data[MIB + 5 : MIB + 6000])
    trimmer.step(20.0)
    assert extents_of(engine).used_pages == MIB // PAGE + 2
    # Others use the place, and still it can go on.
    other = engine.connect()
    other("SET", "b", LARGE)
    client.receive(data[MIB + 6000 :] + b"\r\n")
    assert client.transport.take() == b"+OK\r\n"
    assert client("GET", "a") == data
    assert other("GET", "b") == LARGE


def test_a_stopped_client_without_a_byte_keeps_nothing(engine: Engine, client: Client) -> None:
    trimmer = Trimmer(engine.keyspace, extents_of(engine))
    data = data_of(2 * MIB)
    client.receive(head(b"SET", b"a", size=2 * MIB))
    assert client.parser.writable() is not None
    trimmer.step(0.0)
    assert extents_of(engine).used_pages == 0
    client.receive(data + b"\r\n")
    assert client.transport.take() == b"+OK\r\n"
    assert client("GET", "a") == data


# --- refusing ----------------------------------------------------------------------------------


def test_over_the_quota_nothing_is_kept_and_the_connection_goes_on(
    engine: Engine, client: Client
) -> None:
    engine.space.quota_bytes = 3 * MIB
    client("SET", "a", data_of(2 * MIB))
    used = extents_of(engine).used_pages
    client.receive(head(b"SET", b"b", size=2 * MIB) + bytes(MIB))
    assert extents_of(engine).used_pages == used
    client.receive(bytes(MIB) + b"\r\n" + encode_request([b"PING"]))
    assert client.transport.take() == OOM + b"+PONG\r\n"
    assert engine.space.stats.refused_oom == 1
    # Even if there is room by now, the bytes are gone.
    client.receive(head(b"SET", b"b", size=2 * MIB) + bytes(MIB))
    engine.space.quota_bytes = None
    client.receive(bytes(MIB) + b"\r\n")
    assert client.transport.take() == OOM
    assert client("EXISTS", "b") == 0
    assert client.raw("SET", "b", bytes(2 * MIB)) == b"+OK\r\n"


def test_a_string_that_no_longer_fits_is_forgotten_on_the_way(
    engine: Engine, client: Client
) -> None:
    client.receive(head(b"SET", b"a", size=4 * MIB) + bytes(2 * MIB))
    engine.space.quota_bytes = MIB
    client.receive(bytes(MIB))
    assert extents_of(engine).used_pages == 0
    assert engine.keyspace.incoming_bytes == 0
    client.receive(bytes(MIB) + b"\r\n")
    assert client.transport.take() == OOM


def test_what_is_on_its_way_counts_for_others(engine: Engine, client: Client) -> None:
    engine.space.quota_bytes = 3 * MIB
    other = engine.connect()
    client.receive(head(b"SET", b"a", size=2 * MIB) + bytes(2 * MIB - 1))
    assert other.raw("SET", "b", bytes(2 * MIB)) == OOM
    assert other.raw("SET", "b", bytes(MIB // 2)) == b"+OK\r\n"
    # Its own bytes count once.
    client.receive(b"\0\r\n")
    assert client.transport.take() == b"+OK\r\n"
    engine.validate()


def test_a_string_of_nearly_the_quota_can_be_set(engine: Engine, client: Client) -> None:
    engine.space.quota_bytes = 3 * MIB
    size = 3 * MIB - 2000
    assert client.raw("SET", "a", bytes(size)) == b"+OK\r\n"
    client("DEL", "a")
    assert client("SETRANGE", "a", 0, bytes(size)) == size
    client("DEL", "a")
    assert client("APPEND", "a", bytes(2 * MIB)) == 2 * MIB
    assert client("APPEND", "a", bytes(MIB - 9000)) == 3 * MIB - 9000


def test_a_medium_without_room_is_out_of_memory() -> None:
    engine = large_engine(room_pages=300)
    client = engine.connect()
    assert client.raw("SET", "a", bytes(MIB)) == b"+OK\r\n"
    assert client.raw("SET", "b", bytes(MIB)) == OOM
    assert client.raw("APPEND", "a", b"x" * 300_000) == OOM
    assert client.raw("SETRANGE", "a", "2000000", "x") == OOM
    assert client("STRLEN", "a") == MIB
    assert client.raw("DEL", "a") == b":1\r\n"
    assert client.raw("SET", "b", bytes(MIB)) == b"+OK\r\n"
    engine.validate()
    assert engine.keyspace.incoming_bytes == 0


def test_a_medium_without_addresses_is_out_of_memory(engine: Engine, client: Client) -> None:
    assert client.raw("SET", "a", bytes(33 * MIB)) == OOM
    assert client.raw("SET", "a", bytes(31 * MIB)) == b"+OK\r\n"


def test_a_request_that_is_held_by_a_pause_counts_until_it_is_executed(
    engine: Engine, client: Client
) -> None:
    other = engine.connect()
    other("CLIENT", "PAUSE", 1000)
    client.receive(encode_request([b"SET", b"a", bytes(MIB)]))
    assert isinstance(client.deferred, Deferred)
    assert engine.space.incoming_bytes == MIB
    engine.advance(2000)
    assert client.result() == "OK"
    assert engine.space.incoming_bytes == 0
    # Or until its client goes away.
    other("CLIENT", "PAUSE", 1000)
    client.receive(encode_request([b"SET", b"b", bytes(MIB)]))
    client.disconnect()
    assert engine.space.incoming_bytes == 0
    engine.advance(2000)


def test_a_job_pays_for_what_its_clients_send(engine: Engine) -> None:
    clients = [engine.connect(job_id=job) for job in ("one-1", "two-2")]
    for size, client in zip((MIB, 2 * MIB), clients, strict=True):
        client.receive(head(b"SET", b"a", size=4 * MIB) + bytes(size))
    spaces = [client.session.space for client in clients]
    assert [space.incoming_bytes for space in spaces] == [MIB, 2 * MIB]
    assert engine.keyspace.incoming_bytes == 3 * MIB
    engine.keyspace.drop("one-1")
    clients[0].disconnect()
    assert engine.keyspace.incoming_bytes == 2 * MIB
    clients[1].disconnect()


# --- freeing -----------------------------------------------------------------------------------


def test_all_that_a_job_has_goes_back(engine: Engine) -> None:
    client = engine.connect(job_id="one-1")
    for number in range(20):
        client("SET", number, LARGE)
    assert extents_of(engine).used_pages > 20 * 24
    engine.keyspace.drop("one-1")
    while engine.keyspace.free_some(10):
        pass
    assert extents_of(engine).used_pages == 0


def test_an_expired_string_goes_back(engine: Engine, client: Client) -> None:
    client("SET", "a", LARGE, "PX", 100)
    engine.advance(200)
    assert client("GET", "a") is None
    assert extents_of(engine).used_pages == 0
